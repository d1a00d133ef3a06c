"""Weights in ONNX files and in programs of torch.export: which array is whose, and what is not read."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fcn_caffe import WeightsError
from fcn_caffe.weights.formats import CAFFEMODEL, ONNX, PT2, format_of
from fcn_caffe.weights.transfer import load_weights

quiet = pytest.mark.filterwarnings("ignore")  # PyTorch's own, of its exporters

# -- ONNX ----------------------------------------------------------------------------------------------------------

onnx_tests = pytest.mark.needs_package("onnx")
KERNEL = np.arange(54, dtype=np.float32).reshape(2, 3, 3, 3)
MATRIX = np.arange(8, dtype=np.float32).reshape(2, 4)
BIAS, WIDE = np.float32([1, 2]), np.float32([1, 2, 3, 4])


def write_model(
    path: Path, nodes: Sequence[Any], arrays: dict[str, Any], edit: Callable[[Any], None] | None = None
) -> Path:
    """Write a model of nodes over x, whose other inputs are the arrays."""
    import onnx
    from onnx import helper, numpy_helper

    made = {output for node in nodes for output in node.output}
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items() if name not in made]
    x, y = (helper.make_tensor_value_info(name, 1, None) for name in ("x", nodes[-1].output[0]))
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], tensors), producer_name="test")
    if edit:
        edit(model)
    onnx.save(model, path)
    return path


def node(kind: str, inputs: str, output: str, name: str = "", **options: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, inputs.split(), [output], name, **options)


@onnx_tests
def test_weights_are_those_of_the_nodes_that_read_them(tmp_path: Path) -> None:
    nodes = [
        node("Sub", "x mean", "a"),
        node("Conv", "a onnx::Conv_23 onnx::Conv_24", "b", "/features/conv1/Conv"),
        node("PRelu", "b act.weight", "c"),
        node("Conv", "c onnx::Conv_23", "again", "/features/shared/Conv"),
        node("ConvTranspose", "c up.weight", "d"),
        node("Flatten", "d", "e"),
        node("MatMul", "e onnx::MatMul_7", "f", "/fc6/MatMul"),
        node("Add", "fc6.bias f", "g"),
        node("Transpose", "fc7.weight", "h", perm=[1, 0]),
        node("MatMul", "g h", "i"),
        node("Gemm", "i fc8.weight fc8.bias", "j", alpha=2.0, beta=3.0),
        node("Gemm", "j fc9.weight", "k", transB=1),
        node("MatMul", "k k", "l"),
    ]
    transposed = np.ascontiguousarray(MATRIX.T)
    arrays = {
        "mean": np.float32([1, 2, 3]).reshape(3, 1, 1),
        **{"onnx::Conv_23": KERNEL, "onnx::Conv_24": BIAS, "act.weight": BIAS.reshape(2, 1, 1), "up.weight": KERNEL},
        **{"onnx::MatMul_7": transposed, "fc6.bias": BIAS, "fc7.weight": MATRIX.T.copy(), "fc8.weight": transposed},
        **{"fc8.bias": BIAS, "fc9.weight": MATRIX, "shape": np.int64([1, 2])},
    }
    path = write_model(tmp_path / "a.onnx", nodes, arrays)
    assert format_of(path) is ONNX and ONNX.has_names
    found = ONNX.read_named(path)
    assert list(found.arrays) == [
        *("conv1.weight", "conv1.bias", "act.weight", "up.weight", "fc6.weight", "fc6.bias", "fc7.weight"),
        *("fc8.weight", "fc8.bias", "fc9.weight"),
    ]
    assert list(found.constants) == ["mean"]
    for name, expected in (
        ("conv1.weight", KERNEL),
        ("act.weight", BIAS),
        ("fc6.weight", MATRIX),
        ("fc7.weight", MATRIX.T),
        ("fc8.weight", MATRIX * 2),
        ("fc8.bias", BIAS * 3),
        ("fc9.weight", MATRIX),
    ):
        assert np.array_equal(found.arrays[name], expected), name


@onnx_tests
def test_other_kinds_of_tensors(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    constant = helper.make_node(
        "Constant", [], ["w"], value=helper.make_tensor("", TensorProto.FLOAT16, [2, 4], [1.5] * 8)
    )
    nodes = [
        constant,
        node("Cast", "w", "wide", to=1),
        node("Gemm", "x wide", "y", "fc", transB=1),
        node("BatchNormalization", "y s b m v", "z", "/bn/BatchNormalization"),
        node("Gather", "table z", "end"),
    ]
    arrays = {"s": BIAS, "b": BIAS + 1, "m": BIAS + 2, "v": BIAS.astype(np.float64), "table": MATRIX}
    found = ONNX.read_named(write_model(tmp_path / "a.onnx", nodes, arrays)).arrays
    assert list(found) == [
        *("fc.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "table.weight"),
    ]
    assert found["fc.weight"].tolist() == [[1.5] * 4] * 2 and found["bn.running_var"].dtype == np.float32


def to_external(model: Any, folder: Path, location: str = "w.bin", **changed: str) -> None:
    (tensor,) = model.graph.initializer
    (folder / "w.bin").write_bytes(b"1234" + tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    for key, value in ({"location": location, "offset": "4", "length": "216"} | changed).items():
        tensor.external_data.add(key=key, value=value)


@onnx_tests
def test_weights_in_a_file_beside(tmp_path: Path) -> None:
    nodes, arrays = [node("Conv", "x c.weight", "y")], {"c.weight": KERNEL}
    path = write_model(tmp_path / "a.onnx", nodes, arrays, lambda model: to_external(model, tmp_path))
    assert np.array_equal(ONNX.read_named(path).arrays["c.weight"], KERNEL)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(
        WeightsError, match=r"a\.onnx: c\.weight is in w\.bin, which is not there\. Put that file beside"
    ):
        ONNX.read_named(path)


@onnx_tests
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"offset": "8"}, "a.onnx: c.weight is not whole in w.bin. The file is truncated, or of another model."),
        ({"offset": "-4"}, "is not whole in w.bin"),
        ({"length": "8"}, "is not whole in w.bin"),
        ({"location": "../secret"}, "c.weight is in '../secret', which is not beside the file. It is not read."),
        ({"location": "/etc/passwd"}, "which is not beside the file. It is not read."),
        ({"offset": "x"}, "cannot be read as an ONNX model (ValueError: "),
    ],
)
def test_weights_beside_that_are_not_read(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(1000))
    nodes, arrays = [node("Conv", "x c.weight", "y")], {"c.weight": KERNEL}
    path = write_model(folder / "a.onnx", nodes, arrays, lambda model: to_external(model, folder, **changed))
    with pytest.raises(WeightsError) as caught:
        ONNX.read_named(path)
    assert message in str(caught.value)


@onnx_tests
def test_a_tensor_that_many_nodes_read_counts_once(tmp_path: Path) -> None:
    kernel = np.ones((1024, 1024), np.float32)
    nodes = [node("Gemm", "x w", f"y{index}", "/same/Gemm", alpha=float(index)) for index in range(5)]
    nodes += [node("Conv", f"x k{index}", f"z{index}", "/same/Conv") for index in range(3)]
    path = write_model(tmp_path / "a.onnx", nodes, {"w": kernel, "k0": KERNEL, "k1": KERNEL, "k2": KERNEL})
    assert list(ONNX.read_named(path).arrays) == ["same.weight", "same_2.weight", "same_3.weight", "same_4.weight"]


@onnx_tests
def test_views_of_one_file_beside_are_counted(tmp_path: Path) -> None:
    def share(model: Any) -> None:
        for tensor in model.graph.initializer:
            tensor.ClearField("raw_data")
            tensor.data_type, tensor.data_location = 10, 1
            tensor.external_data.add(key="location", value="weights.bin")

    (tmp_path / "weights.bin").write_bytes(bytes(2 * 2**18))
    names = [f"k{index}" for index in range(8)]
    nodes = [node("Conv", f"x {name}", f"y{name}") for name in names]
    path = write_model(tmp_path / "a.onnx", nodes, {name: np.zeros((512, 512, 1, 1), "f2") for name in names}, share)
    with pytest.raises(WeightsError, match=r"with k\d it declares [\d,]+ bytes of values"):
        ONNX.read_named(path)


def loop(model: Any) -> None:
    model.graph.node[0].input[0] = "b"


def declare_much(model: Any) -> None:
    model.graph.initializer[0].dims[0] = 2**40


def declare_many_axes(model: Any) -> None:
    model.graph.initializer[0].dims.extend([2**62] * 100_000)


def declare_less_than_nothing(model: Any) -> None:
    model.graph.initializer[0].dims[:2] = [-2, -3]


@onnx_tests
@pytest.mark.parametrize(
    ("nodes", "edit", "message"),
    [
        ([("Relu", "x", "y")], None, "holds no weights of a Conv, ConvTranspose, Gemm, MatMul or PRelu."),
        ([("DequantizeLinear", "x c.weight", "y")], None, "is quantised (DequantizeLinear): its weights are rounded"),
        (
            [("Identity", "a", "a"), ("Identity", "a", "b"), ("Conv", "x b", "y")],
            loop,
            "a value is made of itself, or by more than 100 nodes that leave it as it is. The file is corrupt.",
        ),
        ([("Conv", "x c.weight", "y")], declare_much, "with c.weight it declares"),
        ([("Conv", "x c.weight", "y")], declare_many_axes, "c.weight has 100,004 axes, an array has 64 at most."),
        (
            [("Conv", "x c.weight", "y")],
            declare_less_than_nothing,
            "c.weight has a negative size. The file is corrupt.",
        ),
    ],
)
def test_models_that_are_not_read(tmp_path: Path, nodes: list[tuple[str, str, str]], edit: Any, message: str) -> None:
    path = write_model(tmp_path / "a.onnx", [node(*it) for it in nodes], {"c.weight": KERNEL}, edit)
    with pytest.raises(WeightsError) as caught:
        ONNX.read_named(path)
    assert message in str(caught.value)


@onnx_tests
def test_the_content_says_that_it_is_onnx(tmp_path: Path) -> None:
    path = write_model(tmp_path / "a.onnx", [node("Conv", "x c.weight", "y")], {"c.weight": KERNEL})
    other = path.rename(tmp_path / "a.caffemodel")
    assert format_of(other) is ONNX
    with pytest.raises(
        WeightsError, match=r"is a whole net \(ONNX\), whose weights are fitted to a net of Caffe's first"
    ):
        load_weights(other)
    damaged = tmp_path / "b.onnx"
    damaged.write_bytes(other.read_bytes()[:-40])
    with pytest.raises(WeightsError, match=r"b\.onnx: cannot be read as an ONNX model \(DecodeError"):
        ONNX.read_named(damaged)
    (tmp_path / "c.caffemodel").write_bytes(b"\x08\x05\x12\x03abc\x28\x01")  # a SolverState
    assert format_of(tmp_path / "c.caffemodel") is CAFFEMODEL


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(WeightsError, match=r'a\.onnx: needs the library onnx\. Run `pip install "fcn-caffe\[onnx\]"`'):
        ONNX.read_named(tmp_path / "a.onnx")


# -- torch.export --------------------------------------------------------------------------------------------------


class Uneven(nn.Module):
    """Registers its layers in another order than it uses them in; two weights are views of one storage."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(4)
        self.first = nn.Linear(3, 4)
        self.register_buffer("mean", torch.ones(3))
        both = torch.arange(6.0)
        self.tail = nn.Parameter(both[2:].view(2, 2).t())
        self.short = nn.Parameter(torch.tensor([0.5, -3]).bfloat16())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(x - self.mean))) @ self.tail + self.short


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("program") / "a.pt2"
    torch.export.save(torch.export.export(Uneven().eval(), (torch.ones(2, 3),)), path)
    return path


