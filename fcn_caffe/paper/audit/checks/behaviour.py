"""Claims that are answered by running something now: experiments, and times beside a card that is not here."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from fcn_caffe.data.hha import hha
from fcn_caffe.data.sets.altering_layers import LossSampling, MaskedInput, MirrorJitter
from fcn_caffe.evaluation.metrics import ConfusionMatrix
from fcn_caffe.layers.conv import Deconvolution
from fcn_caffe.layers.fillers import is_zero_filler
from fcn_caffe.models import make_net, shapes
from fcn_caffe.models.class_weights import weigh_classes
from fcn_caffe.net.multiply_adds import multiply_adds
from fcn_caffe.net.net import Net
from fcn_caffe.net.rewrite.convolution_proof import fill_at_random
from fcn_caffe.net.rewrite.convolutionalize import convolutionalize
from fcn_caffe.net.rewrite.rarefaction import rarefy, shift_and_stitch
from fcn_caffe.net.rewrite.tuned import tune
from fcn_caffe.paper.audit.claims import BEHAVIOURAL, check
from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.paper.audit.locate import Code
from fcn_caffe.paper.experiments.ablation import at_once, learned_upsampling, pools, table2
from fcn_caffe.paper.experiments.ablation_nets import pool_alone
from fcn_caffe.paper.experiments.augmentation import augmentation
from fcn_caffe.paper.experiments.balance import balance
from fcn_caffe.paper.experiments.cost import patchwise_cost
from fcn_caffe.paper.experiments.equalities import fc_to_conv, rarefaction, upsampling, zero_init_skip
from fcn_caffe.paper.experiments.fusion import fusion
from fcn_caffe.paper.experiments.hha_of_a_room import encode_room
from fcn_caffe.paper.experiments.masking import masking
from fcn_caffe.paper.experiments.momentum import momentum_and_batch
from fcn_caffe.paper.experiments.regimes import regimes
from fcn_caffe.paper.experiments.sampling import sampling
from fcn_caffe.paper.experiments.sampling_nets import sample_loss
from fcn_caffe.paper.result import Result
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.training.solver import read_solver
from fcn_caffe.training.stage import Training
from fcn_caffe.weights.surgery import interp, widen

__all__ = ["CARD", "forward_seconds"]

CARD = "a Tesla K40c: the paper's times are of that card, these are of this machine's processor"
_DAY = 86400
_ROUNDING = 1e-5  # solvers hold float32
_NARROWER = 8
_BACKWARD = 2  # forward passes that a backward pass costs: one each for the gradients of weights and of features


# -- experiments -------------------------------------------------------------------------------------------------------


def _check_by_experiment(claim: str, name: str, *realised: str | Code, trains: bool) -> None:
    """Register an experiment as the check of a claim. trains: it trains nets, so a quick audit leaves it out."""
    register = check(claim, kind=BEHAVIOURAL, realised=realised, trains=name if trains else "")
    register(lambda audited: audited.experiment(name))


_check_by_experiment(
    "S3.1.fc", "cost", patchwise_cost, "nets/voc-fcn-alexnet.prototxt:fc6", convolutionalize, trains=False
)
_check_by_experiment("S3.1.same", "fc-to-conv", convolutionalize, fc_to_conv, trains=False)
_check_by_experiment("S3.2.rarefaction", "rarefaction", rarefy, shift_and_stitch, rarefaction, trains=False)
_check_by_experiment("S3.3.deconv", "upsampling", Deconvolution, upsampling, trains=False)
_check_by_experiment("P.momentum", "momentum", momentum_and_batch, trains=False)
_check_by_experiment(
    "T4.start", "fusion", fusion, widen, "nets/nyud-fcn32s-color-hha.prototxt:score_fused", trains=False
)
_check_by_experiment("S5.hha", "hha", hha, encode_room, trains=False)
_check_by_experiment("S3.4.sampling", "sampling", sampling, sample_loss, LossSampling, trains=True)
_check_by_experiment("S4.3.aug", "augmentation", augmentation, MirrorJitter, trains=True)
_check_by_experiment("S4.3.weights", "balance", balance, weigh_classes, trains=True)
_check_by_experiment(
    "P.regimes",
    "regimes",
    regimes,
    "solvers/voc-fcn32s.prototxt:momentum",
    "solvers/cvpr-fcn32s.prototxt:iter_size",
    trains=True,
)
_check_by_experiment("P.mask", "masking", masking, MaskedInput, trains=True)
_check_by_experiment("P.pool", "pools", pools, pool_alone, trains=True)
_check_by_experiment("T2.order", "table2", table2, shapes.fcn, trains=True)
_check_by_experiment(
    "S3.3.learned", "learned-upsampling", learned_upsampling, "nets/cvpr-fcn8s.prototxt:upscore2", trains=True
)
_check_by_experiment("P.atonce", "at-once", at_once, "nets/voc-fcn8s-atonce.prototxt:scale_pool4", trains=True)

# The finer net, the coarser that it starts from, and the score layer that is new in it.
_UPGRADES = tuple(
    (f"{family}-fcn{finer}", f"{family}-fcn{coarser}", skip)
    for family in ("voc", "cvpr")
    for finer, coarser, skip in (("16s", "32s", "score_pool4"), ("8s", "16s", "score_pool3"))
)
_DROP = 100


@check(
    "S4.2.init",
    kind=BEHAVIOURAL,
    realised=(
        "nets/voc-fcn16s.prototxt:score_pool4",
        "solvers/voc-fcn16s.prototxt:base_lr",
        "solvers/voc-fcn16s.prototxt:weights",
        zero_init_skip,
    ),
)
def check_upgrade(audited: AuditedFiles) -> Result:
    """Run the experiment on the generated nets; of the paper's own, check new scores at zero, the rate a hundredth."""
    measured = audited.experiment("zero-init-skip")
    result = replace(measured, rows=list(measured.rows))
    for finer, coarser, skip in _UPGRADES:
        layers = {layer.name: layer for layer in audited.net(finer, TRAIN).layer}
        filler = layers[skip].convolution_param.weight_filler if skip in layers else None
        zero = filler is not None and is_zero_filler(filler)
        result.measure(f"{finer}, {skip} starts at", "zero" if zero else "not zero, or no such layer", "zero", zero)
        before, rate = (read_solver(audited.solver_path(name)).base_lr for name in (coarser, finer))
        drop = before / rate if rate else float("inf")
        same = abs(drop / _DROP - 1) < _ROUNDING
        result.measure(f"{finer}, rate of {coarser} / its own", drop, f"{_DROP}", same)
    return result


