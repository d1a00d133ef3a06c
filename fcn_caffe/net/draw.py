"""Draws nets as graphs in Graphviz's DOT language: boxes for layers, octagons for blobs, in Caffe's colours."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from fcn_caffe.errors import FcnCaffeError
from fcn_caffe.host.atomic import atomic_write, check_place
from fcn_caffe.host.text import show
from fcn_caffe.net.graph import filter_net
from fcn_caffe.proto import caffe_pb2

if TYPE_CHECKING:
    from typing_extensions import Unpack

RANKDIRS = ("LR", "TB", "BT", "RL")

_BLOB, _IN_PLACE, _OTHER = "#E0E0E0", "#90EE90", "#6495ED"
_COLORS = {
    "Convolution": "#FF5050",
    "Deconvolution": "#FF5050",
    "Pooling": "#FF9900",
    "InnerProduct": "#CC33FF",
    "BorderCopy": "#FFD700",  # ours alone
}
_BATCH_FIELDS = {
    "Data": "data_param",
    "DenseImageData": "dense_image_data_param",
    "ImageData": "image_data_param",
    "ImageLabelmapData": "image_data_param",
    "ImageSegData": "image_data_param",
    "HDF5Data": "hdf5_data_param",
    "WindowData": "window_data_param",
    "MemoryData": "memory_data_param",
}


_Window = caffe_pb2.ConvolutionParameter | caffe_pb2.PoolingParameter


class Options(TypedDict, total=False):
    """The options of `to_dot`."""

    rankdir: str
    phase: int | None
    stages: Sequence[str]
    level: int
    lr_mult: bool
    shapes: Mapping[str, Sequence[int]] | None


def layer_color(type: str) -> str:
    """Return the colour of a layer type's box."""
    return _COLORS.get(type, _OTHER)


def layer_label(layer: caffe_pb2.LayerParameter, rankdir: str = "LR", *, lr_mult: bool = False) -> str:
    """Return the text of a layer's box: name and type; kernel, stride and pad of convolutions and pooling; copies.

    Args:
        rankdir: TB and BT, which draw downwards, get a wide box, the others a tall one.
        lr_mult: add the multipliers of the layer's blobs.
    """
    parts = [f"{layer.name} ({layer.type})"]
    if layer.type in ("Convolution", "Deconvolution"):
        parts += _window(layer.convolution_param, ("kernel_size", "kernel"))
    elif layer.type == "Pooling":
        pooling = layer.pooling_param
        parts[0] = f"{layer.name} ({pooling.PoolMethod.Name(pooling.pool)} {layer.type})"
        parts += ["global"] if pooling.global_pooling else _window(pooling, ("kernel_size", "kernel"))
    elif layer.type == "BorderCopy":
        parts.append(f"copies {show(layer.border_copy_param.copies)}")
    if lr_mult and layer.param:
        parts.append("lr mult: " + ", ".join(f"{spec.lr_mult:g}" for spec in layer.param))
    return (" " if rankdir in ("TB", "BT") else "\n").join(parts)


def _window(param: _Window, kernel: tuple[str, str]) -> list[str]:
    lines = [
        f"kernel size: {_sizes(param, *kernel, 1)}",
        f"stride: {_sizes(param, 'stride', 'stride', 1)}",
        f"pad: {_sizes(param, 'pad', 'pad', 0)}",
    ]
    dilation = list(getattr(param, "dilation", ()))
    if any(size != 1 for size in dilation):
        lines.append(f"dilation: {show(dilation)}")
    return lines


def _sizes(param: _Window, name: str, stem: str, default: int) -> str:
    """Show one size for all axes, or one each: NAME, or STEM_h and STEM_w."""
    if param.HasField(f"{stem}_h") or param.HasField(f"{stem}_w"):
        return f"{getattr(param, f'{stem}_h')}x{getattr(param, f'{stem}_w')}"
    value = getattr(param, name)
    if isinstance(value, int):
        return str(value if param.HasField(name) else default)
    return show(value) if len(value) else str(default)


def edge_label(layer: caffe_pb2.LayerParameter) -> str:
    """Return the text at the edges out of a layer: its batch size, its number of outputs, or nothing."""
    if layer.type in _BATCH_FIELDS:
        return f"Batch {getattr(layer, _BATCH_FIELDS[layer.type]).batch_size}"
    if layer.type in ("Convolution", "Deconvolution"):
        return str(layer.convolution_param.num_output)
    if layer.type == "InnerProduct":
        return str(layer.inner_product_param.num_output)
    if layer.type == "Embed":
        return str(layer.embed_param.num_output)
    return ""


