"""Two folders of images and labels: which belong together, and how label values become classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fcn_caffe.data.own.label_check import LabelReport, Pair
from fcn_caffe.data.readers.image_files import IMAGE_SUFFIXES, LABEL_SUFFIXES, FolderIndex
from fcn_caffe.data.readers.labels import LabelMap, read_palette
from fcn_caffe.errors import DataError

__all__ = ["ClassPlan", "Pairing", "class_colors", "pair_files", "plan_classes"]

VOID = 255


@dataclass
class Pairing:
    """Images with their labels, and the names that have only an image or only a label."""

    pairs: list[Pair]
    images_alone: list[str] = field(default_factory=list)
    labels_alone: list[str] = field(default_factory=list)


def pair_files(images: str | Path, labels: str | Path, label_suffix: str = "") -> Pairing:
    """Match images and labels by name without file suffix; a label's name is its image's and `label_suffix`.

    One folder may hold both, as .jpg and .png or with a label suffix.

    Raises:
        DataError: when a folder is missing or nothing matches.
    """
    image_index = FolderIndex(images, IMAGE_SUFFIXES, "image")
    label_index = FolderIndex(labels, LABEL_SUFFIXES, "label")
    pairing = Pairing([])
    used = set()
    for name, image in sorted(image_index.files.items()):
        label = label_index.files.get(name + label_suffix)
        if label is not None and label != image:
            pairing.pairs.append(Pair(name, image, label))
            used.add(name + label_suffix)
    one_folder = Path(images).resolve() == Path(labels).resolve()
    paired = {pair.name for pair in pairing.pairs} | (used if one_folder else set())
    pairing.images_alone = sorted(image_index.files.keys() - paired)
    pairing.labels_alone = [] if one_folder else sorted(label_index.files.keys() - used)
    if not pairing.pairs:
        raise DataError(
            f"no image of {images} ({len(image_index.files)} images) has a label in {labels} "
            f"({len(label_index.files)} labels). Names must agree up to the file suffix"
            f"{', and --label-suffix says what label names have besides' if not label_suffix else ''}."
            + (f" Images: {next(iter(image_index.files))} …" if image_index.files else "")
            + (f" Labels: {next(iter(label_index.files))} …" if label_index.files else "")
        )
    return pairing


@dataclass(frozen=True)
class ClassPlan:
    """How label values become classes: their number, the ignored value, and a mapping if one is needed."""

    classes: int
    ignore: int
    mapping: LabelMap | None = None


def plan_classes(report: LabelReport, classes: int | None, voids: Sequence[int]) -> ClassPlan:
    """Decide the classes from what the labels hold.

    A single void value outside the classes stays, and the loss ignores it. Several void values, or one among the
    classes, are mapped to 255, and the classes are numbered without a gap. Without `classes` their number is the
    highest label plus one.

    Raises:
        DataError: naming files for labels out of range, and for 0/255 masks, which need a mapping.
    """
    values = sorted(report.counts)
    labelled = [value for value in values if value not in voids]
    if not labelled:
        raise DataError(
            f"all labels are void ({', '.join(map(str, values))}): there is nothing to learn. Correct --void."
        )
    top = max(labelled)
    inner = [value for value in voids if value < (classes if classes is not None else top + 1)]
    if inner or len(voids) > 1:
        return _closed_up(report, classes, voids, labelled)
    ignore = voids[0] if voids else VOID
    count = classes if classes is not None else top + 1
    bad = [value for value in labelled if value >= count]
    if bad:
        raise DataError(_out_of_range(report, bad, count))
    if count > VOID:
        raise DataError(f"labels run to {top}, such as in {report.files[top][0]}: at most 255 classes. Map the values.")
    if count < 2:
        raise DataError(f"only label {top} is used: segmentation needs at least 2 classes.")
    return ClassPlan(count, ignore)


def class_colors(pairs: Sequence[Pair], plan: ClassPlan, mapping: LabelMap | None) -> list[tuple[int, int, int]] | None:
    """Return the colours that the classes have in the label images: those of the mapping, or of the first's palette.

    None where the labels do not show each class in a colour of its own, or all in greys: pictures then use the VOC
    palette.

    Args:
        pairs: the images with their labels.
        plan: the classes.
        mapping: the mapping that was given.
    """
    found: dict[int, tuple[int, int, int]] = {}
    if mapping is not None and mapping.colours:
        for color, index in mapping.colours.items():
            found.setdefault(index, color)
    else:
        rules = plan.mapping or mapping
        for value, color in enumerate(read_palette(pairs[0].label)):
            found.setdefault(rules.values.get(value, plan.ignore) if rules else value, color)
    colors = [found[index] for index in range(plan.classes) if index in found]
    if len(set(colors)) < plan.classes or all(len(set(color)) == 1 for color in colors):
        return None
    return colors


def _closed_up(report: LabelReport, classes: int | None, voids: Sequence[int], labelled: list[int]) -> ClassPlan:
    lowest, highest = 0, max(labelled)
    kept = [value for value in range(lowest, highest + 1) if value not in voids]
    if classes is not None and len(kept) > classes:
        raise DataError(_out_of_range(report, [value for value in kept[classes:] if value in report.files], classes))
    count = classes if classes is not None else len(kept)
    if count < 2:
        raise DataError(f"beside void only label {kept[0]} is used: segmentation needs at least 2 classes.")
    rules = {value: index for index, value in enumerate(kept)}
    rules.update(dict.fromkeys(voids, VOID))
    return ClassPlan(count, VOID, LabelMap(rules))


def _out_of_range(report: LabelReport, bad: Sequence[int], classes: int) -> str:
    lines = []
    for value in bad[:5]:
        files = report.files[value]
        lines.append(
            f"{files[0]}: label {value}" + (f" (and in {len(files) - 1} more files)" if len(files) > 1 else "")
        )
    shown = "; ".join(lines) + ("; …" if len(bad) > 5 else "")
    return (
        f"labels out of range for {classes} classes (0 to {classes - 1}): {shown}. "
        f"If {bad[-1]} is void give --void {bad[-1]}; otherwise raise --classes, or map values with --mapping."
    )
