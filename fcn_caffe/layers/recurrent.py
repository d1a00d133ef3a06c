"""Recurrent layers: LSTM and RNN, over the first axis as time."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, of_shape, register
from fcn_caffe.proto import caffe_pb2

STATE_WHEN_COMPILED = "compiled, the state starts at zero in each forward unless it is exposed"


class _RecurrentLayer(Layer):
    """Base of LSTM and RNN: x over T steps, cont, a static input, and states that are kept or exposed.

    The state after the last step is where the next forward starts, without gradient. Where cont is 0, the state is
    dropped before the step. With expose_hidden the states are bottoms and tops instead; as in Caffe, which shares only
    their values, no gradient goes through them.
    Source: Caffe RecurrentLayer.
    """

    remembers = True

    undifferentiable = (1,)
    never_forced = (1,)
    refused_gradients: ClassVar[Mapping[int, str]] = {1: "Cannot backpropagate to sequence indicators."}
    states: ClassVar[tuple[str, ...]] = ()

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = self.options = param.recurrent_param
        self.size: int = options.num_output
        self.expose: bool = options.expose_hidden
        if self.size < 1:
            raise self.error(f"num_output must be at least 1, got {self.size}.")
        exposed = len(self.states) if self.expose else 0
        if len(bottoms) not in (2 + exposed, 3 + exposed):
            raise self.error(
                f"takes {2 + exposed} bottoms, or {3 + exposed} with a static input, got {len(bottoms)}: x, cont, "
                f"x_static if there is one{''.join(f', {name}_0' for name in self.states[:exposed])}."
            )
        if len(param.top) != 1 + exposed:
            raise self.error(
                f"has {1 + exposed} tops{' with expose_hidden' if exposed else ''}, got {len(param.top)}. Name as many."
            )
        self.static = len(bottoms) == 3 + exposed
        self.inputs = self._check(bottoms)
        self.static_inputs = prod(bottoms[2].shape[1:]) if self.static else 0
        self.kept: tuple[Tensor, ...] | None = None
        self.add_blobs()

    def add_blobs(self) -> None:
        """Create the weights, in Caffe's order."""
        raise NotImplementedError

    def add_weight(self, name: str, outputs: int, inputs: int) -> None:
        """Add a weight blob (outputs, inputs) with the layer's filler."""
        self.add_blob(name, (outputs, inputs), self.options.weight_filler)

    def add_bias(self, name: str, outputs: int) -> None:
        """Add a bias blob with the layer's filler."""
        self.add_blob(name, (outputs,), self.options.bias_filler)

    def step(self, inputs: Tensor, cont: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run one time step: transformed inputs (N, values), cont (N, 1) and states -> output and states."""
        raise NotImplementedError

    def _check(self, bottoms: tuple[Tensor, ...]) -> int:
        """Return how many values x has at one step of one sequence; raise LayerError for bottoms that do not fit."""
        x, cont = bottoms[:2]
        if x.ndim < 3:
            raise self.error(
                f"bottom 0 needs 3 axes or more, T x N x values, got {show(x.shape)}. Of single values make T x N x 1."
            )
        steps, streams = x.shape[:2]
        if tuple(cont.shape) != (steps, streams):
            raise self.error(f"bottom 1 (cont) must be T x N, {steps}x{streams}, got {show(cont.shape)}.")
        if self.static and (bottoms[2].ndim < 2 or bottoms[2].shape[0] != streams):
            raise self.error(
                f"bottom 2 (x_static) must be N x values with N = {streams}, got {show(bottoms[2].shape)}."
            )
        if self.expose:
            for position, state in enumerate(bottoms[2 + self.static :], 2 + self.static):
                if tuple(state.shape) != (1, streams, self.size):
                    raise self.error(
                        f"bottom {position} (a state) must be 1 x N x num_output, 1x{streams}x{self.size}, "
                        f"got {show(state.shape)}."
                    )
        return prod(x.shape[2:])

    def reset(self) -> None:
        """Forget the state: the next forward starts from zero.

        Source: Caffe RecurrentLayer::Reset.
        """
        self.kept = None

    def is_repeatable(self) -> bool:
        return False  # it goes on from its last state

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        steps, streams = bottoms[0].shape[:2]
        return of_shape(steps, streams, self.size), *(of_shape(1, streams, self.size) for _ in self.param.top[1:])

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        if (inputs := self._check(bottoms)) != self.inputs:
            raise self.error(
                f"bottom 0 {show(bottoms[0].shape)} has {inputs} values a step, not {self.inputs}. Give it as many."
            )
        x, cont = bottoms[:2]
        steps, streams = x.shape[:2]
        transformed = F.linear(x.reshape(steps, streams, inputs), self.weight_input, self.bias_input)
        if self.static:
            transformed = transformed + F.linear(bottoms[2].reshape(streams, -1), self.weight_static)
        states = self._first_states(bottoms, transformed[0, :, : self.size])
        outputs = []
        for time in range(steps):
            output, states = self.step(transformed[time], cont[time, :, None], states)
            outputs.append(output)
        top = torch.stack(outputs)
        if self.expose:
            return top, *(state.detach()[None] for state in states)
        if not torch.compiler.is_compiling():
            self.kept = tuple(state.detach() for state in states)
        return (top,)

    def _first_states(self, bottoms: tuple[Tensor, ...], like: Tensor) -> tuple[Tensor, ...]:
        """Return the states before the first step, each of the shape of `like`."""
        if self.expose:
            return tuple(state.detach()[0] for state in bottoms[2 + self.static :])
        kept = None if torch.compiler.is_compiling() else self.kept
        if (
            kept is not None
            and kept[0].shape == like.shape
            and kept[0].device == like.device
            and kept[0].dtype == like.dtype
        ):
            return kept
        return (torch.zeros_like(like),) * len(self.states)


@register("LSTM", bottoms=(2, None), tops=(1, None), restrictions=STATE_WHEN_COMPILED)
class LSTM(_RecurrentLayer):
    """Long short-term memory. Gates i, f, o, g = W x + W_h (cont h) + b; c = f c + i g; h = o tanh(c).

    Shapes: x (T, N, ...), cont (T, N), x_static (N, ...) if there is one -> h (T, N, num_output); with expose_hidden
    h_0, c_0 (1, N, num_output) are the last bottoms and h_T, c_T the last tops. Blobs: weight_input (4 num_output, D),
    bias_input, weight_static (4 num_output, D_static) if there is one, weight_hidden (4 num_output, num_output).
    Gradient: to x, x_static and the weights, through one forward; not through the states at its ends.
    Raises: LayerError for bottoms of other shapes.
    Source: Caffe LSTMLayer, LSTMUnitLayer.
    """

    states = ("h", "c")

    def add_blobs(self) -> None:
        self.add_weight("weight_input", 4 * self.size, self.inputs)
        self.add_bias("bias_input", 4 * self.size)
        if self.static:
            self.add_weight("weight_static", 4 * self.size, self.static_inputs)
        self.add_weight("weight_hidden", 4 * self.size, self.size)

    def step(self, inputs: Tensor, cont: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        hidden, cell = states
        gates = inputs + F.linear(hidden * cont, self.weight_hidden)
        i, f, o, g = torch.split(gates, self.size, 1)
        cell = torch.sigmoid(f) * cont * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        return hidden, (hidden, cell)


@register("RNN", bottoms=(2, None), tops=(1, None), restrictions=STATE_WHEN_COMPILED)
class RNN(_RecurrentLayer):
    """A plain recurrent net: h = tanh(W x + W_h (cont h) + b), o = tanh(W_o h + b_o).

    Shapes: x (T, N, ...), cont (T, N), x_static (N, ...) if there is one -> o (T, N, num_output); with expose_hidden
    h_0 (1, N, num_output) is the last bottom and h_T the last top. Blobs: weight_input (num_output, D), bias_input,
    weight_static if there is one, weight_hidden and weight_output (num_output, num_output), bias_output.
    Gradient: to x, x_static and the weights, through one forward; not through the state at its ends.
    Raises: LayerError for bottoms of other shapes.
    Source: Caffe RNNLayer.
    """

    states = ("h",)

    def add_blobs(self) -> None:
        self.add_weight("weight_input", self.size, self.inputs)
        self.add_bias("bias_input", self.size)
        if self.static:
            self.add_weight("weight_static", self.size, self.static_inputs)
        self.add_weight("weight_hidden", self.size, self.size)
        self.add_weight("weight_output", self.size, self.size)
        self.add_bias("bias_output", self.size)

    def step(self, inputs: Tensor, cont: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        hidden = torch.tanh(inputs + F.linear(states[0] * cont, self.weight_hidden))
        return torch.tanh(F.linear(hidden, self.weight_output, self.bias_output)), (hidden,)
