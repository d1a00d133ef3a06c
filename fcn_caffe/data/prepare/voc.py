"""PASCAL VOC 2011 and 2012 (and 2010 for PASCAL-Context): one tar each, unpacked as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fcn_caffe.data.prepare.archives import Archive
from fcn_caffe.data.prepare.data_set import DataSet, Job, check_disjoint, write_split
from fcn_caffe.data.readers.image_files import read_split
from fcn_caffe.data.sets.voc_layers import CLASSES, VOCSegDataLayer
from fcn_caffe.errors import DataError

__all__ = ["SBD_FOLDER", "TARS", "Voc", "voc_place", "write_seg11valid"]

SBD_FOLDER = "sbdd/dataset"
VOC_FOLDER = "pascal"
SEG11VALID = "seg11valid"

_SITE = "http://host.robots.ox.ac.uk/pascal/VOC"
TARS = {
    2010: Archive(
        "VOCtrainval_03-May-2010.tar",
        f"{_SITE}/voc2010/VOCtrainval_03-May-2010.tar",
        "da459979d0c395079b5c75ee67908abb",
    ),
    2011: Archive(
        "VOCtrainval_25-May-2011.tar",
        f"{_SITE}/voc2011/VOCtrainval_25-May-2011.tar",
        "6c3384ef61512963050cb5d687e5bf1e",
    ),
    2012: Archive(
        "VOCtrainval_11-May-2012.tar",
        f"{_SITE}/voc2012/VOCtrainval_11-May-2012.tar",
        "6cd6e144f989b92b3379bac3b3de84fd",
    ),
}
_COUNTS: Mapping[int, Mapping[str, int]] = {
    2011: {"train": 1112, "val": 1111, "trainval": 2223, SEG11VALID: 736},
    2012: {"train": 1464, "val": 1449, "trainval": 2913},
}


def voc_place(parts: Sequence[str], year: int, *folders: str) -> str | None:
    """Return where a file of the year's tar goes, if it is in one of the folders; else None."""
    if f"VOC{year}" not in parts:
        return None
    inside = "/".join(parts[parts.index(f"VOC{year}") + 1 :])
    return f"{VOC_FOLDER}/VOC{year}/{inside}" if inside.startswith(folders) else None


def _lists(job: Job) -> Path:
    return job.data / VOC_FOLDER / "VOC2011" / "ImageSets" / "Segmentation"


def write_seg11valid(job: Job) -> bool:
    """Write seg11valid, VOC 2011's val without SBD's train, if both lists are there; return whether they are.

    Source: the reference's own list is made so.
    """
    val, train = _lists(job) / "val.txt", job.data / SBD_FOLDER / "train.txt"
    if not val.is_file() or not train.is_file():
        return False
    taken = set(read_split(train))
    write_split(_lists(job) / f"{SEG11VALID}.txt", (name for name in read_split(val) if name not in taken))
    return True


class Voc(DataSet):
    """PASCAL VOC of one year."""

    classes = len(CLASSES)
    mapping = "palette PNG; 0 background, 1 to 20 the classes in alphabetical order, 255 void; no mapping"
    apart: ClassVar[Sequence[tuple[str, str]]] = (("train", "val"), ("train", SEG11VALID))

    def __init__(self, year: int) -> None:
        self.year = year
        self.title = f"PASCAL VOC {year} segmentation"
        self.folder = f"{VOC_FOLDER}/VOC{year}"
        self.archives = (TARS[year],)
        self.counts = _COUNTS[year]
        if year == 2011:
            self.notes = ("seg11valid is val less the images of SBD's train: prepare sbd as well",)

    def place(self, parts: Sequence[str]) -> str | None:
        return voc_place(parts, self.year, "JPEGImages/", "SegmentationClass/", "ImageSets/Segmentation/")

    def finish(self, job: Job) -> None:
        if self.year != 2011:
            return
        if not write_seg11valid(job) and not self.split_path(job, SEG11VALID).is_file():
            raise DataError(
                f"{job.data / SBD_FOLDER / 'train.txt'}: no such file, and seg11valid is VOC 2011's val without SBD's "
                "train. Prepare sbd, then this again: unpacked files stay."
            )

    def check(self, job: Job) -> None:
        train, valid = job.data / SBD_FOLDER / "train.txt", self.split_path(job, SEG11VALID)
        if self.year == 2011 and train.is_file() and valid.is_file():
            check_disjoint(train, read_split(train), valid, read_split(valid))
        super().check(job)

    def split_path(self, job: Job, split: str) -> Path:
        return self.root(job) / "ImageSets" / "Segmentation" / f"{split}.txt"

    def layer(self, job: Job, split: str) -> tuple[type[VOCSegDataLayer], dict[str, Any]]:
        return VOCSegDataLayer, {"voc_dir": str(self.root(job).absolute()), "split": split}
