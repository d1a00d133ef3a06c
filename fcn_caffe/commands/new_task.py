"""Make nets and solvers for your own images and labels: checks the labels, splits, and writes a folder to train in."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fcn_caffe.commands import command
from fcn_caffe.data.own.label_check import LabelReport, Pair, bgr_mean, check_folder, suggest_mapping
from fcn_caffe.data.own.task_folder import ClassPlan, Pairing, Splits, make_splits, pair_files, plan_classes
from fcn_caffe.data.readers.labels import LabelMap, read_classes
from fcn_caffe.errors import DataError
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.models.own_task import STAGES, TRUNKS, Task, Training, learned_layers, write_task


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="new_task", description=__doc__)
    add = parser.add_argument
    add("--images", required=True, type=Path, help="folder of photographs")
    add("--labels", required=True, type=Path, help="folder of label images of the same names")
    add("--label-suffix", default="", help='what label names have after the image\'s, such as "_mask"')
    add("--name", help="name of the task (default: the name of the folder that holds the images)")
    add("--out", type=Path, help="folder to write (default: tasks/NAME)")
    labels = parser.add_argument_group("labels").add_argument
    labels("--classes", type=int, help="number of classes (default: the highest label and one)")
    labels("--class-names", type=Path, help="class card, `INDEX: NAME` a line")
    labels("--void", type=int, nargs="+", help="label values that are not scored (default: 255)")
    labels("--mapping", type=Path, help="file of `VALUE: CLASS` or `RED GREEN BLUE: CLASS` lines")
    splits = parser.add_argument_group("splits").add_argument
    splits("--val-fraction", type=float, default=0.2, help="part of the images held back for scoring (default: 0.2)")
    splits("--train-list", type=Path, help="file of names to train on")
    splits("--val-list", type=Path, help="file of names to score on after each step")
    splits("--test-list", type=Path, help="file of names for the last word")
    splits("--seed", type=int, default=1337, help="of the split, the fillers and the order of images")
    nets = parser.add_argument_group("nets").add_argument
    nets("--trunk", choices=sorted(TRUNKS), default="vgg16", help="convolutional trunk (default: vgg16)")
    nets("--weights", type=Path, help="weights the coarsest stage starts from; layers they lack are learned")
    nets("--fc-width", type=int, help="outputs of fc6 and fc7 (default: the trunk's)")
    nets("--fc-kernel", type=int, help="kernel of fc6 (default: the trunk's)")
    nets(
        "--pad",
        type=int,
        choices=(1, 100),
        help="pad of the first convolution: 100 as in the paper, or 1 and a padded "
        "fc6, which is quicker on small images (default: 1 where fc6 is learned)",
    )
    solvers = parser.add_argument_group("training").add_argument
    defaults = Training()
    for stage in STAGES:
        lr, iterations = defaults.base_lr[stage], defaults.max_iter[stage]
        solvers(f"--base-lr-{stage}", type=float, default=lr, help=f"learning rate of {stage} (default: {lr:g})")
        solvers(
            f"--max-iter-{stage}", type=int, default=iterations, help=f"iterations of {stage} (default: {iterations})"
        )
    solvers("--base-lr", type=float, help="learning rate of every stage")
    solvers("--max-iter", type=int, help="iterations of every stage")
    solvers("--momentum", type=float, default=defaults.momentum)
    solvers("--weight-decay", type=float, default=defaults.weight_decay)
    solvers("--iter-size", type=int, default=defaults.iter_size, help="images an update (default: %(default)s)")
    solvers("--lr-policy", choices=("fixed", "poly"), default=defaults.lr_policy)
    solvers("--head-lr", type=float, default=defaults.head_lr, help="rate of new layers over the trunk's")
    solvers("--snapshot", type=int, help="iterations between scored snapshots (default: a fourth of the stage)")
    return parser


def _training(arguments: argparse.Namespace) -> Training:
    options = vars(arguments)
    return Training(
        base_lr={stage: arguments.base_lr or options[f"base_lr_{stage}"] for stage in STAGES},
        max_iter={stage: arguments.max_iter or options[f"max_iter_{stage}"] for stage in STAGES},
        momentum=arguments.momentum,
        weight_decay=arguments.weight_decay,
        iter_size=arguments.iter_size,
        lr_policy=arguments.lr_policy,
        head_lr=arguments.head_lr,
        snapshot=arguments.snapshot,
        seed=arguments.seed,
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


def _warn(report: LabelReport, plan: ClassPlan, splits: Splits, training: Sequence[Pair]) -> None:
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


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    images, labels = arguments.images, arguments.labels
    name = arguments.name or (
        images.resolve().parent.name if images.name in ("images", "img") else images.resolve().name
    )
    out = arguments.out or Path("tasks") / name
    pairing = pair_files(images, labels, arguments.label_suffix)
    _report_pairs(pairing)
    splits = make_splits(
        pairing.pairs,
        train_list=arguments.train_list,
        val_list=arguments.val_list,
        test_list=arguments.test_list,
        val_fraction=arguments.val_fraction,
        seed=arguments.seed,
    )
    by_name = {pair.name: pair for pair in pairing.pairs}
    listed = [by_name[entry] for names in splits.non_empty().values() for entry in names]
    given = LabelMap.read(arguments.mapping) if arguments.mapping else None
    report = check_folder(listed, given)
    print(f"labels of {len(listed)} images{' after the mapping' if given else ''}:\n{report.histogram()}")
    if given is None:
        _refuse_for_mapping(report, out, arguments.void)
    plan = plan_classes(report, arguments.classes, arguments.void or [255])
    if plan.mapping and given:
        raise DataError(f"{arguments.mapping}: map void to 255 there, instead of giving --void as well.")
    training = [by_name[entry] for entry in splits.train]
    _warn(report, plan, splits, training)
    mean = bgr_mean(pair.image for pair in training)
    print(f"mean (BGR) of {len(training)} training images: {mean[0]} {mean[1]} {mean[2]}")
    names = read_classes(arguments.class_names) if arguments.class_names else None
    if names is not None and len(names) != plan.classes:
        raise DataError(f"{arguments.class_names}: names {len(names)} classes, the labels have {plan.classes}.")
    learned = learned_layers(arguments.trunk, arguments.weights)
    task = Task(
        name=name,
        out=out,
        images=images.resolve(),
        labels=labels.resolve(),
        label_suffix=arguments.label_suffix,
        splits=splits,
        classes=plan.classes,
        class_names=names,
        ignore=plan.ignore,
        mapping=plan.mapping or given,
        mean=mean,
        trunk=arguments.trunk,
        weights=arguments.weights.resolve() if arguments.weights else None,
        learned=learned,
        fc_width=arguments.fc_width,
        fc_kernel=arguments.fc_kernel,
        pad=arguments.pad,
    )
    for path in write_task(task, _training(arguments)):
        print(f"wrote {path}")
    print(task.commands())
    return 0
