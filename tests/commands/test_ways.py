"""time_net --ways and --fast: the ways of the convolutions, and what they cost in exactness."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import input_layer, layer

from fcn_caffe.commands import time_net
from fcn_caffe.net.rewrite import tuned
from fcn_caffe.net.rewrite.tuned import Choice

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
