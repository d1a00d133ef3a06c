"""tools/parse_log.py and tools/plot_training_log.py on logs as Caffe writes them, old and new, and on our own."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from datetime import datetime

import numpy as np
import pytest
from needs import needs_package
from PIL import Image
from places import ROOT
from small_stages import write_stages

from fcn_caffe import DataError, FcnCaffeError
from fcn_caffe.commands import parse_log as command
from fcn_caffe.commands import plot_training_log, solve
from fcn_caffe.training.log_chart import Chart, curves, find_chart
from fcn_caffe.training.log_parser import parse_log

CAFFE = """\
Log file created at: 2017/12/31 23:59:50
I1231 23:59:50.000000  1234 caffe.cpp:218] Using GPUs 0
I1231 23:59:51.500000  1234 net.cpp:255] Network initialization done.
I1231 23:59:52.000000  1234 solver.cpp:279] Solving LeNet
I1231 23:59:52.100000  1234 solver.cpp:280] Learning Rate Policy: step
I1231 23:59:52.250000  1234 solver.cpp:337] Iteration 0, Testing net (#0)
I1231 23:59:53.000000  1234 blocking_queue.cpp:50] Data layer prefetch queue empty
I1231 23:59:53.250000  1234 solver.cpp:404]     Test net output #0: accuracy = 0.0932
I1231 23:59:53.250001  1234 solver.cpp:404]     Test net output #1: loss = 2.41357 (* 1 = 2.41357 loss)
I1231 23:59:53.500000  1234 solver.cpp:228] Iteration 0, loss = 2.44
I1231 23:59:53.500001  1234 solver.cpp:244]     Train net output #0: loss = 2.45 (* 1 = 2.45 loss)
I1231 23:59:53.500002  1234 sgd_solver.cpp:106] Iteration 0, lr = 0.01
I0101 00:00:03.750000  1234 solver.cpp:218] Iteration 100 (48.1 iter/s, 2.07s/100 iters), loss = 0.21
I0101 00:00:03.750001  1234 solver.cpp:237]     Train net output #0: loss = 1.5e-05 (* 1 = 1.5e-05 loss)
I0101 00:00:03.750002  1234 sgd_solver.cpp:105] Iteration 100, lr = 0.001
I0101 00:00:04.000000  1234 solver.cpp:447] Snapshotting to binary proto file lenet_iter_100.caffemodel
W0101 00:00:04.100000  1234 solver.cpp:50] Iteration 100: a line that says nothing
I0101 00:00:05.000000  1234 solver.cpp:310] Iteration 200, loss = 0.0625
I0101 00:00:05.250000  1234 solver.cpp:330] Iteration 200, Testing net (#0)
I0101 00:00:06.000000  1234 solver.cpp:397]     Test net output #0: accuracy = 0.98
I0101 00:00:06.000001  1234 solver.cpp:397]     Test net output #1: loss = nan (* 1 = nan loss)
I0101 00:00:06.000002  1234 solver.cpp:315] Optimization Done.
"""


def written(path, text):
    path.write_text(text)
    return path


def rows(path, delimiter=","):
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def test_a_log_of_caffe_becomes_two_tables(tmp_path, capsys):
    log = written(tmp_path / "train.log", CAFFE)
    (tmp_path / "out").mkdir()
    assert command.main([str(log), str(tmp_path / "out"), "--verbose"]) == 0
    assert "3 rows of training, 2 of testing" in capsys.readouterr().out
    assert (tmp_path / "out/train.log.train").read_text().splitlines() == [
        "NumIters,Seconds,LearningRate,loss",
        "0,1.500001,0.01,2.45",
        "100,11.750001,0.001,1.5e-05",
    ]
    assert (tmp_path / "out/train.log.test").read_text().splitlines() == [
        "NumIters,Seconds,LearningRate,accuracy,loss",
        "0,1.25,0.01,0.0932,2.41357",
        "200,14,0.001,0.98,nan",
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train.log.test", "train.log.train"]


@pytest.mark.parametrize(("given", "delimiter"), [("\t", "\t"), ("\\t", "\t"), (";", ";")])
def test_another_delimiter(tmp_path, given, delimiter):
    log = written(tmp_path / "log", CAFFE)
    assert command.main([str(log), str(tmp_path), "--delimiter", given]) == 0
    assert rows(tmp_path / "log.train", delimiter)[1]["LearningRate"] == "0.001"


def test_the_smoothed_loss_is_kept(tmp_path):
    log = parse_log(written(tmp_path / "log", CAFFE))
    assert [(row.iteration, row.loss) for row in log.train] == [(0, 2.44), (100, 0.21), (200, 0.0625)]


def test_old_forms(tmp_path):
    log = parse_log(
        written(
            tmp_path / "log",
            "I0305 10:00:00.0 77 solver.cpp:60] Solving CaffeNet\n"
            "I0305 10:00:01.0 77 solver.cpp:106] Iteration 0, Testing net\n"
            "I0305 10:00:02.0 77 solver.cpp:142] Test score #0: 0.1\n"
            "I0305 10:00:02.0 77 solver.cpp:142] Test score #1: 6.9\n"
            "I0305 10:00:03.0 77 solver.cpp:87] Iteration 20, lr = 0.01\n"
            "I0305 10:00:04.0 77 solver.cpp:65] Iteration 20, loss = 6.5\n",
        )
    )
    assert log.tests[0][0].outputs == {"score0": 0.1, "score1": 6.9} and log.tests[0][0].seconds == 2
    assert (log.train[0].loss, log.train[0].rate, log.train[0].seconds) == (6.5, 0.01, 4)


def test_a_log_without_outputs_has_its_loss(tmp_path):
    log = written(tmp_path / "log", "I0305 10:00:04.5 7 s.cpp:1] Iteration 20, loss = 6.5\n")
    assert command.main([str(log), str(tmp_path)]) == 0
    assert (tmp_path / "log.train").read_text() == "NumIters,Seconds,LearningRate,loss\n20,0,,6.5\n"


def test_several_test_nets_and_outputs_of_several_values(tmp_path):
    lines = ["Iteration 5, Testing net (#0)", "    Test net output #0: acc = 0.5", "    Test net output #1: acc = 0.25"]
    lines += ["Iteration 5, Testing net (#1)", "    Test net output #0: acc = 1", "Iteration 6, Testing net (#0)"]
    lines += ["    Test net output #0: acc = 0.75", "    Test net output #1: acc = -inf", "Test loss: 3"]
    path = written(tmp_path / "log", "".join(f"I0305 10:00:00.0 7 solver.cpp:1] {line}\n" for line in lines))
    assert command.main([str(path), str(tmp_path)]) == 0
    assert [(row["NumIters"], row["acc"], row["acc[1]"]) for row in rows(tmp_path / "log.test")] == [
        ("5", "0.5", "0.25"),
        ("6", "0.75", "-inf"),
    ]
    assert [row["acc"] for row in rows(tmp_path / "log.test1")] == ["1"]
    assert parse_log(path).tests[0][1].loss == 3


@pytest.mark.parametrize(
    ("first", "second", "seconds"),
    [
        ("I1231 23:59:59.9", "I0101 00:00:00.1", 0.2),  # a new year
        ("I0228 23:59:59.0", "I0301 00:00:01.0", 86402),  # 2024 has a day between
        ("I0229 12:00:00.0", "I0229 12:00:01.5", 1.5),
        ("I1231 12:00:00.0", "I0229 12:00:00.0", 60 * 86400),
        ("I1025 02:59:00.0", "I1025 02:00:00.0", -3540),  # clocks put back
        ("I20231231 23:00:00.0", "I20250101 01:00:00.0", 366 * 86400 + 7200),  # glog with years
    ],
)
def test_seconds(tmp_path, first, second, seconds):
    path = written(tmp_path / "log", f"{first} 7 s.cpp:1] Solving\n{second} 7 s.cpp:1] Iteration 1, loss = 1\n")
    when = datetime(2024, 6, 1).timestamp()
    os.utime(path, (when, when))
    assert parse_log(path).train[0].seconds == pytest.approx(seconds)


def test_leap_days_in_a_file_of_another_year(tmp_path):
    text = "I0228 12:00:00.0 7 s.cpp:1] Solving\nI0229 12:00:00.0 7 s.cpp:1] Iteration 1, loss = 1\n"
    text += "I0301 12:00:00.0 7 s.cpp:1] Iteration 2, loss = 1\n"
    path = written(tmp_path / "log", text)
    when = datetime(2023, 6, 1).timestamp()
    os.utime(path, (when, when))
    assert [row.seconds for row in parse_log(path).train] == [86400, 2 * 86400]


def test_lines_without_times_and_text_in_between(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"\xff\xfe rubbish\nIteration 3, loss = 2\n    Train net output #0: a/b = 1.25\r\nI9999 no\n")
    row = parse_log(path).train[0]
    assert row.seconds is None and row.outputs == {"a/b": 1.25}
    assert command.main([str(path), str(tmp_path)]) == 0
    assert (tmp_path / "log.train").read_text().splitlines()[1] == "3,,,1.25"


def test_what_is_no_log_is_refused_and_nothing_is_written(tmp_path, capsys):
    path = written(tmp_path / "log", "I0305 10:00:04.0 7 s.cpp:1] Train net output #0: loss = 1\n")
    assert command.main([str(path), str(tmp_path)]) == 1
    assert "not a training log" in capsys.readouterr().err and list(tmp_path.iterdir()) == [path]
    with pytest.raises(DataError, match="none: cannot be read"):
        parse_log(tmp_path / "none")
    assert command.main([str(written(path, CAFFE)), str(tmp_path / "away")]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_our_own_logs(tmp_path, monkeypatch):
    """What `solve` writes to log.txt, and what its solver writes to stderr."""
    monkeypatch.chdir(write_stages(tmp_path))
    assert solve.main(["solvers/coarse.prototxt"]) == 0
    log = parse_log("snapshot/coarse/log.txt")
    assert [row.iteration for row in log.train] == [0, 1, 2, 3, 4, 5]
    seconds = [row.seconds for row in log.train]
    assert None not in seconds and seconds == sorted(seconds) and seconds[-1] > 0
    assert [row.rate for row in log.train] == pytest.approx([0.001 * (1 - i / 6) for i in range(6)], rel=1e-5)
    assert all(row.outputs.keys() == {"loss"} for row in log.train)
    with open("snapshot/coarse/scores.csv") as file:
        scores = list(csv.DictReader(file))
    assert [row.iteration for row in log.tests[0]] == [2, 4, 6]
    for row, score in zip(log.tests[0], scores, strict=True):
        for name in ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu"):
            assert row.outputs[name] == pytest.approx(float(score[name]), abs=1e-4)
        assert row.outputs["loss"] == pytest.approx(float(score["loss"]), rel=1e-5)


# -- charts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "chart"),
    [
        *((str(chart.number), chart) for chart in Chart),
        *((chart.title, chart) for chart in Chart),
        ("test-accuracy-iters", Chart.TEST_ACCURACY_BY_ITERATION),
        ("train_lr_seconds", Chart.LEARNING_RATE_BY_TIME),
        ("8", None),
        ("loss", None),
    ],
)
def test_charts_by_number_and_name(text, chart):
    assert find_chart(text) is chart


def test_charts_have_the_numbers_of_caffes_script():
    assert [(chart.number, chart.title) for chart in Chart] == [
        (0, "Test accuracy vs. Iters"),
        (1, "Test accuracy vs. Seconds"),
        (2, "Test loss vs. Iters"),
        (3, "Test loss vs. Seconds"),
        (4, "Train learning rate vs. Iters"),
        (5, "Train learning rate vs. Seconds"),
        (6, "Train loss vs. Iters"),
        (7, "Train loss vs. Seconds"),
    ]


@pytest.mark.parametrize(
    ("chart", "x", "y"),
    [
        (Chart.TEST_ACCURACY_BY_ITERATION, [0, 200], [0.0932, 0.98]),
        (Chart.TEST_ACCURACY_BY_TIME, [1.25, 14], [0.0932, 0.98]),
        (Chart.TEST_LOSS_BY_ITERATION, [0, 200], [2.41357, np.nan]),
        (Chart.LEARNING_RATE_BY_ITERATION, [0, 100, 200], [0.01, 0.001, 0.001]),
        (Chart.TRAIN_LOSS_BY_ITERATION, [0, 100, 200], [2.44, 0.21, 0.0625]),
        (Chart.TRAIN_LOSS_BY_TIME, [1.5, 11.75, 13], [2.44, 0.21, 0.0625]),
    ],
)
def test_curves(tmp_path, chart, x, y):
    (curve,) = curves(parse_log(written(tmp_path / "log", CAFFE)), chart)
    np.testing.assert_allclose(curve[1], x, rtol=1e-6)
    np.testing.assert_allclose(curve[2], y)


def test_outputs_by_name(tmp_path):
    log = parse_log(written(tmp_path / "log", CAFFE))
    assert [curve[0] for curve in curves(log, Chart.TEST_ACCURACY_BY_ITERATION, ["loss", "accuracy"])] == [
        "accuracy",
        "loss",
    ]
    assert curves(log, Chart.TRAIN_LOSS_BY_ITERATION, ["loss"])[0][2] == [2.45, 1.5e-05]
    with pytest.raises(DataError, match=r"Test outputs of the log: accuracy, loss\. Name some with --output\."):
        curves(log, Chart.TEST_ACCURACY_BY_ITERATION, ["none"])


def test_the_picture_shows_the_curve(tmp_path, capsys):
    needs_package("matplotlib")
    log = written(tmp_path / "train.log", CAFFE)
    assert plot_training_log.main([str(log), str(tmp_path / "a.png"), "--chart", "train-loss-iters"]) == 0
    assert plot_training_log.main(["6", str(tmp_path / "b.png"), str(log)]) == 0
    first, second = (np.asarray(Image.open(tmp_path / name).convert("RGB")) for name in ("a.png", "b.png"))
    assert np.array_equal(first, second) and (first == [0x1F, 0x77, 0xB4]).all(2).sum() > 500  # matplotlib's blue
    assert plot_training_log.main([str(log), str(log), str(tmp_path / "two.svg"), "--chart", "2"]) == 0
    assert (tmp_path / "two.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.log"], "give one log or more"),
        (["train.log", "out.png", "--chart", "9"], "unknown chart '9'"),
        (["train.log", "other.log"], "does not look like one"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as raised:
        plot_training_log.main(arguments)
    assert raised.value.code == 2 and message in capsys.readouterr().err


def test_nothing_is_left_where_drawing_fails(tmp_path, capsys):
    needs_package("matplotlib")
    log = written(tmp_path / "train.log", CAFFE)
    assert plot_training_log.main([str(log), str(tmp_path / "a.bmq")]) == 1
    assert "matplotlib knows: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [log]


def test_without_matplotlib_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    from fcn_caffe.training.log_chart import draw_chart

    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    log = parse_log(written(tmp_path / "log", CAFFE))
    with pytest.raises(FcnCaffeError, match=r"pip install fcn-caffe\[plot\]"):
        draw_chart({"log": log}, Chart.TRAIN_LOSS_BY_ITERATION, tmp_path / "a.png")


@pytest.mark.needs_program("sh")
def test_a_caffe_log_through_a_pipe(tmp_path):
    """The log may be no regular file: `parse_log.py <(grep …)`."""
    written(tmp_path / "train.log", CAFFE)
    tool = ROOT / "tools/parse_log.py"
    script = f"cat train.log | {sys.executable} {tool} /dev/stdin ."
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(rows(tmp_path / "stdin.train")) == 2
