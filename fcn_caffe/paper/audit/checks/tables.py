"""The release's nets and solvers beside the table of them: which claim a field belongs to, and rows that compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from fcn_caffe.errors import FcnCaffeError
from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.paper.audit.released.fields import Facts, Layer, read_layers, show_value, solver_facts
from fcn_caffe.paper.audit.released.nets import released_net
from fcn_caffe.paper.audit.released.solvers import EXEMPT, released_solver
from fcn_caffe.paper.result import Result, Row
from fcn_caffe.training.solver import read_solver

__all__ = [
    "DECAYS",
    "NO_LAYER",
    "UNSET",
    "ReleaseTable",
    "compare_options",
    "compare_solver",
    "compare_wiring",
    "layer_claim",
    "layers_or_error",
    "settings_or_error",
    "show_options",
    "solver_claim",
]

NO_LAYER, UNSET = "no such layer", "Caffe's default"
DECAYS = (5e-4, 2e-4)  # the weight decays that section 4.3 allows
_SHOWN = 3  # names of nets in a row of those that agree
_FUSED = ("score_fused", "score_pool4")
_OF_TYPE = {
    "Dropout": "REL.dropout",
    "SoftmaxWithLoss": "REL.loss",
    "Python": "REL.data",
    "Input": "REL.deploy",
    "Scale": "REL.atonce",
    "Crop": "REL.crop",
    "Concat": "REL.fusion",
}
_WINDOW = ("kernel", "stride", "pad", "dilation", "num_output", "group", "bias_term")
_UPSAMPLING_WINDOW = ("kernel", "stride", "pad", "dilation", "num_output")
_SOLVER_CLAIMS = {
    "base_lr": "REL.rate",
    "momentum": "REL.momentum",
    "iter_size": "REL.momentum",
    "weight_decay": "REL.decay",
    "max_iter": "REL.length",
    "snapshot": "REL.length",
    "test_iter": "REL.test",
    "test_interval": "REL.test",
    "test_initialization": "REL.test",
    "average_loss": "REL.average",
    "weights": "REL.starts",
    "net": "REL.starts",
}


# -- which claim a field belongs to ------------------------------------------------------------------------------------


def layer_claim(net: str, layer: Layer, key: str) -> str:
    """Say which claim an option of a layer belongs to."""
    if layer.type in _OF_TYPE:
        return _OF_TYPE[layer.type]
    if layer.type == "Eltwise":
        return "REL.fusion" if layer.name in _FUSED else "REL.heads"
    if layer.type == "Deconvolution":
        return "REL.heads" if key in _UPSAMPLING_WINDOW else "REL.upsampling"
    if layer.type == "Convolution" and key in ("lr_mult", "decay_mult"):
        return "REL.bias"
    if layer.type == "Convolution" and layer.name.startswith(("score", "up")):
        return "REL.heads" if key in _WINDOW else "REL.zero"
    if (layer.type == "Convolution" and key in _WINDOW) or layer.type in ("Pooling", "LRN"):
        return "REL.alexnet" if net.endswith("alexnet") else "REL.trunk"
    return "REL.other"


def solver_claim(key: str) -> str:
    """Say which claim a field of a solver belongs to."""
    return _SOLVER_CLAIMS.get(key, "REL.policy")


# -- reading -----------------------------------------------------------------------------------------------------------


def layers_or_error(audited: AuditedFiles, name: str) -> list[Layer] | str:
    """Read a net's layers, or say why they cannot be read."""

    def read() -> list[Layer] | str:
        try:
            if not audited.net_path(name).is_file():
                return f"{audited.net_path(name)}: no such net file"
            return read_layers(audited.net_path(name))
        except FcnCaffeError as error:
            return str(error)

    return audited.remember(("layers", name), read)


def settings_or_error(audited: AuditedFiles, name: str) -> Facts | str:
    """Read a solver's fields, or say why they cannot be read."""

    def read() -> Facts | str:
        try:
            return solver_facts(read_solver(audited.solver_path(name)), audited.root)
        except FcnCaffeError as error:
            return str(error)

    return audited.remember(("solver", name), read)


# -- comparing ---------------------------------------------------------------------------------------------------------


