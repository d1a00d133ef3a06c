"""The release's nets and solvers, field by field, beside the table of them."""

from __future__ import annotations

from collections.abc import Sequence

from fcn_caffe.data.sets import voc_layers
from fcn_caffe.errors import FcnCaffeError
from fcn_caffe.host.text import show
from fcn_caffe.layers.loss import SoftmaxWithLoss
from fcn_caffe.layers.neuron import Dropout
from fcn_caffe.net.coord_map import crop_offset
from fcn_caffe.net.graph import Graph, Node, read_net
from fcn_caffe.net.net import Net
from fcn_caffe.paper.audit.checks.tables import (
    NO_LAYER,
    UNSET,
    ReleaseTable,
    compare_options,
    compare_solver,
    compare_wiring,
    layer_claim,
    layers_or_error,
    settings_or_error,
    show_options,
    solver_claim,
)
from fcn_caffe.paper.audit.claims import STATIC, check
from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.paper.audit.locate import Code
from fcn_caffe.paper.audit.probes import rows
from fcn_caffe.paper.audit.released.nets import CVPR, DERIVED, GOOGLENET, NYUD16, RELEASED
from fcn_caffe.paper.result import Result
from fcn_caffe.proto.phases import TRAIN
from fcn_caffe.training.plan import make_plan
from fcn_caffe.training.solver.update_rules import SGD, UpdateRule
from fcn_caffe.weights.surgery import interp, widen

__all__: list[str] = []  # its checks register themselves

_ALEXNET = "voc-fcn-alexnet"


# -- claims of options and fields --------------------------------------------------------------------------------------


def _check_options(
    claim: str,
    says: str,
    *realised: str | Code,
    nets: Sequence[str] = RELEASED,
    also: rows.AddRows | None = None,
) -> None:
    """Register the check of a claim of layers' options. also: adds rows of what the layers do."""

    @check(claim, kind=STATIC, realised=realised)
    def run(audited: AuditedFiles) -> Result:
        table = ReleaseTable(Result(claim, "nets", says))
        for net in nets:
            compare_options(table, audited, net, lambda layer, key, net=net: layer_claim(net, layer, key) == claim)  # type: ignore[misc]
            if also is not None:
                also(table, audited, net)
        return table.finish()


def _check_settings(claim: str, says: str, *realised: str | Code, also: rows.AddRows | None = None) -> None:
    """Register the check of a claim of solvers' fields. also: adds rows of what the solvers do."""

    @check(claim, kind=STATIC, realised=realised)
    def run(audited: AuditedFiles) -> Result:
        table = ReleaseTable(Result(claim, "solvers", says))
        for name in RELEASED:
            compare_solver(table, audited, name, lambda key: solver_claim(key) == claim)
            if also is not None:
                also(table, audited, name)
        return table.finish()


def _check_whole_nets(claim: str, where: str, says: str, nets: Sequence[str], *realised: str | Code) -> None:
    """Register the check of a claim of nets that were not released: every field of net and solver at once."""

    @check(claim, kind=STATIC, realised=realised)
    def run(audited: AuditedFiles) -> Result:
        table = ReleaseTable(Result(claim, where, says))
        for net in nets:
            compare_wiring(table, audited, net)
            compare_options(table, audited, net, lambda layer, key: True)
            compare_solver(table, audited, net, lambda key: True)
        return table.finish()


