"""Python layers: the order of calls, gradients, own blobs, lookup, and errors that name the layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import input_layer, layer, make_net

from fcn_caffe import TRAIN, DataError, LayerError

MODULE = '''
import numpy as np
from fcn_caffe import DataError, PythonLayer

class Count(PythonLayer):
    """A data layer that notes what is called and gives its step number."""
    def setup(self, bottom, top):
        self.calls, self.step = ["setup"], 0
        self.sizes = eval_free(self.param_str)
    def reshape(self, bottom, top):
        self.calls.append("reshape")
        top[0].reshape(1, 1, self.sizes[self.step % 2], 3)
    def forward(self, bottom, top):
        self.calls.append("forward")
        top[0].data[...] = self.step
        self.step += 1
    def backward(self, top, propagate_down, bottom):
        pass
    def get_state(self):
        return {"step": self.step}
    def set_state(self, state):
        self.step = state["step"]

def eval_free(text):
    return [int(part) for part in text.split(",")]

class EuclideanLike(PythonLayer):
    """A loss with gradients to both bottoms."""
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
        top[0].data[...] = np.sum(self.diff**2) / bottom[0].num / 2.0
    def backward(self, top, propagate_down, bottom):
        for i, sign in enumerate((1, -1)):
            if propagate_down[i]:
                bottom[i].diff[...] = sign * self.diff / bottom[i].num * top[0].diff[0]

class Gain(PythonLayer):
    """y = w x with a learned w."""
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

class Breaks(Gain):
    def forward(self, bottom, top):
        raise KeyError("gone")

class Late(Gain):
    def forward(self, bottom, top):
        self.blobs.add_blob(1)

class Replaces(Gain):
    def forward(self, bottom, top):
        top[0] = bottom[0].data

class GivesList(Gain):
    def forward(self, bottom, top):
        top[0].data = [1, 2]

class GivesDouble(Gain):
    def forward(self, bottom, top):
        top[0].data = bottom[0].data.astype(float)

class OtherDiff(Gain):
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff = np.ones((7, 7))

class Writes(Gain):
    def forward(self, bottom, top):
        bottom[0].data[...] = 7
        top[0].data[...] = 1

class NoBackward(Gain):
    backward = None

class NoImage(Gain):
    def forward(self, bottom, top):
        raise DataError("image 7.jpg is unreadable")
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("python_layers")
    (path / "my_layers.py").write_text(MODULE)
    return path


def python(name: str, cls: str, bottom: str = "", more: str = "", param_str: str = "") -> str:
    param = f'python_param {{ module: "my_layers" layer: "{cls}" param_str: "{param_str}" }} {more}'
    return layer(name, "Python", bottom, more=param)


def test_setup_and_reshape_when_building_then_reshape_and_forward_each_pass(folder: Path) -> None:
    net = make_net(python("d", "Count", param_str="2,5"), path=folder / "net.prototxt")
    user = net.layer("d").user
    assert user.calls == ["setup", "reshape"] and net.blob_shapes["d"] == (1, 1, 2, 3)
    assert net()["d"].shape == (1, 1, 2, 3)
    second = net()["d"]
    assert second.shape == (1, 1, 5, 3) and (second == 1).all()
    assert user.calls == ["setup", "reshape"] + ["reshape", "forward"] * 2


def test_data_state_continues_the_order(folder: Path) -> None:
    first, second = (make_net(python("d", "Count", param_str="2,5"), path=folder / "net.prototxt") for _ in range(2))
    for _ in range(3):
        first()
    assert first.data_state() == {"d": {"step": 3}}
    second.load_data_state(first.data_state())
    assert torch.equal(second()["d"], first()["d"])


def test_a_top_is_not_changed_by_the_next_pass(folder: Path) -> None:
    net = make_net(python("d", "Count", param_str="2,2"), path=folder / "net.prototxt")
    first = net()["d"]
    net()
    assert (first == 0).all()


def test_a_loss_written_in_python_trains_what_is_below(folder: Path) -> None:
    a, b = input_layer("a", 4, 3), input_layer("b", 4, 3)
    net = make_net(
        "force_backward: true",
        a,
        b,
        python("l", "EuclideanLike", "a b", "loss_weight: 2"),
        phase=TRAIN,
        path=folder / "net.prototxt",
    )
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    loss, blobs = net.forward_loss({"a": x, "b": y}, keep=["a", "b"])
    grads = torch.autograd.grad(loss, [blobs["a"], blobs["b"]])
    assert torch.allclose(loss, ((x - y) ** 2).sum() / 4)
    assert torch.allclose(grads[0], (x - y) / 2) and torch.allclose(grads[1], (y - x) / 2)


def test_own_blobs_learn(folder: Path) -> None:
    net = make_net(
        input_layer("x", 2, 3),
        python("g", "Gain", "x", "param { lr_mult: 5 }"),
        phase=TRAIN,
        path=folder / "net.prototxt",
    )
    assert [(item.layer, item.lr_mult) for item in net.learnable_params] == [("g", 5.0)]
    net(x=torch.full((2, 3), 2.0))["g"].sum().backward()
    (blob,) = net.params["g"]
    assert blob.item() == 3 and blob.grad is not None and blob.grad.item() == 12
    with torch.no_grad():
        blob.sub_(1)
    assert (net(x=torch.ones(2, 3))["g"] == 2).all()


def test_errors_carry_the_name_of_the_layer(folder: Path) -> None:
    x = input_layer("x", 2, 3)
    with pytest.raises(
        LayerError, match=r"^layer 'l' \(Python\): EuclideanLike\.setup raised Exception: Need two inputs"
    ):
        make_net(x, python("l", "EuclideanLike", "x"), path=folder / "net.prototxt")
    net = make_net(x, python("l", "Breaks", "x"), path=folder / "net.prototxt")
    with pytest.raises(LayerError, match=r"^layer 'l' \(Python\): Breaks\.forward raised KeyError: 'gone'"):
        net(x=torch.ones(2, 3))
    net = make_net(x, python("l", "NoImage", "x"), path=folder / "net.prototxt")
    with pytest.raises(DataError, match=r"^layer 'l' \(Python\): image 7\.jpg is unreadable"):
        net(x=torch.ones(2, 3))


def test_a_module_that_does_not_import_is_a_layer_error(tmp_path: Path) -> None:
    (tmp_path / "broken_layers.py").write_text("import nothing_of_this_name\n")
    text = layer("l", "Python", more='python_param { module: "broken_layers" layer: "L" }')
    with pytest.raises(
        LayerError, match=r"layer 'l' \(Python\): module 'broken_layers' does not import: ModuleNotFound"
    ):
        make_net(text, path=tmp_path / "net.prototxt")


def test_the_module_beside_the_net_is_the_one_that_counts(tmp_path: Path) -> None:
    nets = []
    for step in (1, 2):
        place = tmp_path / str(step)
        place.mkdir()
        (place / "my_layers.py").write_text(MODULE.replace('["setup"], 0', f'["setup"], {step * 10}'))
        nets.append(make_net(python("d", "Count", param_str="2,5"), path=place / "net.prototxt"))
    assert [float(net()["d"].max()) for net in nets] == [10, 20]


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        ("Late", r"Late has 2 blobs, 1 behind setup\. Call add_blob in setup alone"),
        (
            "Replaces",
            r"Replaces\.forward raised TypeError: a layer's blobs cannot be replaced\. Write into their arrays",
        ),
        ("GivesList", "GivesList put list into top 'l', wanted an array of numbers"),
        ("OtherDiff", r"OtherDiff\.backward raised ValueError: diff is 7x7, data 2x3: they are of one shape"),
        ("NoBackward", "NoBackward has no backward"),
    ],
)
def test_what_a_class_does_wrong_with_its_blobs(cls: str, message: str, folder: Path) -> None:
    net = make_net(input_layer("x", 2, 3), python("l", cls, "x"), phase=TRAIN, path=folder / "net.prototxt")
    with pytest.raises(LayerError, match=rf"^layer 'l' \(Python\): {message}"):
        net(x=torch.ones(2, 3, requires_grad=True))["l"].sum().backward()


def test_tops_are_float32_whatever_the_class_puts_in(folder: Path) -> None:
    net = make_net(input_layer("x", 2, 3), python("l", "GivesDouble", "x"), path=folder / "net.prototxt")
    assert net(x=torch.ones(2, 3))["l"].dtype is torch.float32


def test_what_a_class_writes_to_a_bottom_the_next_layers_see_and_the_person_does_not(folder: Path) -> None:
    later = layer("r", "Power", "x")
    net = make_net(input_layer("x", 2, 3), python("l", "Writes", "x"), later, path=folder / "net.prototxt")
    for given in (torch.ones(2, 3), np.ones((2, 3), np.float32)):
        assert (net(x=given)["r"] == 7).all()
        assert (given == 1).all()
