"""What a run takes in memory, part by part, known before it starts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fcn_caffe.data.layers.prefetched import PrefetchedLayer
from fcn_caffe.data.sets.one_image_layer import OneImageLayer
from fcn_caffe.host.free_memory import resident_bytes, show_bytes
from fcn_caffe.layers.base import Layer
from fcn_caffe.net.memory import forward_bytes, learned_bytes, shape_bytes, solver_bytes, training_bytes, update_bytes
from fcn_caffe.net.net import Net
from fcn_caffe.net.runner import Shape
from fcn_caffe.net.training_runner import Segment

__all__ = ["Demand", "forward_demand", "training_demand"]

# Measured with torch 2.13 on Linux, in bytes. A GPU's libraries take more.
_BASE = 240 << 20  # Python, torch and this package, where the system does not say what this process has
_OPTIMIZERS = 72 << 20  # what torch.optim imports with the first optimizer
_FIRST_PASS = 28 << 20  # what comes with the first pass: oneDNN's code, threads, autograd
_WORKER = 152 << 20  # a process that loads images


@dataclass(frozen=True)
class Demand:
    """What a run takes at its most, in bytes.

    Attributes:
        libraries: Python and what it has imported, oneDNN's own.
        weights: the blobs of the layers.
        gradients: of the weights that learn.
        history: what the update rule keeps of them.
        blobs: what layers make, its gradients and what their arithmetic takes besides.
        loading: the batches that are read ahead.
        workers: the processes that load images; they are not part of this process.
    """

    libraries: int = 0
    weights: int = 0
    gradients: int = 0
    history: int = 0
    blobs: int = 0
    loading: int = 0
    workers: int = 0

    @property
    def process(self) -> int:
        """What this process takes."""
        return self.total - self.workers

    @property
    def total(self) -> int:
        """What the run takes."""
        return sum(vars(self).values())

    def to_come(self, device: torch.device) -> int:
        """Return what the run takes on a device once the net is there and its weights are filled."""
        learning = self.gradients + self.history + self.blobs
        return learning + (self.loading + self.workers + _FIRST_PASS if device.type == "cpu" else 0)

    def __str__(self) -> str:
        return ", ".join(f"{name} {show_bytes(size)}" for name, size in vars(self).items() if size)


def training_demand(
    net: Net,
    solver_type: str,
    *,
    segments: Sequence[Segment] = (),
    sources: Mapping[str, Shape] | None = None,
    tests: Sequence[Net] = (),
    elsewhere: int = 0,
) -> Demand:
    """Return what the training of a net takes.

    Args:
        net: a train net, as it is run.
        solver_type: the solver's type, such as "SGD".
        segments: how it is cut for `--checkpoint`.
        sources: shapes of the tops of layers without bottoms, where they are not those that the net was built for.
        tests: the nets that are tested meanwhile, over the same weights.
        elsewhere: how many bytes of history other processes keep.
    """
    gradients = learned_bytes(net)
    passes = [training_bytes(net, segments, sources), update_bytes(net, solver_type), *map(forward_bytes, tests)]
    loads = [_loading(each, sources if each is net else None) for each in (net, *tests)]
    return Demand(
        _libraries(net, trains=True),
        _weights(net),
        gradients,
        solver_bytes(net, solver_type) - gradients - elsewhere,
        max(passes),
        *(sum(each) for each in zip(*loads, strict=True)),
    )


def forward_demand(net: Net, sources: Mapping[str, Shape] | None = None) -> Demand:
    """Return what one forward of a net takes.

    Args:
        net: a net in eval(), as it is run.
        sources: as in `training_demand`.
    """
    loading, workers = _loading(net, sources)
    return Demand(_libraries(net, trains=False), _weights(net), 0, 0, forward_bytes(net, sources), loading, workers)


def _weights(net: Net) -> int:
    return sum({id(item.blob): item.blob.numel() * item.blob.element_size() for item in net.learnable_params}.values())


def _libraries(net: Net, trains: bool) -> int:
    """What this process has without the net's weights, and what is still to be imported and compiled."""
    resident = resident_bytes()
    if resident is None:
        resident = _BASE
    elif net.device.type == "cpu":
        resident = max(_BASE, resident - _weights(net))
    return resident + _FIRST_PASS + (_OPTIMIZERS if trains and "torch._dynamo" not in sys.modules else 0)


def _loading(net: Net, sources: Mapping[str, Shape] | None) -> tuple[int, int]:
    """The bytes of batches that are read ahead, and of processes that read."""
    shapes = {**net.blob_shapes, **(sources or {})}
    batches = workers = 0
    for step in net.steps:
        if not step.bottoms:
            ahead, processes = _read_ahead(step.layer)
            batches += ahead * sum(shape_bytes(shapes[name]) for name in step.tops)
            workers += processes
    return batches, workers * _WORKER


def _read_ahead(layer: Layer) -> tuple[int, int]:
    """How many batches a data layer reads ahead, and with how many processes."""
    if isinstance(layer, PrefetchedLayer):
        return layer.depth, 0
    user = getattr(layer, "user", None)
    return (user.reads_ahead(), user.samples.workers) if isinstance(user, OneImageLayer) else (0, 0)
