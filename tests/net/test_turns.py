"""Nets in several threads and processes."""

from __future__ import annotations

import copy
import itertools
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
import training_run
from helpers import input_layer, layer, make_net, randomise
from layer_cases import CASES, build

from fcn_caffe.errors import SolverError
from fcn_caffe.layers.convolution_ways import Remade
from fcn_caffe.net.turns import training_alone

pytestmark = pytest.mark.usefixtures("allow_python")
THREADS = 4


@pytest.fixture
def quick_switches():
    """Threads that Python switches between as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(call, arguments):
    """Call a function with each of the arguments, each in a thread of its own, at once."""
    ready = threading.Barrier(len(arguments))

    def run(argument):
        ready.wait()
        return call(argument)

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(run, arguments))


# The draws of Dropout and of stochastic pools come from one generator, in whatever order threads ask.
@pytest.mark.parametrize("type", sorted({*CASES} - {"Dropout", "Parameter"}))
def test_one_net_in_several_threads(type, quick_switches):
    for shapes, options in CASES[type]:
        if "STOCHASTIC" in options:
            continue
        net, bottoms = build(type, shapes, options)
        inputs = [
            {name: blob.flip(0) if turn % 2 else blob for name, blob in bottoms.items()} for turn in range(THREADS)
        ]
        if net.turn is not None:  # what it remembers is of the pass before: each starts anew
            inputs = [inputs[0]] * THREADS
            inputs[0]["x1"] = torch.zeros_like(inputs[0]["x1"])
        with torch.no_grad():
            alone = [net(one) for one in inputs]
        together = in_threads(partial(run_thrice, net), inputs)
        for wanted, runs in zip(alone, together, strict=True):
            for blobs in runs:
                assert all(torch.equal(blobs[name], blob) for name, blob in wanted.items())


def run_thrice(net, inputs):
    return [run_without_gradients(net, inputs) for _ in range(3)]


def run_without_gradients(net, inputs):
    with torch.no_grad():  # each thread's own
        return net(inputs)


def test_frozen_nets_in_several_threads(quick_switches):
    options = 'convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } }'
    net = make_net(input_layer("x", 1, 8, 9, 9), layer("conv", "Convolution", "x", "y", options))
    randomise(net)
    fast = net.frozen()
    sizes = [torch.rand(1, 8, size, size + 1) for size in (9, 12, 9, 15)]
    wanted = [run_without_gradients(fast, {"x": x})["y"] for x in sizes]
    for got in zip(
        *in_threads(lambda x: [run_without_gradients(fast, {"x": x})["y"] for _ in range(5)], sizes), strict=True
    ):
        assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))


def test_a_value_that_is_kept_is_the_asker_s():
    """Another thread may ask for another value between the check and the answer."""
    remade = Remade(lambda weight, size: asked(size))

    def asked(size):
        if size == 1:
            assert remade(weight, 2) == 2
        return size

    weight = torch.zeros(1)
    assert remade(weight, 1) == 1 and remade(weight, 2) == 2


def test_passes_of_layers_that_remember_take_turns(tmp_path):
    """A data layer of a thread's own would give each batch once; so does one that threads share."""
    net = training_run.solver(tmp_path).net
    alone = training_run.solver(tmp_path).net
    wanted = sorted(float(alone(keep=["data"])["data"].sum()) for _ in range(16))
    got = in_threads(lambda _: [float(net(keep=["data"])["data"].sum()) for _ in range(4)], range(THREADS))
    assert sorted(itertools.chain(*got)) == wanted
    assert copy.deepcopy(net).turn is not net.turn


def test_two_threads_train_two_nets(tmp_path):
    def train(name):
        (tmp_path / name).mkdir()
        solver = training_run.solver(tmp_path / name)
        solver.step(3)
        return solver.iter

    assert in_threads(train, ["a", "b"]) == [3, 3]


def test_two_threads_must_not_train_the_same_weights(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    first, second = (training_run.solver(tmp_path / name) for name in "ab")
    second.net.share_with(first.net)
    refusals = []

    def train(_):
        with pytest.raises(SolverError, match="shares weights with net 'tiny', which another thread trains now"):
            second.step(1)
        refusals.append(second.iter)

    first.on_step.append(lambda solver: in_threads(train, [0]))
    first.step(2)
    assert refusals == [0, 0] and first.iter == 2
    second.step(1)
    assert second.iter == 1


def test_a_block_in_a_block():
    weight = torch.zeros(3)
    with training_alone([weight], "a"):
        with training_alone([weight[1:]], "b"):
            pass
        with pytest.raises(SolverError, match="'c' shares weights with net 'a'"):
            in_threads(lambda _: training_alone([weight], "c").__enter__(), [0])
    in_threads(lambda _: training_alone([weight], "c").__enter__(), [0])


@pytest.mark.needs_linux
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_net_goes_on_in_a_forked_process():
    """OpenMP's threads are not in the child, which would wait for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        options = 'convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } }'
        net = make_net(input_layer("x", 1, 8, 96, 96), layer("conv", "Convolution", "x", "y", options))
        x = torch.rand(1, 8, 96, 96)
        wanted = run_without_gradients(net, {"x": x})["y"]
        child = os.fork()
        if child == 0:
            import signal

            signal.alarm(60)
            near = torch.allclose(run_without_gradients(net, {"x": x})["y"], wanted, atol=1e-5)
            os._exit(0 if near and torch.get_num_threads() == 1 else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(before)
