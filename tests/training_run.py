"""A small training run on disk: a random data layer of one's own, dropout, a test net. Also a script, for signals.

python tests/training_run.py FOLDER [RESUME]     # trains solver.prototxt in FOLDER, says "step N" after each
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fcn_caffe.training.solver import Solver

DATA_LAYER = '''
import random
import numpy

class Random(object):
    """Images in an order of its own, drawn from a generator that it can save."""

    def setup(self, bottom, top):
        self.order = random.Random(self.param_str)
        self.images = numpy.random.RandomState(0).randn(8, 2, 6, 6)

    def reshape(self, bottom, top):
        top[0].reshape(1, 2, 6, 6)
        top[1].reshape(1, 1, 6, 6)

    def forward(self, bottom, top):
        image = self.images[self.order.randrange(8)]
        top[0].data[0] = image
        top[1].data[0, 0] = image.sum(axis=0) > 0

    def get_state(self):
        version, words, gauss = self.order.getstate()
        return [version, list(words), gauss]

    def set_state(self, state):
        self.order.setstate((state[0], tuple(state[1]), state[2]))
'''

NET = """
name: "tiny"
layer { name: "data" type: "Python" top: "data" top: "label" include { phase: TRAIN }
  python_param { module: "random_images" layer: "Random" param_str: "train" } }
layer { name: "data" type: "Python" top: "data" top: "label" include { phase: TEST }
  python_param { module: "random_images" layer: "Random" param_str: "test" } }
layer { name: "c1" type: "Convolution" bottom: "data" top: "c1" param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "c1" top: "c1" dropout_param { dropout_ratio: 0.5 } }
layer { name: "frozen" type: "Convolution" bottom: "c1" top: "c2" param { lr_mult: 0 } param { lr_mult: 0 }
  convolution_param { num_output: 8 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "score" type: "Convolution" bottom: "c2" top: "score"
  convolution_param { num_output: 2 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" loss_weight: 2
  loss_param { normalize: true } }
layer { name: "accuracy" type: "Accuracy" bottom: "score" bottom: "label" top: "accuracy" include { phase: TEST } }
"""

SOLVER = """
net: "net.prototxt" test_iter: 2 test_interval: 3
base_lr: 0.05 lr_policy: "multistep" gamma: 0.5 stepvalue: 2 stepvalue: 5 momentum: 0.9 weight_decay: 0.001
display: 2 average_loss: 3 random_seed: 7 snapshot_prefix: "out/run" solver_mode: CPU
"""


def write(folder: Path, more: str = "", max_iter: int = 8) -> Path:
    """Put the run into a folder; `more` is added to the solver. Returns the solver's path."""
    (folder / "random_images.py").write_text(DATA_LAYER)
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(f"{SOLVER}max_iter: {max_iter}\n{more}")
    return folder / "solver.prototxt"


def solver(folder: Path, more: str = "", max_iter: int = 8) -> Solver:
    """The run's solver, as `write` puts it into the folder."""
    return Solver(write(folder, more, max_iter), device="cpu", base=folder)


def main() -> None:
    folder = Path(sys.argv[1])
    os.chdir(folder)
    sys.path.insert(0, str(folder.absolute()))  # the data layer's module is this run's own
    solver = Solver("solver.prototxt", device="cpu")
    solver.on_step.append(lambda solver: print("step", solver.iter, flush=True))
    solver.solve(resume=sys.argv[2] if len(sys.argv) > 2 else None)
    print("stopped" if solver.stopped else "done", solver.iter, flush=True)


if __name__ == "__main__":
    main()
