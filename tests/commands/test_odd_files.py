"""What is no file where a file is wanted: devices that never end, an empty name."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from fcn_caffe.commands import infer

ZERO = "/dev/zero"


@pytest.mark.needs_linux
@pytest.mark.parametrize(
    "line",
    [
        "upgrade_net /dev/zero OUT",
        "upgrade_solver /dev/zero OUT",
        "draw_net /dev/zero OUT.svg",
        "plot_training_log --chart 0 /dev/zero OUT.png",
        "parse_log /dev/zero .",
        "convert_imageset ./ /dev/zero OUT",
    ],
)
def test_a_device_is_not_read_for_ever(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *words = line.split()
    assert importlib.import_module(f"fcn_caffe.commands.{name}").main(words) == 1
    assert "a device, which may never end. Name a file." in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("line", ["time_net --iterations 1", "upgrade_net OUT", "draw_net OUT.svg"])
def test_an_empty_name_is_no_net(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *words = line.split()
    assert importlib.import_module(f"fcn_caffe.commands.{name}").main(["", *words]) == 1
    assert "error: " in capsys.readouterr().err


def test_a_batch_beyond_all_bounds_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        infer.main(["image", "--net", "net", "--weights", "weights", "--batch", str(10**20)])
    assert "should be a whole number from 1 to 1048576" in capsys.readouterr().err
