"""Pooling of regions of interest: Fast R-CNN's ROIPooling, R-FCN's PSROIPooling."""

from __future__ import annotations

from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, check_indices, of_shape, register
from fcn_caffe.proto import caffe_pb2

Range = tuple[Tensor, Tensor]  # the first place, and the one behind the last
_Table = tuple[Tensor, Tensor | None]  # maxima, and where each is

_THINNEST = 0.1  # PSROIPooling: the least height and width of a region


class _RegionLayer(Layer):
    """Base of layers that take a map and regions: (picture, x1, y1, x2, y2), in pixels of the picture."""

    undifferentiable = (1,)
    takes_in_place = False

    def _check(self, bottom: Tensor, regions: Tensor) -> None:
        if bottom.ndim != 4 or regions.ndim < 2 or regions.numel() != regions.shape[0] * 5:
            raise self.error(
                f"bottoms are {show(bottom.shape)} and {show(regions.shape)}: give a map N x C x H x W, and R x 5 "
                f"regions (picture, x1, y1, x2, y2)."
            )

    def _pictures(self, bottom: Tensor, regions: Tensor) -> Tensor:
        """Return the picture of each region. Shapes: (R). Raises: LayerError where there is no such picture."""
        pictures = regions[:, 0].long()
        check_indices(self, pictures, bottom.shape[0], "the pictures of the batch")
        return pictures


@register("ROIPooling", bottoms=2, forks="Fast R-CNN, Faster R-CNN, R-FCN", restrictions="2-D maps")
class ROIPooling(_RegionLayer):
    """Divide each region into pooled_h x pooled_w bins and take each bin's maximum.

    A region's corners are rounded to places of the map, halves away from zero, and belong to it. Bins overlap where
    they do not end at a place; they are cut off at the map's border, and an empty one gives 0.

    Shapes: map (N, C, H, W), regions (R, 5) or (R, 5, 1, 1) -> (R, C, pooled_h, pooled_w).
    Units: spatial_scale, places of the map for a pixel of the picture.
    Gradient: to the map, to the place of the maximum, the first in row order of equals; none to the regions.
    Raises: LayerError for pooled_h or pooled_w of 0, other shapes, or a region of a picture that is not there.
    Source: Fast R-CNN's ROIPoolingLayer.
    """

    untraced = "which tables it makes depends on the regions"

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.roi_pooling_param
        self.pooled = (options.pooled_h, options.pooled_w)
        if min(self.pooled) < 1:
            raise self.error(f"pooled_h is {self.pooled[0]} and pooled_w {self.pooled[1]}: give both, above 0.")
        self.scale: float = options.spatial_scale

    def infer(self, *bottoms: Tensor) -> Tensor:
        self._check(*bottoms)
        return of_shape(bottoms[1].shape[0], bottoms[0].shape[1], *self.pooled)

    def forward(self, bottom: Tensor, regions: Tensor) -> Tensor:
        self._check(bottom, regions)
        regions = regions.detach().reshape(-1, 5)
        pictures = self._pictures(bottom, regions)
        corners = _round(regions[:, 1:] * self.scale)
        columns = _bins(corners[:, 0], corners[:, 2], self.pooled[1], bottom.shape[3])
        rows = _bins(corners[:, 1], corners[:, 3], self.pooled[0], bottom.shape[2])
        largest, places = _bin_maxima(bottom.detach(), pictures, rows, columns, bottom.requires_grad)
        if places is not None:
            largest = bottom.permute(0, 2, 3, 1).reshape(-1, bottom.shape[1]).gather(0, places)
        empty = (rows[0] == rows[1])[:, :, None] | (columns[0] == columns[1])[:, None]
        top = largest.view(*empty.shape, bottom.shape[1]).masked_fill(empty[..., None], 0)
        return top.permute(0, 3, 1, 2).contiguous()


def _round(values: Tensor) -> Tensor:
    """Round, halves away from zero, as C's round does."""
    whole = values.trunc()
    return whole + ((values - whole).abs() >= 0.5) * values.sign()


