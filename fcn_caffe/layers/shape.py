"""Layers that change the shape of a blob and keep its values."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor
from torch.compiler import is_compiling

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, register
from fcn_caffe.proto import caffe_pb2


@register("Crop", bottoms=2)
class Crop(Layer):
    """Crop bottom[0] to the size of bottom[1], starting at `offset`.

    Shapes: (N, C, H, W), (*, *, h, w) -> (N, C, h, w); axes before `axis` are kept. bottom[1] may have more axes.
    Units: `offset` counts elements of bottom[0]; one for all cropped axes or one each.
    Gradient: to bottom[0] only.
    Raises: LayerError if offset + size exceeds bottom[0].
    Source: Caffe CropLayer.
    """

    undifferentiable = (1,)
    takes_in_place = False

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.crop_param
        self.first = self.axis(options.axis, bottoms[0])
        cropped = bottoms[0].ndim - self.first
        offsets = list(options.offset) or [0]
        if len(offsets) not in (1, cropped):
            raise self.error(f"{len(offsets)} offsets for {cropped} cropped axes: give one for all, or one each.")
        self.offsets = offsets * cropped if len(offsets) == 1 else offsets

    def forward(self, bottom: Tensor, reference: Tensor) -> Tensor:
        if reference.ndim < bottom.ndim:
            raise self.error(
                f"bottoms are {show(bottom.shape)} and {show(reference.shape)}: the second must have as many axes."
            )
        top = bottom
        for axis, offset in enumerate(self.offsets, self.first):
            size, have = reference.shape[axis], bottom.shape[axis]
            if offset + size > have:
                raise self.error(
                    f"axis {axis} needs offset {offset} + {size} = {offset + size}, "
                    f"'{self.param.bottom[0]}' has {have}."
                )
            if is_compiling() or size != have:  # a comparison would bind the graph to sizes with the same answer
                top = top.narrow(axis, offset, size)
        return top


@register("Flatten")
class Flatten(Layer):
    """Merge the axes from `axis` to `end_axis` into one.

    Shapes: (N, C, H, W) -> (N, C H W) by default; with end_axis one before `axis` a new axis of size 1 at `axis`.
    Gradient: to the bottom.
    Source: Caffe FlattenLayer.
    """

    takes_in_place = False

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.start = self.axis(param.flatten_param.axis, bottoms[0])
        self.end = self.axis(param.flatten_param.end_axis, bottoms[0])
        if self.end < self.start - 1:
            raise self.error(f"end_axis {self.end} comes before axis {self.start}. Swap them.")

    def forward(self, bottom: Tensor) -> Tensor:
        if self.end < self.start:
            return bottom.unsqueeze(self.start)  # no axis between them: the empty product
        return torch.flatten(bottom, self.start, self.end)


@register("Reshape")
class Reshape(Layer):
    """Give the `num_axes` axes from `axis` on a new shape: 0 copies the bottom's size, one -1 is inferred.

    Shapes: any -> of equal count.
    Gradient: to the bottom.
    Raises: LayerError for two -1, a 0 with no axis to copy, or another number of values than the bottom's.
    Source: Caffe ReshapeLayer.
    """

    takes_in_place = False

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options, axes = param.reshape_param, bottoms[0].ndim
        self.wanted = list(options.shape.dim)
        # A negative axis counts from one past the last: -1 appends.
        self.start = options.axis if options.axis >= 0 else axes + options.axis + 1
        if not 0 <= self.start <= axes:
            raise self.error(f"axis {options.axis} is out of range for a {axes}-D bottom.")
        if options.num_axes < -1:
            raise self.error(f"num_axes must be -1 (all) or more, got {options.num_axes}.")
        self.end = axes if options.num_axes == -1 else self.start + options.num_axes
        if self.end > axes:
            raise self.error(f"axis {self.start} and num_axes {options.num_axes} pass the end of a {axes}-D bottom.")
        if self.wanted.count(-1) > 1:
            raise self.error(f"shape {self.wanted} has more than one -1. Keep one.")
        if min(self.wanted, default=0) < -1:
            raise self.error(f"shape {self.wanted} has a size below -1. Correct it.")

    def forward(self, bottom: Tensor) -> Tensor:
        lead, middle, tail = bottom.shape[: self.start], bottom.shape[self.start : self.end], bottom.shape[self.end :]
        sizes = []
        for position, size in enumerate(self.wanted):
            if size == 0:
                if self.start + position >= bottom.ndim:
                    raise self.error(
                        f"dim {position} is 0 (copy), but the bottom {show(bottom.shape)} has no such axis."
                    )
                size = bottom.shape[self.start + position]
            sizes.append(size)
        if -1 in sizes:
            values, known = prod(middle), prod([size for size in sizes if size != -1])
            if known == 0:  # an axis without elements is copied: the others say
                values, known = (prod([size or 1 for size in part if size != -1]) for part in (middle, sizes))
            if values % known:
                raise self.error(f"cannot infer -1 in {self.wanted}: {values} values do not divide by {known}.")
            sizes[sizes.index(-1)] = values // known
        if prod(sizes) != prod(middle):
            raise self.error(
                f"shape {show(sizes)} does not hold the {prod(middle)} values of {show(middle)}. "
                "Correct a size, or set one to -1."
            )
        return bottom.reshape((*lead, *sizes, *tail))


@register("Tile")
class Tile(Layer):
    """Repeat the bottom `tiles` times along `axis`.

    Shapes: (N, C, H, W) -> (N, tiles C, H, W) by default.
    Gradient: to the bottom, summed over the copies.
    Raises: LayerError for fewer than 1 tiles.
    Source: Caffe TileLayer.
    """

    fresh_top = True
    takes_in_place = False

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.dim = self.axis(param.tile_param.axis, bottoms[0])
        self.tiles: int = param.tile_param.tiles
        if self.tiles < 1:
            raise self.error(f"tiles must be given and at least 1, got {self.tiles}.")

    def forward(self, bottom: Tensor) -> Tensor:
        return bottom.repeat(*(self.tiles if axis == self.dim else 1 for axis in range(bottom.ndim)))
