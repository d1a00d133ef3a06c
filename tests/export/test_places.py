"""Pooling masks in the check of an exported file: other places of equal values are right, other places are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import input_layer, layer, make_net, net_param

from fcn_caffe import GraphError, Net, commands
from fcn_caffe.export import program_file
from fcn_caffe.export.engines import Array, Engine
from fcn_caffe.export.places import PlacesRunner, mask_blobs
from fcn_caffe.export.program_file import open_program
from fcn_caffe.net.rewrite.convolution_proof import fill_at_random
from fcn_caffe.proto import write_text
from fcn_caffe.weights.transfer import net_weights, save_weights

UNPOOLING = (
    input_layer("data", 1, 3, 24, 32),
    layer("conv", "Convolution", "data", more="convolution_param { num_output: 16 kernel_size: 1 }"),
    layer("pool", "Pooling", "conv", "pool mask", "pooling_param { kernel_size: 2 stride: 2 }"),
    layer("up", "Upsample", "pool mask", more="upsample_param { scale: 2 }"),
)
PADDED = (
    input_layer("x", 1, 1, 4, 4),
    layer("pool", "Pooling", "x", "pool mask", "pooling_param { kernel_size: 3 stride: 2 pad: 1 }"),
)


def run(places: Mapping[tuple[int, int], float], x: torch.Tensor, net: Net) -> tuple[PlacesRunner, torch.Tensor]:
    """Run a net with other places in its mask."""
    mask = net({"x": x}, keep=("mask",))["mask"].clone()
    for (row, column), place in places.items():
        mask[0, 0, row, column] = place
    runner = PlacesRunner(net, {"mask": mask}, 1e-4)
    return runner, runner.run({"x": x}, frozenset({"mask"}))["mask"]


def test_a_place_of_the_same_value_is_taken_from_the_file() -> None:
    net = make_net(*PADDED)
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    x[0, 0, 3, 2] = 15 - 3e-4  # beside the largest, which is at place 15
    runner, mask = run({(1, 1): 14}, x, net)
    assert mask[0, 0, 1, 1] == 14 and runner.moved == 1
    assert 1e-5 < runner.lower < 3e-5
    runner, _ = run({}, x, net)
    assert (runner.moved, runner.lower) == (0, 0)


@pytest.mark.parametrize("place", [0.0, 16.0, -1.0, 4.0, 12.0])
def test_a_place_outside_of_its_window_is_wrong(place: float) -> None:
    with pytest.raises(GraphError, match=r"layer 'pool' \(Pooling\): the file's 'mask' is wrong: places are not in"):
        run({(1, 1): place}, torch.ones(1, 1, 4, 4), make_net(*PADDED))


def test_a_place_of_a_lower_value_is_wrong() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    with pytest.raises(GraphError, match=r"has a value that is 0\.067 of the largest below"):
        run({(1, 1): 14}, x, make_net(*PADDED))
    runner = PlacesRunner(make_net(*PADDED), {"mask": torch.zeros(1, 1, 2, 3)}, 1e-4)
    with pytest.raises(GraphError, match=r"it is 1x1x2x3, the net's 1x1x3x3"):
        runner.run({"x": x})


def test_a_file_that_rounds_otherwise_passes_though_its_values_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = make_net(*UNPOOLING)
    fill_at_random(net)
    assert mask_blobs(net) == ("mask",)
    file, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    file.write_text(write_text(net_param(*UNPOOLING)))
    save_weights(weights, net_weights(net), "net")
    apart: list[float] = []

    def open_roughly(path: Path) -> Engine:
        engine = open_program(path)

        def run_roughly(inputs: Mapping[str, Array]) -> list[Array]:
            noise = np.random.default_rng(1).uniform(-2e-5, 2e-5, inputs["data"].shape)
            tops = engine.run({"data": inputs["data"] + (noise * np.abs(inputs["data"]).max()).astype(np.float32)})
            wanted = net({"data": torch.from_numpy(inputs["data"])})["up"].detach().numpy()
            if tops[0].shape == wanted.shape:
                apart.append(float(np.abs(tops[0] - wanted).max() / wanted.max()))
            return tops

        return Engine(engine.name, run_roughly)

    monkeypatch.setattr(program_file, "open_program", open_roughly)
    assert (
        commands.main(["export", str(file), str(tmp_path / "a.pt2"), "--weights", str(tmp_path / "net.caffemodel")])
        == 0
    )
    assert "maxima are taken at another place of their window" in capsys.readouterr().out
    assert max(apart) > 0.01  # compared without the masks, it would be refused
