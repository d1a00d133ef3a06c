"""Training as Caffe does it."""

from fcn_caffe.log import GlogFormatter
from fcn_caffe.solver.lr_policies import LearningRate
from fcn_caffe.solver.settings import read_solver
from fcn_caffe.solver.solver import Solver
from fcn_caffe.solver.update_rules import RULES, SGD, AdaDelta, AdaGrad, Adam, Nesterov, RMSProp, UpdateRule

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
