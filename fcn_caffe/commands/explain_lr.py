"""Say what a solver's learning rate means: the loss's normaliser, momentum's part, and the same under another one."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence

from fcn_caffe.command_options import image_size
from fcn_caffe.commands import command
from fcn_caffe.paper.learning_rate import explain


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the explanation. Returns 1 where the rate is an error for how the loss is normalised."""
    parser = argparse.ArgumentParser(prog="explain_lr", description=__doc__)
    parser.add_argument("solver", help="solver prototxt")
    parser.add_argument(
        "--size", type=image_size, help="HEIGHTxWIDTH of the images (default: the data's, else deploy's)"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    arguments = parser.parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what building a net warns of is doctor's to say
        found = explain(arguments.solver, arguments.size)
    print(json.dumps(found.record(), indent=2, ensure_ascii=False) if arguments.json else found)
    return 1 if any(line.startswith("error:") for line in found.warnings) else 0
