"""Draws a net for a screen, as an SVG: `layout`'s places, `boxes`' boxes. Nothing else is needed to draw it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html import escape
from unicodedata import east_asian_width

from fcn_caffe.host.text import show
from fcn_caffe.net.boxes import Box, box_label, box_reads, kind, make_boxes, make_stages, stage_titles
from fcn_caffe.net.layout import BOX, Frame, Layout, Route, lay_out, svg_path
from fcn_caffe.proto import caffe_pb2

__all__ = ["KIND_COLOURS", "shorten", "to_svg"]

KIND_COLOURS = {  # of a box's ground: on white, on black
    "conv": ("#e4edf9", "#223349"),
    "up": ("#dcf1e4", "#1f3a2c"),
    "pool": ("#efeadf", "#37332a"),
    "join": ("#fbe9d7", "#46321f"),
    "crop": ("#f3f1ec", "#2a2b2e"),
    "copy": ("#ffe98a", "#5c4f10"),
    "data": ("#ffffff", "#1e2024"),
    "loss": ("#f9dfe3", "#472329"),
    "other": ("#f1eef6", "#302b3d"),
}
_STYLE = """text { font: 11px system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; fill: #5f5b55 }
.name { font-size: 12px; font-weight: 600; fill: #1c1b1a } .paper { fill: #fbfaf7 }
.box { stroke: #c9c3b6 } .frame { fill: none; stroke: #e3dfd6 }
.line { fill: none; stroke: #77726a; stroke-width: 1.3 } .tip { fill: #77726a } .size { stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #a5a29b } .name { fill: #ebe9e4 } .paper { fill: #16171a }
  .box { stroke: #4a4d55 } .frame { stroke: #34363c } .line { stroke: #8b8982 } .tip { fill: #8b8982 }
}
"""
WORDS, NAME = 11.0, 13.4  # pixels of a font whose letters are as wide: the name's is 12 px and bold
# Shares of the font's size, on average in the widest of the usual fonts, DejaVu Sans.
_NARROW, _WIDE, _CAPITAL, _OTHER = 0.4, 0.95, 0.72, 0.62


def to_svg(net: caffe_pb2.NetParameter, shapes: Mapping[str, Sequence[int]] | None = None) -> str:
    """Return the SVG of a NetParameter's layers: a box for each layer and those in place on its top, stages in columns.

    Args:
        net: upgraded; of one phase, or of all.
        shapes: of the blobs, to show in the boxes.
    """
    layers = list(net.layer)
    boxes = make_boxes(layers)
    stages = make_stages(boxes, layers, shapes)
    layout = lay_out(box_reads(boxes), stages)
    titles = stage_titles(boxes, layers, stages)
    size = f'width="{layout.width}" height="{layout.height}"'
    title = f"{net.name or 'net'}: {len(layers)} layers"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {layout.width} {layout.height}" {size} role="img">',
        f"<title>{_as_text(title)}</title>",
        f"<style>{_STYLE}{_kind_styles()}</style>",
        f'<rect class="paper" {size}/>',
        *(_frame(frame, titles[frame.stage]) for frame in layout.frames if stages.count(frame.stage) > 1),
        *(_line(route, route.source not in boxes[route.target].reads) for route in layout.routes),
        *_boxes(boxes, layers, layout, shapes or {}),
        "</svg>",
    ]
    return "\n".join([*parts, ""])


def _kind_styles() -> str:
    light = " ".join(f".{name} {{ fill: {colours[0]} }}" for name, colours in KIND_COLOURS.items())
    dark = " ".join(f".{name} {{ fill: {colours[1]} }}" for name, colours in KIND_COLOURS.items())
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n"


def _frame(frame: Frame, title: str) -> str:
    x, y, width, height = frame[1:]
    text = _as_text(shorten(title, width - 20, between=" … "))
    return (
        f'<rect class="frame" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>'
        f'<text x="{x + 10}" y="{y + 16}">{text}</text>'
    )


def _line(route: Route, is_size: bool) -> str:
    x, y = route.points[-1]
    dashed = " size" if is_size else ""
    return f'<path class="line{dashed}" d="{svg_path(route.points)}"/><path class="tip" d="M{x} {y}l-3.5 -7h7z"/>'


def _boxes(
    boxes: Sequence[Box],
    layers: Sequence[caffe_pb2.LayerParameter],
    layout: Layout,
    shapes: Mapping[str, Sequence[int]],
) -> Iterator[str]:
    width, height = BOX
    for box, (x, y) in zip(boxes, layout.corners, strict=True):
        first, last = layers[box.layers[0]], layers[box.layers[-1]]
        shape = show(shapes[last.top[0]]) if last.top and last.top[0] in shapes else ""
        names = ", ".join(f"{layers[index].name} ({layers[index].type})" for index in box.layers)
        lines = (
            ("name", first.name, NAME, ""),
            ("does", box_label(box, layers), WORDS, " + "),
            ("shape", shape, WORDS, ""),
        )
        texts = (
            f'<text class="{name}" x="{x + 9}" y="{y + 17 + 16 * at}">'
            f"{_as_text(shorten(text, width - 14, size, between))}</text>"
            for at, (name, text, size, between) in enumerate(lines)
            if text
        )
        rectangle = f'<rect class="box {kind(first)}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
        yield f"<g><title>{_as_text(names)}</title>{rectangle}{''.join(texts)}</g>"


def _as_text(text: str) -> str:
    """Escape a text; XML holds no control characters."""
    return escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "\ufffd", text))


def shorten(text: str, width: float, size: float = WORDS, between: str = "") -> str:
    """Cut a text to a width in pixels: the parts at its end go, of a single part the middle.

    >>> shorten("inception_3a/3x3_reduce", 100)
    'inceptio…reduce'
    >>> shorten("conv 7×7 4096 + ReLU + Dropout", 158, between=" + ")
    'conv 7×7 4096 + ReLU …'

    Args:
        text: one line.
        width: in pixels.
        size: of the font, in pixels.
        between: what parts the text; it has one part by default.
    """
    if _width(text, size) <= width:
        return text
    parts = text.split(between) if between else [text]
    cuts = [f"{between.join(parts[:kept])} …" for kept in range(len(parts) - 1, 0, -1)]
    first = parts[0]
    for most in range(min(len(first), int(width / (_NARROW * size))), 2, -1):
        cuts.append(f"{first[: most - most // 2]}…{first[len(first) - most // 2 + 1 :]}")
    return next((cut for cut in cuts if _width(cut, size) <= width), "…")


def _width(text: str, size: float) -> float:
    """About how wide a text is, in pixels."""
    return size * sum(map(_letter_width, text))


@cache
def _letter_width(letter: str) -> float:
    if letter in "fijlrtI.,:;!'|()[]-/ ":
        return _NARROW
    if letter in "mwMW@%×+—…":
        return _WIDE
    if east_asian_width(letter) in "WF":
        return 1.0
    return _CAPITAL if letter.isupper() else _OTHER
