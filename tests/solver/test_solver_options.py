"""What a solver file may say: states, sources, devices, and every refusal; and signals."""

from __future__ import annotations

import copy
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_run
from torch import Tensor

from fcn_caffe import FcnCaffeError, LayerError, SolverError
from fcn_caffe.net import LearnableParam
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.training.solver import Solver, read_solver, snapshot
from fcn_caffe.weights.transfer import save_weights

# -- states and sources ------------------------------------------------------------------------------------------

STAGED = """
name: "staged" state { stage: "own" level: 1 }
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }
layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 1 dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 2 } }
layer { name: "own" type: "ReLU" bottom: "y" top: "r1" include { stage: "own" } }
layer { name: "solvers" type: "ReLU" bottom: "y" top: "r2" include { stage: "solvers" } }
layer { name: "level" type: "ReLU" bottom: "y" top: "r3" include { min_level: 2 } }
layer { name: "test" type: "ReLU" bottom: "y" top: "r4" include { phase: TEST } }
layer { name: "loss" type: "Eltwise" bottom: "y" bottom: "t" top: "loss" loss_weight: 1 }
"""


def solver_of(text: str, net: str = STAGED, field: str = "net_param") -> Solver:
    param = parse_text(f'base_lr: 1 lr_policy: "fixed" {text}', caffe_pb2.SolverParameter)
    if field:
        getattr(param, field).CopyFrom(parse_text(net, caffe_pb2.NetParameter))
    return Solver(param, device="cpu")


