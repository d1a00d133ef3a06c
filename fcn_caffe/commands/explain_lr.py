"""Say what a solver's learning rate means: the loss's normaliser, momentum's part, and the same under another one.

Of two solvers or more it prints these side by side, with the ratio of their steps.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence

from fcn_caffe.commands import command
from fcn_caffe.commands._options import image_size, net_or_solver, new_parser


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("explain_lr", __doc__)
    add = options.add_argument
    add("solver", nargs="+", type=net_or_solver, help="solver prototxt; several are put side by side")
    add("--size", type=image_size, help="HEIGHTxWIDTH of the images (default: the data's, else deploy's)")
    add("--json", action="store_true", help="print the numbers as JSON")
    return options


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the explanation. Returns 1 where the rate is an error for how the loss is normalised."""
    arguments = parser().parse_args(argv)

    from fcn_caffe.doctor.learning_rate import explain
    from fcn_caffe.doctor.learning_rate_table import compare

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what building a net warns of is doctor's to say
        each = [explain(solver, arguments.size) for solver in arguments.solver]
    answer = each[0] if len(each) == 1 else compare(each)
    print(json.dumps(answer.record(), indent=2, ensure_ascii=False) if arguments.json else answer)
    return 1 if any(line.startswith("error:") for solver in each for line in solver.warnings) else 0
