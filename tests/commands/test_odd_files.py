"""What is no file where a file is wanted: devices that never end, an empty name."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from fcn_caffe.commands import WRONG_USAGE, compute_image_mean, infer, new_task

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
    assert "a device or a pipe, which may never end. Name a file." in capsys.readouterr().err
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


@pytest.mark.parametrize(
    "line",
    [
        "score NET --weights W --json ./NET",
        "score NET --weights W --confusion W",
        "score NET --weights W --csv A --per-class A",
        "score_edges NET --weights W --json W",
        "time_net NET --csv NET",
        "time_net NET --weights W --csv W",
        "extract_features W NET data NET 1 npz",
        "port_weights W OUT.npz --net OUT.npz",
        "port_weights W OUT.npz --net NET --map OUT.npz",
        "convolutionalize NET W OUT OUT",
        "train --solver NET --log NET",
        "train --solver S --weights NET --log NET",
    ],
)
def test_an_output_is_no_file_that_is_read(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("NET", "W", "S"):
        Path(name).write_text("mine")
    name, *words = line.split()
    assert importlib.import_module(f"fcn_caffe.commands.{name}").main(words) == 1
    assert "is named twice and would be overwritten. Give the output its own name." in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(("NET", "W", "S"), "mine")


@pytest.mark.parametrize("out", ["db/data.mdb", "db/mean.binaryproto"])
def test_a_mean_is_not_written_into_the_database(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("db").mkdir()
    Path("db/data.mdb").write_text("mine")
    assert compute_image_mean.main(["db", out]) == 1
    assert f"{out}: lies in the database. Give another place." in capsys.readouterr().err
    assert Path("db/data.mdb").read_text() == "mine"


@pytest.mark.parametrize(
    "line",
    [
        "new_task --images LOOP --labels LOOP",
        "new_task --images I --labels L --out LOOP",
        "new_task --images I --labels L --out LOOP/task",
        "compute_image_mean LOOP OUT",
        "hha LOOP OUT.png",
        "infer LOOP --net NET --weights W --out LOOP",
        "convolutionalize NET W LOOP OUT.npz",
    ],
)
def test_a_link_that_leads_to_itself(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("LOOP").symlink_to("LOOP")
    name, *words = line.split()
    assert importlib.import_module(f"fcn_caffe.commands.{name}").main(words) == 1
    assert re.match(r"error: \S*LOOP", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["LOOP"]


def test_a_text_may_be_empty() -> None:
    assert new_task.parser().parse_args(["--label-suffix", ""]).label_suffix == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("convolutionalize N W O P --seed -1", "--seed: should be a whole number from 0 to 4294967295, got -1"),
        ("convert_imageset I/ L D --shuffle --seed 99999999999999999999", "--seed: should be a whole number from 0"),
        ("convert_imageset I/ L D --resize_width 99999999999", "should be a whole number from 0 to 65535"),
        ("time_net N --level 99999999999", "should be a whole number from -2147483647 to 2147483647"),
        ("infer I --net N --weights W --mean 1e39 0 0", "--mean: should be a number up to 3.4e+38, got 1e39"),
        ("score_edges N --weights W --tolerance -1", "--tolerance: should be a whole number from 0 to 2147483647"),
        ("hha I O --focal 1 --centre nan 0", "--centre: should be a number up to 3.4e+38, got nan"),
    ],
)
def test_numbers_beyond_all_bounds(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, *words = line.split()
    with pytest.raises(SystemExit):
        importlib.import_module(f"fcn_caffe.commands.{name}").main(words)
    assert message in capsys.readouterr().err


def test_a_batch_beyond_all_bounds_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        infer.main(["image", "--net", "net", "--weights", "weights", "--batch", str(10**20)])
    assert "should be a whole number from 1 to 1048576" in capsys.readouterr().err
