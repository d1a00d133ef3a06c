"""SBD, the Semantic Boundaries Dataset: labels of 11,355 photographs of VOC 2011, as MATLAB files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from fcn_caffe.data.prepare.archives import Archive, new_file
from fcn_caffe.data.prepare.data_set import DataSet, Job
from fcn_caffe.data.prepare.voc import SBD_FOLDER, write_seg11valid
from fcn_caffe.data.sets.voc_layers import CLASSES, SBDDSegDataLayer
from fcn_caffe.host.pictures import palette
from fcn_caffe.layers.python import Blob

__all__ = ["Sbd"]

_ADDRESS = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz"
PNG_FOLDER = "cls_png"


class Sbd(DataSet):
    """SBD: img, cls and the lists of its `dataset` folder."""

    title = "SBD, Semantic Boundaries Dataset"
    folder = SBD_FOLDER
    classes = len(CLASSES)
    archives = (Archive("benchmark.tgz", _ADDRESS, "82b4d87ceb2ed10f6038a1cba92111cb"),)
    counts = {"train": 8498, "val": 2857}  # noqa: RUF012
    mapping = ".mat, GTcls.Segmentation; 0 background, 1 to 20 the classes of VOC; no mapping"
    notes = (f"--png writes the labels as palette PNG to {PNG_FOLDER} too; training reads the .mat files",)

    def place(self, parts: Sequence[str]) -> str | None:
        if "dataset" not in parts:
            return None
        inside = list(parts[parts.index("dataset") + 1 :])
        wanted = inside[0] in ("img", "cls") if len(inside) == 2 else inside in (["train.txt"], ["val.txt"])
        return "/".join([SBD_FOLDER, *inside]) if wanted else None

    def finish(self, job: Job) -> None:
        if write_seg11valid(job):
            job.report("wrote seg11valid.txt of PASCAL VOC 2011: val less SBD's train")

    def check(self, job: Job) -> None:
        super().check(job)
        if job.png:
            self.write_png(job)

    def write_png(self, job: Job) -> None:
        """Write every label as a palette PNG; files that are there stay."""
        colours, written = palette(256).ravel().tolist(), 0
        for split in job.counts or self.counts:
            layer = SBDDSegDataLayer()
            layer.param_str = repr(self.layer(job, split)[1])
            layer.setup([], [Blob(), Blob()])
            for name in layer.indices:
                path = self.root(job) / PNG_FOLDER / f"{name}.png"
                if path.is_file():
                    continue
                image = Image.fromarray(layer.load_label(name)[0])
                image.putpalette(colours)
                with new_file(path) as file:
                    image.save(file, "PNG")
                written += 1
        job.report(f"{written} labels written to {self.root(job) / PNG_FOLDER}")

    def split_path(self, job: Job, split: str) -> Path:
        return self.root(job) / f"{split}.txt"

    def layer(self, job: Job, split: str) -> tuple[type[SBDDSegDataLayer], dict[str, Any]]:
        return SBDDSegDataLayer, {"sbdd_dir": str(self.root(job).absolute()), "split": split}