def _bins(first: Tensor, last: Tensor, count: int, size: int) -> Range:
    """Return the first place of each bin and the one behind its last, cut off at the map's border.

    Shapes: (R), (R) -> (R, count) twice, whole numbers.
    """
    width = (last - first + 1).clamp(min=1) / count
    steps = torch.arange(count + 1, dtype=width.dtype, device=width.device)
    edges = width[:, None] * steps
    start = (edges[:, :-1].floor() + first[:, None]).clamp(0, size).long()
    return start, torch.maximum((edges[:, 1:].ceil() + first[:, None]).clamp(0, size).long(), start)


def _bin_maxima(
    bottom: Tensor, pictures: Tensor, rows: Range, columns: Range, with_places: bool
) -> tuple[Tensor, Tensor | None]:
    """Find the maximum of each bin, out of four rectangles whose sides are powers of 2.

    A table holds the maximum of each rectangle of 2^i x 2^j places; a bin of other sides is covered by four of them,
    which overlap. So a bin costs four look-ups, however large it is.

    Shapes: (N, C, H, W), (R), (R, h) twice, (R, w) twice -> (R h w, C), and of their places in (N H W) the same, which
    are None where they are not asked for.
    """
    values = bottom.permute(0, 2, 3, 1).contiguous()
    count = bottom.shape[0] * bottom.shape[2] * bottom.shape[3]
    numbers = torch.arange(count, device=bottom.device).view(*values.shape[:3], 1)
    tall: _Table = (values, numbers.expand_as(values) if with_places else None)
    heights, widths = _halvings(rows)[:, :, None], _halvings(columns)[:, None]
    largest = values.new_empty(pictures.numel() * rows[0].shape[1] * columns[0].shape[1], bottom.shape[1])
    places = torch.empty_like(largest, dtype=torch.long) if with_places else None
    for height in range(int(heights.amax()) + 1 if heights.numel() else 0):
        if height:
            tall = _double(tall, 1, 1 << height - 1)
        table = tall
        for width in range(int(widths.amax()) + 1):
            if width:
                table = _double(table, 2, 1 << width - 1)
            region, row, column = ((heights == height) & (widths == width)).nonzero(as_tuple=True)
            if len(region):
                top, left = rows[0][region, row], columns[0][region, column]
                bottom_edge = rows[1][region, row] - (1 << height)
                right = columns[1][region, column] - (1 << width)
                found = _look_up(table, pictures[region], (top, bottom_edge), (left, right))
                bins = (region * rows[0].shape[1] + row) * columns[0].shape[1] + column
                largest[bins] = found[0]
                if places is not None and found[1] is not None:
                    places[bins] = found[1]
    return largest, places


def _halvings(places: Range) -> Tensor:
    """Return the largest power of 2 that each length holds, as an exponent; 0 for an empty one."""
    length = (places[1] - places[0]).clamp(min=1)
    return torch.frexp(length.float()).exponent - 1


def _larger(first: _Table, second: _Table) -> _Table:
    """Return the larger of each two numbers, of equals the one whose place is first."""
    (value, place), (other, elsewhere) = first, second
    if place is None or elsewhere is None:
        return torch.maximum(value, other), None
    better = (other > value) | ((other == value) & (elsewhere < place))
    return torch.where(better, other, value), torch.where(better, elsewhere, place)


def _double(table: _Table, axis: int, length: int) -> _Table:
    """Make the table of rectangles that are twice as long along an axis."""
    count = table[0].shape[axis] - length

    def part(start: int) -> _Table:
        return table[0].narrow(axis, start, count), None if table[1] is None else table[1].narrow(axis, start, count)

    return _larger(part(0), part(length))


