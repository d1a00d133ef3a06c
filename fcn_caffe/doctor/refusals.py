"""What training would refuse before its first step: its own checks, made now."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fcn_caffe.doctor.findings import ERROR, Finding
from fcn_caffe.errors import SolverError
from fcn_caffe.net.net import Net
from fcn_caffe.training.solver import LearningRate
from fcn_caffe.training.solver.settings import Settings, no_loss

__all__ = ["refusals"]


def refusals(settings: Settings, train: Net | None) -> Iterator[Finding]:
    """Check the solver's policy, its sources of nets, and the loss of its train net. train: None if it is not built."""
    checks: list[Callable[[], object]] = [
        lambda: LearningRate(settings.param, settings.place),
        settings.train_source,
        lambda: [settings.find(net, f"{name} file") for name, net in settings.test_sources() if isinstance(net, str)],
    ]
    for check in checks:
        try:
            check()
        except SolverError as error:
            advice = str(error).removeprefix(f"{settings.place}: ")
            yield Finding(ERROR, "solver", settings.place, "training refuses it:", advice)
    if train is not None and not train.loss_weights:
        yield Finding(ERROR, "solver", settings.place, "training changes nothing:", no_loss(train))
