"""The data of a new task: read, checked, split and brought into its folder; what is found is printed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fcn_caffe.data.own import classes as own_classes
from fcn_caffe.data.own.convert import IMAGES, LABELS, class_colours, convert, link_pairs, reduce_pairs
from fcn_caffe.data.own.formats import read_source
from fcn_caffe.data.own.formats.source import ClassName, Colour, Reading
from fcn_caffe.data.own.label_check import LabelReport, Pair, check_folder, suggest_mapping
from fcn_caffe.data.own.splits import Drawing, Splits, make_splits
from fcn_caffe.data.own.strays import refuse_strays, refuse_void_files
from fcn_caffe.data.own.task_folder import ClassPlan, Pairing, class_colors, pair_files, plan_classes
from fcn_caffe.data.readers.image_files import read_index_image
from fcn_caffe.data.readers.labels import LabelMap, read_classes
from fcn_caffe.errors import DataError
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.host.pictures import palette

VOID = own_classes.VOID


@dataclass(frozen=True)
class TaskData:
    """What a task's nets read.

    Attributes:
        pairs: Images and labels that can be read now: those of the person, or what was written for them.
        splits: The names of each split.
        plan: The number of classes, the void value, and the mapping of label values.
        names: The classes' names, where there are some.
        colors: Their colours, likewise.
        size: Height and width of all images; 0 where they differ.
        images: The folder of the images as a net names it; labels likewise.
        label_suffix: What a label's name adds to its image's.
    """

    pairs: list[Pair]
    splits: Splits
    plan: ClassPlan
    names: list[str] | None
    colors: list[Colour] | None
    size: tuple[int, int]
    images: Path = Path(IMAGES)
    labels: Path = Path(LABELS)
    label_suffix: str = ""

    @property
    def training(self) -> list[Pair]:
        """The images to train on."""
        by_name = {pair.name: pair for pair in self.pairs}
        return [by_name[name] for name in self.splits.train]

    def count_classes(self) -> tuple[list[int], list[int]]:
        """Count, by class, its pixels in the training images, and all pixels of those that show it."""
        report = check_folder(self.training, self.plan.mapping)
        wanted = range(self.plan.classes)
        return [report.counts.get(index, 0) for index in wanted], [report.shown_in.get(index, 0) for index in wanted]


def bring_data(arguments: argparse.Namespace, out: Path, folder: Path) -> TaskData:
    """Read and check the data that a command line names, and bring it into a folder.

    Args:
        arguments: The command line.
        out: The task's folder, where a suggested mapping goes.
        folder: Where images and labels are written; it becomes the task's.

    Raises:
        DataError: Naming the file and the cure.
    """
    if arguments.annotations is not None:
        data = _from_annotations(arguments, folder)
    else:
        data = _from_folders(arguments, out, folder)
    print(data.splits)
    if not data.splits.val:
        print("note: no validation images")
    return data


def _splits(arguments: argparse.Namespace, pairs: Sequence[Pair], given: Mapping[str, str] | None = None) -> Splits:
    val, test = arguments.val_fraction, arguments.test_fraction
    own = set((given or {}).values()) if arguments.group_by is None and arguments.train_list is None else set()
    for split, share, listed in (("val", val, arguments.val_list), ("test", test, arguments.test_list)):
        if share is not None and (listed is not None or {"train", split} <= own):
            cure = f"Leave it out{'' if listed else ', or draw all anew with --group-by'}."
            raise DataError(f"--{split}-fraction: {listed or 'the data set'} says which images are {split}. {cure}")
    return make_splits(
        pairs,
        Drawing(0.2 if val is None else val, test or 0.0, arguments.seed, arguments.group_by),
        train_list=arguments.train_list,
        val_list=arguments.val_list,
        test_list=arguments.test_list,
        given=given,
    )


def _refuse_options(arguments: argparse.Namespace, names: Sequence[str], owner: str) -> None:
    """Refuse options that are for the other kind of data. Raises: DataError."""
    plain = {"overlap": "last", "unlabelled": "background"}
    for name in names:
        if getattr(arguments, name) not in (None, False, "", plain.get(name)):
            cure = "" if owner == "--annotations" else " Classes of --annotations: --class-file, --map, --drop."
            raise DataError(f"--{name.replace('_', '-')} is for {owner}. Leave it out.{cure}")


def _changes(arguments: argparse.Namespace) -> dict[str, str | None]:
    return own_classes.read_changes(arguments.map, arguments.merge, arguments.drop)


def _size(report: LabelReport) -> tuple[int, int]:
    return next(iter(report.sizes)) if len(report.sizes) == 1 else (0, 0)


def _own_colors(classes: Sequence[ClassName]) -> list[Colour]:
    return [(red, green, blue) for red, green, blue in class_colours(classes).tolist()]


def _note_shares(report: LabelReport, classes: int, ignore: int) -> None:
    unused = [index for index in range(classes) if index not in report.counts]
    if unused:
        print(f"note: no pixel is labelled {', '.join(map(str, unused))}: nothing can be learned of them")
    void = report.counts.get(ignore, 0) / (sum(report.counts.values()) or 1)
    if void > 0.5:
        print(f"note: {void:.0%} of all pixels are void")


# -- annotations -------------------------------------------------------------------------------------------------------


def _from_annotations(arguments: argparse.Namespace, folder: Path) -> TaskData:
    """Read annotations of a known format, and write them as label pictures."""
    _refuse_options(arguments, ("void", "mapping", "classes", "class_names", "label_suffix", "in_place"), "--labels")
    wanted = own_classes.read_class_file(arguments.class_file) if arguments.class_file else []
    reading = Reading(
        arguments.images,
        arguments.overlap,
        arguments.unlabelled,
        arguments.all_classes,
        arguments.skip_missing,
        wanted,
    )
    source = read_source(arguments.annotations, arguments.format, reading)
    print(f"{source.format}: {len(source.samples)} images with labels, {len(source.classes)} classes")
    for note in source.notes:
        print(f"  {note}")
    is_named = bool(wanted) and source.classes != wanted
    table = own_classes.merge_classes(
        source.classes, _changes(arguments), wanted if is_named else (), str(arguments.class_file)
    )
    names = [each.name for each in table.classes]
    own_classes.refuse_unwritable(names, arguments.annotations)
    pairs, report = convert(source, table, folder, arguments.longest_side)
    print(f"labels of {len(pairs)} images:\n{report.histogram(names)}")
    plan = plan_classes(report, len(names), [VOID])
    if not arguments.allow_stray:
        if not source.declared and not wanted:
            refuse_strays(report, [VOID], names)
        refuse_void_files(report, [VOID])
    _note_shares(report, plan.classes, plan.ignore)
    splits = _splits(arguments, pairs, {sample.name: sample.split for sample in source.samples})
    return TaskData(pairs, splits, plan, names, _own_colors(table.classes), _size(report))


# -- folders of images and label pictures ------------------------------------------------------------------------------


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _report_pairs(pairing: Pairing) -> None:
    print(f"{len(pairing.pairs)} images with labels")
    for what, names in (
        ("images without a label", pairing.images_alone),
        ("labels without an image", pairing.labels_alone),
    ):
        if names:
            print(f"  left out: {len(names)} {what}: {_some(names)}")


def _refuse_for_mapping(report: LabelReport, out: Path, voids: Sequence[int] | None) -> None:
    """Stop when the labels need a mapping, leaving a suggestion to edit. Raises: DataError."""
    masks = set(report.counts) == {0, 255} and voids is None
    if not report.coloured and not masks:
        return
    suggestion = suggest_mapping(report)
    what = f"colour-coded ({len(report.counts)} colours)" if report.coloured else "masks of 0 and 255"
    if suggestion is None:
        raise DataError(
            f"labels are {what}, such as {report.coloured[0]}: more than a class card holds. "
            "Were they smoothed, or saved as JPEG? Give --mapping with the true colours after cleaning them."
        )
    path = out / "mapping.txt"
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "w") as file:
        file.write("# what a label's pixels say: class index. Edit, then give it as --mapping. 255 is void.\n")
        file.write(suggestion.write())
    advice = "" if report.coloured else ", or give --void 255 if that is what 255 means"
    raise DataError(
        f"labels are {what}: which is which class is yours to say. A mapping to check is in {path}; "
        f"then run again with --mapping {path}{advice}."
    )


def _named_classes(arguments: argparse.Namespace) -> list[ClassName]:
    """Read the classes that a file names; none where there is none."""
    if arguments.class_file:
        return own_classes.read_class_file(arguments.class_file)
    return [ClassName(name) for name in read_classes(arguments.class_names)] if arguments.class_names else []


def _given_mapping(arguments: argparse.Namespace, named: Sequence[ClassName], pairs: Sequence[Pair]) -> LabelMap | None:
    """Return the mapping that is given: by its file, or by the classes' colours where labels are colour-coded."""
    if arguments.mapping:
        return LabelMap.read(arguments.mapping)
    colours = {each.colour: index for index, each in enumerate(named) if each.colour is not None}
    if len(colours) < max(1, len(named)) or read_index_image(pairs[0].label).ndim == 2:
        return None
    return LabelMap(colours=colours)


