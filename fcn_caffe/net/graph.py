"""Makes a graph of a NetParameter: the layers of one phase in order, wired by blob name. No torch here."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fcn_caffe.errors import GraphError, PrototxtError
from fcn_caffe.host.text import did_you_mean
from fcn_caffe.net.fork_choice import choose_forks, with_fork
from fcn_caffe.proto import caffe_pb2, read_text
from fcn_caffe.proto.kept import kept_lines
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.proto.upgrade import CROP_TO_DERIVE, upgrade_net


def read_net(
    path: str | os.PathLike[str],
    phase: int = TEST,
    stages: str | Sequence[str] = (),
    level: int = 0,
    *,
    fork: str = "",
    strict: bool | None = None,
    blob_counts: Mapping[str, int] | None = None,
) -> caffe_pb2.NetParameter:
    """Read a net file, upgrade old forms, and keep the layers of one phase, level and set of stages.

    Args:
        path: the file.
        phase: as in `filter_net`.
        stages: as in `filter_net`.
        level: as in `filter_net`.
        fork: as in `Net`.
        strict: as in `Net`.
        blob_counts: as in `Net`.

    Raises:
        PrototxtError: the file is not there, or cannot be read; the error says file:line:column.
        GraphError: a layer has include and exclude rules.
    """
    if os.path.isdir(path):
        raise PrototxtError("is a folder. Give the net file in it.", path)
    if "{" in os.fspath(path) and not os.path.isfile(path):
        raise PrototxtError("expected the path of a net file, got a net's text. Write it into a file.")
    if not os.path.isfile(path):
        raise PrototxtError(
            "no such net file. Check the path; net paths in a solver are relative to where you run it.", path
        )
    param = read_text(path, caffe_pb2.NetParameter, strict=strict)
    upgrade_net(param, path)
    try:
        return filter_net(with_fork(param, fork, blob_counts), phase, stages, level)
    except GraphError as error:
        raise error.named(os.fspath(path)) from error.__cause__


def filter_net(
    param: caffe_pb2.NetParameter, phase: int = TEST, stages: str | Sequence[str] = (), level: int = 0
) -> caffe_pb2.NetParameter:
    """Copy an upgraded NetParameter, with the layers whose rules the state meets; each gets its `phase`.

    Args:
        phase: replaces that of the net's own `state`.
        stages: come on top of those of the net's own `state`.
        level: replaces that of the net's own `state`.

    V1's CROP, of the first FCN release, AutoCrop, and a Crop of a fork without crop_param get the offset that the
    coordinate map gives; `hole` becomes dilation; each layer gets its `fork`, as `choose_forks` says.

    Raises:
        GraphError: a layer has include and exclude rules, or a V1 CROP has no offset; or the phase,
            a stage or the level is none.

    Source: Caffe Net::Net, Net::FilterNet; longjon's CropLayer.
    """
    state = _make_state(param.state, phase, [stages] if isinstance(stages, str) else stages, level)
    filtered = caffe_pb2.NetParameter()
    filtered.CopyFrom(param)
    filtered.ClearField("layer")
    filtered.state.CopyFrom(state)
    for layer in param.layer:
        if layer.include and layer.exclude:
            raise GraphError(f"layer '{layer.name}' ({layer.type}): give include rules or exclude rules, not both.")
        if layer.include:
            included = any(meets(state, rule) for rule in layer.include)
        else:
            included = not any(meets(state, rule) for rule in layer.exclude)
        if included:
            copy = filtered.layer.add()
            copy.CopyFrom(layer)
            if not copy.HasField("phase"):
                copy.phase = phase
            _use_dilation(copy)
    choose_forks(filtered)
    _derive_offsets(filtered)
    return filtered


def _make_state(own: caffe_pb2.NetState, phase: int, stages: Iterable[str], level: int) -> caffe_pb2.NetState:
    if phase not in (TRAIN, TEST):
        raise GraphError(f"a net's phase is TRAIN (0) or TEST (1), not {phase!r}.")
    try:
        return caffe_pb2.NetState(phase=phase, level=level, stage=dict.fromkeys((*own.stage, *stages)))
    except (TypeError, ValueError) as error:
        raise GraphError(f"stages {stages!r} should be names, level {level!r} a whole number ({error}).") from error


def upgrade_whole_net(net: caffe_pb2.NetParameter, path: str | os.PathLike[str] = "<net>") -> caffe_pb2.NetParameter:
    """Upgrade a net of both phases in place, as `upgrade_net`, and give V1's CROP layers their offsets.

    Returns:
        The same net.

    Raises:
        PrototxtError: as `upgrade_net`.
        GraphError: a V1 CROP has no offset.
    """
    upgrade_net(net, path)
    derived: dict[tuple[str, str], caffe_pb2.CropParameter] = {}
    if any(_is_v1_crop(layer) for layer in net.layer):
        for phase in (TRAIN, TEST):
            layers = filter_net(net, phase).layer
            derived.update(((layer.name, layer.top[0]), layer.crop_param) for layer in layers if layer.type == "Crop")
    for layer in net.layer:
        if _is_v1_crop(layer) and (layer.name, layer.top[0]) in derived:
            _set_crop(layer, derived[layer.name, layer.top[0]])
    return net


def _is_v1_crop(layer: caffe_pb2.LayerParameter) -> bool:
    return layer.type == "Crop" and CROP_TO_DERIVE in kept_lines(layer)


def _is_to_derive(layer: caffe_pb2.LayerParameter) -> bool:
    if (layer.type == "Crop" and layer.fork == "hed") or layer.type == "AutoCrop":
        return not layer.HasField("crop_param") and len(layer.bottom) == 2
    return _is_v1_crop(layer)


def _use_dilation(layer: caffe_pb2.LayerParameter) -> None:
    """Write DeepLab v1's `hole` as dilation, which means the same."""
    if not layer.HasField("convolution_param"):
        return
    options = layer.convolution_param
    holes = [name for name in ("hole", "hole_h", "hole_w") if options.HasField(name)]
    if not holes:
        return
    who = f"layer '{layer.name}' ({layer.type})"
    if options.dilation:
        raise GraphError(f"{who}: has both hole and dilation, which mean the same. Keep dilation.")
    if len(holes) == 2 and "hole" not in holes:
        options.dilation.extend([options.hole_h, options.hole_w])
    elif holes == ["hole"]:
        options.dilation.append(options.hole)
    else:
        raise GraphError(f"{who}: give hole, or hole_h and hole_w, not {' and '.join(holes)}.")
    for name in holes:
        options.ClearField(name)


