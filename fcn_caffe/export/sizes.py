"""Which sizes of inputs a net takes besides the declared: found by building it, without arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fcn_caffe.errors import FcnCaffeError
from fcn_caffe.export.quiet import quiet
from fcn_caffe.net.net import Net
from fcn_caffe.net.runner import Shape

__all__ = ["TakenSizes", "find_sizes"]

# Heights and widths to try, what is small and odd first; then what nets take whose sizes are to be multiples.
_SIZES = ((75, 100), (101, 83), (64, 96), (96, 64), (128, 160), (192, 128))
_STEPS = (16, 32, 64)  # from the declared sizes, where a net takes none of these


@dataclass(frozen=True)
class TakenSizes:
    """What a net takes.

    batches: whether it takes one image, and more than declared. pairs: two heights and widths other than the declared;
    fewer where it takes no others. traced: by input, what to trace the net at.
    """

    batches: bool
    pairs: tuple[tuple[int, int], ...]
    traced: Mapping[str, Shape]


def find_sizes(net: Net, inputs: Sequence[str]) -> TakenSizes:
    """Find out which sizes a net takes.

    Args:
        net: the net.
        inputs: its inputs; those of one number of images, and of one height and width, change together.
    """
    declared = {name: net.blob_shapes[name] for name in inputs}
    first = next((shape for shape in declared.values() if len(shape) == 4), next(iter(declared.values())))
    more, one = (_with_images(declared, first, count) for count in (first[0] + 1 if first else 1, 1))
    batches = _takes(net, more) and (one == declared or _takes(net, one))
    pairs: list[tuple[int, int]] = []
    # PyTorch takes a size of 1 as fixed, of any blob: a net is traced where few have it, at two images, and larger.
    traced = more if batches and first[:1] == (1,) else declared
    if len(first) == 4:
        stepped = [(first[2] + step, first[3] + 2 * step) for step in _STEPS]
        for pair in (*_SIZES, *stepped):
            if len(pairs) < 2 and pair != first[2:] and _takes(net, _resize(declared, first, pair)):
                pairs.append(pair)
        if len(pairs) == 2:
            larger = (_resize(traced, first, pair) for pair in reversed(stepped))
            traced = next((shapes for shapes in larger if _takes(net, shapes)), traced)
    return TakenSizes(batches, tuple(pairs), traced)


def _with_images(shapes: Mapping[str, Shape], first: Shape, count: int) -> dict[str, Shape]:
    """Give inputs of the first one's number of images another."""
    return {name: (count, *shape[1:]) if shape[:1] == first[:1] != () else shape for name, shape in shapes.items()}


def _resize(shapes: Mapping[str, Shape], first: Shape, pair: tuple[int, int]) -> dict[str, Shape]:
    """Give inputs of the first one's height and width others."""
    return {name: (*shape[:2], *pair) if shape[2:] == first[2:] else shape for name, shape in shapes.items()}


def _takes(net: Net, shapes: Mapping[str, Shape]) -> bool:
    """Whether a net with these weights can be built for inputs of these sizes."""
    try:
        with quiet("fcn_caffe.net"):
            twin = Net(net.param, net.phase, device="meta", input_shapes=dict(shapes))
    except FcnCaffeError:
        return False
    pairs = zip(net.learnable_params, twin.learnable_params, strict=True)
    return all(ours.blob.shape == theirs.blob.shape for ours, theirs in pairs)