def _read_labels(
    arguments: argparse.Namespace, out: Path, pairs: Sequence[Pair], named: Sequence[ClassName]
) -> tuple[LabelReport, LabelMap | None]:
    """Read every label; returns what they hold, and the mapping that was given.

    Raises: DataError where the labels need a mapping.
    """
    mapping = _given_mapping(arguments, named, pairs)
    report = check_folder(pairs, mapping)
    print(f"labels of {len(pairs)} images{' after the mapping' if mapping else ''}:\n{report.histogram()}")
    if mapping is None:
        _refuse_for_mapping(report, out, arguments.void)
    return report, mapping


def _checked_classes(
    arguments: argparse.Namespace, out: Path, pairs: Sequence[Pair], named: Sequence[ClassName]
) -> tuple[LabelReport, ClassPlan, list[ClassName]]:
    """Read every label; returns what they hold, and the classes that follow, named where they have names.

    Raises: DataError where the labels need a mapping, or do not fit the options.
    """
    report, mapping = _read_labels(arguments, out, pairs, named)
    voids = arguments.void or [VOID]
    count = len(named) if arguments.class_file and arguments.classes is None else arguments.classes
    changes = own_classes.change_values(_changes(arguments), [each.name for each in named], report.counts)
    gone = sorted({*changes.moved, *changes.dropped})
    if gone:
        report = report.moved(changes.moved)
        voids, count = list(dict.fromkeys([*voids, VOID, *gone])), None if count is None else count - len(gone)
    if not arguments.allow_stray and mapping is None and count is None and not named:
        refuse_strays(report, voids)
    plan = plan_classes(report, count, voids)
    if not arguments.allow_stray:
        refuse_void_files(report, voids)
    if plan.mapping and mapping and not gone:
        raise DataError(f"{arguments.mapping}: map void to 255 there, instead of giving --void as well.")
    _note_shares(report.mapped(plan.mapping), plan.classes, plan.ignore)
    plan = replace(plan, mapping=_all_rules(plan.mapping, changes.moved, mapping))
    names = {index: replace(each, name=changes.renamed.get(index, each.name)) for index, each in enumerate(named)}
    kept = [each for index, each in names.items() if index not in gone]
    own_classes.refuse_unwritable((each.name for each in kept), arguments.map or "--merge")
    if kept and len(kept) != plan.classes:
        where = arguments.class_file or arguments.class_names
        raise DataError(f"{where}: names {len(kept)} classes, the labels have {plan.classes}.")
    return report, plan, kept


