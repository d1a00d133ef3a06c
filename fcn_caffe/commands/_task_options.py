"""The options of new_task, in groups: data, label pictures, annotations, classes, splits, nets, training."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn_caffe.commands._options import FLOAT_MAX, Number, batch_size, new_parser, number, positive, seed, whole

if TYPE_CHECKING:
    from fcn_caffe.models.own_task import Training

TRUNKS = ("vgg16", "vgg19", "narrow")
NETS = (
    "fcn",
    "segnet-basic",
    "segnet",
    "unet",
    "unet-vgg16",
    "deeplab-largefov",
    "fcn-alexnet",
    "fcn-googlenet",
    "hed",
)
STAGES = {"32s": (1e-3, 1200), "16s": (2e-4, 600), "8s": (1e-4, 600)}  # learning rate and iterations
SOLVER_TYPES = ("SGD", "Nesterov", "Adam")
FORMATS = ("coco", "labelme", "cvat", "cvat-masks", "cityscapes", "ade20k", "mapillary", "voc")

_class_count = partial(number, read=int, fits=lambda given: 2 <= given <= 255, wanted="a whole number from 2 to 255")
_rate = partial(
    number, read=float, fits=lambda given: 0 <= given <= FLOAT_MAX, wanted=f"a number from 0 to {FLOAT_MAX:.2g}"
)
_momentum = partial(number, read=float, fits=lambda given: 0 <= given < 1, wanted="a number from 0, below 1")


def task_parser(description: str | None) -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("new_task", description)
    add = options.add_argument
    add("--name", help="name of the task (default: the name of the folder that holds the images)")
    add("--out", type=Path, help="folder to write (default: tasks/NAME)")
    add("--force", action="store_true", help="replace an older task in that folder; its weights and snapshots stay")
    _add_data_options(options)
    _add_label_options(options)
    _add_annotation_options(options)
    _add_class_options(options)
    _add_split_options(options)
    _add_net_options(options)
    _add_training_options(options)
    _add_batch_options(options)
    return options


def _add_data_options(options: argparse.ArgumentParser) -> None:
    add = options.add_argument_group("data", "images with label pictures, or annotations").add_argument
    add("--images", type=Path, metavar="FOLDER", help="photographs")
    add("--labels", type=Path, metavar="FOLDER", help="label pictures of the same names")
    add("--annotations", type=Path, metavar="PLACE", help="annotation file, or a data set's folder")
    add("--longest-side", type=positive, metavar="N", help="reduce longer images to N pixels, and labels with them")


def _add_label_options(options: argparse.ArgumentParser) -> None:
    add = options.add_argument_group("label pictures", "with --labels").add_argument
    suffix = 'what label names have after the image\'s, such as "_mask"'
    add("--label-suffix", default="", metavar="TEXT", help=suffix)
    add("--in-place", action="store_true", help="leave images and labels where they are, and name them by full paths")
    add("--classes", type=_class_count, metavar="N", help="number of classes (default: the highest label and one)")
    add("--class-names", type=Path, metavar="FILE", help="class card, `INDEX: NAME` a line")
    void = "label values that are not scored (default: 255)"
    add("--void", type=whole, nargs="+", action="extend", metavar="VALUE", help=void)
    add("--mapping", type=Path, metavar="FILE", help="file of `VALUE: CLASS` or `RED GREEN BLUE: CLASS` lines")


def _add_annotation_options(options: argparse.ArgumentParser) -> None:
    add = options.add_argument_group("annotations", "with --annotations").add_argument
    add("--format", choices=FORMATS, help="format of the annotations (default: told by the files)")
    overlap = "object that a pixel of several is of (default: %(default)s)"
    add("--overlap", choices=("last", "smallest", "void"), default="last", help=overlap)
    unlabelled = "what pixels without an object are (default: %(default)s)"
    add("--unlabelled", choices=("background", "void"), default="background", help=unlabelled)
    add("--all-classes", action="store_true", help="classes that the data set's own benchmark leaves out, too")
    add("--skip-missing", action="store_true", help="leave out images, or labels, that are not there")


def _add_class_options(options: argparse.ArgumentParser) -> None:
    add = options.add_argument_group("classes").add_argument
    add("--class-file", type=Path, metavar="FILE", help="the classes in order: `NAME` or `NAME RED GREEN BLUE` a line")
    add("--map", type=Path, metavar="FILE", help="file of `old = new` and `old = void` lines")
    add("--merge", nargs="+", action="extend", default=[], metavar="NEW=OLD,OLD", help="make old classes a new one")
    add("--drop", nargs="+", action="extend", default=[], metavar="CLASS", help="make classes void")
    add("--allow-stray", action="store_true", help="keep classes that hardly any file shows, and files that are void")
    weights = (
        "weigh classes in the loss: `median` (frequency balancing), its POWER (0.5 for the square root), or a file of "
        "`NAME: WEIGHT` lines"
    )
    add("--class-weights", metavar="median|median=POWER|FILE", help=weights)


def _add_split_options(options: argparse.ArgumentParser) -> None:
    add = options.add_argument_group("splits").add_argument
    add("--val-fraction", type=float, metavar="SHARE", help="part of the images held back for scoring (default: 0.2)")
    add("--test-fraction", type=float, metavar="SHARE", help="part held back for the last word (default: none)")
    group = "keep images of a group in one split: `parent` (their folder), or a regular expression of their names"
    add("--group-by", metavar="parent|REGEX", help=group)
    add("--train-list", type=Path, metavar="FILE", help="file of names to train on")
    add("--val-list", type=Path, metavar="FILE", help="file of names to score on after each step")
    add("--test-list", type=Path, metavar="FILE", help="file of names for the last word")
    add("--seed", type=seed, default=1337, help="of the split, the fillers and the order of images (default: 1337)")


def _add_net_options(options: argparse.ArgumentParser) -> None:
    add = options.add_argument_group("nets").add_argument
    add(
        "--net",
        choices=NETS,
        default="fcn",
        help="fcn: the paper's three stages; the others are trained in one (default: fcn)",
    )
    add("--width", type=positive, help="outputs of the narrowest convolutions of segnet-basic or unet (default: 64)")
    add("--trunk", choices=TRUNKS, help="convolutional trunk (default: that of --weights, else vgg16)")
    weights = (
        "weights the coarsest stage starts from, of VGG-16, VGG-19, CaffeNet or GoogLeNet, the classifier's own or "
        "convolutional; layers they lack are learned"
    )
    add("--weights", type=Path, help=weights)
    add("--fc-width", type=positive, help="outputs of fc6 and fc7 (default: the net's)")
    add("--fc-kernel", type=positive, help="kernel of fc6 (default: the trunk's)")
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
        add(f"--base-lr-{stage}", type=_rate, help=f"learning rate of {stage} (default: --base-lr, or {rate:g})")
        add(f"--max-iter-{stage}", type=positive, help=f"iterations of {stage} (default: --max-iter, or {iterations})")
    add("--base-lr", type=_rate, help="learning rate of every stage")
    add("--max-iter", type=positive, help="iterations of every stage")
    add("--solver-type", choices=SOLVER_TYPES, help="the update rule (default: SGD; Adam with --net unet-vgg16)")
    add("--momentum", type=_momentum, help="default: 0.9")
    add("--weight-decay", type=_rate, help="default: 5e-4; what the net's paper has with --net")
    add("--iter-size", type=positive, default=1, help="batches an update (default: %(default)s)")
    add("--lr-policy", choices=("fixed", "poly"), default="poly", help="default: poly")
    add("--head-lr", type=_rate, help="rate of new layers over the trunk's (default: 1; 5 with --net unet-vgg16)")
    add("--snapshot", type=positive, help="iterations between scored snapshots (default: a fourth of the stage)")


def _add_batch_options(options: argparse.ArgumentParser) -> None:
    add = options.add_argument_group(
        "batches and augmentation", "of training images; scoring changes none"
    ).add_argument
    augment = (
        "what may happen to an image, any of mirror, jitter=PIXELS, scale=LEAST:GREATEST, rotate=DEGREES, "
        "colour=SHARE, crop=HEIGHTxWIDTH, least=SHARE (of labelled pixels in a crop), such as "
        "mirror,scale=0.5:2,crop=320x320; paper is mirror,jitter=32"
    )
    add("--augment", metavar="LIST", help=augment)
    batch = "images a batch; smaller ones are filled up with the mean and void (default: %(default)s)"
    add("--batch-size", type=batch_size, default=1, metavar="N", help=batch)
    add("--buckets", action="store_true", help="put images of similar sizes into a batch")
    add("--workers", type=whole, default=0, metavar="N", help="processes that load images (default: 0, a thread)")


def training_settings(arguments: argparse.Namespace) -> Training:
    """Return the settings of training that a command line asks for."""
    from fcn_caffe.models.own_task import Training

    options = vars(arguments)
    own = ("base_lr", "max_iter", "momentum", "weight_decay", "solver_type", "head_lr")
    given = {name for name in own if options[name] is not None}
    return Training(
        base_lr={stage: _of_stage(options, "base_lr", stage, rate) for stage, (rate, _) in STAGES.items()},
        max_iter={stage: _of_stage(options, "max_iter", stage, count) for stage, (_, count) in STAGES.items()},
        momentum=Training.momentum if arguments.momentum is None else arguments.momentum,
        weight_decay=Training.weight_decay if arguments.weight_decay is None else arguments.weight_decay,
        solver_type=arguments.solver_type or Training.solver_type,
        iter_size=arguments.iter_size,
        lr_policy=arguments.lr_policy,
        head_lr=Training.head_lr if arguments.head_lr is None else arguments.head_lr,
        snapshot=arguments.snapshot,
        seed=arguments.seed,
        given=frozenset(given),
    )


def _of_stage(options: Mapping[str, Any], name: str, stage: str, usual: Number) -> Number:
    """Return what is given for a stage, else for all of them, else what is usual."""
    given = (options[f"{name}_{stage}"], options[name], usual)
    return next(value for value in given if value is not None)