# -- times beside a card that is not here ------------------------------------------------------------------------------


def forward_seconds(audited: AuditedFiles, name: str) -> tuple[float | None, int]:
    """Time a net's forward pass over an image of 500x500, weights zero, once an audit.

    Returns: its seconds, None in a quick audit, and its multiply-adds.
    """

    def measure() -> tuple[float | None, int]:
        device = "meta" if audited.quick else "cpu"
        net = Net(audited.net_path(name), TEST, stages=("deploy",), device=device, paths=audited.paths)
        if audited.quick:
            return None, multiply_adds(net)
        blob = next(node.tops[0] for node in net.graph.nodes if not node.bottoms)
        image = torch.zeros(net.blob_shapes[blob])
        with torch.no_grad():
            began = time.perf_counter()
            net(**{blob: image})
            return time.perf_counter() - began, multiply_adds(net)

    return audited.remember(("forward", name), measure)


def _check_times(claim: str, where: str, quantity: str, published: dict[str, str]) -> None:
    """Register the check of a claim of times. published: the paper's words by net."""

    @check(claim, kind=BEHAVIOURAL, realised=(forward_seconds, *(f"nets/{name}.prototxt" for name in published)))
    def run(audited: AuditedFiles) -> Result:
        result = Result(claim, where, quantity, missing=[CARD])
        for name, wanted in published.items():
            seconds, cost = forward_seconds(audited, name)
            value = "left out by --quick" if seconds is None else 1e3 * seconds
            result.measure(f"{name}, ms of one forward pass of 500x500 here", value, wanted)
            result.measure(f"{name}, multiply-adds of it", cost)
        threads = torch.get_num_threads()
        result.remarks.append(f"One pass on {threads} thread(s) of this processor; no bound is asked of it.")
        return result


_check_times(
    "T1.time",
    "Table 1",
    "forward time",
    {"voc-fcn-alexnet": "50 ms on a K40c", "voc-fcn32s": "210 ms on a K40c", "voc-fcn-googlenet": "59 ms on a K40c"},
)
_check_times("T3.time", "Table 3", "inference time", {"voc-fcn8s": "175 ms on a K40c"})


@check("S4.3.time", kind=BEHAVIOURAL, realised=("solvers/cvpr-fcn32s.prototxt:max_iter", Training))
def check_training_time(audited: AuditedFiles) -> Result:
    """Estimate how long training would take here, from the passes of its iterations: they are counted, not run."""
    result = Result("S4.3.time", "4.3", "FCN-32s in three days, each upgrade in about one", missing=[CARD])
    for name, wanted in (("voc-fcn32s", "3 days on a K40c"), ("voc-fcn8s", "1 day on a K40c")):
        param = read_solver(audited.solver_path(name))
        seconds, _ = forward_seconds(audited, name)
        images = param.max_iter * param.iter_size
        result.measure(f"{name}, images until max_iter", images)
        days = "left out by --quick" if seconds is None else images * seconds * (1 + _BACKWARD) / _DAY
        result.measure(f"{name}, days of them here", days, wanted)
    result.remarks.append("Counted from one measured forward pass; a backward pass is taken for two of them.")
    return result


