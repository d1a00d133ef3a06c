"""Training: Caffe's solvers, plans and stages of the paper's recipe, and training logs.

`make_plan` finds the stages that lead to a net, `Training` trains one of them, and `Solver` is Caffe's own loop.

>>> from fcn_caffe.host.paths import shipped
>>> from fcn_caffe.training import read_stage
>>> stage = read_stage(shipped("solvers/shapes-fcn16s.prototxt"))
>>> stage.net.name, stage.last, [path.name for path in stage.sources]
('shapes-fcn16s.prototxt', 300, ['shapes-fcn32s.caffemodel'])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fcn_caffe.host.lazy import import_name

if TYPE_CHECKING:
    from fcn_caffe.training.log_chart import Chart, draw_chart
    from fcn_caffe.training.log_parser import TrainingLog, parse_log, write_tables
    from fcn_caffe.training.plan import Plan, Planned, Stage, make_plan, read_stage
    from fcn_caffe.training.solver import Solver, read_solver
    from fcn_caffe.training.stage import Row, ScoreTable, Training, best_scores, keep_random_state, start_from
    from fcn_caffe.training.stage_picture import draw_stages

__all__ = [
    "Chart",
    "Plan",
    "Planned",
    "Row",
    "ScoreTable",
    "Solver",
    "Stage",
    "Training",
    "TrainingLog",
    "best_scores",
    "draw_chart",
    "draw_stages",
    "keep_random_state",
    "make_plan",
    "parse_log",
    "read_solver",
    "read_stage",
    "start_from",
    "write_tables",
]

# The log tools and `solve --help` read modules of this package, and need no PyTorch.
_MODULES = {
    "Chart": "log_chart",
    "Plan": "plan",
    "Planned": "plan",
    "Row": "stage",
    "ScoreTable": "stage",
    "Solver": "solver",
    "Stage": "plan",
    "Training": "stage",
    "TrainingLog": "log_parser",
    "best_scores": "stage",
    "draw_chart": "log_chart",
    "draw_stages": "stage_picture",
    "keep_random_state": "stage",
    "make_plan": "plan",
    "parse_log": "log_parser",
    "read_solver": "solver",
    "read_stage": "plan",
    "start_from": "stage",
    "write_tables": "log_parser",
}


def __getattr__(name: str) -> object:
    return import_name(__name__, name, _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
