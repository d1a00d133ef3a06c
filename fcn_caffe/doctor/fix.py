"""Writes a net with the crop offsets that the coordinate map gives; the rest of its text stays as it is."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from fcn_caffe.doctor.structure import crop_text, wrong_crops
from fcn_caffe.errors import GraphError, PrototxtError
from fcn_caffe.net.graph import filter_net
from fcn_caffe.proto import caffe_pb2, parse_text, read_text
from fcn_caffe.proto.files import replace
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.proto.spans import Span, layer_spans
from fcn_caffe.proto.upgrade import upgrade_net

__all__ = ["fix_crops"]


def fix_crops(path: str | os.PathLike[str], target: str | os.PathLike[str]) -> dict[str, list[int]]:
    """Write a net in which each Crop has the offset of the coordinate map, whole or not at all.

    Comments and layout stay; a layer without a right offset stays as it is, too.

    Args:
        path: the net file, as text.
        target: the file to write; may be the same.

    Returns:
        The offsets that were written, by layer name.

    Raises:
        PrototxtError: the net cannot be read, has V1 layers, or the file cannot be written.
        GraphError: its layers do not fit together in either phase.
    """
    net = read_text(path, caffe_pb2.NetParameter)
    if len(net.layers):
        raise PrototxtError("has old `layers`, which have no crop_param. Run `fcn-caffe upgrade_net` first.", path)
    text = Path(path).read_bytes().decode("utf-8-sig", "surrogateescape")
    offsets = _offsets(net)
    spans = layer_spans(text)
    for index in sorted(offsets, reverse=True):  # from behind, so that places before stay
        text = _with_offset(text, spans[index], offsets[index])
    fixed = parse_text(text, caffe_pb2.NetParameter, path)
    assert not _offsets(fixed)
    replace(target, text.encode("utf-8", "surrogateescape"))
    return {net.layer[index].name: offsets[index] for index in sorted(offsets)}


def _offsets(net: caffe_pb2.NetParameter) -> dict[int, list[int]]:
    """Return the right offsets of wrong crops by the layer's place in the file, from both phases."""
    offsets: dict[int, list[int]] = {}
    problems: list[GraphError] = []
    for phase in (TRAIN, TEST):
        copy = caffe_pb2.NetParameter()
        copy.CopyFrom(net)
        upgrade_net(copy)
        places = [place for place, layer in enumerate(copy.layer) if _is_in(layer, copy.state, phase)]
        added = len(copy.layer) - len(net.layer)  # an Input layer for the net's own inputs
        try:
            for _, index, right in wrong_crops(filter_net(copy, phase)):
                if right:
                    offsets[places[index] - added] = right
        except GraphError as error:
            problems.append(error)
    if len(problems) == len((TRAIN, TEST)):
        raise problems[0]
    return offsets


def _is_in(layer: caffe_pb2.LayerParameter, state: caffe_pb2.NetState, phase: int) -> bool:
    alone = caffe_pb2.NetParameter(layer=[layer], state=state)
    return bool(filter_net(alone, phase).layer)


def _with_offset(text: str, layer: Span, offset: list[int]) -> str:
    """Return the text with a layer's crop_param set."""
    options = crop_text(offset)
    with suppress(StopIteration):
        old = next(span for span in layer.inner if span.name == "crop_param")
        return text[: old.start] + options + text[old.close + 1 :]
    line = text.rfind("\n", 0, layer.close) + 1
    if text[line : layer.close].strip():  # the mark closes a line with more on it
        return f"{text[: layer.close].rstrip(' ')} {options} {text[layer.close :]}"
    indent = text[line : layer.close] + "  "
    return f"{text[:line]}{indent}{options}\n{text[line:]}"
