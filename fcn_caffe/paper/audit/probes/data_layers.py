"""A data set of one image of each kind, and what the layers that read it should give, worked out from the table."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.io import savemat  # type: ignore[import-untyped]

from fcn_caffe.data.sets.options import parse_param_str
from fcn_caffe.data.sets.siftflow_layers import SCENES
from fcn_caffe.net.net import Net
from fcn_caffe.proto import caffe_pb2

__all__ = ["tops_apart"]

_VOID, _NAME, _SIZE = 255, "a", (5, 6)
_SPLITS = ("train", "val", "trainval", "test", "seg11valid")
# Blue, green, red; HHA as it is stored.
_VOC, _NYUD, _SIFT = (104.00699, 116.66877, 122.67892), (116.190, 97.203, 92.318), (114.578, 115.294, 108.353)
_HHA, _CONTEXT, _LOG_DEPTH = (132.431, 94.076, 118.477), (104.007, 116.669, 122.679), 7.844
# Of PASCAL-Context's own classes and the task's; a table has another name there, and a cat is no class of the task.
_LABELS, _TASK = ("dog", "table", "cat"), ("diningtable", "dog")
_TABLE, _DOG = 1, 2
Array = npt.NDArray[Any]


def tops_apart(layer: Any, phase: int) -> float:
    """The largest difference of what a net's data layer gives from what it should, over all its tops.

    The layer keeps its options but for its folders. Infinite where a top has another shape, or is none of the table's.
    """
    with TemporaryDirectory() as folder:
        wanted = _write(Path(folder))
        net = caffe_pb2.NetParameter()
        made = net.layer.add()
        made.CopyFrom(layer)
        for rule in ("include", "exclude"):
            made.ClearField(rule)
        options = parse_param_str(layer.python_param.param_str, layer.name)
        own = {key: folder if str(key).endswith("_dir") else value for key, value in options.items()}
        made.python_param.param_str = repr({**own, "prefetch": 0})
        family = layer.python_param.layer
        kinds = own.get("tops") or list(layer.top)
        with torch.no_grad():
            tops = Net(net, phase)()
    pairs = [(tops[top].numpy()[0], wanted.get((family, kind))) for top, kind in zip(layer.top, kinds, strict=True)]
    return max((_furthest(one, other) for one, other in pairs), default=float("inf"))


def _furthest(found: Array, wanted: Array | None) -> float:
    there = wanted is not None and found.shape == wanted.shape
    return float(np.abs(found - wanted).max()) if there else float("inf")


def _write(root: Path) -> dict[tuple[str, str], Array]:
    """Write the data sets into one folder; the tops that they should give, by layer and top."""
    generator = np.random.default_rng(0)
    photograph, encoded = (generator.integers(0, 256, (*_SIZE, 3), np.uint8) for _ in range(2))
    depth = generator.integers(500, 9000, _SIZE, np.uint16)
    classes = np.where(generator.random(_SIZE) < 0.3, _VOID, generator.integers(0, 21, _SIZE)).astype(np.uint8)
    counted = generator.integers(0, 4, _SIZE).astype(np.uint8)  # classes from 1, 0 is void
    geometric = np.where(generator.random(_SIZE) < 0.3, -1, counted.astype(np.int16))
    context = generator.integers(1, len(_LABELS) + 1, _SIZE)
    for split in _SPLITS:
        for place in (".", "ImageSets/Segmentation", "VOC2010/ImageSets/Main"):
            _place(root / place / f"{split}.txt").write_text(f"{_NAME}\n")
    for place in (
        "JPEGImages/a.jpg",
        "img/a.jpg",
        f"Images/{SCENES}/a.jpg",
        "VOC2010/JPEGImages/a.jpg",
        "data/images/img_a.png",
    ):
        Image.fromarray(photograph).save(_place(root / place), "PNG")  # nothing is lost, whatever the name says
    Image.fromarray(encoded).save(_place(root / "data/hha/img_a.png"))
    Image.fromarray(depth).save(_place(root / "data/depth/img_a.png"))
    Image.fromarray(classes).save(_place(root / "SegmentationClass/a.png"))
    for place, value in (
        ("cls/a.mat", {"GTcls": {"Segmentation": classes}}),
        ("segmentation/img_a.mat", {"segmentation": counted}),
        (f"SemanticLabels/{SCENES}/a.mat", {"S": counted}),
        (f"GeoLabels/{SCENES}/a.mat", {"S": geometric}),
        ("trainval/a.mat", {"LabelMap": context}),
    ):
        savemat(_place(root / place), value)
    lines = "".join(f"{number}: {name}\n" for number, name in enumerate(_LABELS, 1))
    (root / "labels.txt").write_text(lines)
    (root / "59_labels.txt").write_text("".join(f"{number}: {name}\n" for number, name in enumerate(_TASK, 1)))

    def bgr(mean: tuple[float, ...]) -> Array:
        return np.asarray(photograph[..., ::-1].astype(np.float64).transpose(2, 0, 1) - np.array(mean)[:, None, None])

    down = np.where(counted == 0, _VOID, counted.astype(np.int64) - 1)[None]
    task = np.select([context == 1, context == 2], [_DOG, _TABLE], 0)[None]
    nyud, sift, context_layer = "NYUDSegDataLayer", "SIFTFlowSegDataLayer", "PASCALContextSegDataLayer"
    return {
        **{(layer, "data"): bgr(_VOC) for layer in ("VOCSegDataLayer", "SBDDSegDataLayer")},
        **{(layer, "label"): classes[None].astype(np.int64) for layer in ("VOCSegDataLayer", "SBDDSegDataLayer")},
        (nyud, "color"): bgr(_NYUD),
        (nyud, "hha"): encoded.astype(np.float64).transpose(2, 0, 1) - np.array(_HHA)[:, None, None],
        (nyud, "depth"): np.log(depth.astype(np.float64))[None] - _LOG_DEPTH,
        (nyud, "label"): down,
        (sift, "data"): bgr(_SIFT),
        (sift, "sem"): down,
        (sift, "geo"): np.where(geometric < 1, _VOID, geometric.astype(np.int64) - 1)[None],
        (context_layer, "data"): bgr(_CONTEXT),
        (context_layer, "label"): task,
    }


def _place(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
