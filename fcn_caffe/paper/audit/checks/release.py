"""The release's nets and solvers, field by field, beside the table of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fcn_caffe.errors import FcnCaffeError
from fcn_caffe.host.text import show
from fcn_caffe.net.coord_map import crop_offset
from fcn_caffe.net.graph import Graph
from fcn_caffe.paper.audit.checks.table1_and_section4 import DECAYS
from fcn_caffe.paper.audit.claims import STATIC, check
from fcn_caffe.paper.audit.files import Audited
from fcn_caffe.paper.audit.probes import rows
from fcn_caffe.paper.audit.probes.rows import Rows
from fcn_caffe.paper.audit.released.fields import Facts, Layer, read_layers, shown, solver_facts
from fcn_caffe.paper.audit.released.nets import CVPR, DERIVED, GOOGLENET, NYUD16, RELEASED, released_net
from fcn_caffe.paper.audit.released.solvers import EXEMPT, released_solver
from fcn_caffe.paper.result import Result, Row
from fcn_caffe.proto.phases import TRAIN
from fcn_caffe.training.solver import read_solver

__all__ = ["layer_claim", "solver_claim"]

NO_LAYER, UNSET = "no such layer", "Caffe's default"
_SHOWN = 3
_ALEXNET = "voc-fcn-alexnet"
_FUSED = ("score_fused", "score_pool4")
_OF_TYPE = {
    "Dropout": "REL.dropout",
    "SoftmaxWithLoss": "REL.loss",
    "Python": "REL.data",
    "Input": "REL.deploy",
    "Scale": "REL.atonce",
    "Crop": "REL.crop",
    "Concat": "REL.fusion",
}
_WINDOW = ("kernel", "stride", "pad", "dilation", "num_output", "group", "bias_term")


def layer_claim(net: str, layer: Layer, key: str) -> str:
    """The claim that an option of a layer belongs to."""
    if layer.type in _OF_TYPE:
        return _OF_TYPE[layer.type]
    if layer.type == "Eltwise":
        return "REL.fusion" if layer.name in _FUSED else "REL.heads"
    scored = layer.name.startswith(("score", "up"))
    if layer.type == "Deconvolution":
        return "REL.heads" if key in _WINDOW[:5] else "REL.upsampling"
    if layer.type == "Convolution" and key in ("lr_mult", "decay_mult"):
        return "REL.bias"
    if layer.type == "Convolution" and scored:
        return "REL.heads" if key in _WINDOW else "REL.zero"
    if (layer.type == "Convolution" and key in _WINDOW) or layer.type in ("Pooling", "LRN"):
        return "REL.alexnet" if net.endswith("alexnet") else "REL.trunk"
    return "REL.other"


_SOLVER_CLAIMS = {
    "base_lr": "REL.rate",
    "momentum": "REL.momentum",
    "iter_size": "REL.momentum",
    "weight_decay": "REL.decay",
    "max_iter": "REL.length",
    "snapshot": "REL.length",
    "test_iter": "REL.test",
    "test_interval": "REL.test",
    "test_initialization": "REL.test",
    "average_loss": "REL.average",
    "weights": "REL.starts",
    "net": "REL.starts",
}


def solver_claim(key: str) -> str:
    """The claim that a field of a solver belongs to."""
    return _SOLVER_CLAIMS.get(key, "REL.policy")


# -- reading -----------------------------------------------------------------------------------------------------------


def _layers(audited: Audited, name: str) -> list[Layer] | str:
    """A net's layers, or why it cannot be read."""

    def read() -> list[Layer] | str:
        try:
            if not audited.net_path(name).is_file():
                return f"{audited.net_path(name)}: no such net file"
            return read_layers(audited.net_path(name))
        except FcnCaffeError as error:
            return str(error)

    found: list[Layer] | str = audited.once(("layers", name), read)
    return found


def _settings(audited: Audited, name: str) -> Facts | str:
    """A solver's fields, or why it cannot be read."""

    def read() -> Facts | str:
        try:
            return solver_facts(read_solver(audited.solver_path(name)), audited.root)
        except FcnCaffeError as error:
            return str(error)

    found: Facts | str = audited.once(("solver", name), read)
    return found


# -- comparing ---------------------------------------------------------------------------------------------------------


