"""Make an old solver modern: the enum `solver_type` becomes the string `type`.

Takes solvers in text and binary, and writes the form it read. A modern solver is copied as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fcn_caffe.commands import command
from fcn_caffe.commands.upgrade_net import upgrade, upgrade_parser

if TYPE_CHECKING:
    from fcn_caffe.proto import caffe_pb2


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    return upgrade_parser("upgrade_solver", __doc__, "solver")


def _old_forms(solver: caffe_pb2.SolverParameter) -> list[str]:
    if not solver.HasField("solver_type"):
        return []
    return [f"solver_type {solver.SolverType.Name(solver.solver_type)}"]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 also when there was nothing to upgrade."""
    arguments = parser().parse_args(argv)

    from fcn_caffe.proto import caffe_pb2
    from fcn_caffe.proto.upgrade import upgrade_solver

    return upgrade(arguments, caffe_pb2.SolverParameter, _old_forms, upgrade_solver)
