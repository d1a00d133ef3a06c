"""Training in 1, 2 and 4 processes: what they compute is what one computes."""

from __future__ import annotations

import numpy as np
import pytest
import rank_runs
import torch
from rank_runs import BATCH_NORM, DROPOUT, RATES, in_ranks, solver_of, train, train_alone

from fcn_caffe import RanksError
from fcn_caffe.host import ranks as host_ranks
from fcn_caffe.host.ranks import ALONE, joined_ranks
from fcn_caffe.training.solver import Solver


@pytest.fixture
def folder(tmp_path):
    rank_runs.write_rows(tmp_path)
    return tmp_path


def check_close(ours, theirs, start, within=1e-6, noise=0.0):
    """Every blob within a share of its largest change since the start, or within noise where nothing changes it."""
    for name, blobs in theirs.items():
        for our, their, first in zip(ours[name], blobs, start[name], strict=True):
            change = np.abs(their - first).max()
            assert np.abs(our - their).max() <= within * change + noise, name


def check_same(first, second):
    for name, blobs in first.items():
        for one, other in zip(blobs, second[name], strict=True):
            assert np.array_equal(one, other), name


@pytest.mark.parametrize(("rule", "count"), [*((rule, 2) for rule in RATES), ("SGD", 4), ("Adam", 4)])
def test_ranks_equal_one_process_of_larger_iter_size(folder, rule, count):
    """20 steps of every rule; clipped, decayed. iter_size 2 besides, with 4 ranks."""
    size = 2 if count == 4 else 1
    param = solver_of(folder, rule, more=f"clip_gradients: {0.5 * size} iter_size: {size}")
    alone = solver_of(folder, rule, more=f"clip_gradients: {0.5 * size * count} iter_size: {size * count}")
    start, _, _ = train_alone(param, 0)
    weights, losses, data = train_alone(alone, 20)
    every = in_ranks(count, train, param.SerializeToString(), 20)
    check_close(every[0][0], weights, start)
    np.testing.assert_allclose(every[0][1], losses, rtol=1e-5)
    for other in every:
        check_same(other[0], every[0][0])
        assert other[1] == every[0][1] and other[2] == data


def test_clipping_is_of_the_averaged_gradient(folder):
    loose, tight = (solver_of(folder, more=f"clip_gradients: {most}") for most in (1e6, 0.1))
    free = in_ranks(2, train, loose.SerializeToString(), 1)[0][0]
    clipped = in_ranks(2, train, tight.SerializeToString(), 1)[0][0]
    assert not np.array_equal(free["c1"][0], clipped["c1"][0])


def test_snapshot_of_four_goes_on_in_two_and_in_one(folder):
    """The images of every epoch are those of one process: shuffled by one seed, none twice."""
    four, two, one = (solver_of(folder, shuffle=True, more=f"iter_size: {size}") for size in (1, 2, 4))
    start, _, _ = train_alone(one, 0)
    weights, _, data = train_alone(one, 12)
    in_ranks(4, train, four.SerializeToString(), 4, snapshot=True)
    in_ranks(2, train, two.SerializeToString(), 4, str(folder / "run_iter_4.solverstate"), True)
    resumed, _, where = train_alone(one, 4, resume=str(folder / "run_iter_8.solverstate"))
    check_close(resumed, weights, start)
    assert where == data


def test_dropout_differs_by_rank_and_resumes_to_the_bit(folder):
    param = solver_of(folder, middle=DROPOUT).SerializeToString()
    whole = in_ranks(2, train, param, 6)
    in_ranks(2, train, param, 3, snapshot=True)
    resumed = in_ranks(2, train, param, 3, str(folder / "run_iter_3.solverstate"))
    check_same(resumed[0][0], whole[0][0])
    check_same(resumed[1][0], whole[0][0])
    in_ranks(4, train, param, 1, str(folder / "run_iter_3.solverstate"))  # ranks that the snapshot does not know


def test_batch_norm_of_all_ranks_is_that_of_one_batch(folder):
    """As Caffe does it each rank has its own statistics; a snapshot keeps rank 0's."""
    param = solver_of(folder, batch=2, middle=BATCH_NORM)
    whole = solver_of(folder, batch=4, middle=BATCH_NORM)
    start, _, _ = train_alone(param, 0)
    weights, _, _ = train_alone(whole, 10)
    every = in_ranks(2, train, param.SerializeToString(), 10, sync_bn=True, normalize_over_ranks=True)
    check_close(every[0][0], weights, start, within=1e-5, noise=1e-7)
    check_same(every[0][0], every[1][0])
    own = in_ranks(2, train, param.SerializeToString(), 10)
    assert not np.array_equal(own[0][0]["bn"][0], own[1][0]["bn"][0])
    assert np.array_equal(own[0][0]["c1"][0], own[1][0]["c1"][0])


