"""Each weight file that training writes has its record of preprocessing, and every command holds a net to it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from small_stages import write_stages

from fcn_caffe import Net
from fcn_caffe.commands import extract_features, score, score_edges, solve, test_net, train
from fcn_caffe.evaluation import trained_preprocessing
from fcn_caffe.models.published import PUBLISHED
from fcn_caffe.pycaffe.solver import SGDSolver
from fcn_caffe.training.plan import read_stage
from fcn_caffe.training.solver import Solver
from fcn_caffe.training.stage import Training
from fcn_caffe.weights.record import Preprocessing, read_preprocessing, record_path, write_preprocessing
from fcn_caffe.weights.transfer import load_weights, net_weights, save_weights

FINE, COARSE = "solvers/fine.prototxt", "solvers/coarse.prototxt"
MEAN = (104.00699, 116.66877, 122.67892)  # what the small task's data layer subtracts
CARD = "0: ground  # 10 20 30\n1: horse  # 200 30 0\n"
WANTED = Preprocessing("BGR", MEAN, scale=1.0, classes=("ground", "horse"), colors=((10, 20, 30), (200, 30, 0)))


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(write_stages(tmp_path))
    (tmp_path / "nets/classes.txt").write_text(CARD)
    return tmp_path


def change_mean(net: str, mean: str = "(1, 2, 3)", phases: int = 2) -> None:
    path = Path(net)
    path.write_text(path.read_text().replace("{'images'", f"{{'mean': {mean}, 'images'", phases))


# -- who writes them -----------------------------------------------------------------------------------------------


def test_solve_writes_one_beside_every_caffemodel_and_removes_it_with_it(task: Path) -> None:
    assert solve.main([FINE]) == 0
    models = set(task.rglob("*.caffemodel"))
    assert len(models) >= 4
    assert {record_path(path) for path in models} == set(task.rglob("*.preprocessing.json"))
    assert all(read_preprocessing(path) == WANTED for path in models)
    read_stage(FINE).forget_snapshots()
    assert not list((task / "snapshot/fine").glob("train_iter_6*"))


def test_hdf5_snapshots_have_theirs(task: Path) -> None:
    with open(COARSE, "a") as file:
        file.write("snapshot_format: HDF5\n")
    assert solve.main([COARSE, "--steps", "1"]) == 0
    assert read_preprocessing("snapshot/coarse/train_iter_2.caffemodel.h5") == WANTED
    assert read_preprocessing("weights/coarse.caffemodel") == WANTED


def test_train_writes_them_too(task: Path) -> None:
    assert train.main(["--solver", COARSE]) == 0
    for iteration in (2, 4, 6):
        assert read_preprocessing(f"snapshot/coarse/train_iter_{iteration}.caffemodel") == WANTED


def test_a_solver_alone_writes_none_as_caffe(task: Path) -> None:
    """Nor does the caffe face; a record that an earlier run left does not stay beside weights that it is not of."""
    assert train.main(["--solver", COARSE]) == 0
    Solver(COARSE).solve()
    SGDSolver(COARSE).snapshot()
    assert not list(Path("snapshot/coarse").glob("*.json"))
    solver = Solver(COARSE)
    solver.preprocessing = trained_preprocessing(solver.net)
    solver.snapshot()
    assert read_preprocessing("snapshot/coarse/train_iter_0.caffemodel") == WANTED


def test_resumed_has_the_record_of_uninterrupted(task: Path) -> None:
    """Though the file that gave the names is gone by then."""
    Path("nets/classes.txt").unlink()
    net = Net("nets/fine.prototxt")
    save_weights("start.caffemodel", {"conv": net_weights(net)["conv"]})
    write_preprocessing("start.caffemodel", Preprocessing("BGR", classes=("no", "yes"), colors=((0, 0, 0), (9, 9, 9))))
    with open(COARSE, "a") as file:
        file.write('weights: "start.caffemodel"\n')

    def interrupt(solver: Solver) -> None:
        if solver.iter == 3:
            os.kill(os.getpid(), signal.SIGINT)

    assert not Training(read_stage(COARSE), on_step=interrupt).run()
    record_path("start.caffemodel").unlink()
    assert solve.main([COARSE, "--resume"]) == 0
    record = read_preprocessing("weights/coarse.caffemodel")
    assert record is not None and record.classes == ("no", "yes") and record.colors == ((0, 0, 0), (9, 9, 9))
    assert record.mean == MEAN


def test_a_convolutional_classifier_says_what_it_was_made_of(task: Path) -> None:
    with open(COARSE, "a") as file:
        file.write('weights: "weights/vgg16fc.caffemodel"\n')
    Path("weights").mkdir()
    source = Path("weights", PUBLISHED["vgg16fc.caffemodel"].source.rpartition("/")[2])
    save_weights(source, {"conv": net_weights(Net("nets/coarse.prototxt"))["conv"]})
    write_preprocessing(source, Preprocessing(mean=(1.0, 200.0, 3.0)))
    assert solve.main([COARSE, "--steps", "1"]) == 1  # another mean by far: seen though the file is made only now
    record_path(source).unlink()
    assert solve.main([COARSE, "--steps", "1"]) == 0
    record = read_preprocessing("weights/vgg16fc.caffemodel")
    assert record is not None and (record.channel_order, record.mean, record.source) == ("BGR", MEAN, source.name)


# -- what they say -------------------------------------------------------------------------------------------------

HDF5 = """
layer { name: "data" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "list.txt" batch_size: 1 } }
layer { name: "score" type: "Convolution" bottom: "data" top: "score" convolution_param { num_output: 2
  kernel_size: 1 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }
"""


def hdf5_net(tmp_path: Path) -> Net:
    """Make a net whose data layer says nothing of how its data were made."""
    import h5py
    import numpy as np

    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["data"] = np.zeros((1, 3, 4, 4), np.float32)
        file["label"] = np.zeros((1, 1, 4, 4), np.float32)
    (tmp_path / "list.txt").write_text(str(tmp_path / "data.h5"))
    (tmp_path / "net.prototxt").write_text(HDF5.replace("list.txt", str(tmp_path / "list.txt")))
    return Net(tmp_path / "net.prototxt")


def test_classes_of_the_weights_it_starts_from_count_where_there_are_as_many(tmp_path: Path) -> None:
    net = hdf5_net(tmp_path)
    assert trained_preprocessing(net) == Preprocessing()
    starts = [tmp_path / f"{name}.caffemodel" for name in ("three", "two", "none", "other")]
    three, two, _, other = starts
    write_preprocessing(three, Preprocessing("BGR", MEAN, classes=("a", "b", "c"), colors=((0, 0, 0),) * 3))
    write_preprocessing(two, Preprocessing("RGB", classes=("d", "e"), colors=((0, 0, 0), (0, 0, 9)), source="x"))
    write_preprocessing(other, Preprocessing("RGB", classes=("f", "g")))
    # The mean of what it starts from is not known to be the mean of these data.
    wanted = Preprocessing("BGR", classes=("d", "e"), colors=((0, 0, 0), (0, 0, 9)))
    assert trained_preprocessing(net, starts) == wanted
    (tmp_path / "classes.txt").write_text("0: h\n1: i\n")
    assert trained_preprocessing(net, starts) == Preprocessing("BGR", classes=("h", "i"))
    (tmp_path / "classes.txt").write_text("0: h\n1: i\n2: j\n")  # not this net's
    assert trained_preprocessing(net, [three]) == Preprocessing("BGR")


def test_the_voc_palette_is_no_colour_of_ones_own(task: Path) -> None:
    Path("nets/classes.txt").write_text("0: ground  # 0 0 0\n1: horse  # 128 0 0\n")
    record = trained_preprocessing(Net("nets/coarse.prototxt"))
    assert record.classes == ("ground", "horse") and record.colors is None


def test_classes_of_a_data_set_without_a_card(tmp_path: Path) -> None:
    options = {"split": "val", "count": 1, "mean": (1, 2, 3)}
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "data" type: "Python" top: "data" top: "label" python_param {\n'
        f'  module: "shapes_layers" layer: "ShapesSegData" param_str: "{options}" }} }}\n'
        'layer { name: "s" type: "Convolution" bottom: "data" top: "s" convolution_param { num_output: 6 kernel_size: 1'
        ' } }\nlayer { name: "loss" type: "SoftmaxWithLoss" bottom: "s" bottom: "label" top: "loss" }\n'
    )
    record = trained_preprocessing(Net(tmp_path / "net.prototxt"))
    assert record.mean == (1, 2, 3) and record.classes is not None and record.classes[0] == "background"


# -- who holds a net to them ---------------------------------------------------------------------------------------


@pytest.fixture
def trained(task: Path) -> Path:
    assert train.main(["--solver", COARSE]) == 0
    return task


def refuses(main: object, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The command refuses, and goes on with --ignore-preprocessing."""
    assert callable(main)
    capsys.readouterr()
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "was made for other inputs than nets/coarse.prototxt gives: mean 104.007 116.669 122.679, not 1 2 3" in error
    assert "--ignore-preprocessing" in error and "Traceback" not in error
    assert main([*arguments, "--ignore-preprocessing"]) == 0


WEIGHTS = "snapshot/coarse/train_iter_6.caffemodel"
EDGE = """
layer { name: "edge" type: "Convolution" bottom: "score" top: "edge" convolution_param { num_output: 1 kernel_size: 1
  weight_filler { type: "xavier" } } }
"""


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (score.main, ["nets/coarse.prototxt", "--weights", WEIGHTS]),
        (test_net.main, ["--model", "nets/coarse.prototxt", "--weights", WEIGHTS, "--iterations", "1"]),
        (extract_features.main, [WEIGHTS, "nets/coarse.prototxt", "score", "x.npz", "1"]),
        (train.main, ["--solver", COARSE, "--snapshot", "snapshot/coarse/train_iter_4.solverstate"]),
    ],
)
def test_a_net_whose_mean_was_changed_is_refused(
    trained: Path, main: object, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    change_mean("nets/coarse.prototxt")
    refuses(main, arguments, capsys)


def test_score_edges_refuses_it_too(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open("nets/coarse.prototxt", "a") as file:
        file.write(EDGE)
    change_mean("nets/coarse.prototxt")
    save_weights(WEIGHTS, {**load_weights(WEIGHTS), "edge": net_weights(Net("nets/coarse.prototxt"))["edge"]})
    refuses(score_edges.main, ["nets/coarse.prototxt", "--weights", WEIGHTS, "--score", "edge"], capsys)


def test_solve_resumes_nothing_that_was_made_for_other_inputs(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = Training(read_stage(COARSE))
    training.solver.step(2)
    change_mean("nets/coarse.prototxt")
    refuses(solve.main, [COARSE, "--resume"], capsys)


def test_training_is_resumed_where_the_test_net_alone_has_another_mean(
    task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record is of what is trained; score is what says that the two differ."""
    change_mean("nets/coarse.prototxt", str(MEAN), 1)
    text = Path("nets/coarse.prototxt").read_text()
    Path("nets/coarse.prototxt").write_text(text.replace("{'images'", "{'mean': (1, 2, 3), 'images'", 1))
    Training(read_stage(COARSE)).solver.step(2)
    assert solve.main([COARSE, "--resume"]) == 0
    refuses(score.main, ["nets/coarse.prototxt", "--weights", "weights/coarse.caffemodel"], capsys)


def test_train_starts_from_no_weights_made_for_other_inputs(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--solver", COARSE]) == 0
    Path(WEIGHTS).rename("start.caffemodel")
    record_path(WEIGHTS).rename(record_path("start.caffemodel"))
    change_mean("nets/coarse.prototxt")
    refuses(train.main, ["--solver", COARSE, "--weights", "start.caffemodel"], capsys)
    record = json.loads(record_path(WEIGHTS).read_text())
    assert record["mean"] == [1, 2, 3]


def test_a_stage_of_the_net_is_looked_at(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A data layer that is in under a stage alone, as the test list of new_task is."""
    text = Path("nets/coarse.prototxt").read_text()
    start, rest = text.split("layer {", 1)
    train_layer, test_layer, others = rest.split("layer {", 2)
    staged = (
        test_layer.replace("not_stage", "stage").replace("deploy", "test").replace("{'im", "{'mean': (1, 2, 3), 'im")
    )
    other = test_layer.replace('"deploy"', '"test"')
    Path("nets/coarse.prototxt").write_text("layer {".join([start, train_layer, other, staged, others]))
    assert score.main(["nets/coarse.prototxt", "--weights", WEIGHTS]) == 0
    refuses(score.main, ["nets/coarse.prototxt", "--weights", WEIGHTS, "--stage", "test"], capsys)


# -- snapshots -----------------------------------------------------------------------------------------------------


def test_the_record_is_there_before_the_weights(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solver = Solver(COARSE)
    solver.preprocessing = WANTED
    renamed: list[str] = []
    replace = os.replace

    def note(source: str | Path, target: str | Path) -> None:
        if Path(target).parent.name == "coarse":
            renamed.append(Path(target).name.removeprefix("train_iter_0."))
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    solver.snapshot()
    assert renamed == ["caffemodel.preprocessing.json", "caffemodel", "rngstate", "solverstate"]
