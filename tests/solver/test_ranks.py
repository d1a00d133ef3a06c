"""Training in 1, 2 and 4 processes: what they compute is what one computes."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest
import rank_runs
import torch
from helpers import input_layer, layer, make_net
from rank_runs import BATCH_NORM, DROPOUT, RATES, in_ranks, solver_of, train, train_alone

from fcn_caffe import RanksError
from fcn_caffe.errors import SolverError
from fcn_caffe.host import ranks as host_ranks
from fcn_caffe.host.ranks import ALONE, joined_ranks
from fcn_caffe.training.solver import SGD, Solver
from fcn_caffe.training.solver.shared_history import SharedHistory


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


@pytest.mark.parametrize(("count", "rules"), [(2, tuple(RATES)), (4, ("SGD", "Adam"))])
def test_ranks_equal_one_process_of_larger_iter_size(folder, count, rules):
    """20 steps of every rule; clipped, decayed. iter_size 2 besides, with 4 ranks."""
    size = 2 if count == 4 else 1
    params = [solver_of(folder, rule, more=f"clip_gradients: {0.5 * size} iter_size: {size}") for rule in rules]
    runs = in_ranks(count, rank_runs.train_all, [param.SerializeToString() for param in params], 20)
    for index, rule in enumerate(rules):
        alone = solver_of(folder, rule, more=f"clip_gradients: {0.5 * size * count} iter_size: {size * count}")
        start, _, _ = train_alone(params[index], 0)
        weights, losses, data = train_alone(alone, 20)
        first, *others = (run[index] for run in runs)
        check_close(first[0], weights, start)
        np.testing.assert_allclose(first[1], losses, rtol=1e-5)
        assert first[2] == data
        for other in others:
            check_same(other[0], first[0])
            assert other[1:] == first[1:]


# -- the history shared out --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "rules", "shares"), [(2, tuple(RATES), [108, 27]), (4, ("SGD", "Adam"), [108, 18, 3, 6])]
)
def test_a_shared_history_gives_the_same_bits_and_less_to_keep(folder, count, rules, shares):
    """Rates by blob, clipped, of two passes; the snapshot has all of the history. Shares are of numbers."""
    texts = [solver_of(folder, rule, more="clip_gradients: 0.5 iter_size: 2").SerializeToString() for rule in rules]
    runs = in_ranks(count, rank_runs.share_history, texts, 6)
    for rank, run in enumerate(runs):
        for rule, (weights, plain, state, plain_state, mine, said, is_seen) in zip(rules, run, strict=True):
            check_same(weights, plain)
            assert state == plain_state
            assert said == [4 * share * (2 if rule in ("Adam", "AdaDelta") else 1) for share in shares]
            assert mine == said[rank] and is_seen
    assert all(len(found[2]) > 4 * sum(shares) for found in runs[0])


def test_a_shared_history_goes_on_in_any_number_of_processes(folder):
    four, two, one = (solver_of(folder, "Adam", shuffle=True, more=f"iter_size: {size}") for size in (1, 2, 4))
    start, _, _ = train_alone(one, 0)
    weights, _, _ = train_alone(one, 12)
    in_ranks(4, train, four.SerializeToString(), 4, snapshot=True, shard_history=True)
    state = str(folder / "run_iter_4.solverstate")
    plain = in_ranks(2, train, two.SerializeToString(), 4, state)[0][0]
    for weights_of_rank, _, _ in in_ranks(2, train, two.SerializeToString(), 4, state, True, shard_history=True):
        check_same(weights_of_rank, plain)
    resumed, _, _ = train_alone(one, 4, resume=str(folder / "run_iter_8.solverstate"))
    check_close(resumed, weights, start)


def test_histories_that_cannot_be_shared(folder):
    two = host_ranks.Ranks(0, 2)
    for ranks, more, message in (
        (ALONE, "", "this run is one. Start it with torchrun"),
        (two, "snapshot_diff: true", "snapshot_diff writes"),
    ):
        with pytest.raises(SolverError, match=message):
            Solver(solver_of(folder, more=more), device="cpu", ranks=ranks, shard_history=True)
    for blobs, message in (([], "nothing to share"), ([torch.zeros(4, 4).T[1:]], "contiguous")):
        with pytest.raises(SolverError, match=message):
            SharedHistory(SGD([{"params": blobs}], 0.1), two)


def test_clipping_is_of_the_averaged_gradient(folder):
    texts = [solver_of(folder, more=f"clip_gradients: {most}").SerializeToString() for most in (1e6, 0.1)]
    free, clipped = in_ranks(2, rank_runs.train_all, texts, 1)[0]
    assert not np.array_equal(free[0]["c1"][0], clipped[0]["c1"][0])


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


def test_batch_norm_asks_the_others_once_a_pass():
    asked = []

    class Two(host_ranks.Ranks):  # of which both have this batch
        def gather_numbers(self, numbers):
            asked.append(numbers)
            return [numbers, numbers]

        def add(self, tensor):
            return tensor * 2

    alone, shared = (make_net(input_layer("x", 4, 3, 5, 6), layer("bn", "BatchNorm", "x")).train() for _ in range(2))
    shared.layer("bn").ranks = Two(0, 2)
    x = torch.rand(4, 3, 5, 6)
    torch.testing.assert_close(shared(x)["bn"], alone(x)["bn"])
    torch.testing.assert_close(shared.layer("bn").mean, alone.layer("bn").mean)
    assert asked == [[120.0]]  # values of a channel


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
    """Passes that the ranks do not divide."""
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


def test_fewer_passes_than_ranks(folder):
    """The statistics of batch norms are rank 0's."""
    more = "test_iter: 1 test_interval: 1000 test_initialization: false"
    param = solver_of(folder, more=more, middle=BATCH_NORM)
    first, second = in_ranks(2, rank_runs.test_and_score, param.SerializeToString(), 2)
    assert first[0] == second[0] and first[0] and first[2] == second[2] and first[2]