def to_dot(
    net: caffe_pb2.NetParameter,
    *,
    rankdir: str = "LR",
    phase: int | None = None,
    stages: Sequence[str] = (),
    level: int = 0,
    lr_mult: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """Return the DOT text of an upgraded NetParameter. A layer in place hangs on its blob.

    Args:
        rankdir: the direction: LR, TB, BT or RL.
        phase: draw the layers of TRAIN or TEST, under `stages` and `level`; None draws all.
        lr_mult: add the multipliers to the boxes.
        shapes: blob shapes, to label the edges with in place of numbers of outputs.

    Raises:
        FcnCaffeError: rankdir is unknown.
        GraphError: a layer has include and exclude rules.
    """
    if phase is not None:
        net = filter_net(net, phase, stages, level)
    blobs: dict[str, str] = {}
    lines = _start(net.name or "net", rankdir)
    edges: list[str] = []

    def blob(name: str) -> str:
        if name not in blobs:
            blobs[name] = f"blob{len(blobs)}"
            lines.append(f"  {blobs[name]} [label={_quote(name)}, shape=octagon, fillcolor={_quote(_BLOB)}];")
        return blobs[name]

    for index, layer in enumerate(net.layer):
        # Nodes are numbered: with all phases drawn, layers of one name may occur twice.
        node, in_place = f"layer{index}", len(layer.bottom) == 1 and list(layer.bottom) == list(layer.top)
        color = _IN_PLACE if in_place else layer_color(layer.type)
        label = _quote(layer_label(layer, rankdir, lr_mult=lr_mult))
        # A box, where Caffe has a record: braces and bars in a record's label would be taken for its fields.
        lines.append(f"  {node} [label={label}, shape=box, fillcolor={_quote(color)}];")
        edges += [f"  {blob(bottom)} -> {node};" for bottom in layer.bottom]
        for top in layer.top:
            text = show(shapes[top]) if shapes and top in shapes else edge_label(layer)
            # The blank keeps the text off the line. Back from a layer in place the blob is the same.
            label = f" [label={_quote(f' {text}')}]" if text and not in_place else ""
            edges.append(f"  {node} -> {blob(top)}{label};")
    return "\n".join([*lines, *edges, "}", ""])


def _start(name: str, rankdir: str) -> list[str]:
    if rankdir not in RANKDIRS:
        raise FcnCaffeError(f"rankdir {rankdir!r} is unknown. Known: {', '.join(RANKDIRS)}.")
    return [
        f"digraph {_quote(name)} {{",
        f"  rankdir={rankdir};",
        '  node [style=filled, fontname="Helvetica"];',
        '  edge [fontname="Helvetica"];',
    ]


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def render(dot_text: str, format: str) -> bytes:
    """Draw a DOT text with Graphviz; `format` is what its -T takes, such as svg, png or pdf.

    Raises:
        FcnCaffeError: Graphviz is not installed, or does not know the format.
    """
    program = shutil.which("dot")
    if program is None:
        raise FcnCaffeError(
            f"Graphviz's `dot` is not there to draw {format}. Install it (apt install graphviz, brew install "
            "graphviz), or write a .dot file."
        )
    process = subprocess.run([program, f"-T{format}"], input=dot_text.encode(), capture_output=True, check=False)
    if process.returncode:
        why = process.stderr.decode(errors="replace").split(" Use one of")[0].strip()  # two hundred names follow
        raise FcnCaffeError(f"Graphviz could not draw {format}: {why} Use .svg, .png, .pdf or .dot.")
    return process.stdout


def draw_net(net: caffe_pb2.NetParameter, format: str = "svg", **options: Unpack[Options]) -> bytes:
    """Draw a NetParameter; options: those of `to_dot`. Format "dot" gives the DOT text."""
    text = to_dot(net, **options)
    return text.encode() if format == "dot" else render(text, format)


def draw_net_to_file(net: caffe_pb2.NetParameter, path: str | os.PathLike[str], **options: Unpack[Options]) -> None:
    """Draw a NetParameter to a file, in the format of its ending; options: those of `to_dot`.

    The file is written whole or not at all.

    Raises:
        FcnCaffeError: as `render`.
        OSError: the file cannot be written.
    """
    ending = Path(path).suffix.removeprefix(".").lower()
    if not ending:
        raise FcnCaffeError(f"{os.fspath(path)}: the ending says the format: .svg, .png, .pdf or .dot.")
    check_place(path)
    picture = draw_net(net, ending, **options)
    with atomic_write(path) as file:
        file.write(picture)
