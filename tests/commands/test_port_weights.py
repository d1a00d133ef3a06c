"""port_weights: every form into every form, the report, the record of preprocessing, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import GOLDEN, ROOT

from fcn_caffe import DataError, Net, WeightsError
from fcn_caffe.commands import infer, port_weights, score
from fcn_caffe.evaluation.net_inputs import check_preprocessing, known_preprocessing, net_preprocessing
from fcn_caffe.models.published import PUBLISHED
from fcn_caffe.weights.record import Preprocessing, differences, read_preprocessing, record_path, write_preprocessing
from fcn_caffe.weights.transfer import ABSENT, load_weights, save_weights

FORMATS = GOLDEN / "formats"
NETS = ROOT / "nets"
ENDINGS = (".caffemodel", ".caffemodel.h5", ".safetensors", ".pth", ".npz")
SMALL = {"score": [np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1), np.float32([1, 2])]}
SCORE = (
    'layer { name: "score" type: "Convolution" bottom: "data" top: "score" convolution_param { %s kernel_size: 1 } }'
)
INPUT = 'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 4 dim: 4 } } }'
IMAGES = (
    'layer { name: "data" type: "ImageData" top: "data" top: "label" include { not_stage: "deploy" } '
    'image_data_param { source: "x" } transform_param { %s } }\n'
    'layer { name: "in" type: "Input" top: "data" include { stage: "deploy" } '
    "input_param { shape { dim: 1 dim: 3 dim: 4 dim: 4 } } }"
)


def port(*arguments: Any) -> int:
    return port_weights.main([str(argument) for argument in arguments])


def net_file(folder: Path, data: str = INPUT, options: str = "num_output: 2") -> Path:
    path = folder / "net.prototxt"
    path.write_text(f'name: "small"\n{data}\n{SCORE % options}\n')
    return path


def record_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(record_path(path).read_text())
    return found


# -- the weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ENDINGS)
@pytest.mark.parametrize("target", ENDINGS)
def test_every_form_into_every_form(tmp_path: Path, source: str, target: str) -> None:
    save_weights(tmp_path / f"a{source}", SMALL, "small")
    assert port(tmp_path / f"a{source}", tmp_path / f"b{target}") == 0
    found = load_weights(tmp_path / f"b{target}")
    assert list(found) == ["score"] and all(map(np.array_equal, found["score"], SMALL["score"]))
    record = record_of(tmp_path / f"b{target}")
    assert record["source"] == f"a{source}"
    assert record["sha256"] == hashlib.sha256((tmp_path / f"a{source}").read_bytes()).hexdigest()
    assert set(record) == {
        *("channel_order", "mean", "mean_file", "scale", "classes", "colors", "source", "sha256", "format"),
    }


def test_report_without_a_net(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert port(FORMATS / "v1.caffemodel", tmp_path / "x.npz") == 0
    assert capsys.readouterr().out == (
        f"{FORMATS / 'v1.caffemodel'} (caffemodel): 2 layers, 4 blobs, 437 values\n"
        "  conv  4x3x3x3, 1x1x1x4\n"
        "  ip    1x1x5x64, 1x1x1x5\n"
        f"wrote {tmp_path / 'x.npz'} (npz)\n"
        f"wrote {tmp_path / 'x.npz'}.preprocessing.json: "
        "channels not known, mean not known, scale not known, classes not known\n"
    )


def test_with_a_net_old_shapes_become_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "x.safetensors"
    assert port(FORMATS / "v1.caffemodel", target, "--net", FORMATS / "modern.prototxt") == 0
    out = capsys.readouterr().out
    assert "modern.prototxt: copied 2: conv, ip\ncoerced 3: conv blob 1 1x1x1x4 to 4; " in out
    assert [blob.shape for blob in load_weights(target)["ip"]] == [(5, 64), (5,)]


def test_names_and_types_survive(tmp_path: Path) -> None:
    assert port(FORMATS / "v1.caffemodel", tmp_path / "a.safetensors") == 0
    assert port(tmp_path / "a.safetensors", tmp_path / "b.caffemodel") == 0
    from fcn_caffe.weights.formats import CAFFEMODEL

    assert CAFFEMODEL.names(tmp_path / "b.caffemodel") == ("small", {"conv": "Convolution", "ip": "InnerProduct"})


def test_a_net_orders_and_keeps_what_it_does_not_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_weights(tmp_path / "a.npz", {"extra": [np.float32([5])], **SMALL})
    assert port(tmp_path / "a.npz", tmp_path / "b.npz", "--net", net_file(tmp_path)) == 0
    assert "ignored 1 the net does not have: extra" in capsys.readouterr().out
    found = load_weights(tmp_path / "b.npz")
    assert list(found) == ["score", "extra"] and found["extra"][0] == 5


def test_shared_blobs_are_filled_in_by_the_net(tmp_path: Path) -> None:
    shared = 'param { name: "w" } convolution_param { num_output: 3 kernel_size: 1 }'
    layers = (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" {shared} }}'
        for name, bottom in (("a", "data"), ("b", "a"))
    )
    (tmp_path / "net.prototxt").write_text("\n".join((INPUT, *layers)))
    kernel = np.arange(9, dtype=np.float32).reshape(3, 3, 1, 1)
    bias = np.float32([1, 2, 3])
    save_weights(tmp_path / "a.h5", {"a": [kernel, bias], "b": [ABSENT, bias]})
    assert port(tmp_path / "a.h5", tmp_path / "b.caffemodel") == 1
    assert port(tmp_path / "a.h5", tmp_path / "b.caffemodel", "--net", tmp_path / "net.prototxt") == 0
    assert np.array_equal(load_weights(tmp_path / "b.caffemodel")["b"][0], kernel)


def test_over_the_input(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.caffemodel", SMALL)
    assert port(tmp_path / "a.caffemodel", tmp_path / "a.caffemodel", "--scale", "2") == 0
    assert np.array_equal(load_weights(tmp_path / "a.caffemodel")["score"][0], SMALL["score"][0])


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("b.onnx", [], "b.onnx: the ending names no weight format. Known: .caffemodel.h5, "),
        ("no/b.npz", [], "no/b.npz: there is no folder "),
        ("b.npz", ["--net", "other.prototxt"], "layer 'score' blob 0 is 2x3x1x1, the net wants 5x3x1x1."),
        ("b.npz", ["--net", "none.prototxt"], "none of its layers is in none.prototxt."),
        ("b.npz", ["--mean", "1", "b"], "--mean 1 b: wanted numbers, or one mean file."),
        ("b.npz", ["--mean", "none.binaryproto"], "none.binaryproto"),
        ("b.npz", ["--scale", "0"], "--scale 0: all inputs would be 0, or turned round. Give a number above 0."),
        ("b.npz", ["--stage", "deploy"], "--stage is of a net: give --net too, or leave --stage out."),
    ],
)
def test_refusals_write_nothing(
    tmp_path: Path,
    target: str,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    save_weights("a.npz", SMALL)
    net_file(tmp_path, options="num_output: 5").rename("other.prototxt")
    Path("none.prototxt").write_text(INPUT)
    before = sorted(os.listdir())
    assert port("a.npz", target, *options) == 1
    assert message in capsys.readouterr().err
    assert sorted(os.listdir()) == before


# -- the record ------------------------------------------------------------------------------------------------------


def test_the_options_are_the_record(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.npz", SMALL)
    (tmp_path / "names.txt").write_text("0: sky\n1: sea\n")
    options = ("--mean", 104, 117, 123.5, "--scale", 0.5, "--channel-order", "rgb", "--classes", tmp_path / "names.txt")
    assert port(tmp_path / "a.npz", tmp_path / "b.npz", *options) == 0
    found = read_preprocessing(tmp_path / "b.npz")
    assert found is not None
    assert found == Preprocessing("RGB", (104, 117, 123.5), None, 0.5, ("sky", "sea"), "a.npz", found.sha256, "npz")
    # The next one takes it over, but for where it comes from and what is said anew.
    assert port(tmp_path / "b.npz", tmp_path / "c.pth", "--classes", "land", "sea") == 0
    later = read_preprocessing(tmp_path / "c.pth")
    assert later is not None and later.mean == found.mean and later.classes == ("land", "sea")
    assert (later.source, later.format) == ("b.npz", "npz")


def test_a_mean_file_is_averaged(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.npz", SMALL)
    assert port(tmp_path / "a.npz", tmp_path / "b.npz", "--mean", FORMATS / "mean.binaryproto") == 0
    found = read_preprocessing(tmp_path / "b.npz")
    with np.load(FORMATS / "expected.npz") as golden:
        wanted = golden["mean"].mean((1, 2))
    assert found is not None and found.mean_file == "mean.binaryproto"
    np.testing.assert_allclose(found.mean, wanted, rtol=1e-6)
    assert port(tmp_path / "b.npz", tmp_path / "c.npz", "--mean", 3) == 0
    later = read_preprocessing(tmp_path / "c.npz")
    assert later is not None and (later.mean, later.mean_file) == ((3.0,), None)


def test_published_files_are_known_by_name(tmp_path: Path) -> None:
    wanted = Preprocessing("BGR", (104.00699, 116.66877, 122.67892), scale=1.0)
    assert known_preprocessing("somewhere/VGG_ILSVRC_16_layers.caffemodel") == wanted
    assert known_preprocessing("mine.caffemodel") == Preprocessing()
    assert known_preprocessing("nyud-fcn32s-hha.caffemodel") == Preprocessing()  # HHA, not a photograph
    assert sum(known_preprocessing(file.file).mean is not None for file in PUBLISHED.values()) >= 15
    save_weights(tmp_path / "vgg16fc.caffemodel", SMALL)
    assert port(tmp_path / "vgg16fc.caffemodel", tmp_path / "x.npz") == 0
    found = read_preprocessing(tmp_path / "x.npz")
    assert found is not None and (found.mean, found.channel_order, found.scale) == (wanted.mean, "BGR", 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no record of preprocessing ("),
        ("[]", "is no record of preprocessing but []."),
        ('{"mean": "104"}', 'mean should be a list of numbers, or null; it is "104". Correct it'),
        ('{"mean": [1, NaN]}', "mean should be a list of numbers, or null; it is [1, NaN]"),
        ('{"mean": [1%s, 1, 1]}' % ("0" * 400), "mean should be a list of numbers, or null; it is [1000"),
        ('{"scale": 1%s}' % ("0" * 400), "scale should be a number, or null; it is 1000"),
        ('{"channel_order": "GRB"}', 'channel_order should be "BGR" or "RGB", or null; it is "GRB"'),
        ('{"scale": true}', "scale should be a number, or null; it is true"),
        ('{"classes": [1]}', "classes should be a list of names"),
        (r'{"classes": ["\ud800"]}', "classes should be a list of names"),
        ('{"colors": [[0, 0, 256]]}', "colors should be a list of [red"),
        ('{"colors": [[0, 0]]}', "colors should be"),
        ('{"colors": [[0, true, 0]]}', "colors should be"),
        ('{"source": 1}', "source should be the name of a file"),
        ('{"means": []}', "\"means\" is no field of a record of preprocessing. Did you mean 'mean'?"),
        ("[" * 100000, "is no record of preprocessing ("),
    ],
)
def test_spoilt_records(tmp_path: Path, content: str, message: str) -> None:
    record_path(tmp_path / "a.npz").write_text(content)
    with pytest.raises(WeightsError) as caught:
        read_preprocessing(tmp_path / "a.npz")
    assert str(caught.value).startswith(str(record_path(tmp_path / "a.npz"))) and message in str(caught.value)


def test_a_record_that_an_editor_put_a_mark_before(tmp_path: Path) -> None:
    record_path(tmp_path / "a.npz").write_text('{"classes": ["ground", "horse"]}', "utf-8-sig")
    assert read_preprocessing(tmp_path / "a.npz") == Preprocessing(classes=("ground", "horse"))


def test_colours_of_classes(tmp_path: Path) -> None:
    record = Preprocessing("RGB", classes=("ground", "horse"), colors=((0, 0, 0), (200, 30, 0)))
    write_preprocessing(tmp_path / "a.npz", record)
    assert record_of(tmp_path / "a.npz")["colors"] == [[0, 0, 0], [200, 30, 0]]
    assert read_preprocessing(tmp_path / "a.npz") == record


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ({}, {"mean": (1.0,), "scale": 2.0, "channel_order": "BGR"}, []),
        ({"mean": (104.00699, 116.66877, 122.67892)}, {"mean": (104, 117, 123)}, []),
        ({"mean": (104, 117, 123)}, {"mean": (123, 117, 104)}, ["mean 104 117 123, not 123 117 104"]),
        ({"mean": (104, 117, 123)}, {"mean": ()}, ["mean 104 117 123, not none"]),
        ({"mean": ()}, {"mean": (0, 0, 0)}, []),
        ({"mean": (7,)}, {"mean": (7, 7, 7)}, []),
        ({"mean": (7, 7)}, {"mean": (7, 7, 7)}, ["mean 7 7, not 7 7 7"]),
        ({"scale": 0.00390625}, {"scale": 0.0039}, []),
        ({"scale": 0.00390625}, {"scale": 1.0}, ["scale 0.00390625, not 1"]),
        ({"channel_order": "RGB"}, {"channel_order": "BGR"}, ["channels RGB, not BGR"]),
        ({"classes": ("a", "b")}, {"classes": ("b", "a")}, ["2 classes (a, b), not b, a"]),
    ],
)
def test_what_contradicts(first: dict[str, Any], second: dict[str, Any], found: list[str]) -> None:
    assert differences(Preprocessing(**first), Preprocessing(**second)) == found


VGG = (104.00699, 116.66877, 122.67892)


@pytest.mark.parametrize(
    ("mean", "fits"),
    [((116.190, 97.203, 92.318), True), ((123.68, 116.779, 103.939), False), ((), False), ((0.41, 0.46, 0.48), False)],
)
def test_what_contradicts_weights_that_training_starts_from(mean: tuple[float, ...], fits: bool) -> None:
    """The paper's NYUDv2 nets start from VGG and have their data set's mean; turned channels are a mistake as ever."""
    found = differences(Preprocessing(mean=VGG), Preprocessing(mean=mean), starts=True)
    assert (found == []) == fits
    assert differences(Preprocessing(mean=VGG), Preprocessing(mean=mean))


@pytest.mark.parametrize("name", ["nyud-fcn32s-color", "siftflow-fcn32s", "pascalcontext-fcn32s"])
def test_the_papers_nets_start_from_vgg(name: str) -> None:
    theirs = net_preprocessing(NETS / f"{name}.prototxt")
    assert differences(known_preprocessing("vgg16fc.caffemodel"), theirs, starts=True) == []


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (INPUT, Preprocessing()),
        (IMAGES % "", Preprocessing("BGR", (), None, 1.0)),
        (IMAGES % "mean_value: 104 mean_value: 117 scale: 0.5", Preprocessing("BGR", (104, 117), None, 0.5)),
        (IMAGES.replace("ImageData", "Data").replace("image_data_param", "data_param") % "scale: 0.25",
         Preprocessing(None, (), None, 0.25)),
    ],
)  # fmt: skip
def test_what_a_net_does(tmp_path: Path, data: str, wanted: Preprocessing) -> None:
    assert net_preprocessing(net_file(tmp_path, data)) == wanted


def test_what_a_net_does_with_mean_files_and_classes(tmp_path: Path) -> None:
    path = net_file(tmp_path, IMAGES % 'mean_file: "mean.binaryproto"')
    with pytest.raises(DataError, match=r"mean\.binaryproto"):
        net_preprocessing(path)
    (tmp_path / "mean.binaryproto").write_bytes((FORMATS / "mean.binaryproto").read_bytes())
    (tmp_path / "classes.txt").write_text("0: sky\n1: sea\n")
    found = net_preprocessing(path)
    assert (found.mean_file, found.classes) == ("mean.binaryproto", ("sky", "sea"))
    assert found.mean is not None and len(found.mean) == 3


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("voc-fcn8s", (104.00699, 116.66877, 122.67892)),
        ("siftflow-fcn8s", (114.578, 115.294, 108.353)),
        ("nyud-fcn32s-color", (116.190, 97.203, 92.318)),
        ("nyud-fcn32s-hha", None),
    ],
)
def test_the_papers_nets(name: str, mean: tuple[float, ...] | None) -> None:
    assert net_preprocessing(NETS / f"{name}.prototxt").mean == mean
    assert not differences(known_preprocessing(f"{name}.caffemodel"), net_preprocessing(NETS / f"{name}.prototxt"))


# -- against a net ---------------------------------------------------------------------------------------------------


def test_a_net_that_makes_other_inputs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_weights(tmp_path / "a.npz", SMALL)
    net = net_file(tmp_path, IMAGES % "mean_value: 104 mean_value: 117 mean_value: 123 scale: 0.5")
    arguments = (
        tmp_path / "a.npz",
        tmp_path / "b.npz",
        "--net",
        net,
        "--mean",
        123,
        117,
        104,
        "--channel-order",
        "RGB",
    )
    assert port(*arguments) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'a.npz'}: was made for other inputs than {net} gives: channels RGB, not BGR; "
        "mean 123 117 104, not 104 117 123. Change the net's data layer or the record; "
        "--ignore-preprocessing goes on as it is.\n"
    )
    assert not (tmp_path / "b.npz").exists() and not record_path(tmp_path / "b.npz").exists()
    assert port(*arguments, "--ignore-preprocessing") == 0
    assert read_preprocessing(tmp_path / "b.npz").mean == (123, 117, 104)  # type: ignore[union-attr]
    with pytest.raises(WeightsError, match="was made for other inputs"):
        check_preprocessing(tmp_path / "b.npz", net)
    check_preprocessing(tmp_path / "a.npz", net)  # no record, nothing to contradict


def test_score_and_infer_look_at_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = tmp_path / "net.prototxt"
    options = {"split": "val", "count": 2, "mean": (1, 2, 3)}
    net.write_text(
        'layer { name: "data" type: "Python" top: "data" top: "label" include { not_stage: "deploy" } python_param {\n'
        f'  module: "shapes_layers" layer: "ShapesSegData" param_str: "{options}" }} }}\n'
        'layer { name: "data" type: "Input" top: "data" include { stage: "deploy" }\n'
        "  input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }\n" + SCORE % "num_output: 6"
    )
    weights = tmp_path / "a.npz"
    built = Net(net, stages=("deploy",))
    save_weights(weights, {name: [blob.detach().numpy() for blob in blobs] for name, blobs in built.params.items()})
    write_preprocessing(weights, Preprocessing("BGR", (9.0, 2.0, 3.0)))
    (tmp_path / "photos").mkdir()
    from PIL import Image

    Image.new("RGB", (5, 4)).save(tmp_path / "photos" / "a.png")
    segment = [str(tmp_path / "photos"), "--net", str(net), "--weights", str(weights), "--out", str(tmp_path / "out")]
    for main, arguments in ((infer.main, segment), (score.main, [str(net), "--weights", str(weights)])):
        assert main(arguments) == 1
        assert "was made for other inputs than" in capsys.readouterr().err
        assert main([*arguments, "--ignore-preprocessing"]) == 0
    assert infer.main([*segment, "--mean", "9", "2", "3"]) == 0


def test_the_nets_data_layer_fills_in_what_is_not_known(tmp_path: Path) -> None:
    save_weights(tmp_path / "x.caffemodel", SMALL)
    net = net_file(tmp_path, IMAGES % "mean_value: 10 mean_value: 20 mean_value: 30 scale: 0.5")
    assert port(tmp_path / "x.caffemodel", tmp_path / "y.npz", "--net", net, "--scale", 0.5) == 0
    found = record_of(tmp_path / "y.npz")
    assert (found["channel_order"], found["mean"], found["scale"]) == ("BGR", [10, 20, 30], 0.5)


@pytest.mark.parametrize(("blobs", "kind"), [(2, "SegNetBN"), (4, "PSPNetBN")])
def test_weights_say_whose_bn_a_net_has(tmp_path: Path, blobs: int, kind: str) -> None:
    """`type: "BN"` without a field: two blobs are SegNet's, four PSPNet's."""
    (tmp_path / "net.prototxt").write_text(INPUT + 'layer { name: "bn" type: "BN" bottom: "data" top: "bn" }')
    values = [np.full((1, 3, 1, 1), number, np.float32) for number in range(1, blobs + 1)]
    save_weights(tmp_path / "a.caffemodel", {"bn": values})
    assert port(tmp_path / "a.caffemodel", tmp_path / "b.npz", "--net", tmp_path / "net.prototxt") == 0
    net = Net(tmp_path / "net.prototxt", blob_counts={"bn": blobs})
    assert type(net.layer("bn")).__name__ == kind
    assert [float(blob.max()) for blob in load_weights(tmp_path / "b.npz")["bn"]] == list(range(1, blobs + 1))


@pytest.mark.parametrize("words", [["--mean", "nan", "1", "2"], ["--mean", "1e999"], ["--scale", "inf"]])
def test_numbers_of_a_record_are_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    save_weights(tmp_path / "a.caffemodel", SMALL)
    status: object
    try:
        status = port(tmp_path / "a.caffemodel", tmp_path / "x.npz", *words)
    except SystemExit as error:
        status = error.code
    assert status in (1, 2) and words[1] in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.caffemodel"]
