"""Phase rules, wiring, last use, and what is said where a net does not fit together."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import input_layer, layer, make_net, net_param

from fcn_caffe import TEST, TRAIN, FcnCaffeError, Graph, GraphError, LayerError, Net, PrototxtError, read_net
from fcn_caffe.net.graph import filter_net, upgrade_whole_net
from fcn_caffe.proto import caffe_pb2, read_text, write_text
from fcn_caffe.proto.kept import has_forks

CONV = "convolution_param { num_output: 2 kernel_size: 3 %s }"
DATA = input_layer("data", 1, 3, 8, 8)
SCORE = input_layer("score", 1, 3, 4, 4)


def names(*rules: str, phase: int = TEST, stages: tuple[str, ...] = (), level: int = 0) -> list[str]:
    text = [layer(f"l{index}", "Split", "data", f"t{index}", rule) for index, rule in enumerate(rules)]
    kept = filter_net(net_param(DATA, *text), phase, stages, level)
    return [item.name for item in kept.layer if item.name != "data"]


def test_phase_level_and_stage_rules() -> None:
    assert names("include { phase: TRAIN }", "include { phase: TEST }", "exclude { phase: TEST }") == ["l1"]
    assert names("include { min_level: 1 }", "include { max_level: 1 }", "include { min_level: 2 max_level: 4 }") == [
        "l1"
    ]
    assert names("include { min_level: 1 }", "include { min_level: 2 max_level: 4 }", level=2) == ["l0", "l1"]
    assert names('include { stage: "a" stage: "b" }', stages=("a",)) == []
    assert names('include { stage: "a" stage: "b" }', 'exclude { not_stage: "a" }', stages=("a", "b")) == ["l0", "l1"]
    assert names('include { not_stage: "deploy" }', stages=("deploy",)) == []
    # One rule met is enough; rules of one kind are alternatives.
    assert names(
        "include { phase: TRAIN } include { phase: TEST }",
        "exclude { phase: TRAIN } exclude { level: 1 }".replace("level", "min_level"),
    ) == ["l0", "l1"]


def test_include_with_exclude_is_an_error() -> None:
    with pytest.raises(GraphError, match=r"layer 'l0' \(Split\): give include rules or exclude rules, not both"):
        names("include { phase: TEST } exclude { phase: TRAIN }")


def test_every_layer_takes_the_phase_of_the_net() -> None:
    kept = filter_net(net_param(DATA, layer("l", "Split", "data", "t", "phase: TRAIN")), TEST)
    assert [item.phase for item in kept.layer] == [TEST, TRAIN]


def test_a_nets_own_stages_are_in_and_its_phase_and_level_are_not() -> None:
    rules = ('include { stage: "own" stage: "given" }', "include { phase: TRAIN }", "include { min_level: 1 }")
    text = [layer(f"l{index}", "Split", "data", f"t{index}", rule) for index, rule in enumerate(rules)]
    param = net_param('state { stage: "own" phase: TRAIN level: 3 }', DATA, *text)
    kept = filter_net(param, TEST, ("given", "own"))
    assert [item.name for item in kept.layer] == ["data", "l0"]
    assert (list(kept.state.stage), kept.state.phase, kept.state.level) == (["own", "given"], TEST, 0)


def test_outputs_are_sorted() -> None:
    graph = Graph.from_param(
        net_param(DATA, layer("z", "ReLU", "data"), layer("a", "ReLU", "data"), layer("m", "ReLU", "z", "z"))
    )
    assert graph.outputs == ("a", "z")
    assert graph.inputs == ("data",)


def test_in_place_rebinds_and_is_overwritable() -> None:
    conv = layer("c", "Convolution", "data", more=CONV % "")
    alone = Graph.from_param(net_param(DATA, conv, layer("r", "ReLU", "c", "c")))
    assert alone.overwritable == {2}


def pooling(more: str) -> str:
    return DATA + layer("p", "Pooling", "data", more=f"pooling_param {{ {more} }}")


def crop(more: str = "") -> str:
    return DATA + SCORE + layer("c", "Crop", "data score", more=f"crop_param {{ {more} }}")


BAD = {
    "missing bottom": (DATA + layer("relu1", "ReLU", "conv9"), "layer 'relu1' (ReLU): bottom 'conv9' is not produced by an earlier layer. Layers run in file order."),
    "misspelt bottom": (DATA + layer("relu1", "ReLU", "dat"), "layer 'relu1' (ReLU): bottom 'dat' is not produced by an earlier layer. Layers run in file order. Did you mean 'data'?"),
    "bottom made later": (DATA + layer("a", "ReLU", "b") + layer("b", "ReLU", "data"), "layer 'a' (ReLU): bottom 'b' is not produced by an earlier layer. Layers run in file order: move the layer that makes it up."),
    "top made twice": (DATA + layer("a", "ReLU", "data", "x") + layer("b", "ReLU", "data", "x"), "layer 'b' (ReLU): top 'x' is already produced by layer 'a' (ReLU). Rename the top, or make the layer in place (top equal to bottom)."),
    "in place beside another reader": (DATA + layer("a", "ReLU", "data", "x") + layer("b", "ReLU", "x", "x") + layer("c", "ReLU", "data", "data"), "layer 'c' (ReLU): works in place on a blob that another layer reads too: top 'data' is read by layer 'a' (ReLU). Give the layer a top of its own."),
    "in place on a top with a loss weight": (DATA + layer("a", "ReLU", "data", "x", "loss_weight: 1") + layer("b", "ReLU", "x", "x"), "layer 'b' (ReLU): works in place on a blob that another layer reads too: top 'x' is read by the loss, by its loss_weight. Give the layer a top of its own."),
    "propagate_down count": (DATA + layer("a", "ReLU", "data", more="propagate_down: true propagate_down: true"), "layer 'a' (ReLU): propagate_down is given 2 times, wanted none or once for each of the 1 bottoms."),
    "unknown layer": (DATA + layer("a", "Convolutoin", "data"), "layer 'a' (Convolutoin): unknown layer type 'Convolutoin'. Did you mean 'Convolution'?"),
    "bottom count": (DATA + layer("a", "Crop", "data"), "layer 'a' (Crop): takes 2 bottom blob(s), got 1 (data)."),
    "top count": (DATA + layer("a", "ReLU", "data", "x y"), "layer 'a' (ReLU): takes 1 top blob(s), got 2 (x, y)."),
    "input shapes": ('layer { name: "i" type: "Input" top: "a" top: "b" top: "c" input_param { shape { dim: 1 } shape { dim: 1 } } }', "layer 'i' (Input): 2 shapes for 3 tops: give one for all, or one each."),
    "loss_weight count": (DATA + layer("a", "ReLU", "data", more="loss_weight: 1 loss_weight: 1"), "layer 'a' (ReLU): loss_weight is given 2 times for 1 tops. Give it once a top: `loss_weight: 1`."),
    "param count": (DATA + layer("a", "ReLU", "data", more="param { lr_mult: 1 }"), "layer 'a' (ReLU): has 1 param entries for 0 blobs. Drop the extra ones."),
    "kernel missing": (DATA + layer("c", "Convolution", "data", more="convolution_param { num_output: 2 }"), "layer 'c' (Convolution): kernel_size is missing: give kernel_size, or kernel_h and kernel_w."),
    "kernel twice": (DATA + layer("c", "Convolution", "data", more=CONV % "kernel_h: 3 kernel_w: 3"), "layer 'c' (Convolution): give kernel_size or kernel_h and kernel_w, not both."),
    "kernel count": (DATA + layer("c", "Convolution", "data", more=CONV % "kernel_size: 3 kernel_size: 3"), "layer 'c' (Convolution): kernel_size is given 3 times: give it once, or 2 times."),
    "stride zero": (DATA + layer("c", "Convolution", "data", more=CONV % "stride: 0"), "layer 'c' (Convolution): stride must be at least 1, got 0x0."),
    "num_output missing": (DATA + layer("c", "Convolution", "data", more="convolution_param { kernel_size: 3 }"), "layer 'c' (Convolution): num_output must be at least 1, got 0."),
    "group": (DATA + layer("c", "Convolution", "data", more=CONV % "group: 2"), "layer 'c' (Convolution): group 2 must divide the 3 channels and num_output 2."),
    "image below the kernel": (DATA + layer("c", "Convolution", "data", more=CONV % "dilation: 5"), "layer 'c' (Convolution): bottom of shape 1x3x8x8 is too small: with kernel extent 11 and pad 0 the output would have size -2. Use a larger input or more pad."),
    "axis": (DATA + layer("c", "Convolution", "data", more=CONV % "axis: 4"), "layer 'c' (Convolution): axis 4 is out of range for a 4-D bottom of shape 1x3x8x8."),
    "filler": (DATA + layer("c", "Convolution", "data", more=CONV % 'weight_filler { type: "xaver" }'), "layer 'c' (Convolution): filler type 'xaver' is unknown. Known: bilinear, constant, gaussian, msra, positive_unitball, uniform, xavier."),
    "deconvolution kernel": (DATA + layer("c", "Deconvolution", "data", more="convolution_param { num_output: 2 }"), "layer 'c' (Deconvolution): kernel_size is missing: give kernel_size, or kernel_h and kernel_w."),
    "pooling kernel": (pooling("stride: 2"), "layer 'p' (Pooling): give kernel_size, or kernel_h and kernel_w; got none."),
    "pooling pad": (pooling("kernel_size: 2 pad: 2"), "layer 'p' (Pooling): pad 2x2 must be smaller than the kernel 2x2."),
    "convolution tops": (DATA + layer("c", "Convolution", "data", "a b", CONV % ""), "layer 'c' (Convolution): has 2 tops for 1 bottoms: give one for each."),
    "pooling global": (pooling("kernel_size: 2 global_pooling: true"), "layer 'p' (Pooling): global_pooling takes the kernel from the bottom: take kernel_size out."),
    "pooling size": (pooling("kernel_size: 12 stride: 2"), "layer 'p' (Pooling): bottom 1x3x8x8 is smaller than the kernel 12x12: the output would be empty."),
    "pooling mask": (DATA + layer("p", "Pooling", "data", "p m", "pooling_param { pool: AVE kernel_size: 2 }"), "layer 'p' (Pooling): a second top (the mask) is only for pool: MAX."),
    "pooling rank": (input_layer("data", 4, 5) + layer("p", "Pooling", "data", more="pooling_param { kernel_size: 2 }"), "layer 'p' (Pooling): needs a 4-D bottom (N x C x H x W), got 4x5."),
    "eltwise shapes": (DATA + SCORE + layer("e", "Eltwise", "data score"), "layer 'e' (Eltwise): bottom 1 'score' is 1x3x4x4, bottom 0 'data' is 1x3x8x8. All must be equal: crop the larger."),
    "eltwise coeff": (DATA + layer("e", "Eltwise", "data data", more="eltwise_param { coeff: 1 }"), "layer 'e' (Eltwise): 1 coeff for 2 bottoms: give one each, or none."),
    "eltwise coeff kind": (DATA + layer("e", "Eltwise", "data data", more="eltwise_param { operation: PROD coeff: 1 coeff: 2 }"), "layer 'e' (Eltwise): coeff is only for operation: SUM."),
    "concat": (DATA + SCORE + layer("c", "Concat", "data score"), "layer 'c' (Concat): bottom 1 'score' is 1x3x4x4, bottom 0 is 1x3x8x8. All axes but 1 must be equal."),
    "concat axes": (DATA + layer("c", "Concat", "data", more="concat_param { axis: 1 concat_dim: 1 }"), "layer 'c' (Concat): give axis or concat_dim, not both."),
    "slice uneven": (DATA + layer("s", "Slice", "data", "a b"), "layer 's' (Slice): axis 1 of size 3 does not cut evenly into 2 tops; give slice_point."),
    "slice points": (DATA + layer("s", "Slice", "data", "a b", "slice_param { slice_point: 1 slice_point: 2 }"), "layer 's' (Slice): 2 slice_point for 2 tops, give 1."),
    "slice order": (DATA + layer("s", "Slice", "data", "a b", "slice_param { slice_point: 3 }"), "layer 's' (Slice): slice_point [3] must rise and stay inside axis 1 of size 3."),
    "crop offset": (crop("axis: 2 offset: 5"), "layer 'c' (Crop): axis 2 needs offset 5 + 4 = 9, 'data' has 8."),
    "crop offset with the map's advice": (DATA + layer("c", "Convolution", "data", more=CONV % "pad: 5") + layer("s", "Crop", "c data", more="crop_param { axis: 2 offset: 15 }"), "layer 's' (Crop): axis 2 needs offset 15 + 8 = 23, 'c' has 16. The coordinate map gives offset 4."),
    "crop offsets": (crop("axis: 1 offset: 1 offset: 2"), "layer 'c' (Crop): 2 offsets for 3 cropped axes: give one for all, or one each."),
    "reshape": (DATA + layer("r", "Reshape", "data", more="reshape_param { shape { dim: 5 dim: -1 } }"), "layer 'r' (Reshape): cannot infer -1 in [5, -1]: 192 values do not divide by 5."),
    "reshape count": (DATA + layer("r", "Reshape", "data", more="reshape_param { shape { dim: 5 } }"), "layer 'r' (Reshape): shape 5 does not hold the 192 values of 1x3x8x8. Correct a size, or set one to -1."),
    "reshape twice": (DATA + layer("r", "Reshape", "data", more="reshape_param { shape { dim: -1 dim: -1 } }"), "layer 'r' (Reshape): shape [-1, -1] has more than one -1. Keep one."),
    "flatten": (DATA + layer("f", "Flatten", "data", more="flatten_param { axis: 3 end_axis: 1 }"), "layer 'f' (Flatten): end_axis 1 comes before axis 3. Swap them."),
    "inner product": (DATA + layer("i", "InnerProduct", "data"), "layer 'i' (InnerProduct): num_output must be at least 1, got 0."),
    "scale": (DATA + SCORE + layer("s", "Scale", "data score", more="scale_param { axis: 0 }"), "layer 's' (Scale): bottom 1 is 1x3x4x4, bottom 0 is 1x3x8x8: from axis 0 on they must agree."),
    "scale axes": (DATA + layer("s", "Scale", "data", more="scale_param { axis: 2 num_axes: 3 }"), "layer 's' (Scale): axis 2 and num_axes 3 pass the end of 1x3x8x8."),
    "lrn": (DATA + layer("n", "LRN", "data", more="lrn_param { local_size: 4 }"), "layer 'n' (LRN): local_size must be odd, got 4."),
    "batch norm": (DATA + layer("b", "BatchNorm", "data", more="param { lr_mult: 1 } param { lr_mult: 0 } param { lr_mult: 0 } "), None),
    "softmax axis": (DATA + layer("s", "Softmax", "data", more="softmax_param { axis: 9 }"), "layer 's' (Softmax): axis 9 is out of range for a 4-D bottom of shape 1x3x8x8."),
    "label size": (DATA + SCORE + layer("l", "SoftmaxWithLoss", "data score"), "layer 'l' (SoftmaxWithLoss): score 1x3x8x8 has 64 positions, label 1x3x4x4 has 48 values. There must be one label per position: crop the score, or resize the label."),
    "accuracy top_k": (DATA + SCORE + layer("a", "Accuracy", "score score", more="accuracy_param { top_k: 5 }"), "layer 'a' (Accuracy): top_k 5 is more than the 3 classes. Lower it."),
    "python module": (DATA + layer("p", "Python", "data", more='python_param { module: "no_such_module_here" layer: "L" }'), "layer 'p' (Python): module 'no_such_module_here' was not found on sys.path or in fcn_caffe.data.sets. Set PYTHONPATH to its folder."),
    "python class": (DATA + layer("p", "Python", "data", more='python_param { module: "numpy" layer: "ndarray" }'), "layer 'p' (Python): module 'numpy' has no layer class 'ndarray' with setup, reshape, forward. Correct python_param."),
    "python's own module": (DATA + layer("p", "Python", "data", more='python_param { module: "antigravity" layer: "L" }'), "layer 'p' (Python): module 'antigravity' is Python's own and holds no layers. Name the module of the layer."),
    "python name": (DATA + layer("p", "Python", "data", more='python_param { module: "../x" layer: "L" }'), "layer 'p' (Python): python_param module '../x' is not a module name."),
}  # fmt: skip


@pytest.mark.parametrize("case", [case for case in BAD if BAD[case][1]])
def test_bad_nets_are_refused_when_building(case: str) -> None:
    text, message = BAD[case]
    with pytest.raises(FcnCaffeError) as caught:
        make_net(text)
    assert str(caught.value) == message


def test_a_layer_without_name_and_type() -> None:
    with pytest.raises(LayerError, match=r"^layer '' \(\): unknown layer type ''\. Known types: "):
        make_net(DATA + "layer {}")


def test_unknown_field_and_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "x.prototxt"
    path.write_text(DATA + 'layer {\n  name: "c" type: "Convolution"\n  convolution_param { kernl_size: 3 }\n}')
    with pytest.raises(PrototxtError, match=r'x\.prototxt:4:23: .*"kernl_size".*Did you mean "kernel_size"'):
        read_net(path)
    with pytest.raises(PrototxtError, match="expected the path of a net file, got a net's text"):
        read_net('name: "net" ' + 'layer { type: "Input" }' * 99)
    with pytest.raises(PrototxtError, match="no such net file"):
        read_net(tmp_path / "none.prototxt")


SHARED = 'param {{ name: "w" {} }} convolution_param {{ num_output: {} kernel_size: {} bias_term: false }}'


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (("", 3, 1), ("", 3, 3), r"layer 'b' \(Convolution\): shares param 'w' of shape 3x3x1x1 owned by layer 'a'"),
        (("", 3, 1), ("share_mode: PERMISSIVE", 3, 3), "shares param 'w' of 9 values owned by layer 'a', but wants 81"),
        (("lr_mult: 1", 3, 1), ("lr_mult: 2", 3, 1), "shares param 'w' with lr_mult 2, layer 'a' says 1"),
    ],
)
def test_sharing_that_does_not_fit(first: tuple[object], second: tuple[object], message: str) -> None:
    a = layer("a", "Convolution", "data", more=SHARED.format(*first))
    b = layer("b", "Convolution", "data", more=SHARED.format(*second))
    with pytest.raises(LayerError, match=message):
        make_net(DATA, a, b)


V1_CROP = """
input: "image" input_dim: 1 input_dim: 1 input_dim: 16 input_dim: 16
layers { type: CONVOLUTION name: "a" bottom: "image" top: "a"
         convolution_param { num_output: 2 kernel_size: 3 pad: 2 } }
