"""Encode depth images as HHA: horizontal disparity, height above ground, angle with gravity, for the HHA nets."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_caffe.commands import command
from fcn_caffe.commands._options import finite, new_parser
from fcn_caffe.errors import DataError
from fcn_caffe.host.text import show

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fcn_caffe.data.hha import Camera

KINECT_SIZE = (480, 640)
UNITS = (1000, 10000)  # of a depth image's numbers in a metre: millimetres, or tenths of them
FARTHEST = 15.0  # metres: half of an indoor image is never beyond that


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("hha", __doc__)
    add = options.add_argument
    add("depth", type=Path, help="depth image: one channel of integers; or a folder of PNGs")
    add("out", type=Path, help="PNG to write; a folder for a folder")
    add("--focal", type=float, nargs="+", metavar="PIXELS", help="focal length, or fx fy (default: NYUDv2's Kinect)")
    centre = "principal point, from 1 (default: the image's middle)"
    add("--centre", type=finite, nargs=2, metavar=("X", "Y"), help=centre)
    units = "what a metre is in the image (default: 1000, or 10000 where that is far; of a folder, in any image)"
    add("--units-per-metre", type=float, help=units)
    return options


def _camera(arguments: argparse.Namespace, shape: tuple[int, int], path: Path) -> Camera:
    from fcn_caffe.data.hha import KINECT_COLOUR, Camera

    if arguments.focal is None and arguments.centre is None and shape == KINECT_SIZE:
        return KINECT_COLOUR
    if arguments.focal is None:
        raise DataError(
            f"{path}: is {shape[1]}x{shape[0]}. The camera is known for 640x480 (NYUDv2's Kinect) only: give --focal, "
            "and --centre where the principal point is not in the middle."
        )
    if len(arguments.focal) > 2 or not all(1e-3 <= focal <= 1e6 for focal in arguments.focal):
        raise DataError(
            f"--focal {' '.join(map(str, arguments.focal))}: give one or two numbers of pixels from 0.001 to 1e6."
        )
    centre = arguments.centre or ((shape[1] + 1) / 2, (shape[0] + 1) / 2)
    return Camera(arguments.focal[0], arguments.focal[-1], *centre)


def _read(path: Path) -> npt.NDArray[np.float64]:
    import numpy as np

    from fcn_caffe.data.readers.image_files import open_image

    with open_image(path) as image:
        depth = np.asarray(image)
    if depth.ndim != 2 or depth.dtype.kind not in "iu" or depth.size == 0:
        raise DataError(
            f"{path}: is {depth.dtype} of shape {show(depth.shape)}: a depth image has one channel of integers."
        )
    if not (depth > 0).any():
        raise DataError(f"{path}: no pixel has a depth; all are 0.")
    return depth.astype(np.float64)


def _units(asked: float | None, depth: npt.NDArray[np.float64], path: Path) -> float:
    """Return how many units make a metre: those asked for, else the first of UNITS that keeps the room indoor."""
    import numpy as np

    if asked is not None:
        if not 1e-3 <= asked <= 1e9:
            raise DataError(f"--units-per-metre {asked:g}: should be a number from 0.001 to 1e9.")
        return asked
    middle = float(np.median(depth[depth > 0]))
    fitting = [units for units in UNITS if middle / units <= FARTHEST]
    if not fitting:
        raise DataError(f"{path}: half of it lies beyond {middle / UNITS[-1]:.0f} m. Give --units-per-metre.")
    return fitting[0]


def _depth_files(arguments: argparse.Namespace) -> list[Path]:
    """List the files to read. Raises: DataError where there is none, or where HHA would replace them."""
    paths = sorted(arguments.depth.glob("*.png")) if arguments.depth.is_dir() else [arguments.depth]
    if not paths:
        raise DataError(f"{arguments.depth}: has no PNGs.")
    if os.path.realpath(arguments.out) == os.path.realpath(arguments.depth):
        raise DataError(f"{arguments.out}: is the depth itself, which HHA would replace. Write it elsewhere.")
    return paths


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parser().parse_args(argv)
    paths = _depth_files(arguments)

    from fcn_caffe.data.hha import hha
    from fcn_caffe.host.pictures import save_image

    is_folder = arguments.depth.is_dir()
    if is_folder:
        arguments.out.mkdir(parents=True, exist_ok=True)
    units = arguments.units_per_metre
    if is_folder and units is None:
        # One camera made them: what is far in one image says it for those that show near things alone.
        units = max(_units(None, _read(path), path) for path in paths)
    for path in paths:
        depth = _read(path)
        units = _units(units, depth, path)
        height, width = depth.shape
        encoded = hha(depth / units, _camera(arguments, (height, width), path))
        out = arguments.out / path.name if is_folder else arguments.out
        if out.suffix.lower() != ".png":
            raise DataError(f"{out}: write HHA as PNG; other formats change its numbers.")
        save_image(out, encoded)
        missing = float((depth <= 0).mean())
        note = f", {missing:.1%} without depth filled from beside" if missing else ""
        print(f"{out}: {width}x{height}, {units:g} units a metre{note}")
    return 0
