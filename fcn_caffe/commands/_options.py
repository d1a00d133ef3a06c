"""Options that several commands have: which layers of a net are in, the weights it is filled with, the device."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fcn_caffe.errors import DataError, FcnCaffeError
from fcn_caffe.host.paths import Paths, shipped
from fcn_caffe.host.program import tool_call
from fcn_caffe.host.trust import allow_python

if TYPE_CHECKING:
    import torch

    from fcn_caffe.evaluation.crf import DenseCrf
    from fcn_caffe.host.ranks import Ranks
    from fcn_caffe.net.net import Net

DATA_HELP = "where the data sets lie: data/NAME in a net is found in DIR/NAME (default: $FCN_CAFFE_DATA)"
TENSORBOARD_HELP = "write losses, rates, scores, gradients' norms and images for TensorBoard into DIR"
Number = TypeVar("Number", int, float)
PHASES = ("TEST", "TRAIN")
INT_MAX = 2**31 - 1  # of an int32 of caffe.proto
FLOAT_MAX = 3.4028234663852886e38  # of a float32
_MAY_BE_EMPTY = ("--label-suffix", "--suffix", "--delimiter", "-encode_type", "--encode_type", "--encode-type")


def new_parser(tool: str, description: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    """Make the parser of a command, which its help calls as the person has called it.

    Args:
        tool: The command's name.
        description: What it does. Several lines stay as they are written, a single one is wrapped.
        epilog: What its help ends with, likewise.
    """
    is_written = any("\n" in text.strip() for text in (description or "", epilog or ""))
    formatter = argparse.RawDescriptionHelpFormatter if is_written else argparse.HelpFormatter
    return _Parser(prog=tool_call(tool), description=description, epilog=epilog, formatter_class=formatter)


class _Parser(argparse.ArgumentParser):
    """Refuses an empty word, mostly a shell variable that is not set: as a path it would be the working folder."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        words = list(sys.argv[1:] if args is None else args)
        for place, word in enumerate(words):
            before = words[place - 1] if place else ""
            if not word and before not in _MAY_BE_EMPTY:
                self.error(f"an argument is empty{before and f', behind {before}'}. Is a shell variable not set?")
            if re.fullmatch(r"--?[a-zA-Z][\w-]*=", word) and word[:-1] not in _MAY_BE_EMPTY:
                self.error(f"{word} is followed by nothing. Is a shell variable not set?")
        return super().parse_known_args(words, namespace)


# -- types of arguments ------------------------------------------------------------------------------------------------


def number(text: str, read: Callable[[str], Number], fits: Callable[[Number], bool], wanted: str) -> Number:
    """Read an argument that is a number of some kind, which `wanted` describes."""
    with suppress(ValueError):
        value = read(text)
        if fits(value):
            return value
    raise argparse.ArgumentTypeError(f"should be {wanted}, got {text}")


def positive(text: str) -> int:
    """Read an argument that is a whole number, at least 1."""
    return number(text, int, lambda value: 1 <= value <= INT_MAX, f"a whole number from 1 to {INT_MAX}")


def batch_size(text: str) -> int:
    """Read an argument that is a number of images to run at once."""
    return number(text, int, lambda value: 1 <= value <= 2**20, f"a whole number from 1 to {2**20}")


def whole(text: str) -> int:
    """Read an argument that is a whole number, at least 0."""
    return number(text, int, lambda value: 0 <= value <= INT_MAX, f"a whole number from 0 to {INT_MAX}")


def level(text: str) -> int:
    """Read an argument that is a NetState level."""
    return number(text, int, lambda value: abs(value) <= INT_MAX, f"a whole number from -{INT_MAX} to {INT_MAX}")


def tile(text: str) -> int:
    """Read an argument that is a number of columns to run at once; 0 and none mean all."""
    return 0 if text == "none" else number(text, int, lambda value: value >= 0, "a whole number, or none")


def seed(text: str) -> int:
    """Read an argument that starts random numbers: what both torch and numpy take."""
    return number(text, int, lambda value: 0 <= value < 2**32, f"a whole number from 0 to {2**32 - 1}")


def share(text: str) -> float:
    """Read an argument that is a share of a length."""
    return number(text, float, lambda value: 0 < value <= 100, "a number above 0, such as 0.5")


def finite(text: str) -> float:
    """Read an argument that is a number, not NaN and not infinite, as a float32 neither."""
    return number(text, float, lambda value: abs(value) <= FLOAT_MAX, f"a number up to {FLOAT_MAX:.2g}")


def side(text: str) -> int:
    """Read an argument that is the height or width of an image in pixels; 0 for none."""
    return number(text, int, lambda value: 0 <= value <= 65535, "a whole number from 0 to 65535")


def image_size(text: str) -> tuple[int, int]:
    """Read an argument that is HEIGHTxWIDTH in pixels."""
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"should be HEIGHTxWIDTH, such as 500x500, got {text}")
    return int(match[1]), int(match[2])


