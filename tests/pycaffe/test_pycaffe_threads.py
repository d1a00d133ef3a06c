"""The `caffe` face in several threads: its nets are right side by side, and one net has one thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import input_layer, layer

import fcn_caffe.pycaffe as caffe
from fcn_caffe import GraphError, SolverError

GAUSS = 'num_output: 4 kernel_size: 3 weight_filler { type: "gaussian" std: 0.1 }'
NET = "\n".join(
    [
        'name: "small" force_backward: true',
        input_layer("x", 2, 3, 8, 8),
        layer("conv", "Convolution", "x", "conv", f"convolution_param {{ {GAUSS} }}"),
        layer("relu", "ReLU", "conv", "conv"),
        layer("loss", "Reduction", "conv", "loss", "loss_weight: 1"),
    ]
)


@pytest.fixture
def net(tmp_path: Path) -> caffe.Net:
    (tmp_path / "net.prototxt").write_text(NET)
    return caffe.Net(str(tmp_path / "net.prototxt"), caffe.TRAIN)


def twin_of(net: caffe.Net, tmp_path: Path) -> caffe.Net:
    """Return another net with the same weights in the same memory."""
    other = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TRAIN)
    other.share_with(net)
    return other


@pytest.fixture
def held() -> Iterator[Callable[[Callable[[Any], Any], Callable[[], Any]], None]]:
    """A call that holds another thread within a pass: given what adds a callback to the pass, and the pass."""
    inside, done = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:

        def hold(add: Callable[[Any], Any], run: Callable[[], Any]) -> None:
            def stay(index: int) -> None:
                inside.set()
                assert done.wait(60)

            add(stay)
            futures.append(pool.submit(run))
            assert inside.wait(60)

        futures: list[Any] = []
        yield hold
        done.set()
        for future in futures:
            future.result()


def test_a_second_thread_is_refused_while_one_runs_the_net(net: caffe.Net, held: Any) -> None:
    net.forward()
    held(net.before_forward, net.forward)
    array = np.zeros((2, 3, 8, 8), np.float32)
    for call in (
        net.forward,
        net.backward,
        lambda: net.forward_all(x=array),
        lambda: net.forward_backward_all(x=array, loss=np.ones(2, np.float32)),
        lambda: net.run_forward(0, 1),
        lambda: net.run_backward(1, 0),
    ):
        with pytest.raises(GraphError, match=r"net 'small' is run by another thread now.*Net of its own"):
            call()


def test_one_after_the_other_is_right_in_any_thread(net: caffe.Net) -> None:
    net.blobs["x"].data[...] = 1
    wanted = net.forward()["loss"].copy()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: net.forward()["loss"].copy()).result() == wanted
    assert net.forward()["loss"] == wanted


def test_a_pass_within_a_pass_of_the_same_thread(net: caffe.Net, tmp_path: Path) -> None:
    """As of a Python layer, or a callback, that runs layers."""
    sizes = []
    net.after_forward(lambda index: index == 1 and sizes.append(net.run_forward(2, 2)))
    net.forward()
    assert len(sizes) == 1


def test_nets_of_the_same_weights_run_forward_in_several_threads(net: caffe.Net, tmp_path: Path) -> None:
    nets = [net, *(twin_of(net, tmp_path) for _ in range(3))]
    arrays = [np.full((2, 3, 8, 8), index, np.float32) for index in range(4)]
    alone = [net.forward(x=array)["loss"].copy() for array in arrays]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = list(pool.map(lambda one, array: one.forward(x=array)["loss"].copy(), nets, arrays))
            assert np.array_equal(found, alone)


def test_two_threads_do_not_add_to_the_same_gradients(net: caffe.Net, held: Any, tmp_path: Path) -> None:
    other = twin_of(net, tmp_path)
    net.forward()
    other.forward()
    held(net.before_backward, net.backward)
    with pytest.raises(SolverError, match="shares weights with net 'small', which another thread trains now"):
        other.backward()
