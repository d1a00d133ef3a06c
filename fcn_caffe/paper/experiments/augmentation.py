"""Augmentation: mirroring and moving the images that are trained on, against leaving them as they are.

Source: Long et al., section 4.3.
"""

from __future__ import annotations

from fcn_caffe.models import shapes
from fcn_caffe.paper.experiments.miniature import ONE_ANSWER, Miniature, miniature
from fcn_caffe.paper.experiments.sampling_nets import with_change, with_data_options
from fcn_caffe.paper.result import Result
from fcn_caffe.proto import caffe_pb2

__all__ = ["augmentation", "short_fcn32s"]

ITERATIONS = 100
JITTER = 32  # pixels, one place of the coarsest scores, as in the paper: the miniature's stride is the same
SCENES = 160  # a fixed set that is trained on again and again: the generator alone would never repeat a scene
GAIN = 1.0  # points of mean IU; more would be noticeable


def short_fcn32s(mini: Miniature) -> tuple[caffe_pb2.NetParameter, caffe_pb2.SolverParameter]:
    """Make the net and solver of FCN-32s, for fewer iterations than the recipe's."""
    solver = mini.solver("shapes-fcn32s")
    solver.max_iter = mini.iterations(ITERATIONS)
    return mini.net("shapes-fcn32s"), solver


def augmentation(seed: int = 0, scale: float = 1.0) -> Result:
    """Train FCN-32s on a fixed set of scenes as they are, and mirrored and moved, from the same start.

    Args:
        seed: of the miniature and of the alterations.
        scale: share of the iterations and of the set.
    """
    result = Result("augmentation", "4.3", "random mirroring and jitter of up to 32 pixels: no noticeable gain")
    mini = miniature(seed, scale)
    net, solver = short_fcn32s(mini)
    scenes = max(8, round(scale * SCENES))
    net = with_data_options(net, count=scenes)
    start = mini.stage("shapes-fcn32s-fixed").weights
    plain = mini.train(net, solver, start)
    options = {"mirror": True, "jitter": JITTER, "seed": seed}
    blobs = ["data", "label"]
    altered = mini.train(with_change(net, "MirrorJitter", blobs, blobs, options), solver, start)
    before, after = (100 * run.scores.mean_iu for run in (plain, altered))
    result.measure("mean IU, as they are, %", before, f"above {ONE_ANSWER:.3g}, one answer", before > ONE_ANSWER)
    result.measure("mean IU, mirrored and moved, %", after)
    result.measure("what that gains, points", after - before, f"at most {GAIN:g}", after - before <= GAIN)
    batch = shapes.RECIPES["shapes-fcn32s"].batch
    passes = solver.max_iter * batch / scenes
    result.remarks.append(
        f"{scenes} scenes of {shapes.SCENE} pixels, each seen {passes:.3g} times; jitter of up to {JITTER} pixels, "
        "which is one place of the coarsest scores as in the paper, and more of a smaller image"
    )
    return result
