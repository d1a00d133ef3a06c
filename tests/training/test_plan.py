"""Which stages run, from what, and what is said when they cannot."""

from __future__ import annotations

import numpy as np
import pytest
from small_stages import write_stages

from fcn_caffe.doctor.stages import check
from fcn_caffe.errors import FcnCaffeError, SolverError
from fcn_caffe.training.plan import make_plan, read_stage
from fcn_caffe.weights.transfer import save_weights

FINE = "solvers/fine.prototxt"


@pytest.fixture(autouse=True)
def task(tmp_path, monkeypatch):
    monkeypatch.chdir(write_stages(tmp_path))
    return tmp_path


def actions(plan):
    return {planned.stage.name: planned.action for planned in plan.stages}


def finish(name, task):
    (task / "weights").mkdir(exist_ok=True)
    (task / "weights" / f"{name}.caffemodel").touch()


def snapshot(name, iteration, task):
    (task / "snapshot" / name).mkdir(parents=True, exist_ok=True)
    (task / "snapshot" / name / f"train_iter_{iteration}.solverstate").touch()


def test_stages_are_checked_as_nets_of_their_fork(task):
    net = task / "nets/fine.prototxt"
    bn = 'layer { name: "bn" type: "BN" bottom: "conv" top: "bn" }\n'
    text = net.read_text().replace(
        'name: "score" type: "Convolution" bottom: "conv"', 'name: "score" type: "Convolution" bottom: "bn"'
    )
    net.write_text(text.replace('layer {\n  name: "score"', bn + 'layer {\n  name: "score"'))
    stage = read_stage(FINE)
    with pytest.raises(FcnCaffeError, match="Say it: --fork segnet"):
        check([stage])
    (task / "weights").mkdir()
    numbers = np.ones((1, 4, 1, 1), np.float32)
    save_weights(task / "weights/coarse.caffemodel", {"bn": [numbers, numbers]})
    check([stage])
    (task / "weights/coarse.caffemodel").unlink()
    solver = task / FINE
    solver.write_text(solver.read_text() + 'fork: "pspnet"')
    check([read_stage(FINE)])


def test_the_stages_below_come_first():
    plan = make_plan(FINE)
    assert [planned.stage.name for planned in plan.stages] == ["coarse", "fine"]
    assert actions(plan) == {"coarse": "train", "fine": "train"} and not plan.missing


def test_a_stage_whose_result_is_there_is_kept(task):
    finish("coarse", task)
    assert actions(make_plan(FINE)) == {"coarse": "keep", "fine": "train"}
    finish("fine", task)
    assert not make_plan(FINE).to_run


def test_a_coarser_stage_is_not_needed_once_the_finer_is_there(task):
    finish("fine", task)
    plan = make_plan(FINE)
    assert not plan.to_run and "not needed" in str(plan.stages[0])


def test_a_missing_file_that_no_solver_makes_is_named(task):
    (task / "solvers/coarse.prototxt").unlink()
    plan = make_plan(FINE)
    assert len(plan.missing) == 1 and plan.missing[0].startswith("weights/coarse.caffemodel is not there")


def test_from_a_stage_trains_it_and_all_after_it_again(task):
    finish("coarse", task)
    finish("fine", task)
    assert actions(make_plan(FINE, from_stage="fine")) == {"coarse": "keep", "fine": "train"}
    assert actions(make_plan(FINE, from_stage="coarse")) == {"coarse": "train", "fine": "train"}


def test_from_a_file_starts_the_stage_there(task):
    (task / "other.caffemodel").touch()
    plan = make_plan(FINE, from_weights="other.caffemodel")
    assert actions(plan) == {"fine": "train"} and plan.stages[0].stage.starts[0].weights == "other.caffemodel"


@pytest.mark.parametrize(
    ("begin", "message"),
    [
        ({"from_stage": "fines"}, "--from fines: not a stage of solvers/fine.prototxt: coarse, fine."),
        ({"from_weights": "no.caffemodel"}, "--from no.caffemodel: no such weight file."),
        (
            {"from_stage": "coarse", "from_weights": "no.caffemodel"},
            "a plan begins at a stage or from a weight file: give one of them, not both.",
        ),
    ],
)
def test_from_what_is_not_there(begin, message):
    with pytest.raises(SolverError) as error:
        make_plan(FINE, **begin)
    assert str(error.value) == message


