"""The permutohedral lattice: Gaussian filters of pixels by features, in time linear in the pixels.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice" (2010), as the DenseCRF code of
Krähenbühl and Koltun computes it, which CRF-RNN and DeepLab took over. A pixel's features are a point of d dimensions.
It lies in a simplex of the lattice of d + 1 corners, and gives each of them a share of its value (splat); the values of
the lattice points are blurred along d + 1 directions; the pixel reads its corners again (slice).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Lattice", "PixelFilter", "bilateral_features", "count_points", "filter_pixels", "position_features"]

_BLOCK = 4  # the fork's SSE build works on pixels in fours
_KEY_RANGE = 1 << 16  # its keys are 16-bit numbers, which wrap around
_MOST_CODES = 1 << 62
_LEAST = 1e-20  # keeps the norm finite
_COUNTED = 1 << 14  # pixels whose points are counted at once
_MIX = 0x5851F42D4C957F2D  # an odd number, by whose powers keys are mixed; two that meet are counted as one


def position_features(height: int, width: int, spread: float, device: torch.device) -> Tensor:
    """Return (column, row) / spread of each pixel. Shapes: -> (2, H W)."""
    rows = torch.arange(height, dtype=torch.float32, device=device)
    columns = torch.arange(width, dtype=torch.float32, device=device)
    place = torch.stack((columns.expand(height, width), rows[:, None].expand(height, width)))
    return place.reshape(2, -1) / spread


def bilateral_features(image: Tensor, spread: float, colour_spread: float) -> Tensor:
    """Return (column, row) / spread and colours / colour_spread of each pixel. Shapes: (C, H, W) -> (2 + C, H W)."""
    channels, height, width = image.shape
    place = position_features(height, width, spread, image.device)
    return torch.cat((place, image.detach().float().reshape(channels, -1) / colour_spread))


@dataclass(frozen=True)
class Lattice:
    """The lattice points of one set of pixels, and how values go between pixels, points and neighbouring points.

    Attributes:
        corners: (pixels, d + 1), the lattice points around each pixel.
        shares: (pixels, d + 1), the pixel's barycentric coordinates: how much of its value each corner takes.
        takers: (pixels (d + 1)), the pixels that each lattice point takes from, point by point.
        taken: the shares of `takers`, in the same order.
        starts: (points + 1), where each point begins in `takers`. The last point is none: its value is 0.
        around: (d + 1, points + 1, 3), each point with the points before and behind it along each axis.
    """

    corners: Tensor
    shares: Tensor
    takers: Tensor
    taken: Tensor
    starts: Tensor
    around: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Lattice:
        """Build the lattice of the pixels' features. Shapes: (d, pixels), float32."""
        dimensions, pixels = features.shape
        # Pixels beyond the last block's end have features of 0. Their corners are points that blurred values pass.
        padded = F.pad(features.float(), (0, 1)) if pixels % _BLOCK else features.float()
        closest, rank, shares = _enclosing_simplex(padded)
        keys = _wrap(_corner_keys(closest, rank).flatten(1))
        codes = _KeyCodes(keys)
        points, corners = torch.unique(codes.of(keys), return_inverse=True)
        point_keys = keys.new_empty(dimensions, len(points))
        point_keys[:, corners] = keys
        corners = corners.view(-1, dimensions + 1)[:pixels]
        order = torch.argsort(corners.flatten(), stable=True)
        counts = torch.bincount(corners.flatten(), minlength=len(points))
        shares = shares.T[:pixels].contiguous()
        return cls(
            corners.int(),
            shares,
            (order // (dimensions + 1)).int(),
            shares.flatten()[order],
            F.pad(counts.cumsum(0), (1, 0)).int(),
            _surroundings(point_keys, points, codes),
        )

    @property
    def dimensions(self) -> int:
        """How many features a pixel has."""
        return self.corners.shape[1] - 1

    def filter(self, values: Tensor, reverse: bool = False) -> Tensor:
        """Blur the pixels' values. Shapes: (pixels, channels) -> the same.

        Args:
            values: one row a pixel.
            reverse: whether the axes are blurred in reversed order, which is the transposed filter.
        """
        kind = values.dtype
        points = F.embedding_bag(self.takers, values, self.starts, mode="sum", per_sample_weights=self.taken.to(kind))
        weights = values.new_tensor((1, 0.5, 0.5)).expand(len(points), 3).contiguous()
        for around in self.around.flip(0) if reverse else self.around:
            points = F.embedding_bag(around, points, mode="sum", per_sample_weights=weights)
        sliced = F.embedding_bag(self.corners, points, mode="sum", per_sample_weights=self.shares.to(kind))
        return sliced / (1 + 0.5**self.dimensions)


def count_points(features: Tensor) -> int:
    """Count the points of a lattice in little memory, without building it. Shapes: (d, pixels)."""
    found = []
    for pixels in torch.split(features.float(), _COUNTED, 1):
        closest, rank, _ = _enclosing_simplex(pixels)
        keys = _wrap(_corner_keys(closest, rank).flatten(1))
        code = torch.zeros_like(keys[0])
        for digit in keys:
            code = (code + digit) * _MIX
        found.append(torch.unique(code))
    return len(torch.unique(torch.cat(found)))


def _enclosing_simplex(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the simplex that each pixel lies in.

    Shapes: (d, pixels) -> the closest lattice point of remainder 0, the rank of each coordinate's distance to it, and
    the shares of the corners, each (d + 1, pixels). All is float32 in the order of the fork's operations: a pixel on
    the border of two simplices falls where it falls there.
    """
    size = len(features) + 1
    lifted = _lift(features)
    rounded = (lifted * torch.tensor(1 / size, dtype=torch.float32)).round()
    closest, total = rounded * size, rounded.sum(0)
    distance = lifted - closest
    rank = torch.zeros_like(lifted)
    for first in range(size):
        for second in range(first + 1, size):
            smaller = (distance[first] < distance[second]).float()
            rank[first] += smaller
            rank[second] += 1 - smaller
    rank += total  # a point that rounding put beside the plane goes back to it
    shift = size * ((rank < 0).float() - (rank >= size).float())
    rank, closest = (rank + shift).long(), closest + shift
    offset = (lifted - closest) * torch.tensor(1 / size, dtype=torch.float32)
    ordered = torch.zeros_like(offset).scatter_(0, size - 1 - rank, offset)
    shares = ordered - ordered.roll(1, 0)
    shares[0] = ordered[0] + (1 - ordered[-1])
    return closest, rank, shares


def _lift(features: Tensor) -> Tensor:
    """Put the points on the plane of d + 1 coordinates whose sum is 0, scaled so that the blur has deviation 1."""
    dimensions = len(features)
    deviation = float(np.float32(math.sqrt(2 / 3) * (dimensions + 1)))
    lifted = features.new_empty(dimensions + 1, features.shape[1])
    total = torch.zeros_like(features[0])
    for axis in range(dimensions, 0, -1):
        scaled = features[axis - 1] * torch.tensor(1 / math.sqrt(axis * (axis + 1)) * deviation, dtype=torch.float32)
        lifted[axis] = total - axis * scaled
        total = total + scaled
    lifted[0] = total
    return lifted


def _corner_keys(closest: Tensor, rank: Tensor) -> Tensor:
    """Return the first d coordinates of each pixel's d + 1 corners. Shapes: (d + 1, pixels) -> (d, pixels, d + 1)."""
    size = len(closest)
    remainders = torch.arange(size, device=rank.device)
    step = remainders - size * (rank[:-1, :, None] > size - 1 - remainders)
    return closest[:-1, :, None].long() + step


def _wrap(keys: Tensor) -> Tensor:
    """Wrap whole numbers as 16 bits do."""
    return (keys + _KEY_RANGE // 2) % _KEY_RANGE - _KEY_RANGE // 2


class _KeyCodes:
    """One whole number for each key of d coordinates that occurs; other keys get one that no key has.

    Coordinates are digits of a number; where 62 bits do not hold it, the codes of the first digits are replaced by
    their places in the list of those that occur.
    """

    def __init__(self, keys: Tensor) -> None:
        self.least = keys.amin(1)
        self.spans = (keys.amax(1) - self.least + 1).tolist()
        self.tables: dict[int, Tensor] = {}
        code, most = torch.zeros_like(keys[0]), 1
        for digit, span in enumerate(self.spans):
            if most * span > _MOST_CODES:
                self.tables[digit], code = torch.unique(code, return_inverse=True)
                most = len(self.tables[digit])
            code, most = code * span + (keys[digit] - self.least[digit]), most * span

    def of(self, keys: Tensor) -> Tensor:
        """Return the codes of keys, -1 for a key beyond those that occur. Shapes: (d, keys) -> (keys)."""
        code = torch.zeros_like(keys[0])
        known = torch.ones_like(code, dtype=torch.bool)
        for digit, span in enumerate(self.spans):
            if digit in self.tables:
                code, found = _find(code, self.tables[digit])
                known &= found
            value = keys[digit] - self.least[digit]
            known &= (value >= 0) & (value < span)
            code = code * span + value
        return torch.where(known, code, -1)


def _find(values: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Return the place of each value in a sorted table, and whether it is there."""
    place = torch.searchsorted(table, values).clamp(max=len(table) - 1)
    return place, table[place] == values


def _surroundings(keys: Tensor, points: Tensor, codes: _KeyCodes) -> Tensor:
    """Find each point's neighbours along each axis; `len(points)` where there is none.

    Along axis j they differ by d in coordinate j and by 1, the other way, in all others. Who is before a point has that
    point behind it.

    Shapes: -> (d + 1, points + 1, 3): the point, the one before it, the one behind it.
    """
    dimensions, count = keys.shape
    itself = torch.arange(count + 1, dtype=torch.int32, device=keys.device)
    around = torch.full((dimensions + 1, count + 1, 3), count, dtype=torch.int32, device=keys.device)
    around[:, :, 0] = itself
    for axis in range(dimensions + 1):
        step = keys.new_full((dimensions, 1), -1)
        step[axis : axis + 1] = dimensions
        place, there = _find(codes.of(_wrap(keys + step)), points)
        around[axis, :count, 1] = torch.where(there, place, count)
        around[axis, place[there], 2] = itself[:count][there]
    return around


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, lattice: Lattice, reverse: bool) -> Tensor:  # noqa: ANN401 (PyTorch's own)
        ctx.lattice, ctx.reverse = lattice, reverse
        return lattice.filter(values, reverse)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        apply: Any = _Filter.apply
        return apply(gradient.contiguous(), ctx.lattice, not ctx.reverse), None, None


def filter_pixels(lattice: Lattice, values: Tensor) -> Tensor:
    """Filter the pixels' values on their lattice. Shapes: (pixels, channels) -> the same. Gradient: to the values."""
    apply: Any = _Filter.apply
    filtered: Tensor = apply(values, lattice, False)
    return filtered


@dataclass(frozen=True)
class PixelFilter:
    """A filter on a lattice, divided by what it makes of ones.

    Attributes:
        lattice: the pixels' lattice.
        norm: (pixels, 1), one over the filtered ones.
    """

    lattice: Lattice
    norm: Tensor

    @classmethod
    def of(cls, features: Tensor) -> PixelFilter:
        """Build the filter of the pixels' features. Shapes: (d, pixels)."""
        lattice = Lattice.of(features)
        ones = torch.ones(features.shape[1], 1, device=features.device)
        return cls(lattice, 1 / (lattice.filter(ones) + _LEAST))

    def __call__(self, values: Tensor) -> Tensor:
        """Filter values. Shapes: (pixels, channels) -> the same. Gradient: to the values."""
        return filter_pixels(self.lattice, values) * self.norm.to(values.dtype)
