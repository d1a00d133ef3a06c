"""PASCAL-Context: labels of every pixel of VOC 2010, and two lists of class names."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fcn_caffe.data.prepare.archives import Archive, find, new_file
from fcn_caffe.data.prepare.data_set import DataSet, Job
from fcn_caffe.data.prepare.voc import TARS, VOC_FOLDER, voc_place
from fcn_caffe.data.sets.pascalcontext_layers import PASCALContextSegDataLayer

__all__ = ["PascalContext"]

FOLDER = "pascal-context"
_SITE = "https://cs.stanford.edu/~roozbeh/pascal-context"
LISTS = (
    Archive("labels.txt", f"{_SITE}/labels.txt", packed=False),
    Archive("59_labels.txt", f"{_SITE}/59_labels.txt", packed=False),
)


class PascalContext(DataSet):
    """PASCAL-Context over VOC 2010."""

    title = "PASCAL-Context"
    folder = FOLDER
    classes = 60
    archives = (Archive("trainval.tar.gz", f"{_SITE}/trainval.tar.gz"), TARS[2010], *LISTS)
    counts = {"train": 4998, "val": 5105}  # noqa: RUF012
    mapping = ".mat, LabelMap of 459 classes; the 59 of 59_labels.txt by name, counted from 1; all else 0, background"

    def is_there(self, archive: Archive, job: Job) -> bool:
        if archive == TARS[2010]:
            return (job.data / VOC_FOLDER / "VOC2010").is_dir()
        return (self.root(job) / archive.name.removesuffix(".tar.gz")).exists()

    def place(self, parts: Sequence[str]) -> str | None:
        if len(parts) >= 2 and parts[-2] == "trainval" and parts[-1].endswith(".mat"):
            return f"{FOLDER}/trainval/{parts[-1]}"
        main = voc_place(parts, 2010, "JPEGImages/", "ImageSets/Main/")
        # Lists of a single class (aeroplane_train.txt) are left out.
        return None if main and "/Main/" in main and "_" in parts[-1] else main

    def finish(self, job: Job) -> None:
        for file in LISTS:
            goal, source = self.root(job) / file.name, find(file, job.archives)
            if goal.is_file():
                continue
            assert source is not None  # `unpack` has asked for it otherwise
            with open(source, "rb") as list_file, new_file(goal) as copy:
                shutil.copyfileobj(list_file, copy)

    def split_path(self, job: Job, split: str) -> Path:
        return job.data / VOC_FOLDER / "VOC2010" / "ImageSets" / "Main" / f"{split}.txt"

    def layer(self, job: Job, split: str) -> tuple[type[PASCALContextSegDataLayer], dict[str, Any]]:
        voc, context = (job.data / VOC_FOLDER).absolute(), self.root(job).absolute()
        return PASCALContextSegDataLayer, {"voc_dir": str(voc), "context_dir": str(context), "split": split}
