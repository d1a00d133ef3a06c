"""The parameters of a net before its first step: from weight files, from fillers, or zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fcn_caffe.doctor.findings import ERROR, NOTE, Examination, Finding
from fcn_caffe.doctor.subject import Built, Subject, data_nodes
from fcn_caffe.errors import SolverError
from fcn_caffe.host.text import show
from fcn_caffe.models import Start, starts_of
from fcn_caffe.net.net import Net
from fcn_caffe.training.solver.settings import Settings, weight_names
from fcn_caffe.weights.blobs import Fit, Shaped, fit
from fcn_caffe.weights.transfer import ABSENT, Array, load_weights

__all__ = ["LINEAR", "StartState", "start_files", "start_state"]

LINEAR = ("Convolution", "Deconvolution", "InnerProduct", "Scale")
_SHOWN = 4


@dataclass
class StartState:
    """The parameters that weight files give.

    Attributes:
        arrays: the arrays by layer.
        unknown: True if a weight file is missing.
    """

    arrays: dict[str, list[Array]] = field(default_factory=dict)
    unknown: bool = False


def start_files(subject: Subject, weights: str | None) -> list[Start]:
    """List the weight files that fill the net: `weights`, else those that the solver names."""
    if weights is not None:
        return [Start(weights)]
    if subject.settings is None:
        return []
    return [
        starts_of(subject.path.stem, _path_of(subject.settings, name)) for name in weight_names(subject.settings.param)
    ]


def _path_of(settings: Settings, name: str) -> str:
    """Return the path of a file that the solver names; the name itself where it is not there."""
    try:
        return str(settings.find(name, "weights"))
    except SolverError:
        return name


def start_state(
    subject: Subject, built: Built, starts: list[Start], is_given: bool, examination: Examination
) -> StartState:
    """Read the weight files and fit them to the net, blob by blob.

    Args:
        subject: what is examined.
        built: its net.
        starts: the weight files.
        is_given: the caller gave them, so they have to be there.
        examination: takes the findings.
    Raises:
        WeightsError: a given file cannot be read.
    """
    net, result = built.net, StartState()
    for start in starts:
        path = Path(start.weights)
        if not is_given and not path.is_file():
            result.unknown = True
            examination.skip("weights, dead layers", f"{path}, which the solver starts from, is not here")
            continue
        arrays = load_weights(path)
        dense = any(
            name in net.params and net.params[name][0].ndim == 4 > blobs[0].ndim for name, blobs in arrays.items()
        )
        loose = subject.settings is not None and (start.how == "transplant" or dense)
        fitting = _fit(built, arrays, path, start.suffix, loose, examination)
        if start.wider is not None and start.can_widen(arrays):
            wide, narrow = start.wider  # as training widens it: no blob of zeros becomes one that is not
            fitting[wide] = list(arrays[narrow])
        result.arrays.update(fitting)
        if not fitting:
            names = ", ".join(list(arrays)[:_SHOWN])
            examination.add(
                [
                    Finding(
                        ERROR,
                        "weights",
                        str(path),
                        f"has no layer of the net (it has {names} …).",
                        "Weights are matched by layer name: use the net they were made with, or rename its layers.",
                    )
                ]
            )
    if starts and not result.unknown:
        _report_missing(subject, net, result, starts, examination)
    return result


def _fit(
    built: Built, weights: Mapping[str, list[Array]], path: Path, suffix: str, loose: bool, examination: Examination
) -> dict[str, list[Array]]:
    """Return the arrays that go into the net, by its layer names; report the others. loose: only counts must fit."""
    net = built.net
    of_images = {top for node in data_nodes(net.graph, inputs=True) for top in node.tops}
    fitting: dict[str, list[Array]] = {}
    for source, arrays in weights.items():
        name = source + suffix
        targets = net.params.get(name)
        if targets is None:
            continue
        blobs: list[Shaped] = [
            targets[index] if array is ABSENT and index < len(targets) else array for index, array in enumerate(arrays)
        ]
        if len(blobs) < len(targets) or (len(blobs) > len(targets) and not loose):
            problem = f"has {len(blobs)} blob(s), the net wants {len(targets)}."
            advice = "Is bias_term the same? Rename the layer to learn it from scratch."
        else:
            enough = Fit.COUNT if loose else Fit.LEGACY
            wrong = [index for index, target in enumerate(targets) if fit(blobs[index], target) < enough]
            if not wrong:
                fitting[name] = list(arrays)
                continue
            old, new = tuple(blobs[wrong[0]].shape), tuple(targets[wrong[0]].shape)
            bottoms = next(node.bottoms for node in net.graph.nodes if node.name == name)
            sized = net.layer(name).layer_type == "InnerProduct" or set(bottoms) <= of_images
            if built.assumed and sized and old[:1] == new[:1]:
                examination.skip(f"weights of layer '{name}'", "their shape follows from images that are not here")
                fitting[name] = list(arrays)
                continue
            problem = f"blob {wrong[0]} is {show(old)} in {path}, the net wants {show(new)}."
            advice = _size_advice(net.layer(name).param.convolution_param.group, old, new, set(bottoms) <= of_images)
        examination.add([Finding(ERROR, "weights", f"layer '{name}'", problem, advice)])
        fitting[name] = [np.ones(1, np.float32)] * len(targets)  # said once; its values are not judged
    return fitting


def _size_advice(group: int, old: tuple[int, ...], new: tuple[int, ...], first: bool) -> str:
    """What to do about a blob of another shape. group: the layer's; first: whether it sees the images themselves."""
    if len(old) == len(new) and old[1:] == new[1:]:
        return "Another number of classes: rename the layer to learn it from scratch, or surgery.expand_score."
    if len(old) == len(new) == 4 and old[:1] + old[2:] == new[:1] + new[2:]:
        if first and new[1] > old[1]:
            return "More input channels: surgery.widen copies the old ones, and fills the new with zero or their mean."
        if not first and (group * new[1]) % old[1] == 0:
            return f"They were made with group: {group * new[1] // old[1]}: set it in convolution_param."
    return "Rename the layer to learn it from scratch, or change the net to these sizes."


def _report_missing(
    subject: Subject, net: Net, start: StartState, starts: list[Start], examination: Examination
) -> None:
    files = ", ".join(item.weights for item in starts)
    missing = [name for name in net.params if name not in start.arrays and net.layer(name).layer_type != "Python"]
    examination.add(
        [
            Finding(
                NOTE,
                "weights",
                files,
                f"fills {len(start.arrays)} layers of the net{f', not {_names(missing)}' if missing else ''}.",
                "What it does not fill keeps what its filler gives.",
            )
        ]
    )
    if subject.settings is not None or not missing:
        return
    examination.add(
        [
            Finding(
                ERROR,
                "weights",
                files,
                f"has no weights for {_names(missing)}.",
                "score and infer refuse that. For weights that training starts from, examine the solver.",
            )
        ]
    )


def _names(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
