"""Runs a net over an image of any size in little memory: from top to bottom, a few rows of each blob at a time.

Nothing is computed twice: each blob keeps the rows that its readers still need, as a stencil code keeps lines. An image
too wide for that is cut into columns as well, which overlap by what the net sees beyond them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcn_caffe.errors import GraphError
from fcn_caffe.host.free_memory import show_bytes
from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer
from fcn_caffe.layers.combine import Concat, Slice
from fcn_caffe.layers.conv import Convolution, Deconvolution
from fcn_caffe.layers.loss import Softmax
from fcn_caffe.layers.neuron import NEURON_TYPES
from fcn_caffe.layers.norm import LRN, BatchNorm
from fcn_caffe.layers.pooling import Pooling
from fcn_caffe.layers.shape import Crop
from fcn_caffe.net.runner import Runner, Shape, Step, infer_tops, make_steps

if TYPE_CHECKING:
    from fcn_caffe.net.net import Net

__all__ = ["Piece", "Span", "Strips"]

Span = tuple[int, int]  # the first row or column, and the one after the last
ReadSource = Callable[[Span, Span], Tensor]  # rows and columns of a source -> N x C x rows x columns

FLOAT = 4  # bytes
FEWEST_ROWS = 8  # of the largest blob in one go: with fewer, more time goes into copies than into arithmetic
NARROWEST = 64  # columns
LARGEST_CHUNK = 64 << 20  # bytes; more rows in one go save no more time

# Layers that compute each pixel of their top from the same pixel of their bottoms.
_POINTWISE = NEURON_TYPES | {"Eltwise", "Split"}
_POINTWISE_ALONE = {"Bias", "Scale"}  # with one bottom; a second one has shapes of its own


@dataclass(frozen=True)
class Piece:
    """A part of a wanted blob: its name, its place in the whole blob, and its values (N, C, rows, columns)."""

    blob: str
    rows: Span
    columns: Span
    values: Tensor


class _Same:
    """Which places of the bottom a span of places of the top reads, along one axis: here the same."""

    def __init__(self, bottom: int) -> None:
        self.bottom = bottom

    def reads(self, span: Span) -> Span:
        """Return the bottom's places."""
        return span

    def clip(self, first: int, last: int) -> Span:
        """Return the part of a span that is in the bottom; it may be empty."""
        return min(max(first, 0), self.bottom), max(0, min(last, self.bottom))


class _Shifted(_Same):
    """A Crop: `offset` places further."""

    def __init__(self, bottom: int, offset: int) -> None:
        super().__init__(bottom)
        self.offset = offset

    def reads(self, span: Span) -> Span:
        return span[0] + self.offset, span[1] + self.offset


class _Window(_Same):
    """A Convolution: windows of `kernel` places, `stride` apart, the first `pad` before the bottom."""

    def __init__(self, bottom: int, kernel: int, stride: int, pad: int) -> None:
        super().__init__(bottom)
        self.kernel, self.stride, self.pad = kernel, stride, pad

    def wants(self, span: Span) -> Span:
        """Return the places of the windows, also those outside of the bottom."""
        return span[0] * self.stride - self.pad, (span[1] - 1) * self.stride - self.pad + self.kernel

    def first_made(self, span: Span, given: Span) -> int:
        """Return the place of the top that comes out first where a layer is given what `span` reads."""
        return span[0]

    def reads(self, span: Span) -> Span:
        return self.clip(*self.wants(span))