# -- processes ---------------------------------------------------------------------------------------------------


def test_tensors_of_any_layout_are_averaged():
    """gloo takes a strided view's memory as if it were contiguous: the numbers between would change, too."""
    every = in_ranks(2, rank_runs.average)
    for view, other, between in every:
        assert np.array_equal(view, np.arange(12.0).reshape(4, 3) * 1.5)
        assert np.array_equal(other, np.arange(24.0).reshape(1, 2, 3, 4) + 0.5)
        assert np.array_equal(between, np.full((4, 3), -1.0))


def test_a_full_memory_is_no_lost_process():
    for error, raised in ((torch.OutOfMemoryError("full"), torch.OutOfMemoryError), (RuntimeError("x"), RanksError)):
        with pytest.raises(raised), host_ranks.explain_lost_ranks():
            raise error


def test_messages_are_json():
    for every, first, mean in in_ranks(2, rank_runs.messages):
        assert every == [{"rank": 0, "text": ""}, {"rank": 1, "text": "ü"}]
        assert first == [0] and mean == [1.5]


def test_each_error_is_told_once():
    first, second = in_ranks(2, rank_runs.fail_together, [((1,), "no image"), ((0, 1), "no net"), ((), "")])
    assert first == ["SystemExit: 1", "DataError: no net", "through"]
    assert second == ["DataError: no image", "SystemExit: 1", "through"]


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


def test_a_failed_process_waits_for_no_nccl(tmp_path, monkeypatch):
    """It does not ask NCCL to end in order, and is killed where it does not end at exit."""
    registered, groups = [], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(host_ranks.dist, "is_nccl_available", lambda: True)
    monkeypatch.setattr(host_ranks.dist, "init_process_group", lambda backend, **options: groups.append(backend))
    monkeypatch.setattr(host_ranks.dist, "destroy_process_group", lambda: groups.append("destroyed"))
    monkeypatch.setattr(host_ranks.atexit, "register", lambda *words: registered.append(words))
    with pytest.raises(SolverError), host_ranks.join_ranks(0, 1, f"file://{tmp_path}/meeting"):
        raise SolverError("no net")
    assert groups == ["cpu:gloo,cuda:nccl"] and registered == [(signal.alarm, 60)]
    with host_ranks.join_ranks(0, 1, f"file://{tmp_path}/other"):
        pass
    assert groups[1:] == ["cpu:gloo,cuda:nccl", "destroyed"] and len(registered) == 1


def test_outputs_of_several_shapes_have_no_mean(folder):
    from fcn_caffe.training.solver import together

    class Two(host_ranks.Ranks):
        def gather(self, value):
            return [value, {"score": [1, 2]}]

    net = Solver(solver_of(folder), device="cpu").net
    with pytest.raises(SolverError, match="output 'score'"):
        together.add_outputs(Two(0, 2), {"score": torch.zeros(1, 3)}, net)


def test_nothing_holds_the_group_past_its_end(tmp_path):
    """PyTorch's optimizers import what would: its threads then ran on while Python ended, which may abort."""
    program = (
        "from fcn_caffe.host.ranks import join_ranks\n"
        f"with join_ranks(0, 1, 'file://{tmp_path}/meeting'):\n"
        "    import torch.distributed.nn.functional as functional\n"
        "    print(functional.all_reduce.__defaults__[-1], functional.group.WORLD is not None)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout == "None True\n", done.stderr