def _look_up(table: _Table, pictures: Tensor, rows: Range, columns: Range) -> _Table:
    """Return the largest of the four rectangles that begin at these rows and columns. Shapes: (bins) -> (bins, C)."""
    _, height, width, channels = table[0].shape
    flat = [None if part is None else part.reshape(-1, channels) for part in table]
    best: _Table | None = None
    for row in rows:
        for column in columns:
            # an empty bin may begin behind the border
            index = (pictures * height + row.clamp(0, height - 1)) * width + column.clamp(0, width - 1)
            values, places = (None if part is None else part[index] for part in flat)
            assert values is not None
            best = (values, places) if best is None else _larger(best, (values, places))
    assert best is not None
    return best


@register("PSROIPooling", bottoms=2, forks="R-FCN")
class PSROIPooling(_RegionLayer):
    """Divide each region into g x g bins; bin (i, j) of output o is a mean over channel (o g + i) g + j.

    A region's corners are rounded to pixels, halves away from zero, before they are scaled, and belong to it. A bin
    goes from the place where it begins to the one where it ends, both whole; it is cut off at the map's border, and an
    empty one gives 0.

    Shapes: map (N, output_dim g g, H, W), regions (R, 5) or (R, 5, 1, 1) -> (R, output_dim, g, g); g: group_size.
    Units: spatial_scale, places of the map for a pixel of the picture.
    Gradient: to the map; none to the regions.
    Raises: LayerError where an option is missing, for other shapes, or a region of a picture that is not there.
    Source: R-FCN's PSROIPoolingLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.psroi_pooling_param
        self.outputs, self.group, self.scale = options.output_dim, options.group_size, options.spatial_scale
        for name in ("spatial_scale", "output_dim", "group_size"):
            if not 0 < getattr(options, name) < inf:
                raise self.error(f"psroi_pooling_param needs {name}, a finite number above 0.")
        self._check(*bottoms)

    def _check(self, bottom: Tensor, regions: Tensor) -> None:
        super()._check(bottom, regions)
        wanted = self.outputs * self.group**2
        if bottom.shape[1] != wanted:
            raise self.error(
                f"bottom {show(bottom.shape)} has {bottom.shape[1]} channels: output_dim {self.outputs} and group_size "
                f"{self.group} want {wanted}."
            )

    def infer(self, *bottoms: Tensor) -> Tensor:
        self._check(*bottoms)
        return of_shape(bottoms[1].shape[0], self.outputs, self.group, self.group)

    def forward(self, bottom: Tensor, regions: Tensor) -> Tensor:
        self._check(bottom, regions)
        regions = regions.detach().reshape(-1, 5)
        pictures = self._pictures(bottom, regions)[:, None, None, None]
        corners = _round(regions[:, 1:])
        first, last = corners[:, :2] * self.scale, (corners[:, 2:] + 1) * self.scale
        left, right = (edge[:, None, None, :] for edge in self._edges(first[:, 0], last[:, 0], bottom.shape[3]))
        top, under = (edge[:, None, :, None] for edge in self._edges(first[:, 1], last[:, 1], bottom.shape[2]))
        output, row, column = (torch.arange(count, device=bottom.device) for count in (self.outputs, *[self.group] * 2))
        channel = (output[:, None, None] * self.group + row[:, None]) * self.group + column
        # sums of all places above and left of each; in float64, as differences of large sums are small
        sums = F.pad(bottom.double().cumsum(2).cumsum(3), (1, 0, 1, 0))

        def sum_before(y: Tensor, x: Tensor) -> Tensor:
            return sums[pictures, channel, y, x]

        total = sum_before(under, right) - sum_before(top, right) - sum_before(under, left) + sum_before(top, left)
        area = ((under - top) * (right - left)).clamp(min=1)
        return (total / area).to(bottom.dtype)

    def _edges(self, first: Tensor, last: Tensor, size: int) -> Range:
        """Return where each bin begins and ends, cut off at the map's border. Shapes: (R), (R) -> (R, g) twice."""
        width = (last - first).clamp(min=_THINNEST) / self.group
        steps = torch.arange(self.group + 1, dtype=width.dtype, device=width.device)
        edges = width[:, None] * steps + first[:, None]
        start = edges[:, :-1].floor().clamp(0, size).long()
        return start, torch.maximum(edges[:, 1:].ceil().clamp(0, size).long(), start)
