"""A net of a record as an inline SVG: layers from the image down, side branches in lanes of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from fcn_caffe.paper.report.charts import number

__all__ = ["Box", "boxes", "draw_net", "short", "size"]

WIDTH, HEIGHT, GAP_X, GAP_Y, EDGE = 250, 62, 30, 22, 8
MODULE = 4  # layers whose names begin alike, NAME/..., from which they are drawn as one box
_KINDS = {
    **{"Convolution": "conv", "InnerProduct": "conv", "Deconvolution": "up", "Pooling": "pool", "Input": "data"},
    **{"Eltwise": "join", "Concat": "join", "Crop": "crop"},
}


@dataclass
class Box:
    """A layer, or several as one, in its place: row from above, lane from the left. below: the boxes it reads."""

    layers: list[dict[str, Any]]
    title: str
    below: list[int] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)  # types of the layers that change its top in place
    row: int = 0
    lane: int = 0

    @property
    def last(self) -> dict[str, Any]:
        """The layer whose top leaves the box."""
        return self.layers[-1]

    def total(self, key: str) -> int:
        """A sum over the layers."""
        return sum(layer[key] or 0 for layer in self.layers)


def short(value: float) -> str:
    """A large number in three digits: 134M, 1.85G."""
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit * 0.9995:
            return f"{value / unit:.3g}{name}"
    return number(value)


def size(value: Any) -> str:
    """A kernel or a pad: 3x3, or 4x6 where the sides differ; nothing where there is none."""
    if value is None:
        return ""
    sides = list(value) if isinstance(value, (list, tuple)) else [value, value]
    return "×".join(number(side) for side in (sides * 2)[: max(2, len(sides))])


def boxes(layers: Sequence[dict[str, Any]]) -> list[Box]:
    """The boxes of a net, placed. What works in place is folded into what it changes, a module is one box."""
    made: list[Box] = []
    maker: dict[str, int] = {}  # blob -> its box
    counts: dict[str, int] = {}
    for layer in layers:
        counts[_module(layer)] = counts.get(_module(layer), 0) + 1
    cuts: dict[int, list[int]] = {}  # what a box is cut to the size of: it has to be there, but nothing flows
    for layer in layers:
        bottoms, tops = layer["bottoms"], layer["tops"]
        module = _module(layer)
        grouped = bool(module) and counts[module] >= MODULE
        if not grouped and len(bottoms) == 1 and bottoms == tops and bottoms[0] in maker:
            made[maker[bottoms[0]]].folded.append(layer["type"])
            continue
        if grouped and made and made[-1].title == module:
            index = len(made) - 1
            made[index].layers.append(layer)
        else:
            index = len(made)
            made.append(Box([layer], module if grouped else layer["name"]))
        flowing = bottoms[:1] if layer["type"] == "Crop" else bottoms
        for bottom in bottoms:
            below = maker.get(bottom, index)
            if below != index:
                into = made[index].below if bottom in flowing else cuts.setdefault(index, [])
                if below not in into:
                    into.append(below)
        maker.update((top, index) for top in tops)
    _place(made, cuts)
    return made


def _module(layer: dict[str, Any]) -> str:
    head, slash, _ = layer["name"].partition("/")
    return head if slash else ""


def _place(made: list[Box], cuts: dict[int, list[int]]) -> None:
    readers: list[list[int]] = [[] for _ in made]
    for index, box in enumerate(made):
        under = [1 + made[below].row for below in box.below]
        box.row = max([0, *under, *(made[beside].row for beside in cuts.get(index, []))])
        for below in box.below:
            readers[below].append(index)
    # The longest way down is the column that everything else hangs on; each other chain takes the first free lane.
    depth = [0] * len(made)
    for index, box in enumerate(made):
        depth[index] = 1 + max((depth[below] for below in box.below), default=0)
    placed: set[int] = set()
    taken: list[list[tuple[int, int]]] = []
    while len(placed) < len(made):
        end = max((index for index in range(len(made)) if index not in placed), key=lambda at: (depth[at], at))
        chain = [end]
        while True:
            free = [below for below in made[chain[-1]].below if below not in placed]
            if not free:
                break
            chain.append(max(free, key=lambda at: depth[at]))
        tops = [made[below].row for below in made[chain[-1]].below]
        ends = [made[reader].row for reader in readers[end]]
        span = min([made[chain[-1]].row, *tops]), max([made[end].row, *ends])
        lane = next((at for at, spans in enumerate(taken) if not _meets(span, spans)), len(taken))
        if lane == len(taken):
            taken.append([])
        taken[lane].append(span)
        for index in chain:
            made[index].lane = lane
            placed.add(index)
        for index in chain:  # longer ways through what is placed no longer count
            depth[index] = 0


def _meets(span: tuple[int, int], others: Iterable[tuple[int, int]]) -> bool:
    return any(span[0] <= high and low <= span[1] for low, high in others)


def draw_net(net: dict[str, Any]) -> str:
    """The picture of a record's net: each box says what it does, what it makes, how far it sees and what it costs."""
    made = boxes(net["layers"])
    rows, lanes = 1 + max((box.row for box in made), default=0), 1 + max((box.lane for box in made), default=0)
    width, height = EDGE * 2 + lanes * (WIDTH + GAP_X) - GAP_X, EDGE * 2 + rows * (HEIGHT + GAP_Y) - GAP_Y
    most = max((box.total("multiply_adds") for box in made), default=0) or 1
    arrows = [_arrow(made, below, box) for box in made for below in box.below]
    shapes = [_box(box, most) for box in made]
    said = f"{net['name']}: {len(net['layers'])} layers from the image down; the table has them in words."
    return (
        f'<svg class="net" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(said)}">{"".join(arrows)}{"".join(shapes)}</svg>'
    )


