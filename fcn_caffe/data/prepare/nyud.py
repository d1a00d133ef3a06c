"""NYUDv2, from an archive in the reference's layout, or from NYU's HDF5 file and a mapping to 40 classes.

NYU's nyu_depth_v2_labeled.mat holds colour, filled depth and 894 labels of 1449 images. The mapping to 40 classes
(classMapping40.mat) and the HHA encoding are Gupta et al.'s; so is the division of train into train and val. HHA is
not made here: `fcn-caffe hha` makes it from depth.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.io  # type: ignore[import-untyped]
from PIL import Image

from fcn_caffe.data.prepare.archives import Archive, find, new_file, unpack
from fcn_caffe.data.prepare.data_set import REPORT_EVERY, DataSet, Job, write_split
from fcn_caffe.data.readers.mat_files import read_variables
from fcn_caffe.data.sets.nyud_layers import CLASSES, NYUDSegDataLayer
from fcn_caffe.errors import DataError
from fcn_caffe.host.hdf5_files import lies_elsewhere, open_to_read
from fcn_caffe.host.text import show

__all__ = ["Nyud"]

FOLDER = "nyud"
_SITE = "http://horatio.cs.nyu.edu/mit/silberman"
LABELED = Archive("nyu_depth_v2_labeled.mat", f"{_SITE}/nyu_depth_v2/nyu_depth_v2_labeled.mat")
SPLITS = Archive("splits.mat", f"{_SITE}/indoor_seg_sup/splits.mat")
MAPPING = Archive("classMapping40.mat", "Gupta et al.'s rcnn-depth release (github.com/s-gupta/rcnn-depth)")
OFFICIAL = (LABELED, SPLITS, MAPPING)
# What the reference's layout holds. Its archives have no fixed name, see PATTERNS.
INSIDE = ("data/images/", "data/depth/", "data/hha/", "segmentation/")
LISTS = ("train.txt", "val.txt", "trainval.txt", "test.txt")
PATTERNS = ("nyud*.tar", "nyud*.tar.gz", "nyud*.tgz", "nyud*.zip")
FIRST = 5001  # Gupta et al. call NYU's first image img_5001


class Nyud(DataSet):
    """NYUDv2 with 40 classes."""

    title = "NYUDv2 with 40 classes"
    folder = FOLDER
    classes = len(CLASSES)
    archives = OFFICIAL
    counts = {"train": 381, "val": 414, "trainval": 795, "test": 654}  # noqa: RUF012
    apart: ClassVar[Sequence[tuple[str, str]]] = (("train", "val"), ("trainval", "test"))
    mapping = ".mat, segmentation; 1 to 40 become 0 to 39, void, 0, becomes 255"
    notes = (
        f"instead of the three: an archive of the reference's layout ({', '.join(INSIDE)} and the lists), called "
        f"one of {', '.join(PATTERNS)}; only it has HHA and the lists train and val",
        "from the three come colour, depth in millimetres, labels, trainval and test, for the nets with color and "
        "depth; images keep NYU's 640x480 with its white frame, which the reference's own files may have cut off",
    )

    def place(self, parts: Sequence[str]) -> str | None:
        path = "/".join(parts)
        for inside in INSIDE:
            at = path.find(inside)
            if at == 0 or (at > 0 and path[at - 1] == "/"):
                return f"{FOLDER}/{path[at:]}"
        return f"{FOLDER}/{parts[-1]}" if parts[-1] in LISTS else None

    def is_there(self, archive: Archive, job: Job) -> bool:
        return (self.root(job) / "segmentation").is_dir()

    def unpack(self, job: Job) -> None:
        packed = sorted(path for pattern in PATTERNS for path in job.archives.glob(pattern))
        official = [find(archive, job.archives) for archive in OFFICIAL]
        if packed:
            for path in packed:
                job.report(f"{path.name}: MD5 sum unknown, not checked; unpacking to {job.data}")
                job.report(f"{path.name}: {unpack(path, job.data, self.place)} files unpacked")
        elif official[0] is not None and official[1] is not None and official[2] is not None:
            convert(official[0], official[1], official[2], self.root(job), job)
        elif not self.is_there(LABELED, job):
            missing = [archive for archive, path in zip(OFFICIAL, official, strict=True) if path is None]
            raise DataError(
                f"{self.to_download(missing, job)} Or there an archive of the reference's layout, {PATTERNS[1]}, "
                "which alone has HHA. This tool does not download."
            )

    def check(self, job: Job) -> None:
        if not self.root(job).is_dir():
            super().check(job)  # raises the error
        root, counts = self.root(job), job.counts or self.counts
        absent = [split for split in ("train", "val") if split in counts and not (root / f"{split}.txt").is_file()]
        if absent:
            job.report(f"not there: {', '.join(absent)} (Gupta et al.'s division of trainval); no net here needs them")
            counts = {split: count for split, count in counts.items() if split not in absent}
        if not (root / "data" / "hha").is_dir():
            job.report("not there: data/hha, so nets with the top hha cannot be trained (Gupta et al.'s files have it)")
        super().check(Job(**{**vars(job), "counts": counts}))

    def split_path(self, job: Job, split: str) -> Path:
        return self.root(job) / f"{split}.txt"

    def layer(self, job: Job, split: str) -> tuple[type[NYUDSegDataLayer], dict[str, Any]]:
        hha = ["hha"] if (self.root(job) / "data" / "hha").is_dir() else []
        tops = ["color", "depth", *hha, "label"]
        return NYUDSegDataLayer, {"nyud_dir": str(self.root(job).absolute()), "split": split, "tops": tops}


def _variable(path: Path, key: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(read_variables(path)[key])
    except KeyError as error:
        raise DataError(f"{path}: has no variable {key}. Is it another file?") from error


def convert(labeled: Path, splits: Path, mapping: Path, root: Path, job: Job) -> None:
    """Write images, depth, labels and lists out of NYU's files; images that are there are kept.

    Raises:
        DataError: .
    """
    to_class = np.concatenate([[0], _variable(mapping, "mapClass").ravel().astype(np.int64)])
    if to_class.min() < 0 or to_class.max() > len(CLASSES):
        raise DataError(f"{mapping}: mapClass runs to {to_class.max()}, expected classes 1 to {len(CLASSES)}.")
    lists = {key: _variable(splits, name).ravel() for key, name in (("trainval", "trainNdxs"), ("test", "testNdxs"))}
    try:
        with open_to_read(labeled) as file:
            images, depths, labels = (file[key] for key in ("images", "depths", "labels"))
            if any(part.file.filename != file.filename or lies_elsewhere(part) for part in (images, depths, labels)):
                raise DataError(f"{labeled}: its values lie in other files. Download it again.")
            count, height, width = len(images), images.shape[3], images.shape[2]
            if images.shape[1] != 3 or not depths.shape == labels.shape == (count, width, height):
                raise DataError(
                    f"{labeled}: images are {show(images.shape)}, depths {show(depths.shape)}, "
                    f"labels {show(labels.shape)}. Download it again."
                )
            for index in range(count):
                if index % REPORT_EVERY == 0:
                    job.report(f"{labeled.name}: image {index + 1} of {count}")
                _write(root, f"img_{FIRST + index}", labeled, images[index], depths[index], labels[index], to_class)
    except (OSError, KeyError, RuntimeError) as error:
        if isinstance(error, OSError) and error.filename:
            raise  # the system's: no room, no permission
        raise DataError(f"{labeled}: cannot be read as NYU's HDF5 file ({error}). Download it again.") from error
    for split, numbers in lists.items():
        if numbers.min(initial=1) < 1 or numbers.max(initial=1) > count:
            raise DataError(
                f"{splits}: numbers images to {numbers.max()}, {labeled.name} holds {count}. Download the files again."
            )
        write_split(root / f"{split}.txt", (str(FIRST - 1 + int(number)) for number in numbers))


def _write(
    root: Path,
    name: str,
    source: Path,
    image: npt.NDArray[Any],
    depth: npt.NDArray[Any],
    label: npt.NDArray[Any],
    to_class: npt.NDArray[Any],
) -> None:
    """One image out of HDF5, whose axes are MATLAB's in reverse: (3, W, H), (W, H), (W, H). Depth is in metres."""
    if label.max(initial=0) >= len(to_class):
        raise DataError(
            f"{source}: {name} has label {label.max()}, the mapping ends at {len(to_class) - 1}. "
            "Download the files again."
        )
    millimetres = np.round(np.asarray(depth, np.float64).T * 1000)
    if not np.isfinite(millimetres).all() or millimetres.min() < 1 or millimetres.max() > 65535:
        raise DataError(f"{source}: {name} has depths that are not metres from 0.001 to 65. Download it again.")
    pictures = {
        root / "data" / "images" / f"{name}.png": np.ascontiguousarray(image.transpose(2, 1, 0)),
        root / "data" / "depth" / f"{name}.png": millimetres.astype(np.uint16),
    }
    for path, pixels in pictures.items():
        if not path.is_file():
            with new_file(path) as file:
                Image.fromarray(pixels).save(file, "PNG")
    path = root / "segmentation" / f"{name}.mat"
    if not path.is_file():
        packed = io.BytesIO()
        segmentation = to_class[np.asarray(label, np.int64).T].astype(np.uint8)
        scipy.io.savemat(packed, {"segmentation": segmentation}, do_compression=True)
        with new_file(path) as file:
            file.write(packed.getvalue())
