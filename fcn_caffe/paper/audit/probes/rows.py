"""Rows of claims about files: what this package makes of a net's layers and of a solver, when it runs them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Protocol

from fcn_caffe.errors import FcnCaffeError
from fcn_caffe.paper.audit.files import Audited
from fcn_caffe.paper.audit.probes.data_layers import tops_apart
from fcn_caffe.paper.audit.probes.layers_and_steps import (
    ALIGNED,
    dropped,
    learned,
    loss_apart,
    plain_apart,
    ramp_apart,
    started,
    step_apart,
)
from fcn_caffe.paper.audit.released.fields import Facts
from fcn_caffe.paper.audit.released.nets import released_net
from fcn_caffe.paper.audit.released.solvers import released_solver
from fcn_caffe.paper.result import ROUNDING
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.training.solver import read_solver

__all__ = [
    "Rows",
    "aligned_run",
    "biases_run",
    "data_run",
    "decay_run",
    "dropout_run",
    "fixed_run",
    "losses_run",
    "momentum_run",
    "plain_run",
    "scales_run",
    "zero_run",
]

_EXACT = 1e-6  # of the largest: what float32 leaves of a few steps, and less than any decay moves
_READ = 1e-4  # of values up to 255, in float32
_SHARE = 0.02  # of 40,000 values: eight times what chance moves
_LEARNT = ((1.0, 1.0), (2.0, 0.0))  # rate and decay of weights and biases
_FORMULA = "by the formula"


class Table(Protocol):
    """What takes rows: of a net or solver, what was found beside what is wanted."""

    def add(self, net: str, what: str, found: str, wanted: str, holds: bool | None = None) -> None:
        """Add a row."""


Rows = Callable[[Table, Audited, str], None]
Answer = tuple[str, bool]  # what was found, and whether it is what was wanted


def _run(
    table: Table, audited: Audited, net: str, what: str, wanted: str, answer: Callable[..., Answer], *given: Any
) -> None:
    """A row of what a layer or solver does when it is run, or why it cannot be; run once where many are the same."""
    key = "run", answer.__name__, _content(given)
    try:
        found, holds = audited.once(key, lambda: answer(*given))
    except (FcnCaffeError, RuntimeError) as error:  # RuntimeError is torch's
        found, holds = str(error), False
    table.add(net, f"{what}, as run", wanted if holds else found, wanted, holds)


def _content(given: Any) -> Hashable:
    if hasattr(given, "SerializeToString"):
        return bytes(given.SerializeToString(deterministic=True))
    return given if isinstance(given, (str, float, int)) else tuple(map(_content, given))


def _of_type(audited: Audited, net: str, kind: str) -> list[Any]:
    """A net's layers of a type in training; none where it cannot be read, which other rows say."""
    try:
        return [layer for layer in audited.net(net, TRAIN).layer if layer.type == kind]
    except FcnCaffeError:
        return []


def _wanted(net: str, kind: str) -> dict[str, Facts]:
    return {layer.name: layer.options for layer in released_net(net) if layer.type == kind}


def _rule(**fields: Any) -> Any:
    """A solver of a fixed rate, with these fields."""
    return caffe_pb2.SolverParameter(lr_policy="fixed", **fields)


def _specs(multipliers: Iterable[tuple[float, float]]) -> list[Any]:
    return [caffe_pb2.ParamSpec(lr_mult=rate, decay_mult=decay) for rate, decay in multipliers]


def losses_run(table: Table, audited: Audited, net: str) -> None:
    """Every softmax loss and its gradient, against the formula."""
    wanted = _wanted(net, "SoftmaxWithLoss")
    for layer in _of_type(audited, net, "SoftmaxWithLoss"):
        mean = wanted.get(layer.name, {}).get("normalize") is True
        _run(table, audited, net, f"{layer.name} and its gradient", _FORMULA, _loss, layer, mean)


def _loss(layer: Any, mean: bool) -> Answer:
    return _apart(loss_apart(layer, mean), ROUNDING)


def _apart(apart: float, bound: float = _EXACT) -> Answer:
    return f"{apart:.3g} of it away", apart <= bound


def dropout_run(table: Table, audited: Audited, net: str) -> None:
    """What every dropout layer does to ones."""
    for layer in _of_type(audited, net, "Dropout"):
        _run(
            table,
            audited,
            net,
            layer.name,
            "half are zero, the others doubled; in testing none change",
            _dropped,
            layer,
        )


def _dropped(layer: Any) -> Answer:
    share, rest, changed = dropped(layer)
    told = f"{share:.3f} are zero, the others {rest:.3g}; in testing they change by {changed:.3g}"
    return told, abs(share - 0.5) <= _SHARE and rest == 2 and changed == 0


def zero_run(table: Table, audited: Audited, net: str) -> None:
    """What every score layer begins with."""
    for layer in _of_type(audited, net, "Convolution"):
        if layer.name.startswith("score"):
            _run(table, audited, net, f"{layer.name}, weights and biases begin at", "0", _starts, layer, 0.0)


