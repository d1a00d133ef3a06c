"""docs/layers.md: the table of layer types. `python tests/layers_table.py` writes it from the registry."""

from __future__ import annotations

from places import ROOT

import fcn_caffe.net  # noqa: F401  every type a net may name
from fcn_caffe.layers.base import REGISTRY, VARIANTS, Layer

PAGE = ROOT / "docs" / "layers.md"

HEAD = """\
# Layers

Every type of BVLC Caffe 1.0, with the options of its message; below, the types of its forks that run. Any other type is
an error when the net is built; none is skipped. *Compiles* says whether torch.compile and torch.export see through the
layer. *File* is the module in `fcn_caffe/` that has the class; its shapes, gradient and refusals are in the reference
of [layers](reference/layers.md) and of [data](reference/data.md).

Which layers go into exported files, and which engines run them, is [a table of its own](export_layers.md).

Written by `python tests/layers_table.py` from the registry; a test compares.

| type | bottoms | tops | compiles | restrictions | file |
|---|---|---|---|---|---|
"""


FORKS = """
## Of Caffe's forks

What other Caffes added and nets of the family use. `Net(strict=True)` and `--strict` refuse them. A type of several
rows, or of Caffe 1.0, too, means several things: where fields, blobs and neighbours do not say which one, `Net(fork=…)`
and `--fork` do. *OpenCV* says what OpenCV 4.14 does with the layer, which still reads Caffe's files: as it was run,
beside an independent computation; it trains nothing and reads no data layers.

| type | forks | bottoms | tops | compiles | restrictions | OpenCV | file |
|---|---|---|---|---|---|---|---|
"""

EQUAL, REFUSED, NOT_RUN = "equal", "refuses the net", "not run: a loss or a measure"
# By type, and by type and forks where they differ.
OPENCV = {
    "Accuracy": NOT_RUN,
    "AutoCrop": "not tried",
    "Axpy": "other numbers: the factor multiplies the third bottom",
    "BN": REFUSED,
    ("BatchNorm", "Intel"): "not tried",
    ("BatchNorm", "NVIDIA"): "equal with scale_bias written",
    "ConvolutionDepthwise": EQUAL,
    "DenseImageData": "none",
    "DepthwiseConvolution": REFUSED,
    "DetectionOutput": "the same rows in another order; no eta, no CORNER_SIZE; fields must be written out",
    ("Dropout", "Fast R-CNN, Faster R-CNN, R-FCN"): EQUAL,
    ("Dropout", "SegNet, ENet"): "never samples in TEST",
    "ImageLabelmapData": "none",
    "ImageSegData": "none",
    "Interp": "equal by height and width or zoom_factor; other numbers or none for shrink_factor, pads and mixtures",
    "MultiStageMeanfield": "none",
    "Normalize": "equal for SSD's, but for a scale for each channel across places of a batch",
    "PSROIPooling": EQUAL,
    "Padding": "not tried",
    "Permute": "equal where all axes are named",
    "PriorBox": "equal for whole sizes, variance, clip and flip written; img_size is not read",
    "ROIPooling": EQUAL,
    "ReLU6": EQUAL,
    "SegAccuracy": NOT_RUN,
    "ShuffleChannel": EQUAL,
    "SigmoidCrossEntropyBalanceLoss": NOT_RUN,
    "SigmoidCrossEntropyLoss": NOT_RUN,
    "SmoothL1Loss": NOT_RUN,
    "SoftmaxWithLoss": NOT_RUN,
    "Unpooling": "not tried",
    "Upsample": "none",
}


def page() -> str:
    """Return the text of docs/layers.md."""
    plain = [row(name, REGISTRY[name]) for name in sorted(REGISTRY) if not REGISTRY[name].forks]
    varied = {name for name, _ in VARIANTS}
    kinds = [(name, layer) for name, layer in REGISTRY.items() if layer.forks and name not in varied]
    kinds += [(name, layer) for (name, fork), layer in VARIANTS.items() if fork != "?"]
    forks = [fork_row(name, layer) for name, layer in sorted(kinds, key=lambda kind: (kind[0], kind[1].forks))]
    return HEAD + "".join(f"{line}\n" for line in plain) + FORKS + "".join(f"{line}\n" for line in forks)


def row(name: str, layer: type[Layer]) -> str:
    """Return the table's row of a type."""
    compiles = f"no: {layer.untraced}" if layer.untraced else "yes"
    file = layer.__module__.removeprefix("fcn_caffe.").replace(".", "/") + ".py"
    cells = (name, count(layer.bottoms), count(layer.tops), compiles, layer.restrictions or "none", f"`{file}`")
    return f"| {' | '.join(cells)} |"


def fork_row(name: str, layer: type[Layer]) -> str:
    """Return the table's row of a type of a fork."""
    first, rest = row(name, layer).removeprefix("| ").split(" | ", 1)
    cells, file = rest.rsplit(" | ", 1)
    opencv = OPENCV.get((name, layer.forks)) or OPENCV[name]
    return f"| {first} | {layer.forks} | {cells} | {opencv} | {file}"


def count(blobs: int | tuple[int, int | None]) -> str:
    """Return the words for a number of blobs, or for a least and a greatest one."""
    if isinstance(blobs, int):
        return str(blobs)
    least, most = blobs
    return f"{least} or more" if most is None else f"{least} to {most}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