_check_options(
    "REL.trunk",
    "VGG-16 with a pad of 100",
    "nets/voc-fcn32s.prototxt:conv1_1",
    nets=[net for net in RELEASED if net != _ALEXNET],
    also=rows.add_trunk_rows,
)
_check_options(
    "REL.alexnet",
    "CaffeNet with a pad of 100",
    "nets/voc-fcn-alexnet.prototxt:conv1",
    nets=(_ALEXNET,),
    also=rows.add_trunk_rows,
)
_check_options(
    "REL.heads",
    "scores, upsampling and sums",
    "nets/voc-fcn8s.prototxt:score_pool4",
    "nets/voc-fcn8s.prototxt:upscore8",
)
_check_options("REL.crop", "the offsets of the crops", "nets/voc-fcn8s.prototxt:score.offset")
_check_options(
    "REL.zero",
    "score layers have no filler: they start at zero",
    "nets/voc-fcn32s.prototxt:score_fr",
    also=rows.add_zero_rows,
)
_check_options(
    "REL.upsampling",
    "interpolation is fixed, over all pairs of channels",
    "nets/voc-fcn8s.prototxt:upscore2",
    interp,
    also=rows.add_upsampling_rows,
)
_check_options(
    "REL.dropout",
    "half of fc6 and fc7 is dropped",
    "nets/voc-fcn32s.prototxt:drop6",
    Dropout,
    also=rows.add_dropout_rows,
)
_check_options(
    "REL.bias",
    "biases learn twice as fast and do not decay",
    "nets/voc-fcn32s.prototxt:conv1_1",
    also=rows.add_bias_rows,
)
_check_options(
    "REL.loss",
    "softmax loss, void ignored, not normalised but for AlexNet",
    "nets/voc-fcn32s.prototxt:loss",
    SoftmaxWithLoss,
    also=rows.add_loss_rows,
)
_check_options(
    "REL.data",
    "labels, means and splits",
    "nets/voc-fcn32s.prototxt:data",
    voc_layers,
    also=rows.add_data_rows,
)
_check_options("REL.deploy", "one image of 500x500, no dropout, no loss", "nets/voc-fcn32s.prototxt:input")
_check_options(
    "REL.atonce",
    "constant scales before the skips' scores",
    "nets/voc-fcn8s-atonce.prototxt:scale_pool4",
    "nets/voc-fcn8s-atonce.prototxt:scale_pool3",
    nets=("voc-fcn8s-atonce",),
    also=rows.add_scale_rows,
)
_check_options(
    "REL.fusion",
    "the mean of both scores",
    "nets/nyud-fcn32s-color-hha.prototxt:score_fused",
    nets=("nyud-fcn32s-color-hha",),
)
_check_settings("REL.rate", "the rates", "solvers/voc-fcn32s.prototxt:base_lr")
_check_settings(
    "REL.momentum",
    "momentum and images a step",
    "solvers/voc-fcn32s.prototxt:momentum",
    SGD,
    also=rows.add_momentum_rows,
)
_check_settings(
    "REL.decay",
    "weight decay",
    "solvers/voc-fcn32s.prototxt:weight_decay",
    UpdateRule,
    also=rows.add_decay_rows,
)
_check_settings("REL.policy", "a fixed rate, plain SGD and nothing else", "solvers/voc-fcn32s.prototxt:lr_policy")
_check_settings("REL.length", "iterations, and those between snapshots", "solvers/voc-fcn32s.prototxt:max_iter")
_check_settings(
    "REL.test", "every image of the test list, never while training", "solvers/voc-fcn32s.prototxt:test_iter"
)
_check_settings("REL.average", "the mean of 20 losses is shown", "solvers/voc-fcn32s.prototxt:average_loss")
_check_settings("REL.starts", "what each net starts from", "solvers/voc-fcn16s.prototxt:weights")
_check_whole_nets(
    "S4.3.nets",
    "4.1 to 4.3",
    "skips' upsampling starts bilinear and is learned, the last is fixed; the loss is a mean over pixels",
    CVPR,
    "nets/cvpr-fcn8s.prototxt:upscore2",
    "nets/cvpr-fcn8s.prototxt:upscore8",
    "solvers/cvpr-fcn16s.prototxt:base_lr",
)
_check_whole_nets(
    "S4.1.googlenet",
    "4.1",
    "GoogLeNet with its last head alone, less the average pooling",
    GOOGLENET,
    "nets/voc-fcn-googlenet.prototxt:score_fr",
)
_check_whole_nets(
    "T4.nets",
    "Table 4",
    "NYUDv2 nets of stride 16",
    NYUD16,
    "nets/nyud-fcn16s-rgb-hha.prototxt:fuse_pool4",
)


# -- claims of layers --------------------------------------------------------------------------------------------------


@check("REL.layers", kind=STATIC, realised=("nets/voc-fcn8s.prototxt", "nets/voc-fcn16s.prototxt:fuse_pool4"))
def check_layers(audited: AuditedFiles) -> Result:
    """Compare the layers of each released net: names, types, order, wiring, and the states that each is in."""
    table = ReleaseTable(Result("REL.layers", "nets", "the layers, in their order"))
    for net in RELEASED:
        compare_wiring(table, audited, net)
    return table.finish()


@check("REL.early", kind=STATIC, realised=("nets/nyud-fcn32s-color-d.prototxt:conv1_1_bgrd", widen))
def check_early_fusion(audited: AuditedFiles) -> Result:
    """Check early fusion: depth is a fourth channel of the first convolution, whose name differs."""
    net = "nyud-fcn32s-color-d"
    result = Result("REL.early", "nets", "four channels into conv1_1_bgrd")
    blobs = audited.build(net).net.params.get("conv1_1_bgrd")
    shape = show(blobs[0].shape) if blobs else NO_LAYER
    result.measure(f"{net}, conv1_1_bgrd", shape, "64x4x3x3", shape == "64x4x3x3")
    return result


@check("REL.other", kind=STATIC, realised=("nets/voc-fcn32s.prototxt",))
def check_other_options(audited: AuditedFiles) -> Result:
    """Check that no layer has an option that the table speaks of for none."""
    table = ReleaseTable(Result("REL.other", "nets", "no layer has an option more"))
    for net in RELEASED:
        layers = layers_or_error(audited, net)
        if isinstance(layers, str):
            table.add(net, "file", layers, "a net")
            continue
        others = [
            (layer, key) for layer in layers for key in layer.options if layer_claim(net, layer, key) == "REL.other"
        ]
        extra = [(layer, key) for layer, key in others if not key.endswith("_filler")]
        fillers = ("weight_filler", "bias_filler")
        extra += [(layer, key) for layer, key in others if key in fillers and layer.options[key] != "zero"]
        for layer, key in extra:
            table.add(net, layer.name, show_options(layer.options, [key]), UNSET)
        table.add(net, "options more than the table's", str(len(extra)), "0")
    return table.finish()


