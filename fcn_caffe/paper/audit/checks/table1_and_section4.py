"""Table 1 and section 4.3, answered from the nets and solvers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from fcn_caffe.errors import FcnCaffeError
from fcn_caffe.layers.fillers import is_zero_filler
from fcn_caffe.net.coord_map import receptive_field
from fcn_caffe.net.net import Net
from fcn_caffe.paper.audit.checks.tables import DECAYS
from fcn_caffe.paper.audit.claims import STATIC, check
from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.paper.audit.probes.layers import count_pixels_seen, step_distance
from fcn_caffe.paper.audit.released.nets import DERIVED, RELEASED
from fcn_caffe.paper.experiments.balance import balance
from fcn_caffe.paper.result import Result
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.training.solver import read_solver

__all__ = ["TABLE_1", "count_convolutions", "count_fixed_parameters"]

# Net: conv. layers, parameters in millions, receptive field, stride.
TABLE_1 = {
    "voc-fcn-alexnet": (8, 57, 355, 32),
    "voc-fcn32s": (16, 134, 404, 32),
    "voc-fcn-googlenet": (22, 6, 907, 32),
}
SCORE = "score_fr"
_CLASSIFIER_FIELD = "voc-fcn-googlenet"  # its receptive field in Table 1 is that of its classifier
RATES = {"cvpr-fcn-alexnet": 1e-3, "cvpr-fcn32s": 1e-4, "cvpr-fcn-googlenet": 5e-5}  # by net, as section 4.3 has them
_SAME = 1e-6  # files hold float32
_SCORES_OF_TABLE_1 = tuple(f"nets/{net}.prototxt:{SCORE}" for net in TABLE_1)


def count_convolutions(net: Net) -> tuple[int, int]:
    """Count the convolutions on the longest way through a net, and all of them."""
    graph, longest = net.graph, [0] * len(net.graph.nodes)
    for node in graph.nodes:
        below = (longest[graph.producers[node.index, place]] for place in range(len(node.bottoms)))
        longest[node.index] = (node.type == "Convolution") + max(below, default=0)
    return max(longest, default=0), sum(node.type == "Convolution" for node in graph.nodes)


def count_fixed_parameters(net: Net) -> int:
    """Count the parameters of the upsampling layers that do not learn."""
    fixed = (node for node in net.graph.nodes if node.type == "Deconvolution" and _rate(node.param) == 0)
    return sum(blob.numel() for node in fixed for blob in net.params[node.name])


@check("T1.convlayers", kind=STATIC, realised=_SCORES_OF_TABLE_1)
def check_conv_layers(audited: AuditedFiles) -> Result:
    """Count convolutions on the longest way: of branches side by side one counts."""
    result = Result("T1.convlayers", "Table 1", "conv. layers")
    for name, net in _nets(audited):
        chain, everything = count_convolutions(net)
        wanted = TABLE_1[name][0]
        result.measure(f"{name}, longest chain of convolutions", chain, str(wanted), chain == wanted)
        if everything != chain:
            result.remarks.append(
                f"{name} has {everything} convolutions in all: {everything - chain} stand beside others in its "
                f"branches, and the longest way meets {chain}."
            )
    return result


@check("T1.params", kind=STATIC, realised=_SCORES_OF_TABLE_1)
def check_parameters(audited: AuditedFiles) -> Result:
    """Count the parameters that training can change, in millions as the table has them."""
    result = Result("T1.params", "Table 1", "parameters")
    for name, net in _nets(audited):
        everything = sum(blob.numel() for blobs in net.params.values() for blob in blobs)
        fixed = count_fixed_parameters(net)
        learned, wanted = everything - fixed, TABLE_1[name][1]
        result.measure(f"{name}, without fixed interpolation", learned, f"{wanted}M", round(learned / 1e6) == wanted)
        result.measure(f"{name}, all", everything)
        result.remarks.append(
            f"{name}: {everything:,} in all, {fixed:,} of them the fixed bilinear kernels of its upsampling, which the "
            f"paper does not count; {learned:,} are left."
        )
    return result


@check("T1.rf", kind=STATIC, realised=(*reversed(_SCORES_OF_TABLE_1), receptive_field))
def check_receptive_fields(audited: AuditedFiles) -> Result:
    """Work out how many pixels of the image a score of stride 32 sees along an axis."""
    result = Result("T1.rf", "Table 1", "receptive field size")
    for name, net in _nets(audited):
        field, wanted = receptive_field(net.graph, SCORE), TABLE_1[name][2]
        result.measure(f"{name}, {SCORE}", field.size, f"{wanted} px", field.size == wanted)
        missing = (wanted - field.size) / field.stride
        if missing:
            result.remarks.append(
                f"{name}: {wanted} - {field.size} = {wanted - field.size} pixels are {float(missing):g} steps of "
                f"{float(field.stride):g}."
            )
        if missing == 6:
            result.remarks.append(
                "A pool of 7x7 and stride 1 before the score sees 6 steps more: the paper's number is that of the "
                "classifier with its average pooling, which the FCN leaves out."
            )
    return result


@check("T1.seen", kind=STATIC, realised=(*_SCORES_OF_TABLE_1[:2], receptive_field))
def check_pixels_seen(audited: AuditedFiles) -> Result:
    """Count the pixels that move a score of stride 32, by its gradient, beside what its windows and the paper say."""
    result = Result("T1.seen", "Table 1", "receptive fields are the pixels that a score depends on")
    for name, net in _nets(audited):
        field, wanted = receptive_field(net.graph, SCORE).size, TABLE_1[name][2]
        deployed = audited.net(name, TEST, ("deploy",))
        rows, columns = audited.remember(("seen", name), partial(count_pixels_seen, deployed, SCORE))
        agree = rows == columns == field
        result.measure(f"{name}, {SCORE}, rows", rows, f"{float(field):g} px, by its windows", agree)
        if name != _CLASSIFIER_FIELD:
            result.measure(f"{name}, {SCORE}, columns", columns, f"{wanted} px", columns == wanted)
    result.remarks.append("Table 1's 907 is not of GoogLeNet's FCN: see T1.rf.")
    return result


@check("T1.stride", kind=STATIC, realised=_SCORES_OF_TABLE_1)
def check_strides(audited: AuditedFiles) -> Result:
    """Work out how many pixels of the image lie between two scores."""
    result = Result("T1.stride", "Table 1", "max stride")
    for name, net in _nets(audited):
        stride, wanted = receptive_field(net.graph, SCORE).stride, TABLE_1[name][3]
        result.measure(f"{name}, {SCORE}", float(stride), f"{wanted} px", stride == wanted)
    return result


@check(
    "S4.3.sgd",
    kind=STATIC,
    realised=(
        "solvers/cvpr-fcn32s.prototxt:base_lr",
        "solvers/cvpr-fcn32s.prototxt:iter_size",
        "nets/cvpr-fcn32s.prototxt:score_fr",
        "nets/cvpr-fcn32s.prototxt:drop6",
    ),
)
def check_sgd(audited: AuditedFiles) -> Result:
    """Check the regime of the text in the solvers and nets that follow it."""
    result = Result("S4.3.sgd", "4.3", "SGD with momentum, minibatches of 20, a fixed rate")
    for name, rate in RATES.items():
        param = read_solver(audited.solver_path(name))
        for field, value, wanted in (("base_lr", param.base_lr, rate), ("momentum", param.momentum, 0.9)):
            result.measure(f"{name}, {field}", value, f"{wanted:g}", _equal(value, wanted))
        batch = param.iter_size * audited.build(name, TRAIN).net.blob_shapes["data"][0]
        result.measure(f"{name}, images a step", batch, "20", batch == 20)
        result.measure(f"{name}, lr_policy", param.lr_policy, "fixed", param.lr_policy == "fixed")
        result.measure(f"{name}, type", param.type, "SGD", param.type == "SGD")
        decays = any(_equal(param.weight_decay, decay) for decay in DECAYS)
        result.measure(f"{name}, weight_decay", param.weight_decay, "0.0005 or 0.0002", decays)
        _measure_layers(audited, name, result)
        _measure_steps(audited, name, result)
    return result


def _measure_layers(audited: AuditedFiles, name: str, result: Result) -> None:
    """Rates and decay of biases, the start of scores, dropout."""
    nodes = audited.build(name, TRAIN).net.graph.nodes
    convolutions = [node for node in nodes if node.type == "Convolution"]
    rates = [[(spec.lr_mult, spec.decay_mult) for spec in node.param.param] for node in convolutions]
    wrong = [
        node.name
        for node, rate in zip(convolutions, rates, strict=True)
        if len(rate) != 2 or rate[1] != (2 * rate[0][0], 0) or not rate[0][0]
    ]
    result.measure(f"{name}, biases not at twice the rate, undecayed", " ".join(wrong) or "none", "none", not wrong)
    scores = [node for node in convolutions if node.name.startswith("score")]
    filled = [node.name for node in scores if not is_zero_filler(node.param.convolution_param.weight_filler)]
    words = " ".join(filled) if scores else "no score layer"
    result.measure(f"{name}, scores not from zero", words or "none", "none", bool(scores) and not filled)
    drops = [node.name for node in nodes if node.type == "Dropout"]
    wanted = 1 if "googlenet" in name else 2
    result.measure(f"{name}, dropout", " ".join(drops) or "none", f"{wanted} layers", len(drops) == wanted)


def _measure_steps(audited: AuditedFiles, name: str, result: Result) -> None:
    """Steps of a small net by the solver, and by the rates of the net's scores, beside the rule written out."""
    solver = read_solver(audited.solver_path(name))
    layers = {layer.name: layer for layer in audited.net(name, TRAIN).layer}
    if SCORE not in layers:
        return  # the row of the scores says so
    rates, fixed = layers[SCORE].param, (caffe_pb2.ParamSpec(lr_mult=0),)
    run = partial(step_distance, solver, rates, fixed, 0.9, solver.weight_decay, ((1, 1), (2, 0)))
    distance = audited.remember(("steps", name), run)
    result.equal(f"{name}, steps of it as run, of V = 0.9 V + rate (G + decay W)", distance, _SAME)


