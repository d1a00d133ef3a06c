"""Claims that are answered by running something now: experiments, and times beside a card that is not here."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch

from fcn_caffe.evaluation.metrics import ConfusionMatrix
from fcn_caffe.layers.fillers import is_zero_filler
from fcn_caffe.net.net import Net
from fcn_caffe.paper.audit.claims import BEHAVIOURAL, check
from fcn_caffe.paper.audit.files import Audited
from fcn_caffe.paper.experiments.cost import multiply_adds
from fcn_caffe.paper.result import Result
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.training.solver import read_solver

__all__ = ["CARD", "forward_seconds"]

CARD = "a Tesla K40c: the paper's times are of that card, these are of this machine's processor"
_DAY = 86400
_ROUNDING = 1e-5  # solvers hold float32
_BACKWARD = 2  # the gradients of weights and of features each cost a forward pass


def _bind(claim: str, name: str, *realised: str, trains: bool = True) -> None:
    """A claim whose check is the experiment of a name."""
    bound = check(claim, kind=BEHAVIOURAL, realised=realised, trains=name if trains else "")
    bound(lambda audited: audited.experiment(name))


_HERE = "fcn_caffe/paper/experiments/"
_bind(
    "S3.1.fc",
    "cost",
    _HERE + "cost.py:patchwise_cost",
    "nets/voc-fcn-alexnet.prototxt:fc6",
    "fcn_caffe/net/rewrite/convolutionalize.py:convolutionalize",
    trains=False,
)
_bind(
    "S3.1.same",
    "fc-to-conv",
    "fcn_caffe/net/rewrite/convolutionalize.py:convolutionalize",
    _HERE + "equalities.py:fc_to_conv",
    trains=False,
)
_bind(
    "S3.2.rarefaction",
    "rarefaction",
    "fcn_caffe/net/rewrite/rarefaction.py:rarefy",
    "fcn_caffe/net/rewrite/rarefaction.py:shift_and_stitch",
    _HERE + "equalities.py:rarefaction",
    trains=False,
)
_bind(
    "S3.3.deconv",
    "upsampling",
    "fcn_caffe/layers/conv.py:Deconvolution",
    _HERE + "equalities.py:upsampling",
    trains=False,
)
_bind("P.momentum", "momentum", _HERE + "momentum.py:momentum_and_batch", trains=False)
_bind(
    "T4.start",
    "fusion",
    _HERE + "fusion.py:fusion",
    "fcn_caffe/weights/surgery.py:widen",
    "nets/nyud-fcn32s-color-hha.prototxt:score_fused",
    trains=False,
)
_bind("S5.hha", "hha", "fcn_caffe/data/hha.py:hha", _HERE + "hha_of_a_room.py:encoded_room", trains=False)
_bind(
    "S3.4.sampling",
    "sampling",
    _HERE + "sampling.py:sampling",
    _HERE + "sampling_nets.py:sample_loss",
    "fcn_caffe/data/sets/altering_layers.py:LossSampling",
)
_bind(
    "S4.3.aug",
    "augmentation",
    _HERE + "augmentation.py:augmentation",
    "fcn_caffe/data/sets/altering_layers.py:MirrorJitter",
)
_bind("S4.3.weights", "balance", _HERE + "balance.py:balance", _HERE + "balance.py:balanced")
_bind(
    "P.regimes",
    "regimes",
    _HERE + "regimes.py:regimes",
    "solvers/voc-fcn32s.prototxt:momentum",
    "solvers/cvpr-fcn32s.prototxt:iter_size",
)
_bind("P.mask", "masking", _HERE + "masking.py:masking", "fcn_caffe/data/sets/altering_layers.py:MaskedInput")
_bind("P.pool", "pools", _HERE + "ablation.py:pools", _HERE + "ablation_nets.py:pool_alone")
_bind("T2.order", "table2", _HERE + "ablation.py:table2", "fcn_caffe/models/shapes.py:fcn")
_bind(
    "S3.3.learned", "learned-upsampling", _HERE + "ablation.py:learned_upsampling", "nets/cvpr-fcn8s.prototxt:upscore2"
)
_bind("P.atonce", "at-once", _HERE + "ablation.py:at_once", "nets/voc-fcn8s-atonce.prototxt:scale_pool4")

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
        _HERE + "equalities.py:zero_init_skip",
    ),
)
def upgrade(audited: Audited) -> Result:
    """The experiment on the generated nets, and of the paper's own: new scores at zero, the rate a hundredth."""
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


