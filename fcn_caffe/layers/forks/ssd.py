"""What an SSD head is made of: Permute, Normalize, PriorBox."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, SameShapeLayer, of_shape, register
from fcn_caffe.layers.gradients import with_value
from fcn_caffe.proto import caffe_pb2

_SAME_RATIO = 1e-6
_HAPPYNEAR_EPS = 1e-6


@register("Permute", forks="SSD, happynear")
class Permute(Layer):
    """Reorder the axes: top axis i is bottom axis order[i]; axes that are not named follow in rising order.

    Shapes: (d0, d1, ...) -> (d_order[0], d_order[1], ...).
    Gradient: to the bottom.
    Raises: LayerError for an axis that is named twice or is not there.
    Source: SSD's PermuteLayer (weiliu89/caffe); happynear's is the same.
    """

    takes_in_place = False

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        named, axes = list(param.permute_param.order), bottoms[0].ndim
        if len(set(named)) < len(named) or any(axis >= axes for axis in named):
            listed = ", ".join(map(str, named))
            raise self.error(
                f"order is {listed}: give each axis of {show(bottoms[0].shape)} once, from 0 to {axes - 1}."
            )
        self.order = (*named, *(axis for axis in range(axes) if axis not in named))

    def forward(self, bottom: Tensor) -> Tensor:
        if bottom.ndim != len(self.order):
            raise self.error(
                f"bottom is {show(bottom.shape)}, the net was built for {len(self.order)} axes. Give it such a bottom."
            )
        return bottom.permute(self.order).contiguous()


@register(
    "Normalize",
    tops=(1, 2),
    forks="SSD; happynear's with normalize_param",
    restrictions="happynear's fix_gradient in TEST alone",
)
class Normalize(SameShapeLayer):
    """Divide by the norm over the channels: SSD's layer, or with normalize_param happynear's of the same name.

    SSD: x / sqrt(sum x² + eps) * scale, where the sum is over C at each place, or with across_spatial over C, H and W.
    happynear: x / sqrt(sum x² + 1e-6), or with "L1" x / (sum |x| + 1e-6), over C at each place; a second top is the
    norm.

    Shapes: (N, C, ...) -> the same; happynear's second top (N, 1, ...). SSD's blob scale: (), or (C) where not
    channel_shared.
    Gradient: to the bottom and the scale. SSD multiplies by the scale of each channel after it has projected the
    gradient, which is wrong where the scales differ; the `caffe` face gives that, training elsewhere the true one.
    happynear's norm passes a gradient on with bp_norm alone.
    Which one is meant: by the options; without any, a second top is happynear's, or the layer's `fork` says it.
    Raises: LayerError for a bottom without channels, an unknown normalize_type, options of both forks or of none, a
    second top of SSD's; and for happynear's fix_gradient in TRAIN, whose rule is not known here.
    Source: SSD's NormalizeLayer (weiliu89/caffe); NormalizeLayer of happynear/caffe-windows.
    """

    takes_in_place = False

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        if bottoms[0].ndim < 2:
            raise self.error(f"needs a bottom N x C x ..., got {show(bottoms[0].shape)}.")
        by_ssd = param.HasField("norm_param")
        if not by_ssd and not param.HasField("normalize_param") and param.fork not in ("ssd", "happynear"):
            raise self.ask_fork("ssd (over the picture, times a blob)", "happynear (over the channels, no blob)")
        self.happynear = param.HasField("normalize_param") or (param.fork == "happynear" and not by_ssd)
        if self.happynear:
            self._read_happynear(param.normalize_param)
            return
        options = param.norm_param
        if self.top_count > 1:
            raise self.error(
                "has two tops, and SSD's Normalize makes one. Drop the second, or write `normalize_param { }` for "
                "happynear's Normalize, whose second top is the norm."
            )
        self.axes = tuple(range(1, bottoms[0].ndim)) if options.across_spatial else (1,)
        self.eps: float = options.eps
        one = caffe_pb2.FillerParameter(type="constant", value=1)
        filler = options.scale_filler if options.HasField("scale_filler") else one
        self.add_blob("scale", () if options.channel_shared else bottoms[0].shape[1:2], filler)

    def _read_happynear(self, options: Any) -> None:  # noqa: ANN401 (a protobuf message)
        if self.param.HasField("norm_param"):
            raise self.error("has norm_param (SSD's) and normalize_param (happynear's): keep one.")
        if options.normalize_type not in ("L1", "L2"):
            raise self.error(f'normalize_type {options.normalize_type!r} is unknown. Known: "L1", "L2".')
        if options.fix_gradient and self.param.phase == caffe_pb2.TRAIN:
            raise self.error("fix_gradient: true changes the gradient by a rule that is not known here. Drop it.")
        self.linear = options.normalize_type == "L1"
        self.bp_norm: bool = options.bp_norm

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        shape = bottoms[0].shape
        return bottoms[0] if self.top_count == 1 else (bottoms[0], of_shape(shape[0], 1, *shape[2:]))

    def forward(self, bottom: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.happynear:
            if self.linear:
                norm = bottom.abs().sum(1, keepdim=True) + _HAPPYNEAR_EPS
            else:
                norm = (bottom.square().sum(1, keepdim=True) + _HAPPYNEAR_EPS).sqrt()
            top = bottom / norm
            return top if self.top_count == 1 else (top, norm if self.bp_norm else norm.detach())
        scale: Tensor = self.scale
        if scale.ndim == 0:
            return self._unit(bottom) * scale
        scale = scale.view(-1, *[1] * (bottom.ndim - 2))
        if not self.follows_caffe:
            return self._unit(bottom) * scale
        unit = self._unit(with_value(bottom * scale.detach(), bottom))  # its gradient is scaled behind the projection
        return with_value(unit + unit.detach() * scale, unit.detach() * scale)

    def _unit(self, bottom: Tensor) -> Tensor:
        return bottom / (bottom.square().sum(self.axes, keepdim=True) + self.eps).sqrt()


@register("PriorBox", bottoms=2, forks="SSD")
class PriorBox(Layer):
    """List the boxes that an SSD head refines: P at each place of a map, of the sizes and ratios that the options give.

    At a place, for each min_size m (with its max_size M): a square of m, a square of sqrt(m M) where there is an M, and
    for each ratio r but 1 a box m sqrt(r) x m / sqrt(r); with `flip` 1/r is another ratio. The fork keeps sizes as
    whole numbers, and cuts what is behind the point. Places are rows, then columns; a box's centre is (place + offset)
    times the step, which is the picture's size over the map's by default.

    Shapes: map (N, C, H, W), picture (N, *, h, w), of which the shapes are read alone -> (1, 2, H W P 4): row 1 holds
    xmin, ymin, xmax, ymax as parts of the picture's size, row 2 the variances.
    Units: min_size, max_size, step and img_size in pixels of the picture.
    Gradient: none.
    Raises: LayerError for sizes, ratios, variances or steps that are not above 0, a max_size for not every min_size or
    not above it, 2 or 3 variances, img_size beside img_h or img_w, step beside step_h or step_w, or only one of a pair.
    Source: SSD's PriorBoxLayer (weiliu89/caffe).
    """

    undifferentiable = (0, 1)
    takes_in_place = False

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.prior_box_param
        for bottom in bottoms:
            if bottom.ndim != 4:
                raise self.error(f"needs bottoms N x C x H x W, got {show(bottom.shape)}.")
        for name in ("min_size", "max_size", "aspect_ratio", "variance"):
            for value in getattr(options, name):
                if not value > 0:
                    raise self.error(f"{name} is {value:g}: give numbers above 0.")
        if not options.min_size:
            raise self.error("has no min_size: give the size of at least one square.")
        self.sizes = self._sizes(options)
        self.ratios = _list_ratios(options.aspect_ratio, options.flip)
        if len(options.variance) not in (0, 1, 4):
            raise self.error(f"{len(options.variance)} variances: give one for all, or four (xmin, ymin, xmax, ymax).")
        variances = list(options.variance) or [0.1]
        self.variances = variances * 4 if len(variances) == 1 else variances
        self.image_size = self._pair(options, "img_size", "img_h", "img_w")
        self.step = self._pair(options, "step", "step_h", "step_w")
        self.clip, self.offset = bool(options.clip), float(options.offset)

    def _sizes(self, options: Any) -> list[tuple[int, int | None]]:  # noqa: ANN401 (a protobuf message)
        """Return each min_size with its max_size, as whole numbers."""
        least, most = list(options.min_size), list(options.max_size)
        if most and len(most) != len(least):
            raise self.error(f"{len(most)} max_size for {len(least)} min_size: give one for each, or none.")
        for small, large in zip(least, most, strict=False):
            if not large > small:
                raise self.error(f"max_size {large:g} is not above its min_size {small:g}: give a larger one.")
        return [(int(small), int(most[place]) if most else None) for place, small in enumerate(least)]

    def _pair(self, options: Any, both: str, tall: str, wide: str) -> tuple[float, float] | None:  # noqa: ANN401
        """Return the height and width that options give as one number or as two; None where they give none."""
        given = [name for name in (both, tall, wide) if options.HasField(name)]
        if not given:
            return None
        if given not in ([both], [tall, wide]):
            raise self.error(f"has {' and '.join(given)}: give {both}, or {tall} with {wide}.")
        height, width = getattr(options, given[0]), getattr(options, given[-1])
        if not (height > 0 and width > 0):
            raise self.error(f"{' and '.join(given)} must be above 0.")
        return float(height), float(width)

    @property
    def _boxes(self) -> list[tuple[float, float]]:
        """Width and height of the boxes at one place, in pixels."""
        boxes = []
        for small, large in self.sizes:
            boxes.append((float(small), float(small)))
            if large is not None:
                boxes.append((math.sqrt(small * large),) * 2)
            boxes += [(small * math.sqrt(ratio), small / math.sqrt(ratio)) for ratio in self.ratios[1:]]
        return boxes

    def infer(self, *bottoms: Tensor) -> Tensor:
        return of_shape(1, 2, prod(bottoms[0].shape[2:]) * len(self._boxes) * 4)

    def forward(self, feature: Tensor, picture: Tensor) -> Tensor:
        size = feature.shape[2:]
        image = self.image_size or tuple(map(float, picture.shape[2:]))
        step = self.step or (image[0] / size[0], image[1] / size[1])
        kind: dict[str, Any] = {"dtype": torch.float64, "device": feature.device}
        rows, columns = (torch.arange(length, **kind) + self.offset for length in size)
        y, x = torch.meshgrid(rows * step[0], columns * step[1], indexing="ij")
        centre = torch.stack((x, y), -1)[:, :, None]
        half = torch.tensor(self._boxes, **kind) / 2
        corners = torch.cat((centre - half, centre + half), -1) / torch.tensor((image[1], image[0]) * 2, **kind)
        if self.clip:
            corners = corners.clamp(0, 1)
        variances = torch.tensor(self.variances, **kind).expand_as(corners)
        return torch.stack((corners.flatten(), variances.flatten()))[None].to(feature.dtype)


def _list_ratios(given: Sequence[float], flip: bool) -> list[float]:
    """Return 1 and the ratios that are not there yet, each with its inverse behind it where `flip` says so."""
    ratios = [1.0]
    for ratio in given:
        if all(abs(ratio - other) >= _SAME_RATIO for other in ratios):
            ratios += [ratio, 1 / ratio] if flip else [ratio]
    return ratios