def net_or_solver(text: str) -> str:
    """Read an argument that is a net's or a solver's file; where there is none, the package's own of that name."""
    own = None if Path(text).exists() else shipped(text)
    return text if own is None else str(own)


def names(text: str) -> list[str]:
    """Read an argument that is names separated by commas."""
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


def add_tile_option(parser: argparse.ArgumentParser) -> None:
    """Add `--tile`."""
    parser.add_argument(
        "--tile",
        type=tile,
        metavar="N",
        help="run images in parts, at most N pixels wide, in little memory and to the same numbers; 0 or none: never "
        "(default: where the whole would take more than 2 GiB, or than is free)",
    )


_CRF_OPTIONS = {
    "iterations": "steps (default: 10)",
    "pos_w": "weight of pixels that are close (default: 3)",
    "pos_xy_std": "how far that reaches, in pixels (default: 3)",
    "bi_w": "weight of pixels that are close and of a like colour (default: 4)",
    "bi_xy_std": "how far that reaches, in pixels (default: 49)",
    "bi_rgb_std": "how like colours are, in values of 255 (default: 5)",
}


def add_crf_options(parser: argparse.ArgumentParser) -> None:
    """Add `--crf` and the numbers of the CRF, by DeepLab's names."""
    group = parser.add_argument_group(
        "dense CRF",
        "refine the scores by what close pixels of like colours are, as DeepLab did; a number asks for it too",
    )
    group.add_argument("--crf", action="store_true", help="refine")
    for name, text in _CRF_OPTIONS.items():
        kind = positive if name == "iterations" else finite
        group.add_argument(f"--crf-{name.replace('_', '-')}", type=kind, metavar="N", help=text)


def requested_crf(arguments: argparse.Namespace) -> DenseCrf | None:
    """Return the CRF that the options ask for, if they do.

    Raises:
        DataError: A number makes no sense.
    """
    numbers = {name: getattr(arguments, f"crf_{name}") for name in _CRF_OPTIONS}
    given = {name: number for name, number in numbers.items() if number is not None}
    if not (given or arguments.crf):
        return None
    from fcn_caffe.evaluation.crf import DenseCrf

    return DenseCrf(**given)


def add_thrift_options(parser: argparse.ArgumentParser) -> None:
    """Add `--checkpoint` and `--amp`."""
    parser.add_argument(
        "--checkpoint",
        action="store_true",
        help="keep few blobs for backward and run parts of the net again there: less memory, the same numbers",
    )
    parser.add_argument(
        "--amp", choices=["bf16"], help="run convolutions and inner products in bfloat16; weights stay float32"
    )


def add_ranks_options(parser: argparse.ArgumentParser) -> None:
    """Add what training in several processes has to choose."""
    group = parser.add_argument_group("several processes", "started by `torchrun --nproc-per-node N -m fcn_caffe …`")
    group.add_argument(
        "--sync-bn", action="store_true", help="batch normalisations: mean and variance over the batches of all ranks"
    )
    group.add_argument(
        "--normalize-over",
        choices=["rank", "ranks"],
        default="rank",
        help="divide a loss by the valid pixels of each rank's own batch, as Caffe does, or of all ranks' (default: "
        "%(default)s)",
    )
    group.add_argument(
        "--shard-history",
        action="store_true",
        help="keep the solver's history once, shared out over the ranks: less memory, equal weights",
    )


# -- faster nets -------------------------------------------------------------------------------------------------------


