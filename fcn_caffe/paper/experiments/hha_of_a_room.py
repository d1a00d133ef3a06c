"""HHA of a room whose every number is known: floor, far wall and ceiling, before a camera that may be turned."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum_filter, minimum_filter  # type: ignore[import-untyped]

from fcn_caffe.data.hha import Camera, hha
from fcn_caffe.paper.result import Result

__all__ = ["CAMERA", "CEILING", "FLOOR", "SIZE", "draw_room", "encode_room", "is_on_one_surface"]

CAMERA = Camera(90.0, 95.0, 80.5, 60.5)
SIZE = (120, 160)
FLOOR, _WALL, CEILING = 1.5, 4.0, 1.1  # metres below, before and above the camera
_POSES = {"level": (0.0, 0.0), "turned": (10.0, -5.0)}  # pitch and roll in degrees
_ANGLES = np.array([38.0, 128.0, 218.0])  # grey levels of floor, wall and ceiling
_MARGIN = 4  # pixels: a normal's window reaches 3 to each side, and one pixel more
_HIGH, _ANGLE = 3, 1  # grey levels: windows over the room's edges turn gravity by half a degree, seen from 3 m
Array = npt.NDArray[Any]


def draw_room(
    pitch: float = 0.0, roll: float = 0.0, camera: Camera = CAMERA, shape: tuple[int, int] = SIZE
) -> tuple[Array, Array, Array]:
    """Draw the depth of the room, as a turned camera sees it.

    Args:
        pitch: degrees by which the camera is turned up.
        roll: degrees by which it is turned about its axis.
        camera: its focal lengths and centre.
        shape: (H, W).

    Returns: depth in metres (H, W), gravity in the camera's axes (3), and 0, 1, 2 for floor, wall, ceiling (H, W).
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


def is_on_one_surface(surface: Array, margin: int) -> Array:
    """Find the pixels whose window lies on one surface and in the image. Shapes: (H, W) -> (H, W)."""
    size = 2 * margin + 1
    same = minimum_filter(surface, size) == maximum_filter(surface, size)
    edge = np.ones(surface.shape, bool)
    edge[margin:-margin, margin:-margin] = False
    return np.asarray(same & ~edge)


def encode_room() -> Result:
    """Compare the three channels of a room, from a level and from a turned camera, with the room's own numbers.

    Disparity is 31000 / z for z in centimetres, height is in centimetres above the floor, the angle with gravity is in
    degrees, plus 38. Gravity is estimated, from windows some of which lie over the edges of the room.
    """
    result = Result("hha", "5", "depth as horizontal disparity, height above ground and angle with gravity")
    for name, (pitch, roll) in _POSES.items():
        depth, down, surface = draw_room(pitch, roll)
        disparity, height, angle = np.moveaxis(hha(depth, CAMERA).astype(float), -1, 0)
        below = (_rays(CAMERA, depth.shape) * depth[..., None]) @ down  # metres below the camera
        away_from_edges = is_on_one_surface(surface, _MARGIN)
        wanted = (_grey_levels(31000 / (100 * depth)), _grey_levels(100 * (FLOOR - below)), _ANGLES[surface])
        off = [np.abs(channel - true) for channel, true in zip((disparity, height, angle), wanted, strict=True)]
        for what, largest, bound in (
            ("disparity", off[0].max(), 0),
            ("height above ground", off[1].max(), _HIGH),
            ("angle with gravity, away from edges", off[2][away_from_edges].max(), _ANGLE),
        ):
            words = f"at most {bound}" if bound else "0"
            what = f"{name}: {what}, grey levels from the room's"
            result.measure(what, float(largest), words, bool(largest <= bound))
    result.remarks.append(
        "the official picture of a NYUDv2 image is compared in tests/data/test_hha.py, where it is there"
    )
    return result


def _grey_levels(values: Array) -> Array:
    return np.asarray(np.floor(values.clip(0, 255) + 0.5))