def test_valid_pixels_of_all_ranks(folder):
    """Two batches of 1, divided by the pixels of both, are one batch of 2."""
    param, whole = solver_of(folder), solver_of(folder, batch=2)
    start, _, _ = train_alone(param, 0)
    weights, losses, _ = train_alone(whole, 10)
    over = in_ranks(2, train, param.SerializeToString(), 10, normalize_over_ranks=True)
    check_close(over[0][0], weights, start, within=1e-5)
    np.testing.assert_allclose(over[0][1], losses, rtol=1e-5)
    assert in_ranks(2, train, param.SerializeToString(), 1)[0][1] != losses[:1]


@pytest.mark.parametrize("count", [2, 4])
def test_tests_and_scores_are_those_of_one_process(folder, count):
    """Passes that the ranks do not divide; the statistics of batch norms are rank 0's."""
    more = "test_iter: 7 test_interval: 1000 test_initialization: false"
    param = solver_of(folder, more=more)
    alone = solver_of(folder, more=f"{more} iter_size: {count}")
    outputs, scores, _, data = rank_runs.test_and_score(ALONE, alone.SerializeToString(), 9)
    every = in_ranks(count, rank_runs.test_and_score, param.SerializeToString(), 9)
    for found in every:
        assert found[0] == pytest.approx(outputs, rel=1e-5) and found[3] == data
        assert np.array_equal(found[1]["confusion"], scores["confusion"])
        assert found[1]["loss"] == pytest.approx(scores["loss"], rel=1e-5)
        assert found[1]["intervals"] == scores["intervals"]
    normed = solver_of(folder, more=more, middle=BATCH_NORM).SerializeToString()
    first, second = in_ranks(2, rank_runs.test_and_score, normed, 3)
    assert first[0] == second[0] and first[2] == second[2] and first[2]


def test_fewer_passes_than_ranks(folder):
    more = "test_iter: 1 test_interval: 1000 test_initialization: false"
    every = in_ranks(2, rank_runs.test_and_score, solver_of(folder, more=more).SerializeToString(), 2)
    assert every[0][0] == every[1][0] and every[0][0]


# -- processes ---------------------------------------------------------------------------------------------------


def test_tensors_of_any_layout_are_averaged():
    """gloo takes a strided view's memory as if it were contiguous: the numbers between would change, too."""
    every = in_ranks(2, rank_runs.average)
    for view, other, between in every:
        assert np.array_equal(view, np.arange(12.0).reshape(4, 3) * 1.5)
        assert np.array_equal(other, np.arange(24.0).reshape(1, 2, 3, 4) + 0.5)
        assert np.array_equal(between, np.full((4, 3), -1.0))


def test_messages_are_json():
    for every, first, mean in in_ranks(2, rank_runs.messages):
        assert every == [{"rank": 0, "text": ""}, {"rank": 1, "text": "ü"}]
        assert first == [0] and mean == [1.5]


def test_each_error_is_told_once():
    assert in_ranks(2, rank_runs.fail_together, (1,), "no image") == ["exit 1", "DataError: no image"]
    assert in_ranks(2, rank_runs.fail_together, (0, 1), "no net") == ["DataError: no net", "exit 1"]
    assert in_ranks(2, rank_runs.fail_together, (), "") == ["through", "through"]


def test_a_rank_that_fails_ends_the_run_with_its_error(folder):
    first, second = in_ranks(2, rank_runs.die_in_step, solver_of(folder).SerializeToString(), 1, 5)
    assert second == "DataError: image 7 is not there."
    assert first.startswith("RanksError: another process of this run is gone") and "--resume" in first


def test_a_signal_to_one_rank_makes_one_snapshot_and_stops_all(folder):
    """It comes twice, from the terminal and from torchrun."""
    param = solver_of(folder).SerializeToString()
    assert in_ranks(2, rank_runs.interrupt, param, 1) == [(4, True, ["run_iter_4.solverstate"]), (4, True, [])]


def test_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with joined_ranks() as ranks:
        assert ranks is ALONE
    for rank, count, message in (("x", "2", "whole numbers"), ("2", "2", "RANK is 2 of WORLD_SIZE 2")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", count)
        monkeypatch.setenv("MASTER_ADDR", "localhost")
        with pytest.raises(RanksError, match=message), joined_ranks():
            pass
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined_ranks() as ranks:
        assert ranks is ALONE


def test_each_process_has_the_gpu_of_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    ranks = host_ranks.Ranks(3, 4, 1)
    assert ranks.device(torch.device("cuda", 0)) == torch.device("cuda", 1)
    assert ranks.device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(RanksError, match="--nproc-per-node 2"):
        host_ranks.Ranks(2, 4, 2).device(torch.device("cuda", 0))


def test_a_meeting_that_fails_is_said(tmp_path):
    with pytest.raises(RanksError, match="do not meet"), host_ranks.join_ranks(0, 1, f"nowhere://{tmp_path}"):
        pass


def test_outputs_of_several_shapes_have_no_mean(folder):
    from fcn_caffe.errors import SolverError
    from fcn_caffe.training.solver import together

    class Two(host_ranks.Ranks):
        def gather(self, value):
            return [value, {"score": [1, 2]}]

    net = Solver(solver_of(folder), device="cpu").net
    with pytest.raises(SolverError, match="output 'score'"):
        together.add_outputs(Two(0, 2), {"score": torch.zeros(1, 3)}, net)
