"""time_net --ways and --fast: the ways of the convolutions, and what they cost in exactness."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers import input_layer, layer, make_net

from fcn_caffe.commands import extract_features, infer, score, time_net
from fcn_caffe.net.rewrite import tuned
from fcn_caffe.net.rewrite.tuned import Choice
from fcn_caffe.weights.transfer import save_net

CONVOLUTION = "convolution_param { num_output: 4 kernel_size: 3 }"
NET = (
    input_layer("data", 1, 3, 12, 12),
    layer("conv", "Convolution", "data", more=CONVOLUTION),
    layer("relu", "ReLU", "conv", "conv"),
    layer("top", "Convolution", "conv", more=CONVOLUTION),
)


@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
@pytest.mark.parametrize("fast", [False, True])
def test_ways_are_printed_and_timed(
    phase: str, fast: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gemm = "im2col and GEMM"
    monkeypatch.setattr(tuned, "_choose", lambda *_: [Choice("conv", gemm, error=2e-7), Choice("top")])
    net = tmp_path / "net.prototxt"
    net.write_text("".join(NET))
    options = ["--ways", "--iterations", "1", "--phase", phase, *(["--fast"] if fast else [])]
    assert time_net.main([str(net), *options]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["conv", "im2col", "and", "GEMM", "oneDNN", "oneDNN", "2.0e-07"] in lines
    assert any(line[:3] == ["fast:", "1", "of"] for line in lines)
    backward = {line[0]: float(line[-1]) for line in lines if len(line) > 3 and line[1] in ("Convolution", "ReLU")}
    assert backward.keys() == {"conv", "relu", "top"} and min(backward.values()) > 0


def test_fast_says_what_it_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dummy = "dummy_data_param { shape { dim: 2 dim: 3 dim: 12 dim: 12 } data_filler { type: 'gaussian' std: 50 } }"
    filled = CONVOLUTION.replace("}", "weight_filler { type: 'msra' } }")
    text = (layer("data", "DummyData", more=dummy), layer("conv", "Convolution", "data", more=filled))
    (tmp_path / "net.prototxt").write_text("".join(text))
    net = make_net(*text)
    save_net(tmp_path / "net.caffemodel", net)
    words = [str(tmp_path / "net.caffemodel"), str(tmp_path / "net.prototxt"), "conv", str(tmp_path / "conv.npz"), "1"]
    assert extract_features.main([*words, "--fast"]) == 0
    said = capsys.readouterr().err
    assert "of the largest score (bound 1e-04)" in said and "of the places have the same class" in said
    assert np.load(tmp_path / "conv.npz")["conv"].shape == (2, 4, 10, 10)


@pytest.mark.parametrize("tool", [infer, score, extract_features])
def test_plain_and_fast_are_not_given_together(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool.parser().parse_args(["--plain", "--fast"])
    assert "--fast: not allowed with argument --plain" in capsys.readouterr().err
