"""Pooling with Caffe's rounding, and spatial pyramids of it."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, of_shape, register
from fcn_caffe.layers.gradients import is_finite
from fcn_caffe.layers.maxima import Windows, maxima
from fcn_caffe.proto import caffe_pb2

FLOAT_MAX = torch.finfo(torch.float32).max


def pooled_size(size: int, kernel: int, stride: int, pad: int, ceil: bool = True, clip: bool = False) -> int:
    """Return the output size of Caffe's pooling along one axis.

    Args:
        size: the bottom's size.
        kernel: the window's size.
        stride: the step from window to window.
        pad: the padding on each side.
        ceil: whether the number of windows is rounded up.
        clip: whether a last window that starts past the image is dropped; Caffe does so where either axis has pad.

    Source: Caffe PoolingLayer::Reshape. PyTorch's ceil_mode clips without pad too.
    """
    extent = size + 2 * pad - kernel
    out = (-(-extent // stride) if ceil else extent // stride) + 1
    if clip and (out - 1) * stride >= size + pad:
        out -= 1
    return out


@register("Pooling", tops=(1, 2), restrictions="4-D bottoms, as in Caffe")
class Pooling(Layer):
    """MAX, AVE or STOCHASTIC over windows; a second top of MAX holds the position of each maximum in its plane.

    STOCHASTIC draws one element of a window with probability in proportion to its value in train(), and takes their
    mean weighed by themselves in eval(); the elements should not be negative.

    Shapes: (N, C, H, W) -> (N, C, h, w) by `pooled_size`.
    Gradient: to the bottom; MAX sends it to the first maximum, STOCHASTIC in train() to the drawn element.
    Raises: LayerError for a kernel that is missing or given twice, a pad not smaller than the kernel, or a bottom that
    is not 4-D.
    Source: Caffe PoolingLayer.
    """

    fresh_top = True
    takes_in_place = False

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.pooling_param
        if bottoms[0].ndim != 4:
            raise self.error(f"needs a 4-D bottom (N x C x H x W), got {show(bottoms[0].shape)}.")
        self.stochastic = options.pool == caffe_pb2.PoolingParameter.STOCHASTIC
        self.maximum = options.pool == caffe_pb2.PoolingParameter.MAX
        if len(param.top) > 1 and not self.maximum:
            raise self.error("a second top (the mask) is only for pool: MAX.")
        self.whole: bool = options.global_pooling
        kernel_given = [name for name in ("kernel_size", "kernel_h", "kernel_w") if options.HasField(name)]
        if self.whole:
            if kernel_given:
                raise self.error("global_pooling takes the kernel from the bottom: take kernel_size out.")
            self.kernel = (0, 0)
        else:
            # Caffe takes kernel_size, though one of the others stands beside it.
            both = options.HasField("kernel_h") and options.HasField("kernel_w")
            if options.HasField("kernel_size") == both:
                raise self.error(
                    f"give kernel_size, or kernel_h and kernel_w; got {', '.join(kernel_given) or 'none'}."
                )
            self.kernel = (options.kernel_h, options.kernel_w) if both else (options.kernel_size, options.kernel_size)
        self.stride, self.pad = self._pair("stride", "stride_h", "stride_w"), self._pair("pad", "pad_h", "pad_w")
        if self.whole and (self.pad != (0, 0) or self.stride != (1, 1)):
            raise self.error("global_pooling needs pad 0 and stride 1.")
        if (not self.whole and min(self.kernel) < 1) or min(self.stride) < 1:
            raise self.error(f"kernel and stride must be at least 1, got {self.kernel} and {self.stride}.")
        if not self.whole and any(pad >= kernel for pad, kernel in zip(self.pad, self.kernel, strict=True)):
            raise self.error(f"pad {show(self.pad)} must be smaller than the kernel {show(self.kernel)}.")
        if self.stochastic and self.pad != (0, 0):
            raise self.error("pad is only for pool: MAX and AVE.")
        self.ceil = options.round_mode == caffe_pb2.PoolingParameter.CEIL

    def _pair(self, field: str, h: str, w: str) -> tuple[int, int]:
        options = self.param.pooling_param
        if options.HasField(h) or options.HasField(w):
            if options.HasField(field) or not (options.HasField(h) and options.HasField(w)):
                raise self.error(f"give {field}, or {h} and {w}, not both.")
            return getattr(options, h), getattr(options, w)
        return getattr(options, field), getattr(options, field)

    def _geometry(self, bottom: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the kernel and the output's size for a bottom; raise LayerError for one that does not fit."""
        if bottom.ndim != 4:
            raise self.error(f"needs a 4-D bottom (N x C x H x W), got {show(bottom.shape)}.")
        height, width = bottom.shape[2:]
        kernel = (height, width) if self.whole else self.kernel
        (kh, kw), (sh, sw), (ph, pw) = kernel, self.stride, self.pad
        clip = ph > 0 or pw > 0
        h, w = pooled_size(height, kh, sh, ph, self.ceil, clip), pooled_size(width, kw, sw, pw, self.ceil, clip)
        if h < 1 or w < 1:
            raise self.error(
                f"bottom {show(bottom.shape)} is smaller than the kernel {show(kernel)}: the output would be empty."
            )
        return kernel, (h, w)

    def is_repeatable(self) -> bool:
        return not self.training  # backward follows what forward chose or drew

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        shape = (*bottoms[0].shape[:2], *self._geometry(bottoms[0])[1])
        return tuple(of_shape(*shape) for _ in self.param.top)

    def forward(self, bottom: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        (kernel, (h, w)), (height, width) = self._geometry(bottom), bottom.shape[2:]
        (kh, kw), (sh, sw), (ph, pw) = kernel, self.stride, self.pad
        # How far the last windows reach beyond the bottom, below and on the right; negative if they end before.
        below, right = (h - 1) * sh + kh - ph - height, (w - 1) * sw + kw - pw - width
        if self.maximum:
            return self._maximum(bottom, kernel, (below, right), (h, w))
        if self.stochastic:
            return self._stochastic(bottom, kernel, (below, right))
        return self._average(bottom, kernel, (below, right), (h, w))

    def _maximum(
        self, bottom: Tensor, kernel: tuple[int, int], beyond: tuple[int, int], size: tuple[int, int]
    ) -> Tensor | tuple[Tensor, Tensor]:
        masked = self.top_count > 1
        (ph, pw), (below, right) = self.pad, beyond
        if (h_fits := self._torch_rule(bottom, kernel, size)) and not masked:
            windows = Windows(kernel, self.stride, self.pad, size)
            if windows.suit(bottom):
                top = maxima(bottom, windows)
            else:
                top = F.max_pool2d(bottom, kernel, self.stride, self.pad, ceil_mode=h_fits == "ceil")
            if is_finite(top):
                return top
        # Padding of -inf is never a maximum, nor is a NaN; windows of nothing else give Caffe's -FLT_MAX.
        bottom = torch.where(bottom.isnan(), -torch.inf, bottom)
        padded = F.pad(bottom, (pw, right, ph, below), value=-torch.inf)
        top, place = F.max_pool2d(padded, kernel, self.stride, return_indices=True)
        empty = torch.isneginf(top)
        top = torch.where(empty, -FLOAT_MAX, top)
        if not masked:
            return top
        columns = padded.shape[3]
        mask = (place // columns - ph) * bottom.shape[3] + (place % columns - pw)
        return top, torch.where(empty, -1, mask).to(bottom.dtype)

    def _average(
        self, bottom: Tensor, kernel: tuple[int, int], beyond: tuple[int, int], size: tuple[int, int]
    ) -> Tensor:
        # PyTorch counts padding in the divisor and clips windows to the padded extent as Caffe does.
        if rule := self._torch_rule(bottom, kernel, size):
            return F.avg_pool2d(bottom, kernel, self.stride, self.pad, ceil_mode=rule == "ceil", count_include_pad=True)
        (ph, pw), (below, right) = self.pad, beyond
        padded = F.pad(bottom, (pw, right, ph, below))
        total = F.avg_pool2d(padded, kernel, self.stride, divisor_override=1)
        divisor = [
            torch.tensor(
                [min(i * s - p + k, extent + p) - (i * s - p) for i in range(out)],
                dtype=bottom.dtype,
                device=bottom.device,
            )
            for k, s, p, extent, out in zip(kernel, self.stride, self.pad, bottom.shape[2:], size, strict=True)
        ]
        return total / (divisor[0][:, None] * divisor[1])

    def _stochastic(self, bottom: Tensor, kernel: tuple[int, int], beyond: tuple[int, int]) -> Tensor:
        (kh, kw), (sh, sw), (below, right) = kernel, self.stride, beyond
        padded = F.pad(bottom, (0, max(right, 0), 0, max(below, 0)))
        windows = padded.unfold(2, kh, sh).unfold(3, kw, sw).flatten(4)  # N x C x h x w x (kh kw)
        if not self.training:
            tiny = torch.finfo(bottom.dtype).tiny  # Caffe's sum starts with it, so that a window of zeros gives 0
            total = windows.sum(-1) + tiny
            return torch.where(total > 0, windows.square().sum(-1) / total, 0)
        running = windows.detach().cumsum(-1)
        threshold = (1 - torch.rand_like(running[..., :1])) * running[..., -1:]
        reached = running >= threshold
        # argmax of booleans: the first element at which the running sum reaches the threshold.
        return windows.gather(-1, reached.to(torch.uint8).argmax(-1, keepdim=True))[..., 0]

    def _torch_rule(self, bottom: Tensor, kernel: tuple[int, int], size: tuple[int, int]) -> str | None:
        """Return the PyTorch rounding that gives Caffe's size, "floor" or "ceil", or None where neither does."""
        if any(2 * pad > k for pad, k in zip(self.pad, kernel, strict=True)):
            return None
        if self.ceil and (self.pad != (0, 0) or all(k >= s for k, s in zip(kernel, self.stride, strict=True))):
            return "ceil"  # the same rule at every size: both clip, or no window can start past the image
        for rule in ("floor", "ceil"):
            sizes = []
            for extent, k, s, p in zip(bottom.shape[2:], kernel, self.stride, self.pad, strict=True):
                out = pooled_size(extent, k, s, p, rule == "ceil")
                # PyTorch drops a last window that starts past the image, with or without pad.
                sizes.append(out - (rule == "ceil" and (out - 1) * s >= extent + p))
            if tuple(sizes) == size:
                return rule
        return None


@register("SPP", restrictions="4-D bottoms, as in Caffe")
class SPP(Layer):
    """Spatial pyramid pooling: the bottom pooled into 1, 2x2, 4x4 … bins, flattened and joined.

    Level i pools windows of ceil(H / 2^i) x ceil(W / 2^i), padded evenly to 2^i of them.
    Shapes: (N, C, H, W) -> (N, C (1 + 4 + 16 + …)) for pyramid_height levels; of one level (N, C, 1, 1).
    Gradient: to the bottom, as Pooling.
    Raises: LayerError for a pyramid without levels, or with more bins than the bottom fills.
    Source: Caffe SPPLayer.
    """

    takes_in_place = False

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        if param.spp_param.pyramid_height < 1:
            raise self.error(f"pyramid_height must be at least 1, got {param.spp_param.pyramid_height}.")
        self.pools: dict[tuple[int, ...], list[Pooling]] = {}  # of the last bottom's shape; they hold no parameters
        self._levels(bottoms[0])

    def _levels(self, bottom: Tensor) -> list[Pooling]:
        """Return the pooling of each level for a bottom's size."""
        if (shape := tuple(bottom.shape)) not in self.pools:
            self.pools = {shape: self._make_levels(bottom)}
        return self.pools[shape]

    def _make_levels(self, bottom: Tensor) -> list[Pooling]:
        if bottom.ndim != 4:
            raise self.error(f"needs a 4-D bottom (N x C x H x W), got {show(bottom.shape)}.")
        pools = []
        for level in range(self.param.spp_param.pyramid_height):
            param = caffe_pb2.LayerParameter(name=self.name, type="Pooling", top=["level"])
            options = param.pooling_param
            options.pool = self.param.spp_param.pool
            for axis, size in (("h", bottom.shape[2]), ("w", bottom.shape[3])):
                kernel = -(-size // 2**level)
                pad = (kernel * 2**level - size + 1) // 2
                if pad >= kernel:
                    raise self.error(
                        f"level {level} needs {2**level} bins over {size} elements of axis {axis}, and some would be "
                        "empty. Use a smaller pyramid_height or a larger bottom."
                    )
                for field, value in (("kernel", kernel), ("stride", kernel), ("pad", pad)):
                    setattr(options, f"{field}_{axis}", value)
            pools.append(Pooling(param, bottom))
        return pools

    def infer(self, *bottoms: Tensor) -> Tensor:
        pools = self._levels(bottoms[0])
        if len(pools) == 1:
            return pools[0].infer(bottoms[0])[0]
        sizes = [prod(pool.infer(bottoms[0])[0].shape[1:]) for pool in pools]
        return of_shape(bottoms[0].shape[0], sum(sizes))

    def forward(self, bottom: Tensor) -> Tensor:
        levels: list[Tensor] = [pool.train(self.training)(bottom) for pool in self._levels(bottom)]
        return levels[0] if len(levels) == 1 else torch.cat([level.flatten(1) for level in levels], 1)
