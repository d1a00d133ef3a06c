"""A file takes every size that its net takes, from the smallest on, whatever its file declares."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import input_layer, layer, make_net, narrow_net

from fcn_caffe import Net
from fcn_caffe.export.portable import make_portable
from fcn_caffe.export.program import trace
from fcn_caffe.export.program_file import open_program, write_program
from fcn_caffe.export.sizes import find_sizes
from fcn_caffe.net.rewrite.deploy_form import deploy_form


def test_a_program_of_pytorch_takes_any_size_without_a_word(tmp_path: Path) -> None:
    """PyTorch notes what the sample's sizes were like, and refuses others: not what is written here."""
    param, _ = deploy_form(narrow_net("voc-fcn8s"), (40, 56))
    net = Net(param)
    write_program(trace(make_portable(net), ["score"], {}, find_sizes(net, ["data"])), tmp_path / "a.pt2", "{}")
    function = torch.export.load(tmp_path / "a.pt2").module()
    with torch.no_grad():
        for shape in ((1, 3, 40, 56), (2, 3, 33, 64), (1, 3, 1, 1), (3, 3, 10, 71)):
            x = torch.randn(shape) * 50
            torch.testing.assert_close(function(x), net(x)["score"])


@pytest.mark.parametrize("steps", [1, 3])
def test_an_axis_that_a_layer_fixes_has_the_declared_size(tmp_path: Path, steps: int) -> None:
    options = "recurrent_param { num_output: 5 expose_hidden: true weight_filler { type: 'xavier' } }"
    shapes = {"data": (steps, 2, 4), "cont": (steps, 2), "h": (1, 2, 5)}
    inputs = (input_layer(name, *shape) for name, shape in shapes.items())
    net = make_net(*inputs, layer("l", "RNN", "data cont h", "l last", options))
    program = trace(make_portable(net), ["l", "last"], {}, find_sizes(net, [*shapes]))
    assert program.inputs == {"data": (steps, "data_1", 4), "cont": (steps, "data_1"), "h": (1, "data_1", 5)}
    blobs = {"data": torch.randn(steps, 3, 4), "cont": torch.ones(steps, 3), "h": torch.randn(1, 3, 5)}
    write_program(program, tmp_path / "a.pt2", "{}")
    found = open_program(tmp_path / "a.pt2").run({name: blob.numpy() for name, blob in blobs.items()})
    wanted = net(blobs)
    for top, expected in zip(found, (wanted["l"], wanted["last"]), strict=True):
        torch.testing.assert_close(torch.from_numpy(top), expected.detach())


@pytest.mark.parametrize("images, named", [(3, (3, 1)), (1, ("N", "N"))])
def test_images_that_a_layer_counts_are_not_free(images: int, named: tuple[int | str, int | str]) -> None:
    crop = layer(
        "crop", "Crop", "x y", more=f"crop_param {{ axis: 0 offset: {images - 1} offset: 0 offset: 0 offset: 1 }}"
    )
    net = make_net(input_layer("x", images, 2, 9, 9), input_layer("y", 1, 2, 4, 5), crop)
    found = trace(make_portable(net), ["crop"], {}, find_sizes(net, ["x", "y"])).inputs
    assert found == {"x": (named[0], 2, "H", "W"), "y": (named[1], 2, "y_2", "y_3")}
