"""Where the released nets and solvers differ from the text of CVPR 2015: computed from the files of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.paper.audit.locate import locate
from fcn_caffe.paper.audit.released.fields import Facts, Layer, read_layers, show_value, solver_facts
from fcn_caffe.paper.audit.released.solvers import EXEMPT
from fcn_caffe.training.solver import read_solver

__all__ = ["PAIRS", "Difference", "find_differences"]

# The net of the release, and that of the text.
PAIRS = tuple((f"voc-{name}", f"cvpr-{name}") for name in ("fcn32s", "fcn16s", "fcn8s", "fcn-alexnet", "fcn-googlenet"))
_WORDS = {
    "base_lr": "rate",
    "momentum": "momentum",
    "iter_size": "images a step",
    "weight_decay": "weight decay",
    "weights": "what it starts from",
    "normalize": "loss averaged over pixels",
    "lr_mult": "rates of weights and bias",
    "decay_mult": "decay of weights and bias",
    "max_iter": "iterations",
}
_SILENT = "not said"
_DEFAULTS = {"iter_size": 1}


@dataclass(frozen=True)
class Difference:
    """A thing that both say, each in its own way: the two values, and the file and line of each.

    The line is None for a default.
    """

    what: str
    release: str
    cvpr: str
    where_release: dict[str, Any]
    where_cvpr: dict[str, Any]


class _Side(NamedTuple):
    """A value of one side: its file, its place in it as `locate` takes it, and the value."""

    path: str
    inside: str
    value: object


def find_differences(audited: AuditedFiles) -> list[Difference]:
    """Find every field in which a net or solver of the release differs from the one that follows the text.

    Raises: FcnCaffeError for a file that cannot be read.
    """
    differences: list[Difference] = []
    for release, text in PAIRS:
        differences += _compare_solvers(audited, release, text)
        differences += _compare_nets(audited, release, text)
    return differences


def _compare_solvers(audited: AuditedFiles, release: str, text: str) -> list[Difference]:
    ours, theirs = (solver_facts(read_solver(audited.solver_path(name)), audited.root) for name in (release, text))
    return [
        _difference(
            audited,
            f"{release}: {_WORDS.get(key, key)}",
            _Side(f"solvers/{release}.prototxt", key, ours.get(key, _DEFAULTS.get(key))),
            _Side(f"solvers/{text}.prototxt", key, theirs.get(key, _DEFAULTS.get(key))),
        )
        for key in sorted({**ours, **theirs})
        if key not in (*EXEMPT, "net")
        and _without_family(ours.get(key), release) != _without_family(theirs.get(key), text)
    ]


def _compare_nets(audited: AuditedFiles, release: str, text: str) -> list[Difference]:
    ours, theirs = (
        {(layer.name, layer.states): layer for layer in read_layers(audited.net_path(name))} for name in (release, text)
    )
    differences = []
    for key in {**ours, **theirs}:
        our_facts, their_facts = _facts(ours.get(key)), _facts(theirs.get(key))
        for option in sorted({**our_facts, **their_facts}):
            if our_facts.get(option) != their_facts.get(option):
                inside = f"{key[0]}.{option}"
                differences.append(
                    _difference(
                        audited,
                        f"{release}, {key[0]}: {_WORDS.get(option, option)}",
                        _Side(f"nets/{release}.prototxt", inside, our_facts.get(option)),
                        _Side(f"nets/{text}.prototxt", inside, their_facts.get(option)),
                    )
                )
    return differences


def _facts(layer: Layer | None) -> Facts:
    if layer is None:
        return {}
    return {"type": layer.type, "bottom": layer.bottoms, "top": layer.tops, **layer.options}


def _without_family(value: object, name: str) -> object:
    """A value without the family of its net: both sides start a finer net from their own coarser one."""
    family = name.partition("-")[0]
    return tuple(str(part).replace(f"{family}-", "") for part in value) if isinstance(value, tuple) else value


def _difference(audited: AuditedFiles, what: str, release: _Side, text: _Side) -> Difference:
    values = [_SILENT if side.value is None else show_value(side.value) for side in (release, text)]
    return Difference(what, values[0], values[1], _place(audited, release), _place(audited, text))


def _place(audited: AuditedFiles, side: _Side) -> dict[str, Any]:
    """The line of a field; that of its layer where the field is not in the file."""
    line = locate(f"{side.path}:{side.inside}", audited.root).line
    if line is None:
        line = locate(f"{side.path}:{side.inside.partition('.')[0]}", audited.root).line
    return {"path": side.path, "line": line}
