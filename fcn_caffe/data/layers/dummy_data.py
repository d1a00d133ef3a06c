"""DummyData: tops that fillers fill."""

from __future__ import annotations

import torch
from torch import Tensor

from fcn_caffe.layers.base import Layer, register
from fcn_caffe.layers.fillers import check_filler, fill
from fcn_caffe.proto import caffe_pb2

_LEGACY = ("num", "channels", "height", "width")


@register("DummyData", bottoms=0, tops=(1, None))
class DummyData(Layer):
    """Tops of given shapes, filled by fillers: a constant filler fills once, any other at every forward.

    Shapes: () -> `shape`, or the old num, channels, height and width; one for all tops, or one each. Fillers too;
    without one tops are zero. Random fillers use torch's random state.
    Raises: LayerError for another number of shapes or fillers, shape together with num, an unknown filler.
    Source: Caffe DummyDataLayer.
    """

    remembers = True

    untraced = "constants are kept between forwards"

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options, count = param.dummy_data_param, len(param.top)
        fillers = list(options.data_filler) or [caffe_pb2.FillerParameter()]
        if len(fillers) not in (1, count):
            raise self.error(f"{len(fillers)} data_filler for {count} tops: give none, one for all, or one each.")
        for filler in fillers:
            check_filler(filler)
        self.fillers = fillers * (count if len(fillers) == 1 else 1)
        self.shapes = self._shapes(options, count)
        for index, (filler, shape) in enumerate(zip(self.fillers, self.shapes, strict=True)):
            if filler.type == "constant":
                # A buffer moves with the net to its device, and is not saved as a weight.
                self.register_buffer(f"top{index}", torch.full(shape, filler.value, device="cpu"), persistent=False)

    def _shapes(self, options: caffe_pb2.DummyDataParameter, count: int) -> list[tuple[int, ...]]:
        sizes = {name: list(getattr(options, name)) for name in _LEGACY}
        if not any(sizes.values()):
            shapes = [tuple(shape.dim) for shape in options.shape]
            if len(shapes) not in (1, count) or not shapes:
                raise self.error(f"{len(shapes)} shape for {count} tops: give one for all, or one each.")
            return shapes * (count if len(shapes) == 1 else 1)
        if options.shape:
            raise self.error("has shape and the old num, channels, height or width: keep shape only.")
        for name, values in sizes.items():
            if not values or len(values) not in (1, count):
                raise self.error(f"{len(values)} {name} for {count} tops: give one for all, or one each.")
        return [tuple(values[index % len(values)] for values in sizes.values()) for index in range(count)]

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty(shape, device="meta") for shape in self.shapes)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.make_top(index) for index in range(len(self.shapes)))

    def constants(self) -> list[Tensor | None]:
        """Return the tops that are filled once and kept, with None in the places of the others."""
        return [self._buffers.get(f"top{index}") for index in range(self.top_count)]

    def make_top(self, index: int) -> Tensor:
        """Return one top: the constant that is kept, or new random numbers."""
        constant: Tensor | None = self._buffers.get(f"top{index}")
        if constant is not None:
            return constant
        blob = torch.empty(self.shapes[index], device="cpu")
        fill(blob, self.fillers[index])
        return blob
