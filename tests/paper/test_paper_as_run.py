"""The audit runs what files say: a package broken on purpose is noticed by the claim that is then false."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from places import ROOT

from fcn_caffe.data.sets import nyud_layers, pascalcontext_layers, siftflow_layers, voc_layers
from fcn_caffe.data.sets import reference_layer as reference
from fcn_caffe.evaluation.metrics import ConfusionMatrix
from fcn_caffe.layers import conv, linear, loss, neuron, norm, pooling, shape
from fcn_caffe.paper.audit.checks import table1_and_section4 as static_checks
from fcn_caffe.paper.audit.claims import CHECKS
from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.paper.audit.probes import layers as probes
from fcn_caffe.paper.result import DIFFERS, HOLDS
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.training.solver import SGD, Solver, settings

GAUSSIAN = caffe_pb2.FillerParameter(type="gaussian", std=0.01)


@pytest.fixture(scope="module")
def ours():
    return AuditedFiles(ROOT)


def rule(**instead):
    """SGD that takes these options instead of the solver's."""

    def patch(monkeypatch):
        monkeypatch.setitem(settings.RULES, "SGD", lambda groups, **given: SGD(groups, **{**given, **instead}))

    return patch


def multiplier(name, value):
    """SGD that takes this multiplier for every group."""

    def patch(monkeypatch):
        made = lambda groups, **given: SGD([{**group, name: value} for group in groups], **given)  # noqa: E731
        monkeypatch.setitem(settings.RULES, "SGD", made)

    return patch


def torch_momentum(monkeypatch):
    def update(self, group, rate, params, grads, history):
        torch._foreach_mul_(history, group["momentum"])
        torch._foreach_add_(history, grads, alpha=1 - group["momentum"])
        torch._foreach_add_(params, history, alpha=-rate)

    monkeypatch.setattr(SGD, "update", update)


def one_pass(monkeypatch):
    def forward_backward(self):
        self._clear_gradients()
        return self._pass()[1]

    monkeypatch.setattr(Solver, "_forward_backward", forward_backward)


def rate_falls(monkeypatch):
    monkeypatch.setattr(
        "fcn_caffe.training.solver.lr_policies.LearningRate.__call__", lambda self, step: 0.1 / (1 + step)
    )


def dropout(ratio, scaled=True, always=False):
    def forward(self, bottom):
        kept = torch.nn.functional.dropout(bottom, ratio, self.training or always)
        return kept if scaled or not self.training else kept * (1 - ratio)

    return lambda monkeypatch: monkeypatch.setattr(neuron.Dropout, "forward", forward)


def loss_of(change):
    """A loss layer of which something is changed once it is built."""

    def patch(monkeypatch):
        built = loss.SoftmaxWithLoss.__init__

        def init(self, *given):
            built(self, *given)
            change(self)

        monkeypatch.setattr(loss.SoftmaxWithLoss, "__init__", init)

    return patch


def normalizer(made):
    return lambda monkeypatch: monkeypatch.setattr(loss.LossLayer, "normalizer", made)


def filler(kind, other):
    """Blobs of a kind of layer that start otherwise than their fillers say."""

    def patch(monkeypatch):
        add = kind.add_blob
        monkeypatch.setattr(kind, "add_blob", lambda self, name, shape, given=None: add(self, name, shape, other))

    return patch


def answers(kind, other):
    """A kind of layer that computes something else."""
    return lambda monkeypatch: monkeypatch.setattr(kind, "forward", lambda self, bottom: other(bottom))


def everything_learns(monkeypatch):
    def update_rule(self, net):
        return SGD([item.blob.requires_grad_() for item in net.learnable_params], lr=0.1)

    monkeypatch.setattr(settings.Settings, "update_rule", update_rule)


def crop(by):
    def forward(self, bottom, reference):
        size = reference.shape[2:]
        begin = [offset + step for offset, step in zip(self.offsets[-2:], by, strict=True)]
        return bottom[:, :, begin[0] : begin[0] + size[0], begin[1] : begin[1] + size[1]]

    return lambda monkeypatch: monkeypatch.setattr(shape.Crop, "forward", forward)