def _all_rules(planned: LabelMap | None, moved: Mapping[int, int], given: LabelMap | None) -> LabelMap | None:
    """Return what becomes of the pixels of a file: the mapping that was given, then merged classes, then void."""
    if planned is None:
        return given
    rules = LabelMap({**planned.values, **{old: planned.values[new] for old, new in moved.items()}})
    return rules if given is None else given.then(rules)


def _colors(named: Sequence[ClassName], plan: ClassPlan, pairs: Sequence[Pair]) -> list[Colour] | None:
    """Return the classes' colours: from their file, where it has some, else those of the label pictures."""
    if not any(each.colour for each in named):
        return class_colors(pairs, plan, plan.mapping)
    return _own_colors(named)


def _from_folders(arguments: argparse.Namespace, out: Path, folder: Path) -> TaskData:
    """Check a folder of images and one of label pictures, and bring them in."""
    _refuse_options(arguments, ("format", "overlap", "unlabelled", "all_classes", "skip_missing"), "--annotations")
    if arguments.in_place and arguments.longest_side:
        raise DataError("--longest-side writes smaller images, --in-place writes none. Leave one of them out.")
    pairing = pair_files(arguments.images, arguments.labels, arguments.label_suffix)
    _report_pairs(pairing)
    splits = _splits(arguments, pairing.pairs)
    by_name = {pair.name: pair for pair in pairing.pairs}
    listed = [by_name[name] for names in splits.non_empty().values() for name in names]
    report, plan, named = _checked_classes(arguments, out, listed, _named_classes(arguments))
    names = [each.name for each in named] or None
    colors = _colors(named, plan, listed)
    size = _size(report)
    if arguments.in_place:
        data = TaskData(listed, splits, plan, names, colors, size, label_suffix=arguments.label_suffix)
        return replace(data, images=arguments.images.resolve(), labels=arguments.labels.resolve())
    if not arguments.longest_side:
        link_pairs(listed, folder)
        return TaskData(listed, splits, plan, names, colors, size)
    shown = palette(plan.classes) if colors is None else np.array(colors, np.uint8)
    pairs, reduced = reduce_pairs(listed, folder, plan.mapping, shown, arguments.longest_side)
    return TaskData(pairs, splits, replace(plan, mapping=None), names, colors, _size(reduced))
