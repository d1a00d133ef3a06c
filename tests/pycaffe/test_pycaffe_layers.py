"""Python layers under pycaffe: what they are given, in place, gradients, own blobs, lookup, errors; modes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import input_layer, layer

import fcn_caffe.pycaffe as caffe
from fcn_caffe import LayerError
from fcn_caffe.pycaffe import modes

MODULE = '''
import caffe
import numpy as np


class EuclideanLossLayer(caffe.Layer):
    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise Exception("Need two inputs to compute distance.")

    def reshape(self, bottom, top):
        if bottom[0].count != bottom[1].count:
            raise Exception("Inputs must have the same dimension.")
        self.diff = np.zeros_like(bottom[0].data, dtype=np.float32)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.diff[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.diff**2) / bottom[0].num / 2.

    def backward(self, top, propagate_down, bottom):
        self.asked = list(propagate_down)
        for i in range(2):
            if not propagate_down[i]:
                continue
            sign = 1 if i == 0 else -1
            bottom[i].diff[...] = top[0].diff[0] * sign * self.diff / bottom[i].num


class InPlace(caffe.Layer):
    """Multiplies by param_str where it is."""
    def setup(self, bottom, top):
        self.factor = float(self.param_str)
        self.same = [bottom[0] is top[0]]
    def reshape(self, bottom, top):
        pass
    def forward(self, bottom, top):
        self.same.append(bottom[0] is top[0])
        bottom[0].data[...] *= self.factor
    def backward(self, top, propagate_down, bottom):
        self.same.append(bottom[0] is top[0])
        top[0].diff[...] *= self.factor


class Gain(caffe.Layer):
    """y = w x with a learned w, diffs added up."""
    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[...] = 3
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top):
        top[0].data[...] = self.blobs[0].data[0] * bottom[0].data
    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += np.sum(top[0].diff * bottom[0].data)
        if propagate_down[0]:
            bottom[0].diff[...] = self.blobs[0].data[0] * top[0].diff


class Phase(caffe.Layer):
    def setup(self, bottom, top): self.seen = [self.phase]
    def reshape(self, bottom, top): top[0].reshape()
    def forward(self, bottom, top): top[0].data[...] = self.phase


class Counts(caffe.Layer):
    """A data layer whose batches grow."""
    def setup(self, bottom, top): self.calls = 0
    def reshape(self, bottom, top): top[0].reshape(1, self.calls + 1)
    def forward(self, bottom, top):
        self.calls += 1
        top[0].data[...] = self.calls
    def backward(self, top, propagate_down, bottom): pass


class Breaks(Gain):
    def forward(self, bottom, top):
        if self.param_str == "exit": raise SystemExit(3)
        raise eval(self.param_str)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pycaffe_layers")
    (path / "beside_net.py").write_text(MODULE)
    return path


def python(name: str, cls: str, bottom: str = "", top: str | None = None, param: str = "", more: str = "") -> str:
    options = f"python_param {{ module: 'beside_net' layer: '{cls}' param_str: '{param}' }} {more}"
    return layer(name, "Python", bottom, top, options)


def make(folder: Path, *text: str, phase: int = caffe.TRAIN) -> caffe.Net:
    path = folder / "net.prototxt"
    path.write_text("\n".join(text))
    return caffe.Net(str(path), phase)


X, Y = input_layer("x", 2, 3), input_layer("y", 2, 3)


def test_a_loss_gives_gradients_where_they_are_asked_for(folder: Path) -> None:
    text = [X, Y, layer("ip", "InnerProduct", "x", more="inner_product_param { num_output: 3 }")]
    net = make(folder, *text, python("loss", "EuclideanLossLayer", "ip y", more="loss_weight: 2"))
    net.blobs["y"].data[...] = [[1, 2, 3], [4, 5, 6]]
    net.forward()
    assert net.blobs["loss"].data.tolist() == [91 / 4]
    net.backward()
    np.testing.assert_allclose(net.blobs["ip"].diff, -net.blobs["y"].data)
    assert not net.blobs["y"].diff.any() and net.layer_dict["loss"].asked == [True, False]
    assert net.params["ip"][1].diff.tolist() == [-5, -7, -9]


def test_a_layer_of_a_net_is_the_users_own_object(folder: Path) -> None:
    net = make(folder, X, python("gain", "Gain", "x"))
    user = net.layers[1]
    assert type(user).__name__ == "Gain" and user.type == "Python" and isinstance(user, caffe.Layer)
    assert user.blobs[0] is net.params["gain"][0] and user.phase == caffe.TRAIN
    assert net.layers[0].type == "Input"


def test_in_place_top_and_bottom_are_one_blob(folder: Path) -> None:
    text = ["force_backward: true", X, layer("a", "Power", "x", more="power_param { scale: 2 }")]
    text += [python("twice", "InPlace", "a", "a", "4"), layer("b", "Power", "a", more="power_param { scale: 10 }")]
    net = make(folder, *text)
    net.blobs["x"].data[...] = 1
    assert (net.forward(blobs=["a"])["a"] == 8).all() and (net.blobs["b"].data == 80).all()
    net.blobs["b"].diff[...] = 1
    net.backward()
    assert (net.blobs["x"].diff == 80).all() and (net.blobs["a"].diff == 40).all()
    assert net.layer_dict["twice"].same == [True] * 3
    core = net.core(x=torch.ones(2, 3), keep=["a"])  # the core's own way to run it is the same
    assert (core["a"] == 8).all() and net.layer_dict["twice"].same == [True] * 4
    core["b"].sum().backward()
    assert (net.forward()["b"] == 80).all()


def test_a_layer_that_learns_trains(folder: Path) -> None:
    text = "\n".join([X, Y, python("gain", "Gain", "x"), layer("loss", "EuclideanLoss", "gain y")])
    (folder / "learns.prototxt").write_text(text)
    options = "base_lr: 0.1 lr_policy: 'fixed' momentum: 0.5 iter_size: 2 snapshot_after_train: false max_iter: 99"
    (folder / "solver.prototxt").write_text(f'net: "{folder}/learns.prototxt" {options}')
    solver = caffe.SGDSolver(str(folder / "solver.prototxt"))
    solver.net.blobs["x"].data[...] = 1
    solver.net.blobs["y"].data[...] = 5
    blob = solver.net.params["gain"][0]
    kept = blob.data
    solver.step(1)
    # The gradient of each pass is sum (w x - y) x / 2 = -6; their mean by the rate moves the weight.
    np.testing.assert_allclose(kept, [3.6], rtol=1e-6)
    np.testing.assert_allclose(blob.diff, [-0.6], rtol=1e-6)
    solver.step(40)
    assert kept[0] == pytest.approx(5, abs=1e-3) and kept[0] == solver.net.layers[2].blobs[0].data[0]


def test_blobs_made_in_setup_are_the_modules_parameters(folder: Path, tmp_path: Path) -> None:
    net = make(folder, X, python("gain", "Gain", "x"))
    assert net.params["gain"][0].data.tolist() == [3] and net.core.params["gain"][0].item() == 3
    net.params["gain"][0].data[...] = 7
    net.blobs["x"].data[...] = 1
    assert (net.forward()["gain"] == 7).all()
    net.save(str(tmp_path / "w.caffemodel"))
    other = make(folder, X, python("gain", "Gain", "x"))
    other.copy_from(str(tmp_path / "w.caffemodel"))
    assert other.params["gain"][0].data.tolist() == [7]


def test_the_phase_is_known_in_setup(folder: Path) -> None:
    for phase in (caffe.TRAIN, caffe.TEST):
        net = make(folder, python("p", "Phase"), phase=phase)
        assert net.layers[0].seen == [phase] and float(net.forward()["p"]) == phase


def test_data_layers_give_sizes_of_their_own(folder: Path) -> None:
    net = make(folder, python("d", "Counts"), layer("twice", "Power", "d", more="power_param { scale: 2 }"))
    assert net.blobs["twice"].shape == (1, 1)
    assert [net.forward()["twice"].tolist() for _ in range(3)] == [[[2]], [[4, 4]], [[6, 6, 6]]]
    net.reshape()
    assert net.blobs["twice"].shape == (1, 4)


@pytest.mark.parametrize("kind", [KeyError, ValueError, ZeroDivisionError, Exception, OSError])
def test_what_a_layer_raises_is_raised_with_the_layers_name(folder: Path, kind: type[Exception]) -> None:
    net = make(folder, X, python("breaks", "Breaks", "x", param=f'{kind.__name__}("gone")'))
    with pytest.raises(kind, match=r"layer 'breaks' \(Python\).*Breaks.forward raised .*gone") as caught:
        net.forward()
    assert isinstance(caught.value, LayerError) and caught.value.layer == "breaks"
    assert type(caught.value.__cause__) is kind


def test_what_setup_raises_names_the_layer(folder: Path) -> None:
    with pytest.raises(Exception, match=r"layer 'loss' \(Python\).*Need two inputs"):
        make(folder, X, python("loss", "EuclideanLossLayer", "x"))
    with pytest.raises(SystemExit):
        make(folder, X, python("leave", "Breaks", "x", param="exit")).forward()
    with pytest.raises(LayerError, match="no_such_module"):
        make(folder, X, python("l", "Gain", "x").replace("beside_net", "no_such_module"))


def test_a_module_is_looked_for_beside_the_net_then_on_the_path_then_among_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("path", "net"):
        (tmp_path / place).mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    text = "import caffe\nclass Where(caffe.Layer):\n  def setup(self, b, t): pass\n"
    text += "  def reshape(self, b, t): t[0].reshape(1)\n  def forward(self, b, t): t[0].data[...] = {}\n"
    wanted = layer("w", "Python", more="python_param { module: 'where_layers' layer: 'Where' }")
    monkeypatch.delitem(sys.modules, "where_layers", raising=False)
    (tmp_path / "path" / "where_layers.py").write_text(text.format(2))
    assert make(tmp_path / "net", wanted).forward()["w"][0] == 2
    (tmp_path / "net" / "where_layers.py").write_text(text.format(1))
    assert make(tmp_path / "net", wanted).forward()["w"][0] == 1
    monkeypatch.delitem(sys.modules, "where_layers", raising=False)
    ours = layer("w", "Python", more="python_param { module: 'shapes_layers' layer: 'Nothing' }")
    with pytest.raises(LayerError, match="module 'shapes_layers' has no layer class 'Nothing'"):
        make(tmp_path, ours)


# -- modes --------------------------------------------------------------------------------------------------------


@pytest.mark.needs_cuda(False)
def test_the_gpu_mode_without_cuda_says_so_once_and_runs(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modes._State, "noticed", False)
    caffe.set_device(0)
    caffe.set_mode_gpu()
    caffe.set_mode_gpu()
    assert capsys.readouterr().err.count("running on the CPU") == 1
    assert make(folder, X).forward()["x"].shape == (2, 3)
    caffe.set_mode_cpu()
    with pytest.raises(Exception, match="there is no such device"):
        caffe.set_device(-1)


@pytest.mark.needs_cuda
def test_the_same_script_runs_on_a_gpu(folder: Path) -> None:
    conv = "convolution_param { num_output: 2 kernel_size: 2 weight_filler { type: 'xavier' } }"
    text = ["force_backward: true", input_layer("x", 1, 2, 4, 4), layer("conv", "Convolution", "x", more=conv)]
    text += [
        layer("relu", "ReLU", "conv", "conv"),
        python("gain", "Gain", "conv"),
        python("twice", "InPlace", "gain", "gain", "2"),
    ]
    found = []
    for start, set_mode in ((0, caffe.set_mode_cpu), (0, caffe.set_mode_gpu), (1, caffe.set_mode_gpu)):
        caffe.set_mode_cpu()
        torch.manual_seed(0)
        if not start:
            set_mode()
        net = make(folder, *text)
        set_mode()
        held = net.blobs["x"].data
        weights = np.random.default_rng(0)
        for blobs in net.params.values():
            for blob in blobs:
                blob.data[...] = weights.normal(size=tuple(blob.shape))
        for scale in (1, -2):
            held[...] = scale * np.arange(32).reshape(1, 2, 4, 4)
            net.forward()
            net.blobs["gain"].diff[...] = 1
            net.backward()
        arrays = [blob.data.copy() for blob in net.blobs.values()] + [blob.diff.copy() for blob in net.blobs.values()]
        found.append(arrays + [blob.diff.copy() for blobs in net.params.values() for blob in blobs])
        caffe.set_mode_cpu()
        found.append([*[array.copy() for array in found[-1][:-3]], *found[-1][-3:]])
        net.forward()
    for other in found[1:]:
        for expected, array in zip(found[0], other, strict=True):
            np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-4)


def test_small_switches() -> None:
    assert caffe.has_nccl() is True and caffe.__version__.startswith("1.0") and (caffe.TRAIN, caffe.TEST) == (0, 1)
    assert caffe.NCCL.new_uid() != caffe.NCCL.new_uid()
    caffe.set_solver_count(2)
    caffe.set_solver_rank(1)
    caffe.set_multiprocess(True)
    assert (caffe.solver_count(), caffe.solver_rank()) == (2, 1)
    caffe.set_solver_count(1)
    caffe.set_solver_rank(0)
    caffe.set_multiprocess(False)
    types = caffe.layer_type_list()
    assert {"Convolution", "Python", "Split", "SoftmaxWithLoss"} <= set(types) and types == sorted(types)
    timer = caffe.Timer()
    timer.start()
    timer.stop()
    assert 0 <= timer.ms < 1000 and timer.ms == timer.ms


def test_the_seed_repeats_fillers_and_masks(folder: Path) -> None:
    text = [X, layer("drop", "Dropout", "x"), layer("ip", "InnerProduct", "drop", more=IP)]
    found = []
    for seed in (5, 5, 6):
        caffe.set_random_seed(seed)
        net = make(folder, *text)
        net.blobs["x"].data[...] = 1
        found.append([net.params["ip"][0].data.copy(), net.forward(blobs=["drop"])["drop"].copy()])
    assert all(np.array_equal(a, b) for a, b in zip(found[0], found[1], strict=True))
    assert not np.array_equal(found[0][0], found[2][0])


IP = "inner_product_param { num_output: 8 weight_filler { type: 'xavier' } }"


def test_log_lines_are_caffes(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fcn_caffe.solver")
    caffe.init_log()
    caffe.log("hello")
    assert [record.getMessage() for record in caplog.records] == ["hello"]
    caffe.init_log(2)
    caffe.log("not shown")
    assert len(caplog.records) == 1
    caffe.init_log(0, True)
