"""Which layer's gradient PyTorch has no deterministic way to compute, where `--deterministic` asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcn_caffe.errors import LayerError
from fcn_caffe.net.runner import Runner, Step

if TYPE_CHECKING:
    from fcn_caffe.net.net import Net

__all__ = ["naming_the_layer"]


class _Marker(Runner):
    """Notes each step whose top has its gradient, as the backward pass comes to it."""

    def __init__(self, net: Net) -> None:
        super().__init__(net)
        self.reached: list[Step] = []

    def run_step(self, step: Step, bottoms: list[Tensor]) -> Sequence[Tensor]:
        tops = super().run_step(step, bottoms)
        for top in tops:
            if top.requires_grad:
                top.register_hook(self._note(step))  # type: ignore[no-untyped-call]
        return tops

    def _note(self, step: Step) -> Callable[[Tensor], None]:
        return lambda gradient: self.reached.append(step)


@contextmanager
def naming_the_layer(net: Net) -> Iterator[None]:
    """Let an error of the backward pass in the block name its layer, where PyTorch has no deterministic way.

    A net has no word in the backward pass, so the layer is found by a second pass, which notes how far it comes.

    Raises:
        LayerError: PyTorch has none.
    """
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        marker = _Marker(net)
        blobs = marker.run({}, frozenset(net.loss_weights))
        try:
            torch.stack([blobs[top].sum() for top in net.loss_weights]).sum().backward()  # type: ignore[no-untyped-call]
        except RuntimeError:
            node = marker.reached[-1].node
            what = str(error).partition(". ")[0]
            raise LayerError(
                f"--deterministic asks for what PyTorch does not have in the layer's backward: {what}. Train without "
                "--deterministic, or on the CPU.",
                node.name,
                node.type,
            ) from error
        raise