def add_speed_options(parser: argparse.ArgumentParser) -> None:
    """Add `--plain` and `--fast`, of which only one may be given."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--plain", action="store_true", help="run each layer as the net file has it, without rewrites that are faster"
    )
    either.add_argument(
        "--fast",
        action="store_true",
        help="run each convolution in the quickest way that keeps scores, and gradients in training, within 1e-4 of "
        "their largest; says what it cost",
    )


def add_deterministic_option(parser: argparse.ArgumentParser) -> None:
    """Add `--deterministic`; `use_deterministic` makes it count."""
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="have PyTorch compute to the same bits in every run on this machine, on a GPU too, at some cost in time; "
        "a layer that it cannot do so for ends the run",
    )


def use_deterministic(arguments: argparse.Namespace) -> None:
    """Let what `--deterministic` says count for this process, before anything is computed.

    Raises:
        FcnCaffeError: `--fast` is given too; or there is a GPU, and cuBLAS is not told to be deterministic.
    """
    if not arguments.deterministic:
        return
    if arguments.fast:
        raise FcnCaffeError(
            "--fast chooses ways by measuring, and another run may measure otherwise. Leave out --fast, or "
            "--deterministic."
        )
    import torch

    if torch.cuda.is_available() and os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):
        raise FcnCaffeError(
            "--deterministic on a GPU: cuBLAS has to be told, too, before the program starts. Put "
            "CUBLAS_WORKSPACE_CONFIG=:4096:8 before the command."
        )
    torch.use_deterministic_algorithms(True)


def training_choices(arguments: argparse.Namespace, ranks: Ranks) -> dict[str, Any]:
    """Return what Solver and Training take alike, as thrift, speed and ranks options say it.

    Each net that is rewritten gets a line in the log. `--fast` is left to the solver, whose weights come later.
    """
    from fcn_caffe.host.glog import logger
    from fcn_caffe.net.rewrite.ready import ready_net

    return {
        "checkpoint": arguments.checkpoint,
        "amp": arguments.amp,
        "rewrite": partial(ready_net, report=logger.info, plain=arguments.plain),
        "fast": arguments.fast,
        "ranks": ranks,
        "sync_bn": arguments.sync_bn,
        "normalize_over_ranks": arguments.normalize_over == "ranks",
        "shard_history": arguments.shard_history,
    }


def make_faster(net: Net, arguments: argparse.Namespace) -> Net:
    """Return a net for inference that is faster, as `--plain` and `--fast` say, and say so on stderr.

    On a GPU cuDNN then measures its own ways for each size that it meets.
    """
    import torch

    from fcn_caffe.net.rewrite.ready import ready_net

    torch.backends.cudnn.benchmark = not (arguments.plain or torch.are_deterministic_algorithms_enabled())
    return ready_net(net, lambda line: print(line, file=sys.stderr), plain=arguments.plain, fast=arguments.fast)


# -- the state of a net ------------------------------------------------------------------------------------------------


def add_state_options(parser: argparse.ArgumentParser) -> None:
    """Add Caffe's `--level` and `--stage`; with one dash they are known too, as Caffe's users type them."""
    parser.add_argument("-level", "--level", type=level, default=0, help="NetState level (default: 0)")
    parser.add_argument(
        "-stage", "--stage", type=names, action="extend", default=[], help="NetState stages, separated by commas"
    )


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add `--fork`, `--strict` and `--allow-python`; `use_reading_options` makes them count."""
    parser.add_argument(
        "--fork",
        default="",
        metavar="NAME",
        help="whose Caffe the net is of, where it does not say: segnet, pspnet, hed …",
    )
    parser.add_argument("--strict", action="store_true", help="refuse layers and fields that BVLC's Caffe 1.0 has not")
    parser.add_argument(
        "--allow-python",
        action="store_true",
        help="run Python layers whose module lies beside the net: only for a net that you trust",
    )


def use_reading_options(arguments: argparse.Namespace) -> None:
    """Let what `--fork`, `--strict` and `--allow-python` say count for every net that the command reads.

    Raises:
        GraphError: There is no such fork.
    """
    if arguments.allow_python:
        allow_python()
    if not (arguments.fork or arguments.strict):
        return
    from fcn_caffe.net.fork_choice import fork_name
    from fcn_caffe.proto.dialect import use_dialect

    use_dialect(fork_name(arguments.fork) if arguments.fork else "", arguments.strict)


def phase_number(name: str) -> int:
    """Return the number that Caffe gives to a phase of `PHASES`."""
    from fcn_caffe.proto.phases import TEST, TRAIN

    return {"TEST": TEST, "TRAIN": TRAIN}[name]


def fill(net: Net, files: Sequence[str]) -> None:
    """Fill a net from weight files, one after the other; warn on stderr of layers that none of them has.

    Raises:
        WeightsError: A file cannot be read or does not fit.
    """
    from fcn_caffe.weights.transfer import copy_weights, load_weights

    missing: set[str] | None = None
    for file in files:
        report = copy_weights(net, load_weights(file), file)
        missing = set(report.missing) if missing is None else missing & set(report.missing)
    if missing:
        left = ", ".join(name for name in net.params if name in missing)
        print(
            f"warning: {', '.join(files)}: no weights for {left}; they keep what their fillers gave.", file=sys.stderr
        )


# -- the device --------------------------------------------------------------------------------------------------------


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Add `--gpu`, as Caffe has it, and `--device`, as our commands have it; only one of the two may be given."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument("-gpu", "--gpu", help="number of the GPU to run on, or all where there is one")
    either.add_argument("--device", help="cpu, cuda or cuda:N")


def requested_device(arguments: argparse.Namespace) -> torch.device | None:
    """Return the device that `--gpu` or `--device` asks for; None where neither is given.

    Raises:
        FcnCaffeError: The device is not there, or there are several.
    """
    import torch

    from fcn_caffe.host.devices import gpu_numbers, torch_device

    if arguments.device is not None:
        return torch_device(arguments.device)
    if arguments.gpu is None:
        return None
    if "," in arguments.gpu or (arguments.gpu == "all" and torch.cuda.device_count() > 1):
        raise FcnCaffeError(
            f"--gpu {arguments.gpu} is several devices: this command runs on one. Name one, such as --gpu 0; "
            "`train` takes several, and torchrun gives each of its processes one: leave --gpu out there."
        )
    return torch_device("cuda" if arguments.gpu == "all" else f"cuda:{gpu_numbers(arguments.gpu)[0]}")