# -- metrics -----------------------------------------------------------------------------------------------------------


@check("S5.metrics", kind=BEHAVIOURAL, realised=(ConfusionMatrix.scores,))
def check_metrics(audited: AuditedFiles) -> Result:
    """Compare the four scores of random answers with those counted from the sets of pixels that each class has."""
    result = Result("S5.metrics", "5", "four scores of a segmentation, from counts of pixels")
    generator = np.random.default_rng(audited.seed)
    classes, present, void = 7, 5, 255
    # The last two classes are in no label; one of them is answered.
    label = generator.integers(0, present, (4, 9, 11))
    answer = np.where(generator.random(label.shape) < 0.5, label, generator.integers(0, present + 1, label.shape))
    label[generator.random(label.shape) < 0.2] = void
    confusion = ConfusionMatrix(classes)
    for label_image, answer_image in zip(label, answer, strict=True):
        confusion.add(label_image, answer_image)
    wanted, wanted_of_present = _scores_of_sets(label, answer, classes, void)
    for name, score in confusion.scores().summary().items():
        value, words = 100 * score, f"{100 * wanted[name]:.6g}"
        result.measure(f"{name}, %", value, words, abs(score - wanted[name]) < _ROUNDING)
    score = confusion.scores(leave_out_absent=True).mean_iu
    result.measure(
        "mean IU over the classes that are there, %",
        100 * score,
        f"{100 * wanted_of_present:.6g}",
        abs(score - wanted_of_present) < _ROUNDING,
    )
    result.remarks.append("Void pixels count nowhere. A class that is nowhere but answered has an IU of 0.")
    return result


def _scores_of_sets(
    label: npt.NDArray[np.int64], answer: npt.NDArray[np.int64], classes: int, void: int
) -> tuple[dict[str, float], float]:
    """The four scores by name, and mean IU over the classes that a label has, from each class's set of pixels."""
    pairs = enumerate(zip(label.flatten().tolist(), answer.flatten().tolist(), strict=True))
    counted = [(at, *pair) for at, pair in pairs if pair[0] != void]
    labelled = [{at for at, true, _ in counted if true == name} for name in range(classes)]
    answered = [{at for at, _, other in counted if other == name} for name in range(classes)]
    right = [len(ours & theirs) for ours, theirs in zip(labelled, answered, strict=True)]
    union = [len(ours | theirs) for ours, theirs in zip(labelled, answered, strict=True)]
    present = [name for name in range(classes) if labelled[name]]
    accuracy = {name: right[name] / len(labelled[name]) for name in present}
    overlap = {name: right[name] / union[name] for name in range(classes) if union[name]}
    scores = {
        "pixel_accuracy": sum(right) / len(counted),
        "mean_accuracy": sum(accuracy.values()) / len(accuracy),
        "mean_iu": sum(overlap.values()) / len(overlap),
        "frequency_weighted_iu": sum(len(labelled[name]) * overlap[name] for name in present) / len(counted),
    }
    return scores, sum(overlap[name] for name in present) / len(present)


# -- what this project says of itself ----------------------------------------------------------------------------------


@check("O.fast", kind=BEHAVIOURAL, realised=(tune,))
def check_fast(audited: AuditedFiles) -> Result:
    """Let a narrow FCN-8s run in the quickest ways of this machine, in inference and in training, and compare it."""
    result = Result("O.fast", "howto/fast", "--fast keeps scores and gradients within its bound")
    size = (96, 128)
    inputs = {"data": (1, 3, *size), "label": (1, 1, *size)}
    for phase, what in ((TEST, "inference"), (TRAIN, "training")):
        param = make_net("voc-fcn8s")
        for layer in param.layer:
            if layer.type == "Convolution" and not layer.name.startswith("score"):
                layer.convolution_param.num_output //= _NARROWER
        is_deploy = phase == TEST
        shapes = {"data": inputs["data"]} if is_deploy else inputs
        net = Net(param, phase, stages=("deploy",) if is_deploy else (), input_shapes=shapes)
        fill_at_random(net, audited.seed)
        interp(net)
        tuning = tune(net)
        result.equal(f"{what}: scores, share of the largest", tuning.difference, tuning.within)
        if tuning.gradient is not None:
            result.equal(f"{what}: gradients at the same blobs", tuning.gradient, tuning.within)
            result.measure(f"{what}: gradients at blobs of their own", f"{tuning.whole_gradient:.1e}")
        changed = sum(not choice.is_plain for choice in tuning.choices)
        result.measure(f"{what}: convolutions in another way than PyTorch's", changed)
    result.remarks.append(
        f"voc-fcn8s, all widths but the scores' divided by {_NARROWER}, {size[0]}x{size[1]}, random weights"
    )
    return result