class _Table:
    """Rows of nets: what differs first, one a net; then what is as it should be, one for all nets that agree."""

    def __init__(self, result: Result) -> None:
        self.result, self._agree, self._differ = result, {}, []  # type: ignore[var-annotated]

    def add(self, net: str, what: str, found: str, wanted: str, holds: bool | None = None) -> None:
        if found == wanted if holds is None else holds:
            self._agree.setdefault((what, found, wanted), []).append(net)
        else:
            self._differ.append(Row(f"{net}, {what}", found, wanted, False))

    def finish(self) -> Result:
        self.result.rows += self._differ
        for (what, found, wanted), nets in self._agree.items():
            more = f" and {len(nets) - _SHOWN} more" if len(nets) > _SHOWN else ""
            self.result.rows.append(Row(f"{what} in {', '.join(nets[:_SHOWN])}{more}", found, wanted, True))
        return self.result


def _shown(facts: Facts, keys: Iterable[str]) -> str:
    told = [f"{key} {shown(facts[key])}" for key in keys if key in facts]
    return ", ".join(told) or UNSET


def _compare_options(table: _Table, audited: Audited, net: str, belongs: Callable[[Layer, str], bool]) -> None:
    """Rows for the options that belong, of the layers that the table has and of those that the file has besides."""
    found, wanted = _layers(audited, net), released_net(net)
    if isinstance(found, str):
        table.add(net, "file", found, "a net")
        return
    by_key = {(one.name, one.states): one for one in found}
    by_name = {one.name: one for one in found}
    for layer in wanted:
        there = by_key.get((layer.name, layer.states)) or by_name.get(layer.name)
        options = there.options if there is not None else {}
        keys = sorted({key for key in {**layer.options, **options} if belongs(layer, key)})
        if not keys:
            continue
        asked = _shown(layer.options, keys)
        table.add(net, layer.name, _shown(options, keys) if there is not None else NO_LAYER, asked)


def _compare_wiring(table: _Table, audited: Audited, net: str) -> None:
    """Rows for the layers that are there, in their order, and what each reads and makes."""
    found, wanted = _layers(audited, net), released_net(net)
    if isinstance(found, str):
        table.add(net, "file", found, "a net")
        return
    have, want = [_joined(one) for one in found], [_joined(one) for one in wanted]
    if have == want:
        table.add(net, f"all {len(want)} layers", "as the table has them", "as the table has them")
        return
    names = {one.name for one in wanted}
    for layer, told in zip(found, have, strict=True):
        if layer.name not in names:
            table.add(net, layer.name, told, "no layer of this name")
    for layer, told in zip(wanted, want, strict=True):
        same = [other for one, other in zip(found, have, strict=True) if one.name == layer.name]
        if told not in same:
            table.add(net, layer.name, same[0] if same else NO_LAYER, told)
    if sorted(have) == sorted(want):
        at = next(index for index, (one, other) in enumerate(zip(have, want, strict=True)) if one != other)
        table.add(net, f"layer {at} in the file", have[at], want[at])
    elif len(have) != len(want):
        table.add(net, "number of layers", str(len(have)), str(len(want)))


def _joined(layer: Layer) -> str:
    states = "" if len(layer.states) == 3 else f" ({', '.join(layer.states) or 'never'})"
    return f"{layer.name}: {layer.type} of {' '.join(layer.bottoms) or 'nothing'} to {' '.join(layer.tops)}{states}"


def _compare_solver(table: _Table, audited: Audited, name: str, belongs: Callable[[str], bool]) -> None:
    found, wanted = _settings(audited, name), released_solver(name)
    if isinstance(found, str):
        table.add(name, "solver", found, "a solver")
        return
    if name.startswith("cvpr") and found.get("weight_decay") in DECAYS:
        wanted = {**wanted, "weight_decay": found["weight_decay"]}  # the text gives both and leaves the choice
    keys = sorted(key for key in {**wanted, **found} if key not in EXEMPT and belongs(key))
    for key in keys:
        table.add(name, key, _shown(found, [key]), _shown(wanted, [key]))
    if not keys:
        table.add(name, "fields", UNSET, UNSET)


# -- the claims --------------------------------------------------------------------------------------------------------


