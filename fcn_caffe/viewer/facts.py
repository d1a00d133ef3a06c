"""All that the page says of a net or a solver, as JSON can hold it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from fractions import Fraction
from typing import Any

from fcn_caffe.doctor import Examination, examine
from fcn_caffe.doctor.subject import Subject, read_subject, tested_subjects
from fcn_caffe.errors import FcnCaffeError, GraphError
from fcn_caffe.layers.base import REGISTRY, Layer
from fcn_caffe.net.boxes import Box, box_label, box_reads, kind, make_boxes, make_stages, stage_titles
from fcn_caffe.net.coord_map import CoordMap, Step, derive_crop, receptive_field
from fcn_caffe.net.graph import Node
from fcn_caffe.net.layout import lay_out, svg_path
from fcn_caffe.net.multiply_adds import layer_multiply_adds
from fcn_caffe.net.net import Net
from fcn_caffe.net.parameters import LearnableParam
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.viewer.filters import blob_facts, filter_picture
from fcn_caffe.viewer.options import Option, layer_options, meanings, solver_options
from fcn_caffe.viewer.shape_rules import shape_rule
from fcn_caffe.weights.record import read_preprocessing
from fcn_caffe.weights.transfer import BlobCounts, load_weights

__all__ = ["form_facts", "view_facts"]

DEPLOY = "deploy"
_CROPS = ("AutoCrop", "Crop")
_LAYER = re.compile(r"layer '(.*?)' \(")  # as errors and findings name one
FOLDED_COLUMN = 4  # folded stages under one another
_MOST_LAYERS = 1000  # of a net whose receptive fields are followed: the way down is walked from each layer
Json = dict[str, Any]
Learnable = Mapping[tuple[int, int], LearnableParam]  # by a layer's number and the blob's in it


def view_facts(path: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> Json:
    """Return what a page says of a net or a solver file.

    Args:
        path: the file.
        weights: whose filters and histograms are shown.

    Raises:
        PrototxtError, SolverError: the file cannot be read.
        GraphError, LayerError: none of its nets can be built.
        WeightsError: `weights` cannot be read.
    """
    subject = read_subject(path)
    if weights is not None:
        subject.blob_counts = BlobCounts([weights])
    forms, errors = _forms(subject)
    if not forms:
        raise errors[0][1]
    examination = examine(path, weights)
    options = _number_options(forms)
    used = {option.key for option in options}
    settings: list[Option] = [] if subject.settings is None else solver_options(subject.settings.param)
    used |= {option.key for option in settings}
    types = {layer["type"] for form in forms for layer in form["layers"]}
    return {
        "file": os.path.basename(path),
        "weights_file": None if weights is None else os.path.basename(weights),
        "forms": forms,
        "failed": [{"title": title, "error": str(error)} for title, error in errors],
        "options": options,
        "settings": settings,
        "meanings": {key: text for key, text in meanings().items() if key in used},
        "types": {type: _first_sentence(type) for type in sorted(types)},
        "weights": {} if weights is None else _weight_facts(forms, weights),
        "findings": _findings(examination),
        "not_checked": [list(item) for item in examination.not_checked],
    }


def _number_options(forms: Sequence[Json]) -> list[Option]:
    """Put numbers in the place of the layers' options, most of which are alike; return the options by number."""
    numbers: dict[Option, int] = {}
    for form in forms:
        for layer in form["layers"]:
            layer["options"] = [numbers.setdefault(option, len(numbers)) for option in layer["options"]]
    return list(numbers)


def _forms(subject: Subject) -> tuple[list[Json], list[tuple[str, FcnCaffeError]]]:
    """The nets that a file stands for, each different from those before it, and those that cannot be built."""
    forms: list[Json] = []
    errors: list[tuple[str, FcnCaffeError]] = []
    seen: list[caffe_pb2.NetParameter] = []

    def add(subject: Subject, title: str, phase: int, is_deploy: bool = False) -> None:
        if not is_deploy and subject.has_no_net(phase):
            return
        try:
            param = subject.param(phase, (DEPLOY,) if is_deploy else None)
            if is_deploy and not any(layer.type == "Input" for layer in param.layer):
                return
            plain = _without_phase(param)
            if plain in seen:
                return
            note = ""
            if is_deploy:
                net = Net(param, phase, stages=(DEPLOY,), device="meta", paths=subject.paths)
            else:
                built = subject.build(phase)
                net = built.net
                if built.assumed:
                    note = (
                        f"The sizes are assumed: {built.data_error}" if built.data_error else "The sizes are assumed."
                    )
            seen.append(plain)
            forms.append({"title": title, "note": note, **form_facts(net)})
        except FcnCaffeError as error:
            errors.append((title, error))

    if subject.settings is None:
        add(subject, DEPLOY, TEST, is_deploy=True)
        add(subject, "test", TEST)
    add(subject, "train", TRAIN)
    if subject.settings is not None:
        tests = [subject]
        with suppress(FcnCaffeError):  # doctor finds it
            tests = tested_subjects(subject)
        for index, tested in enumerate(tests):
            add(tested, f"test {index}" if len(tests) > 1 else "test", TEST)
    return forms, errors


