"""Rows of claims about files: what this package makes of a net's layers and of a solver when it runs them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Protocol

from fcn_caffe.errors import FcnCaffeError
from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.paper.audit.probes.data_layers import tops_distance
from fcn_caffe.paper.audit.probes.layers import (
    ALIGNED,
    dropout_effect,
    initial_value,
    layer_distance,
    loss_distance,
    ramp_offsets,
    step_distance,
    train_regression,
)
from fcn_caffe.paper.audit.released.fields import Facts
from fcn_caffe.paper.audit.released.nets import released_net
from fcn_caffe.paper.audit.released.solvers import released_solver
from fcn_caffe.paper.result import ROUNDING
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.training.solver import read_solver

__all__ = [
    "AddRows",
    "Table",
    "add_alignment_rows",
    "add_bias_rows",
    "add_data_rows",
    "add_decay_rows",
    "add_dropout_rows",
    "add_loss_rows",
    "add_momentum_rows",
    "add_scale_rows",
    "add_trunk_rows",
    "add_upsampling_rows",
    "add_zero_rows",
]

_EXACT = 1e-6  # of the largest value: what float32 loses in a few steps, and less than any decay moves
_READ = 1e-4  # of values up to 255, in float32
_SHARE = 0.02  # of 40,000 values: eight times what chance moves
_LEARNT = ((1.0, 1.0), (2.0, 0.0))  # rate and decay of weights and biases
_FORMULA = "by the formula"
_MESSAGES = (
    caffe_pb2.LayerParameter,
    caffe_pb2.NetParameter,
    caffe_pb2.ParamSpec,
    caffe_pb2.SolverParameter,
)


class Table(Protocol):
    """Takes rows: of a net or solver, what is there beside what is wanted."""

    def add(self, net: str, what: str, value: str, wanted: str, holds: bool | None = None) -> None:
        """Add a row. It holds if `value` is `wanted`, where `holds` does not say."""


AddRows = Callable[[Table, AuditedFiles, str], None]
Answer = tuple[str, bool]  # what came out, and whether it is what is wanted


# -- rows of layers ----------------------------------------------------------------------------------------------------


def add_loss_rows(table: Table, audited: AuditedFiles, net: str) -> None:
    """Add how every softmax loss and its gradient compare with the formula."""
    wanted = _released_options(net, "SoftmaxWithLoss")
    for layer in _layers_of_type(audited, net, "SoftmaxWithLoss"):
        is_mean = wanted.get(layer.name, {}).get("normalize") is True
        _add_run(table, audited, net, f"{layer.name} and its gradient", _FORMULA, _compare_loss, layer, is_mean)


def _compare_loss(layer: caffe_pb2.LayerParameter, is_mean: bool) -> Answer:
    return _judge_distance(loss_distance(layer, is_mean), ROUNDING)


def add_dropout_rows(table: Table, audited: AuditedFiles, net: str) -> None:
    """Add what every dropout layer does to ones."""
    wanted = "half are zero, the others doubled; in testing none change"
    for layer in _layers_of_type(audited, net, "Dropout"):
        _add_run(table, audited, net, layer.name, wanted, _run_dropout, layer)


def _run_dropout(layer: caffe_pb2.LayerParameter) -> Answer:
    share, rest, change = dropout_effect(layer)
    words = f"{share:.3f} are zero, the others {rest:.3g}; in testing they change by {change:.3g}"
    return words, abs(share - 0.5) <= _SHARE and rest == 2 and change == 0


def add_zero_rows(table: Table, audited: AuditedFiles, net: str) -> None:
    """Add what every score layer begins with."""
    for layer in _layers_of_type(audited, net, "Convolution"):
        if layer.name.startswith("score"):
            what = f"{layer.name}, weights and biases begin at"
            _add_run(table, audited, net, what, "0", _compare_start, layer, 0.0)


def add_scale_rows(table: Table, audited: AuditedFiles, net: str) -> None:
    """Add what every Scale layer begins with."""
    wanted = _released_options(net, "Scale")
    for layer in _layers_of_type(audited, net, "Scale"):
        value = wanted.get(layer.name, {}).get("filler.value", 1.0)
        _add_run(table, audited, net, f"{layer.name} begins at", f"{value:g}", _compare_start, layer, value)


def _compare_start(layer: caffe_pb2.LayerParameter, wanted: float) -> Answer:
    value = initial_value(layer)
    return f"{value:g}", abs(value - wanted) <= _EXACT * wanted


def add_data_rows(table: Table, audited: AuditedFiles, net: str) -> None:
    """Add what the data layers of training and testing give of a data set of one image."""
    wanted = "BGR or as stored, less the mean; void 255"
    for phase, words in ((TRAIN, "in training"), (TEST, "in testing")):
        try:
            layers = [layer for layer in audited.net(net, phase).layer if layer.type == "Python"]
        except FcnCaffeError:
            continue  # other rows say that the net cannot be read
        for layer in layers:
            _add_run(table, audited, net, f"{layer.name} {words}, of an image", wanted, _compare_tops, layer, phase)


def _compare_tops(layer: caffe_pb2.LayerParameter, phase: int) -> Answer:
    distance = tops_distance(layer, phase)
    return f"values {distance:.3g} away", distance <= _READ


def add_trunk_rows(table: Table, audited: AuditedFiles, net: str) -> None:
    """Add how the pools, normalisations and ReLUs of a trunk compare with their formulas, one row for equal layers."""
    for kind in ("Pooling", "LRN", "ReLU"):
        wanted, known = _released_options(net, kind), set()
        for layer in _layers_of_type(audited, net, kind):
            options = wanted.get(layer.name, {})
            key = str(options), layer.pooling_param.SerializeToString(), layer.lrn_param.SerializeToString()
            if layer.name in wanted and key not in known:
                known.add(key)
                inputs = options.get("kernel_size", 1), options.get("stride", 1), options.get("alpha", 0.0)
                _add_run(table, audited, net, layer.name, _FORMULA, _compare_layer, layer, *inputs)


def _compare_layer(layer: caffe_pb2.LayerParameter, kernel: int, stride: int, alpha: float) -> Answer:
    return _judge_distance(layer_distance(layer, kernel, stride, alpha), ROUNDING)


def add_alignment_rows(table: Table, audited: AuditedFiles, net: str) -> None:
    """Add whether a ramp over the image is the same ramp over the scores, whatever is cropped where."""
    try:
        deployed = audited.net(net, TEST, ("deploy",))
    except FcnCaffeError:
        return  # other rows say that the net cannot be read
    _add_run(table, audited, net, "a ramp over the image", "the same over the scores", _compare_ramps, deployed)


def _compare_ramps(net: caffe_pb2.NetParameter) -> Answer:
    offsets = ramp_offsets(net)
    off = {blob: offset for blob, offset in offsets.items() if not offset <= ALIGNED}
    words = ", ".join(f"{blob} is {offset:.3g} off" for blob, offset in off.items())
    return words or "no scores", bool(offsets) and not off


# -- rows of steps -----------------------------------------------------------------------------------------------------


def add_upsampling_rows(table: Table, audited: AuditedFiles, net: str) -> None:
    """Add whether upsampling stays as it is while a layer before it learns."""
    for layer in _layers_of_type(audited, net, "Deconvolution"):
        _add_run(table, audited, net, f"{layer.name} in training", "stays", _stays_fixed, layer)


def _stays_fixed(layer: caffe_pb2.LayerParameter) -> Answer:
    _, factors = train_regression(_fixed_rate_solver(), _param_specs(_LEARNT), layer.param)
    return "moves", bool((factors == 1).all())


def add_bias_rows(table: Table, audited: AuditedFiles, net: str) -> None:
    """Add steps by the rates of every convolution, one row for layers with equal rates."""
    wanted, known = _released_options(net, "Convolution"), set()
    solver = _fixed_rate_solver(weight_decay=0.5)
    for layer in _layers_of_type(audited, net, "Convolution"):
        if layer.name not in wanted:
            continue
        rates = tuple(zip(wanted[layer.name]["lr_mult"], wanted[layer.name]["decay_mult"], strict=True))
        key = rates, *(spec.SerializeToString(deterministic=True) for spec in layer.param)
        if key not in known:
            known.add(key)
            what = f"steps of {layer.name}, weights and biases"
            _add_run(table, audited, net, what, _FORMULA, _compare_steps, solver, layer.param, 0, 0.5, rates)


def add_momentum_rows(table: Table, audited: AuditedFiles, name: str) -> None:
    """Add steps by a solver's momentum and images a step."""
    _add_solver_rows(table, audited, name, "momentum", weight_decay=0)


