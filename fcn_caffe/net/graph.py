"""From a NetParameter to layers in order: phase rules, wiring, sharing, last use. No torch here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fcn_caffe.errors import GraphError, PrototxtError
from fcn_caffe.host.text import did_you_mean
from fcn_caffe.proto import caffe_pb2, read_text
from fcn_caffe.proto.phases import TEST
from fcn_caffe.proto.upgrade import upgrade_net


def read_net(path: str | os.PathLike[str], phase: int = TEST, stages: Sequence[str] = (), level: int = 0) -> Any:
    """Read a net file, upgrade old forms, and keep the layers of one phase, level and set of stages.

    Raises: PrototxtError with file:line:column; GraphError for a layer with include and exclude rules.
    """
    if os.path.isdir(path):
        raise PrototxtError("is a folder. Give the net file in it.", path)
    if not Path(path).is_file():
        raise PrototxtError(
            "no such net file. Check the path; net paths in a solver are relative to where you run it.", path
        )
    param = read_text(path, caffe_pb2.NetParameter)
    return filter_net(upgrade_net(param, path), phase, stages, level)


def filter_net(param: Any, phase: int = TEST, stages: Sequence[str] = (), level: int = 0) -> Any:
    """A copy of an upgraded NetParameter with the layers whose rules the state meets; `phase` is set on each.

    stages: besides those of the net's own `state`, whose phase and level the given ones replace.
    Raises: GraphError for a layer with include and exclude rules. Source: Caffe Net::Net, Net::FilterNet.
    """
    state = caffe_pb2.NetState(phase=phase, level=level, stage=dict.fromkeys((*param.state.stage, *stages)))
    kept = caffe_pb2.NetParameter()
    kept.CopyFrom(param)
    kept.ClearField("layer")
    kept.state.CopyFrom(state)
    for layer in param.layer:
        if layer.include and layer.exclude:
            raise GraphError(f"layer '{layer.name}' ({layer.type}): give include rules or exclude rules, not both.")
        if layer.include:
            wanted = any(meets(state, rule) for rule in layer.include)
        else:
            wanted = not any(meets(state, rule) for rule in layer.exclude)
        if wanted:
            added = kept.layer.add()
            added.CopyFrom(layer)
            if not added.HasField("phase"):
                added.phase = phase
    return kept


def meets(state: Any, rule: Any) -> bool:
    """Whether a NetState meets a NetStateRule. Source: Caffe Net::StateMeetsRule."""
    return (
        (not rule.HasField("phase") or rule.phase == state.phase)
        and (not rule.HasField("min_level") or state.level >= rule.min_level)
        and (not rule.HasField("max_level") or state.level <= rule.max_level)
        and all(stage in state.stage for stage in rule.stage)
        and not any(stage in state.stage for stage in rule.not_stage)
    )


# Begins the names of tops that a loss was given because its file names none: they are not outputs.
AUTOMATIC = "(automatic)"


@dataclass(frozen=True)
class Node:
    """One layer in its place: what it reads and what it writes, by blob name."""

    index: int
    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    param: Any

    @property
    def in_place(self) -> bool:
        """Whether the first top takes the first bottom's name."""
        return bool(self.bottoms) and bool(self.tops) and self.tops[0] == self.bottoms[0]

    def __str__(self) -> str:
        return f"layer '{self.name}' ({self.type})"


@dataclass(frozen=True)
class Graph:
    """Layers in file order, wired by blob name.

    outputs: tops that no layer reads, sorted. inputs: tops of Input layers, in file order.
    last_use: for each node index, the blobs that nothing after it reads (outputs excluded).
    overwritable: indices of in-place nodes that are the only reader of the version of the blob they rebind.
    """

    name: str
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    last_use: tuple[tuple[str, ...], ...]
    overwritable: frozenset[int]
    producers: dict[tuple[int, int], int] = field(repr=False)  # (node, bottom position) -> node that made it

    @classmethod
    def from_param(cls, param: Any) -> Graph:
        """Wire an upgraded, filtered NetParameter.

        Raises: GraphError for a bottom no earlier layer makes, a top made twice, a repeated layer name,
        or propagate_down given a number of times that is not the number of bottoms. Source: Caffe Net::Init.
        """
        nodes: list[Node] = []
        maker: dict[str, int] = {}  # blob -> node that made its present version
        readers: dict[tuple[str, int], int] = {}  # (blob, its maker) -> number of readers
        unread: set[str] = set()
        producers: dict[tuple[int, int], int] = {}
        names: set[str] = set()
        for index, layer in enumerate(param.layer):
            node = Node(index, layer.name, layer.type, tuple(layer.bottom), tuple(layer.top), layer)
            if node.name in names:
                raise GraphError(f"{node}: the layer name is already taken. Give each layer its own name.")
            names.add(node.name)
            for position, bottom in enumerate(node.bottoms):
                if bottom not in maker:
                    raise GraphError(
                        f"{node}: bottom '{bottom}' is not produced by an earlier layer. {_hint(bottom, maker, param)}"
                    )
                producers[index, position] = maker[bottom]
                readers[bottom, maker[bottom]] = readers.get((bottom, maker[bottom]), 0) + 1
                unread.discard(bottom)
            if len(layer.propagate_down) not in (0, len(node.bottoms)):
                raise GraphError(
                    f"{node}: propagate_down is given {len(layer.propagate_down)} times, "
                    f"wanted none or once for each of the {len(node.bottoms)} bottoms."
                )
            for position, top in enumerate(node.tops):
                in_place = position < len(node.bottoms) and node.bottoms[position] == top
                if top in maker and not in_place:
                    first = nodes[maker[top]] if maker[top] < index else node
                    raise GraphError(
                        f"{node}: top '{top}' is already produced by {first}. "
                        "Rename the top, or make the layer in place (top equal to bottom)."
                    )
                maker[top] = index
                if not top.startswith(AUTOMATIC):
                    unread.add(top)
            nodes.append(node)
        overwritable = frozenset(
            node.index for node in nodes if node.in_place and readers[node.bottoms[0], producers[node.index, 0]] == 1
        )
        return cls(
            name=param.name,
            nodes=tuple(nodes),
            outputs=tuple(sorted(unread)),
            inputs=tuple(top for node in nodes if node.type == "Input" for top in node.tops),
            last_use=_last_use(nodes, unread),
            overwritable=overwritable,
            producers=producers,
        )


def _hint(bottom: str, maker: Iterable[str], param: Any) -> str:
    if any(bottom in layer.top for layer in param.layer):
        return "Layers run in file order: move the layer that makes it up."
    return f"Layers run in file order.{did_you_mean(bottom, maker)}"


def _last_use(nodes: Sequence[Node], outputs: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    seen = set(outputs)
    frees: list[tuple[str, ...]] = []
    for node in reversed(nodes):
        frees.append(tuple(blob for blob in dict.fromkeys((*node.bottoms, *node.tops)) if blob not in seen))
        seen.update(node.bottoms, node.tops)
    return tuple(reversed(frees))