def flipped(monkeypatch):
    compute = conv.Deconvolution.compute

    def wrong(self, bottom):
        return torch.roll(compute(self, bottom), 1, 3)

    monkeypatch.setattr(conv.Deconvolution, "compute", wrong)


def scored(**wrong):
    """Scores of which some are taken for others."""

    def patch(monkeypatch):
        scores = ConfusionMatrix.scores

        def other(self, **given):
            found = scores(self, **given)
            return replace(found, **{name: getattr(found, of) for name, of in wrong.items()})

        monkeypatch.setattr(ConfusionMatrix, "scores", other)

    return patch


def other_mean(module, name, value):
    return lambda monkeypatch: monkeypatch.setattr(f"fcn_caffe.data.sets.{module}.{name}", value)


def other_number(name, value):
    return lambda monkeypatch: monkeypatch.setattr(f"fcn_caffe.data.hha.{name}", value)


def wider(monkeypatch):
    true = static_checks.receptive_field

    def field(graph, blob):
        found = true(graph, blob)
        return replace(found, size=found.size + 1)

    monkeypatch.setattr(static_checks, "receptive_field", field)


def not_reversed(monkeypatch):
    plain = reference.load_channels
    for module in (voc_layers, nyud_layers, siftflow_layers, pascalcontext_layers):
        monkeypatch.setattr(module, "load_bgr", lambda path, mean: plain(path, mean))


def void_is_a_class(monkeypatch):
    for module in (nyud_layers, siftflow_layers):
        label = module.as_label
        monkeypatch.setattr(module, "as_label", lambda given, label=label: label(np.where(given == 255, 0, given)))


def void_counts(monkeypatch):
    add = ConfusionMatrix.add
    monkeypatch.setattr(ConfusionMatrix, "add", lambda self, label, said: add(self, label % 255, said))


# What is spoiled, and the claims that differ for it.
SPOILED = [
    (dropout(0.5, scaled=False), ["REL.dropout"]),
    (dropout(0.0), ["REL.dropout"]),
    (dropout(0.4), ["REL.dropout"]),
    (dropout(0.5, always=True), ["REL.dropout"]),
    (normalizer(lambda self, valid, outer, inner: float(outer * inner)), ["REL.loss"]),
    (normalizer(lambda self, valid, outer, inner: 1.0), ["REL.loss"]),
    (loss_of(lambda layer: setattr(layer, "ignore_label", 0)), ["REL.loss"]),
    (loss_of(lambda layer: setattr(layer, "by_valid", True)), ["REL.loss"]),
    (loss_of(lambda layer: setattr(layer, "ignore_label", None)), ["REL.loss"]),
    (rule(momentum=0.95), ["REL.momentum", "S4.3.sgd"]),
    (rule(iter_size=1), ["REL.momentum", "S4.3.sgd"]),
    (torch_momentum, ["REL.momentum", "S4.3.sgd", "P.momentum"]),
    (one_pass, ["REL.momentum", "S4.3.sgd"]),
    (rate_falls, ["REL.momentum", "S4.3.sgd"]),
    (rule(weight_decay=0), ["REL.decay", "S4.3.sgd"]),
    (rule(regularization_type="L1"), ["REL.decay", "S4.3.sgd"]),
    (multiplier("decay_mult", 1), ["REL.bias", "S4.3.sgd"]),
    (multiplier("lr_mult", 1), ["REL.bias", "S4.3.sgd"]),
    (answers(neuron.ReLU, lambda bottom: bottom), ["REL.trunk", "REL.alexnet"]),
    (answers(pooling.Pooling, lambda bottom: bottom[:, :, ::2, ::2]), ["REL.trunk", "REL.alexnet"]),
    (answers(norm.LRN, lambda bottom: bottom / (1 + 1e-4 * bottom.square()) ** 0.75), ["REL.alexnet"]),
    (everything_learns, ["REL.upsampling"]),
    (filler(conv.Convolution, GAUSSIAN), ["REL.zero"]),
    (filler(linear.Scale, caffe_pb2.FillerParameter(type="constant", value=1)), ["REL.atonce"]),
    (crop((1, 1)), ["REL.map"]),
    (crop((0, 1)), ["REL.map"]),
    (crop((-1, 0)), ["REL.map"]),
    (flipped, ["REL.map"]),
    (scored(mean_iu="mean_accuracy"), ["S5.metrics"]),
    (scored(frequency_weighted_iu="mean_iu"), ["S5.metrics"]),
    (scored(pixel_accuracy="mean_accuracy"), ["S5.metrics"]),
    (void_counts, ["S5.metrics"]),
    (other_mean("nyud_layers", "HHA_MEAN", (132.431, 118.477, 94.076)), ["REL.data"]),
    (other_mean("nyud_layers", "LOG_DEPTH_MEAN", 7.8), ["REL.data"]),
    (other_mean("siftflow_layers", "MEAN", (108.353, 115.294, 114.578)), ["REL.data"]),
    (other_mean("pascalcontext_layers", "OTHER_SPELLING", {"table": "dog"}), ["REL.data"]),
    (wider, ["T1.seen"]),
    (other_number("DISPARITY", 30000), ["S5.hha"]),
    (other_number("UPRIGHT", 130), ["S5.hha"]),
    (not_reversed, ["REL.data"]),
    (void_is_a_class, ["REL.data"]),
]


