"""The mean image of a database, as a mean_file for transform_param, and the mean of each channel."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_caffe.commands import command
from fcn_caffe.commands._options import new_parser
from fcn_caffe.errors import DataError
from fcn_caffe.host.text import show

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BACKENDS = ("lmdb", "leveldb")
REPORT_EVERY = 10000


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("compute_image_mean", __doc__)
    options.add_argument("input_db", metavar="INPUT_DB", help="LMDB or LevelDB of Datums, all of one size")
    options.add_argument("output_file", metavar="OUTPUT_FILE", nargs="?", help="mean file to write (.binaryproto)")
    options.add_argument("--backend", "-backend", default="lmdb", choices=BACKENDS, help="(default: %(default)s)")
    return options


def mean_image(path: str, backend: str) -> npt.NDArray[np.float32]:
    """Compute the mean of all images of a database; the sum is exact for any number of images.

    Shapes: -> (C, H, W), BGR as the images are.

    Raises:
        DataError: The images are of two sizes, the database is empty, or it cannot be read.

    Source: Caffe compute_image_mean.
    """
    import numpy as np

    from fcn_caffe.data.readers.databases import read_records
    from fcn_caffe.data.readers.datum import array_of_datum, parse_datum

    total: npt.NDArray[np.float64] = np.zeros(0)
    count = 0
    with closing(read_records(path, backend)) as records:
        for key, value in records:
            name = f"{path}: record '{key.decode(errors='replace')}'"
            image = array_of_datum(parse_datum(value, name), name)
            if count == 0:
                total = np.zeros(image.shape)
            if image.shape != total.shape:
                raise DataError(
                    f"{name} is {show(image.shape)}, the first {show(total.shape)}. "
                    "Make the database with one size of images."
                )
            total += image
            count += 1
            if count % REPORT_EVERY == 0:
                print(f"Processed {count} files.", flush=True)
    if not count:
        raise DataError(f"{path}: the database is empty.")
    print(f"Processed {count} files.")
    return (total / count).astype(np.float32)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parser().parse_args(argv)

    from fcn_caffe.host.atomic import check_place
    from fcn_caffe.proto.blob_file import write_blob

    if arguments.output_file:
        check_place(arguments.output_file)
        real, database = (Path(os.path.realpath(path)) for path in (arguments.output_file, arguments.input_db))
        if real.is_relative_to(database):
            raise DataError(f"{arguments.output_file}: lies in the database. Give another place.")
    mean = mean_image(arguments.input_db, arguments.backend)
    if arguments.output_file:
        print(f"Write to {arguments.output_file}")
        write_blob(arguments.output_file, mean)
    print(f"Number of channels: {len(mean)}")
    for channel, values in enumerate(mean):
        print(f"mean_value channel [{channel}]: {values.mean(dtype='float64'):.6g}")
    return 0
