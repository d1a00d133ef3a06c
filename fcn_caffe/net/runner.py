"""Runs a net step by step. Everything that runs layers overrides what it needs of the class here.

The only calls of a layer stand in this file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fcn_caffe.errors import FcnCaffeError, GraphError, LayerError
from fcn_caffe.host.text import did_you_mean, show
from fcn_caffe.layers.base import Layer
from fcn_caffe.net.graph import Graph, Node
from fcn_caffe.net.sharing import Sharing, shares_data

if TYPE_CHECKING:
    from fcn_caffe.net.net import Net

Shape = tuple[int, ...]
Blob = Tensor | npt.NDArray[np.generic]

# What torch, NumPy and Python raise when shapes, numbers or sizes do not fit. The runner adds the layer's name.
FAILURES = (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError, MemoryError)
# By what PyTorch says: what to do.
_CURES = (
    (re.compile("^vmap: "), "Leave out vmap: a net takes all items of a batch at once"),
    (
        re.compile("type .*be the same|same d|not implemented for '|expected scalar type|output dtype|Type promo"),
        "Give inputs of the net's own type: x.float(), or net.to(x.dtype)",
    ),
    (re.compile(r"\bmemory\b(?! format)|overflow|too large|too big"), "Make the layer's sizes smaller"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One layer in its place in the net.

    bottoms, tops: blob names. frees: the blobs that nothing reads after this step.
    blocked: the positions of bottoms that propagate_down or the layer type cuts off from the gradient.
    changes: the other blobs that an in-place layer changes: in Caffe they are in the memory that it overwrites.
    """

    layer: Layer
    node: Node
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    frees: tuple[str, ...]
    blocked: tuple[int, ...]
    changes: tuple[str, ...] = ()
    is_simple: bool = field(init=False)  # one bottom to one top, and nothing besides

    def __post_init__(self) -> None:
        simple = len(self.bottoms) == len(self.tops) == 1 and not self.blocked and not self.changes
        object.__setattr__(self, "is_simple", simple)

    @classmethod
    def of(cls, node: Node, layer: Layer, forced: bool = False) -> Step:
        """Make the step of a node and its layer; `forced`: force_backward overrules propagate_down, as in Caffe."""
        shut = layer.never_forced if forced else range(len(node.bottoms))
        blocked = {position for position, down in enumerate(node.param.propagate_down) if not down and position in shut}
        blocked.update(position for position in layer.undifferentiable if position < len(node.bottoms))
        return cls(layer, node, node.bottoms, node.tops, (), tuple(sorted(blocked)))


def make_steps(graph: Graph, layers: Sequence[Layer], forced: bool = False) -> tuple[Step, ...]:
    """Make the steps of a graph and its layers, in file order; forced: whether the net has force_backward."""
    steps = [Step.of(node, layers[node.index], forced) for node in graph.nodes]
    if any(shares_data(node) for node in graph.nodes):
        sharing = Sharing(graph)
        steps = [
            replace(step, changes=sharing.others(step.node.tops[0])) if step.node.in_place else step for step in steps
        ]
    return free_early(steps, graph.outputs)


def label_blobs(steps: Sequence[Step]) -> set[str]:
    """Return the blobs that a layer reads as labels or indices: the bottoms that never get a gradient."""
    return {step.bottoms[place] for step in steps for place in step.layer.undifferentiable if step.bottoms[place:]}


def free_early(steps: Sequence[Step], outputs: Iterable[str]) -> tuple[Step, ...]:
    """Return the steps, each with the blobs that nothing reads after it; outputs: the blobs that stay."""
    used_later = set(outputs)
    freed: list[Step] = []
    for step in reversed(steps):
        frees = tuple(name for name in dict.fromkeys((*step.bottoms, *step.tops)) if name not in used_later)
        freed.append(replace(step, frees=frees))
        used_later.update(step.bottoms, step.tops)
    return tuple(reversed(freed))