def forward_seconds(audited: Audited, name: str) -> tuple[float | None, int]:
    """Seconds of a net's forward pass over an image of 500x500, weights zero, and its multiply-adds; once an audit.

    A quick audit measures no time, which then is None.
    """

    def measure() -> tuple[float | None, int]:
        device = "meta" if audited.quick else "cpu"
        net = Net(audited.net_path(name), TEST, stages=("deploy",), device=device)
        if audited.quick:
            return None, multiply_adds(net)
        blob = next(node.tops[0] for node in net.graph.nodes if not node.bottoms)
        image = torch.zeros(net.blob_shapes[blob])
        with torch.no_grad():
            began = time.perf_counter()
            net(**{blob: image})
            return time.perf_counter() - began, multiply_adds(net)

    found: tuple[float | None, int] = audited.once(("forward", name), measure)
    return found


def _times(claim: str, where: str, quantity: str, told: dict[str, str]) -> None:
    @check(
        claim,
        kind=BEHAVIOURAL,
        realised=(
            "fcn_caffe/paper/audit/checks/behaviour.py:forward_seconds",
            *(f"nets/{name}.prototxt" for name in told),
        ),
    )
    def run(audited: Audited) -> Result:
        result = Result(claim, where, quantity, missing=[CARD])
        for name, wanted in told.items():
            seconds, cost = forward_seconds(audited, name)
            taken = "left out by --quick" if seconds is None else 1e3 * seconds
            result.measure(f"{name}, ms of one forward pass of 500x500 here", taken, wanted)
            result.measure(f"{name}, multiply-adds of it", cost)
        threads = torch.get_num_threads()
        result.remarks.append(f"One pass on {threads} thread(s) of this processor; no bound is asked of it.")
        return result


_times(
    "T1.time",
    "Table 1",
    "forward time",
    {"voc-fcn-alexnet": "50 ms on a K40c", "voc-fcn32s": "210 ms on a K40c", "voc-fcn-googlenet": "59 ms on a K40c"},
)
_times("T3.time", "Table 3", "inference time", {"voc-fcn8s": "175 ms on a K40c"})


@check(
    "S4.3.time",
    kind=BEHAVIOURAL,
    realised=("solvers/cvpr-fcn32s.prototxt:max_iter", "fcn_caffe/training/stage.py:Training"),
)
def training_time(audited: Audited) -> Result:
    """How long training would take here: passes forward and backward of its iterations, counted, not run."""
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


@check("S5.metrics", kind=BEHAVIOURAL, realised=("fcn_caffe/evaluation/metrics.py:ConfusionMatrix.scores",))
def metrics(audited: Audited) -> Result:
    """The four scores of random answers, beside the sets of pixels that each class has."""
    result = Result("S5.metrics", "5", "four scores of a segmentation, from counts of pixels")
    generator = np.random.default_rng(audited.seed)
    classes, absent, void = 7, 5, 255
    label = generator.integers(0, absent, (4, 9, 11))  # the last two classes are nowhere; one of them is answered
    answer = np.where(generator.random(label.shape) < 0.5, label, generator.integers(0, absent + 1, label.shape))
    label[generator.random(label.shape) < 0.2] = void
    confusion = ConfusionMatrix(classes)
    for one, other in zip(label, answer, strict=True):
        confusion.add(one, other)
    places = list(zip(label.flatten().tolist(), answer.flatten().tolist(), strict=True))
    counted = [(at, true, said) for at, (true, said) in enumerate(places) if true != void]
    truth, said = ([{at for at, *both in counted if both[which] == one} for one in range(classes)] for which in (0, 1))
    right = [len(ours & theirs) for ours, theirs in zip(truth, said, strict=True)]
    union = [len(ours | theirs) for ours, theirs in zip(truth, said, strict=True)]
    shown = [one for one in range(classes) if truth[one]]
    accuracy = {one: right[one] / len(truth[one]) for one in shown}
    overlap = {one: right[one] / union[one] for one in range(classes) if union[one]}
    wanted = {
        "pixel_accuracy": sum(right) / len(counted),
        "mean_accuracy": sum(accuracy.values()) / len(accuracy),
        "mean_iu": sum(overlap.values()) / len(overlap),
        "frequency_weighted_iu": sum(len(truth[one]) * overlap[one] for one in shown) / len(counted),
    }
    kept = sum(overlap[one] for one in shown) / len(shown)
    for name, found in confusion.scores().summary().items():
        result.measure(f"{name}, %", 100 * found, f"{100 * wanted[name]:.6g}", abs(found - wanted[name]) < _ROUNDING)
    found = confusion.scores(leave_out_absent=True).mean_iu
    told = f"{100 * kept:.6g}"
    result.measure("mean IU over the classes that are there, %", 100 * found, told, abs(found - kept) < _ROUNDING)
    result.remarks.append("Void pixels count nowhere. A class that is nowhere but answered has an IU of 0.")
    return result
