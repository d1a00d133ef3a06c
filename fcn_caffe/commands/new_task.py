"""Make nets and solvers for your own images and labels: checks the labels, splits, and writes a folder to train in."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_caffe.commands import command
from fcn_caffe.commands._options import new_parser, positive
from fcn_caffe.errors import DataError
from fcn_caffe.host.atomic import atomic_write

if TYPE_CHECKING:
    from fcn_caffe.data.own.label_check import LabelReport, Pair
    from fcn_caffe.data.own.task_folder import ClassPlan, Pairing, Splits
    from fcn_caffe.data.readers.labels import LabelMap
    from fcn_caffe.models.own_task import Training

TRUNKS = ("narrow", "vgg16")
NETS = ("fcn", "segnet-basic", "segnet", "unet", "deeplab-largefov", "hed")
STAGES = {"32s": (1e-3, 1200), "16s": (2e-4, 600), "8s": (1e-4, 600)}  # learning rate and iterations


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("new_task", __doc__)
    add = options.add_argument
    add("--images", required=True, type=Path, help="folder of photographs")
    add("--labels", required=True, type=Path, help="folder of label images of the same names")
    add("--label-suffix", default="", help='what label names have after the image\'s, such as "_mask"')
    add("--name", help="name of the task (default: the name of the folder that holds the images)")
    add("--out", type=Path, help="folder to write (default: tasks/NAME)")
    _add_label_options(options)
    _add_split_options(options)
    _add_net_options(options)
    _add_training_options(options)
    return options


def _add_label_options(options: argparse.ArgumentParser) -> None:
    add = options.add_argument_group("labels").add_argument
    add("--classes", type=int, help="number of classes (default: the highest label and one)")
    add("--class-names", type=Path, help="class card, `INDEX: NAME` a line")
    add("--void", type=int, nargs="+", help="label values that are not scored (default: 255)")
    add("--mapping", type=Path, help="file of `VALUE: CLASS` or `RED GREEN BLUE: CLASS` lines")


def _add_split_options(options: argparse.ArgumentParser) -> None:
    add = options.add_argument_group("splits").add_argument
    add("--val-fraction", type=float, default=0.2, help="part of the images held back for scoring (default: 0.2)")
    add("--train-list", type=Path, help="file of names to train on")
    add("--val-list", type=Path, help="file of names to score on after each step")
    add("--test-list", type=Path, help="file of names for the last word")
    add("--seed", type=int, default=1337, help="of the split, the fillers and the order of images")


def _add_net_options(options: argparse.ArgumentParser) -> None:
    add = options.add_argument_group("nets").add_argument
    add(
        "--net",
        choices=NETS,
        default="fcn",
        help="fcn: the paper's three stages; the others are trained in one (default: fcn)",
    )
    add("--width", type=positive, help="outputs of the narrowest convolutions of segnet-basic or unet (default: 64)")
    add("--trunk", choices=TRUNKS, default="vgg16", help="convolutional trunk (default: vgg16)")
    add("--weights", type=Path, help="weights the coarsest stage starts from; layers they lack are learned")
    add("--fc-width", type=int, help="outputs of fc6 and fc7 (default: the trunk's)")
    add("--fc-kernel", type=int, help="kernel of fc6 (default: the trunk's)")
    add(
        "--pad",
        type=int,
        choices=(1, 100),
        help="pad of the first convolution: 100 as in the paper, or 1 and a padded "
        "fc6, which is quicker on small images (default: 1 where fc6 is learned)",
    )


def _add_training_options(options: argparse.ArgumentParser) -> None:
    add = options.add_argument_group("training").add_argument
    for stage, (rate, iterations) in STAGES.items():
        add(f"--base-lr-{stage}", type=float, default=rate, help=f"learning rate of {stage} (default: {rate:g})")
        add(f"--max-iter-{stage}", type=int, default=iterations, help=f"iterations of {stage} (default: {iterations})")
    add("--base-lr", type=float, help="learning rate of every stage")
    add("--max-iter", type=int, help="iterations of every stage")
    add("--momentum", type=float, help="default: 0.9")
    add("--weight-decay", type=float, help="default: 5e-4; what the net's paper has with --net")
    add("--iter-size", type=int, default=1, help="images an update (default: %(default)s)")
    add("--lr-policy", choices=("fixed", "poly"), default="poly")
    add("--head-lr", type=float, default=1.0, help="rate of new layers over the trunk's")
    add("--snapshot", type=int, help="iterations between scored snapshots (default: a fourth of the stage)")


def training_settings(arguments: argparse.Namespace) -> Training:
    """Return the settings of training that a command line asks for."""
    from fcn_caffe.models.own_task import Training

    options = vars(arguments)
    given = {name for name in ("base_lr", "max_iter", "momentum", "weight_decay") if options[name] is not None}
    return Training(
        base_lr={stage: arguments.base_lr or options[f"base_lr_{stage}"] for stage in STAGES},
        max_iter={stage: arguments.max_iter or options[f"max_iter_{stage}"] for stage in STAGES},
        momentum=0.9 if arguments.momentum is None else arguments.momentum,
        weight_decay=5e-4 if arguments.weight_decay is None else arguments.weight_decay,
        iter_size=arguments.iter_size,
        lr_policy=arguments.lr_policy,
        head_lr=arguments.head_lr,
        snapshot=arguments.snapshot,
        seed=arguments.seed,
        given=frozenset(given),
    )


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
    from fcn_caffe.data.own.label_check import suggest_mapping

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


def _warn(report: LabelReport, plan: ClassPlan, splits: Splits) -> None:
    mapping = plan.mapping
    used = {mapping.values.get(value, value) if mapping else value for value in report.counts}
    unused = [index for index in range(plan.classes) if index not in used]
    if unused:
        print(f"note: no pixel is labelled {', '.join(map(str, unused))}: nothing can be learned of them")
    void = report.counts.get(plan.ignore, 0) / (sum(report.counts.values()) or 1)
    if void > 0.5:
        print(f"note: {void:.0%} of all pixels are void")
    if not splits.val:
        print("note: no validation images")


def _named_splits(pairing: Pairing, arguments: argparse.Namespace) -> Splits:
    from fcn_caffe.data.own.task_folder import make_splits

    return make_splits(
        pairing.pairs,
        train_list=arguments.train_list,
        val_list=arguments.val_list,
        test_list=arguments.test_list,
        val_fraction=arguments.val_fraction,
        seed=arguments.seed,
    )


def _checked_classes(
    arguments: argparse.Namespace, out: Path, pairs: Sequence[Pair]
) -> tuple[LabelReport, ClassPlan, LabelMap | None]:
    """Read every label; returns what they hold, the classes that follow, and the mapping that was given.

    Raises: DataError where the labels need a mapping, or do not fit the options.
    """
    from fcn_caffe.data.own.label_check import check_folder
    from fcn_caffe.data.own.task_folder import plan_classes
    from fcn_caffe.data.readers.labels import LabelMap

    mapping = LabelMap.read(arguments.mapping) if arguments.mapping else None
    report = check_folder(pairs, mapping)
    print(f"labels of {len(pairs)} images{' after the mapping' if mapping else ''}:\n{report.histogram()}")
    if mapping is None:
        _refuse_for_mapping(report, out, arguments.void)
    plan = plan_classes(report, arguments.classes, arguments.void or [255])
    if plan.mapping and mapping:
        raise DataError(f"{arguments.mapping}: map void to 255 there, instead of giving --void as well.")
    return report, plan, mapping


def _class_names(arguments: argparse.Namespace, plan: ClassPlan) -> list[str] | None:
    """Read the class card. Raises: DataError where it has another number of classes than the labels."""
    from fcn_caffe.data.readers.labels import read_classes

    names = read_classes(arguments.class_names) if arguments.class_names else None
    if names is not None and len(names) != plan.classes:
        raise DataError(f"{arguments.class_names}: names {len(names)} classes, the labels have {plan.classes}.")
    return names


def _task_name(arguments: argparse.Namespace) -> str:
    images: Path = arguments.images
    folder = images.resolve().parent if images.name in ("images", "img") else images.resolve()
    return str(arguments.name or folder.name)


def _has_trunk(net: str) -> bool:
    """Say whether weights that are given must have layers of the trunk."""
    from fcn_caffe.models.own_nets import OWN_NETS

    return net == "fcn" or OWN_NETS[net].trunk


def _class_weights(net: str, training: Sequence[Pair], plan: ClassPlan, mapping: LabelMap | None) -> tuple[float, ...]:
    """Return the classes' weights by their pixels in the training images; nothing where the net's loss has none."""
    from fcn_caffe.data.own.label_check import check_folder
    from fcn_caffe.models.own_nets import OWN_NETS, median_frequency_weights

    if net == "fcn" or not OWN_NETS[net].weighs_classes:
        return ()
    counts = [0] * plan.classes
    for value, count in check_folder(training, mapping).counts.items():
        index = plan.mapping.values.get(value, value) if plan.mapping else value
        if index < plan.classes:
            counts[index] += count
    return tuple(median_frequency_weights(counts))


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parser().parse_args(argv)

    from fcn_caffe.data.own.label_check import bgr_mean
    from fcn_caffe.data.own.task_folder import class_colors, pair_files
    from fcn_caffe.models.own_task import Task, learned_layers, write_task

    name = _task_name(arguments)
    out = arguments.out or Path("tasks") / name
    pairing = pair_files(arguments.images, arguments.labels, arguments.label_suffix)
    _report_pairs(pairing)
    splits = _named_splits(pairing, arguments)
    by_name = {pair.name: pair for pair in pairing.pairs}
    listed = [by_name[entry] for names in splits.non_empty().values() for entry in names]
    report, plan, mapping = _checked_classes(arguments, out, listed)
    training = [by_name[entry] for entry in splits.train]
    _warn(report, plan, splits)
    mean = bgr_mean(pair.image for pair in training)
    print(f"mean (BGR) of {len(training)} training images: {mean[0]} {mean[1]} {mean[2]}")
    task = Task(
        name=name,
        out=out,
        images=arguments.images.resolve(),
        labels=arguments.labels.resolve(),
        label_suffix=arguments.label_suffix,
        splits=splits,
        classes=plan.classes,
        class_names=_class_names(arguments, plan),
        ignore=plan.ignore,
        mapping=plan.mapping or mapping,
        mean=mean,
        trunk=arguments.trunk,
        weights=arguments.weights.resolve() if arguments.weights else None,
        learned=learned_layers(arguments.trunk, arguments.weights) if _has_trunk(arguments.net) else frozenset(),
        fc_width=arguments.fc_width,
        fc_kernel=arguments.fc_kernel,
        pad=arguments.pad,
        net=arguments.net,
        size=next(iter(report.sizes)) if len(report.sizes) == 1 else (0, 0),
        class_weights=_class_weights(arguments.net, training, plan, mapping),
        width=arguments.width,
        colors=class_colors(listed, plan, mapping),
    )
    for path in write_task(task, training_settings(arguments)):
        print(f"wrote {path}")
    print(task.commands())
    return 0
