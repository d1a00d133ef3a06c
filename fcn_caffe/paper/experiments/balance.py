"""Class balancing: a loss that weights a pixel by how rare its class is, against the plain one.

Source: Long et al., section 4.3.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fcn_caffe.data.sets.shapes_scenes import CLASSES, draw_scene
from fcn_caffe.models import shapes
from fcn_caffe.models.class_weights import weigh_classes
from fcn_caffe.paper.experiments.miniature import miniature
from fcn_caffe.paper.result import Result
from fcn_caffe.proto.blob_file import write_blob

__all__ = ["balance", "class_shares", "inverse_frequency"]

ITERATIONS = 250
RATE = 0.01  # a third of the recipe's: at that, a loss whose rare pixels weigh ten times as much diverges
GAIN = 1.0  # points of mean IU; more would be worth the weights
SCENES = 100  # whose labels are counted


@cache
def class_shares(seed: int, scenes: int = SCENES) -> npt.NDArray[np.float64]:
    """Measure the share of each class among the labelled pixels of the generated training scenes."""
    counts = np.zeros(len(CLASSES))
    for index in range(scenes):
        label = draw_scene(seed, "train", index, shapes.SCENE)[1]
        counts += np.bincount(label.ravel(), minlength=256)[: len(CLASSES)]
    return np.asarray(counts / counts.sum())


def inverse_frequency(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Weight a class by 1 / its share, scaled so that a pixel's weight is 1 on average and the rate may stay."""
    return 1 / (len(shares) * shares)


def balance(seed: int = 0, scale: float = 1.0) -> Result:
    """Train FCN-32s without and with class weights: one start, one rate, the same images.

    Args:
        seed: of the miniature.
        scale: share of the iterations.
    """
    result = Result("balance", "4.3", "class balancing is unnecessary, though about 3/4 of the pixels are background")
    mini, shares = miniature(seed, scale), class_shares(shapes.SEED + seed)
    net, solver = mini.net("shapes-fcn32s"), mini.solver("shapes-fcn32s")
    solver.base_lr, solver.max_iter = RATE, mini.iterations(ITERATIONS)
    start = mini.stage("shapes-fcn32s-fixed").weights
    plain = mini.train(net, solver, start)
    with tempfile.TemporaryDirectory() as folder:
        matrix = Path(folder) / "weights.binaryproto"
        write_blob(matrix, np.diag(inverse_frequency(shares)))
        weighted = mini.train(weigh_classes(net, str(matrix)), solver, start)
    for words, name in (
        ("mean IU", "mean_iu"),
        ("mean accuracy", "mean_accuracy"),
        ("pixel accuracy", "pixel_accuracy"),
    ):
        without, with_weights = (100 * getattr(run.scores, name) for run in (plain, weighted))
        result.measure(f"{words}, plain, %", without)
        # A net that answers one class everywhere would be no comparison: weights of rare classes raise this one.
        wanted = ("above plain's", with_weights > without) if name == "mean_accuracy" else ("", None)
        result.measure(f"{words}, balanced, %", with_weights, *wanted)
        if name == "mean_iu":
            gain = with_weights - without
            result.measure("what balancing gains in mean IU, points", gain, f"at most {GAIN:g}", gain <= GAIN)
    result.measure("share of background among the labelled pixels, %", 100 * shares[0])
    weights = ", ".join(f"{weight:.3g}" for weight in inverse_frequency(shares))
    result.remarks.append(
        f"weights of 1 / a class's share, {weights}: 1 on average over pixels; {solver.max_iter} iterations each, from "
        "FCN-32s-fixed; the paper's share of background is about 3/4"
    )
    return result
