"""Options that several commands have: which layers of a net are in, and the weights it is filled with."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

from fcn_caffe.errors import DataError, FcnCaffeError
from fcn_caffe.host.devices import gpu_numbers, torch_device
from fcn_caffe.host.paths import Paths
from fcn_caffe.net.net import Net
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.weights.transfer import copy_weights, load_weights

DATA_HELP = "where the data sets lie: data/NAME in a net is found in DIR/NAME (default: $FCN_CAFFE_DATA)"
Number = TypeVar("Number", int, float)
PHASES = {"TRAIN": TRAIN, "TEST": TEST}


def _number(text: str, read: Callable[[str], Number], fits: Callable[[Number], bool], wanted: str) -> Number:
    with suppress(ValueError):
        number = read(text)
        if fits(number):
            return number
    raise argparse.ArgumentTypeError(f"should be {wanted}, got {text}")


def positive(text: str) -> int:
    """An argument that is a whole number, at least 1."""
    return _number(text, int, lambda number: number >= 1, "a whole number, at least 1")


def seed(text: str) -> int:
    """An argument that starts random numbers: what both torch and numpy take."""
    return _number(text, int, lambda number: 0 <= number < 2**32, f"a whole number from 0 to {2**32 - 1}")


def share(text: str) -> float:
    """An argument that is a share of a length."""
    return _number(text, float, lambda number: 0 < number <= 100, "a number above 0, such as 0.5")


def image_size(text: str) -> tuple[int, int]:
    """An argument that is HEIGHTxWIDTH in pixels."""
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"should be HEIGHTxWIDTH, such as 500x500, got {text}")
    return int(found[1]), int(found[2])


def names(text: str) -> list[str]:
    """An argument that is names separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def paths_with_data(data: Path | None, root: Path = Path()) -> Paths:
    """Make the Paths of a command from what its --data says; None leaves the user's $FCN_CAFFE_DATA.

    Raises:
        DataError: There is no such folder.
    """
    if data is None:
        return Paths(root)
    if not data.is_dir():
        raise DataError(f"--data {data}: no such folder. Give the folder that holds the data sets.")
    return Paths(root, data.resolve())


def add_state_options(parser: argparse.ArgumentParser) -> None:
    """Add Caffe's `--level` and `--stage`; with one dash they are known too, as Caffe's users type them."""
    parser.add_argument("-level", "--level", type=int, default=0, help="NetState level (default: 0)")
    parser.add_argument(
        "-stage", "--stage", type=names, action="extend", default=[], help="NetState stages, separated by commas"
    )


def fill(net: Net, files: Sequence[str]) -> None:
    """Fill a net from weight files, one after the other; what none of them has is told on stderr.

    Raises: WeightsError when a file cannot be read or does not fit.
    """
    missing: set[str] | None = None
    for file in files:
        report = copy_weights(net, load_weights(file), file)
        missing = set(report.missing) if missing is None else missing & set(report.missing)
    if missing:
        left = ", ".join(name for name in net.params if name in missing)
        print(
            f"warning: {', '.join(files)}: no weights for {left}; they keep what their fillers gave.", file=sys.stderr
        )


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Add `--gpu`, as Caffe has it, and `--device`, as our commands have it; one of the two may be given."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument("-gpu", "--gpu", help="number of the GPU to run on, or all where there is one")
    either.add_argument("--device", help="cpu, cuda or cuda:N")


def chosen_device(arguments: argparse.Namespace) -> torch.device | None:
    """The one device that `--gpu` or `--device` asks for; None if neither is given.

    Raises: FcnCaffeError for a device that is not there, or for several.
    """
    if arguments.device is not None:
        return torch_device(arguments.device)
    if arguments.gpu is None:
        return None
    if "," in arguments.gpu or (arguments.gpu == "all" and torch.cuda.device_count() > 1):
        raise FcnCaffeError(
            f"--gpu {arguments.gpu} is several devices: this command runs on one. Name one, such as --gpu 0; "
            "training on several is left to distributed training."
        )
    return torch_device("cuda" if arguments.gpu == "all" else f"cuda:{gpu_numbers(arguments.gpu)[0]}")