class _Padding(_Window):
    """A Pooling or an LRN: it pads by itself, so it gets a start that is a whole number of strides, and more before."""

    def reads(self, span: Span) -> Span:
        return self.clip(self.first_made(span, span) * self.stride, self.wants(span)[1])

    def first_made(self, span: Span, given: Span) -> int:
        return max(0, span[0] + (-self.pad // self.stride))


class _Spread(_Window):
    """A Deconvolution: each place of the bottom is added to `kernel` places of the top, `stride` apart."""

    def reads(self, span: Span) -> Span:
        last = min((span[1] - 1 + self.pad) // self.stride, self.bottom - 1)
        first = -((self.kernel - 1 - span[0] - self.pad) // self.stride)
        return max(0, min(first, last)), last + 1

    def first_made(self, span: Span, given: Span) -> int:
        return given[0] * self.stride - self.pad


Rule = tuple[_Same, _Same]  # of rows and of columns


def _rule(layer: Layer, bottom: Shape, bottoms: int) -> Rule:
    """Return what a layer reads of its bottoms.

    Raises:
        GraphError: a pixel of its top depends on all of the bottom, or nobody knows on what.
    """
    height, width = bottom[2:] if len(bottom) == 4 else (0, 0)
    known: Rule | None = None
    if not height:
        pass
    elif isinstance(layer, Convolution | Deconvolution):
        kernel = [d * (k - 1) + 1 for k, d in zip(layer.kernel, layer.dilation, strict=True)]
        gaps = layer.transposed and any(k < s for k, s in zip(kernel, layer.stride, strict=True))
        if layer.channel_axis == 1 and not layer.by_taps and not gaps:
            known = _windows(_Spread if layer.transposed else _Window, bottom, kernel, layer.stride, layer.pad)
    elif isinstance(layer, Pooling):
        if not layer.whole and layer.top_count == 1:
            known = _windows(_Padding, bottom, layer.kernel, layer.stride, layer.pad)
    elif isinstance(layer, LRN) and layer.within:
        known = _windows(_Padding, bottom, [layer.size] * 2, [1, 1], [layer.size // 2] * 2)
    elif isinstance(layer, Crop):
        before = 2 - layer.first
        if before <= 0 or not any(layer.offsets[:before]):
            rows, columns = [0, 0, *layer.offsets][-2:]
            known = _Shifted(height, rows), _Shifted(width, columns)
    elif (
        layer.layer_type in _POINTWISE
        or (layer.layer_type in _POINTWISE_ALONE and bottoms == 1)
        or isinstance(layer, LRN)
        or (isinstance(layer, BatchNorm) and layer.is_repeatable())
        or (isinstance(layer, Concat | Slice | Softmax) and layer.dim == 1)
    ):
        known = _Same(height), _Same(width)
    if known is None:
        raise GraphError(
            f"layer '{layer.name}' ({layer.layer_type}) does not compute its top {show(bottom)} place by place from "
            "neighbours alone, so the image cannot be run in parts. Give --tile 0 to run it whole."
        )
    return known


def _windows(
    kind: type[_Window], bottom: Shape, kernel: Sequence[int], stride: Sequence[int], pad: Sequence[int]
) -> Rule:
    rows, columns = (kind(*sizes) for sizes in zip(bottom[2:], kernel, stride, pad, strict=True))
    return rows, columns


@dataclass
class _Stream:
    """A blob of which a few rows are there. shape: the whole blob's; columns: the ones that are computed."""

    shape: Shape
    columns: Span = (0, 0)
    pieces: list[tuple[int, Tensor]] = field(default_factory=list)  # first row and values, in order
    stop: int = 0  # the rows before it were made
    chunk: int = 0  # how many rows its maker makes in one go
    readers: list[tuple[_Stage, _Same]] = field(default_factory=list)

    @property
    def height(self) -> int:
        return self.shape[2]

    def row_bytes(self) -> int:
        """Return the bytes of one row of the columns that are computed."""
        return self.shape[0] * self.shape[1] * (self.columns[1] - self.columns[0]) * FLOAT

    def most_bytes(self) -> int:
        """Return how many bytes are held at most, for the chunks that are set."""
        if all(stage.is_eager for stage, _ in self.readers):
            return 0  # read as soon as it is made
        rows = max(stage.rows_read(rule) for stage, rule in self.readers)
        return min(self.chunk + rows, self.height) * self.row_bytes()

    def add(self, values: Tensor) -> None:
        """Take the next rows."""
        if self.readers:
            self.pieces.append((self.stop, values))
        self.stop += values.shape[2]

    def take(self, rows: Span, columns: Span) -> Tensor | None:
        """Return rows and columns that were made and not forgotten; None for no rows."""
        left = columns[0] - self.columns[0]
        parts = [
            values[:, :, max(0, rows[0] - first) : max(0, rows[1] - first), left : left + columns[1] - columns[0]]
            for first, values in self.pieces
        ]
        parts = [part for part in parts if part.shape[2]]
        return torch.cat(parts, 2) if len(parts) > 1 else parts[0] if parts else None

    def forget(self) -> None:
        """Free what no reader wants again."""
        wanted = min(
            (rule.reads((stage.done, stage.done + 1))[0] for stage, rule in self.readers if stage.done < stage.height),
            default=self.height,
        )
        while self.pieces and self.pieces[0][0] + self.pieces[0][1].shape[2] <= wanted:
            del self.pieces[0]


@dataclass
class _Stage:
    """A step of the net, or a source, which has no rule: its streams, and how far it is."""

    step: Step
    rule: Rule | None
    inputs: list[_Stream]
    outputs: list[_Stream]
    done: int = 0  # rows of the tops that were made
    chunk: int = 1  # rows to make in one go

    @property
    def height(self) -> int:
        return self.outputs[0].height

    @property
    def is_eager(self) -> bool:
        """Whether it runs on whatever is there: it reads no row twice."""
        return self.rule is not None and not isinstance(self.rule[0], _Window)

    def stop(self) -> int:
        """Return the row up to which it can run now; `done` if it cannot, or waits for a chunk that is worth it."""
        able = self.height
        if self.rule is not None:
            rows, made = self.rule[0], min(stream.stop for stream in self.inputs)
            if made < self.inputs[0].height:
                able = bisect_right(range(self.height), made, key=lambda row: rows.reads((row, row + 1))[1])
                if able - self.done < self.chunk and not self.is_eager:
                    return self.done
        return min(able, self.done + self.chunk)

    def rows_read(self, rule: _Same) -> int:
        """Return how many rows of a bottom a chunk reads."""
        start, stop = rule.reads((self.height // 2, min(self.height // 2 + self.chunk, self.height)))
        return stop - start

    def most_bytes(self) -> int:
        """Return the bytes of a chunk of its tops and of what they read."""
        made = self.chunk * sum(stream.row_bytes() for stream in self.outputs)
        return made + sum(self.rows_read(self.rule[0]) * stream.row_bytes() for stream in self.inputs if self.rule)

    def set_chunk(self, size: int) -> None:
        """Make as many rows in one go as have `size` bytes with what they read."""
        if self.is_eager:
            self.chunk = max(stream.chunk for stream in self.inputs)
        else:
            self.chunk = 1
            self.chunk = max(1, min(size // max(1, self.most_bytes()), self.height))
        for stream in self.outputs:
            stream.chunk = self.chunk


class Strips(Runner):
    """Runs a net over sources of any size, part by part, to the same numbers as the whole.

    The plain layers of the net run, whatever its steps are: a rewrite of them may have blobs of other places.

    Args:
        net: a net in eval().
        shapes: the shapes of the sources: blobs of layers without bottoms, N x C x H x W.
        wanted: the blobs to give, all of one height and width.
        budget: how many bytes to hold, besides parameters, sources and what becomes of the pieces.
        widest: the most columns in one go; by default as many as the budget allows.
    Raises:
        GraphError: a layer is not local; or the budget is too small for the narrowest part.
    """

    def __init__(
        self, net: Net, shapes: Mapping[str, Shape], wanted: Sequence[str], budget: int, widest: int | None = None
    ) -> None:
        super().__init__(net)
        self._stages: list[_Stage] = []
        self._sources: dict[str, _Stage] = {}
        self._wanted: dict[int, str] = {}
        self._make_stages(shapes, wanted)
        sizes = {self.shape(blob)[2:] for blob in wanted}
        if len(sizes) != 1:
            raise GraphError(f"net '{net.name}': {', '.join(wanted)} have {len(sizes)} sizes, expected one of all.")
        self.blocks = self._choose_blocks(sizes.pop()[1], budget, widest)

    def shape(self, blob: str) -> Shape:
        """Return the shape of a wanted blob."""
        streams = (stream for stage in self._stages for stream in stage.outputs)
        return next(stream.shape for stream in streams if self._wanted.get(id(stream)) == blob)

    # -- planning ---------------------------------------------------------------------------------------------

    def _make_stages(self, shapes: Mapping[str, Shape], wanted: Sequence[str]) -> None:
        plain = make_steps(self.net.graph, self.net.layers_in_order)
        shaping, running = _steps_below(plain, wanted, True), _steps_below(plain, wanted, False)
        blobs: dict[str, Tensor] = {}
        streams: dict[str, _Stream] = {}
        for step in plain:
            if id(step) not in shaping:
                continue
            if step.bottoms:
                tops = infer_tops(step.layer, [blobs[name] for name in step.bottoms])
            else:
                tops = [torch.empty(shapes.get(name, (0,)), device="meta") for name in step.tops]
            bottoms = [tuple(blobs[name].shape) for name in step.bottoms]
            blobs.update(zip(step.tops, tops, strict=False))
            if id(step) in running:
                self._add(step, bottoms, {name: _Stream(tuple(blobs[name].shape)) for name in step.tops}, streams)
        self._wanted = {id(streams[name]): name for name in wanted}

    def _add(self, step: Step, bottoms: list[Shape], made: dict[str, _Stream], streams: dict[str, _Stream]) -> None:
        """Add the stage of a step, or those of a layer without bottoms."""
        if not step.bottoms:
            for name, stream in made.items():
                if len(stream.shape) == 4:
                    self._sources[name] = _Stage(step, None, [], [stream])
                    self._stages.append(self._sources[name])
        else:
            if step.changes:
                raise GraphError(f"{step.node} changes {', '.join(step.changes)}, too: that is not run in parts.")
            rule = _rule(step.layer, bottoms[0], len(bottoms))
            inputs = [streams[name] for name in _read(step) if name in streams]
            stage = _Stage(step, rule, inputs, list(made.values()))
            for stream in inputs:
                stream.readers.append((stage, rule[0]))
            self._stages.append(stage)
        streams.update(made)

    def _choose_blocks(self, width: int, budget: int, widest: int | None) -> list[Span]:
        """Return the columns of each part, as few as fit, and set how many rows each stage makes in one go."""
        count = 1 if widest is None else -(-width // min(widest, width))
        while True:
            step = -(-width // count)
            blocks = [(start, min(start + step, width)) for start in range(0, width, step)]
            self._set_columns(max(blocks[:2], key=self._columns_read))
            largest = max(stream.row_bytes() for stage in self._stages for stream in stage.outputs)
            for size in (LARGEST_CHUNK >> shift for shift in range(17)):
                if size < FEWEST_ROWS * largest and size < LARGEST_CHUNK and step > NARROWEST:
                    break
                if self._bytes_held(size) <= budget:
                    return blocks
            if step <= NARROWEST:
                raise GraphError(
                    f"net '{self.net.name}': even {step} columns in one go do not fit into {show_bytes(budget)}. "
                    "Free some memory, or use a smaller net."
                )
            count += 1

    def _columns_read(self, block: Span) -> int:
        self._set_columns(block)
        return max(stage.outputs[0].columns[1] - stage.outputs[0].columns[0] for stage in self._sources.values())

    def _set_columns(self, block: Span) -> None:
        """Say of each stream which columns are computed, for some columns of what is wanted."""
        for stage in self._stages:
            for stream in stage.outputs:
                stream.columns = block if id(stream) in self._wanted else (0, 0)
        for stage in reversed(self._stages):
            columns = (0, 0)
            for stream in stage.outputs:
                columns = _join(columns, stream.columns)
            for stream in stage.outputs:
                stream.columns = columns
            if stage.rule is not None:
                for stream in stage.inputs:
                    stream.columns = _join(stream.columns, stage.rule[1].reads(columns))

    def _bytes_held(self, size: int) -> int:
        """Set the chunks for a size; return how many bytes are then held at most."""
        for stage in self._stages:
            stage.set_chunk(size)
        held = sum(stream.most_bytes() for stage in self._stages for stream in stage.outputs)
        # A convolution has its bottom, top and weights once more, in the order that its library likes.
        weights = max((blob.numel() * FLOAT for stage in self._stages for blob in stage.step.layer.blobs), default=0)
        return held + weights + 2 * max(stage.most_bytes() for stage in self._stages)

    # -- running ----------------------------------------------------------------------------------------------

    def pieces(self, sources: Mapping[str, ReadSource]) -> Iterator[Piece]:
        """Run; give the pieces of the wanted blobs as they come, from top to bottom and from left to right.

        Args:
            sources: for each source a function that returns some rows and columns of it.
        Raises:
            LayerError: a layer fails; names it.
        """
        for block in self.blocks:
            self._set_columns(block)
            for each in self._stages:
                each.done = 0
                for stream in each.outputs:
                    stream.pieces, stream.stop = [], 0
            while (stage := self._next()) is not None:
                rows = stage.done, stage.stop()
                with torch.no_grad():
                    tops = self._make(stage, rows, sources)
                stage.done = rows[1]
                for stream in stage.inputs:
                    stream.forget()
                for stream, values in zip(stage.outputs, tops, strict=False):
                    stream.add(values)
                    if id(stream) in self._wanted:
                        yield Piece(self._wanted[id(stream)], rows, stream.columns, values)
                del tops, values

    def _next(self) -> _Stage | None:
        """Return the stage to run: the last that can, so that little is held; the source that lags, if none can."""
        for stage in reversed(self._stages):
            if stage.rule is not None and stage.stop() > stage.done:
                return stage
        waiting = [stage for stage in self._sources.values() if stage.done < stage.height]
        return min(waiting, key=lambda stage: stage.done / stage.height, default=None)

    def _make(self, stage: _Stage, rows: Span, sources: Mapping[str, ReadSource]) -> Sequence[Tensor]:
        """Return some rows of a stage's tops."""
        columns = stage.outputs[0].columns
        if stage.rule is None:
            name = next(name for name, source in self._sources.items() if source is stage)
            return [self._tensor(name, sources[name](rows, columns))]
        read = [rule.reads(span) for rule, span in zip(stage.rule, (rows, columns), strict=True)]
        bottoms = [self._take(stream, read[0], read[1]) for stream in stage.inputs]
        if isinstance(stage.rule[0], _Shifted):
            return [bottoms[0][: stage.outputs[0].shape[0], : stage.outputs[0].shape[1]]]
        if not isinstance(stage.rule[0], _Window):
            return self.call_layer(stage.step, bottoms)
        made = [
            rule.first_made(span, given)
            for rule, span, given in zip(stage.rule, (rows, columns), read, strict=True)
            if isinstance(rule, _Window)
        ]
        tops = self._run_window(stage, bottoms, (rows, columns), read)
        first, left = rows[0] - made[0], columns[0] - made[1]
        height, width = rows[1] - rows[0], columns[1] - columns[0]
        return [top[:, :, first : first + height, left : left + width] for top in tops]

    def _run_window(
        self, stage: _Stage, bottoms: list[Tensor], wanted: tuple[Span, Span], read: Sequence[Span]
    ) -> Sequence[Tensor]:
        """Run a layer with windows on what it reads; where that was cut, nothing is padded."""
        assert stage.rule is not None
        if isinstance(stage.rule[0], _Padding):
            return self.call_layer(stage.step, bottoms)
        pads = [0, 0]
        for axis, (rule, span, given) in enumerate(zip(stage.rule, wanted, read, strict=True)):
            if not isinstance(rule, _Window) or isinstance(rule, _Spread):
                continue
            places = rule.wants(span)
            before, after = given[0] - places[0], places[1] - given[1]
            if given[0] >= given[1]:
                before, after = places[1] - places[0], 0  # all of it is padding
            if before == after and before <= rule.pad:
                pads[axis] = before  # the layer does that itself, without a copy
            else:
                bottoms = [_filled(bottom, axis + 2, before, after) for bottom in bottoms]
        layer = stage.step.layer
        assert isinstance(layer, Convolution | Deconvolution)
        return self.call_layer(replace(stage.step, layer=layer.with_pad(tuple(pads))), bottoms)

    def _take(self, stream: _Stream, rows: Span, columns: Span) -> Tensor:
        taken = stream.take(rows, columns)
        if taken is not None:
            return taken
        like = next((item.blob for item in self.net.learnable_params), torch.empty(0, device=self.device))
        return like.new_empty((*stream.shape[:2], 0, columns[1] - columns[0]))


def _filled(bottom: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Return a bottom with zeros before and after it along an axis."""
    shape = list(bottom.shape)
    shape[axis] += before + after
    filled = bottom.new_zeros(shape)
    filled.narrow(axis, before, bottom.shape[axis]).copy_(bottom)
    return filled


def _join(first: Span, second: Span) -> Span:
    """Return the least span that has both; an empty one has no place."""
    if first[0] >= first[1] or second[0] >= second[1]:
        return second if first[0] >= first[1] else first
    return min(first[0], second[0]), max(first[1], second[1])


def _read(step: Step) -> tuple[str, ...]:
    """Return the bottoms whose values a step reads: of a Crop's second, only the size matters."""
    return step.bottoms[:1] if isinstance(step.layer, Crop) else step.bottoms


def _steps_below(steps: Sequence[Step], wanted: Sequence[str], of_sizes: bool) -> set[int]:
    """Return the ids of the steps that blobs are computed from; of_sizes: also those whose sizes alone matter."""
    names, below = set(wanted), set()
    for step in reversed(steps):
        if names.intersection(step.tops):
            below.add(id(step))
            names.update(step.bottoms if of_sizes else _read(step))
    return below
