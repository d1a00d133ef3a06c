"""What a rewritten net is proved by: random inputs for both nets, and the largest difference of their blobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fcn_caffe.errors import WeightsError
from fcn_caffe.host.text import show
from fcn_caffe.net.net import Net
from fcn_caffe.net.runner import Shape

__all__ = ["SPREADS", "Difference", "compare", "random_inputs"]

# Standard deviations: of photographs less their mean the second, which saturates nets of sigmoids; hence the first.
SPREADS = (1.0, 64.0)


@dataclass(frozen=True)
class Difference:
    """The largest difference between a blob and that of the old net, and the old one's largest value."""

    blob: str
    difference: float
    largest: float

    @property
    def relative(self) -> float:
        """The difference divided by the largest value."""
        return self.difference / self.largest if self.largest else self.difference


def random_inputs(net: Net, shapes: Mapping[str, Shape], seed: int, spread: float) -> dict[str, Tensor]:
    """Return random numbers for a net's Input layers: one image each, where no Reshape fixes their number.

    Args:
        net: The net.
        shapes: The shape of each input, by name.
        seed: Starts the random numbers.
        spread: Their standard deviation.
    """
    generator = torch.Generator().manual_seed(seed)
    # A Reshape may fix the number of images; without one a single image says as much as a batch.
    fixed = any(node.type == "Reshape" for node in net.graph.nodes)
    sizes = {name: shapes[name] for name in net.graph.inputs}
    return {
        name: torch.randn(size if fixed else (1, *size[1:]), generator=generator) * spread
        for name, size in sizes.items()
    }


def compare(blob: str, expected: Tensor, actual: Tensor, tolerance: float, owner: str) -> Difference:
    """Return the difference of a blob in two nets.

    Args:
        blob: Its name.
        expected: The blob in the old net.
        actual: The blob in the new net.
        tolerance: How much of the old net's largest value it may be off by.
        owner: What messages call the old net's: "the classifier's".

    Raises:
        WeightsError: It has other sizes, is off by more, or not finite.
    """
    if expected.numel() != actual.numel():
        raise WeightsError(f"proof failed: '{blob}' is {show(actual.shape)}, {owner} {show(expected.shape)}.")
    expected, actual = expected.double().flatten(), actual.double().flatten()
    if not (expected.isfinite().all() and actual.isfinite().all()):
        raise WeightsError(f"proof failed: '{blob}' is not finite on a random image. Are the weights this net's?")
    largest = float(expected.abs().max())
    difference = Difference(blob, float((expected - actual).abs().max()), largest)
    if difference.relative > tolerance:
        raise WeightsError(
            f"proof failed: '{blob}' is off by {difference.difference:.3g} where {owner} largest is "
            f"{largest:.3g}. Nothing was written; please report this net."
        )
    return difference
