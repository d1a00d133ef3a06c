"""A database of Datums, as the Data layer reads them, out of a list of images and their labels."""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_caffe.commands import command
from fcn_caffe.commands._options import new_parser, seed, side
from fcn_caffe.commands.compute_image_mean import BACKENDS
from fcn_caffe.errors import DataError
from fcn_caffe.host.text import show

if TYPE_CHECKING:
    from fcn_caffe.proto import caffe_pb2

REPORT_EVERY = 1000


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("convert_imageset", __doc__)
    add, switch = options.add_argument, argparse.BooleanOptionalAction
    add("root_folder", metavar="ROOTFOLDER/", help="what each path of the list is put behind")
    add("list_file", metavar="LISTFILE", help="a path and an integer label on each line")
    add("db_name", metavar="DB_NAME", help="database to make; there must be none")
    add("-backend", "--backend", default="lmdb", choices=BACKENDS, help="(default: %(default)s)")
    add("--gray", action=switch, default=False, help="one channel")
    add("--shuffle", action=switch, default=False, help="in a random order")
    add("--seed", type=seed, help="of --shuffle (default: another one every time)")
    add("-resize_width", "--resize_width", "--resize-width", type=side, default=0, help="with --resize_height")
    add("-resize_height", "--resize_height", "--resize-height", type=side, default=0, help="with --resize_width")
    check = "stop at an image of another size than the first's"
    add("--check_size", "--check-size", action=switch, default=False, help=check)
    add("--encoded", action=switch, default=False, help="keep the images compressed")
    encode = "png or jpg: how images are compressed (default: as their files are); means --encoded"
    add("-encode_type", "--encode_type", "--encode-type", default="", help=encode)
    return options


def _without_gflags(words: Sequence[str]) -> list[str]:
    """Rewrite switches that Caffe's gflags also takes, -gray, --gray=true and --nogray, as argparse takes them."""
    plain = []
    for word in words:
        match = re.fullmatch(r"--?(no)?(gray|shuffle|check_size|encoded)(?:=(\w+))?", word, re.IGNORECASE)
        if match:
            no = bool(match[1]) != ((match[3] or "true").lower() in ("false", "f", "no", "n", "0"))
            word = f"--no-{match[2]}" if no else f"--{match[2]}"
        plain.append(word)
    return plain


class _Images:
    """The records of a list of images: `00000012_path` and a Datum. Images that cannot be read are left out."""

    def __init__(self, lines: list[tuple[str, int]], arguments: argparse.Namespace) -> None:
        self.lines, self.arguments, self.left_out = lines, arguments, 0

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        size: tuple[int, ...] = ()
        for number, (name, label) in enumerate(self.lines):
            try:
                datum, shape = self._datum(name, label)
            except DataError as error:
                print(f"warning: left out: {error}", file=sys.stderr)
                self.left_out += 1
                continue
            if self.arguments.check_size and shape != (size or shape):
                raise DataError(
                    f"{name}: the image is {show(shape)}, the first {show(size)}. Give --resize_height and _width."
                )
            size = size or shape
            yield f"{number:08d}_{name}".encode(errors="surrogateescape"), datum.SerializeToString()
            if (number + 1) % REPORT_EVERY == 0:
                print(f"Processed {number + 1} files.", flush=True)
        if self.left_out == len(self.lines):
            raise DataError(f"{self.arguments.list_file}: none of its images could be read. Is ROOTFOLDER right?")

    def _datum(self, name: str, label: int) -> tuple[caffe_pb2.Datum, tuple[int, ...]]:
        from fcn_caffe.data.readers.datum import datum_of_encoded, datum_of_image
        from fcn_caffe.data.readers.opencv_images import Colour, encode_image, read_image_bgr

        options = self.arguments
        path = Path(options.root_folder + name)
        colour: Colour = "gray" if options.gray else "color"
        image = read_image_bgr(path, colour, options.resize_height, options.resize_width)
        if not options.encoded:
            return datum_of_image(image, label), image.shape
        suffix = path.suffix.lower().removeprefix(".")
        wanted = options.encode_type or suffix
        # A file that is what is wanted already is kept to the byte.
        same = wanted == suffix or (wanted, suffix) == ("jpg", "jpeg")
        if same and not options.gray and not (options.resize_height > 0 and options.resize_width > 0):
            return datum_of_encoded(path.read_bytes(), image.shape, label), image.shape
        return datum_of_encoded(encode_image(image, wanted, str(path)), image.shape, label), image.shape


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parser().parse_args(_without_gflags(sys.argv[1:] if argv is None else argv))
    if (arguments.resize_height > 0) != (arguments.resize_width > 0):
        raise DataError("--resize_height and --resize_width go together: give both or neither.")
    if arguments.seed is not None and not arguments.shuffle:
        raise DataError("--seed is of the random order: give --shuffle too, or leave --seed out.")

    from fcn_caffe.data.readers.databases import write_records
    from fcn_caffe.data.readers.image_list import read_image_list
    from fcn_caffe.data.readers.opencv_images import image_format

    if arguments.encode_type:
        image_format(arguments.encode_type, "--encode_type")
    arguments.encoded = arguments.encoded or bool(arguments.encode_type)
    lines = read_image_list(arguments.list_file)
    if arguments.shuffle:
        random.Random(arguments.seed).shuffle(lines)
    print(f"A total of {len(lines)} images.")
    images = _Images(lines, arguments)
    count = write_records(arguments.db_name, arguments.backend, iter(images))
    left_out = f" {images.left_out} could not be read and were left out." if images.left_out else ""
    print(f"Processed {count} files.{left_out}")
    return 0
