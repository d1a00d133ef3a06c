"""HHA: a depth image as three channels: horizontal disparity, height above ground, angle with gravity.

Source: Gupta, Girshick, Arbelaez and Malik, Learning Rich Features from RGB-D Images, ECCV 2014, and the images that
their software writes, which this reproduces to the bit. Points are in centimetres, x to the right, y down, z forward;
pixels count from 1, as in MATLAB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, uniform_filter  # type: ignore[import-untyped]

from fcn_caffe.errors import DataError

__all__ = [
    "KINECT_COLOUR",
    "Camera",
    "angle_with",
    "fill_depth",
    "gravity",
    "height_above_ground",
    "hha",
    "normals",
    "points",
]

Float = npt.NDArray[np.float64]

DISPARITY = 31000.0  # shown as DISPARITY / z
NEAREST = 100.0  # cm: nearer points get the disparity of this depth
UPRIGHT = 128.0  # the value of a wall, whose angle is 90 degrees
FLOOR_SEEN = -90.0  # cm: an image whose lowest point is higher shows no floor …
CAMERA_HEIGHT = 130.0  # … and the camera is taken to be this high above it
FINE, COARSE = 3, 10  # half sizes of the windows that normals are fitted to: for the angle, and for gravity
THRESHOLDS = (45.0, 15.0)  # degrees from gravity within which a normal is floor, or wall when measured from 90
ROUNDS = 5  # of each threshold
TIED = 1e-9  # eigenvalues that differ by less, per normal, are equal


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: focal lengths and the principal point, in pixels, the first pixel being (1, 1)."""

    focal_x: float
    focal_y: float
    centre_x: float
    centre_y: float


# The colour camera of NYUDv2's Kinect, to which its depth images are projected; 640 x 480.
KINECT_COLOUR = Camera(518.85790117450188, 519.46961112127485, 325.58244941119034, 253.73616633400465)


def points(depth: Float, camera: Camera) -> Float:
    """Return where each pixel lies in space.

    Shapes: (H, W) metres -> (H, W, 3) centimetres: x right, y down, z forward.
    """
    z = np.asarray(depth, np.float64) * 100
    row, column = np.indices(z.shape) + 1
    x = (column - camera.centre_x) * z / camera.focal_x
    y = (row - camera.centre_y) * z / camera.focal_y
    return np.stack([x, y, z], -1)