@quiet
def test_programs_are_read_in_the_order_of_use(program: Path) -> None:
    assert format_of(program) is PT2
    found, expected = PT2.read_named(program), torch.export.load(program).state_dict
    assert list(found.arrays) == [
        *("first.weight", "first.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"),
        *("second.weight", "second.bias", "tail", "short"),
    ]
    assert set(found.constants) == {"mean", "norm.num_batches_tracked"}
    for name, array in (found.arrays | found.constants).items():
        assert np.array_equal(array, expected[name].detach().float().numpy()), name
        assert array.dtype == np.float32
    with pytest.raises(WeightsError, match=r"is a whole net \(torch\.export\)"):
        load_weights(program)


class Trap:
    """Shouts where it is unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("unpickled",)


def edited(program: Path, folder: Path, edit: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(program) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    edit(members)
    path = folder / "edited.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def edit_config(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    def edit(members: dict[str, bytes]) -> None:
        (name,) = (name for name in members if name.endswith("weights_config.json"))
        config = json.loads(members[name])
        change(config["config"])
        members[name] = json.dumps(config).encode()

    return edit


def use_pickle(config: dict[str, Any]) -> None:
    config["first.weight"]["use_pickle"] = True


def make_large(config: dict[str, Any]) -> None:
    config["first.weight"]["tensor_meta"]["sizes"][0]["as_int"] = 5


def step_back(config: dict[str, Any]) -> None:
    config["first.weight"]["tensor_meta"]["strides"][0]["as_int"] = -1


def make_complex(config: dict[str, Any]) -> None:
    config["first.weight"]["tensor_meta"]["dtype"] = 10


def repeat_much(config: dict[str, Any]) -> None:
    meta = config["first.weight"]["tensor_meta"]
    meta["sizes"], meta["strides"] = [{"as_int": 2**40}], [{"as_int": 0}]


def add_axes(config: dict[str, Any]) -> None:
    meta = config["first.weight"]["tensor_meta"]
    meta["sizes"] = meta["strides"] = [{"as_int": 2**62}] * 100_000


def forget_kind(config: dict[str, Any]) -> None:
    del config["first.weight"]["is_param"]


def forget_sizes(config: dict[str, Any]) -> None:
    del config["first.weight"]["tensor_meta"]["sizes"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (use_pickle, "first.weight is of a class of its own, which only a pickle holds. It is not read."),
        (make_large, "first.weight is larger than its storage. The file is corrupt."),
        (step_back, "first.weight is larger than its storage. The file is corrupt."),
        (make_complex, "first.weight holds complex or other numbers, wanted float32 or what becomes it."),
        (repeat_much, "with first.weight it declares"),
        (add_axes, "first.weight has 100,000 axes, an array has 64 at most."),
        (forget_kind, "cannot be read as a program of torch.export (KeyError: 'is_param')"),
        (forget_sizes, "cannot be read as a program of torch.export (KeyError: 'sizes')"),
    ],
)
def test_programs_that_are_not_read(program: Path, tmp_path: Path, change: Any, message: str) -> None:
    path = edited(program, tmp_path, edit_config(change))
    with pytest.raises(WeightsError) as caught:
        PT2.read_named(path)
    assert message in str(caught.value)


@pytest.mark.parametrize("ending", ["weights_config.json", "models/model.json"])
def test_a_program_that_would_unfold(program: Path, tmp_path: Path, ending: str) -> None:
    with zipfile.ZipFile(program) as whole, zipfile.ZipFile(tmp_path / "a.pt2", "w", zipfile.ZIP_DEFLATED) as file:
        for name in whole.namelist():
            file.writestr(name, whole.read(name) + b" " * 2**22 * name.endswith(ending))
    with pytest.raises(WeightsError, match=rf"with [\w/]*{ending} it declares [\d,]+ bytes of values"):
        PT2.read_named(tmp_path / "a.pt2")


def test_nothing_of_a_program_is_unpickled_or_run(program: Path, tmp_path: Path) -> None:
    def plant(members: dict[str, bytes]) -> None:
        for name in members:
            if "sample_inputs" in name:
                members[name] = pickle.dumps(Trap())
            if name.endswith("models/model.json"):
                graph = json.loads(members[name])
                graph["guards_code"] = ["pytest.fail('run')"]
                members[name] = json.dumps(graph).encode()

    found = PT2.read_named(edited(program, tmp_path, plant))
    assert np.array_equal(found.arrays["first.bias"], PT2.read_named(program).arrays["first.bias"])

    def add_a_program(members: dict[str, bytes]) -> None:
        members["a/data/weights/b_weights_config.json"] = b"{}"

    with pytest.raises(WeightsError, match=r"holds 2 programs, wanted one"):
        PT2.read_named(edited(program, tmp_path, add_a_program))


@pytest.mark.parametrize("member", ["serialized_state_dict.pt", "a/data/weights/model.pt"])
def test_programs_of_older_versions(tmp_path: Path, member: str) -> None:
    torch.save({"c.weight": torch.ones(2)}, tmp_path / "state.pt")
    path = tmp_path / "old.pt2"
    for state in ((tmp_path / "state.pt").read_bytes(), pickle.dumps(Trap())):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("serialized_exported_program.json" if "/" not in member else "a/archive_format", "{}")
            archive.writestr(member, state)
        assert format_of(path) is PT2
        if state[:2] == b"PK":
            assert PT2.read_named(path).arrays["c.weight"].tolist() == [1, 1]
    with pytest.raises(WeightsError, match=r"old\.pt2: .*(state_dict|model)\.pt: "):
        PT2.read_named(path)