class Runner:
    """Runs the layers of a net in file order, once: make a new one for each pass.

    Subclasses override what they watch or change: `run_step` (a step with its bottoms), `source` (a layer without
    bottoms), `call_layer` (the call itself), `failure` (the error when a layer fails).

    >>> from fcn_caffe.net import Net
    >>> from fcn_caffe.proto import caffe_pb2, parse_text
    >>> class Shapes(Runner):
    ...     def run_step(self, step, bottoms):
    ...         tops = super().run_step(step, bottoms)
    ...         print(step.node, *(tuple(top.shape) for top in tops))
    ...         return tops
    >>> text = '''
    ...     layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 4 dim: 4 } } }
    ...     layer { name: "pool" type: "Pooling" bottom: "data" top: "pool"
    ...             pooling_param { kernel_size: 2 stride: 2 } }
    ... '''
    >>> net = Net(parse_text(text, caffe_pb2.NetParameter))
    >>> blobs = Shapes(net).run({"data": torch.zeros(1, 3, 4, 4)})
    layer 'data' (Input) (1, 3, 4, 4)
    layer 'pool' (Pooling) (1, 3, 2, 2)
    """

    def __init__(self, net: Net) -> None:
        self.net = net
        self.device = net.device
        self.inputs: Mapping[str, Blob] = {}  # the blobs given for this pass
        self.blobs: dict[str, Tensor] = {}  # the blobs that are alive

    def run(self, inputs: Mapping[str, Blob], keep: frozenset[str] = frozenset()) -> dict[str, Tensor]:
        """Run every step; return the outputs, and the blobs named in `keep`.

        A blob is freed after its last reader, unless it is kept or autograd needs it.

        Raises:
            GraphError: `inputs` or `keep` names a blob that the net does not have.
            LayerError: a layer fails; the error names it and its bottoms' shapes.
        """
        net = self.net
        for name in inputs.keys() | keep:
            if name not in net.blob_shapes:
                near = did_you_mean(name, net.blob_shapes)
                raise GraphError(
                    f"net '{net.name}' has no blob '{name}'.{near} Its inputs: {', '.join(net.graph.inputs)}."
                )
        self.inputs = inputs
        late = [net.late_steps[name] for name in keep if name in net.late_steps] if net.late_steps else []
        held = {*keep, *(step.bottoms[0] for step in late)} if late else keep
        blobs: dict[str, Tensor] = {}
        self.blobs = blobs
        if net.turn is None or torch.compiler.is_compiling():
            self.run_steps(net.steps, blobs, held)
        else:
            with net.turn:
                self.run_steps(net.steps, blobs, held)
        for step in late:
            blobs[step.tops[0]] = self.run_step(step, [blobs[step.bottoms[0]]])[0]
        wanted = {*keep, *net.graph.outputs}  # a union of frozensets is beyond the compiler of PyTorch 2.5
        return {name: blob for name, blob in blobs.items() if name in wanted}

    def run_steps(self, steps: Sequence[Step], blobs: dict[str, Tensor], keep: Set[str]) -> None:
        """Run steps over blobs: add their tops, and free what nothing reads any more, but for `keep`."""
        run_step = self.run_step
        watched = type(self).run_step is not Runner.run_step or type(self).call_layer is not Runner.call_layer
        for step in steps:
            if step.is_simple and not watched:  # nearly always: each call on the way shows in small nets
                bottom = blobs[step.bottoms[0]]
                try:
                    top = step.layer(bottom)
                except (FcnCaffeError, *FAILURES) as error:
                    raise self.failure(step, [bottom], error) from _cause(error)
                blobs[step.tops[0]] = top if isinstance(top, Tensor) else top[0]
                del bottom, top
            else:
                tops = run_step(step, list(map(blobs.__getitem__, step.bottoms)))
                blobs.update(zip(step.tops, tops, strict=False))
                for name in step.changes:
                    if name in blobs:
                        blobs[name] = tops[0].reshape(blobs[name].shape)
                del tops
            for name in step.frees:
                if name not in keep:
                    del blobs[name]

    def run_step(self, step: Step, bottoms: list[Tensor]) -> Sequence[Tensor]:
        """Run one step and return its tops."""
        if not step.bottoms:
            return self.source(step)
        if step.blocked:
            for position in step.blocked:
                bottoms[position] = bottoms[position].detach()
        return self.call_layer(step, bottoms)

    def call_layer(self, step: Step, bottoms: Sequence[Tensor]) -> Sequence[Tensor]:
        """Call the layer and return its tops."""
        try:
            tops = step.layer(*bottoms)
        except (FcnCaffeError, *FAILURES) as error:
            raise self.failure(step, bottoms, error) from _cause(error)
        return (tops,) if isinstance(tops, Tensor) else tops

    def failure(self, step: Step, bottoms: Sequence[Tensor], error: Exception) -> FcnCaffeError:
        """Return the error to raise when a layer has raised `error`."""
        return name_failure(step.node, [bottom.shape for bottom in bottoms], error)

    def source(self, step: Step) -> Sequence[Tensor]:
        """Return the tops of a layer without bottoms: given for this pass, remembered by the net, or made by the layer.

        Raises:
            LayerError: an Input layer's blob is not given, or only some of a data layer's tops are.
        """
        names = [name for name in step.tops if name in self.inputs]
        if names and len(names) == len(step.tops):
            tops = [self._tensor(name, self.inputs[name]) for name in step.tops]
        elif step.node.type == "Input":
            tops = [self._input(step, name) for name in step.tops]
        elif names:
            raise step.layer.error(
                f"makes {', '.join(step.tops)}: give all or none of them, not {', '.join(names)} alone."
            )
        else:
            return [top.to(self.device) for top in self.call_layer(step, ())]
        if self.net.param.force_backward:
            tops = [
                top if top.requires_grad or not top.is_floating_point() else top.detach().requires_grad_()
                for top in tops
            ]
        return tops

    def _input(self, step: Step, name: str) -> Tensor:
        blob = self.inputs.get(name, self.net.inputs.get(name))
        if blob is None:
            raise step.layer.error(f"input blob '{name}' was not given. Call net({name}=tensor).")
        return self._tensor(name, blob)

    def _tensor(self, name: str, blob: object) -> Tensor:
        if isinstance(blob, np.ndarray):
            blob = _tensor_of(name, blob)
        if not isinstance(blob, Tensor):
            raise GraphError(f"blob '{name}' was given as {type(blob).__name__}, wanted a tensor or an array.")
        if blob.is_meta and self.device.type != "meta":
            raise GraphError(
                f"blob '{name}' was given on the meta device, which has no numbers. Give a tensor with some."
            )
        blob = blob.to(self.device)
        return blob.clone() if name in self.net.written else blob