@check(
    "S4.3.balance",
    kind=STATIC,
    realised=("nets/cvpr-fcn32s.prototxt:loss", balance),
)
def check_balance(audited: AuditedFiles) -> Result:
    """Check that no net weights its classes: the loss of each pixel counts the same."""
    result = Result("S4.3.balance", "4.3", "classes are not balanced")
    for name in (*RELEASED, *DERIVED):
        try:
            layers = audited.net(name, TRAIN).layer
        except FcnCaffeError as error:
            result.measure(f"{name}, file", str(error), "a net", False)
            continue
        losses = [layer for layer in layers if "Loss" in layer.type]
        plain = bool(losses) and all(
            loss.type == "SoftmaxWithLoss" and all(weight == 1 for weight in loss.loss_weight) for loss in losses
        )
        weights = [f"{loss.name}: {loss.type} weighted {' '.join(map(str, loss.loss_weight)) or 1}" for loss in losses]
        result.measure(f"{name}, loss", ", ".join(weights) or "none", "SoftmaxWithLoss, unweighted", plain)
    result.remarks.append("That about 3/4 of the pixels are background is a number of the data set, not of the nets.")
    return result


def _nets(audited: AuditedFiles) -> Iterator[tuple[str, Net]]:
    for name in TABLE_1:
        yield name, audited.build(name).net


def _rate(layer: caffe_pb2.LayerParameter) -> float:
    return layer.param[0].lr_mult if layer.param else 1.0


def _equal(value: float, wanted: float) -> bool:
    return abs(value - wanted) <= _SAME * wanted
