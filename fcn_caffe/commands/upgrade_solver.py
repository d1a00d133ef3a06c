"""Make an old solver modern: the enum `solver_type` becomes the string `type`.

Takes solvers in text and binary, and writes the form it read. A modern solver is copied as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fcn_caffe.commands import command
from fcn_caffe.commands.upgrade_net import parser, upgrade
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.upgrade import upgrade_solver


def _old_forms(solver: Any) -> list[str]:
    if not solver.HasField("solver_type"):
        return []
    return [f"solver_type {caffe_pb2.SolverParameter.SolverType.Name(solver.solver_type)}"]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 also when there was nothing to upgrade."""
    arguments = parser("upgrade_solver", __doc__, "solver").parse_args(argv)
    return upgrade(arguments, caffe_pb2.SolverParameter, _old_forms, upgrade_solver)
