"""The paper's experiments: each is run, and its numbers stand beside what the paper says.

>>> from fcn_caffe.paper.experiments import EXPERIMENTS, Options
>>> experiment = EXPERIMENTS["fc-to-conv"]
>>> experiment.what
'a classifier and its fully convolutional form give the same numbers'
>>> experiment.run(Options(seed=1)).verdict
'holds'

Those that train nets start from `miniature.miniature`, the paper's recipe on generated scenes.
"""

from fcn_caffe.paper.experiments.registry import EXPERIMENTS, Experiment, Options

__all__ = ["EXPERIMENTS", "Experiment", "Options"]