def forget_runs(audited):
    """Forget what was run, and keep the files that were read."""
    runs = ("run", "seen", "steps", "experiment")
    audited.memory = {key: value for key, value in audited.memory.items() if key[0] not in runs}


@pytest.mark.parametrize(("spoil", "claims"), SPOILED, ids=range(len(SPOILED)))
def test_a_broken_package_is_noticed(ours, monkeypatch, spoil, claims):
    forget_runs(ours)
    for name in claims:
        assert CHECKS[name].run(ours).verdict == HOLDS, name
    forget_runs(ours)
    spoil(monkeypatch)
    for name in claims:
        result = CHECKS[name].run(ours)
        assert result.verdict == DIFFERS, name
        assert all(row.wanted for row in result.rows if row.holds is False)


def test_a_ramp_is_off_by_what_a_crop_is(ours):
    net = caffe_pb2.NetParameter()
    net.CopyFrom(ours.net("voc-fcn16s", TEST, ("deploy",)))
    assert probes.ramp_offsets(net) == {"score": 0}
    crops = {layer.name: layer.crop_param for layer in net.layer if layer.type == "Crop"}
    crops["score"].offset[:] = [28]
    assert probes.ramp_offsets(net)["score"] == pytest.approx(4)  # three down and one along
    crops["score"].offset[:] = [27]
    crops["score_pool4c"].offset[:] = [4]
    assert probes.ramp_offsets(net)["score"] == pytest.approx(4 * 16 / 2)  # half of what is added


def test_pixels_that_a_score_depends_on(ours):
    net = caffe_pb2.NetParameter()
    net.CopyFrom(ours.net("voc-fcn32s", TEST, ("deploy",)))
    layers = {layer.name: layer for layer in net.layer}
    assert probes.count_pixels_seen(net, "pool2") == (16, 16)
    assert probes.count_pixels_seen(net, "score_fr") == (404, 404)
    layers["fc6"].convolution_param.kernel_size[:] = []
    layers["fc6"].convolution_param.kernel_h, layers["fc6"].convolution_param.kernel_w = 6, 7
    layers["conv5_1"].convolution_param.dilation[:] = [2]
    assert probes.count_pixels_seen(net, "score_fr") == (404 - 32 + 32, 404 + 32)


def test_what_cannot_be_run_is_told(ours, monkeypatch):
    def refused(self, *bottoms):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(loss.SoftmaxWithLoss, "forward", refused)
    result = CHECKS["REL.loss"].run(ours)
    assert result.verdict == DIFFERS and any("out of memory" in str(row.value) for row in result.rows)


def test_a_step_of_very_many_images_is_not_run():
    solver = caffe_pb2.SolverParameter(lr_policy="fixed", iter_size=10**9)
    assert probes.step_distance(solver, [], [], 0, 0, [(1, 1), (1, 1)]) == float("inf")


def test_random_numbers_go_on_where_they_were(ours):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    layers = ours.net("voc-fcn32s", TRAIN).layer
    probes.dropout_effect(next(layer for layer in layers if layer.type == "Dropout"))
    assert torch.equal(before, torch.get_rng_state())
