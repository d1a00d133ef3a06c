"""ROIPooling, PSROIPooling and SmoothL1Loss against loops that say the forks' rules place by place."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import input_layer, layer, make_net
from torch import Tensor

from fcn_caffe import Net
from fcn_caffe.errors import LayerError


def rounded(value: float) -> int:
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def region_net(type: str, options: str, data: Tensor, regions: Tensor) -> Net:
    inputs = input_layer("data", *data.shape), input_layer("rois", *regions.shape)
    return make_net(*inputs, layer("l", type, "data rois", more=options))


def some_regions() -> Tensor:
    """Inside, over every border, outside, turned around, of one place, of halves, of the whole picture."""
    boxes = [(3, 2, 17, 15), (-9, -9, 40, 40), (50, 50, 60, 70), (12, 9, 4, 3), (8, 8, 8, 8), (-5, -7, -1, -2)]
    boxes += [(1, 3, 5, 7), (0, 0, 21, 17), (19, 1, 25, 30)]
    return torch.tensor([(number % 2, *box) for number, box in enumerate(boxes)], dtype=torch.float32)


def bins_of(first: int, last: int, count: int, size: int) -> list[range]:
    width = torch.tensor(float(max(last - first + 1, 1))) / count
    starts = [int(torch.floor(width * place)) + first for place in range(count)]
    ends = [int(torch.ceil(width * (place + 1))) + first for place in range(count)]
    return [range(min(max(start, 0), size), min(max(end, 0), size)) for start, end in zip(starts, ends, strict=True)]


def pooled_by_loops(data: Tensor, regions: Tensor, pooled: tuple[int, int], scale: float) -> tuple[Tensor, Tensor]:
    """The tops, and the gradient of their sum times 1, 2, 3 ...: to the first maximum in row order."""
    top = torch.zeros(len(regions), data.shape[1], *pooled)
    gradient, weight = torch.zeros_like(data), 0
    for number, (picture, *box) in enumerate(regions.tolist()):
        x1, y1, x2, y2 = (rounded(value * scale) for value in box)
        rows, columns = bins_of(y1, y2, pooled[0], data.shape[2]), bins_of(x1, x2, pooled[1], data.shape[3])
        for channel in range(data.shape[1]):
            plane = data[int(picture), channel]
            for i, bin_rows in enumerate(rows):
                for j, bin_columns in enumerate(columns):
                    weight += 1
                    places = [(y, x) for y in bin_rows for x in bin_columns]
                    if places:
                        best = max(places, key=lambda place: plane[place].item())  # the first of equals
                        top[number, channel, i, j] = plane[best]
                        gradient[int(picture), channel][best] += weight
    return top, gradient


@pytest.mark.parametrize("pooled", [(3, 2), (7, 7), (1, 1)])
@pytest.mark.parametrize("levels", [3, 1000])  # few levels make many ties
def test_roi_pooling_is_the_loops(pooled: tuple[int, int], levels: int) -> None:
    data = torch.randint(-levels, levels, (2, 2, 9, 11), generator=torch.Generator().manual_seed(0)).float()
    regions = some_regions()
    options = f"roi_pooling_param {{ pooled_h: {pooled[0]} pooled_w: {pooled[1]} spatial_scale: 0.5 }}"
    net = region_net("ROIPooling", options, data, regions)
    top, gradient = pooled_by_loops(data, regions, pooled, 0.5)
    assert net(data=data, rois=regions)["l"].equal(top)
    ours = net(data=data.requires_grad_(), rois=regions)["l"]
    assert ours.equal(top)
    ours.backward(torch.arange(1.0, top.numel() + 1).view(top.shape))
    assert data.grad is not None
    assert data.grad.equal(gradient)


def test_regions_may_have_four_axes_or_be_none() -> None:
    data, regions = torch.randn(2, 3, 6, 5), some_regions()[:4]
    net = region_net("ROIPooling", "roi_pooling_param { pooled_h: 2 pooled_w: 2 }", data, regions)
    flat = net(data=data, rois=regions)["l"]
    assert net(data=data, rois=regions[..., None, None])["l"].equal(flat)
    assert net(data=data, rois=regions[:0])["l"].shape == (0, 3, 2, 2)


def position_pooled_by_loops(data: Tensor, regions: Tensor, outputs: int, group: int, scale: float) -> Tensor:
    top = torch.zeros(len(regions), outputs, group, group)
    for number, (picture, *box) in enumerate(regions.tolist()):
        edges = []
        for first, last, size in ((box[1], box[3], data.shape[2]), (box[0], box[2], data.shape[3])):
            start, end = rounded(first) * scale, (rounded(last) + 1) * scale
            width = max(end - start, 0.1) / group
            cells = [(math.floor(i * width + start), math.ceil((i + 1) * width + start)) for i in range(group)]
            edges.append([slice(min(max(a, 0), size), min(max(b, 0), size)) for a, b in cells])
        for output in range(outputs):
            for i, rows in enumerate(edges[0]):
                for j, columns in enumerate(edges[1]):
                    cell = data[int(picture), (output * group + i) * group + j, rows, columns]
                    top[number, output, i, j] = cell.mean() if cell.numel() else 0
    return top


def test_psroi_pooling_is_the_loops() -> None:
    data, regions = torch.randn(2, 18, 9, 11), some_regions()
    options = "psroi_pooling_param { spatial_scale: 0.5 output_dim: 2 group_size: 3 }"
    top = region_net("PSROIPooling", options, data, regions)(data=data, rois=regions)["l"]
    torch.testing.assert_close(top, position_pooled_by_loops(data, regions, 2, 3, 0.5))


def test_psroi_pooling_shares_the_gradient_among_a_bins_places() -> None:
    data, region = torch.randn(1, 4, 8, 8, requires_grad=True), torch.tensor([[0.0, 0, 0, 7, 7]])
    options = "psroi_pooling_param { spatial_scale: 1 output_dim: 1 group_size: 2 }"
    region_net("PSROIPooling", options, data, region)(data=data, rois=region)["l"].sum().backward()
    assert data.grad is not None
    assert data.grad[0, 1].equal(
        torch.zeros(8, 8).index_put((torch.arange(4)[:, None], torch.arange(4, 8)), torch.tensor(1 / 16))
    )


REFUSED = [
    ("ROIPooling", "roi_pooling_param { pooled_h: 2 }", (1, 2, 4, 4), (3, 5), "pooled_h is 2 and pooled_w 0"),
    ("ROIPooling", "roi_pooling_param { pooled_h: 2 pooled_w: 2 }", (1, 2, 4, 4), (3, 4), "R x 5 regions"),
    (
        "PSROIPooling",
        "psroi_pooling_param { output_dim: 2 group_size: 1 }",
        (1, 2, 4, 4),
        (3, 5),
        "needs spatial_scale",
    ),
    (
        "PSROIPooling",
        "psroi_pooling_param { spatial_scale: inf output_dim: 2 group_size: 1 }",
        (1, 2, 4, 4),
        (3, 5),
        "needs spatial_scale, a finite number above 0",
    ),
    (
        "PSROIPooling",
        "psroi_pooling_param { spatial_scale: 1 output_dim: 2 group_size: 3 }",
        (1, 9, 4, 4),
        (3, 5),
        "has 9 channels: output_dim 2 and group_size 3 want 18",
    ),
]


@pytest.mark.parametrize(("type", "options", "data", "regions", "words"), REFUSED)
def test_refusals(type: str, options: str, data: tuple[int, ...], regions: tuple[int, ...], words: str) -> None:
    with pytest.raises(LayerError, match=words):
        region_net(type, options, torch.empty(data), torch.empty(regions))


@pytest.mark.parametrize(
    ("type", "options"),
    [
        ("ROIPooling", "roi_pooling_param { pooled_h: 2 pooled_w: 2 }"),
        ("PSROIPooling", "psroi_pooling_param { spatial_scale: 1 output_dim: 2 group_size: 1 }"),
    ],
)
def test_a_region_of_no_picture_is_refused(type: str, options: str) -> None:
    data, regions = torch.zeros(2, 2, 4, 4), torch.tensor([[2.0, 0, 0, 1, 1]])
    net = region_net(type, options, data, regions)
    with pytest.raises(LayerError, match="index 2 is outside the pictures of the batch, 0 to 1"):
        net(data=data, rois=regions)


# -- SmoothL1Loss ------------------------------------------------------------------------------------------------------


def loss_net(shape: tuple[int, ...], bottoms: int, options: str = "", tops: str = "loss") -> Net:
    names = ["a", "b", "w", "v"][:bottoms]
    inputs = [input_layer(name, *shape) for name in names]
    return make_net(*inputs, layer("loss", "SmoothL1Loss", " ".join(names), tops, options))


def smooth(difference: Tensor, sigma: float = 1) -> Tensor:
    near = 0.5 * (sigma * difference) ** 2
    return torch.where(difference.abs() < 1 / sigma**2, near, difference.abs() - 0.5 / sigma**2)


MAPS, ROWS = (2, 3, 2, 4), (4, 3)


def bottoms(shape: tuple[int, ...], count: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name in ["a", "b", "w", "v"][:count]}


@pytest.mark.parametrize(
    ("options", "divisor"),
    [
        ("loss_param { }", 16),
        ("loss_param { normalize: false }", 2),
        ("loss_param { normalize: true }", 16),
        ("loss_param { normalize: false normalization: VALID }", 16),
        ("loss_param { normalization: FULL }", 16),
        ("loss_param { normalization: VALID }", 16),
        ("loss_param { normalization: BATCH_SIZE }", 2),
        ("loss_param { normalization: NONE }", 1),
        ("loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 7 }", 7),
        ("loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 0.5 }", 1),
        ("smooth_l1_loss_param { sigma: 3 } loss_param { normalization: BATCH_SIZE }", 2),  # sigma is not read
        ('fork: "rfcn"', 16),
        ('fork: "fast-rcnn"', 2),
    ],
)
def test_smooth_l1_of_maps_with_weights(options: str, divisor: float) -> None:
    blobs = bottoms(MAPS, 3)
    terms = smooth(blobs["w"] * (blobs["a"] - blobs["b"]))
    torch.testing.assert_close(loss_net(MAPS, 3, options)(blobs)["loss"], terms.sum() / divisor)


def test_smooth_l1_of_faster_rcnn_weighs_twice() -> None:
    blobs = bottoms(MAPS, 4)
    terms = blobs["v"] * smooth(blobs["w"] * (blobs["a"] - blobs["b"]), 2)
    loss = loss_net(MAPS, 4, "smooth_l1_loss_param { sigma: 2 }")(blobs)["loss"]
    torch.testing.assert_close(loss, terms.sum() / 2)


def test_smooth_l1_of_rows_needs_no_fork() -> None:
    blobs = bottoms(ROWS, 3)
    terms = smooth(blobs["w"] * (blobs["a"] - blobs["b"]))
    torch.testing.assert_close(loss_net(ROWS, 3)(blobs)["loss"], terms.sum() / 4)


@pytest.mark.parametrize("follows", [False, True])
def test_smooth_l1_drops_its_weight_in_the_gradient_of_the_face_alone(follows: bool) -> None:
    blobs = bottoms(ROWS, 3)
    net = loss_net(ROWS, 3)
    net.layer("loss").follows_caffe = follows
    a = blobs["a"].requires_grad_()
    net(blobs)["loss"].backward()
    slope = (blobs["w"] * (a - blobs["b"])).detach().clamp(-1, 1)
    torch.testing.assert_close(a.grad, (slope if follows else blobs["w"] * slope) / 4)


def test_smooth_l1_asks_whose_it_is() -> None:
    with pytest.raises(LayerError, match=r"fast-rcnn.*rfcn"):
        loss_net(MAPS, 3)


@pytest.mark.parametrize(
    ("count", "options", "words"),
    [
        (2, "smooth_l1_loss_param { sigma: 0 }", "sigma is 0: give a number above 0"),
        (3, "smooth_l1_loss_param { sigma: 2 }", "Faster R-CNN's takes 2 or 4"),
        (4, "loss_param { normalization: FULL }", "R-FCN's takes 2 or 3"),
    ],
)
def test_smooth_l1_refuses_other_numbers_of_bottoms_and_sigmas(count: int, options: str, words: str) -> None:
    with pytest.raises(LayerError, match=words):
        loss_net(MAPS, count, options)


def test_smooth_l1_refuses_bottoms_of_other_sizes() -> None:
    with pytest.raises(LayerError, match=r"bottom 0 is \(scalar\): give N x"):
        make_net(input_layer("a"), layer("l", "SmoothL1Loss", "a a"))
    with pytest.raises(LayerError, match="2x3 and 2x4: they must be alike"):
        make_net(input_layer("a", 2, 3), input_layer("b", 2, 4), layer("l", "SmoothL1Loss", "a b"))
