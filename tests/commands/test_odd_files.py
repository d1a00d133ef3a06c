"""What is no file where a file is wanted: devices that never end, an empty name."""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path

import pytest

from fcn_caffe.commands import WRONG_USAGE, infer, new_task

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


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("time_net --iterations 1 ''", "an argument is empty, behind 1"),
        ("upgrade_net '' OUT", "an argument is empty."),
        ("merge_bn NET '' OUT.npz --weights W", "an argument is empty, behind NET"),
        ("convolutionalize NET W OUT ''", "an argument is empty, behind OUT"),
        ("doctor NET --fix ''", "an argument is empty, behind --fix"),
        ("doctor NET --fix=", "--fix= is followed by nothing"),
        ("new_task --images I --labels L --class-weights ''", "an argument is empty, behind --class-weights"),
    ],
)
def test_an_empty_word_is_refused(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a path it would be the working folder, as a text it would count as not given."""
    monkeypatch.chdir(tmp_path)
    name, *words = shlex.split(line)
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"fcn_caffe.commands.{name}").main(words)
    assert ended.value.code == WRONG_USAGE
    said = capsys.readouterr().err
    assert message in said and "Is a shell variable not set?" in said
    assert not any(tmp_path.iterdir())


def test_a_text_may_be_empty() -> None:
    assert new_task.parser().parse_args(["--label-suffix", ""]).label_suffix == ""


def test_a_batch_beyond_all_bounds_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        infer.main(["image", "--net", "net", "--weights", "weights", "--batch", str(10**20)])
    assert "should be a whole number from 1 to 1048576" in capsys.readouterr().err