def _derive_offsets(param: caffe_pb2.NetParameter) -> None:
    """Give each Crop that says so the offset of the coordinate map; the others before it have theirs by then."""
    from fcn_caffe.net.coord_map import crop_offset  # it needs graphs

    for index, layer in enumerate(param.layer):
        if _is_to_derive(layer):
            above = caffe_pb2.NetParameter(layer=param.layer[:index])
            try:
                offset = crop_offset(Graph.from_param(above), *layer.bottom[:2])
            except GraphError as error:
                raise error.named(f"layer '{layer.name}' ({layer.type})") from None
            _set_crop(layer, caffe_pb2.CropParameter(offset=offset))


def _set_crop(layer: caffe_pb2.LayerParameter, crop: caffe_pb2.CropParameter) -> None:
    layer.DiscardUnknownFields()  # the line that asked for it
    layer.ClearField("fork")
    layer.crop_param.CopyFrom(crop)


def meets(state: caffe_pb2.NetState, rule: caffe_pb2.NetStateRule) -> bool:
    """Whether a NetState meets a NetStateRule. Source: Caffe Net::StateMeetsRule."""
    return (
        (not rule.HasField("phase") or rule.phase == state.phase)
        and (not rule.HasField("min_level") or state.level >= rule.min_level)
        and (not rule.HasField("max_level") or state.level <= rule.max_level)
        and all(stage in state.stage for stage in rule.stage)
        and not any(stage in state.stage for stage in rule.not_stage)
    )


# Starts the name that a loss's top gets where the file gives none. Such a top is no output.
AUTOMATIC = "(automatic)"


