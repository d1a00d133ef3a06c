"""A net with tensors in and tensors out: what PyTorch's tools take, with the blobs' names as its arguments."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fcn_caffe.errors import GraphError
from fcn_caffe.host.text import did_you_mean

if TYPE_CHECKING:
    from fcn_caffe.net.net import Net
    from fcn_caffe.net.runner import Step


class NetModule(nn.Module):
    """A net as a function of tensors, as `Net.as_module` makes it.

    Each object is of a subclass whose `forward` has one parameter for each input blob: torch.export, torch.onnx and
    torch.jit name the inputs by them.

    Args:
        net: the net that runs. It is this module's own; its parameters need not be.
        inputs: the input blobs, in the order of the arguments.
        outputs: the blobs to return.
    """

    net: Net
    input_names: tuple[str, ...]  # blobs; the parameters of `forward` have these names as identifiers
    output_names: tuple[str, ...]

    def __new__(cls, net: Net, inputs: Sequence[str], outputs: Sequence[str]) -> NetModule:
        """Make an object of the subclass for these inputs."""
        return _new_module(to_identifiers(inputs))

    def __init__(self, net: Net, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.__dict__["net"] = net  # no child: the state_dict has the net's own names
        self.layers = net.layers
        self.input_names, self.output_names = tuple(inputs), tuple(outputs)
        self.training = net.training

    def train(self, mode: bool = True) -> NetModule:
        """Switch between training and evaluation, as `Net.train` does."""
        self.net.train(mode)
        self.training = mode
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NetModule:
        self.net._apply(fn, recurse)  # noqa: SLF001 (as nn.Module does with its children)
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:  # noqa: ANN401 (as object has it)
        return _new_module, (to_identifiers(self.input_names),), self.__dict__

    def extra_repr(self) -> str:
        return f"{', '.join(self.input_names)} -> {', '.join(self.output_names)}"

    def _run(self, tensors: Sequence[Tensor], named: dict[str, Tensor]) -> Tensor | tuple[Tensor, ...]:
        blobs = dict(zip(self.input_names, tensors, strict=False))
        for blob, parameter in zip(self.input_names, to_identifiers(self.input_names), strict=True):
            if parameter in named and blob not in blobs:
                blobs[blob] = named.pop(parameter)
        if named or len(tensors) > len(self.input_names) or len(blobs) < len(self.input_names):
            raise self._bad_call(tensors, named, blobs)
        tops = self.net.runner().run(blobs, frozenset(self.output_names))
        if len(self.output_names) == 1:
            return tops[self.output_names[0]]
        return tuple(tops[name] for name in self.output_names)

    def _bad_call(self, tensors: Sequence[Tensor], named: Iterable[str], blobs: Iterable[str]) -> GraphError:
        """Return the error of a call whose arguments are not the inputs, each once."""
        known = to_identifiers(self.input_names)
        takes = f"net '{self.net.name}' takes {', '.join(known)} as a module"
        if len(tensors) > len(known):
            return GraphError(f"{takes}, and {len(tensors)} were given by position.")
        for name in named:
            if name in known:
                return GraphError(f"{takes}, and '{name}' was given twice: by position and by name.")
            return GraphError(f"{takes}, not '{name}'.{did_you_mean(name, known)}")
        missing = [name for name, blob in zip(known, self.input_names, strict=True) if blob not in blobs]
        return GraphError(f"{takes}: {', '.join(missing)} was not given.")


def make_module(net: Net, outputs: str | Sequence[str] | None = None) -> NetModule:
    """Make a module of a net; see `Net.as_module`."""
    wanted = (outputs,) if isinstance(outputs, str) else net.graph.outputs if outputs is None else tuple(outputs)
    if not wanted:
        raise GraphError(f"net '{net.name}' as a module has no outputs. Name some: net.as_module(outputs=('score',)).")
    for name in wanted:
        if name not in net.blob_shapes:
            raise GraphError(
                f"net '{net.name}' has no blob '{name}' to give out.{did_you_mean(name, net.blob_shapes)} "
                f"Its outputs: {', '.join(net.graph.outputs)}."
            )
    steps = _needed_steps(net, wanted)
    inputs = [top for step in steps if step.node.type == "Input" for top in step.tops]
    if not inputs:
        sources = ", ".join(str(step.node) for step in steps if not step.bottoms)
        raise GraphError(
            f"net '{net.name}' takes no inputs: its blobs come from {sources}. Build the deploy form, "
            "Net(…, stages=('deploy',)), if it has one, or say what comes from outside: "
            "Net(…, input_shapes={'data': (1, 3, 500, 500)})."
        )
    return NetModule(net.with_steps(steps), inputs, wanted)


def _needed_steps(net: Net, outputs: Iterable[str]) -> list[Step]:
    """Return the steps that the outputs are computed from, in order; of inputs those that are read."""
    needed = {net.late_steps[name].bottoms[0] if name in net.late_steps else name for name in outputs}
    steps: list[Step] = []
    for step in reversed(net.steps):
        if needed.intersection((*step.tops, *step.changes)):
            is_input = step.node.type == "Input"  # in the place of a data layer it gives labels, too
            tops = tuple(top for top in step.tops if top in needed) if is_input else step.tops
            steps.append(replace(step, tops=tops))
            needed.update(step.bottoms)
    return steps[::-1]


def to_identifiers(blobs: Iterable[str]) -> tuple[str, ...]:
    """Return a name that Python takes for a parameter, another one for each blob.

    >>> to_identifiers(["data", "data/1", "data.1", "class", "2x"])
    ('data', 'data_1', 'data_1_', 'class_', '_2x')
    """
    names: list[str] = []
    for blob in blobs:
        name = re.sub(r"\W", "_", blob)
        if not name or name[0].isdigit():
            name = f"_{name}"
        while keyword.iskeyword(name) or name == "self" or name in names:
            name += "_"
        names.append(name)
    return tuple(names)


@cache
def _module_class(parameters: tuple[str, ...]) -> type[NetModule]:
    """Make the subclass whose `forward` has these parameters."""

    def forward(self: NetModule, *tensors: Tensor, **named: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self._run(tensors, named)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    forward.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in ("self", *parameters)])  # type: ignore[attr-defined]
    forward.__doc__ = "Run the net; return the output, or a tuple of them."
    return type("NetModule", (NetModule,), {"forward": forward, "__module__": __name__})


def _new_module(parameters: tuple[str, ...]) -> NetModule:
    return object.__new__(_module_class(parameters))
