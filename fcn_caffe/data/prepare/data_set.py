"""The base of the data sets: from archives to the folder that a data layer reads, with every count checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fcn_caffe.data.prepare.archives import Archive, check_md5, find, new_file, unpack
from fcn_caffe.data.readers.image_files import read_split
from fcn_caffe.data.sets.one_image_layer import OneImageLayer
from fcn_caffe.errors import DataError
from fcn_caffe.layers.python import Blob

__all__ = ["DataSet", "Job", "check_disjoint", "write_split"]

REPORT_EVERY = 1000


@dataclass
class Job:
    """One run of get_data.

    Args:
        data: the folder of data sets.
        archives: the folder of archives.
        counts: sizes of the splits in place of the published ones, for miniatures.
        checksums: whether to compare archives with their published MD5 sums.
        png: whether to write SBD's labels as PNG too.
        report: what to call with each line for the user.
    """

    data: Path
    archives: Path
    counts: Mapping[str, int] | None = None
    checksums: bool = True
    png: bool = False
    report: Callable[[str], object] = print


class DataSet:
    """A data set: what to download, how it becomes a folder, how the folder is checked.

    A subclass gives the fields, `place`, `finish`, `split_path`, and `layer`, the data layer that reads every image.
    """

    title: str
    folder: str
    classes: int
    archives: Sequence[Archive] = ()
    counts: Mapping[str, int]
    apart: ClassVar[Sequence[tuple[str, str]]] = (("train", "val"),)
    notes: Sequence[str] = ()
    mapping: str

    def place(self, parts: Sequence[str]) -> str | None:
        """Return where a file goes below the data folder, by the parts of its name; None leaves it out."""
        raise NotImplementedError

    def finish(self, job: Job) -> None:
        """Write the files that the archives do not hold."""

    def split_path(self, job: Job, split: str) -> Path:
        """Return the file that lists a split."""
        raise NotImplementedError

    def layer(self, job: Job, split: str) -> tuple[type[OneImageLayer], dict[str, Any]]:
        """Return the data layer that reads a split, and the options in its param_str."""
        raise NotImplementedError

    def root(self, job: Job) -> Path:
        return job.data / self.folder

    def is_there(self, archive: Archive, job: Job) -> bool:
        """Whether the archive's files seem to be in their places already."""
        return self.root(job).is_dir()

    def prepare(self, job: Job) -> None:
        """Unpack, convert, write splits, check.

        Raises:
            DataError: naming the file that is wrong or missing.
        """
        self.unpack(job)
        self.finish(job)
        self.check(job)

    def unpack(self, job: Job) -> None:
        """Unpack the archives.

        Raises:
            DataError: that says which to download where.
        """
        paths = {archive: find(archive, job.archives) for archive in self.archives}
        missing = [file for file, path in paths.items() if path is None and not self.is_there(file, job)]
        if missing:
            raise DataError(f"{self.to_download(missing, job)} This tool does not download.")
        for archive, path in paths.items():
            if not archive.packed:
                continue
            if path is None:
                job.report(f"{archive.name} is not in {job.archives}: going by what {self.root(job)} holds")
                continue
            if job.checksums:
                job.report(f"{path.name}: {'checking its MD5 sum' if archive.md5 else 'MD5 sum unknown, not checked'}")
                check_md5(archive, path)
            job.report(f"{path.name}: unpacking to {job.data}")
            job.report(f"{path.name}: {unpack(path, job.data, self.place)} files unpacked")

    def to_download(self, archives: Sequence[Archive], job: Job) -> str:
        """Return a sentence that says what to download, and from where."""
        return f"{self.title} needs, in {job.archives}: {'; '.join(map(str, archives))}."

    def check(self, job: Job) -> None:
        """Check the splits, and every image and label in them, by reading them as training does.

        Raises:
            DataError: naming the first file that is wrong.
        """
        if not self.root(job).is_dir():
            raise DataError(f"{self.root(job)}: no such folder. Run without --check to prepare it.")
        counts = job.counts or self.counts
        splits = {split: self.split(job, split, wanted) for split, wanted in counts.items()}
        for first, second in self.apart:
            if first in splits and second in splits:
                check_disjoint(self.split_path(job, first), splits[first], self.split_path(job, second), splits[second])
        checked: set[str] = set()
        for split, names in splits.items():
            layer = _reader(*self.layer(job, split))
            todo = [name for name in names if name not in checked]
            checked.update(todo)
            for done in _read_all(layer, todo):
                job.report(f"{split}: {done} of {len(todo)} images read")
            job.report(f"{split}: {len(names)} images, labels in range")
        job.report(f"{self.title} is ready in {self.root(job)}")

    def split(self, job: Job, split: str, wanted: int) -> list[str]:
        """Return the names of a split.

        Raises:
            DataError: if they are not as many as wanted, or one is listed twice.
        """
        path = self.split_path(job, split)
        names = [line.split()[0] for line in read_split(path)]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise DataError(f"{path}: lists {twice[0]} more than once. Copy the list again.")
        if len(names) != wanted:
            raise DataError(f"{path}: lists {len(names)} images, the published split has {wanted}. Copy it again.")
        return names

    def card(self) -> str:
        """Return a few lines that describe the data set."""
        lines = [
            self.title,
            f"  folder   {self.folder} below the data folder",
            f"  classes  {self.classes}",
            f"  labels   {self.mapping}",
            f"  images   {', '.join(f'{split} {count}' for split, count in self.counts.items())}",
            *(f"  needs    {archive}" for archive in self.archives),
            *(f"  note     {note}" for note in self.notes),
        ]
        return "\n".join(lines)


def write_split(path: Path, names: Iterable[str]) -> None:
    """Write a list of names, one on each line."""
    text = "".join(f"{name}\n" for name in names)
    with new_file(path) as file:
        file.write(text.encode())


def check_disjoint(first: Path, names: Iterable[str], second: Path, others: Iterable[str]) -> None:
    """Raise DataError where two splits share images."""
    shared = sorted(set(names) & set(others))
    if shared:
        raise DataError(
            f"{first} and {second} share {len(shared)} images, such as {shared[0]}. They should share none."
        )


def _reader(cls: type[OneImageLayer], options: Mapping[str, Any]) -> OneImageLayer:
    layer = cls()
    layer.param_str = repr(dict(options))
    layer.setup([], [Blob() for _ in options.get("tops", cls.top_names)])
    return layer


def _read(layer: OneImageLayer, name: str) -> None:
    sizes = {array.shape[1:] for array in layer.load_tops(name)}
    if len(sizes) > 1:
        shown = " and ".join(sorted(f"{width}x{height}" for height, width in sizes))
        raise DataError(f"{name}: image and labels are {shown} ({layer.who}). They should be of one size.")


def _read_all(layer: OneImageLayer, names: Sequence[str]) -> Iterator[int]:
    """Read every image, and yield the number so far after each thousand."""
    # In threads: decoding releases Python's lock. In parts, so that an error or Ctrl-C ends it soon.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for begin in range(0, len(names), REPORT_EVERY):
            part = names[begin : begin + REPORT_EVERY]
            futures = [pool.submit(_read, layer, name) for name in part]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            if begin + len(part) < len(names):
                yield begin + len(part)
