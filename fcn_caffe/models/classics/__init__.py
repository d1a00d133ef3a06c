"""The classics of dense prediction besides FCN, as the papers' authors built them in forks of Caffe."""

from fcn_caffe.models.classics.register import CLASSICS, Classic, classic_net, classic_solver

__all__ = ["CLASSICS", "Classic", "classic_net", "classic_solver"]
