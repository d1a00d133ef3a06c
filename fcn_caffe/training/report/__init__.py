"""A page of a run: its stages, curves, scores by class, confusion, best and worst images, and how to repeat it.

`read_run` reads what `solve` and `train` left, without PyTorch's nets or data; `write_run` writes the page.
"""

from fcn_caffe.training.report.facts import Run, StageRun, read_run
from fcn_caffe.training.report.page import write_run

__all__ = ["Run", "StageRun", "read_run", "write_run"]
