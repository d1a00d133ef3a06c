"""Answers for many files: read ahead, run in batches, written behind, going on past files that cannot be read."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from fcn_caffe.data.readers.image_files import LARGE, READING, UInt8, image_size
from fcn_caffe.errors import DataError, FcnCaffeError
from fcn_caffe.evaluation.answers import AnswerFiles, ImageFile, Picture
from fcn_caffe.evaluation.infer import Answer, Segmenter
from fcn_caffe.evaluation.tiles import refuse_batch
from fcn_caffe.host.films import AddFrame
from fcn_caffe.host.free_memory import most_free, show_bytes

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AnswerRun"]

WRITING = 9  # bytes a pixel: classes, where they change, the overlay and Pillow's of it


@dataclass(frozen=True)
class _Failure:
    """A file that could not be read to its end."""

    path: Path
    error: FcnCaffeError


Read = Picture | _Failure
Done = tuple[Picture, Answer, float]  # with the seconds that the net took for it


def _ignore(*_: object) -> None:
    pass


@dataclass
class AnswerRun:
    """Segments files and writes the answers.

    However it ends, by Ctrl-C too, files are whole, and `done` and `failed` say how far it came.

    Attributes:
        segment: the net.
        outputs: what is written, and where.
        batch: how many images of one size are run in one go at most; files are then taken size by size.
        workers: how many threads read ahead, and write; 0 for none.
        on_answer: called with each picture whose answer is written, but for frames of films: the picture, the answer,
            and the seconds that the net took.
        on_film: called with each film: the file, how many frames it has, and the seconds that the net took.
        on_failure: called with each file that cannot be read or run, and the error.
        done: how many files are done.
        pictures: how many pictures and frames were answered.
        failed: the files that could not be read or run.

    Raises:
        DataError: the net's answer for an image depends on the others of its batch.
    """

    segment: Segmenter
    outputs: AnswerFiles
    batch: int = 1
    workers: int = 0
    on_answer: Callable[[Picture, Answer, float], object] = _ignore
    on_film: Callable[[ImageFile, int, float], object] = _ignore
    on_failure: Callable[[Path, FcnCaffeError], object] = _ignore
    done: int = 0
    pictures: int = 0
    failed: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.batch > 1:
            refuse_batch(self.segment.net)

    def run(self, files: Sequence[ImageFile]) -> None:
        """Segment files and write the answers.

        Raises:
            OSError: an answer cannot be written; images that cannot be read or run are in `failed` instead.
        """
        with _Threads(self.workers) as threads:
            for is_film, group in groupby(files, key=lambda file: file.is_film):
                if is_film:
                    for file in group:
                        self._answer_film(file, threads)
                else:
                    self._answer_images(list(group), threads)

    def _answer_images(self, files: Sequence[ImageFile], threads: _Threads) -> None:
        if self.batch > 1:
            files = _by_size(files)
        left = {file.path: file.pages for file in files}

        def written(item: Done) -> None:
            path = item[0].path
            left[path] -= 1
            self.pictures += 1
            self.done += left[path] == 0
            self.on_answer(*item)

        with _Writing(threads.many, 2 * self.workers, written) as writing:
            for group in self._groups(threads.read(files, self.workers + self.batch)):
                for item in self._answer_those_that_run(group):
                    writing.add(item, self.outputs.write, item[0], item[1])

    def _answer_film(self, file: ImageFile, threads: _Threads) -> None:
        """Answer a film; an error in a frame ends it, and leaves no film of overlays."""
        classes = range(self.segment.classes)
        count, seconds = 0, 0.0

        def write(add: AddFrame, picture: Picture, answer: Answer) -> None:
            self.outputs.write(picture, answer, in_film=True)
            add(self.outputs.overlay(picture.rgb, answer.labels, classes), picture.time)

        def written(item: Done) -> None:
            nonlocal count, seconds
            count, seconds = count + 1, seconds + item[2]

        try:
            with (
                self.outputs.open_film(file) as add,
                # One thread, as frames have an order.
                _Writing(threads.one, 2 * self.workers, written) as writing,
            ):
                for group in self._groups(threads.read([file], self.workers + self.batch), fail=_raise):
                    for item in self._answers(group):
                        writing.add(item, write, add, item[0], item[1])
        except FcnCaffeError as error:
            self._fail(file.path, error)
            return
        self.done += 1
        self.pictures += count
        self.on_film(file, count, seconds)

    def _groups(
        self, pictures: Iterable[Read], fail: Callable[[Path, FcnCaffeError], object] | None = None
    ) -> Iterator[list[Picture]]:
        """Put pictures of one size that come one after the other into batches that fit into memory."""
        most: dict[tuple[int, ...], int] = {}
        group: list[Picture] = []
        for picture in pictures:
            if isinstance(picture, _Failure):
                (fail or self._fail)(picture.path, picture.error)
                continue
            size = picture.rgb.shape
            if group and size != group[0].rgb.shape:
                yield group
                group = []
            if size not in most:
                most[size] = self._fitting(picture)
            group.append(picture)
            if len(group) == most[size]:
                yield group
                group = []
        if group:
            yield group

    def _fitting(self, picture: Picture) -> int:
        height, width = picture.rgb.shape[:2]
        with suppress(FcnCaffeError):  # running it says what is wrong
            return self.segment.fitting_batch(height, width, self.batch)
        return 1

    def _answer_those_that_run(self, group: Sequence[Picture]) -> list[Done]:
        try:
            return self._answers(group)
        except FcnCaffeError as error:
            if len(group) > 1:
                return [item for picture in group for item in self._answer_those_that_run([picture])]
            self._fail(group[0].path, error)
            return []

    def _answers(self, group: Sequence[Picture]) -> list[Done]:
        start = time.perf_counter()
        images: list[UInt8] = [picture.rgb for picture in group]
        _refuse_writing(images)
        confidence, probabilities = self.outputs.confidence is not None, self.outputs.probabilities is not None
        folder = self.outputs.folder
        answers = self.segment.answer(images, confidence=confidence, probabilities=probabilities, folder=folder)
        seconds = (time.perf_counter() - start) / len(group)
        return [(picture, answer, seconds) for picture, answer in zip(group, answers, strict=True)]

    def _fail(self, path: Path, error: FcnCaffeError) -> None:
        if path not in self.failed:
            self.failed.append(path)
        self.on_failure(path, error.named(str(path)))


def _raise(path: Path, error: FcnCaffeError) -> None:
    raise error


def _refuse_writing(images: Sequence[UInt8]) -> None:
    """Raise DataError for images whose answers, not there yet, take more than is free; small ones are not asked about.

    Overlays are written in other threads, or one after the other.
    """
    height, width = images[0].shape[:2]
    if height * width < LARGE:
        return
    need, free = WRITING * height * width, most_free()
    if free is not None and need > free:
        raise DataError(
            f"its answer of {width}x{height} pixels takes about {show_bytes(need)} to write, {show_bytes(free)} are "
            "free. Use a smaller image, or free memory."
        )


def _fitting(most: int, height: int, width: int, each: int) -> int:
    """Return how many pictures of a size are held at once: at most `most`, and of large ones a quarter of what is free.

    each: bytes a pixel.
    """
    free = most_free() if most and height * width >= LARGE else None
    return most if free is None else min(most, free // (4 * each * height * width))


def _by_size(files: Sequence[ImageFile]) -> list[ImageFile]:
    """Return files size by size, in the order in which the sizes come; from their heads."""
    groups: dict[tuple[int, int] | None, list[ImageFile]] = {}
    for file in files:
        size = None
        with suppress(DataError):  # reading it says what is wrong
            size = image_size(file.path)
        groups.setdefault(size, []).append(file)
    return [file for group in groups.values() for file in group]


def _read(file: ImageFile) -> Iterator[Read]:
    """Read the pictures of a file; what cannot be read comes as a failure."""
    try:
        yield from file.read()
    except FcnCaffeError as error:
        yield _Failure(file.path, error)


class _Threads:
    """The threads of a run: some for what has no order, one to read and one to write what has; none of 0 workers."""

    def __init__(self, workers: int) -> None:
        pools = [ThreadPoolExecutor(count) if workers else None for count in (workers, 1, 1)]
        self.many, self.one, self._reader = pools
        self.pools = [pool for pool in pools if pool is not None]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in self.pools:
            pool.shutdown(wait=True, cancel_futures=True)

    def read(self, files: Iterable[ImageFile], ahead: int) -> Iterator[Read]:
        """Read files, up to `ahead` pictures before they are wanted; pictures come in order."""
        waiting: deque[Future[list[Read]]] = deque()
        for file in files:
            if self.many is not None and file.pages == 1 and not file.is_film:
                size = (0, 0)
                with suppress(DataError):  # reading it says what is wrong
                    size = image_size(file.path)
                while len(waiting) > _fitting(ahead, *size, READING):
                    yield from waiting.popleft().result()
                waiting.append(self.many.submit(list, _read(file)))
            else:
                while waiting:
                    yield from waiting.popleft().result()
                yield from self._read_in_order(_read(file), ahead)
            while len(waiting) > ahead:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()

    def _read_in_order(self, pictures: Iterator[Read], ahead: int) -> Iterator[Read]:
        """Read the pictures of one file, which are not all held."""
        if self._reader is None:
            yield from pictures
            return
        waiting = deque(self._reader.submit(next, pictures, None) for _ in range(ahead))
        while (picture := waiting.popleft().result()) is not None:
            waiting.append(self._reader.submit(next, pictures, None))
            yield picture


class _Writing:
    """Files that are being written in threads, so many at a time; `written` is called with each item, in order."""

    def __init__(self, pool: ThreadPoolExecutor | None, most: int, written: Callable[[Done], None]) -> None:
        self.pool, self.most, self.written = pool, most, written
        self.waiting: deque[tuple[Done, Future[None]]] = deque()

    def add(self, item: Done, write: Callable[..., None], *arguments: object) -> None:
        """Write an item, now or soon."""
        if self.pool is None:
            write(*arguments)
            self.written(item)
            return
        self.waiting.append((item, self.pool.submit(write, *arguments)))
        height, width = item[1].labels.shape
        while len(self.waiting) > _fitting(self.most, height, width, WRITING):
            self._finish_first()

    def _finish_first(self) -> None:
        item, future = self.waiting[0]
        future.result()
        self.waiting.popleft()
        self.written(item)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is being written; after an error, what has not begun is not written."""
        if kind is None:
            while self.waiting:
                self._finish_first()
        for item, future in self.waiting:
            if not future.cancel() and future.exception() is None:
                self.written(item)