def test_an_unfinished_run_is_not_begun_anew_unasked(task):
    finish("coarse", task)
    snapshot("fine", 2, task)
    snapshot("fine", 4, task)
    with pytest.raises(SolverError, match="unfinished run of fine, at iteration 4 of 6"):
        make_plan(FINE)
    assert actions(make_plan(FINE, resume=True)) == {"coarse": "keep", "fine": "resume"}
    assert actions(make_plan(FINE, from_stage="fine")) == {"coarse": "keep", "fine": "train"}


def test_resume_takes_the_stage_that_was_interrupted_and_trains_the_rest(task):
    snapshot("coarse", 2, task)
    assert actions(make_plan(FINE, resume=True)) == {"coarse": "resume", "fine": "train"}


def test_training_again_that_was_interrupted_is_resumed_though_old_results_are_there(task):
    for name in ("coarse", "fine"):
        finish(name, task)
        snapshot(name, 6, task)
    for planned in make_plan(FINE, from_stage="coarse").to_run:
        planned.stage.forget_snapshots()
    snapshot("coarse", 2, task)  # where Ctrl-C came
    assert actions(make_plan(FINE, from_stage="coarse", resume=True)) == {"coarse": "resume", "fine": "train"}


def test_a_ring_of_stages(task):
    with open(task / "solvers/coarse.prototxt", "a") as file:
        file.write('weights: "weights/fine.caffemodel"\n')
    with pytest.raises(SolverError, match="starts from itself, through fine <- coarse <- fine"):
        make_plan(FINE)


def test_steps_of_a_solver_of_ones_own():
    stage = read_stage(FINE)
    assert (stage.step, stage.last) == (2, 6)
    assert read_stage(FINE, steps=2).last == 4
    longer = read_stage(FINE, max_iter=50)
    assert (longer.last, longer.param.max_iter) == (50, 50)
    short = read_stage(FINE, max_iter=1)
    assert (short.step, short.last) == (1, 1)


def test_a_missing_solver_lists_those_there_are():
    with pytest.raises(SolverError) as error:
        read_stage("solvers/finer.prototxt")
    assert str(error.value) == "solvers/finer.prototxt: no such solver file. solvers/ has: coarse, fine."


def test_the_reference_steps(task):
    # 50 steps of 2000, though max_iter is 300000 and there is no snapshot: what the released solve.py does.
    (task / "solvers/siftflow-fcn32s.prototxt").write_text('net: "x" max_iter: 300000 base_lr: 1e-10')
    stage = read_stage("solvers/siftflow-fcn32s.prototxt")
    assert (stage.step, stage.last) == (2000, 100000)


@pytest.mark.parametrize("name", ["vgg16fc", "VGG_ILSVRC_16_layers"])
def test_a_classifier_by_either_name(task, name):
    (task / "solvers/voc-fcn32s.prototxt").write_text('net: "x" weights: "weights/vgg16fc.caffemodel" max_iter: 100')
    missing = make_plan("solvers/voc-fcn32s.prototxt").missing
    assert len(missing) == 1 and "VGG_ILSVRC_16_layers.caffemodel" in missing[0]
    finish(name, task)
    assert not make_plan("solvers/voc-fcn32s.prototxt").missing


def test_two_stages_that_miss_the_same_file_say_so_once(task):
    for name, weights in (("a", ["c"]), ("b", ["c"]), ("top", ["a", "b"])):
        lines = "".join(f'weights: "weights/{file}.caffemodel" ' for file in weights)
        (task / f"solvers/{name}.prototxt").write_text(f'net: "x" max_iter: 5 {lines}')
    plan = make_plan("solvers/top.prototxt")
    assert list(actions(plan)) == ["a", "b", "top"] and len(plan.missing) == 1


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("solvers/fine.prototxt", "test_iter: 2", "test_iter: 3", "test_iter is 3, the split it scores has 2 images"),
        ("solvers/fine.prototxt", "test_iter: 2", "", "gives test_iter 0 times, wanted once"),
        ("nets/fine.prototxt", "'labels': 'labels'", "'labels': 'label'", "label: no such folder of labels"),
        ("nets/fine.prototxt", '"SoftmaxWithLoss"', '"EuclideanLoss"', "EuclideanLoss"),
        ("nets/fine.prototxt", "kernel_size: 3 pad: 1", "kernel_size: 1", "will have layer 'conv' blob 0 as"),
        ("solvers/fine.prototxt", '"poly"', '"cosine"', "lr_policy 'cosine' is unknown"),
    ],
)
def test_what_would_stop_the_second_stage_is_found_before_the_first(task, file, old, new, message):
    check([planned.stage for planned in make_plan(FINE).to_run])
    edit(task / file, old, new)
    with pytest.raises(FcnCaffeError) as error:
        check([planned.stage for planned in make_plan(FINE).to_run])
    assert message in str(error.value)
