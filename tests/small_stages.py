"""A task of two stages small enough to train in a test: a folder of 6 images, dropout, images drawn at random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NET = """
name: "{name}"
layer {{
  name: "data" type: "Python" top: "data" top: "label"
  include {{ phase: TRAIN not_stage: "deploy" }}
  python_param {{ module: "folder_layers" layer: "FolderSegData"
    param_str: "{{'images': 'images', 'labels': 'labels', 'split': 'train.txt', 'seed': 3}}" }}
}}
layer {{
  name: "data" type: "Python" top: "data" top: "label"
  include {{ phase: TEST not_stage: "deploy" }}
  python_param {{ module: "folder_layers" layer: "FolderSegData"
    param_str: "{{'images': 'images', 'labels': 'labels', 'split': 'val.txt'}}" }}
}}
layer {{
  name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 weight_filler {{ type: "gaussian" std: 0.001 }} }}
}}
layer {{ name: "drop" type: "Dropout" bottom: "conv" top: "conv" }}
{extra}
layer {{
  name: "score" type: "Convolution" bottom: "conv" top: "score" convolution_param {{ num_output: 2 kernel_size: 1 }}
}}
layer {{
  name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss"
  loss_param {{ ignore_label: 255 normalize: true }}
}}
"""

EXTRA = """
layer {
  name: "conv_fine" type: "Convolution" bottom: "conv" top: "conv_fine"
  convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "msra" } }
}
"""

SOLVER = """
net: "nets/{name}.prototxt"
test_iter: 2
test_interval: 999999999
test_initialization: false
base_lr: 0.001
lr_policy: "poly"
power: 1
momentum: 0.9
max_iter: 6
display: 1
average_loss: 2
snapshot: 2
snapshot_prefix: "snapshot/{name}/train"
random_seed: 7
{weights}
"""


def write_stages(folder: Path) -> Path:
    """Write images, nets and solvers of stages `coarse` and `fine`; returns the folder."""
    generator = np.random.default_rng(0)
    for name in ("images", "labels", "nets", "solvers"):
        (folder / name).mkdir(parents=True)
    for index in range(6):
        label = np.zeros((12, 14), np.uint8)
        label[2 + index :, 3:9] = 1
        image = generator.integers(0, 90, (12, 14, 3)) + label[:, :, None] * 120
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{index}.png")
        Image.fromarray(label).save(folder / "labels" / f"{index}.png")
    (folder / "train.txt").write_text("0\n1\n2\n3\n")
    (folder / "val.txt").write_text("4\n5\n")
    for name, extra, weights in (("coarse", "", ""), ("fine", EXTRA, 'weights: "weights/coarse.caffemodel"')):
        (folder / "nets" / f"{name}.prototxt").write_text(NET.format(name=name, extra=extra))
        (folder / "solvers" / f"{name}.prototxt").write_text(SOLVER.format(name=name, weights=weights))
    return folder