def _tensor_of(name: str, array: npt.NDArray[Any]) -> Tensor:
    """Return an array as a tensor, over the same memory where PyTorch can use it."""
    native = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])  # PyTorch warns of what is read-only
    try:
        return torch.from_numpy(native)
    except TypeError:
        raise GraphError(
            f"blob '{name}' was given as an array of {array.dtype}, which PyTorch does not have. Give numbers: "
            "array.astype('float32')."
        ) from None


def _cause(error: Exception) -> BaseException | None:
    """What an error that takes this one's place comes from: errors of this package are told once."""
    return error.__cause__ if isinstance(error, FcnCaffeError) else error


def infer_tops(layer: Layer, bottoms: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return a layer's tops on the meta device, for bottoms on the meta device: shapes without arithmetic."""
    tops = layer.infer(*bottoms)
    return (tops,) if isinstance(tops, Tensor) else tops


def name_failure(node: Node, shapes: Sequence[Sequence[int]], error: Exception) -> FcnCaffeError:
    """Return an error that names the layer; shapes: those of its bottoms.

    An error of this package keeps its class and its text; any other becomes a LayerError with the shapes.
    """
    if isinstance(error, FcnCaffeError):
        return error.named(str(node))
    listed = ", ".join(f"{name} {show(shape)}" for name, shape in zip(node.bottoms, shapes, strict=True))
    text = str(error).rstrip().rstrip(".")
    cure = next(
        (cure for pattern, cure in _CURES if pattern.search(text)), "Check the layer's options and its bottoms' shapes"
    )
    return LayerError(f"failed on {listed or 'no bottoms'}: {text}. {cure}.", node.name, node.type)


@contextmanager
def naming(node: Node, shapes: Callable[[], Sequence[Sequence[int]]]) -> Iterator[None]:
    """Let errors raised in the block name the layer, as those of `Runner.call_layer` do."""
    try:
        yield
    except FcnCaffeError as error:
        raise name_failure(node, (), error) from error.__cause__
    except FAILURES as error:
        raise name_failure(node, shapes(), error) from error
