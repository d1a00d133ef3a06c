"""Examine a net or a solver before it runs: dead layers, rates, crop offsets, inputs, classes, labels, memory."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from fcn_caffe.commands import command
from fcn_caffe.commands._options import (
    add_reading_options,
    image_size,
    net_or_solver,
    new_parser,
    positive,
    use_reading_options,
)
from fcn_caffe.errors import DataError

IMAGES = 4  # whose labels are looked at


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("doctor", __doc__)
    add = options.add_argument
    add("file", type=net_or_solver, help="net or solver prototxt")
    add("--weights", help="weights the net was trained to, or that the solver starts from")
    add("--size", type=image_size, help="HEIGHTxWIDTH of the images (default: the data's, else deploy's)")
    add("--images", type=positive, default=IMAGES, help="how many images' labels are looked at (default: %(default)s)")
    add("--fix", metavar="OUT", help="write the net to OUT with the crop offsets of the coordinate map")
    add("--json", action="store_true", help="print the findings as JSON")
    add_reading_options(options)
    return options


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the findings. Returns 1 where one of them is an error, but for offsets that `--fix` set right."""
    arguments = parser().parse_args(argv)
    use_reading_options(arguments)

    from fcn_caffe.doctor import ERROR, examine
    from fcn_caffe.doctor.fix import fix_crops
    from fcn_caffe.doctor.structure import CROP_OFFSET
    from fcn_caffe.doctor.subject import read_subject

    if arguments.fix and read_subject(arguments.file).settings is not None:
        raise DataError(f"--fix writes a net, and {arguments.file} is a solver. Give its net.")
    examination = examine(arguments.file, arguments.weights, size=arguments.size, images=arguments.images)
    print(json.dumps(examination.record(), indent=2, ensure_ascii=False) if arguments.json else examination)
    if not arguments.fix:
        return 1 if examination.count(ERROR) else 0
    offsets = fix_crops(arguments.file, arguments.fix)
    listed = "; ".join(f"'{name}' has offset {', '.join(map(str, right))}" for name, right in offsets.items())
    stream = sys.stderr if arguments.json else sys.stdout
    print(f"wrote {arguments.fix}: {listed or 'no crop needed another offset'}", file=stream)
    left = [item for item in examination.findings if item.level == ERROR and item.check != CROP_OFFSET]
    return 1 if left else 0
