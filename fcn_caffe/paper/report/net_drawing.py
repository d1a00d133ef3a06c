"""A net of a record as an inline SVG: layers from the image down, side branches in lanes of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from markupsafe import Markup

from fcn_caffe.host.numbers import number, short, sides
from fcn_caffe.net.layout import place
from fcn_caffe.paper.report.templates import render

__all__ = ["Box", "draw_net", "place_boxes"]

WIDTH, HEIGHT, GAP_X, GAP_Y, EDGE = 250, 62, 30, 22, 8
MODULE = 4  # so many layers whose names begin alike, NAME/..., are drawn as one box
_KINDS = {
    "Convolution": "conv",
    "InnerProduct": "conv",
    "Deconvolution": "up",
    "Pooling": "pool",
    "Input": "data",
    "Eltwise": "join",
    "Concat": "join",
    "Crop": "crop",
}


@dataclass
class Box:
    """One layer, or several drawn as one.

    Attributes:
        below: the boxes it reads, by index.
        folded: the types of the layers that change its top in place.
        row: its place, counted from above.
        lane: its place, counted from the left.
    """

    layers: list[dict[str, Any]]
    title: str
    below: list[int] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)
    row: int = 0
    lane: int = 0

    @property
    def last(self) -> dict[str, Any]:
        """The layer whose top leaves the box."""
        return self.layers[-1]

    @property
    def corner(self) -> tuple[int, int]:
        """The pixel of its upper left corner."""
        return EDGE + self.lane * (WIDTH + GAP_X), EDGE + self.row * (HEIGHT + GAP_Y)

    def total(self, key: str) -> int:
        """Sum a number of its layers."""
        return sum(layer[key] or 0 for layer in self.layers)


class _Shape(NamedTuple):
    """A box as the template draws it. cost: the length of its bar."""

    x: int
    y: int
    kind: str
    tooltip: str
    name: str
    does: str
    makes: str
    sees: str
    parameters: str
    cost: float


class _Arrow(NamedTuple):
    """An arrow as the template draws it. tip: the pixel where its head begins."""

    path: str
    tip: tuple[float, int]
    is_skip: bool


# -- boxes and their places --------------------------------------------------------------------------------------------


def place_boxes(layers: Sequence[dict[str, Any]]) -> list[Box]:
    """Make the boxes of a net, each in its place.

    A layer that works in place is folded into the box that it changes; a module is one box.
    """
    boxes: list[Box] = []
    maker: dict[str, int] = {}  # blob -> its box
    counts = Counter(map(_module, layers))
    references: dict[int, list[int]] = {}  # Crop's reference input: it constrains the layout and draws no arrow
    for layer in layers:
        bottoms, module = layer["bottoms"], _module(layer)
        is_grouped = bool(module) and counts[module] >= MODULE
        if not is_grouped and len(bottoms) == 1 and bottoms == layer["tops"] and bottoms[0] in maker:
            boxes[maker[bottoms[0]]].folded.append(layer["type"])
            continue
        if is_grouped and boxes and boxes[-1].title == module:
            boxes[-1].layers.append(layer)
        else:
            boxes.append(Box([layer], module if is_grouped else layer["name"]))
        index = len(boxes) - 1
        for bottom in bottoms:
            below = maker.get(bottom, index)
            is_reference = layer["type"] == "Crop" and bottom != bottoms[0]
            targets = references.setdefault(index, []) if is_reference else boxes[index].below
            if below != index and below not in targets:
                targets.append(below)
        maker.update((top, index) for top in layer["tops"])
    for box, (row, lane) in zip(boxes, place([box.below for box in boxes], references), strict=True):
        box.row, box.lane = row, lane
    return boxes


def _module(layer: dict[str, Any]) -> str:
    head, slash, _ = layer["name"].partition("/")
    return head if slash else ""


# -- drawing -----------------------------------------------------------------------------------------------------------


def draw_net(net: dict[str, Any]) -> Markup:
    """Draw a record's net: each box says what its layer does and makes, how far it sees and what it costs."""
    boxes = place_boxes(net["layers"])
    rows, lanes = 1 + max((box.row for box in boxes), default=0), 1 + max((box.lane for box in boxes), default=0)
    most = max((box.total("multiply_adds") for box in boxes), default=0) or 1
    return render(
        "net.svg",
        net=net,
        width=EDGE * 2 + lanes * (WIDTH + GAP_X) - GAP_X,
        height=EDGE * 2 + rows * (HEIGHT + GAP_Y) - GAP_Y,
        box_size=(WIDTH, HEIGHT),
        arrows=[_arrow(boxes[below], box) for box in boxes for below in box.below],
        shapes=[_shape(box, most) for box in boxes],
    )


