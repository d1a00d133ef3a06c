"""Make nets and solvers for your own images and labels: checks the labels, splits, and writes a folder to train in."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_caffe.commands import command
from fcn_caffe.commands._task_options import NETS, STAGES, TRUNKS, task_parser, training_settings
from fcn_caffe.errors import DataError

if TYPE_CHECKING:
    from fcn_caffe.commands._task_data import TaskData
    from fcn_caffe.models.own_task import Task

LONGEST_NAME = 100

__all__ = ["NETS", "STAGES", "TRUNKS", "main", "parser", "training_settings"]


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    return task_parser(__doc__)


def _task_name(arguments: argparse.Namespace) -> str:
    place = Path(os.path.realpath(arguments.annotations or arguments.images))
    if place.is_file() or place.name in ("images", "img", "annotations"):
        place = place.parent.parent if place.parent.name == "annotations" else place.parent
    name = str(arguments.name or place.name)
    if not name or not name.isprintable() or re.search(r"^\.|[/\\]", name) or len(os.fsencode(name)) > LONGEST_NAME:
        raise DataError(
            f"the task's name {name!r:.60} becomes file names: it should have 1 to {LONGEST_NAME} letters that can be "
            "printed, no slash, and no dot in front. Say another with --name."
        )
    return name


def _refuse_dead_options(arguments: argparse.Namespace, net: str) -> None:
    """Refuse options of another kind of net. Raises: DataError."""
    from fcn_caffe.models.own_nets import OWN_NETS

    own = OWN_NETS.get(net)
    stages = [f"{name}_{stage}" for name in ("base_lr", "max_iter") for stage in STAGES]
    dead = ["width"] if own is None else ["trunk", "fc_kernel", "pad", *stages]
    if own is not None and not own.has_fc:
        dead.append("fc_width")
    if own is not None and own.head_lr is None:
        dead.append("head_lr")
    for option in dead:
        if getattr(arguments, option) is not None:
            raise DataError(f"--{option.replace('_', '-')} is not for --net {net}. Leave it out.")


def _class_weights(given: str | None, net: str, data: TaskData) -> tuple[float, ...]:
    """Return the classes' weights: by their file, or by their pixels in the training images; () for none."""
    from fcn_caffe.models.class_weights import median_frequency_weights, read_class_weights
    from fcn_caffe.models.own_nets import OWN_NETS

    own = OWN_NETS.get(net)
    if given is None and (own is None or not own.weighs_classes):
        return ()
    if own is not None and own.outlines:
        raise DataError(f"--class-weights is not for --net {net}, which learns outlines. Leave it out.")
    given = given or "median"
    if (median := re.fullmatch(r"median(?:=(1|0?\.\d+))?", given)) and (power := float(median[1] or 1)) > 0:
        return tuple(median_frequency_weights(*data.count_classes(), power))
    if given.startswith("median=") and not Path(given).exists():
        raise DataError(f"--class-weights {given}: the power should be above 0 and at most 1, such as median=0.5.")
    names = data.names or [str(index) for index in range(data.plan.classes)]
    return tuple(read_class_weights(Path(given), names))


def _bring_start(weights: Path | None, folder: Path) -> Path | None:
    """Bring the weights to start from, and their record, into a task's folder; returns their path from there."""
    from fcn_caffe.data.own.convert import link_or_copy
    from fcn_caffe.weights.record import record_path

    if weights is None:
        return None
    path = Path("start", weights.name)
    for source, target in ((weights, folder / path), (record_path(weights), record_path(folder / path))):
        if source.is_file():
            link_or_copy(source, target)
    return path


def _task(arguments: argparse.Namespace, name: str, out: Path, folder: Path) -> Task:
    """Bring data and weights into the folder, and return what the nets are made from."""
    from fcn_caffe.commands._task_data import bring_data
    from fcn_caffe.data.augmentation import Augmentation, parse_augmentation
    from fcn_caffe.data.own.label_check import bgr_mean
    from fcn_caffe.models.own_start import choose_start
    from fcn_caffe.models.own_task import Task

    start = choose_start(arguments.weights, arguments.net, arguments.trunk)
    if start.net != arguments.net:
        print(f"{arguments.weights}: of the classifier of {start.net}, which is taken")
    _refuse_dead_options(arguments, start.net)
    data = bring_data(arguments, out, folder)
    mean = bgr_mean(pair.image for pair in data.training)
    print(f"mean (BGR) of {len(data.training)} training images: {mean[0]} {mean[1]} {mean[2]}")
    return Task(
        name=name,
        out=out,
        images=data.images,
        labels=data.labels,
        label_suffix=data.label_suffix,
        splits=data.splits,
        classes=data.plan.classes,
        class_names=data.names,
        colors=data.colors,
        ignore=data.plan.ignore,
        mapping=data.plan.mapping,
        mean=mean,
        trunk=start.trunk,
        weights=_bring_start(arguments.weights, folder),
        learned=start.learned,
        fc_width=arguments.fc_width or (start.fc[0] if start.fc else None),
        fc_kernel=arguments.fc_kernel or (start.fc[1] if start.fc else None),
        pad=arguments.pad,
        net=start.net,
        size=data.size,
        class_weights=_class_weights(arguments.class_weights, start.net, data),
        width=arguments.width,
        augmentation=Augmentation() if arguments.augment is None else parse_augmentation(arguments.augment),
        batch_size=arguments.batch_size,
        buckets=arguments.buckets,
        workers=arguments.workers,
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parser()
    arguments = options.parse_args(argv)
    if arguments.annotations is None and (arguments.images is None or arguments.labels is None):
        options.error("give --images and --labels, or --annotations")
    if arguments.annotations is not None and arguments.labels is not None:
        options.error("--annotations takes the place of --labels: give one of them")

    from fcn_caffe.data.own.staging import check_out, staged
    from fcn_caffe.models.own_task import write_task

    name = _task_name(arguments)
    out = arguments.out or Path("tasks") / name
    places = [place for place in (arguments.images, arguments.labels, arguments.annotations) if place is not None]
    check_out(out, arguments.force, [place for place in places if place.exists()])
    with staged(out, arguments.force) as folder:
        task = _task(arguments, name, out, folder)
        written = write_task(task, training_settings(arguments), folder)
    for path in written:
        print(f"wrote {out / path}")
    if any((out / "weights").iterdir()):
        print("note: weights and snapshots of the older task stay; solve --from STAGE trains a stage again")
    print(task.commands())
    return 0
