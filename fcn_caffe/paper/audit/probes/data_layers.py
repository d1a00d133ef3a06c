"""A data set of one image of each kind, and what the layers that read it should give, worked out from the table."""

from __future__ import annotations

from dataclasses import dataclass
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

__all__ = ["tops_distance"]

_VOID, _NAME, _SIZE = 255, "a", (5, 6)
_SPLITS = ("train", "val", "trainval", "test", "seg11valid")
# Blue, green, red; HHA as it is stored.
_VOC_MEAN, _NYUD_MEAN, _SIFT_MEAN = (
    (104.00699, 116.66877, 122.67892),
    (116.190, 97.203, 92.318),
    (114.578, 115.294, 108.353),
)
_HHA_MEAN, _CONTEXT_MEAN, _LOG_DEPTH_MEAN = (132.431, 94.076, 118.477), (104.007, 116.669, 122.679), 7.844
# PASCAL-Context's own classes and the task's: a table has another name there, and a cat is no class of the task.
_LABELS, _TASK = ("dog", "table", "cat"), ("diningtable", "dog")
_TABLE, _DOG = 1, 2
Array = npt.NDArray[Any]


def tops_distance(layer: caffe_pb2.LayerParameter, phase: int) -> float:
    """Measure how far the tops of a net's data layer are from what they should be.

    Args:
        layer: a Python data layer. It keeps its options but for its folders.
        phase: TRAIN or TEST.

    Returns: the largest difference over all tops; infinite where a top has another shape, or is none of the table's.
    """
    with TemporaryDirectory() as folder:
        scene = _Scene.draw()
        scene.write(Path(folder))
        net = caffe_pb2.NetParameter()
        copy = net.layer.add()
        copy.CopyFrom(layer)
        for rule in ("include", "exclude"):
            copy.ClearField(rule)
        options = parse_param_str(layer.python_param.param_str, layer.name)
        own = {key: folder if str(key).endswith("_dir") else value for key, value in options.items()}
        copy.python_param.param_str = repr({**own, "prefetch": 0})
        with torch.no_grad():
            tops = Net(net, phase)()
    wanted, kinds = scene.tops(), own.get("tops") or list(layer.top)
    pairs = [
        (tops[top].numpy()[0], wanted.get((layer.python_param.layer, kind)))
        for top, kind in zip(layer.top, kinds, strict=True)
    ]
    return max((_distance(top, array) for top, array in pairs), default=float("inf"))


def _distance(top: Array, wanted: Array | None) -> float:
    fits = wanted is not None and top.shape == wanted.shape
    return float(np.abs(top - wanted).max()) if fits else float("inf")


@dataclass(frozen=True)
class _Scene:
    """The pixels of the one image, (H, W, 3) or (H, W), as each data set's files hold them."""

    photograph: Array
    hha: Array
    depth: Array
    classes: Array  # 0 to 20, void 255
    counted: Array  # from 1, void 0
    geometric: Array  # from 1, void -1
    context: Array  # numbers of _LABELS, from 1

    @classmethod
    def draw(cls) -> _Scene:
        generator = np.random.default_rng(0)
        photograph, hha = (generator.integers(0, 256, (*_SIZE, 3), np.uint8) for _ in range(2))
        depth = generator.integers(500, 9000, _SIZE, np.uint16)
        classes = np.where(generator.random(_SIZE) < 0.3, _VOID, generator.integers(0, 21, _SIZE)).astype(np.uint8)
        counted = generator.integers(0, 4, _SIZE).astype(np.uint8)
        geometric = np.where(generator.random(_SIZE) < 0.3, -1, counted.astype(np.int16))
        context = generator.integers(1, len(_LABELS) + 1, _SIZE)
        return cls(photograph, hha, depth, classes, counted, geometric, context)

    def write(self, root: Path) -> None:
        """Write all data sets into one folder."""
        for split in _SPLITS:
            for place in (".", "ImageSets/Segmentation", "VOC2010/ImageSets/Main"):
                _with_parent(root / place / f"{split}.txt").write_text(f"{_NAME}\n")
        photographs = (
            "JPEGImages/a.jpg",
            "img/a.jpg",
            f"Images/{SCENES}/a.jpg",
            "VOC2010/JPEGImages/a.jpg",
            "data/images/img_a.png",
        )
        pictures = {
            **dict.fromkeys(photographs, self.photograph),
            "data/hha/img_a.png": self.hha,
            "data/depth/img_a.png": self.depth,
            "SegmentationClass/a.png": self.classes,
        }
        for place, pixels in pictures.items():
            Image.fromarray(pixels).save(_with_parent(root / place), "PNG")  # lossless, whatever the name says
        tables = {
            "cls/a.mat": {"GTcls": {"Segmentation": self.classes}},
            "segmentation/img_a.mat": {"segmentation": self.counted},
            f"SemanticLabels/{SCENES}/a.mat": {"S": self.counted},
            f"GeoLabels/{SCENES}/a.mat": {"S": self.geometric},
            "trainval/a.mat": {"LabelMap": self.context},
        }
        for place, value in tables.items():
            savemat(_with_parent(root / place), value)
        for file, names in (("labels.txt", _LABELS), ("59_labels.txt", _TASK)):
            (root / file).write_text("".join(f"{number}: {name}\n" for number, name in enumerate(names, 1)))

    def tops(self) -> dict[tuple[str, str], Array]:
        """What the data layers should give, (C, H, W), by layer and top."""
        voc = {"data": self._bgr(_VOC_MEAN), "label": self.classes[None].astype(np.int64)}
        from_one = np.where(self.counted == 0, _VOID, self.counted.astype(np.int64) - 1)[None]
        layers = {
            "VOCSegDataLayer": voc,
            "SBDDSegDataLayer": voc,
            "NYUDSegDataLayer": {
                "color": self._bgr(_NYUD_MEAN),
                "hha": self.hha.astype(np.float64).transpose(2, 0, 1) - np.array(_HHA_MEAN)[:, None, None],
                "depth": np.log(self.depth.astype(np.float64))[None] - _LOG_DEPTH_MEAN,
                "label": from_one,
            },
            "SIFTFlowSegDataLayer": {
                "data": self._bgr(_SIFT_MEAN),
                "sem": from_one,
                "geo": np.where(self.geometric < 1, _VOID, self.geometric.astype(np.int64) - 1)[None],
            },
            "PASCALContextSegDataLayer": {
                "data": self._bgr(_CONTEXT_MEAN),
                "label": np.select([self.context == 1, self.context == 2], [_DOG, _TABLE], 0)[None],
            },
        }
        return {(layer, top): array for layer, tops in layers.items() for top, array in tops.items()}

    def _bgr(self, mean: tuple[float, ...]) -> Array:
        pixels = self.photograph[..., ::-1].astype(np.float64).transpose(2, 0, 1)
        return np.asarray(pixels - np.array(mean)[:, None, None])


def _with_parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