def _without_phase(param: caffe_pb2.NetParameter) -> caffe_pb2.NetParameter:
    """The layers of a net, without the phase that each got of it."""
    plain = caffe_pb2.NetParameter(layer=param.layer)
    for layer in plain.layer:
        layer.ClearField("phase")
    return plain


def form_facts(net: Net) -> Json:
    """Return what a page says of one net."""
    nodes = net.graph.nodes
    layers = list(net.param.layer)
    boxes = make_boxes(layers)
    stages = make_stages(boxes, layers, net.blob_shapes)
    titles = stage_titles(boxes, layers, stages)
    learnable = {(item.node, item.index): item for item in net.learnable_params}
    return {
        "name": net.name,
        "layers": [_layer_facts(net, node, learnable) for node in nodes],
        "shapes": {blob: list(shape) for blob, shape in net.blob_shapes.items()},
        "boxes": [
            {"layers": box.layers, "kind": kind(layers[box.layers[0]]), "does": box_label(box, layers), "stage": stage}
            for box, stage in zip(boxes, stages, strict=True)
        ],
        "stages": titles,
        "pictures": _pictures(boxes, stages),
    }


# -- layers ------------------------------------------------------------------------------------------------------------


def _layer_facts(net: Net, node: Node, learnable: Learnable) -> Json:
    layer = net.layer(node)
    facts: Json = {
        "name": node.name,
        "type": node.type,
        "bottoms": node.bottoms,
        "tops": node.tops,
        "options": layer_options(node.param),
        "rule": shape_rule(layer),
        "blobs": _blobs(node, layer, learnable),
        "parameters": sum(blob.numel() for blob in layer.blobs),
        "adds": layer_multiply_adds(net, node),
    }
    if node.tops and len(net.graph.nodes) > _MOST_LAYERS:
        facts["blind"] = f"receptive fields are followed in nets of up to {_MOST_LAYERS:,} layers"
    elif node.tops:
        try:
            field = receptive_field(net.graph, node.tops[0])
            facts["sees"] = [field.size, _fraction(field.stride), _fraction(field.centre)]
        except GraphError as error:
            facts["blind"] = str(error)
    if node.type in _CROPS:
        facts["crop"] = _crop(net, node)
    return facts


def _blobs(node: Node, layer: Layer, learnable: Learnable) -> list[Json]:
    specs = list(node.param.param)
    made = []
    for index, (name, blob) in enumerate(zip(layer.blob_names, layer.blobs, strict=True)):
        facts: Json = {"name": name, "shape": list(blob.shape)}
        if param := learnable.get((node.index, index)):
            facts |= {"lr_mult": param.lr_mult, "decay_mult": param.decay_mult}
        else:
            facts["shared"] = specs[index].name if index < len(specs) else ""
        made.append(facts)
    return made


def _crop(net: Net, node: Node) -> Json:
    """How the offset of a crop follows from coordinate maps; where it cannot, why."""
    try:
        made = derive_crop(net.graph, node.bottoms[0], node.bottoms[1])
    except GraphError as error:
        return {"error": str(error)}
    return {
        "common": made.common.name,
        "from": [_step(step) for step in made.from_steps],
        "to": [_step(step) for step in made.to_steps],
        "offset": [_fraction(offset) for offset in dict.fromkeys(made.result.offset)],
        "scale": [_fraction(scale) for scale in dict.fromkeys(made.result.scale)],
    }


def _step(step: Step) -> list[str]:
    return [step.node.name, step.node.type, _map(step.map), _map(step.to_blob)]


def _map(map: CoordMap) -> str:
    """Write the map along the first axis: x / 2 - 1/2."""
    scale, offset = map.scale[0], map.offset[0]
    product = "x" if scale == 1 else f"x / {1 / scale}" if scale < 1 else f"{_fraction(scale)} x"
    return product + (f" {'-' if offset < 0 else '+'} {_fraction(abs(offset))}" if offset else "")