def _arrow(below: Box, box: Box) -> _Arrow:
    """From the box that is read to its reader: straight down a lane, over to a branch, or back from one."""
    (x0, y0), (x1, y1) = below.corner, box.corner
    start, end, bottom = x0 + WIDTH / 2, x1 + WIDTH / 2, y0 + HEIGHT
    if x0 == x1:
        return _Arrow(f"M{start:g} {bottom}V{y1 - 6}", (end, y1 - 1), False)
    turn = 1 if x1 > x0 else -1
    if turn > 0:  # to a branch: across just under the box, then down the branch's lane
        across, start = bottom + GAP_Y * 0.36, x0 + WIDTH - 34.0
    else:  # back: down its own lane, then across just over the reader
        across, end = y1 - GAP_Y * 0.5, x1 + WIDTH - 34.0
    path = (
        f"M{start:g} {bottom}V{across - 5:g}q0 5 {5 * turn} 5H{end - 5 * turn:g}q{5 * turn} 0 {5 * turn} 5"
        f"V{max(y1 - 6, across + 5):g}"
    )
    return _Arrow(path, (end, y1 - 1), True)


def _shape(box: Box, most: int) -> _Shape:
    x, y = box.corner
    stride, sees = box.last["stride"], box.last["receptive_field"]
    sight = [f"stride {number(stride)}"] * bool(stride) + [f"sees {number(sees)}"] * bool(sees)
    parameters, multiply_adds = box.total("parameters"), box.total("multiply_adds")
    names = ", ".join(layer["name"] for layer in box.layers)
    is_module = len(box.layers) > 1
    return _Shape(
        x=x,
        y=y,
        kind="module" if is_module else _KINDS.get(box.last["type"], "other"),
        tooltip=f"{box.title}: {names}" if is_module else f"{box.last['name']} ({box.last['type']})",
        name=box.title if len(box.title) <= 20 else f"{box.title[:19]}…",
        does=_what_it_does(box),
        makes="×".join(str(side) for side in box.last["shape"][1:]),
        sees=" · ".join(sight),
        parameters=f"{short(parameters)} parameters · {short(multiply_adds)} multiply-adds"
        if parameters or multiply_adds
        else "",
        cost=multiply_adds / most * (WIDTH - 10),
    )


def _what_it_does(box: Box) -> str:
    if len(box.layers) > 1:
        count = sum(layer["type"] == "Convolution" for layer in box.layers)
        return f"{len(box.layers)} layers, {count} conv"
    layer = box.last
    kernel = sides(layer["kernel"])
    step = "" if layer.get("step") in (None, 1) else f"/{sides(layer['step']).split('×')[0]}"
    words = {
        "Convolution": f"{kernel} conv{step}",
        "Deconvolution": f"{kernel} up{step.replace('/', ' ×')}",
        "Pooling": f"{kernel} pool{step}" if kernel else "pool",
        "Crop": f"crop at {', '.join(number(at) for at in layer.get('offset') or [0])}",
        "Eltwise": "sum",
        "Input": "image",
    }
    return " + ".join([words.get(layer["type"], layer["type"]), *(name for name in box.folded if name == "ReLU")])
