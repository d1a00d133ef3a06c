"""Commands in several processes: what they write, and who says what."""

from __future__ import annotations

import json
import os
import sys

import pytest
from rank_runs import command_in_ranks
from small_stages import write_stages

from fcn_caffe.commands import infer, score, solve, train
from fcn_caffe.host import devices
from fcn_caffe.training.report import read_run
from fcn_caffe.weights.transfer import load_weights


@pytest.fixture
def folder(tmp_path):
    write_stages(tmp_path)
    return tmp_path


INPUT = """
layer { name: "data" type: "Input" top: "data" include { stage: "deploy" }
  input_param { shape { dim: 1 dim: 3 dim: 12 dim: 14 } } }
"""


def add_deploy_stage(net):
    text = net.read_text().replace('type: "SoftmaxWithLoss"', 'type: "SoftmaxWithLoss" include { not_stage: "deploy" }')
    net.write_text(INPUT + text)


def texts(results):
    """What stood on stderr, and who ended how."""
    return [status for status, _, _ in results], "".join(err for _, _, err in results)


def test_solve_train_score_and_infer(folder, monkeypatch, capsys):
    """Two ranks solve both stages; scores of three ranks are those of one; two share five photographs."""
    statuses, said = texts(command_in_ranks(2, ["solve", "solvers/fine.prototxt"], folder))
    assert statuses == [0, 0] and "fine: best at iteration" in said and said.count("coarse: done") == 1
    assert len((folder / "snapshot/fine/scores.csv").read_text().splitlines()) == 4
    (fine,) = read_run(folder / "snapshot/fine").stages
    assert [start["processes"] for start in fine.starts] == [2] and [test.iteration for test in fine.tests] == [2, 4, 6]
    assert [one["name"] for kind in ("best", "worst") for one in fine.images[kind]] in (["4", "5"], ["5", "4"])
    arguments = ["nets/fine.prototxt", "--weights", "weights/fine.caffemodel", "--iterations", "2"]
    results = command_in_ranks(3, ["score", *arguments, "--json", "three.json", "--save-predictions", "seen"], folder)
    assert [status for status, _, _ in results] == [0, 0, 0] and "wrote 2 answers" in results[0][1]
    assert sorted(path.name for path in (folder / "seen").iterdir()) == ["4.png", "5.png"]
    monkeypatch.chdir(folder)
    assert score.main([*arguments, "--json", "one.json"]) == 0
    capsys.readouterr()
    assert json.loads((folder / "three.json").read_text()) == json.loads((folder / "one.json").read_text())

    (folder / "photographs").mkdir()
    for name in ("0", "1", "2", "3", "4"):
        os.rename(folder / "images" / f"{name}.png", folder / "photographs" / f"{name}.png")
    add_deploy_stage(folder / "nets/fine.prototxt")
    arguments = [
        "photographs",
        "--mean",
        "0",
        "0",
        "0",
        "--ignore-preprocessing",
        "--net",
        "nets/fine.prototxt",
        "--weights",
        "weights/fine.caffemodel",
    ]
    assert infer.main([*arguments, "--out", "alone"]) == 0
    (folder / "photographs" / "9.png").write_text("no picture")
    results = command_in_ranks(2, ["infer", *arguments, "--out", "shared"], folder)
    assert [status for status, _, _ in results] == [1, 1]
    assert "wrote 5 label PNGs" in results[0][1] and "1 of 6 files have no answer: photographs/9.png" in results[0][2]
    for path in (folder / "alone").iterdir():
        assert (folder / "shared" / path.name).read_bytes() == path.read_bytes()
    for path in (folder / "shared").glob("1*"):
        path.unlink()
    (folder / "photographs" / "9.png").unlink()
    results = command_in_ranks(2, ["infer", *arguments, "--out", "shared", "--skip-existing"], folder)
    assert "4 of 5 files are answered already" in results[0][1] and "wrote 1 label PNGs" in results[0][1]


def test_train_goes_on_from_the_newest_snapshot(folder):
    words = ["train", "--solver", "solvers/coarse.prototxt", "--resume", "--log", "log.txt"]
    statuses, said = texts(command_in_ranks(2, words, folder))
    assert statuses == [0, 0] and "Restoring" not in said and said.count("Optimization Done") == 2
    ended = load_weights(folder / "snapshot/coarse/train_iter_6.caffemodel")
    for path in (folder / "snapshot/coarse").glob("train_iter_6*"):
        path.unlink()
    statuses, said = texts(command_in_ranks(2, [*words, "--shard-history"], folder))
    assert statuses == [0, 0] and "train_iter_4.solverstate" in said and said.count("shared out over the ranks as") == 1
    again = load_weights(folder / "snapshot/coarse/train_iter_6.caffemodel")
    assert all((one == other).all() for name in ended for one, other in zip(ended[name], again[name], strict=True))