def normals(cloud: Float, radius: int) -> Float:
    """Return the normal of the plane fitted to each pixel's window, 2 radius + 1 pixels a side, away from the camera.

    A plane n p = 1 is linear in image coordinates for 1 / z: n (x/z, y/z, 1) = 1/z. The window's least squares have a 3
    x 3 matrix, which is inverted by cofactors.
    Shapes: (H, W, 3) -> (H, W, 3), NaN where a window has no plane.
    """
    x, y, z = np.moveaxis(cloud, -1, 0)
    inverse = 1 / z

    def window(values: Float) -> Float:
        # A mean over the whole window, zero outside the image: the common divisor cancels.
        summed: Float = uniform_filter(values, 2 * radius + 1, mode="constant")
        return summed

    a, b = x / z, y / z
    aa, ab, bb, a1, b1, ones = map(window, (a * a, a * b, b * b, a, b, np.ones_like(a)))
    ai, bi, i1 = map(window, (a * inverse, b * inverse, inverse))
    cross_ab, cross_a1, cross_b1 = a1 * b1 - ab * ones, ab * b1 - a1 * bb, ab * a1 - aa * b1
    normal = np.stack(
        [
            (bb * ones - b1 * b1) * ai + cross_ab * bi + cross_a1 * i1,
            cross_ab * ai + (aa * ones - a1 * a1) * bi + cross_b1 * i1,
            cross_a1 * ai + cross_b1 * bi + (aa * bb - ab * ab) * i1,
        ],
        -1,
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    facing = np.where((normal * cloud).sum(-1, keepdims=True) < 0, -1.0, 1.0)
    return np.asarray(normal * facing)


def gravity(normal: Float, start: tuple[float, float, float] = (0.0, 1.0, 0.0)) -> Float:
    """Return the direction of gravity, a unit vector: normals of floors are along it, normals of walls square to it.

    From `start`, the camera's down, five rounds that take normals within 45 degrees of the direction, or of its right
    angles, as floor or wall, then five with 15 degrees; each takes the direction with the least of walls and the most
    of floors: the last eigenvector of sum w w' - sum f f'.
    Shapes: (..., 3) -> (3).
    """
    known = normal.reshape(-1, 3)
    known = known[np.isfinite(known).all(1)]
    down = np.asarray(start, np.float64)
    for threshold in np.radians(THRESHOLDS):
        for _ in range(ROUNDS):
            along = np.abs(known @ down)
            floor, wall = known[along > np.cos(threshold)], known[along < np.sin(threshold)]
            if not len(floor) and not len(wall):
                return down
            values, vectors = np.linalg.eigh(wall.T @ wall - floor.T @ floor)
            # A single wall is square to a whole plane of directions: take the nearest of them.
            least = vectors[:, values <= values[0] + TIED * (len(floor) + len(wall))]
            projected = least @ (least.T @ down)
            length = float(np.linalg.norm(projected))
            if length > 0:
                down = projected / length
    return down


def height_above_ground(cloud: Float, down: Float) -> Float:
    """Return the centimetres above the lowest point, or above a guessed floor where the image shows none.

    Shape: (H, W).
    """
    height = -(cloud @ down)
    lowest = float(height.min())
    return np.asarray(height - (lowest if lowest <= FLOOR_SEEN else -CAMERA_HEIGHT))


def angle_with(normal: Float, down: Float) -> Float:
    """Return the angle between normals and gravity in degrees: floor 0, wall 90, ceiling 180.

    Shape: (H, W).
    """
    return np.asarray(np.degrees(np.arccos(np.clip(normal @ down, -1, 1))))


def fill_depth(depth: npt.NDArray[np.floating]) -> Float:
    """Give each pixel without depth (0, NaN, infinite) the depth of the nearest pixel that has one.

    Shapes: (H, W) -> (H, W).

    Raises:
        DataError: where no pixel has a depth.
    """
    values = np.asarray(depth, np.float64)
    missing = ~(np.isfinite(values) & (values > 0))
    if missing.all():
        raise DataError("no pixel has a depth: all are 0 or not a number. Use another depth image.")
    if not missing.any():
        return values
    nearest = distance_transform_edt(missing, return_distances=False, return_indices=True)
    return np.asarray(values[tuple(nearest)])


def hha(depth: npt.NDArray[np.floating], camera: Camera = KINECT_COLOUR) -> npt.NDArray[np.uint8]:
    """Encode a depth image as HHA.

    Shapes: (H, W) metres -> (H, W, 3) uint8, in the order the nets' hha PNGs have.

    Channels: 31000 / z for z in centimetres, at least 100; the height in centimetres; the angle in degrees + 38, so
    that walls are 128. Rounded, and cut at 0 and 255. Pixels without depth are filled first (fill_depth).

    Raises:
        DataError: for another shape, or an image without any depth.
    """
    if np.ndim(depth) != 2:
        raise DataError(f"a depth image has two axes, this one {np.ndim(depth)}: {np.shape(depth)}.")
    cloud = points(fill_depth(depth), camera)
    down = gravity(normals(cloud, COARSE))
    channels = np.stack(
        [
            DISPARITY / np.maximum(cloud[:, :, 2], NEAREST),
            height_above_ground(cloud, down),
            angle_with(normals(cloud, FINE), down) + (UPRIGHT - 90),
        ],
        -1,
    )
    # As MATLAB does: halves round up, and unknown values are 0.
    return np.asarray(np.floor(np.nan_to_num(channels, nan=0.0).clip(0, 255) + 0.5).astype(np.uint8))
