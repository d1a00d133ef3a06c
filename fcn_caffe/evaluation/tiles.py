"""When an image is run part by part, and what becomes of the parts: classes, counted or written as they come."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from torch import Tensor

from fcn_caffe.errors import DataError, GraphError
from fcn_caffe.host.free_memory import free_bytes, show_bytes
from fcn_caffe.layers.loss import SoftmaxWithLoss
from fcn_caffe.net.memory import forward_bytes
from fcn_caffe.net.net import Net
from fcn_caffe.net.runner import Shape, Step
from fcn_caffe.net.strips import Piece, Span, Strips

__all__ = [
    "RunningLoss",
    "batch_that_fits",
    "check_whole",
    "loss_steps",
    "parts",
    "read_part",
    "refuse_batch",
    "source_blobs",
]

WHOLE = 2 << 30  # bytes: an image that takes more is run in parts, which takes no longer and a third of this
BUDGET = 1 << 30  # bytes


def parts(
    net: Net, sources: Mapping[str, Shape], wanted: Sequence[str], tile: int | None = None, beside: int = 0
) -> Strips | None:
    """Return the run in parts of images of a size; None where it is run whole.

    Args:
        net: a net in eval().
        sources: the shapes of the blobs that come from no layer's bottoms.
        wanted: the blobs of scores.
        tile: how many columns to run at once at most; 0 for never in parts. By default it is run in parts where a whole
            run would take more than 2 GiB, or than is free.
        beside: how many bytes the answers take, which come to be there meanwhile.
    Raises:
        GraphError: it is to be run in parts, and a layer looks further than to neighbours.
        DataError: it would not fit into memory whole, and cannot be run in parts.
    """
    if tile == 0 or not wanted:
        check_whole(net, sources, beside)
        return None
    free = free_bytes(net.device)
    if free is not None:
        free = max(0, free - beside)
    budget = BUDGET if free is None else min(BUDGET, free // 2)
    if tile is not None:
        return Strips(net, sources, wanted, budget, tile)
    need = forward_bytes(net, sources)
    if need <= (WHOLE if free is None else min(WHOLE, free)):
        return None
    try:
        return Strips(net, sources, wanted, budget)
    except GraphError as error:
        if free is None or need <= free:
            return None
        raise DataError(
            f"net '{net.name}': this image takes about {show_bytes(need)}, {show_bytes(free)} are free, and it cannot "
            f"be run in parts: {error} Use a smaller image, or free some memory."
        ) from error


def check_whole(net: Net, sources: Mapping[str, Shape], beside: int = 0) -> None:
    """Raise DataError for images that would take more than is free, run whole; arguments as for `parts`."""
    free = free_bytes(net.device)
    if free is None or (need := forward_bytes(net, sources) + beside) <= free:
        return
    raise DataError(
        f"net '{net.name}': this image, run whole, takes about {show_bytes(need)}, {show_bytes(free)} are free. Use a "
        "smaller image, leave out what has it run whole (--tile 0, --crf, pictures of scores), or free some memory."
    )


def batch_that_fits(net: Net, blob: str, image: Shape, most: int) -> int:
    """Return how many images of a size, at most `most`, take no more than 2 GiB, or than is free; at least one.

    Args:
        net: a net in eval().
        blob: its input.
        image: the shape of one image, C x H x W.
        most: how many at most.
    """
    free = free_bytes(net.device)
    limit = WHOLE if free is None else min(WHOLE, free)

    def need(count: int) -> int:
        return forward_bytes(net, {blob: (count, *image)})

    if need(most) <= limit:
        return most
    return max(1, bisect_right(range(1, most), limit, key=need))


def refuse_batch(net: Net) -> None:
    """Raise DataError where a net's answer for an image depends on the others of its batch."""
    for step in net.steps:
        if not step.layer.is_repeatable():
            raise DataError(
                f"{step.node} counts over its batch, so that images run together would change each other's answers. "
                "Leave out --batch."
            )


def source_blobs(net: Net) -> dict[str, Tensor]:
    """Run the layers without bottoms alone; return their tops."""
    runner = net.runner()
    blobs: dict[str, Tensor] = {}
    for step in net.steps:
        if not step.bottoms:
            blobs.update(zip(step.tops, runner.source(step), strict=False))
    return blobs


def read_part(blob: Tensor, rows: Span, columns: Span) -> Tensor:
    """Return some rows and columns of a blob N x C x H x W."""
    return blob[:, :, rows[0] : rows[1], columns[0] : columns[1]]


class RunningLoss:
    """A SoftmaxWithLoss over all of an image, summed up from its parts.

    Args:
        step: the loss's step.
    """

    def __init__(self, step: Step) -> None:
        assert isinstance(step.layer, SoftmaxWithLoss)
        self.step, self.layer = step, step.layer
        self.total, self.valid, self.places, self.images = 0.0, 0, 0, 0

    def add(self, run: Strips, piece: Piece, label: Tensor) -> None:
        """Add a part, with its labels (N, 1, rows, columns)."""
        loss = run.call_layer(self.step, [piece.values, label])[0]
        ignored = self.layer.ignore_label
        valid = label.numel() if ignored is None else int((label.long() != ignored).sum())
        places = label.numel() // label.shape[0]
        self.total += float(loss) * float(self.layer.normalizer(valid, label.shape[0], places))
        self.images = label.shape[0]
        self.valid += valid
        self.places += places

    def value(self) -> float:
        """Return the loss of all parts."""
        return self.total / float(self.layer.normalizer(self.valid, self.images, self.places))


def loss_steps(net: Net, losses: Sequence[str], wanted: Sequence[str]) -> dict[str, Step] | None:
    """Return the step of each loss blob; None where one is no softmax loss of a wanted blob and of given labels."""
    given = {name for step in net.steps if not step.bottoms for name in step.tops}
    steps = {name: step for step in net.steps for name in step.tops if name in losses}
    for step in steps.values():
        softmax = isinstance(step.layer, SoftmaxWithLoss) and len(step.tops) == 1 and step.layer.dim == 1
        if not softmax or step.bottoms[0] not in wanted or step.bottoms[1] not in given:
            return None
    return steps