def _corner(box: Box) -> tuple[int, int]:
    return EDGE + box.lane * (WIDTH + GAP_X), EDGE + box.row * (HEIGHT + GAP_Y)


def _arrow(made: list[Box], below: int, box: Box) -> str:
    """From the box read to its reader: straight down a lane, over to a branch, or back from one."""
    (x0, y0), (x1, y1) = _corner(made[below]), _corner(box)
    start, end, bottom = x0 + WIDTH / 2, x1 + WIDTH / 2, y0 + HEIGHT
    tip = f"M{{x:g}} {y1 - 1}l-4 -7h8z"
    if x0 == x1:
        return f'<path class="flow" d="M{start:g} {bottom}V{y1 - 6}"/><path class="tip" d="{tip.format(x=end)}"/>'
    turn = 1 if x1 > x0 else -1
    if turn > 0:  # out to a branch: across just under the box, then down its lane
        across, end = bottom + GAP_Y * 0.36, end
        start = x0 + WIDTH - 34.0
    else:  # back: down its lane, across just over the reader
        across, end = y1 - GAP_Y * 0.5, x1 + WIDTH - 34.0
    path = (
        f"M{start:g} {bottom}V{across - 5:g}q0 5 {5 * turn} 5H{end - 5 * turn:g}q{5 * turn} 0 {5 * turn} 5"
        f"V{max(y1 - 6, across + 5):g}"
    )
    return f'<path class="flow skip" d="{path}"/><path class="tip skip" d="{tip.format(x=end)}"/>'


def _box(box: Box, most: int) -> str:
    x, y = _corner(box)
    kind = "module" if len(box.layers) > 1 else _KINDS.get(box.last["type"], "other")
    shape = "×".join(str(side) for side in box.last["shape"][1:])
    stride, sees = box.last["stride"], box.last["receptive_field"]
    seen = " · ".join(
        text for text, there in ((f"stride {number(stride)}", stride), (f"sees {number(sees)}", sees)) if there
    )
    share = box.total("multiply_adds") / most
    costs = ""
    if box.total("parameters") or box.total("multiply_adds"):
        costs = f"{short(box.total('parameters'))} parameters · {short(box.total('multiply_adds'))} multiply-adds"
    bar = f'<rect class="cost" x="{x + 5}" y="{y + HEIGHT - 5}" width="{share * (WIDTH - 10):.1f}" height="3"/>'
    name = box.title if len(box.title) <= 20 else f"{box.title[:19]}…"
    return (
        f'<g><title>{escape(_told(box))}</title><rect class="box {kind}" x="{x}" y="{y}" width="{WIDTH}" '
        f'height="{HEIGHT}" rx="6"/><text class="title" x="{x + 10}" y="{y + 18}">{escape(name)}</text>'
        f'<text class="end" x="{x + WIDTH - 10}" y="{y + 18}">{escape(_does(box))}</text>'
        f'<text x="{x + 10}" y="{y + 35}">{shape}</text>'
        f'<text class="end" x="{x + WIDTH - 10}" y="{y + 35}">{seen}</text>'
        f'<text class="less" x="{x + 10}" y="{y + 51}">{costs}</text>{bar if share > 0 else ""}</g>'
    )


def _does(box: Box) -> str:
    if len(box.layers) > 1:
        count = sum(layer["type"] == "Convolution" for layer in box.layers)
        return f"{len(box.layers)} layers, {count} conv"
    layer = box.last
    kernel = size(layer["kernel"])
    step = "" if layer.get("step") in (None, 1) else f"/{size(layer['step']).split('×')[0]}"
    known = {
        "Convolution": f"{kernel} conv{step}",
        "Deconvolution": f"{kernel} up{step.replace('/', ' ×')}",
        "Pooling": f"{kernel} pool{step}" if kernel else "pool",
        "Crop": f"crop at {', '.join(number(at) for at in layer.get('offset') or [0])}",
        "Eltwise": "sum",
        "Input": "image",
    }
    return " + ".join([known.get(layer["type"], layer["type"]), *(name for name in box.folded if name == "ReLU")])


def _told(box: Box) -> str:
    names = ", ".join(layer["name"] for layer in box.layers)
    return f"{box.title}: {names}" if len(box.layers) > 1 else f"{box.last['name']} ({box.last['type']})"