def _fraction(value: Fraction) -> str:
    """Write a fraction as a decimal where that is exact and short, else as a fraction."""
    decimal = f"{float(value):.6g}"
    return decimal if "e" not in decimal and Fraction(decimal) == value else str(value)


def _first_sentence(type: str) -> str:
    """What a layer type does, from its class."""
    return " ".join((REGISTRY[type].__doc__ or "").split("\n\n")[0].split())


# -- pictures ----------------------------------------------------------------------------------------------------------


def _pictures(boxes: Sequence[Box], stages: Sequence[int]) -> Json:
    """The layouts that the page shows: all stages folded, all open, and each one open alone.

    A node of a picture is a box, or a stage that is folded: -1 for stage 0, -2 for stage 1, and so on.
    """
    reads = box_reads(boxes)
    count = 1 + max(stages, default=-1)
    lone = {stage for stage in range(count) if stages.count(stage) == 1}
    choices: dict[str, Iterable[int]] = {"folded": (), "open": range(count)}
    choices |= {str(stage): (stage,) for stage in range(count) if stage not in lone}
    return {key: _picture(boxes, reads, stages, {*chosen, *lone}) for key, chosen in choices.items()}


def _picture(boxes: Sequence[Box], reads: Sequence[Sequence[int]], stages: Sequence[int], opened: set[int]) -> Json:
    shown = [box if stages[box] in opened else -1 - stages[box] for box in range(len(boxes))]
    ids = list(dict.fromkeys(shown))
    place = {id: at for at, id in enumerate(ids)}
    node_reads: list[list[int]] = [[] for _ in ids]
    flows: set[tuple[int, int]] = set()
    for box, below in enumerate(reads):
        for other in below:
            source, target = place[shown[other]], place[shown[box]]
            if source == target:
                continue
            if source not in node_reads[target]:
                node_reads[target].append(source)
            if other in boxes[box].reads:
                flows.add((source, target))
    # Folded stages that follow one another stand in one column; an open one has its own.
    node_stages = [-1 - id if id < 0 else stages[id] for id in ids]
    columns = [0]
    for at in range(1, len(ids)):
        is_open = ids[at] >= 0 or ids[at - 1] >= 0
        is_full = columns.count(columns[-1]) >= FOLDED_COLUMN
        columns.append(columns[-1] + ((is_open or is_full) and node_stages[at] != node_stages[at - 1]))
    made = lay_out(node_reads, columns)
    framed = [frame for frame in made.frames if columns.count(frame.stage) > 1 and ids[columns.index(frame.stage)] >= 0]
    return {
        "size": [made.width, made.height],
        "nodes": [[id, *corner] for id, corner in zip(ids, made.corners, strict=True)],
        "frames": [[node_stages[columns.index(frame.stage)], *frame[1:]] for frame in framed],
        "lines": [
            [ids[route.source], ids[route.target], int((route.source, route.target) in flows), svg_path(route.points)]
            for route in made.routes
        ],
    }


# -- weights and findings ----------------------------------------------------------------------------------------------


def _weight_facts(forms: Sequence[Json], path: str | os.PathLike[str]) -> Json:
    """By layer, what is said of the blobs that a weight file has for it."""
    wanted = {layer["name"]: layer for form in reversed(forms) for layer in form["layers"] if layer["blobs"]}
    record = read_preprocessing(path)
    is_bgr = record is None or record.channel_order != "RGB"
    firsts = _first_convolutions(forms)
    facts: Json = {}
    for name, arrays in load_weights(path).items():
        if name not in wanted:
            continue
        shapes = [blob["shape"] for blob in wanted[name]["blobs"]]
        facts[name] = {"blobs": [blob_facts(array) for array in arrays]}
        if shapes != [list(array.shape) for array in arrays]:
            facts[name]["misfit"] = True
        if arrays and (picture := filter_picture(arrays[0], name in firsts, is_bgr)):
            facts[name]["picture"] = picture
    return facts


def _first_convolutions(forms: Sequence[Json]) -> set[str]:
    """The layers whose first bottom is made by a layer without bottoms, or by one that only changes its values."""
    firsts: set[str] = set()
    for form in forms:
        images: set[str] = set()
        for layer in form["layers"]:
            if not layer["bottoms"] or (layer["bottoms"][0] in images and layer["rule"]["rule"] == "same"):
                images.update(layer["tops"])
            elif layer["bottoms"][0] in images:
                firsts.add(layer["name"])
    return firsts


def _findings(examination: Examination) -> list[Json]:
    made = []
    for finding in examination.findings:
        match = _LAYER.search(finding.where)
        made.append({**asdict(finding), "layer": match[1] if match else None})
    return made