def _options_of(
    claim: str, says: str, *realised: str, nets: Sequence[str] = RELEASED, also: Rows | None = None
) -> None:
    @check(claim, kind=STATIC, realised=realised)
    def run(audited: Audited) -> Result:
        table = _Table(Result(claim, "nets", says))
        for net in nets:
            _compare_options(table, audited, net, lambda layer, key, net=net: layer_claim(net, layer, key) == claim)  # type: ignore[misc]
            if also is not None:
                also(table, audited, net)
        return table.finish()


def _settings_of(claim: str, says: str, *realised: str, also: Rows | None = None) -> None:
    @check(claim, kind=STATIC, realised=realised)
    def run(audited: Audited) -> Result:
        table = _Table(Result(claim, "solvers", says))
        for name in RELEASED:
            _compare_solver(table, audited, name, lambda key: solver_claim(key) == claim)
            if also is not None:
                also(table, audited, name)
        return table.finish()


def _whole_nets(claim: str, where: str, says: str, nets: Sequence[str], *realised: str) -> None:
    """A claim of nets that were not released: every field of net and solver at once."""

    @check(claim, kind=STATIC, realised=realised)
    def run(audited: Audited) -> Result:
        table = _Table(Result(claim, where, says))
        for net in nets:
            _compare_wiring(table, audited, net)
            _compare_options(table, audited, net, lambda layer, key: True)
            _compare_solver(table, audited, net, lambda key: True)
        return table.finish()


_N, _S = "nets/", "solvers/"
_options_of(
    "REL.trunk",
    "VGG-16 with a pad of 100",
    _N + "voc-fcn32s.prototxt:conv1_1",
    also=rows.plain_run,
    nets=[net for net in RELEASED if net != _ALEXNET],
)
_options_of(
    "REL.alexnet",
    "CaffeNet with a pad of 100",
    _N + "voc-fcn-alexnet.prototxt:conv1",
    nets=(_ALEXNET,),
    also=rows.plain_run,
)
_options_of(
    "REL.heads",
    "scores, upsampling and sums",
    _N + "voc-fcn8s.prototxt:score_pool4",
    _N + "voc-fcn8s.prototxt:upscore8",
)
_options_of("REL.crop", "the offsets of the crops", _N + "voc-fcn8s.prototxt:score.offset")
_options_of(
    "REL.zero",
    "score layers have no filler: they start at zero",
    _N + "voc-fcn32s.prototxt:score_fr",
    also=rows.zero_run,
)
_options_of(
    "REL.upsampling",
    "interpolation is fixed, over all pairs of channels",
    _N + "voc-fcn8s.prototxt:upscore2",
    "fcn_caffe/weights/surgery.py:interp",
    also=rows.fixed_run,
)
_options_of(
    "REL.dropout",
    "half of fc6 and fc7 is dropped",
    _N + "voc-fcn32s.prototxt:drop6",
    "fcn_caffe/layers/neuron.py:Dropout",
    also=rows.dropout_run,
)
_options_of(
    "REL.bias", "biases learn twice as fast and do not decay", _N + "voc-fcn32s.prototxt:conv1_1", also=rows.biases_run
)
_options_of(
    "REL.loss",
    "softmax loss, void ignored, not normalised but for AlexNet",
    _N + "voc-fcn32s.prototxt:loss",
    "fcn_caffe/layers/loss.py:SoftmaxWithLoss",
    also=rows.losses_run,
)
_options_of(
    "REL.data",
    "labels, means and splits",
    _N + "voc-fcn32s.prototxt:data",
    "fcn_caffe/data/sets/voc_layers.py",
    also=rows.data_run,
)
_options_of("REL.deploy", "one image of 500x500, no dropout, no loss", _N + "voc-fcn32s.prototxt:input")
_options_of(
    "REL.atonce",
    "constant scales before the skips' scores",
    _N + "voc-fcn8s-atonce.prototxt:scale_pool4",
    _N + "voc-fcn8s-atonce.prototxt:scale_pool3",
    nets=("voc-fcn8s-atonce",),
    also=rows.scales_run,
)
_options_of(
    "REL.fusion",
    "the mean of both scores",
    _N + "nyud-fcn32s-color-hha.prototxt:score_fused",
    nets=("nyud-fcn32s-color-hha",),
)
_settings_of("REL.rate", "the rates", _S + "voc-fcn32s.prototxt:base_lr")
_settings_of(
    "REL.momentum",
    "momentum and images a step",
    _S + "voc-fcn32s.prototxt:momentum",
    "fcn_caffe/training/solver/update_rules.py:SGD",
    also=rows.momentum_run,
)
_settings_of(
    "REL.decay",
    "weight decay",
    _S + "voc-fcn32s.prototxt:weight_decay",
    "fcn_caffe/training/solver/update_rules.py:UpdateRule",
    also=rows.decay_run,
)
_settings_of("REL.policy", "a fixed rate, plain SGD and nothing else", _S + "voc-fcn32s.prototxt:lr_policy")
_settings_of("REL.length", "iterations, and those between snapshots", _S + "voc-fcn32s.prototxt:max_iter")
_settings_of("REL.test", "every image of the test list, never while training", _S + "voc-fcn32s.prototxt:test_iter")
_settings_of("REL.average", "the mean of 20 losses is shown", _S + "voc-fcn32s.prototxt:average_loss")
_settings_of("REL.starts", "what each net starts from", _S + "voc-fcn16s.prototxt:weights")
_whole_nets(
    "S4.3.nets",
    "4.1 to 4.3",
    "skips' upsampling starts bilinear and is learned, the last is fixed; the loss is a mean over pixels",
    CVPR,
    _N + "cvpr-fcn8s.prototxt:upscore2",
    _N + "cvpr-fcn8s.prototxt:upscore8",
    _S + "cvpr-fcn16s.prototxt:base_lr",
)
_whole_nets(
    "S4.1.googlenet",
    "4.1",
    "GoogLeNet with its last head alone, less the average pooling",
    GOOGLENET,
    _N + "voc-fcn-googlenet.prototxt:score_fr",
)
_whole_nets("T4.nets", "Table 4", "NYUDv2 nets of stride 16", NYUD16, _N + "nyud-fcn16s-rgb-hha.prototxt:fuse_pool4")


