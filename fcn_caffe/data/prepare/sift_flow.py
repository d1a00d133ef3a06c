"""SIFT Flow: one zip, with the list of test images; the others are for training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from fcn_caffe.data.prepare.archives import Archive
from fcn_caffe.data.prepare.data_set import DataSet, Job, write_split
from fcn_caffe.data.readers.image_files import read_split
from fcn_caffe.data.sets.siftflow_layers import CLASSES, SCENES, SIFTFlowSegDataLayer
from fcn_caffe.errors import DataError

__all__ = ["SiftFlow"]

FOLDER = "sift-flow"
TEST_LIST = "TestSet1.txt"  # of the zip: paths of images, with backslashes


class SiftFlow(DataSet):
    """SIFT Flow, as Tighe and Lazebnik's zip holds it."""

    title = "SIFT Flow"
    folder = FOLDER
    classes = len(CLASSES)
    archives = (
        Archive("SiftFlowDataset.zip", "http://www.cs.unc.edu/~jtighe/Papers/ECCV10/siftflow/SiftFlowDataset.zip"),
    )
    counts = {"trainval": 2488, "test": 200}  # noqa: RUF012
    apart: ClassVar[Sequence[tuple[str, str]]] = (("trainval", "test"),)
    mapping = (
        ".mat, S; semantic 1 to 33 become 0 to 32, geometric (horizontal, vertical, sky) 1 to 3 become 0 to 2; "
        "void, 0 and -1, becomes 255"
    )
    notes = (
        f"test is {TEST_LIST} of the zip, trainval all other images in alphabetical order; lists called trainval.txt "
        "and test.txt that are there already, such as the reference's, are kept",
    )

    def place(self, parts: Sequence[str]) -> str | None:
        if parts[-1] == TEST_LIST:
            return f"{FOLDER}/{TEST_LIST}"
        for folder, suffix in (("Images", ".jpg"), ("SemanticLabels", ".mat"), ("GeoLabels", ".mat")):
            if tuple(parts[-3:-1]) == (folder, SCENES) and parts[-1].endswith(suffix):
                return "/".join([FOLDER, *parts[-3:]])
        return None

    def finish(self, job: Job) -> None:
        root = self.root(job)
        test, trainval = root / "test.txt", root / "trainval.txt"
        if not test.is_file():
            source = root / TEST_LIST
            if not source.is_file():
                raise DataError(f"{source}: no such file; it lists the test images. Unpack the zip.")
            write_split(test, (line.replace("\\", "/").split("/")[-1].rsplit(".", 1)[0] for line in read_split(source)))
        if not trainval.is_file():
            taken = set(read_split(test))
            names = sorted(path.stem for path in (root / "Images" / SCENES).glob("*.jpg"))
            write_split(trainval, (name for name in names if name not in taken))

    def split_path(self, job: Job, split: str) -> Path:
        return self.root(job) / f"{split}.txt"

    def layer(self, job: Job, split: str) -> tuple[type[SIFTFlowSegDataLayer], dict[str, Any]]:
        return SIFTFlowSegDataLayer, {"siftflow_dir": str(self.root(job).absolute()), "split": split}
