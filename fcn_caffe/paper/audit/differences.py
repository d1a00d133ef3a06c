"""Where the released nets and solvers part from the text of CVPR 2015: computed from the files of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.paper.audit.locate import locate
from fcn_caffe.paper.audit.released.fields import Facts, Layer, read_layers, show_value, solver_facts
from fcn_caffe.paper.audit.released.solvers import EXEMPT
from fcn_caffe.training.solver import read_solver

__all__ = ["PAIRS", "Difference", "differences"]

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
_USUAL = {"iter_size": 1}


@dataclass(frozen=True)
class Difference:
    """A thing that both say, each its own: the two values, and the file and line of each; line None for a default."""

    what: str
    release: str
    cvpr: str
    where_release: dict[str, Any]
    where_cvpr: dict[str, Any]


def differences(audited: AuditedFiles) -> list[Difference]:
    """Every field in which a net or solver of the release differs from the one that follows the text.

    Raises: FcnCaffeError for a file that cannot be read.
    """
    found: list[Difference] = []
    for ours, theirs in PAIRS:
        found += _of_solvers(audited, ours, theirs)
        found += _of_nets(audited, ours, theirs)
    return found


def _of_solvers(audited: AuditedFiles, ours: str, theirs: str) -> list[Difference]:
    one, other = (solver_facts(read_solver(audited.solver_path(name)), audited.root) for name in (ours, theirs))
    return [
        _difference(
            audited,
            f"{ours}: {_WORDS.get(key, key)}",
            (f"solvers/{ours}.prototxt", key, one),
            (f"solvers/{theirs}.prototxt", key, other),
            key,
        )
        for key in sorted({**one, **other})
        if key not in (*EXEMPT, "net") and _plain(one.get(key), ours) != _plain(other.get(key), theirs)
    ]


def _of_nets(audited: AuditedFiles, ours: str, theirs: str) -> list[Difference]:
    sides = [
        {(layer.name, layer.states): layer for layer in read_layers(audited.net_path(name))} for name in (ours, theirs)
    ]
    found = []
    for key in {**sides[0], **sides[1]}:
        facts = [_facts(side.get(key)) for side in sides]
        for option in sorted({**facts[0], **facts[1]}):
            if facts[0].get(option) != facts[1].get(option):
                inside, words = f"{key[0]}.{option}", f"{ours}, {key[0]}: {_WORDS.get(option, option)}"
                one = f"nets/{ours}.prototxt", inside, facts[0]
                found.append(_difference(audited, words, one, (f"nets/{theirs}.prototxt", inside, facts[1]), option))
    return found


def _facts(layer: Layer | None) -> Facts:
    if layer is None:
        return {}
    return {"type": layer.type, "bottom": layer.bottoms, "top": layer.tops, **layer.options}


def _plain(value: Any, name: str) -> Any:
    """A value without the name of the family of its net: both start a finer net from their own coarser one."""
    family = name.partition("-")[0]
    return tuple(str(one).replace(f"{family}-", "") for one in value) if isinstance(value, tuple) else value


def _difference(
    audited: AuditedFiles, what: str, ours: tuple[str, str, Facts], theirs: tuple[str, str, Facts], key: str
) -> Difference:
    values = [_told(facts.get(key, _USUAL.get(key))) for _, _, facts in (ours, theirs)]
    return Difference(what, values[0], values[1], _place(audited, ours), _place(audited, theirs))


def _place(audited: AuditedFiles, side: tuple[str, str, Facts]) -> dict[str, Any]:
    path, inside, _ = side
    line = locate(f"{path}:{inside}", audited.root).line
    if line is None:
        line = locate(f"{path}:{inside.partition('.')[0]}", audited.root).line
    return {"path": path, "line": line}


def _told(value: Any) -> str:
    return _SILENT if value is None else show_value(value)
