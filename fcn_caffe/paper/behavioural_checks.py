"""Claims that are answered by running something now: experiments, and times beside a card that is not here."""

from __future__ import annotations

import time

import torch

from fcn_caffe.graph import TEST
from fcn_caffe.net import Net
from fcn_caffe.paper.audited import Audited
from fcn_caffe.paper.claims import BEHAVIOURAL, check
from fcn_caffe.paper.cost import multiply_adds
from fcn_caffe.paper.result import Result
from fcn_caffe.solver import read_solver

__all__ = ["CARD", "forward_seconds"]

CARD = "a Tesla K40c: the paper's times are of that card, these are of this machine's processor"
_DAY = 86400
_BACKWARD = 2  # the gradients of weights and of features each cost a forward pass


def _bind(claim: str, name: str, *realised: str, trains: bool = True) -> None:
    """A claim whose check is the experiment of a name."""
    bound = check(claim, kind=BEHAVIOURAL, realised=realised, trains=name if trains else "")
    bound(lambda audited: audited.experiment(name))


_HERE = "fcn_caffe/paper/"
_bind("S3.1.fc", "cost", _HERE + "cost.py:patchwise_cost", "fcn_caffe/convolutionalize.py", trains=False)
_bind("S3.1.same", "fc-to-conv", _HERE + "equalities.py:fc_to_conv", trains=False)
_bind("S3.2.rarefaction", "rarefaction", _HERE + "rarefaction.py", _HERE + "equalities.py:rarefaction", trains=False)
_bind("S3.3.deconv", "upsampling", _HERE + "equalities.py:upsampling", "fcn_caffe/layers/conv.py", trains=False)
_bind("S4.2.init", "zero-init-skip", _HERE + "equalities.py:zero_init_skip", "nets/voc-fcn16s.prototxt:score_pool4",
      "solvers/voc-fcn16s.prototxt:base_lr", trains=False)  # fmt: skip
_bind("P.momentum", "momentum", _HERE + "momentum.py:momentum_and_batch", trains=False)
_bind("T4.start", "fusion", _HERE + "fusion.py", "nets/nyud-fcn32s-color-hha.prototxt:score_fused", trains=False)
_bind("S3.4.sampling", "sampling", _HERE + "sampling.py", _HERE + "sampling_nets.py")
_bind("S4.3.aug", "augmentation", _HERE + "augmentation.py")
_bind("S4.3.weights", "balance", _HERE + "balance.py")
_bind("P.regimes", "regimes", _HERE + "regimes.py")
_bind("P.mask", "masking", _HERE + "masking.py")
_bind("P.pool", "pools", _HERE + "ablation.py")
_bind("T2.order", "table2", _HERE + "ablation.py")
_bind("S3.3.learned", "learned-upsampling", _HERE + "ablation.py")
_bind("P.atonce", "at-once", _HERE + "ablation.py", "nets/voc-fcn8s-atonce.prototxt:scale_pool4")


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
    @check(claim, kind=BEHAVIOURAL, realised=("fcn_caffe/timing.py", *(f"nets/{name}.prototxt" for name in told)))
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


_times("T1.time", "Table 1", "forward time", {"voc-fcn-alexnet": "50 ms on a K40c", "voc-fcn32s": "210 ms on a K40c",
                                              "voc-fcn-googlenet": "59 ms on a K40c"})  # fmt: skip
_times("T3.time", "Table 3", "inference time", {"voc-fcn8s": "175 ms on a K40c"})


@check("S4.3.time", kind=BEHAVIOURAL, realised=("solvers/cvpr-fcn32s.prototxt:max_iter", "fcn_caffe/training.py"))
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
