"""From two folders to a task: pairs of image and label, splits, classes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fcn_caffe.data.own.label_check import LabelReport, Pair
from fcn_caffe.data.readers.image_files import IMAGE_SUFFIXES, LABEL_SUFFIXES, FolderIndex, read_split
from fcn_caffe.data.readers.labels import LabelMap, read_palette
from fcn_caffe.errors import DataError

__all__ = ["ClassPlan", "Pairing", "Splits", "class_colors", "make_splits", "pair_files", "plan_classes"]

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


@dataclass
class Splits:
    """The names of each split. `test` may be empty."""

    train: list[str]
    val: list[str]
    test: list[str] = field(default_factory=list)

    def non_empty(self) -> dict[str, list[str]]:
        """Return the splits that list something: names by the split's name."""
        return {name: names for name, names in vars(self).items() if names}


def make_splits(
    pairs: Sequence[Pair],
    *,
    train_list: str | Path | None = None,
    val_list: str | Path | None = None,
    test_list: str | Path | None = None,
    val_fraction: float = 0.2,
    seed: int = 1337,
) -> Splits:
    """Read the lists; without a list for val, draw one from the sorted names with the seed.

    Raises:
        DataError: for a listed name without image and label, names in two splits, or too few images to split.
    """
    known = {pair.name for pair in pairs}
    if train_list is None and (val_list is not None or test_list is not None):
        raise DataError("--val-list and --test-list need --train-list: give the list of images to train on too.")
    lists: dict[str, list[str]] = {}
    for split, path in (("train", train_list), ("val", val_list), ("test", test_list)):
        if path is None:
            continue
        lists[split] = [_without_suffix(name, known) for name in read_split(path)]
        missing = [name for name in lists[split] if name not in known]
        if missing:
            raise DataError(
                f"{path}: {len(missing)} of {len(lists[split])} names have no image with a label, "
                f"such as {missing[0]!r}. Take them off the list or add the files."
            )
        for other, names in lists.items():
            shared = set(names) & set(lists[split]) if other != split else set()
            if shared:
                raise DataError(
                    f"{path}: {len(shared)} names are also in the {other} list, such as {min(shared)!r}. "
                    "Scores would be too good: take them out of one list."
                )
    names = lists.get("train") or sorted(known - set(lists.get("test", ())))
    if "val" in lists:
        return Splits(names, lists["val"], lists.get("test", []))
    if not 0 < val_fraction < 1:
        raise DataError(f"--val-fraction should lie between 0 and 1, got {val_fraction}.")
    held = max(1, round(len(names) * val_fraction))
    if held >= len(names):
        raise DataError(f"{len(names)} images with labels are too few to split. Give at least 2.")
    shuffled = sorted(names)
    random.Random(seed).shuffle(shuffled)
    return Splits(sorted(shuffled[held:]), sorted(shuffled[:held]), lists.get("test", []))


def _without_suffix(name: str, known: set[str]) -> str:
    if name in known or Path(name).suffix.lower() not in IMAGE_SUFFIXES:
        return name
    return Path(name).with_suffix("").as_posix()


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
