"""The ways to compute a 2-D convolution that this machine and PyTorch have: one result, other times.

`WAYS` holds them by name. `ConvolveBy` takes the place of `F.conv2d` in a layer and computes by the ways it is given;
where one does not apply to the bottom at hand, it computes as PyTorch does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, ...]

PLAIN = "oneDNN"  # what F.conv2d does; on other machines PyTorch may have another name for it


@dataclass(frozen=True)
class Window:
    """How a convolution's window moves: stride, pad and dilation as (height, width), and the number of groups."""

    stride: Pair
    pad: Pair
    dilation: Pair
    group: int

    @property
    def is_dense(self) -> bool:
        """Whether the window goes over every place, without holes, and reads all channels."""
        return set(self.stride) == set(self.dilation) == {1} and self.group == 1

    def reach(self, weight: Tensor) -> Pair:
        """Return how far the last tap of a window is from its first."""
        return tuple(step * (size - 1) for step, size in zip(self.dilation, weight.shape[2:], strict=True))


class Way:
    """One way to convolve, and to find the gradients: what PyTorch does, unless a subclass has another arithmetic.

    parts: what a subclass computes in its own way: forward, bottom (its gradient), weight (its gradient).
    on_gpu: whether it is a way there, too.
    """

    name: ClassVar[str] = PLAIN
    parts: ClassVar[frozenset[str]] = frozenset({"forward", "bottom", "weight"})
    on_gpu: ClassVar[bool] = False

    def applies(self, bottom: Tensor, weight: Tensor, window: Window) -> bool:
        """Whether the way takes these."""
        return True

    def convolve(self, bottom: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
        """Return the top. Shapes: (N, C, H, W), (O, C / group, kernel) -> (N, O, h, w)."""
        return F.conv2d(bottom, weight, bias, window.stride, window.pad, window.dilation, window.group)

    def convolve_relu(self, bottom: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
        """Return the top after a ReLU, which the layer ReLU computes alike."""
        return F.leaky_relu(self.convolve(bottom, weight, bias, window), 0.0, inplace=True)

    def bottom_gradient(self, top: Tensor, bottom: Tensor, weight: Tensor, window: Window) -> Tensor:
        """Return the bottom's gradient; top: the gradient of the top."""
        return _gradients(top, bottom, weight, window, (True, False))[0]

    def weight_gradient(self, top: Tensor, bottom: Tensor, weight: Tensor, window: Window) -> Tensor:
        """Return the weight's gradient; top: the gradient of the top."""
        return _gradients(top, bottom, weight, window, (False, True))[1]


def _gradients(
    top: Tensor, bottom: Tensor, weight: Tensor, window: Window, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """The gradients of bottom and weight as PyTorch finds them; those that are not wanted are None."""
    first, second, _ = torch.ops.aten.convolution_backward(
        top, bottom, weight, None, window.stride, window.pad, window.dilation, False, [0, 0], window.group,
        [*wanted, False],
    )  # fmt: skip
    return first, second


class _ChannelsLast(Way):
    name = "channels last"
    parts = frozenset({"forward", "bottom"})
    on_gpu = True

    def convolve(self, bottom: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
        return super().convolve(_to_channels_last(bottom), _to_channels_last(weight), bias, window)

    def bottom_gradient(self, top: Tensor, bottom: Tensor, weight: Tensor, window: Window) -> Tensor:
        top, bottom, weight = (_to_channels_last(blob) for blob in (top, bottom, weight))
        return super().bottom_gradient(top, bottom, weight, window)


def _to_channels_last(blob: Tensor) -> Tensor:
    return blob.contiguous(memory_format=torch.channels_last)


class _Nnpack(Way):
    """Winograd's convolution for 3x3 and Fourier's for larger ones, by the NNPACK that is in PyTorch's CPU wheels."""

    name = "NNPACK"
    parts = frozenset({"forward", "bottom"})

    def applies(self, bottom: Tensor, weight: Tensor, window: Window) -> bool:
        return window.is_dense and all(1 < size <= 16 for size in weight.shape[2:]) and has_nnpack()

    def convolve(self, bottom: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
        pad = list(window.pad)
        if any(size >= kernel for size, kernel in zip(pad, weight.shape[2:], strict=True)):  # NNPACK refuses these
            bottom, pad = F.pad(bottom, (pad[1], pad[1], pad[0], pad[0])), [0, 0]
        # NNPACK has its quick arithmetic for one image.
        tops = [
            torch._nnpack_spatial_convolution(image, weight.contiguous(), bias, pad, [1, 1])  # noqa: SLF001
            for image in torch.split(bottom.contiguous(), 1)
        ]
        return tops[0] if len(tops) == 1 else torch.cat(tops)

    def bottom_gradient(self, top: Tensor, bottom: Tensor, weight: Tensor, window: Window) -> Tensor:
        pad = tuple(reach - pad for reach, pad in zip(window.reach(weight), window.pad, strict=True))
        if min(pad) < 0:
            return super().bottom_gradient(top, bottom, weight, window)
        turned = weight.flip(2, 3).transpose(0, 1)
        return self.convolve(top, turned, None, Window(window.stride, pad, window.dilation, 1))


@lru_cache
def has_nnpack() -> bool:
    """Whether PyTorch's NNPACK is there, runs on this processor, and is right. It is not a public operator."""
    try:
        if not torch._nnpack_available():  # noqa: SLF001 (the first call starts it)
            return False
        generator = torch.Generator().manual_seed(0)
        bottom, weight = (torch.rand(shape, generator=generator) for shape in ((1, 4, 9, 10), (5, 4, 3, 3)))
        with torch.no_grad():
            top = torch._nnpack_spatial_convolution(bottom, weight, None, [1, 1], [1, 1])  # noqa: SLF001
        return torch.allclose(top, F.conv2d(bottom, weight, padding=1), rtol=1e-4, atol=1e-4)
    except (AttributeError, RuntimeError, TypeError):
        return False


class Gemm(Way):
    """The values under each window as columns, and one product of matrices, as Caffe does."""

    name = "im2col and GEMM"
    parts = frozenset({"forward", "bottom", "weight"})

    def applies(self, bottom: Tensor, weight: Tensor, window: Window) -> bool:
        return window.group == 1 and not self._is_pointwise(weight, window)

    def _is_pointwise(self, weight: Tensor, window: Window) -> bool:
        return window.is_dense and not any(window.pad) and set(weight.shape[2:]) == {1}

    def columns(self, bottom: Tensor, weight: Tensor, window: Window) -> Tensor:
        """Return the columns. Shapes: (N, C, H, W) -> (N, C kernel, h w)."""
        return F.unfold(bottom, weight.shape[2:], window.dilation, window.pad, window.stride)

    def bottom_of(self, columns: Tensor, bottom: Tensor, weight: Tensor, window: Window) -> Tensor:
        """Return the bottom whose places sum what the columns hold of them."""
        return F.fold(columns, bottom.shape[2:], weight.shape[2:], window.dilation, window.pad, window.stride)

    def convolve(self, bottom: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
        sizes = [
            (size + 2 * pad - reach - 1) // stride + 1
            for size, pad, reach, stride in zip(
                bottom.shape[2:], window.pad, window.reach(weight), window.stride, strict=True
            )
        ]
        # No views: a layer in place may follow.
        top = bottom.new_empty(len(bottom), len(weight), *sizes)
        matrix, columns = weight.flatten(1), self.columns(bottom, weight, window)
        for place, image in zip(top.flatten(2), columns, strict=True):
            if bias is None:
                torch.mm(matrix, image, out=place)
            else:
                torch.addmm(bias[:, None], matrix, image, out=place)
        return top

    def bottom_gradient(self, top: Tensor, bottom: Tensor, weight: Tensor, window: Window) -> Tensor:
        return self.bottom_of(weight.flatten(1).t() @ top.flatten(2), bottom, weight, window)

    def weight_gradient(self, top: Tensor, bottom: Tensor, weight: Tensor, window: Window) -> Tensor:
        pairs = zip(top.flatten(2), self.columns(bottom, weight, window), strict=True)
        parts = [gradient @ columns.t() for gradient, columns in pairs]
        return (parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)).reshape(weight.shape)


class _PointwiseGemm(Gemm):
    name = "1x1 as GEMM"

    def applies(self, bottom: Tensor, weight: Tensor, window: Window) -> bool:
        return self._is_pointwise(weight, window)

    def columns(self, bottom: Tensor, weight: Tensor, window: Window) -> Tensor:
        return bottom.flatten(2)

    def bottom_of(self, columns: Tensor, bottom: Tensor, weight: Tensor, window: Window) -> Tensor:
        return columns.reshape(bottom.shape)


class _Bfloat16(Way):
    name = "bfloat16"
    parts = frozenset({"forward"})

    def applies(self, bottom: Tensor, weight: Tensor, window: Window) -> bool:
        return has_bfloat16()

    def convolve(self, bottom: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
        bias = None if bias is None else bias.bfloat16()
        return super().convolve(bottom.bfloat16(), weight.bfloat16(), bias, window).float()


@lru_cache
def has_bfloat16() -> bool:
    """Whether the processor computes with bfloat16; on others oneDNN takes seconds for what takes milliseconds."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
    except (AttributeError, RuntimeError):
        return False


class Remade:
    """A value made of a weight, which is made again when the weight has changed.

    A change is seen where PyTorch counts it: in-place operations and other tensors are, writes through `.data` or a
    NumPy view are not.
    """

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make
        self.kept: tuple[tuple[object, ...], Any] | None = None  # the state of the weight, and the value

    def __call__(self, weight: Tensor, *more: object) -> Any:  # noqa: ANN401 (what `make` gives)
        state = (weight.data_ptr(), None if weight.is_inference() else weight._version, *more)  # noqa: SLF001
        kept = self.kept  # threads that run one net may ask for different values
        if kept is None or kept[0] != state:
            kept = self.kept = (state, self.make(weight.detach(), *more))
        return kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"make": self.make, "kept": None}  # a packed weight cannot be copied


class Prepacked(Way):
    """oneDNN with the weight kept in the layout that oneDNN likes. The top is in channels last."""

    name = "oneDNN prepacked"
    parts = frozenset({"forward"})

    def __init__(self) -> None:
        self.packed = Remade(_pack)

    def applies(self, bottom: Tensor, weight: Tensor, window: Window) -> bool:
        return has_pointwise()

    def convolve(self, bottom: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
        return self._convolve(bottom, weight, bias, window, "none")

    def convolve_relu(self, bottom: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
        return self._convolve(bottom, weight, bias, window, "relu")

    def _convolve(self, bottom: Tensor, weight: Tensor, bias: Tensor | None, window: Window, after: str) -> Tensor:
        return _convolve_pointwise(bottom, self.packed(weight, window, tuple(bottom.shape)), bias, window, after)


def _pack(weight: Tensor, window: Window, shape: tuple[int, ...]) -> Tensor:
    reorder: Callable[..., Tensor] = torch._C._nn.mkldnn_reorder_conv2d_weight  # noqa: SLF001
    return reorder(weight.to_mkldnn(), window.pad, window.stride, window.dilation, window.group, shape)


def _convolve_pointwise(bottom: Tensor, weight: Tensor, bias: Tensor | None, window: Window, after: str) -> Tensor:
    """Convolve by the operator that torch.compile calls, which can do a ReLU at once and knows no gradient."""
    top: Tensor = torch.ops.mkldnn._convolution_pointwise(  # noqa: SLF001
        bottom, weight, None if bias is None else bias.detach(), window.pad, window.stride, window.dilation,
        window.group, after, [], "",
    )  # fmt: skip
    return top


@lru_cache
def has_pointwise() -> bool:
    """Whether PyTorch has oneDNN's operators for inference, and they are right. They are not public."""
    return _try_pointwise(lambda top, wanted: bool((top - wanted).abs().max() <= 1e-5 * wanted.max()))


@lru_cache
def packs_to_the_bit() -> bool:
    """Whether packed weights give on this processor what others give, to the bit: with AVX2 they do not."""
    return has_pointwise() and _try_pointwise(torch.equal)


def _try_pointwise(agree: Callable[[Tensor, Tensor], bool]) -> bool:
    window = Window((1, 1), (1, 1), (1, 1), 1)
    generator = torch.Generator().manual_seed(0)
    try:
        for shape in ((64, 64, 3, 3), (96, 128, 5, 5)):
            bottom = torch.randn(1, shape[1], 22, 23, generator=generator)
            weight = torch.randn(shape, generator=generator)
            with torch.no_grad():
                wanted = F.relu(F.conv2d(bottom, weight, padding=1))
                top = Prepacked().convolve_relu(bottom, weight, None, window)
            if not agree(top, wanted):
                return False
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True


_CLASSES = (Way, Prepacked, _ChannelsLast, _Nnpack, Gemm, _PointwiseGemm, _Bfloat16)
WAYS: dict[str, type[Way]] = {way.name: way for way in _CLASSES}


def ways_for(bottom: Tensor, weight: Tensor, window: Window, part: str, learns: bool = False) -> list[Way]:
    """Make the ways that compute a part of this convolution; the plain one is the first.

    Args:
        bottom: its bottom.
        weight: its weight.
        window: how it moves.
        part: forward, bottom or weight.
        learns: whether the weight changes in every step, so that packing it is no use.
    """
    ways = [way() for way in WAYS.values() if part in way.parts and not (learns and way is Prepacked)]
    return [way for way in ways if type(way) is Way or _is_usable(way, bottom, weight, window)]


def _is_ordinary(bottom: Tensor, weight: Tensor) -> bool:
    """Whether the ways know these: float32 on one device, which autocast leaves alone."""
    kind = bottom.device.type
    is_plain = bottom.ndim == 4 and all(
        blob.device.type == kind and blob.dtype == torch.float32 for blob in (bottom, weight)
    )
    return is_plain and kind in ("cpu", "cuda") and not torch.is_autocast_enabled(kind)


def _is_usable(way: Way, bottom: Tensor, weight: Tensor, window: Window) -> bool:
    return _is_ordinary(bottom, weight) and (way.on_gpu or not bottom.is_cuda) and way.applies(bottom, weight, window)


@dataclass
class ConvolveBy:
    """Convolves as `F.conv2d`, by chosen ways.

    forward: the way of a pass without gradients, and of one with them where `bottom` and `weight` are given.
    bottom, weight: the ways of the gradients; without them a pass with gradients is PyTorch's own.
    relu: whether a ReLU follows, as a part of it.
    """

    forward: Way
    bottom: Way | None = None
    weight: Way | None = None
    relu: bool = False

    def __call__(
        self, bottom: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, pad: Pair, dilation: Pair, group: int
    ) -> Tensor:
        window = Window(stride, pad, dilation, group)
        learns = torch.is_grad_enabled() and any(
            blob is not None and blob.requires_grad for blob in (bottom, weight, bias)
        )
        forward = self.forward if _is_usable(self.forward, bottom, weight, window) else Way()
        if learns and self.bottom is not None and _is_ordinary(bottom, weight):
            top: Tensor = _ByWays.apply(bottom, weight, bias, window, forward, self)  # type: ignore[no-untyped-call]
        elif learns:
            top = Way().convolve(bottom, weight, bias, window)
        else:
            return (forward.convolve_relu if self.relu else forward.convolve)(bottom, weight, bias, window)
        return F.leaky_relu(top, 0.0, inplace=True) if self.relu else top


class _ByWays(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        bottom: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        window: Window,
        forward: Way,
        chosen: ConvolveBy,
    ) -> Tensor:
        ctx.save_for_backward(bottom, weight)
        ctx.window, ctx.chosen = window, chosen
        return forward.convolve(bottom, weight, bias, window)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, top: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        bottom, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        found: list[Tensor | None] = [None, None, top.sum((0, 2, 3)) if wanted[2] else None]
        ways = [
            way if way is not None and _is_usable(way, bottom, weight, ctx.window) else Way()
            for way in (ctx.chosen.bottom, ctx.chosen.weight)
        ]
        if wanted[0]:
            found[0] = ways[0].bottom_gradient(top, bottom, weight, ctx.window)
        if wanted[1]:
            found[1] = ways[1].weight_gradient(top, bottom, weight, ctx.window)
        return (*found, None, None, None)


class DeconvolveDiagonal:
    """Deconvolves as `F.conv_transpose2d`: channel by channel where a weight has zeros between all other pairs."""

    def __init__(self) -> None:
        self.diagonal = Remade(_diagonal)

    def __call__(
        self,
        bottom: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Pair,
        pad: Pair,
        beyond: int,
        group: int,
        dilation: Pair,
    ) -> Tensor:
        learns = torch.is_grad_enabled() and (bottom.requires_grad or weight.requires_grad)
        diagonal = None if learns or group != 1 else self.diagonal(weight)
        if diagonal is not None:
            weight, group = diagonal, len(diagonal)
        return F.conv_transpose2d(bottom, weight, bias, stride, pad, beyond, group, dilation)


def _diagonal(weight: Tensor) -> Tensor | None:
    """The weight as one of a group a channel. Shapes: (C, C, kernel) -> (C, 1, kernel), or None."""
    if weight.shape[0] != weight.shape[1]:
        return None
    diagonal = weight.diagonal(0, 0, 1).movedim(-1, 0)[:, None].contiguous()
    is_all = torch.count_nonzero(weight) == torch.count_nonzero(diagonal)
    return diagonal if is_all else None
