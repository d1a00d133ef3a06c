"""Weight fillers with Caffe's fan rules."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fcn_caffe.errors import LayerError
from fcn_caffe.host.text import show
from fcn_caffe.proto import caffe_pb2


def _constant(blob: Tensor, filler: caffe_pb2.FillerParameter) -> None:
    blob.fill_(filler.value)


def _uniform(blob: Tensor, filler: caffe_pb2.FillerParameter) -> None:
    blob.uniform_(filler.min, filler.max)


def _gaussian(blob: Tensor, filler: caffe_pb2.FillerParameter) -> None:
    blob.normal_(filler.mean, filler.std)
    if filler.sparse >= 0:
        # Each weight stays with probability sparse / outputs; the outputs are shape[0].
        outputs = _outputs(blob, filler)
        if filler.sparse > outputs:
            raise LayerError(f"sparse {filler.sparse} is more than the blob's {outputs} outputs: give it less.")
        blob.mul_(torch.bernoulli(torch.full_like(blob, filler.sparse / outputs)))


def _positive_unitball(blob: Tensor, filler: caffe_pb2.FillerParameter) -> None:
    flat = blob.uniform_(0, 1).view(_outputs(blob, filler), -1)
    flat.div_(flat.sum(1, keepdim=True))


def _outputs(blob: Tensor, filler: caffe_pb2.FillerParameter) -> int:
    """Return the size of the first axis."""
    if blob.ndim == 0:
        raise LayerError(f"filler type {filler.type!r} is for blobs with axes, not for a single value. Use constant.")
    return blob.shape[0]


def _fan(blob: Tensor, filler: caffe_pb2.FillerParameter) -> float:
    fan_in = blob.numel() / _outputs(blob, filler)
    fan_out = blob.numel() / blob.shape[1] if blob.ndim > 1 else blob.numel()
    return (fan_in, fan_out, (fan_in + fan_out) / 2)[filler.variance_norm]


def _xavier(blob: Tensor, filler: caffe_pb2.FillerParameter) -> None:
    bound = math.sqrt(3 / _fan(blob, filler))
    blob.uniform_(-bound, bound)


def _msra(blob: Tensor, filler: caffe_pb2.FillerParameter) -> None:
    blob.normal_(0, math.sqrt(2 / _fan(blob, filler)))


def _bilinear(blob: Tensor, filler: caffe_pb2.FillerParameter) -> None:
    if blob.ndim != 4 or blob.shape[2] != blob.shape[3]:
        raise LayerError(f"the bilinear filler needs a square 4-D blob, got {show(blob.shape)}.")
    blob.copy_(bilinear_kernel(blob.shape[2]).to(blob))


def bilinear_kernel(size: int) -> Tensor:
    """Return the bilinear interpolation kernel of an upsampling deconvolution.

    Shapes: size -> (size, size), float64.
    Source: Caffe BilinearFiller; FCN's upsample_filt gives the same numbers.
    """
    factor = (size + 1) // 2
    center = (size - 1) / (2 * factor)
    line = 1 - torch.abs(torch.arange(size, dtype=torch.float64) / factor - center)
    return line[:, None] * line[None, :]


FILLERS: dict[str, Callable[[Tensor, caffe_pb2.FillerParameter], None]] = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
}


def check_filler(filler: caffe_pb2.FillerParameter | None) -> None:
    """Raise LayerError for a filler type that Caffe does not have, or for options that the type does not take."""
    if filler is None:
        return
    if filler.type not in FILLERS:
        raise LayerError(f"filler type {filler.type!r} is unknown. Known: {', '.join(sorted(FILLERS))}.")
    for field, value in filler.ListFields():
        if isinstance(value, float) and not math.isfinite(value):
            raise LayerError(f"a filler's {field.name} must be a finite number, got {value:g}.")
    if filler.type != "gaussian" and filler.sparse != -1:
        raise LayerError(f"filler type {filler.type!r} cannot be sparse, only gaussian can: take `sparse` out.")
    if filler.type == "gaussian" and filler.std <= 0:
        raise LayerError(f"a gaussian filler's std must be above 0, got {filler.std:g}: for one value use constant.")
    if filler.type == "uniform" and filler.min > filler.max:
        raise LayerError(f"a uniform filler's min {filler.min:g} is above its max {filler.max:g}. Swap them.")
    if filler.type == "uniform" and filler.max - filler.min > torch.finfo(torch.float32).max:
        raise LayerError(
            f"a uniform filler's min {filler.min:g} and max {filler.max:g} are further apart than numbers go. Give "
            "smaller ones."
        )


def fill(blob: Tensor, filler: caffe_pb2.FillerParameter | None) -> None:
    """Fill a blob in place, from torch's random state; None fills it with zeros, which is Caffe's default.

    Source: Caffe filler.hpp; fan-in is count / shape[0], fan-out count / shape[1].

    Raises:
        LayerError: as `check_filler` says; or bilinear on a blob that is not square and 4-D.
    """
    with torch.no_grad():
        if filler is None:
            blob.zero_()
            return
        check_filler(filler)
        FILLERS[filler.type](blob, filler)


def is_zero_filler(filler: caffe_pb2.FillerParameter | None) -> bool:
    """Whether a filler fills with zeros, as Caffe's default does."""
    if filler is None or (filler.type == "constant" and filler.value == 0):
        return True
    return bool(filler.type == "uniform" and filler.min == filler.max == 0)
