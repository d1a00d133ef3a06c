"""Class balancing: a loss weighed by how rare a pixel's class is, against the plain one.

Source: Long et al., section 4.3.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fcn_caffe.data.sets.shapes_scenes import CLASSES, draw_scene
from fcn_caffe.models import shapes
from fcn_caffe.paper.experiments.miniature import miniature
from fcn_caffe.paper.result import Result
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.blob_file import write_blob

__all__ = ["balance", "class_shares", "inverse_frequency", "with_class_weights"]

ITERATIONS = 250
RATE = 0.01  # a third of the recipe's, at which a loss whose rare pixels weigh ten times as much diverges
GAIN = 1.0  # points of mean IU that would be worth the weights
SCENES = 100  # whose labels are counted


@cache
def class_shares(seed: int, scenes: int = SCENES) -> npt.NDArray[np.float64]:
    """The share of each class among the labelled pixels of the generated scenes that are trained on."""
    counts = np.zeros(len(CLASSES))
    for index in range(scenes):
        label = draw_scene(seed, "train", index, shapes.SCENE)[1]
        counts += np.bincount(label.ravel(), minlength=256)[: len(CLASSES)]
    return np.asarray(counts / counts.sum())


def inverse_frequency(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A weight a class, 1 / its share, scaled so that a pixel's weight is 1 on average and the rate may stay."""
    return 1 / (len(shares) * shares)


def with_class_weights(net: Any, matrix: Path) -> Any:
    """A copy of a net whose softmax losses weigh classes by the matrix in a file, in training."""
    made = caffe_pb2.NetParameter()
    made.CopyFrom(net)
    for layer in made.layer:
        if layer.type == "SoftmaxWithLoss":
            layer.type = "InfogainLoss"
            layer.infogain_loss_param.source = str(matrix)
    return made


def balance(seed: int = 0, scale: float = 1.0) -> Result:
    """FCN-32s without and with weights: one start, one rate, the same images. scale: of the iterations."""
    result = Result("balance", "4.3", "class balancing is unnecessary, though about 3/4 of the pixels are background")
    mini, shares = miniature(seed, scale), class_shares(shapes.SEED + seed)
    net, solver = mini.net("shapes-fcn32s"), mini.solver("shapes-fcn32s")
    solver.base_lr, solver.max_iter = RATE, mini.iterations(ITERATIONS)
    start = mini.stage("shapes-fcn32s-fixed").weights
    plain = mini.train(net, solver, start)
    with tempfile.TemporaryDirectory() as folder:
        matrix = Path(folder) / "weights.binaryproto"
        write_blob(matrix, np.diag(inverse_frequency(shares)))
        weighed = mini.train(with_class_weights(net, matrix), solver, start)
    for words, name in (
        ("mean IU", "mean_iu"),
        ("mean accuracy", "mean_accuracy"),
        ("pixel accuracy", "pixel_accuracy"),
    ):
        one, other = (100 * getattr(run.scores, name) for run in (plain, weighed))
        result.measure(f"{words}, plain, %", one)
        # A net that answers one class everywhere would be no comparison: weights of rare classes raise this one.
        acted = ("above plain's", other > one) if name == "mean_accuracy" else ("", None)
        result.measure(f"{words}, balanced, %", other, *acted)
        if name == "mean_iu":
            gain = other - one
            result.measure("what balancing gains in mean IU, points", gain, f"at most {GAIN:g}", gain <= GAIN)
    result.measure("share of background among the labelled pixels, %", 100 * shares[0])
    weights = ", ".join(f"{one:.3g}" for one in inverse_frequency(shares))
    result.remarks.append(
        f"weights of 1 / a class's share, {weights}: 1 on average over pixels; {solver.max_iter} iterations each, from "
        "FCN-32s-fixed; the paper's share of background is about 3/4"
    )
    return result
