"""Runs a net in training with less memory: parts run again for their gradients, or convolutions in bfloat16."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcn_caffe.host.free_memory import give_back_freed
from fcn_caffe.layers.norm import BatchNorm
from fcn_caffe.net.memory import infer_shapes, kept_bytes, shape_bytes
from fcn_caffe.net.runner import Blob, Runner, Step

if TYPE_CHECKING:
    from fcn_caffe.net.net import Net

__all__ = ["Segment", "Thrift", "TrainingRunner", "cut_segments", "keeping_statistics"]

# Layers that keep the 8 bits of a bfloat16 as they are, or that autocast runs in it. All others get float32.
_HALF = {
    *("BorderCopy", "Concat", "Convolution", "Crop", "Deconvolution", "Dropout", "Eltwise", "InnerProduct", "Pooling"),
    *("ReLU", "Silence", "Slice", "Split"),
}
# Layers that are not repeatable, but whose second run can be made like the first: random states are put back.
_DRAWS = {"BatchNorm", "Dropout", "Pooling"}

BOUNDS = 24  # how many sizes of the largest segment are tried


@dataclass(frozen=True)
class Segment:
    """Consecutive steps. bottoms: the blobs they read from before; tops: those they leave behind.

    repeats: whether only these are kept for backward, and the steps run again there.
    """

    steps: tuple[Step, ...]
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    repeats: bool


class Thrift:
    """What a net's `make_runner` is set to for training in less memory.

    Args:
        checkpoint: run parts of the net again for their gradients, in place of keeping their blobs.
        half: run convolutions and inner products in bfloat16.
    """

    def __init__(self, checkpoint: bool = False, half: bool = False) -> None:
        self.checkpoint, self.half = checkpoint, half
        self._steps: Sequence[Step] = ()
        self._segments: tuple[Segment, ...] = ()

    def __call__(self, net: Net) -> TrainingRunner:
        """Return a runner for one pass."""
        if self.checkpoint and self._steps is not net.steps:
            self._steps, self._segments = net.steps, cut_segments(net)
        return TrainingRunner(net, segments=self._segments, half=self.half)


class TrainingRunner(Runner):
    """A Runner of a training net.

    Args:
        net: the net.
        segments: the net's steps, see `cut_segments`; none runs all steps once.
        half: run convolutions and inner products in bfloat16, losses and all that is not known to bear it in float32.
    """

    def __init__(self, net: Net, *, segments: Sequence[Segment] = (), half: bool = False) -> None:
        super().__init__(net)
        self.segments, self.half = segments, half

    def run(self, inputs: Mapping[str, Blob], keep: frozenset[str] = frozenset()) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16) if self.half else nullcontext():
            blobs = super().run(inputs, keep)
        return {name: _full(blob) for name, blob in blobs.items()}

    def run_steps(self, steps: Sequence[Step], blobs: dict[str, Tensor], keep: Set[str]) -> None:
        if not self.segments or not torch.is_grad_enabled():
            super().run_steps(steps, blobs, keep)
            return
        from torch.utils.checkpoint import checkpoint  # it takes a second to import

        for segment in self.segments:
            if not segment.repeats:
                super().run_steps(segment.steps, blobs, keep)
                continue
            tops = dict.fromkeys(
                (*segment.tops, *(name for step in segment.steps for name in step.tops if name in keep))
            )
            run = partial(self._run_segment, segment, tuple(tops), keep, [])
            made = checkpoint(run, *(blobs[name] for name in segment.bottoms), use_reentrant=False)
            blobs.update(zip(tops, made, strict=True))
            for name in {name for step in segment.steps for name in step.frees} - keep:
                blobs.pop(name, None)

    def _run_segment(
        self, segment: Segment, tops: Sequence[str], keep: Set[str], runs: list[None], *bottoms: Tensor
    ) -> tuple[Tensor, ...]:
        """Run a segment; a run after the first leaves statistics as they are, so that each batch counts once."""
        is_again = bool(runs)
        if is_again and self.device.type == "cpu":
            give_back_freed()
        runs.append(None)
        blobs = dict(zip(segment.bottoms, bottoms, strict=True))
        with keeping_statistics(segment.steps) if is_again else nullcontext():
            super().run_steps(segment.steps, blobs, keep)
        return tuple(blobs[name] for name in tops)

    def call_layer(self, step: Step, bottoms: Sequence[Tensor]) -> Sequence[Tensor]:
        if self.half and step.layer.layer_type not in _HALF:
            bottoms = [_full(bottom) for bottom in bottoms]
        return super().call_layer(step, bottoms)


@contextmanager
def keeping_statistics(steps: Iterable[Step]) -> Iterator[None]:
    """Leave the statistics of batches as they are, which steps that run in the block would count."""
    layers = [step.layer for step in steps if isinstance(step.layer, BatchNorm)]
    before = [(blob, blob.detach().clone()) for layer in layers for blob in layer.blobs]
    try:
        yield
    finally:
        with torch.no_grad():
            for blob, values in before:
                blob.copy_(values)


def _full(blob: Tensor) -> Tensor:
    return blob.float() if blob.dtype == torch.bfloat16 else blob


# -- segments ------------------------------------------------------------------------------------------------------


def cut_segments(net: Net) -> tuple[Segment, ...]:
    """Cut a net's steps into segments, so that what they leave behind and the largest one take the least memory.

    Data layers, layers that change state and the last segment run once.
    """
    steps = net.steps
    shapes = infer_shapes(steps, net.blob_shapes)
    kept = [kept_bytes(step, tops) for step, tops in zip(steps, shapes, strict=True)]
    crossing = _crossing_bytes(steps, shapes)
    first = next((index for index, step in enumerate(steps) if _repeats(step)), len(steps))
    cuts = _best_cuts(kept, crossing, first)
    edges = [0, *cuts, len(steps)]
    return tuple(
        segment
        for position, (start, stop) in enumerate(pairwise(edges))
        for segment in _split(steps, start, stop, position < len(cuts))
    )


def _repeats(step: Step) -> bool:
    """Whether a step may run twice and give the same."""
    layer = step.layer
    same = layer.is_repeatable() or layer.layer_type in _DRAWS
    return bool(step.bottoms and step.tops) and same and layer.layer_type != "Python" and not step.changes


def _crossing_bytes(steps: Sequence[Step], shapes: Sequence[Sequence[tuple[int, ...]]]) -> list[int | None]:
    """Return for each place before a step the bytes of blobs that are alive there; None where one is then overwritten.

    What a segment reads must be as it was when the segment runs again.
    """
    sizes = {
        name: shape_bytes(shape)
        for step, tops in zip(steps, shapes, strict=True)
        for name, shape in zip(step.tops, tops, strict=False)
    }
    last_write = {name: index for index, step in enumerate(steps) for name in (*step.tops, *step.changes)}
    alive: set[str] = set()
    crossing: list[int | None] = []
    for index, step in enumerate(steps):
        rewritten = any(last_write[name] >= index for name in alive)
        crossing.append(None if rewritten else sum(sizes[name] for name in alive))
        alive.update(step.tops)
        alive.difference_update(step.frees)
    return crossing


def _best_cuts(kept: Sequence[int], crossing: Sequence[int | None], first: int) -> list[int]:
    """Return the places to cut at, of those before which nothing is overwritten later.

    For each bound on a segment's bytes the cuts that leave the least behind are found; the bound is chosen for which
    both together are least.
    """
    places = [index for index in range(first + 1, len(kept)) if crossing[index] is not None]
    total, starts = sum(kept[first:]), [first, *places]
    least = max((sum(kept[start:stop]) for start, stop in pairwise([*starts, len(kept)])), default=total)
    best, best_cuts = total, list[int]()
    for bound in (least, *(least + (total - least) * share // BOUNDS for share in range(1, BOUNDS))):
        found = _cuts_within(kept, crossing, starts, bound)
        if found is not None and found[0] + bound < best:
            best, best_cuts = found[0] + bound, found[1]
    return best_cuts


def _cuts_within(
    kept: Sequence[int], crossing: Sequence[int | None], places: Sequence[int], most: int
) -> tuple[int, list[int]] | None:
    """Return the least bytes left behind, and the cuts, where no segment keeps more than `most`; None if none are."""
    best: dict[int, tuple[int, list[int]]] = {places[0]: (0, [])}
    for stop in (*places[1:], len(kept)):
        options = [
            (left + (crossing[stop] or 0 if stop < len(kept) else 0), [*cuts, stop] if stop < len(kept) else cuts)
            for start, (left, cuts) in best.items()
            if sum(kept[start:stop]) <= most
        ]
        if options:
            best[stop] = min(options, key=lambda option: option[0])
    return best.get(len(kept))


def _split(steps: Sequence[Step], start: int, stop: int, repeats: bool) -> list[Segment]:
    """Return the segments between two cuts: steps that may not run twice are segments of their own."""
    groups: list[tuple[int, int, bool]] = []
    for index in range(start, stop):
        again = repeats and _repeats(steps[index])
        if groups and groups[-1][2] == again:
            groups[-1] = groups[-1][0], index + 1, again
        else:
            groups.append((index, index + 1, again))
    return [_segment(steps, *group) for group in groups]


def _segment(steps: Sequence[Step], start: int, stop: int, repeats: bool) -> Segment:
    mine = tuple(steps[start:stop])
    made: set[str] = set()
    bottoms: dict[str, None] = {}
    for step in mine:
        bottoms.update(dict.fromkeys(name for name in step.bottoms if name not in made))
        made.update(step.tops)
    freed = {name for step in mine for name in step.frees}
    return Segment(mine, tuple(bottoms), tuple(sorted(made - freed)), repeats)
