"""The permutohedral lattice against one of dictionaries, and the layer that runs mean field on it."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import input_layer, layer, make_net
from torch import Tensor

from fcn_caffe import Net
from fcn_caffe.errors import LayerError
from fcn_caffe.layers.forks import permutohedral
from fcn_caffe.layers.forks.permutohedral import (
    Lattice,
    PixelFilter,
    bilateral_features,
    count_points,
    position_features,
)

Key = tuple[int, ...]


def wrap(value: int) -> int:
    return (value + 32768) % 65536 - 32768


def simplex(feature: list[float]) -> list[tuple[Key, float]]:
    """The corners around a point, with its barycentric coordinates: Adams et al., section 3."""
    d = len(feature)
    scaled = [x * math.sqrt(2 / 3) * (d + 1) / math.sqrt((i + 1) * (i + 2)) for i, x in enumerate(feature)]
    lifted = [sum(scaled[i:]) - (i * scaled[i - 1] if i else 0) for i in range(d + 1)]
    closest = [round(x / (d + 1)) * (d + 1) for x in lifted]
    by_distance = sorted(range(d + 1), key=lambda i: closest[i] - lifted[i])
    off = sum(closest) // (d + 1)
    for place in by_distance[len(by_distance) - off :] if off > 0 else ():
        closest[place] -= d + 1
    for place in by_distance[:-off] if off < 0 else ():
        closest[place] += d + 1
    order = sorted(range(d + 1), key=lambda i: closest[i] - lifted[i])  # the furthest above comes first
    above = [(lifted[i] - closest[i]) / (d + 1) for i in order]
    corners = []
    for step in range(d + 1):  # corner `step` raises all, and lowers the first `step` of them by d + 1 ... in turn
        key = [closest[i] + step - ((d + 1) if order.index(i) > d - step else 0) for i in range(d + 1)]
        share = 1 - (above[0] - above[d]) if step == 0 else above[d - step] - above[d - step + 1]
        corners.append((tuple(wrap(x) for x in key[:d]), share))
    return corners


def filtered_by_dictionaries(features: Tensor, values: Tensor, reverse: bool = False) -> Tensor:
    d, pixels = features.shape
    corners = [simplex(feature) for feature in features.double().T.tolist()]
    points: dict[Key, Tensor] = defaultdict(lambda: torch.zeros(values.shape[1], dtype=torch.double))
    if pixels % 4:  # the fork fills up the last block with features of 0
        for key, _ in simplex([0.0] * d):
            points[key] = points[key] + 0
    for pixel, around in enumerate(corners):
        for key, share in around:
            points[key] = points[key] + share * values[pixel].double()
    for axis in range(d, -1, -1) if reverse else range(d + 1):
        blurred = {}
        for key, value in points.items():
            sides = [tuple(wrap(x + (sign * d if i == axis else -sign)) for i, x in enumerate(key)) for sign in (1, -1)]
            blurred[key] = value + 0.5 * sum((points[side] for side in sides if side in points), torch.zeros(1))
        points = blurred
    rows = [sum(share * points[key] for key, share in around) for around in corners]
    return torch.stack(rows) / (1 + 2**-d)


def features_of(d: int, pixels: int, spread: float) -> Tensor:
    return torch.randn(d, pixels, generator=torch.Generator().manual_seed(d)) * spread


@pytest.mark.parametrize("pixels", [24, 25])
@pytest.mark.parametrize(("d", "spread"), [(1, 2.0), (2, 1.0), (3, 0.7), (5, 0.6), (5, 9000.0), (2, 30000.0)])
def test_the_lattice_is_that_of_dictionaries(d: int, spread: float, pixels: int) -> None:
    """A spread of thousands makes keys that 16 bits wrap around."""
    features, values = features_of(d, pixels, spread), torch.rand(pixels, 3)
    if spread > 100:
        features[:, ::2] = features[:, 1::2][:, :1] + torch.rand(d, 1)  # some are neighbours all the same
    for reverse in (False, True):
        found = Lattice.of(features).filter(values, reverse)
        wanted = filtered_by_dictionaries(features, values, reverse)
        # Far from 0 a float32 feature has few digits of the place in its simplex.
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5 + 1e-6 * spread)


@pytest.mark.parametrize("spread", [0.1, 30.0])
def test_points_are_counted_without_a_lattice(monkeypatch: pytest.MonkeyPatch, spread: float) -> None:
    monkeypatch.setattr("fcn_caffe.layers.forks.permutohedral._COUNTED", 5)
    features = features_of(5, 32, spread)
    assert count_points(features) == len(Lattice.of(features).starts) - 1


def test_keys_beyond_62_bits_have_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    features, values = features_of(5, 40, 0.5), torch.rand(40, 2)
    wanted = Lattice.of(features).filter(values)
    monkeypatch.setattr(permutohedral, "_MOST_CODES", 50)
    assert Lattice.of(features).filter(values).equal(wanted)


def test_reversed_is_transposed() -> None:
    lattice = Lattice.of(features_of(3, 18, 1))
    one = torch.eye(18, dtype=torch.double)
    torch.testing.assert_close(lattice.filter(one).T, lattice.filter(one, reverse=True))


def test_a_filter_of_ones_is_ones_and_close_to_a_gaussian() -> None:
    features = position_features(12, 10, 2.0, torch.device("cpu"))
    pixels = PixelFilter.of(features)
    torch.testing.assert_close(pixels(torch.ones(120, 1)), torch.ones(120, 1))
    distance = (features[:, :, None] - features[:, None]).square().sum(0)
    gaussian = (-0.5 * distance).exp()
    values = torch.rand(120, 4)
    wanted = gaussian @ values / gaussian.sum(1, keepdim=True)
    assert (pixels(values) - wanted).abs().max() < 0.05
    assert (wanted - values).abs().max() > 0.3


def test_bilateral_features_are_place_and_colours() -> None:
    image = torch.arange(12.0).view(2, 2, 3)
    found = bilateral_features(image, 2, 4)
    assert found[:, 4].tolist() == [0.5, 0.5, 1.0, 2.5]


# -- the layer ---------------------------------------------------------------------------------------------------------

THETAS = "theta_alpha: 8 theta_beta: 60 theta_gamma: 3"


def crf_net(
    options: str = f"num_iterations: 2 {THETAS}",
    shape: tuple[int, ...] = (2, 3, 4, 5),
    image: tuple[int, ...] = (2, 3, 4, 5),
    path: Path | None = None,
) -> Net:
    inputs = input_layer("unary", *shape), input_layer("start", *shape), input_layer("image", *image)
    crf = layer(
        "crf", "MultiStageMeanfield", "unary start image", "pred", f"multi_stage_meanfield_param {{ {options} }}"
    )
    return make_net(*inputs, crf, path=path)


def bottoms_of(shape: tuple[int, ...] = (2, 3, 4, 5)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    blobs = {name: torch.randn(shape, generator=generator) for name in ("unary", "start")}
    return {**blobs, "image": torch.randn(shape, generator=generator) * 60}


def test_pictures_of_a_batch_do_not_know_each_other() -> None:
    net, blobs = crf_net(), bottoms_of()
    both = net(blobs)["pred"]
    for place in range(2):
        alone = net({name: blob[place : place + 1] for name, blob in blobs.items()})["pred"]
        torch.testing.assert_close(alone, both[place : place + 1])


def test_another_size_needs_no_other_net() -> None:
    net = crf_net()
    net(bottoms_of())
    larger = bottoms_of((1, 3, 6, 7))
    torch.testing.assert_close(net(larger)["pred"], crf_net(shape=(1, 3, 6, 7), image=(1, 3, 6, 7))(larger)["pred"])


def test_without_files_weights_are_the_published_ones() -> None:
    blobs = crf_net().params["crf"]
    for blob, value in zip(blobs, (3, 5, -1), strict=True):
        assert blob[0, 0].equal(value * torch.eye(3))


def test_par_files_give_the_weights(tmp_path: Path) -> None:
    (tmp_path / "spatial.par").write_text("1 2\n3.5\n")
    (tmp_path / "bilateral.par").write_text("4\n5\n6\n")
    blobs = crf_net(path=tmp_path / "net.prototxt").params["crf"]
    assert blobs[0][0, 0].diagonal().tolist() == [1, 2, 3.5]
    assert blobs[1][0, 0].equal(torch.diag(torch.tensor([4.0, 5, 6])))


@pytest.mark.parametrize(
    ("text", "words"), [("1 2", "2 numbers for 3 classes"), ("1 2 x", "could not convert.*3 numbers")]
)
def test_other_par_files_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "spatial.par").write_text(text)
    with pytest.raises(LayerError, match=words):
        crf_net(path=tmp_path / "net.prototxt")


@pytest.mark.parametrize(
    ("options", "shape", "image", "words"),
    [
        (THETAS, (1, 3, 4, 5), (1, 3, 4, 5), "num_iterations is 1"),
        (f"num_iterations: 4000000000 {THETAS}", (1, 3, 4, 5), (1, 3, 4, 5), "give 2 to 10,000"),
        ("num_iterations: 5 theta_alpha: 9 theta_beta: 0", (1, 3, 4, 5), (1, 3, 4, 5), "needs theta_beta, above 0"),
        ("num_iterations: 5 theta_alpha: 9 theta_beta: 3", (1, 3, 4, 5), (1, 3, 4, 5), "needs theta_gamma"),
        (f"num_iterations: 5 {THETAS}", (1, 3, 4, 5), (1, 1, 4, 5), "the image is 1x1x4x5"),
        (f"num_iterations: 5 {THETAS}", (1, 3, 4), (1, 3, 4, 5), "give scores N x C x H x W twice"),
    ],
)
def test_refusals(options: str, shape: tuple[int, ...], image: tuple[int, ...], words: str) -> None:
    with pytest.raises(LayerError, match=words):
        crf_net(options, shape, image)


@pytest.mark.parametrize("colour", [float("nan"), float("inf"), -1e30])
def test_colours_beyond_the_lattice_are_refused(colour: float) -> None:
    net = crf_net(f"num_iterations: 2 {THETAS}", (1, 2, 2, 2), (1, 3, 2, 2))
    with pytest.raises(LayerError, match=r"are NaN or beyond .* Give an image of colours from 0 to 255"):
        net(unary=torch.zeros(1, 2, 2, 2), start=torch.zeros(1, 2, 2, 2), image=torch.full((1, 3, 2, 2), colour))


def test_scores_follow_the_colours() -> None:
    """A weak, noisy score is put right by a strong edge of the picture."""
    truth = torch.zeros(16, 16)
    truth[:, 7:] = 1
    noise = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(2)) * 1.5
    unary = (torch.stack((1 - truth, truth)) + noise)[None]
    image = (truth * 200 - 100).expand(1, 3, 16, 16)
    net = crf_net(f"num_iterations: 5 {THETAS}", (1, 2, 16, 16), (1, 3, 16, 16))
    found = net(unary=unary, start=unary, image=image)["pred"]
    right = [float((scores[0].argmax(0) == truth).float().mean()) for scores in (unary, found)]
    assert right[0] < 0.8
    assert right[1] == 1
    assert np.isfinite(found.detach().numpy()).all()