@dataclass(frozen=True)
class Node:
    """One layer in its place: what it reads and what it writes, by blob name."""

    index: int
    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    param: caffe_pb2.LayerParameter

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
    overwritable: the in-place nodes, by index; each alone reads the version of the blob that it overwrites.
    producers: the node that made a bottom, by (node index, bottom position).
    """

    name: str
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    overwritable: frozenset[int]
    producers: dict[tuple[int, int], int] = field(repr=False)

    @classmethod
    def from_param(cls, param: caffe_pb2.NetParameter) -> Graph:
        """Wire an upgraded, filtered NetParameter.

        Raises:
            GraphError: no earlier layer makes a bottom; a top is made twice; a blob that several layers read is
                changed in place; or propagate_down is given another number of times than there are bottoms.

        Source: Caffe Net::Init.
        """
        wiring = _Wiring(param)
        for layer in param.layer:
            wiring.add(layer)
        wiring.check_in_place()
        nodes, producers = wiring.nodes, wiring.producers
        return cls(
            name=param.name,
            nodes=tuple(nodes),
            outputs=tuple(sorted(wiring.unread)),
            inputs=tuple(top for node in nodes if node.type == "Input" for top in node.tops),
            overwritable=frozenset(node.index for node in nodes if node.in_place),
            producers=producers,
        )


class _Wiring:
    """Goes through the layers in file order and knows who made the present version of each blob."""

    def __init__(self, param: caffe_pb2.NetParameter) -> None:
        self.param = param
        self.nodes: list[Node] = []
        self.makers: dict[str, int] = {}  # blob -> node that made its present version
        self.readers: defaultdict[tuple[str, int], list[str]] = defaultdict(list)  # (blob, its maker) -> readers
        self.unread: set[str] = set()
        self.producers: dict[tuple[int, int], int] = {}  # (node, bottom position) -> node that made it

    def add(self, layer: caffe_pb2.LayerParameter) -> None:
        """Add the next layer."""
        node = Node(len(self.nodes), layer.name, layer.type, tuple(layer.bottom), tuple(layer.top), layer)
        for position, bottom in enumerate(node.bottoms):
            self._read(node, position, bottom)
        if len(layer.propagate_down) not in (0, len(node.bottoms)):
            raise GraphError(
                f"{node}: propagate_down is given {len(layer.propagate_down)} times, "
                f"wanted none or once for each of the {len(node.bottoms)} bottoms."
            )
        for position, top in enumerate(node.tops):
            self._make(node, position, top)
        self.nodes.append(node)

    def _read(self, node: Node, position: int, bottom: str) -> None:
        if bottom not in self.makers:
            raise GraphError(f"{node}: bottom '{bottom}' is not produced by an earlier layer. {self._hint(bottom)}")
        maker = self.makers[bottom]
        self.producers[node.index, position] = maker
        self.readers[bottom, maker].append(str(node))
        self.unread.discard(bottom)

    def _make(self, node: Node, position: int, top: str) -> None:
        in_place = position < len(node.bottoms) and node.bottoms[position] == top
        if top in self.makers and not in_place:
            first = self.nodes[self.makers[top]] if self.makers[top] < node.index else node
            raise GraphError(
                f"{node}: top '{top}' is already produced by {first}. "
                "Rename the top, or make the layer in place (top equal to bottom)."
            )
        self.makers[top] = node.index
        if position < len(node.param.loss_weight) and node.param.loss_weight[position]:
            self.readers[top, node.index].append("the loss, by its loss_weight")
        if not top.startswith(AUTOMATIC):
            self.unread.add(top)

    def check_in_place(self) -> None:
        """Refuse a layer that works in place on a blob which another reads: Caffe makes copies of it there."""
        for node in self.nodes:
            for position, (bottom, top) in enumerate(zip(node.bottoms, node.tops, strict=False)):
                others = list(self.readers[bottom, self.producers[node.index, position]])
                others.remove(str(node))
                if bottom == top and others:
                    raise GraphError(
                        f"{node}: works in place on a blob that another layer reads too: top '{top}' is read by "
                        f"{others[0]}. Give the layer a top of its own."
                    )

    def _hint(self, bottom: str) -> str:
        if any(bottom in layer.top for layer in self.param.layer):
            return "Layers run in file order: move the layer that makes it up."
        return f"Layers run in file order.{did_you_mean(bottom, self.makers)}"
