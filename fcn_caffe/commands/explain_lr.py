"""Say what a solver's learning rate means: the loss's normaliser, momentum's part, and the same under another one.

Of two solvers or more it prints these side by side, with the ratio of their steps.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence

from fcn_caffe.commands import command
from fcn_caffe.commands._options import image_size
from fcn_caffe.doctor.learning_rate import explain
from fcn_caffe.doctor.learning_rate_table import compare


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the explanation. Returns 1 where the rate is an error for how the loss is normalised."""
    parser = argparse.ArgumentParser(prog="explain_lr", description=__doc__)
    parser.add_argument("solver", nargs="+", help="solver prototxt; several are put side by side")
    parser.add_argument(
        "--size", type=image_size, help="HEIGHTxWIDTH of the images (default: the data's, else deploy's)"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    arguments = parser.parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what building a net warns of is doctor's to say
        each = [explain(solver, arguments.size) for solver in arguments.solver]
    found = each[0] if len(each) == 1 else compare(each)
    print(json.dumps(found.record(), indent=2, ensure_ascii=False) if arguments.json else found)
    return 1 if any(line.startswith("error:") for solver in each for line in solver.warnings) else 0