@check("REL.map", kind=STATIC, realised=(crop_offset, "nets/voc-fcn32s.prototxt:score"))
def check_crop_offsets(audited: AuditedFiles) -> Result:
    """Compare every crop's offset with the one that the coordinate maps of the file's own layers give."""
    table = ReleaseTable(Result("REL.map", "nets", "the offsets follow from the coordinate maps"))
    for net in (*RELEASED, *DERIVED):
        try:
            graph = Graph.from_param(audited.net(net, TRAIN))
        except FcnCaffeError as error:
            table.add(net, "file", str(error), "a net")
            continue
        crops = [node for node in graph.nodes if node.type == "Crop"]
        if not crops:
            table.add(net, "crops", "none", "one or more")
        for node in crops:
            offsets = list(node.param.crop_param.offset) or [0]
            in_file = " ".join(map(str, offsets[:1] if len(set(offsets)) == 1 else offsets))
            table.add(net, node.name, in_file, _derived_offset(graph, node))
        rows.add_alignment_rows(table, audited, net)
    return table.finish()


def _derived_offset(graph: Graph, crop: Node) -> str:
    if len(crop.bottoms) != 2:
        return "not of two bottoms"
    try:
        return " ".join(map(str, crop_offset(graph, *crop.bottoms)))
    except FcnCaffeError as error:
        return str(error)


@check(
    "REL.heads2",
    kind=STATIC,
    realised=("nets/siftflow-fcn8s.prototxt:loss_geo", "nets/siftflow-fcn8s.prototxt:loss"),
)
def check_two_heads(audited: AuditedFiles) -> Result:
    """Check SIFT Flow: 33 semantic and 3 geometric classes from one trunk, each with its own loss and labels."""
    table = ReleaseTable(Result("REL.heads2", "nets", "two heads over one trunk, learned together"))
    for name in (name for name in RELEASED if name.startswith("siftflow")):
        net = audited.build(name, TRAIN).net
        for score, loss, label, classes in (("score_sem", "loss", "sem", 33), ("score_geo", "loss_geo", "geo", 3)):
            for blob in (score.replace("score", "score_fr"), score):
                table.add(name, blob, str(net.blob_shapes.get(blob, (0, 0))[1]), str(classes))
            node = next((node for node in net.graph.nodes if node.name == loss), None)
            table.add(name, loss, " ".join(node.bottoms) if node else NO_LAYER, f"{score} {label}")
        shared = [layer for layer in ("fc6", "fc7") if layer in net.params]
        table.add(name, "trunk", " ".join(shared), "fc6 fc7")
    return table.finish()


# -- claims of what belongs together -----------------------------------------------------------------------------------


@check("REL.order", kind=STATIC, realised=(make_plan, "solvers/voc-fcn8s.prototxt:weights"))
def check_order(audited: AuditedFiles) -> Result:
    """Check from coarse to fine: a finer net starts from the next coarser one, the coarsest from a classifier."""
    says = "each finer net starts from the next coarser, of stride twice as large"
    table = ReleaseTable(Result("REL.order", "solvers", says))
    for name in RELEASED:
        if not any(stride in name for stride in ("16s", "8s")) or "atonce" in name:
            continue
        settings = settings_or_error(audited, name)
        coarser = name.replace("16s", "32s").replace("8s", "16s")
        starts = settings if isinstance(settings, str) else " ".join(settings.get("weights", ()))
        table.add(name, "starts from", starts, f"weights/{coarser}.caffemodel")
        is_there = audited.solver_path(coarser).is_file() and audited.net_path(coarser).is_file()
        table.add(name, f"{coarser}, its net and solver", "there" if is_there else "not there", "there")
        fine, coarse = _stride(audited, name), _stride(audited, coarser)
        table.add(name, f"its stride beside that of {coarser}", f"{fine}, {coarse}", "a half", coarse == 2 * fine > 0)
    return table.finish()


def _stride(audited: AuditedFiles, name: str) -> int:
    """The stride of a net's last upsampling, which is its largest; 0 where there is none."""
    layers = layers_or_error(audited, name)
    up = [layer for layer in layers if layer.type == "Deconvolution"] if isinstance(layers, list) else []
    strides = [layer.options["stride"] for layer in up]
    return max((stride for stride in strides if isinstance(stride, int)), default=0)


@check("REL.files", kind=STATIC, realised=(read_net, Net))
def check_files(audited: AuditedFiles) -> Result:
    """Check that every net reads, and goes together in training and testing."""
    table = ReleaseTable(Result("REL.files", "nets", "every net has a file that makes a net"))
    for net in (*RELEASED, *DERIVED):
        try:
            layers = layers_or_error(audited, net)
            if isinstance(layers, str):
                state = layers
            else:
                audited.build(net)
                audited.build(net, TRAIN)
                state = "goes together" if layers else "has no layers"
        except FcnCaffeError as error:
            state = str(error)
        table.add(net, "built", state, "goes together")
    return table.finish()
