"""A net that is to be exported: its deploy form, filled, with what is known of its inputs and classes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fcn_caffe.errors import GraphError, WeightsError
from fcn_caffe.evaluation.net_inputs import check_preprocessing, known_preprocessing, net_preprocessing
from fcn_caffe.host.pictures import palette
from fcn_caffe.layers.base import REGISTRY
from fcn_caffe.net.graph import read_net
from fcn_caffe.net.net import Net
from fcn_caffe.net.rewrite.deploy_form import deploy_form, keep_outputs
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TEST
from fcn_caffe.weights.record import Preprocessing, read_preprocessing, sha256_of
from fcn_caffe.weights.transfer import copy_weights, count_blobs, load_weights

__all__ = ["Subject", "read_subject"]

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Subject:
    """A net with its weights.

    made_by: how its inputs are made, as far as that is known, and its classes. outputs: the blobs to give.
    """

    net: Net
    weights: Path
    made_by: Preprocessing
    outputs: tuple[str, ...]

    def facts(self) -> dict[str, str]:
        """Return what a file says of itself, in words and JSON: who reads it needs nothing else."""
        made_by = self.made_by
        facts = {
            "net": self.net.name,
            "weights": self.weights.name,
            "weights_sha256": sha256_of(self.weights),
            "channel_order": made_by.channel_order,
            "mean": None if made_by.mean is None else json.dumps(made_by.mean),
            "scale": None if made_by.scale is None else json.dumps(made_by.scale),
        }
        if self.classes is not None:
            facts["classes"] = json.dumps(self.classes, ensure_ascii=False)
        count = max((shape[1] for shape in self._outputs() if len(shape) > 1), default=0)
        if 1 < count <= 256:
            facts["colors"] = json.dumps(made_by.colors or palette(count).tolist())
        return {name: fact for name, fact in facts.items() if fact is not None}

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes; None where no output has that many."""
        names = self.made_by.classes
        return names if names and any(shape[1:2] == (len(names),) for shape in self._outputs()) else None

    def _outputs(self) -> list[tuple[int, ...]]:
        return [self.net.blob_shapes[name] for name in self.outputs]


def read_subject(
    path: PathLike,
    weights: PathLike,
    *,
    stages: Sequence[str] = ("deploy",),
    level: int = 0,
    input_size: Sequence[int] | None = None,
    outputs: Sequence[str] = (),
    mean: Sequence[float] | None = None,
    channel_order: str | None = None,
    trust: bool = False,
) -> Subject:
    """Read a net and fill it.

    A net that trains loses its data layers, losses and labels; see `deploy_form`.

    Args:
        path: the net's file.
        weights: their file, in any form.
        stages: with level, the state that decides which layers are in.
        level: as stages.
        input_size: the height and width that the net is built for, where its file does not say.
        outputs: the blobs that the net is to end at; by default its outputs.
        mean: what is subtracted from inputs, in place of what the net and the record say.
        channel_order: BGR or RGB, likewise.
        trust: whether weights that were made for other inputs will do.

    Raises:
        PrototxtError: the net cannot be read.
        GraphError: it cannot be built.
        LayerError: a layer cannot.
        WeightsError: the weights do not fit, lack a layer, or were made for other inputs.
    """
    file = Path(weights)
    arrays = load_weights(file)
    if not trust:
        check_preprocessing(file, path, mean)
    param = read_net(path, TEST, stages, level, blob_counts=count_blobs(arrays))
    param.ClearField("debug_info")
    if input_size is not None or any(_is_for_training(layer) for layer in param.layer):
        param, _ = deploy_form(param, input_size, arrays)
    net = Net(keep_outputs(param, outputs) if outputs else param)
    report = copy_weights(net, arrays, source=file)
    if report.missing:
        raise WeightsError(
            f"{file}: has no weights for layer {', '.join(map(str, report.missing))} of {os.fspath(path)}. "
            "Use weights trained with this net, or the net they were trained with."
        )
    made_by = _made_by(path, file, mean, channel_order)
    return Subject(net, file, made_by, _outputs(net, outputs))


def _outputs(net: Net, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the outputs to give: the wanted ones, by default all but inputs that no layer reads."""
    makers = {top: step.node.type for step in net.steps for top in step.tops}
    computed = tuple(name for name in net.graph.outputs if makers[name] != "Input")
    if not computed:
        raise GraphError(
            f"net '{net.name}' computes nothing: its outputs, {', '.join(net.graph.outputs)}, are its inputs. "
            "Export a net with layers."
        )
    return tuple(wanted) or computed


def _made_by(path: PathLike, weights: Path, mean: Sequence[float] | None, channel_order: str | None) -> Preprocessing:
    """What is known of a net's inputs: by the weights' record, else the net's data layer, else the weights' name."""
    known = known_preprocessing(weights).with_facts_of(net_preprocessing(path))
    known = known.with_facts_of(read_preprocessing(weights) or Preprocessing())
    if mean is not None:
        known = replace(known, mean=tuple(mean), mean_file=None)
    return known if channel_order is None else replace(known, channel_order=channel_order)


def _is_for_training(layer: caffe_pb2.LayerParameter) -> bool:
    """Whether a layer is none of a deploy form: it reads data, or compares with the truth."""
    if not layer.bottom:
        return layer.type not in ("Input", "Parameter")
    known = REGISTRY.get(layer.type)
    return layer.type == "Accuracy" or (known is not None and known.loss)
