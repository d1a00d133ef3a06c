"""The maxima of windows as maxima of shifted views: the values of max_pool2d, which is slow on CPUs, in less time.

Where zeros are the largest, a top may have the other sign of zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

Pair = tuple[int, int]

SMALLEST = 1 << 16  # elements of a bottom; below, max_pool2d takes less time than the calls here
LARGEST_KERNEL = 3  # the time for winners grows with the kernel's area; at most 4, see _Maxima.forward
_BLOCK = 1 << 20  # elements of the bottom that are worked on at once, so that temporaries stay in the caches


@dataclass(frozen=True)
class Windows:
    """Where the windows of a pooling are, as pairs for height and width; each touches the bottom.

    size: how many windows there are.
    """

    kernel: Pair
    stride: Pair
    pad: Pair
    size: Pair

    def suit(self, bottom: Tensor) -> bool:
        """Whether `maxima` is quicker for them than max_pool2d, and no graph is being made, which gets one node."""
        return (
            bottom.device.type == "cpu"
            and not is_compiling()  # before the size is looked at, which would bind the graph to sizes like this one
            and bottom.numel() >= SMALLEST
            and max(self.kernel) <= LARGEST_KERNEL
            and bottom.is_contiguous()
            and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        )

    def shifts(self, axis: int, extent: int) -> Iterator[tuple[int, slice, slice]]:
        """Give each offset in a window, the windows in which it is inside the bottom, and the places that it is at."""
        kernel, stride, pad, size = self.kernel[axis], self.stride[axis], self.pad[axis], self.size[axis]
        for offset in range(kernel):
            first = max(0, -((offset - pad) // stride))
            end = min(size, (extent - 1 + pad - offset) // stride + 1)
            if first < end:
                start = first * stride - pad + offset
                yield offset, slice(first, end), slice(start, start + (end - first - 1) * stride + 1, stride)


def maxima(bottom: Tensor, windows: Windows) -> Tensor:
    """Return the largest value of each window; the first largest gets the gradient.

    Args:
        bottom: N x C x H x W, contiguous. A NaN makes its windows NaN.
        windows: where they are.
    """
    if bottom.requires_grad and torch.is_grad_enabled():
        apply: Any = _Maxima.apply
        top: Tensor = apply(bottom, windows)[0]
        return top
    top = bottom.new_empty((*bottom.shape[:2], *windows.size))
    for planes, tops in zip(_blocks(bottom, bottom), _blocks(top, bottom), strict=True):
        rows = planes.new_empty((len(planes), windows.size[0], planes.shape[2]))
        _write_maxima(rows.transpose(1, 2), planes.transpose(1, 2), windows, 0)
        _write_maxima(tops, rows, windows, 1)
    return top


def _write_maxima(top: Tensor, bottom: Tensor, windows: Windows, axis: int) -> None:
    """Write the maxima along the last axis, in which the windows are those of `axis`."""
    shifts = [(inside, bottom[..., places]) for _, inside, places in windows.shifts(axis, bottom.shape[-1])]
    (_, largest), *rest = sorted(shifts, key=lambda shift: -shift[1].shape[-1])
    if largest.shape != top.shape or not rest:  # a window has its border in the padding at each offset
        top.fill_(-torch.inf)
        largest, rest = top, shifts
    for inside, values in rest:
        torch.maximum(largest[..., inside], values, out=top[..., inside])
        if largest is not top:
            for outside in (slice(0, inside.start), slice(inside.stop, None)):
                top[..., outside] = largest[..., outside]
            largest = top


class _Maxima(torch.autograd.Function):
    @staticmethod
    def forward(bottom: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        """Return the maxima, and the winners: the place of each in its window, as row * 4 + column."""
        top = bottom.new_full((*bottom.shape[:2], *windows.size), -torch.inf)
        winners = torch.zeros(top.shape, dtype=torch.uint8)
        blocks = zip(_blocks(bottom, bottom), _blocks(top, bottom), _blocks(winners, bottom), strict=True)
        for planes, tops, firsts in blocks:
            for row, inside_h, places_h in windows.shifts(0, planes.shape[1]):
                for column, inside_w, places_w in windows.shifts(1, planes.shape[2]):
                    values, largest = planes[:, places_h, places_w], tops[:, inside_h, inside_w]
                    winner = firsts[:, inside_h, inside_w]
                    # The number of this place where it is larger than all before it, else 0.
                    wins = (values > largest).view(torch.uint8).mul_(row * 4 + column)
                    torch.maximum(winner, wins, out=winner)
                    torch.maximum(largest, values, out=largest)
        return top, winners

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Windows], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401
        bottom, ctx.windows = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])
        ctx.shape = bottom.shape

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (winners,), windows = ctx.saved_tensors, ctx.windows
        height, width = ctx.shape[2:]
        corners = [
            torch.arange(size) * stride - pad
            for size, stride, pad in zip(windows.size, windows.stride, windows.pad, strict=True)
        ]
        firsts = corners[0][:, None] * width + corners[1]
        bottom_gradient = gradient.new_zeros(ctx.shape)
        blocks = (_blocks(blob, bottom_gradient) for blob in (bottom_gradient, gradient, winners))
        for to_bottom, to_top, winner in zip(*blocks, strict=True):
            places = torch.add(firsts + winner, winner >> 2, alpha=width - 4)
            to_bottom.view(-1, height * width).scatter_add_(1, places.flatten(1), to_top.flatten(1))
        return bottom_gradient, None


def _blocks(blob: Tensor, bottom: Tensor) -> Iterator[Tensor]:
    """Give a blob's planes in blocks, as many planes in each as make a block of the bottom."""
    planes, count = blob.flatten(0, 1), max(1, _BLOCK // (bottom.shape[2] * bottom.shape[3]))
    for first in range(0, len(planes), count):
        yield planes[first : first + count]