def add_decay_rows(table: Table, audited: AuditedFiles, name: str) -> None:
    """Add steps by a solver's weight decay."""
    _add_solver_rows(table, audited, name, "weight_decay", momentum=0, iter_size=1)


def _add_solver_rows(table: Table, audited: AuditedFiles, name: str, field: str, **replaced: int) -> None:
    """Steps by a solver's own fields. replaced: those that belong to other claims."""
    wanted = released_solver(name)
    try:
        param = read_solver(audited.solver_path(name))
    except FcnCaffeError:
        return  # other rows say that the solver cannot be read
    if param.type != "SGD" or abs(getattr(param, field) - wanted[field]) > _EXACT * wanted[field]:
        return  # the row of the field says so
    solver, facts = caffe_pb2.SolverParameter(), {**wanted, **replaced}
    solver.CopyFrom(param)
    for key, value in replaced.items():
        setattr(solver, key, value)
    inputs = solver, _param_specs(_LEARNT), facts["momentum"], facts["weight_decay"], _LEARNT
    _add_run(table, audited, name, f"steps by its {field}", _FORMULA, _compare_steps, *inputs)


def _compare_steps(
    solver: caffe_pb2.SolverParameter,
    rates: Iterable[caffe_pb2.ParamSpec],
    momentum: float,
    decay: float,
    multipliers: Sequence[tuple[float, float]],
) -> Answer:
    fixed = _param_specs([(0, 1)])
    return _judge_distance(step_distance(solver, rates, fixed, momentum, decay, multipliers), _EXACT)