@check("REL.layers", kind=STATIC, realised=("nets/voc-fcn8s.prototxt", "nets/voc-fcn16s.prototxt:fuse_pool4"))
def layers(audited: Audited) -> Result:
    """The layers of each released net: names, types, order, what is joined to what, and in which state each is."""
    table = _Table(Result("REL.layers", "nets", "the layers, in their order"))
    for net in RELEASED:
        _compare_wiring(table, audited, net)
    return table.finish()


@check(
    "REL.early",
    kind=STATIC,
    realised=("nets/nyud-fcn32s-color-d.prototxt:conv1_1_bgrd", "fcn_caffe/weights/surgery.py:widen"),
)
def early(audited: Audited) -> Result:
    """Early fusion: depth is a fourth channel of the first convolution, which is named otherwise."""
    net = "nyud-fcn32s-color-d"
    result = Result("REL.early", "nets", "four channels into conv1_1_bgrd")
    blobs = audited.built(net).net.params.get("conv1_1_bgrd")
    shape = show(blobs[0].shape) if blobs else NO_LAYER
    result.measure(f"{net}, conv1_1_bgrd", shape, "64x4x3x3", shape == "64x4x3x3")
    return result


@check("REL.other", kind=STATIC, realised=("nets/voc-fcn32s.prototxt",))
def other(audited: Audited) -> Result:
    """Options that the table speaks of for no layer: none is set."""
    table = _Table(Result("REL.other", "nets", "no layer has an option more"))
    for net in RELEASED:
        found = _layers(audited, net)
        if isinstance(found, str):
            table.add(net, "file", found, "a net")
            continue
        extra = [
            (layer.name, _shown(layer.options, [key]))
            for layer in found
            for key in layer.options
            if layer_claim(net, layer, key) == "REL.other" and not key.endswith("_filler")
        ]
        filled = [
            (layer.name, _shown(layer.options, [key]))
            for layer in found
            for key in ("weight_filler", "bias_filler")
            if layer_claim(net, layer, key) == "REL.other" and layer.options.get(key, "zero") != "zero"
        ]
        for name, told in extra + filled:
            table.add(net, name, told, UNSET)
        table.add(net, "options more than the table's", str(len(extra + filled)), "0")
    return table.finish()


