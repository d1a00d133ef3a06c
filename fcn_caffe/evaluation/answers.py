"""The files that answers are written to: labels, overlays, confidence, probabilities; one set for each picture."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from fcn_caffe.data.readers.frames import FILM_SUFFIXES, count_pages, film_rate, is_film, read_film, read_pages
from fcn_caffe.data.readers.image_files import IMAGE_SUFFIXES, Float32, UInt8, read_image
from fcn_caffe.errors import DataError
from fcn_caffe.evaluation.infer import Answer
from fcn_caffe.evaluation.net_inputs import class_card
from fcn_caffe.host import pictures
from fcn_caffe.host.atomic import atomic_write, check_folder
from fcn_caffe.host.films import AddFrame, film_writer
from fcn_caffe.layers.python import find_module
from fcn_caffe.net.graph import read_net
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.weights.record import read_preprocessing

__all__ = ["AnswerFiles", "ImageFile", "Picture", "count_labels", "find_files", "names_and_colours"]


@dataclass(frozen=True)
class Picture:
    """A picture to answer for.

    Attributes:
        name: what its answer is called.
        path: its file.
        rgb: its pixels, (H, W, 3).
        page: its number in a file of several pictures, from 1 on; 0 where it is the only one.
        time: when it is shown in a film, in seconds.
    """

    name: str
    path: Path
    rgb: UInt8
    page: int = 0
    time: Fraction | None = None


@dataclass(frozen=True)
class ImageFile:
    """A file of one picture or several.

    Attributes:
        path: where it is.
        name: what its answers are called: a path inside the folder that they are written to, without suffix.
        pages: how many pictures of it are run; more than one are NAME_0001, NAME_0002 …; 0 where it is too damaged to
            count them: reading it says so.
        is_film: whether it is a film, whose frames are NAME/000001, NAME/000002 …
    """

    path: Path
    name: str
    pages: int = 1
    is_film: bool = False

    def read(self) -> Iterator[Picture]:
        """Read its pictures one after the other.

        Raises:
            DataError: naming the file.
        """
        if self.is_film:
            for number, frame in enumerate(read_film(self.path), 1):
                yield Picture(f"{self.name}/{number:06d}", self.path, frame.rgb, number, frame.time)
        elif self.pages <= 1:
            if not self.pages:
                count_pages(self.path)
            yield Picture(self.name, self.path, read_image(self.path))
        else:
            for number, (name, rgb) in enumerate(zip(self.names(), read_pages(self.path), strict=False), 1):
                yield Picture(name, self.path, rgb, number)

    def names(self) -> list[str]:
        """List what the answers of its pictures are called; none for a film, whose length nobody knows yet."""
        if self.is_film:
            return []
        if self.pages <= 1:
            return [self.name]
        width = max(4, len(str(self.pages)))
        return [f"{self.name}_{number:0{width}d}" for number in range(1, self.pages + 1)]


def find_files(
    places: Sequence[str | os.PathLike[str]],
    *,
    recursive: bool = False,
    frames: bool = False,
    leave_out: Sequence[Path] = (),
) -> list[ImageFile]:
    """List image files, and all images of folders by name.

    Args:
        places: files and folders. A film that is named here is run in all its frames.
        recursive: whether folders are searched with their sub-folders, which names of answers keep. Hidden files and
            folders are left out.
        frames: whether all frames and pages of GIF, TIFF, WebP and PNG files are run, not the first alone, and folders
            are searched for films, too.
        leave_out: folders that are not searched.
    Raises:
        DataError: there is no such file, or a folder has no images.
    """
    suffixes = (*IMAGE_SUFFIXES, *FILM_SUFFIXES) if frames else IMAGE_SUFFIXES
    found: list[ImageFile] = []
    for place in map(Path, places):
        if not place.exists():
            raise DataError(f"{place}: no such image or folder.")
        if not place.is_dir():
            found.append(_image_file(place, place.stem, frames))
            continue
        if recursive:
            paths = _walk(place, suffixes, [Path(os.path.realpath(folder)) for folder in leave_out])
        else:
            paths = [path for path in sorted(place.iterdir()) if path.suffix.lower() in suffixes and path.is_file()]
        if not paths:
            raise DataError(f"{place}: has no images ({', '.join(suffixes)}).")
        found += [_image_file(path, path.relative_to(place).with_suffix("").as_posix(), frames) for path in paths]
    return found


def _walk(top: Path, suffixes: Sequence[str], leave_out: Sequence[Path]) -> list[Path]:
    """List the images below a folder, those of a folder before those of its sub-folders; a link is followed once."""
    found: list[Path] = []
    seen = set(leave_out)
    for folder, inside, names in os.walk(top, followlinks=True):
        real = Path(folder).resolve()
        if real in seen:
            inside.clear()
            continue
        seen.add(real)
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        images = (Path(folder, name) for name in sorted(names) if not name.startswith("."))
        found += [path for path in images if path.suffix.lower() in suffixes]
    return found


def _image_file(path: Path, name: str, frames: bool) -> ImageFile:
    if is_film(path):
        return ImageFile(path, name, is_film=True)
    pages = 1
    if frames:
        try:
            pages = count_pages(path)
        except DataError:
            pages = 0
    return ImageFile(path, name, pages)


@dataclass
class AnswerFiles:
    """Writes the answers of pictures; each file is there whole or not at all, the labels last.

    | file | what it holds |
    |---|---|
    | NAME.png | class indices, a palette PNG |
    | NAME_overlay.jpg | the picture with the classes' colours over it; of a film NAME_overlay.mp4 |
    | NAME_confidence.png | the largest probability, `confidence` "grey" (255 is 1) or "colour" |
    | NAME_probabilities.npz | `probabilities` "npz": the array `probabilities`, (C, H, W) float32 |
    | NAME_probabilities/00.png … | `probabilities` "png": a 16-bit grey PNG for each class, 65535 is 1 |

    Attributes:
        folder: where to write.
        voc_folder: where labels are written once more.
        confidence: which picture of confidence.
        probabilities: in which form.
        legend: whether overlays have a legend: the classes of the picture, for a film all.
        names: the classes' names, by index; those without are numbers.
        colours: their colours, (classes, 3); by default VOC's.
    """

    folder: Path
    voc_folder: Path | None = None
    confidence: Literal["grey", "colour"] | None = None
    probabilities: Literal["npz", "png"] | None = None
    legend: bool = False
    names: Sequence[str] = ()
    colours: UInt8 | None = None

    def check(self, files: Sequence[ImageFile]) -> None:
        """Refuse answers that would be written over each other or over an image, before anything runs.

        Raises:
            DataError: names both files; or the folder, if answers cannot be written to it.
        """
        for folder in self._folders():
            check_folder(folder)
        sources = {file.path.resolve(): file.path for file in files}
        taken: dict[Path, Path] = {}
        filled: dict[Path, Path] = {}  # the folders that only one file's answers are in
        for file in files:
            for path in self.outputs(file):
                if path in taken:
                    raise _clash(file.path, taken[path], path)
                taken[path] = file.path
                if path.resolve() in sources:
                    raise DataError(
                        f"{path}: the answer for {file.path} would replace the image {sources[path.resolve()]}. "
                        "Give another --out."
                    )
            for folder in self._own_folders(file):
                if folder in filled:
                    raise _clash(file.path, filled[folder], folder)
                filled[folder] = file.path
        for path, source in taken.items():
            if path.parent in filled:
                raise _clash(source, filled[path.parent], path)

    def _folders(self) -> list[Path]:
        return [folder for folder in (self.folder, self.voc_folder) if folder is not None]

    def outputs(self, file: ImageFile, classes: int | None = None) -> list[Path]:
        """List the files of a file's answers; those of a film's single frames are not known before it is read.

        Args:
            file: the file.
            classes: how many classes there are; None leaves out the PNGs of probabilities.
        """
        if file.is_film:
            return [self.folder / f"{file.name}_overlay.mp4"]
        return [path for name in file.names() for path in self._paths(name, classes)]

    def is_done(self, file: ImageFile, classes: int) -> bool:
        """Say whether all answers for a file are there."""
        return all(path.is_file() for path in self.outputs(file, classes))

    def _paths(self, name: str, classes: int | None) -> Iterator[Path]:
        yield self.folder / f"{name}.png"
        if self.voc_folder is not None:
            yield self.voc_folder / f"{name}.png"
        yield self.folder / f"{name}_overlay.jpg"
        if self.confidence is not None:
            yield self.folder / f"{name}_confidence.png"
        if self.probabilities == "npz":
            yield self.folder / f"{name}_probabilities.npz"
        elif self.probabilities == "png":
            yield from (self._plane(name, index, classes or 0) for index in range(classes or 0))

    def _plane(self, name: str, index: int, classes: int) -> Path:
        return self.folder / f"{name}_probabilities" / f"{index:0{max(2, len(str(classes - 1)))}d}.png"

    def _own_folders(self, file: ImageFile) -> Iterator[Path]:
        if file.is_film:
            yield self.folder / file.name
        if self.probabilities == "png":
            yield from (self.folder / f"{name}_probabilities" for name in file.names())

    def write(self, picture: Picture, answer: Answer, *, in_film: bool = False) -> None:
        """Write the answer of a picture.

        Args:
            picture: the picture.
            answer: what the net says of it.
            in_film: whether its overlay goes into a film, see `open_film`, and not into a file of its own.
        """
        base = self.folder / picture.name
        for folder in self._folders():
            (folder / picture.name).parent.mkdir(parents=True, exist_ok=True)
        if answer.probabilities is not None and self.probabilities == "npz":
            _save_npz(base.with_name(f"{base.name}_probabilities.npz"), answer.probabilities)
        elif answer.probabilities is not None and self.probabilities == "png":
            classes = len(answer.probabilities)
            self._plane(picture.name, 0, classes).parent.mkdir(exist_ok=True)
            for index, plane in enumerate(answer.probabilities):
                pictures.save_grey16(self._plane(picture.name, index, classes), plane)
        if answer.confidence is not None and self.confidence is not None:
            paint = pictures.grey_of_shares if self.confidence == "grey" else pictures.colour_of_shares
            pictures.save_image(base.with_name(f"{base.name}_confidence.png"), paint(answer.confidence))
        if not in_film:
            pictures.save_image(base.with_name(f"{base.name}_overlay.jpg"), self.overlay(picture.rgb, answer.labels))
        if self.voc_folder is not None:
            pictures.save_labels(self.voc_folder / f"{picture.name}.png", answer.labels, self.colours)
        pictures.save_labels(base.with_name(f"{base.name}.png"), answer.labels, self.colours)

    def overlay(self, rgb: UInt8, labels: UInt8, shown: Sequence[int] | None = None) -> UInt8:
        """Return the overlay of a picture, with a legend of the classes `shown` if there is to be one.

        By default those of the picture are. Class 0 is not painted, so it has no colour there.
        """
        image = pictures.overlay(rgb, labels, colours=self.colours)
        if not self.legend:
            return image
        if shown is None:
            shown = [index for index, count in enumerate(count_labels(labels)) if count]
        colours = pictures.colour_table(self.colours)
        return pictures.add_legend(image, [(colours[i] if i else None, self.class_text(i)) for i in shown])

    def class_text(self, index: int) -> str:
        """Return a class's index and name, as in a legend."""
        return f"{index} {self.names[index]}" if index < len(self.names) else f"class {index}"

    def open_film(self, file: ImageFile) -> AbstractContextManager[AddFrame]:
        """Open the film of a film's overlays."""
        path = self.outputs(file)[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        return film_writer(path, film_rate(file.path))


def names_and_colours(
    net: str | os.PathLike[str], weights: str | os.PathLike[str], classes: int
) -> tuple[list[str], UInt8 | None]:
    """Return the names and the colours of a net's classes: no names and None where nothing says them.

    They are those of the record beside the weights, else of `classes.txt` beside the net; names also of the net's data
    set.

    Args:
        net: the net's file.
        weights: its weights.
        classes: how many classes it has; lists of another length are not its own.

    Raises:
        WeightsError: the record cannot be read.
        DataError: `classes.txt` cannot be read.
    """
    cards = [card for card in (read_preprocessing(weights), class_card(Path(net))) if card is not None]
    colors = next((card.colors for card in cards if card.colors is not None and len(card.colors) == classes), None)
    colours = None if colors is None else np.array(colors, np.uint8)
    lists = [list(card.classes) for card in cards if card.classes is not None]
    for phase in (TEST, TRAIN) if all(len(names) != classes for names in lists) else ():
        for layer in read_net(net, phase).layer:
            if layer.type == "Python" and not layer.bottom:
                module = find_module(layer.python_param.module, Path(net).parent)
                lists.append(list(getattr(module, "CLASSES", ())))
    return next((names for names in lists if len(names) == classes), []), colours


def count_labels(labels: UInt8) -> list[int]:
    """Return how many pixels each of 256 classes has."""
    # By row, as bincount makes 8 bytes of each pixel.
    counts: list[int] = np.sum([np.bincount(row, minlength=256) for row in labels], 0).tolist()
    return counts


def _clash(first: Path, second: Path, output: Path) -> DataError:
    if first == second:
        return DataError(f"{first}: is named twice, by itself or in a folder. Name it once.")
    return DataError(f"{output}: {first} and {second} would be written to the same file. Run them one at a time.")


def _save_npz(path: Path, probabilities: Float32) -> None:
    """Write an array as numpy.load reads it, piece by piece; not compressed, as that would save a twentieth."""
    with atomic_write(path) as file:
        np.savez(file, probabilities=probabilities)