# -- what the rows share -----------------------------------------------------------------------------------------------


def _add_run(
    table: Table,
    audited: AuditedFiles,
    net: str,
    what: str,
    wanted: str,
    answer: Callable[..., Answer],
    *inputs: object,
) -> None:
    """Add what `answer(*inputs)` says, or why it cannot. Equal inputs are run once."""
    try:
        value, holds = audited.remember(("run", answer, _content(inputs)), lambda: answer(*inputs))
    except (FcnCaffeError, RuntimeError) as error:  # RuntimeError is torch's
        value, holds = str(error), False
    table.add(net, f"{what}, as run", wanted if holds else value, wanted, holds)


def _content(value: object) -> Hashable:
    """What makes equal inputs equal: a message's bytes, a sequence's items."""
    if isinstance(value, _MESSAGES):
        return value.SerializeToString(deterministic=True)
    return tuple(map(_content, value)) if isinstance(value, Iterable) and not isinstance(value, str) else value


def _judge_distance(distance: float, bound: float) -> Answer:
    return f"{distance:.3g} of it away", distance <= bound


def _layers_of_type(audited: AuditedFiles, net: str, kind: str) -> list[caffe_pb2.LayerParameter]:
    """A net's layers of a type in training; none where it cannot be read, which other rows say."""
    try:
        return [layer for layer in audited.net(net, TRAIN).layer if layer.type == kind]
    except FcnCaffeError:
        return []


def _released_options(net: str, kind: str) -> dict[str, Facts]:
    return {layer.name: layer.options for layer in released_net(net) if layer.type == kind}


def _fixed_rate_solver(weight_decay: float | None = None) -> caffe_pb2.SolverParameter:
    return caffe_pb2.SolverParameter(lr_policy="fixed", weight_decay=weight_decay)


def _param_specs(multipliers: Iterable[tuple[float, float]]) -> list[caffe_pb2.ParamSpec]:
    return [caffe_pb2.ParamSpec(lr_mult=rate, decay_mult=decay) for rate, decay in multipliers]
