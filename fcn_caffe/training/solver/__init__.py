"""Training as Caffe does it."""

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