def test_weights_and_the_solver_tell_forks_apart(tmp_path: Path) -> None:
    net = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } } }
    layer { name: "b" type: "BN" bottom: "x" top: "b" loss_weight: 1 }"""
    with pytest.raises(LayerError, match="Say it: --fork segnet"):
        solver_of("test_iter: 1 test_interval: 5", net)
    assert len(solver_of('fork: "segnet"', net).net.params["b"]) == 2
    numbers = [np.full((1, 3, 1, 1), float(index), np.float32) for index in range(4)]
    save_weights(tmp_path / "w.caffemodel", {"b": numbers})
    solver = solver_of(f'weights: "{tmp_path / "w.caffemodel"}" test_iter: 1 test_interval: 5', net)
    for built in (solver.net, *solver.test_nets):
        assert [blob.flatten()[0].item() for blob in built.params["b"]] == [0, 1, 2, 3]


def test_state_precedence() -> None:
    """The solver's default, then the net's own, then train_state and test_state."""
    solver = solver_of(
        'train_state { stage: "solvers" level: 2 } test_iter: 1 test_iter: 1 test_interval: 5 '
        'test_state { } test_state { stage: "solvers" level: 3 }'
    )
    fixed = ["x", "t", "ip"]
    assert [node.name for node in solver.net.graph.nodes] == [*fixed, "own", "solvers", "level", "loss"]
    assert [node.name for node in solver.test_nets[0].graph.nodes] == [*fixed, "own", "test", "loss"]
    assert [node.name for node in solver.test_nets[1].graph.nodes] == [
        *fixed,
        "own",
        "solvers",
        "level",
        "test",
        "loss",
    ]


def test_test_nets_in_caffes_order() -> None:
    param = parse_text(
        'base_lr: 1 lr_policy: "fixed" test_iter: 1 test_iter: 2 test_interval: 1', caffe_pb2.SolverParameter
    )
    param.net_param.CopyFrom(parse_text(STAGED, caffe_pb2.NetParameter))
    param.test_net_param.add().CopyFrom(parse_text(STAGED.replace('"staged"', '"first"'), caffe_pb2.NetParameter))
    assert [net.name for net in Solver(param, device="cpu").test_nets] == ["first", "staged"]


def test_paths_are_looked_for_beside_the_solver_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    path = training_run.write(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "here")
    solver = Solver(path, device="cpu")
    solver.step(1)
    assert solver.snapshot() == Path("out/run_iter_1.solverstate")
    assert (tmp_path / "here/out/run_iter_1.solverstate").is_file()


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("", "", "the train net is named by nothing; wanted exactly one of "),
        (
            'train_net: "x"',
            "net_param",
            "the train net is named by net_param and train_net; wanted exactly one of ",
        ),
        ('net: "none.prototxt"', "", "net file 'none.prototxt' is not there. Looked for none.prototxt."),
        (f'net: "{300 * "x"}"', "", f"net file '{300 * 'x'}' is not there. Looked for xxx"),
        ("test_iter: 1", "train_net_param", "test_iter is given 1 times for 0 test nets. "),
        (
            'test_net: "a" test_net: "b" test_iter: 1',
            "net_param",
            "test_iter is given 1 times for 2 test nets.",
        ),
        ("test_iter: 1", "net_param", "test_interval is 0 with 1 test nets, wanted 1 or more."),
        ("test_iter: 0 test_interval: 1", "net_param", "test_iter is 0, wanted 1 or more."),
        (
            "test_iter: 1 test_interval: 1 test_state { } test_state { }",
            "net_param",
            "test_state is given 2 times for 1 test nets. Give one each or none.",
        ),
        (
            'type: "SDG"',
            "net_param",
            "type 'SDG' is unknown. Known: AdaDelta, AdaGrad, Adam, Nesterov, RMSProp, SGD.",
        ),
        (
            'type: "AdaGrad" momentum: 0.9',
            "net_param",
            "type 'AdaGrad' has no momentum, 0.9 was given. Drop it.",
        ),
        ("iter_size: 0", "net_param", "iter_size is 0, wanted 1 or more."),
        ("average_loss: 0", "net_param", "average_loss is 0, wanted 1 or more."),
        ("display: -1", "net_param", "display is -1, wanted 0 or more."),
        ('weights: "none.caffemodel"', "net_param", "weights 'none.caffemodel' is not there. Looked for "),
        ("momentum: nan", "net_param", "momentum is nan, wanted a finite number."),
        ("clip_gradients: inf", "net_param", "clip_gradients is inf, wanted a finite number."),
        ('weights: ","', "net_param", "weights names no file. Name one, or take it out."),
        ('regularization_type: "L0"', "net_param", "regularization_type 'L0' is unknown. Known: L1, L2."),
    ],
)
def test_bad_solvers_are_refused_when_built(text: str, field: str, message: str) -> None:
    with pytest.raises(FcnCaffeError) as caught:
        solver_of(text, field=field)
    assert str(caught.value).startswith(f"solver: {message}"), str(caught.value)


def test_a_net_without_a_loss_decays(caplog: pytest.LogCaptureFixture) -> None:
    """As in Caffe, which computes no gradient then and updates with what is left."""
    solver = solver_of("weight_decay: 0.5", STAGED.replace("loss_weight: 1", ""))
    solver.net.inputs = {"x": torch.ones(1, 2), "t": torch.ones(1, 2)}
    assert "net 'staged' has no loss in TRAIN: nothing is learnt." in caplog.text
    before = [item.blob.detach().clone() for item in solver.net.learnable_params]
    solver.step(1)
    assert solver.loss == 0
    for item, old in zip(solver.net.learnable_params, before, strict=True):
        torch.testing.assert_close(item.blob.detach(), old * (1 - 0.5 * solver.rate * item.lr_mult * item.decay_mult))


@pytest.mark.parametrize("options", ["", "iter_size: 2"])
def test_a_net_of_inputs_alone_is_reported_with_force_backward(options: str, caplog: pytest.LogCaptureFixture) -> None:
    net = 'force_backward: true layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }'
    solver = solver_of(f"display: 1 {options}", net + 'layer { name: "r" type: "ReLU" bottom: "x" top: "r" }')
    solver.net.inputs = {"x": torch.ones(1, 2)}
    caplog.set_level("INFO")
    solver.step(1)
    assert "Train net output #1: r = 1" in caplog.text


@pytest.mark.parametrize("options", ["", "iter_size: 2", "clip_gradients: 1"])
def test_a_net_with_nothing_to_learn_stays(options: str, caplog: pytest.LogCaptureFixture) -> None:
    frozen = "param { lr_mult: 0 } param { lr_mult: 0 } inner_product_param"
    solver = solver_of(options, STAGED.replace("inner_product_param", frozen))
    solver.net.inputs = {"x": torch.ones(1, 2), "t": torch.ones(1, 2)}
    assert "net 'staged' has nothing to learn" in caplog.text
    before = [item.blob.clone() for item in solver.net.learnable_params]
    solver.step(2)
    assert solver.iter == 2
    assert all(torch.equal(item.blob, old) for item, old in zip(solver.net.learnable_params, before, strict=True))


def test_errors_name_the_solver_file(tmp_path: Path) -> None:
    path = training_run.write(tmp_path)
    path.write_text(path.read_text().replace("multistep", "cosine"))
    with pytest.raises(SolverError, match=re.escape(f"{path}: lr_policy 'cosine' is unknown. Known: ")):
        Solver(path, device="cpu")
    with pytest.raises(
        SolverError, match=re.escape(f"{tmp_path / 'no.prototxt'}: no such solver file. Check the path.")
    ):
        Solver(tmp_path / "no.prototxt")


def test_a_prefix_that_can_take_no_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(SolverError, match=re.escape(f"lies under {tmp_path / 'out'}, which is a file.")):
        training_run.solver(tmp_path)
    (tmp_path / "out").unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SolverError, match=re.escape(f"{tmp_path} cannot be written. Set another.")):
        training_run.solver(tmp_path)


@pytest.mark.parametrize(("prefix", "why"), [("a\\000b", "has a zero byte"), ("/", "'/' names no file")])
def test_a_prefix_that_names_no_file(prefix: str, why: str) -> None:
    param = parse_text(
        f'base_lr: 1 lr_policy: "fixed" snapshot: 1 snapshot_prefix: "{prefix}"', caffe_pb2.SolverParameter
    )
    param.net_param.CopyFrom(parse_text(STAGED, caffe_pb2.NetParameter))
    with pytest.raises(SolverError, match=why):
        Solver(param)


def test_old_solver_type_is_upgraded(tmp_path: Path) -> None:
    path = training_run.write(tmp_path, "solver_type: ADAM")
    assert read_solver(path).type == "Adam"


# -- device ------------------------------------------------------------------------------------------------------


def test_cuda_asked_for_and_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    param = parse_text('base_lr: 1 lr_policy: "fixed"', caffe_pb2.SolverParameter)
    param.net_param.CopyFrom(parse_text(STAGED, caffe_pb2.NetParameter))
    for asked in ("cuda", "gpu", "cuda:1"):
        with pytest.raises(SolverError, match=r"device '(gpu|cuda(:1)?)' was asked for, but torch .* Use cpu"):
            Solver(param, device=asked)
    with pytest.raises(SolverError, match=r"device 'abacus' is unknown. Use cpu, cuda or cuda:N."):
        Solver(param, device="abacus")


@pytest.mark.parametrize(("mode", "told"), [("solver_mode: GPU", True), ("", False), ("solver_mode: CPU", False)])
def test_solver_mode_without_cuda(
    mode: str, told: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    param = parse_text(f'base_lr: 1 lr_policy: "fixed" {mode}', caffe_pb2.SolverParameter)
    param.net_param.CopyFrom(parse_text(STAGED, caffe_pb2.NetParameter))
    assert Solver(param).device.type == "cpu"
    assert ("finds no CUDA device: running on the CPU" in caplog.text) == told


# -- signals -----------------------------------------------------------------------------------------------------


def test_signals_inside_the_block_only(tmp_path: Path) -> None:
    solver = training_run.solver(tmp_path)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)]

    def at_two(solver: Solver) -> None:
        if solver.iter == 2:
            os.kill(os.getpid(), signal.SIGHUP)
        if solver.iter == 4:
            os.kill(os.getpid(), signal.SIGINT)

    solver.on_step.append(at_two)
    with solver.signals():
        solver.step(100)
    assert solver.stopped and solver.iter == 4
    assert sorted(path.name for path in (tmp_path / "out").glob("*.solverstate")) == [
        "run_iter_2.solverstate",
        "run_iter_4.solverstate",
    ]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)] == handlers
    solver.step(1)
    assert not solver.stopped and solver.iter == 5


def test_an_interrupted_test_leaves_its_data_where_it_was(tmp_path: Path) -> None:
    solver = training_run.solver(tmp_path)
    solver.step(3)
    before = solver.test_nets[0].data_state()
    forward = solver.test_nets[0].forward

    def interrupting(*arguments: Any, **blobs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return forward(*arguments, **blobs)

    solver.test_nets[0].forward = interrupting
    with solver.signals():
        solver.step(2)
    assert solver.stopped and solver.iter == 3
    assert solver.test_nets[0].data_state() == before
    assert (tmp_path / "out/run_iter_3.solverstate").is_file()


def test_an_interrupt_in_the_last_test_stops_with_the_snapshot_written(tmp_path: Path) -> None:
    solver = training_run.solver(tmp_path, max_iter=3)
    forward = solver.test_nets[0].forward

    def interrupting(*arguments: Any, **blobs: Any) -> Any:
        if solver.iter == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return forward(*arguments, **blobs)

    solver.test_nets[0].forward = interrupting
    solver.solve()
    assert solver.stopped and solver.iter == 3
    assert (tmp_path / "out/run_iter_3.solverstate").is_file()


def test_a_second_interrupt_is_at_once(tmp_path: Path) -> None:
    solver = training_run.solver(tmp_path)
    for _ in range(2):
        solver.on_step.append(lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), solver.signals():
        solver.step(2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_after_the_last_step_is_not_lost(tmp_path: Path) -> None:
    solver = training_run.solver(tmp_path)
    with pytest.raises(KeyboardInterrupt), solver.signals():
        solver.step(1)
        os.kill(os.getpid(), signal.SIGINT)
    solver.step(1)
    assert solver.iter == 2 and not solver.stopped


def test_sigterm_is_a_request_to_stop(tmp_path: Path) -> None:
    solver = training_run.solver(tmp_path)
    solver.on_step.append(lambda _: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with solver.signals(interrupt="none"):
        solver.step(5)
    assert solver.iter == 1 and solver.stopped_by == signal.SIGTERM and signal.getsignal(signal.SIGTERM) == before
    assert (tmp_path / "out/run_iter_1.solverstate").is_file()


def test_other_threads_train_without_signals(tmp_path: Path) -> None:
    solver = training_run.solver(tmp_path, max_iter=2)
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=solver.solve)
    thread.start()
    thread.join()
    assert solver.iter == 2 and signal.getsignal(signal.SIGINT) is before


def test_a_solver_is_made_from_nothing_but_a_solver() -> None:
    with pytest.raises(SolverError, match="a solver file or a SolverParameter, not from NetParameter"):
        Solver(caffe_pb2.NetParameter())  # type: ignore[arg-type]


def replace_blob(solver: Solver, value: Tensor | None = None) -> LearnableParam:
    """Put another blob in the place of the first; return that as it was."""
    owner = solver.net.learnable_params[0]
    layer = solver.net.layer(owner.layer)
    blob = owner.blob.detach().clone() if value is None else value
    setattr(layer, layer.blob_names[owner.index], torch.nn.Parameter(blob))
    return owner


def test_a_blob_that_was_replaced_is_trained_with_its_history(tmp_path: Path) -> None:
    plain, solver = training_run.solver(tmp_path), training_run.solver(tmp_path)
    solver.net.load_state_dict(plain.net.state_dict())
    for one in (plain, solver):
        snapshot.seed(1)
        one.step(1)
        old = replace_blob(one) if one is solver else None
        one.step(1)
    pairs = zip(plain.net.learnable_params, solver.net.learnable_params, strict=True)
    assert all(torch.equal(one.blob, other.blob) for one, other in pairs)
    assert old is not None and solver.net.learnable_params[0].blob is not old.blob


def test_a_blob_of_another_shape_is_not_trained(tmp_path: Path) -> None:
    solver = training_run.solver(tmp_path)
    replace_blob(solver, torch.zeros(7))
    with pytest.raises(SolverError, match="was replaced by one of 7: make a new solver"):
        solver.step(1)


def test_a_copy_of_a_solver_trains_on_alone(tmp_path: Path) -> None:
    solver = training_run.solver(tmp_path)
    solver.step(1)
    twin = copy.deepcopy(solver)
    before = [item.blob.detach().clone() for item in solver.net.learnable_params]
    twin.step(1)
    assert twin.optimizer.clip_gradients == solver.optimizer.clip_gradients
    assert all(map(torch.equal, before, (item.blob for item in solver.net.learnable_params)))
