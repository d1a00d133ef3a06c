"""Caffe's solvers: the training loop, its learning rates, its update rules.

>>> import torch
>>> from fcn_caffe.proto import caffe_pb2
>>> from fcn_caffe.training.solver import SGD, LearningRate
>>> rate = LearningRate(caffe_pb2.SolverParameter(base_lr=1, lr_policy="step", gamma=0.5, stepsize=10))
>>> [rate(iteration) for iteration in (0, 9, 10, 20)]
[1.0, 1.0, 0.5, 0.25]
>>> weight = torch.nn.Parameter(torch.ones(1))
>>> optimizer = SGD([weight], lr=0.1, momentum=0.9)  # an optimizer of PyTorch, for any model
>>> for _ in range(2):
...     weight.grad = torch.ones(1)
...     optimizer.step()
>>> round(weight.item(), 6)  # the history keeps the rate: 1 - 0.1 - (0.9 * 0.1 + 0.1)
0.71
"""

from fcn_caffe.host.glog import GlogFormatter
from fcn_caffe.training.solver.lr_policies import LearningRate
from fcn_caffe.training.solver.settings import read_solver
from fcn_caffe.training.solver.solver import Solver
from fcn_caffe.training.solver.update_rules import RULES, SGD, AdaDelta, AdaGrad, Adam, Nesterov, RMSProp, UpdateRule

__all__ = [
    "RULES",
    "SGD",
    "AdaDelta",
    "AdaGrad",
    "Adam",
    "GlogFormatter",
    "LearningRate",
    "Nesterov",
    "RMSProp",
    "Solver",
    "UpdateRule",
    "read_solver",
]