class ReleaseTable:
    """Collects rows of nets: first what differs, a row a net; then what agrees, a row for all nets that agree.

    Args:
        result: gets the rows.
    """

    def __init__(self, result: Result) -> None:
        self.result = result
        self._agree: dict[tuple[str, str, str], list[str]] = {}
        self._differ: list[Row] = []

    def add(self, net: str, what: str, value: str, wanted: str, holds: bool | None = None) -> None:
        """Add a row. It holds if `value` is `wanted`, where `holds` does not say."""
        if value == wanted if holds is None else holds:
            self._agree.setdefault((what, value, wanted), []).append(net)
        else:
            self._differ.append(Row(f"{net}, {what}", value, wanted, False))

    def finish(self) -> Result:
        """Return the result with its rows."""
        self.result.rows += self._differ
        for (what, value, wanted), nets in self._agree.items():
            more = f" and {len(nets) - _SHOWN} more" if len(nets) > _SHOWN else ""
            self.result.rows.append(Row(f"{what} in {', '.join(nets[:_SHOWN])}{more}", value, wanted, True))
        return self.result


def show_options(facts: Facts, keys: Iterable[str]) -> str:
    """Write some options: "kernel 3, pad 1"."""
    return ", ".join(f"{key} {show_value(facts[key])}" for key in keys if key in facts) or UNSET


def compare_options(
    table: ReleaseTable, audited: AuditedFiles, net: str, belongs: Callable[[Layer, str], bool]
) -> None:
    """Add rows for the options that belong: of the table's layers, what the table says and what the file says."""
    layers = layers_or_error(audited, net)
    if isinstance(layers, str):
        table.add(net, "file", layers, "a net")
        return
    by_key = {(layer.name, layer.states): layer for layer in layers}
    by_name = {layer.name: layer for layer in layers}
    for wanted in released_net(net):
        layer = by_key.get((wanted.name, wanted.states)) or by_name.get(wanted.name)
        options = layer.options if layer is not None else {}
        keys = sorted({key for key in {**wanted.options, **options} if belongs(wanted, key)})
        if keys:
            value = show_options(options, keys) if layer is not None else NO_LAYER
            table.add(net, wanted.name, value, show_options(wanted.options, keys))


def compare_wiring(table: ReleaseTable, audited: AuditedFiles, net: str) -> None:
    """Add rows for the layers that are there, in their order, and what each reads and makes."""
    layers, wanted_layers = layers_or_error(audited, net), released_net(net)
    if isinstance(layers, str):
        table.add(net, "file", layers, "a net")
        return
    have, want = [_wiring(layer) for layer in layers], [_wiring(layer) for layer in wanted_layers]
    if have == want:
        table.add(net, f"all {len(want)} layers", "as the table has them", "as the table has them")
        return
    names = {layer.name for layer in wanted_layers}
    for layer, wiring in zip(layers, have, strict=True):
        if layer.name not in names:
            table.add(net, layer.name, wiring, "no layer of this name")
    for wanted, wiring in zip(wanted_layers, want, strict=True):
        same_name = [other for layer, other in zip(layers, have, strict=True) if layer.name == wanted.name]
        if wiring not in same_name:
            table.add(net, wanted.name, same_name[0] if same_name else NO_LAYER, wiring)
    repeats = Counter(layer.name for layer in layers)
    repeats.subtract(layer.name for layer in wanted_layers)
    for name in sorted(names):
        if repeats[name] > 0:
            table.add(net, name, f"{repeats[name] + 1} layers of this name", "one")
    if sorted(have) == sorted(want):
        at = next(index for index, pair in enumerate(zip(have, want, strict=True)) if pair[0] != pair[1])
        table.add(net, f"layer {at} in the file", have[at], want[at])
    elif len(have) != len(want):
        table.add(net, "number of layers", str(len(have)), str(len(want)))


def _wiring(layer: Layer) -> str:
    states = "" if len(layer.states) == 3 else f" ({', '.join(layer.states) or 'never'})"
    return f"{layer.name}: {layer.type} of {' '.join(layer.bottoms) or 'nothing'} to {' '.join(layer.tops)}{states}"


def compare_solver(table: ReleaseTable, audited: AuditedFiles, name: str, belongs: Callable[[str], bool]) -> None:
    """Add rows for the fields of a solver that belong."""
    settings, wanted = settings_or_error(audited, name), released_solver(name)
    if isinstance(settings, str):
        table.add(name, "solver", settings, "a solver")
        return
    if name.startswith("cvpr") and settings.get("weight_decay") in DECAYS:
        wanted = {**wanted, "weight_decay": settings["weight_decay"]}  # the text gives both and leaves the choice
    keys = sorted(key for key in {**wanted, **settings} if key not in EXEMPT and belongs(key))
    for key in keys:
        table.add(name, key, show_options(settings, [key]), show_options(wanted, [key]))
    if not keys:
        table.add(name, "fields", UNSET, UNSET)