def test_ctrl_c_makes_one_snapshot_and_says_how_to_go_on(folder):
    words = ["solve", "solvers/coarse.prototxt", "--max-iter", "1000000"]
    results = command_in_ranks(2, words, folder, interrupt_at=folder / "snapshot/coarse/scores.csv")
    statuses, said = texts(results)
    assert statuses == [130, 130] and said.count("coarse: stopped after") == 1 and "Traceback" not in said
    assert f"stopped. To go on: torchrun --nproc-per-node 2 -m fcn_caffe {' '.join(words)} --resume" in said
    at = max(int(path.stem.rpartition("_")[2]) for path in (folder / "snapshot/coarse").glob("*.solverstate"))
    assert said.count(f"Snapshotting solver state to binary proto file snapshot/coarse/train_iter_{at}.solver") == 1


def test_signals_while_scoring(folder):
    """One that reaches a single rank stops solve before the scores are there; of several ranks one says it."""
    solver, names = folder / "solvers/coarse.prototxt", folder / "val.txt"
    names.write_text(names.read_text() * 5000)
    solver.write_text(solver.read_text().replace("test_iter: 2", "test_iter: 10000"))
    state = folder / "snapshot/coarse/train_iter_2.solverstate"
    results = command_in_ranks(2, ["solve", str(solver)], folder, interrupt_at=state, first=1)
    statuses, said = texts(results)
    assert statuses == [130, 130] and said.count("stopped. To go on: ") == 1 and "Traceback" not in said
    assert state.exists() and not (folder / "snapshot/coarse/scores.csv").exists()
    weights = ["--weights", str(state.with_suffix(".caffemodel")), "--json", "scores.json"]
    words = ["score", "nets/coarse.prototxt", *weights, "--iterations", "10000", "--save-predictions", "seen"]
    statuses, said = texts(command_in_ranks(2, words, folder, interrupt_at=folder / "seen/4.png"))
    assert statuses == [130, 130] and said in ("rank 0: interrupted\n", "rank 1: interrupted\n")
    assert not (folder / "scores.json").exists() and not list((folder / "seen").glob(".*"))


def test_errors_are_told_once_with_the_rank(folder):
    statuses, said = texts(command_in_ranks(2, ["solve", "solvers/none.prototxt"], folder))
    assert statuses == [1, 1] and said.count("error: rank 0: ") == 1 and "error: rank 1" not in said
    words = ["train", "--solver", "solvers/coarse.prototxt", "--amp", "bf16", "--fast"]
    statuses, said = texts(command_in_ranks(2, words, folder))
    assert statuses == [1, 1] and said.count("error: ") == 1 and "leave out amp, or fast" in said


def test_train_takes_one_of_resume_and_snapshot(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "x.solverstate").touch()
    assert train.main(["--solver", "solvers/coarse.prototxt", "--resume", "--snapshot", "x.solverstate"]) == 1
    assert "--resume to go on from the newest" in capsys.readouterr().err


def test_one_process_shares_no_history(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for words in ((solve, "solvers/coarse.prototxt"), (train, "--solver", "solvers/coarse.prototxt")):
        command, *arguments = words
        assert command.main([*arguments, "--shard-history"]) == 1
        assert "leave out --shard-history" in capsys.readouterr().err
    assert not list((folder / "snapshot").glob("*/*.caffemodel"))


def test_several_gpus_become_torchrun(monkeypatch):
    """caffe train -gpu 0,2 is a process for each."""
    started = []

    def start(program, words, environment):
        started.append((program, words, environment["CUDA_VISIBLE_DEVICES"]))
        raise SystemExit(0)

    monkeypatch.setattr(devices, "torch_device", lambda asked: None)
    monkeypatch.setattr(os, "execve", start)
    with pytest.raises(SystemExit):
        train.main(["-gpu", "0,2", "--solver", "s.prototxt", "--weights", "w.caffemodel"])
    ((program, words, visible),) = started
    assert program == sys.executable and visible == "0,2" and "-gpu" not in words
    assert words[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    rest = ["-m", "fcn_caffe", "train", "--solver", "s.prototxt", "--weights", "w.caffemodel", "--device", "cuda"]
    assert words[6:] == rest
