"""Draws a net for a screen, as an SVG: `layout`'s places, `boxes`' boxes. Nothing else is needed to draw it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

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
LETTER, BOLD = 6.3, 7.2  # pixels of a letter, at most, on average


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
        f"<title>{escape(title)}</title>",
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
    text = escape(shorten(title, width - 20))
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
        lines = (("name", first.name), ("does", box_label(box, layers)), ("shape", shape))
        texts = (
            f'<text class="{name}" x="{x + 9}" y="{y + 17 + 16 * at}">'
            f"{escape(shorten(text, width - 14, BOLD if name == 'name' else LETTER))}</text>"
            for at, (name, text) in enumerate(lines)
            if text
        )
        rectangle = f'<rect class="box {kind(first)}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
        yield f"<g><title>{escape(names)}</title>{rectangle}{''.join(texts)}</g>"


def shorten(text: str, width: float, letter: float = LETTER) -> str:
    """Cut a text to a width in pixels: its middle goes.

    >>> shorten("inception_3a/3x3_reduce", 100)
    'inceptio…reduce'
    """
    most = max(3, int(width / letter))
    if len(text) <= most:
        return text
    return f"{text[: most - most // 2]}…{text[len(text) - most // 2 + 1 :]}"
