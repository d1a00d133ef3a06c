"""HHA of a room whose every number is known: floor, far wall and ceiling, before a camera that may be turned."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum_filter, minimum_filter  # type: ignore[import-untyped]

from fcn_caffe.data.hha import Camera, hha
from fcn_caffe.paper.result import Result

__all__ = ["CAMERA", "CEILING", "FLOOR", "SIZE", "encode_room", "inside", "room"]

CAMERA = Camera(90.0, 95.0, 80.5, 60.5)
SIZE = (120, 160)
FLOOR, _WALL, CEILING = 1.5, 4.0, 1.1  # metres below, before and above the camera
_POSES = {"level": (0.0, 0.0), "turned": (10.0, -5.0)}  # pitch and roll in degrees
_ANGLES = np.array([38.0, 128.0, 218.0])  # as shown, of floor, wall and ceiling
_MARGIN = 4  # pixels: a normal's window of 3 to each side, and the pixel beside it
_HIGH, _ANGLE = 3, 1  # grey levels: half a degree, by which windows over the room's edges turn gravity, 3 m away
Array = npt.NDArray[Any]


def room(
    pitch: float = 0.0, roll: float = 0.0, camera: Camera = CAMERA, shape: tuple[int, int] = SIZE
) -> tuple[Array, Array, Array]:
    """Depth of the room, seen by a camera turned by degrees, and what each pixel sees.

    Returns depth in metres (H, W), gravity in the camera's axes (3), and 0, 1, 2 for floor, wall, ceiling (H, W).
    """
    p, r = np.radians([pitch, roll])
    tilt = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    lean = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    turn = tilt @ lean  # from the world's axes (x right, y down, z ahead) to the camera's
    rays = _rays(camera, shape)
    planes = [(turn @ (0, 1, 0), FLOOR), (turn @ (0, 0, 1), _WALL), (turn @ (0, -1, 0), CEILING)]
    with np.errstate(divide="ignore"):
        depths = np.stack([distance / (rays @ normal) for normal, distance in planes], -1)
    depths[depths <= 0] = np.inf
    return depths.min(-1), turn @ (0, 1, 0), depths.argmin(-1)


def _rays(camera: Camera, shape: tuple[int, int]) -> Array:
    row, column = np.indices(shape) + 1
    x, y = (column - camera.centre_x) / camera.focal_x, (row - camera.centre_y) / camera.focal_y
    return np.stack([x, y, np.ones(shape)], -1)


def inside(seen: Array, margin: int) -> Array:
    """Pixels whose window lies wholly on one surface and in the image."""
    size = 2 * margin + 1
    same = minimum_filter(seen, size) == maximum_filter(seen, size)
    edge = np.ones(seen.shape, bool)
    edge[margin:-margin, margin:-margin] = False
    return np.asarray(same & ~edge)


def encode_room() -> Result:
    """The three channels of a room from a level and from a turned camera, beside the room's own numbers.

    Disparity is 31000 / z for z in centimetres, height is in centimetres above the floor, the angle with gravity is in
    degrees and 38 more. Gravity has to be found, by windows some of which lie over the edges of the room.
    """
    result = Result("hha", "5", "depth as horizontal disparity, height above ground and angle with gravity")
    for name, (pitch, roll) in _POSES.items():
        depth, down, seen = room(pitch, roll)
        disparity, height, angle = np.moveaxis(hha(depth, CAMERA).astype(float), -1, 0)
        below = (_rays(CAMERA, depth.shape) * depth[..., None]) @ down  # metres below the camera
        where = inside(seen, _MARGIN)
        wanted = (_shown(31000 / (100 * depth)), _shown(100 * (FLOOR - below)), _ANGLES[seen])
        off = [np.abs(found - true) for found, true in zip((disparity, height, angle), wanted, strict=True)]
        for what, largest, bound in (
            ("disparity", off[0].max(), 0),
            ("height above ground", off[1].max(), _HIGH),
            ("angle with gravity, away from edges", off[2][where].max(), _ANGLE),
        ):
            told = f"at most {bound}" if bound else "0"
            result.measure(f"{name}: {what}, grey levels from the room's", float(largest), told, bool(largest <= bound))
    result.remarks.append(
        "the official picture of a NYUDv2 image is compared in tests/data/test_hha.py, where it is there"
    )
    return result


def _shown(values: Array) -> Array:
    return np.asarray(np.floor(values.clip(0, 255) + 0.5))