@check("REL.map", kind=STATIC, realised=("fcn_caffe/net/coord_map.py:crop_offset", "nets/voc-fcn32s.prototxt:score"))
def offsets_by_map(audited: Audited) -> Result:
    """Every crop's offset in the file, beside the one that the coordinate maps of the file's own layers give."""
    table = _Table(Result("REL.map", "nets", "the offsets follow from the coordinate maps"))
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
            given = " ".join(map(str, offsets[:1] if len(set(offsets)) == 1 else offsets))
            try:
                whole = len(node.bottoms) == 2
                derived = " ".join(map(str, crop_offset(graph, *node.bottoms))) if whole else "not of two bottoms"
            except FcnCaffeError as error:
                derived = str(error)
            table.add(net, node.name, given, derived)
        rows.aligned_run(table, audited, net)
    return table.finish()


@check(
    "REL.heads2", kind=STATIC, realised=("nets/siftflow-fcn8s.prototxt:loss_geo", "nets/siftflow-fcn8s.prototxt:loss")
)
def two_heads(audited: Audited) -> Result:
    """SIFT Flow: 33 semantic and 3 geometric classes from one trunk, each with its own loss and labels."""
    table = _Table(Result("REL.heads2", "nets", "two heads over one trunk, learned together"))
    for net in (name for name in RELEASED if name.startswith("siftflow")):
        built = audited.built(net, TRAIN).net
        for blob, loss, label, classes in (("score_sem", "loss", "sem", 33), ("score_geo", "loss_geo", "geo", 3)):
            for one in (blob.replace("score", "score_fr"), blob):
                table.add(net, one, str(built.blob_shapes.get(one, (0, 0))[1]), str(classes))
            node = next((node for node in built.graph.nodes if node.name == loss), None)
            table.add(net, loss, " ".join(node.bottoms) if node else NO_LAYER, f"{blob} {label}")
        shared = [name for name in ("fc6", "fc7") if name in built.params]
        table.add(net, "trunk", " ".join(shared), "fc6 fc7")
    return table.finish()


@check(
    "REL.order", kind=STATIC, realised=("fcn_caffe/training/plan.py:make_plan", "solvers/voc-fcn8s.prototxt:weights")
)
def order(audited: Audited) -> Result:
    """From coarse to fine: every stage starts from the next coarser net, the coarsest from a classifier."""
    table = _Table(
        Result("REL.order", "solvers", "each finer net starts from the next coarser, of stride twice as large")
    )
    for name in RELEASED:
        if not any(stride in name for stride in ("16s", "8s")) or "atonce" in name:
            continue
        found = _settings(audited, name)
        coarser = name.replace("16s", "32s").replace("8s", "16s")
        starts = found if isinstance(found, str) else " ".join(found.get("weights", ()))
        table.add(name, "starts from", starts, f"weights/{coarser}.caffemodel")
        there = audited.solver_path(coarser).is_file() and audited.net_path(coarser).is_file()
        table.add(name, f"{coarser}, its net and solver", "there" if there else "not there", "there")
        fine, coarse = (_stride(audited, one) for one in (name, coarser))
        table.add(name, f"its stride beside that of {coarser}", f"{fine}, {coarse}", "a half", coarse == 2 * fine > 0)
    return table.finish()


def _stride(audited: Audited, name: str) -> int:
    """That of a net's last upsampling, which is its largest; 0 where it has none."""
    found = _layers(audited, name)
    up = [layer for layer in found if layer.type == "Deconvolution"] if isinstance(found, list) else []
    strides = [layer.options["stride"] for layer in up]
    return max((one for one in strides if isinstance(one, int)), default=0)


@check("REL.files", kind=STATIC, realised=("fcn_caffe/net/graph.py:read_net", "fcn_caffe/net/net.py:Net"))
def files(audited: Audited) -> Result:
    """Every net reads, and goes together in training and testing."""
    table = _Table(Result("REL.files", "nets", "every net has a file that makes a net"))
    for net in (*RELEASED, *DERIVED):
        try:
            found = _layers(audited, net)
            if isinstance(found, list):
                audited.built(net)
                audited.built(net, TRAIN)
                found = "goes together" if found else "has no layers"
        except FcnCaffeError as error:
            found = str(error)
        table.add(net, "built", str(found), "goes together")
    return table.finish()