layers { type: CROP name: "c" bottom: "a" bottom: "image" top: "c" }
layers { type: CONVOLUTION name: "b" bottom: "c" top: "b"
         convolution_param { num_output: 2 kernel_size: 5 pad: 5 } }
layers { type: CROP name: "d" bottom: "b" bottom: "image" top: "d" }
"""


def test_v1_crop_has_the_offset_of_the_coordinate_map(tmp_path: Path) -> None:
    """As in the first FCN release, whose Crop has no options."""
    path = tmp_path / "net.prototxt"
    path.write_text(V1_CROP)
    net = Net(path)
    assert [list(node.param.crop_param.offset) for node in net.graph.nodes if node.type == "Crop"] == [[1], [3]]
    assert net.blob_shapes["d"] == (1, 2, 16, 16)
    whole = upgrade_whole_net(read_text(path, caffe_pb2.NetParameter))
    assert 'type: "Crop"' in write_text(whole) and [list(layer.crop_param.offset) for layer in whole.layer[2::2]] == [
        [1],
        [3],
    ]
    assert not has_forks(whole)


def test_v1_crop_without_a_map_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(V1_CROP.replace("pad: 2", "pad: 0"))
    with pytest.raises(GraphError, match=r"layer 'c' \(Crop\).*nothing before the first pixel"):
        Net(path)
