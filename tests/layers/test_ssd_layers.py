"""Permute, Normalize, PriorBox and DetectionOutput: rules that no golden case shows, and refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import input_layer, layer, make_net
from needs import needs_data
from torch import Tensor

from fcn_caffe import TEST, TRAIN, Net
from fcn_caffe.errors import LayerError
from fcn_caffe.weights.transfer import copy_weights, load_weights


def one_layer(type: str, options: str, *shapes: tuple[int, ...], top: str = "l", phase: int = TEST) -> Net:
    names = [f"x{place}" for place in range(len(shapes))]
    inputs = [input_layer(name, *shape) for name, shape in zip(names, shapes, strict=True)]
    return make_net(*inputs, layer("l", type, " ".join(names), top, options), phase=phase)


IMAGE = (2, 3, 4, 5)
NORM = "norm_param"
MAPS = ((1, 2, 2, 3), (1, 3, 40, 60))
DETECT = "detection_output_param { num_classes: 2 %s }"
HEAD = ((1, 8), (1, 4), (1, 2, 8))
REFUSED: list[tuple[str, str, tuple[tuple[int, ...], ...], str]] = [
    (
        "Permute",
        "permute_param { order: 1 order: 1 }",
        (IMAGE,),
        "order is 1, 1: give each axis of 2x3x4x5 once, from 0 to 3",
    ),
    ("Permute", "permute_param { order: 4 }", (IMAGE,), "order is 4"),
    ("Normalize", "", ((3,),), "needs a bottom N x C"),
    ("Normalize", 'normalize_param { normalize_type: "L3" }', (IMAGE,), 'Known: "L1", "L2"'),
    ("Normalize", "normalize_param { } norm_param { }", (IMAGE,), "keep one"),
    ("PriorBox", "", MAPS, "no min_size"),
    ("PriorBox", "prior_box_param { min_size: 0 }", MAPS, "min_size is 0"),
    ("PriorBox", "prior_box_param { min_size: 2 aspect_ratio: -1 }", MAPS, "aspect_ratio is -1"),
    ("PriorBox", "prior_box_param { min_size: 2 max_size: 3 max_size: 4 }", MAPS, "2 max_size for 1 min_size"),
    ("PriorBox", "prior_box_param { min_size: 2 max_size: 2 }", MAPS, "not above its min_size"),
    ("PriorBox", "prior_box_param { min_size: 2 variance: 1 variance: 1 }", MAPS, "2 variances"),
    ("PriorBox", "prior_box_param { min_size: 2 img_size: 3 img_h: 4 }", MAPS, "img_size and img_h"),
    ("PriorBox", "prior_box_param { min_size: 2 step_h: 3 }", MAPS, "give step, or step_h with step_w"),
    ("PriorBox", "prior_box_param { min_size: 2 step: 0 }", MAPS, "step must be above 0"),
    ("PriorBox", "prior_box_param { min_size: 2 }", ((1, 2), MAPS[1]), "N x C x H x W"),
    ("DetectionOutput", "", HEAD, "no num_classes"),
    ("DetectionOutput", DETECT % "nms_param { eta: 0 }", HEAD, "eta 0"),
    ("DetectionOutput", DETECT % "nms_param { nms_threshold: -1 }", HEAD, "nms_threshold is -1"),
    ("DetectionOutput", DETECT % "", ((1, 12), *HEAD[1:]), "offsets are 1x12: 2 prior boxes and 2 classes want 1x8"),
    ("DetectionOutput", DETECT % "share_location: false", HEAD, "want 1x16"),
    ("DetectionOutput", DETECT % "", (HEAD[0], (1, 6), HEAD[2]), "scores are 1x6"),
    ("DetectionOutput", DETECT % "", (*HEAD[:2], (1, 1, 8)), "priors are 1x1x8"),
]


@pytest.mark.parametrize(("type", "options", "shapes", "words"), REFUSED)
def test_refusals(type: str, options: str, shapes: tuple[tuple[int, ...], ...], words: str) -> None:
    with pytest.raises(LayerError, match=words):
        one_layer(type, options, *shapes)


def test_permute_appends_the_axes_that_are_not_named() -> None:
    bottom = torch.randn(IMAGE)
    assert one_layer("Permute", "permute_param { order: 2 }", IMAGE)(x0=bottom)["l"].equal(bottom.permute(2, 0, 1, 3))


def test_permute_keeps_its_number_of_axes() -> None:
    with pytest.raises(LayerError, match="built for 4 axes"):
        one_layer("Permute", "permute_param { order: 1 }", IMAGE)(x0=torch.zeros(3, 4))


# -- Normalize ---------------------------------------------------------------------------------------------------------


def test_normalize_shares_one_scale_across_the_picture() -> None:
    net, bottom = one_layer("Normalize", "norm_param { scale_filler { value: 3 } }", IMAGE), torch.randn(IMAGE)
    assert net.params["l"][0].shape == ()
    expected = 3 * bottom / (bottom.square().sum((1, 2, 3), keepdim=True) + 1e-10).sqrt()
    torch.testing.assert_close(net(x0=bottom)["l"], expected)


def test_normalize_of_zeros_is_zero() -> None:
    bottom = torch.zeros(IMAGE, requires_grad=True)
    top = one_layer("Normalize", "norm_param { across_spatial: false }", IMAGE)(x0=bottom)["l"]
    top.sum().backward()
    assert bottom.grad is not None
    assert not top.any()
    assert bottom.grad.isfinite().all()


def test_normalize_loads_a_scale_that_is_written_as_one_value() -> None:
    net = one_layer("Normalize", "norm_param { }", IMAGE)
    copy_weights(net, {"l": [np.array([5.0], np.float32)]})
    assert net.params["l"][0].item() == 5


@pytest.mark.parametrize(
    ("type", "norm"),
    [
        ("L2", lambda x: (x**2).sum(1, keepdim=True).add(1e-6).sqrt()),
        ("L1", lambda x: x.abs().sum(1, keepdim=True) + 1e-6),
    ],
)
@pytest.mark.parametrize("through", [False, True])
def test_happynears_normalize(type: str, norm, through: bool) -> None:
    options = f'normalize_param {{ normalize_type: "{type}" bp_norm: {str(through).lower()} }}'
    net, bottom = one_layer("Normalize", options, IMAGE, top="l n"), torch.randn(IMAGE, requires_grad=True)
    blobs = net(x0=bottom)
    assert net.blob_shapes["n"] == (2, 1, 4, 5)
    assert "l" not in net.params
    torch.testing.assert_close(blobs["l"], bottom / norm(bottom))
    torch.testing.assert_close(blobs["n"], norm(bottom))
    assert blobs["n"].requires_grad is through


def test_happynears_fix_gradient_is_refused_in_training() -> None:
    options = "normalize_param { fix_gradient: true }"
    one_layer("Normalize", options, IMAGE)
    with pytest.raises(LayerError, match="fix_gradient"):
        one_layer("Normalize", options, IMAGE, phase=TRAIN)


def test_ssds_normalize_has_one_top() -> None:
    with pytest.raises(LayerError, match="has two tops"):
        one_layer("Normalize", "norm_param { }", IMAGE, top="l n")


# -- PriorBox ----------------------------------------------------------------------------------------------------------


def boxes_of(options: str) -> tuple[Tensor, Tensor]:
    """Boxes (rows, columns, P, 4) in pixels of the picture, and variances."""
    net = one_layer("PriorBox", f"prior_box_param {{ {options} }}", *MAPS)
    top = net(x0=torch.zeros(MAPS[0]), x1=torch.zeros(MAPS[1]))["l"]
    assert net.blob_shapes["l"] == top.shape
    return top[0, 0].view(2, 3, -1, 4), top[0, 1].view(2, 3, -1, 4)


def test_prior_boxes_come_size_by_size() -> None:
    boxes, variances = boxes_of(
        "min_size: 8 min_size: 12.9 max_size: 18 max_size: 27 aspect_ratio: 4 aspect_ratio: 0.25"
    )
    wanted = [(8, 8), (12, 12), (16, 4), (4, 16), (12, 12), (18, 18), (24, 6), (6, 24)]
    size = (boxes[..., 2:] - boxes[..., :2]) * torch.tensor([60.0, 40.0])
    torch.testing.assert_close(size[1, 2], torch.tensor(wanted, dtype=torch.float32))
    centre = (boxes[..., 2:] + boxes[..., :2]) / 2 * torch.tensor([60.0, 40.0])
    torch.testing.assert_close(centre[1, 2, 5], torch.tensor([50.0, 30.0]))
    assert variances.unique().tolist() == pytest.approx([0.1])


def test_a_ratio_that_is_there_is_skipped_and_one_without_flip_has_no_inverse() -> None:
    assert boxes_of("min_size: 8 aspect_ratio: 2 aspect_ratio: 2 aspect_ratio: 1 flip: false")[0].shape[2] == 2
    assert boxes_of("min_size: 8 aspect_ratio: 2 aspect_ratio: 3")[0].shape[2] == 5


def test_prior_boxes_take_the_pictures_size_and_steps_as_written() -> None:
    boxes, variances = boxes_of(
        "min_size: 10 img_h: 100 img_w: 50 step_h: 20 step_w: 10 offset: 0 clip: true "
        "variance: 0.1 variance: 0.2 variance: 0.3 variance: 0.4"
    )
    torch.testing.assert_close(boxes[1, 2, 0], torch.tensor([0.3, 0.15, 0.5, 0.25]))
    torch.testing.assert_close(boxes[0, 0, 0], torch.tensor([0, 0, 0.1, 0.05]))
    torch.testing.assert_close(variances[1, 1, 0], torch.tensor([0.1, 0.2, 0.3, 0.4]))


# -- DetectionOutput ---------------------------------------------------------------------------------------------------


def overlap_of(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0
    sizes = [max(box[2] - box[0], 0) * max(box[3] - box[1], 0) for box in (a, b)]
    return width * height / (sum(sizes) - width * height)


def detected_by_loops(
    boxes: list[list[float]], scores: Tensor, threshold: float, top_k: int, eta: float, keep: int, least: float
) -> list[list[float]]:
    """The rows of one picture; boxes of all classes alike, scores (P, classes), background 0."""
    rows: list[list[float]] = []
    for label in range(1, scores.shape[1]):
        order = sorted(
            (place for place in range(len(boxes)) if scores[place, label] > least), key=lambda p: -scores[p, label]
        )
        stay: list[int] = []
        limit = threshold
        for place in order[:top_k]:
            if all(overlap_of(boxes[place], boxes[other]) <= limit for other in stay):
                stay.append(place)
                limit *= eta if limit > 0.5 else 1
        rows += [[0, label, float(scores[place, label]), *boxes[place]] for place in stay]
    best = sorted(rows, key=lambda row: -row[2])[:keep]
    return [row for row in rows if row in best]


@pytest.mark.parametrize(
    ("threshold", "top_k", "eta", "keep", "least"),
    [
        (0.3, 400, 1, 200, 0.01),
        (0.9, 400, 0.7, 200, 0.01),
        (0.45, 12, 1, 200, -1),
        (0.6, 40, 0.9, 9, 0.2),
        (0, 30, 1, 5, 0),
    ],
)
def test_detections_are_the_loops(threshold: float, top_k: int, eta: float, keep: int, least: float) -> None:
    generator = torch.Generator().manual_seed(3)
    centre, size = torch.rand(60, 2, generator=generator), torch.rand(60, 2, generator=generator) * 0.4 + 0.05
    priors = torch.cat((centre - size / 2, centre + size / 2), 1)
    priors[5, 2] = priors[5, 0] - 0.1  # turned around: it has no area
    scores = torch.rand(60, 4, generator=generator)
    options = f"""num_classes: 4 confidence_threshold: {least} keep_top_k: {keep} variance_encoded_in_target: true
        nms_param {{ nms_threshold: {threshold} top_k: {top_k} eta: {eta} }}"""
    net = one_layer("DetectionOutput", f"detection_output_param {{ {options} }}", (1, 240), (1, 240), (1, 2, 240))
    prior = torch.stack((priors.flatten(), torch.ones(240)))[None]
    found = net(x0=torch.zeros(1, 240), x1=scores.view(1, -1), x2=prior)["l"]
    wanted = detected_by_loops(priors.tolist(), scores, threshold, top_k, eta, keep, least)
    torch.testing.assert_close(found[0, 0], torch.tensor(wanted))


def detect(options: str, offsets: Tensor, scores: Tensor, priors: Tensor) -> Tensor:
    shapes = offsets.shape, scores.shape, priors.shape
    net = one_layer("DetectionOutput", f"detection_output_param {{ {options} }}", *map(tuple, shapes))
    assert net.blob_shapes["l"] == (1, 1, 1, 7)
    return net(x0=offsets, x1=scores, x2=priors)["l"]


def test_nothing_found_is_a_row_a_picture() -> None:
    found = detect(
        "num_classes: 2 confidence_threshold: 0.9", torch.zeros(2, 4), torch.full((2, 2), 0.5), torch.rand(1, 2, 4)
    )
    assert found.tolist() == [[[[0] + [-1] * 6, [1] + [-1] * 6]]]


@pytest.mark.parametrize(
    ("code", "box"),
    [
        ("CORNER", (0.21, 0.22, 0.43, 0.64)),
        ("CORNER_SIZE", (0.2 + 0.01 * 0.2, 0.2 + 0.02 * 0.4, 0.4 + 0.03 * 0.2, 0.6 + 0.04 * 0.4)),
        ("CENTER_SIZE", None),
    ],
)
def test_codes(code: str, box: tuple[float, ...] | None) -> None:
    offsets = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    priors = torch.tensor([[[0.2, 0.2, 0.4, 0.6], [0.1] * 4]])
    if box is None:
        centre, size = (0.3 + 0.01 * 0.2, 0.4 + 0.02 * 0.4), (0.2 * math.exp(0.03), 0.4 * math.exp(0.04))
        box = (centre[0] - size[0] / 2, centre[1] - size[1] / 2, centre[0] + size[0] / 2, centre[1] + size[1] / 2)
    found = detect(f"num_classes: 2 code_type: {code}", offsets, torch.tensor([[0.2, 0.8]]), priors)
    torch.testing.assert_close(found[0, 0], torch.tensor([[0, 1, 0.8, *box]]))


def test_each_class_may_have_its_own_boxes() -> None:
    offsets = torch.arange(12.0).view(1, 12)  # one prior, three classes
    found = detect(
        "num_classes: 3 share_location: false background_label_id: -1",
        offsets,
        torch.tensor([[0.5, 0.3, 0.4]]),
        torch.ones(1, 2, 4),
    )
    assert found[0, 0, :, 1].tolist() == [0, 1, 2]
    assert found[0, 0, :, 3:].equal(offsets.view(3, 4) + 1)


def test_a_gradient_of_detections_is_refused_in_training() -> None:
    text = [input_layer("x", 1, 8), input_layer("scores", 1, 4), input_layer("priors", 1, 2, 8)]
    text.append(layer("fc", "InnerProduct", "x", more="inner_product_param { num_output: 8 }"))
    text.append(layer("det", "DetectionOutput", "fc scores priors", more=DETECT % "" + " loss_weight: 1"))
    with pytest.raises(LayerError, match="a gradient is asked of its bottom 'fc'"):
        make_net(*text, phase=TRAIN)


# -- published nets with their weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["slim320", "rfb320", "wechat_qrcode_detect"])
def test_published_detectors_give_opencvs_outputs(name: str) -> None:
    folder = needs_data(f"data/caffe/forks/{name}")
    net = Net(folder / "net.prototxt")
    assert not copy_weights(net, load_weights(folder / "weights.caffemodel")).missing
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "expected.npz") as expected, torch.no_grad():
        blobs = net({net.graph.inputs[0]: inputs["data"]})
        for blob in expected.files:
            wanted, found = torch.from_numpy(expected[blob]), blobs[blob]
            if blob == "detection_output":  # OpenCV fills up with rows of zeros
                wanted = wanted[:, :, wanted[0, 0].any(1)]
            assert wanted.numel()
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
