"""Examine a net or a solver before it runs: dead layers, rates, crop offsets, inputs, classes, labels, memory."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from fcn_caffe.commands import command
from fcn_caffe.commands._options import image_size, positive
from fcn_caffe.doctor import ERROR, IMAGES, examine


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="doctor", description=__doc__)
    parser.add_argument("file", help="net or solver prototxt")
    parser.add_argument("--weights", help="weights the net was trained to, or that the solver starts from")
    parser.add_argument(
        "--size", type=image_size, help="HEIGHTxWIDTH of the images (default: the data's, else deploy's)"
    )
    parser.add_argument(
        "--images", type=positive, default=IMAGES, help=f"how many images' labels are looked at (default: {IMAGES})"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    found = examine(arguments.file, arguments.weights, size=arguments.size, images=arguments.images)
    print(json.dumps(found.record(), indent=2, ensure_ascii=False) if arguments.json else found)
    return 1 if found.count(ERROR) else 0