def data_run(table: Table, audited: Audited, net: str) -> None:
    """What the data layers of training and testing give of a data set of one image."""
    for phase, told in ((TRAIN, "in training"), (TEST, "in testing")):
        try:
            layers = [layer for layer in audited.net(net, phase).layer if layer.type == "Python"]
        except FcnCaffeError:
            continue  # as other rows say
        for layer in layers:
            wanted = "BGR or as stored, less the mean; void 255"
            _run(table, audited, net, f"{layer.name} {told}, of an image", wanted, _read, layer, phase)


def _read(layer: Any, phase: int) -> Answer:
    apart = tops_apart(layer, phase)
    return f"values {apart:.3g} away", apart <= _READ


def plain_run(table: Table, audited: Audited, net: str) -> None:
    """The pools, normalisations and ReLUs of a trunk, once where many are the same."""
    for kind in ("Pooling", "LRN", "ReLU"):
        wanted, told = _wanted(net, kind), set()
        for layer in _of_type(audited, net, kind):
            options = wanted.get(layer.name, {})
            key = str(options), layer.pooling_param.SerializeToString(), layer.lrn_param.SerializeToString()
            if layer.name in wanted and key not in told:
                told.add(key)
                given = options.get("kernel_size", 1), options.get("stride", 1), options.get("alpha", 0.0)
                _run(table, audited, net, layer.name, _FORMULA, _plain, layer, *given)


def _plain(layer: Any, kernel: int, stride: int, alpha: float) -> Answer:
    return _apart(plain_apart(layer, kernel, stride, alpha), ROUNDING)


def scales_run(table: Table, audited: Audited, net: str) -> None:
    """What every Scale layer begins with."""
    wanted = _wanted(net, "Scale")
    for layer in _of_type(audited, net, "Scale"):
        value = wanted.get(layer.name, {}).get("filler.value", 1.0)
        _run(table, audited, net, f"{layer.name} begins at", f"{value:g}", _starts, layer, value)


def _starts(layer: Any, wanted: float) -> Answer:
    value = started(layer)
    return f"{value:g}", abs(value - wanted) <= _EXACT * wanted


def fixed_run(table: Table, audited: Audited, net: str) -> None:
    """Whether upsampling stays as it is while a layer before it learns."""
    for layer in _of_type(audited, net, "Deconvolution"):
        _run(table, audited, net, f"{layer.name} in training", "stays", _stays, layer)


def _stays(layer: Any) -> Answer:
    _, factors = learned(_rule(), _specs(_LEARNT), layer.param)
    return "moves", bool((factors == 1).all())


def biases_run(table: Table, audited: Audited, net: str) -> None:
    """Steps by the rates of every convolution, once where many have the same."""
    wanted, told = _wanted(net, "Convolution"), set()
    for layer in _of_type(audited, net, "Convolution"):
        if layer.name not in wanted:
            continue
        rates = tuple(zip(wanted[layer.name]["lr_mult"], wanted[layer.name]["decay_mult"], strict=True))
        key = rates, *(one.SerializeToString(deterministic=True) for one in layer.param)
        if key not in told:  # as other layers have it
            told.add(key)
            given = _rule(weight_decay=0.5), layer.param, 0, 0.5, rates
            _run(table, audited, net, f"steps of {layer.name}, weights and biases", _FORMULA, _steps, *given)


def _steps(solver: Any, rates: Sequence[Any], momentum: float, decay: float, wanted: Sequence[Any]) -> Answer:
    return _apart(step_apart(solver, rates, _specs([(0, 1)]), momentum, decay, wanted))


def momentum_run(table: Table, audited: Audited, name: str) -> None:
    """Steps by a solver's momentum and images a step."""
    _solver_run(table, audited, name, "momentum", weight_decay=0)


def decay_run(table: Table, audited: Audited, name: str) -> None:
    """Steps by a solver's weight decay."""
    _solver_run(table, audited, name, "weight_decay", momentum=0, iter_size=1)


def _solver_run(table: Table, audited: Audited, name: str, what: str, **without: Any) -> None:
    """Steps by a solver's own fields, less those that belong to other claims."""
    wanted = released_solver(name)
    try:
        read = read_solver(audited.solver_path(name))
    except FcnCaffeError:
        return  # as other rows say
    if read.type != "SGD" or abs(getattr(read, what) - wanted[what]) > _EXACT * wanted[what]:
        return  # as the row of the field says
    solver, asked = caffe_pb2.SolverParameter(), {**wanted, **without}
    solver.CopyFrom(read)
    for key, value in without.items():
        setattr(solver, key, value)
    given = solver, _specs(_LEARNT), asked["momentum"], asked["weight_decay"], _LEARNT
    _run(table, audited, name, f"steps by its {what}", _FORMULA, _steps, *given)


def aligned_run(table: Table, audited: Audited, net: str) -> None:
    """Whether a ramp over the image is the same ramp over the scores, whatever is cropped where."""
    what, wanted = "a ramp over the image", "the same over the scores"
    try:
        deployed = audited.net(net, TEST, ("deploy",))
    except FcnCaffeError:
        return  # as other rows say
    _run(table, audited, net, what, wanted, _ramp, deployed)


def _ramp(net: Any) -> Answer:
    made = ramp_apart(net)
    off = {blob: apart for blob, apart in made.items() if not apart <= ALIGNED}
    told = ", ".join(f"{blob} is {apart:.3g} off" for blob, apart in off.items())
    return told or "no scores", bool(made) and not off
