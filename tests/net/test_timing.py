"""tools/time_net.py: the layer-by-layer backward is the net's own, and the table is whole."""

from __future__ import annotations

import csv
import os

import pytest
import torch
from helpers import input_layer, layer, make_net

from fcn_caffe import TEST, TRAIN, LayerError
from fcn_caffe.commands import time_net as command
from fcn_caffe.net.timing import random_inputs, time_net

CONVOLUTION = 'convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "msra" } }'
# A blob with three readers, layers in place, one that hands its bottom through (Dropout in TEST), two losses.
NET = (
    input_layer("data", 2, 3, 6, 6),
    input_layer("label", 2, 1, 6, 6),
    layer("conv", "Convolution", "data", more=CONVOLUTION),
    layer("relu", "ReLU", "conv", "conv"),
    layer("drop", "Dropout", "conv"),
    layer("left", "Convolution", "conv", more=CONVOLUTION),
    layer("right", "Sigmoid", "conv"),
    layer("sum", "Eltwise", "left right drop"),
    layer("loss", "SoftmaxWithLoss", "sum label", more="loss_weight: 2"),
    layer("accuracy", "Softmax", "sum"),
    layer("auxiliary", "Sigmoid", "left", more="loss_weight: 0.5"),
)


def test_gradients_are_those_of_the_whole_net():
    net = make_net(*NET)
    inputs = random_inputs(net)
    time_net(net, 2, inputs=inputs)
    alone = [item.blob.grad.clone() for item in net.learnable_params]
    net.zero_grad(set_to_none=True)
    net.forward_loss(inputs)[0].backward()
    for item, gradient in zip(net.learnable_params, alone, strict=True):
        assert item.blob.grad.abs().sum() > 0
        torch.testing.assert_close(gradient, item.blob.grad)


def test_without_a_loss_ones_arrive_at_the_outputs():
    net = make_net(*NET[:1], *NET[2:8])
    inputs = random_inputs(net)
    times = time_net(net, 1, inputs=inputs)
    alone = [item.blob.grad.clone() for item in net.learnable_params]
    net.zero_grad(set_to_none=True)
    net(inputs)["sum"].sum().backward()
    for item, gradient in zip(net.learnable_params, alone, strict=True):
        torch.testing.assert_close(gradient, item.blob.grad)
    assert all(each.forward > 0 for each in times.layers)


def test_without_a_loss_what_only_accuracy_reads_is_an_output_too():
    net = make_net(*NET[:3], layer("accuracy", "Accuracy", "conv label"))
    times = {each.name: each for each in time_net(net, 1).layers}
    assert times["conv"].backward > 0 and times["accuracy"].backward == 0
    for item in net.learnable_params:
        assert item.blob.grad.abs().sum() > 0


def test_backward_is_zero_where_no_gradient_arrives():
    times = {each.name: each for each in time_net(make_net(*NET), 3).layers}
    reached = {name for name, each in times.items() if each.backward > 0}
    assert reached == {"conv", "relu", "drop", "left", "right", "sum", "loss", "auxiliary"}
    assert times["conv"].tops == ((2, 4, 6, 6),) and times["conv"].parameters == 3 * 4 * 9 + 4


def test_whole_passes_take_at_least_their_layers():
    times = time_net(make_net(*NET), 5)
    assert times.forward >= sum(each.forward for each in times.layers)
    assert times.backward >= sum(each.backward for each in times.layers)


def test_force_backward_reaches_the_input():
    net = make_net("force_backward: true", *NET)
    time_net(net, 1)
    net = make_net(input_layer("data", 1, 2), layer("power", "Power", "data"), "force_backward: true")
    assert time_net(net, 1).layers[1].backward > 0


def test_made_inputs_are_labels_where_labels_are_read():
    made = random_inputs(make_net(*NET))
    assert not made["label"].any() and made["data"].std() > 0.1


def test_an_input_without_a_shape_is_refused():
    net = make_net('layer { name: "data" type: "Input" top: "data" }')
    with pytest.raises(LayerError, match="top 'data' has no shape"):
        random_inputs(net)


def test_the_command_prints_a_table_and_writes_csv(tmp_path, capsys):
    make_net(*NET, path=tmp_path / "net.prototxt")
    out = tmp_path / "times.csv"
    assert command.main([str(tmp_path / "net.prototxt"), "-iterations", "2", "--phase", "TEST", "--csv", str(out)]) == 0
    text = capsys.readouterr().out
    assert "Average Forward-Backward: " in text and "for 2 iterations on cpu, phase TEST." in text
    with open(out) as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows][:3] == ["data", "label", "conv"] and len(rows) == len(NET)
    assert rows[2]["tops"] == "2x4x6x6" and float(rows[2]["forward_ms"]) > 0


def test_a_table_that_cannot_be_written_is_refused_first(tmp_path, capsys):
    make_net(*NET, path=tmp_path / "net.prototxt")
    assert command.main([str(tmp_path / "net.prototxt"), "--csv", str(tmp_path / "away/times.csv")]) == 1
    caught = capsys.readouterr()
    assert not caught.out and "there is no folder" in caught.err
    assert command.main([str(tmp_path / "net.prototxt"), "--csv", os.devnull]) == 1
    assert "a device or a pipe" in capsys.readouterr().err and not os.path.isfile(os.devnull)


def test_phase_and_stage_choose_the_layers(tmp_path, capsys):
    path = tmp_path / "net.prototxt"
    make_net(
        input_layer("data", 1, 2),
        layer("train", "ReLU", "data", more="include { phase: TRAIN }"),
        layer("test", "ReLU", "data", more='include { phase: TEST stage: "extra" }'),
        path=path,
    )
    assert command.main([str(path), "--iterations", "1"]) == 0
    assert "train " in capsys.readouterr().out
    assert command.main([str(path), "--iterations", "1", "--phase", "TEST", "--stage", "other,extra"]) == 0
    text = capsys.readouterr().out
    assert "test " in text and "train " not in text


def test_a_device_that_is_not_there(tmp_path, capsys):
    make_net(*NET, path=tmp_path / "net.prototxt")
    assert command.main([str(tmp_path / "net.prototxt"), "--device", "toaster"]) == 1
    assert capsys.readouterr().err == "error: device 'toaster' is unknown. Use cpu, cuda or cuda:N.\n"


@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_data_layers_run(phase, monkeypatch, tmp_path):
    from small_stages import write_stages

    from fcn_caffe import Net

    monkeypatch.chdir(write_stages(tmp_path))
    times = {each.name: each for each in time_net(Net("nets/coarse.prototxt", phase), 1).layers}
    assert times["data"].forward > 0 and times["data"].backward == 0 and times["conv"].backward > 0


def test_the_net_may_be_given_as_caffe_time_has_it(tmp_path, capsys):
    net = tmp_path / "net.prototxt"
    net.write_text("".join(NET))
    for wrong in ([], [str(net), "--model", str(net)]):
        with pytest.raises(SystemExit):
            command.main(wrong)
        assert "give the net once" in capsys.readouterr().err
    assert command.main(["-model", str(net), "--iterations", "1"]) == 0
    assert "Average Forward pass" in capsys.readouterr().out
