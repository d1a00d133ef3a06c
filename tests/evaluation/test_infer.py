"""Segmenting one's own photographs: any size, palette PNG and overlay, the net's own mean, errors by name."""

import numpy as np
import pytest
from PIL import Image

from fcn_caffe import TEST, Net
from fcn_caffe.commands.infer import main
from fcn_caffe.errors import DataError
from fcn_caffe.evaluation import find_files
from fcn_caffe.evaluation.infer import Segmenter, net_mean
from fcn_caffe.weights.record import Preprocessing, write_preprocessing
from fcn_caffe.weights.transfer import save_weights

# Class 1 where blue minus its mean is above zero: what comes out depends on channel order and mean.
WEIGHTS = {"score": [np.array([[0, 0, 0], [1, 0, 0]], np.float32).reshape(2, 3, 1, 1), np.zeros(2, np.float32)]}
NET = """
layer { name: "data" type: "Python" top: "data" top: "label" include { not_stage: "deploy" }
  python_param { module: "folder_layers" layer: "FolderSegData" param_str: "%s" } }
layer { name: "data" type: "Input" top: "data" include { stage: "deploy" }
  input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "score" type: "Convolution" bottom: "data" top: "score"
  convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss"
  include { not_stage: "deploy" } }
"""
OPTIONS = {"images": "i", "labels": "l", "split": "val.txt", "mean": (100, 50, 20)}


@pytest.fixture
def place(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET % OPTIONS)
    save_weights(tmp_path / "net.caffemodel", WEIGHTS)
    (tmp_path / "photos").mkdir()
    image = np.zeros((5, 9, 3), np.uint8)
    image[:, :, 0] = 255  # red everywhere; blue above its mean on the right
    image[:, 4:, 2] = 101
    Image.fromarray(image).save(tmp_path / "photos" / "wide.png")
    Image.fromarray(image[:, :, 2]).save(tmp_path / "photos" / "grey.png")
    return tmp_path


def run(place, *images, **options):
    named = {"net": place / "net.prototxt", "weights": place / "net.caffemodel", "out": place / "out", **options}
    arguments = [*images]
    for name, value in named.items():
        arguments += [f"--{name}", *(value if isinstance(value, tuple) else (value,))]
    return main([str(argument) for argument in arguments])


def test_folder_in_any_size(place, capsys):
    assert run(place, place / "photos") == 0
    assert sorted(path.name for path in (place / "out").iterdir()) == [
        *("grey.png", "grey_overlay.jpg", "wide.png", "wide_overlay.jpg")
    ]
    with Image.open(place / "out" / "wide.png") as image:
        label = np.asarray(image)
        assert image.mode == "P" and label.shape == (5, 9)
    assert (label[:, 4:] == 1).all() and (label[:, :4] == 0).all()
    assert "wide.png: 9x5" in capsys.readouterr().out


def test_voc_layout_for_images_without_labels(place, capsys):
    assert run(place, place / "photos", **{"voc-results": place / "server"}) == 1
    assert "one answer of 21 classes an image, the heads have 2" in capsys.readouterr().err
    (place / "net.prototxt").write_text((NET % OPTIONS).replace("num_output: 2", "num_output: 21"))
    weights = np.zeros((21, 3, 1, 1), np.float32)
    weights[15, 0] = 1
    save_weights(place / "net.caffemodel", {"score": [weights, np.zeros(21, np.float32)]})
    assert run(place, place / "photos", **{"voc-results": place / "server"}) == 0
    answers = place / "server/results/VOC2012/Segmentation/comp6_test_cls"
    assert sorted(path.name for path in answers.iterdir()) == ["grey.png", "wide.png"]
    with Image.open(answers / "wide.png") as image:
        label = np.asarray(image)
    assert (label[:, 4:] == 15).all() and (label[:, :4] == 0).all()


def test_mean_can_be_given(place):
    assert run(place, place / "photos" / "wide.png", mean=(101, 0, 0)) == 0
    with Image.open(place / "out" / "wide.png") as image:
        assert not np.asarray(image).any()


def test_exif_turned_photographs_come_out_upright(place):
    image = Image.fromarray(np.zeros((4, 6, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(place / "phone.jpg", exif=exif)
    assert run(place, place / "phone.jpg") == 0
    with Image.open(place / "out" / "phone.png") as label:
        assert label.size == (4, 6)


def test_mean_is_read_from_the_net(place):
    assert net_mean(place / "net.prototxt") == (100, 50, 20)
    default = {key: value for key, value in OPTIONS.items() if key != "mean"}
    (place / "plain.prototxt").write_text(NET % default)
    assert net_mean(place / "plain.prototxt") == (104.00699, 116.66877, 122.67892)
    (place / "bare.prototxt").write_text('input: "data" input_shape { dim: 1 dim: 3 dim: 4 dim: 4 }')
    assert net_mean(place / "bare.prototxt") is None


@pytest.mark.parametrize("type", ["DenseImageData", "ImageData", "ImageLabelmapData", "ImageSegData"])
def test_mean_of_layers_of_image_files(place, type):
    def mean(transform):
        text = f'layer {{ name: "data" type: "{type}" top: "data" top: "label" transform_param {{ {transform} }} }}'
        (place / "files.prototxt").write_text(text)
        return net_mean(place / "files.prototxt")

    assert mean("mean_value: 1 mean_value: 2 mean_value: 3.5") == (1, 2, 3.5)
    assert mean("mean_value: 7") == (7, 7, 7)
    assert mean("mirror: true") == (0, 0, 0)
    with pytest.raises(
        DataError, match=rf"files\.prototxt: layer 'data' \({type}\) multiplies images by scale 0\.5; only"
    ):
        mean("scale: 0.5")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "nowhere.png: no such image or folder."),
        ("empty folder", "empty: has no images (.jpg, "),
        ("unreadable", "text.png: not an image Pillow can read."),
        ("twice", "wide.png: is named twice, by itself or in a folder. Name it once."),
        ("classes", "score"),
        ("no mean", "the net does not say which mean its data layer subtracts. Give --mean B G R."),
    ],
)
def test_refusals(place, capsys, what, message):
    images, options = [place / "photos" / "wide.png"], {}
    if what == "missing":
        images = [place / "nowhere.png"]
    elif what == "empty folder":
        (place / "empty").mkdir()
        images = [place / "empty"]
    elif what == "unreadable":
        images = [place / "text.png"]
        images[0].write_text("no image")
    elif what == "twice":
        images = [place / "photos", place / "photos" / "wide.png"]
    elif what == "classes":
        save_weights(place / "net.caffemodel", {"score": [np.zeros((3, 3, 1, 1), np.float32), np.zeros(3, np.float32)]})
    elif what == "no mean":
        (place / "bare.prototxt").write_text('input: "data" input_shape { dim: 1 dim: 3 dim: 4 dim: 4 }')
        options["net"] = place / "bare.prototxt"
    assert run(place, *images, **options) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("ground # 1\n", "classes.txt:1: expected `INDEX: NAME`, got 'ground # 1'."),
        ("\u00b2: ground\n", "classes.txt:1: expected `INDEX: NAME`"),
        (f"{'1' * 5000}: ground\n", "classes.txt:1: expected `INDEX: NAME`"),
        ("# nothing\n", "classes.txt: names no class. Write lines of `INDEX: NAME`, or remove it."),
        ("1: ground\n", "classes.txt: class indices should run from 0 to 0 without gaps."),
    ],
)
def test_a_spoilt_class_card_is_told_although_the_record_has_names(place, capsys, card, message):
    (place / "classes.txt").write_text(card, "utf-8")
    write_preprocessing(place / "net.caffemodel", Preprocessing(classes=("ground", "cat")))
    assert run(place, place / "photos" / "wide.png") == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "shape"),
    [
        ('type: "Reduction" bottom: "data" top: "x"', "(scalar)"),
        ('type: "Flatten" bottom: "data" top: "x"', "1x192"),
        ('type: "Tile" bottom: "data" top: "x" tile_param { axis: 1 tiles: 86 }', "1x258x8x8"),
    ],
)
def test_blobs_that_are_no_scores_are_refused(place, capsys, more, shape):
    with open(place / "net.prototxt", "a") as file:
        file.write(f'layer {{ name: "x" {more} }}')
    assert run(place, place / "photos" / "wide.png", score="x") == 1
    assert f"blob 'x' is {shape}, and scores are N x classes x H x W of at most 256" in capsys.readouterr().err
    assert not (place / "out").exists()


def test_segmenter_refuses_nets_without_deploy_form(place, tmp_path):
    (tmp_path / "shapes.prototxt").write_text(
        """layer { name: "data" type: "Python" top: "data" top: "label" python_param {
          module: "shapes_layers" layer: "ShapesSegData" param_str: "{'split': 'val'}" } }"""
    )
    with pytest.raises(DataError, match="expected one input blob in its deploy form"):
        Segmenter(Net(tmp_path / "shapes.prototxt", TEST), (0, 0, 0))
    net = Net(place / "net.prototxt", TEST, stages=("deploy",))
    with pytest.raises(DataError, match=r"has no blob 'scores' to read scores from\. Its outputs: score"):
        Segmenter(net, (0, 0, 0), "scores")
    (place / "net.prototxt").write_text((NET % OPTIONS).replace("kernel_size: 1", "kernel_size: 3"))
    smaller = Segmenter(Net(place / "net.prototxt", TEST, stages=("deploy",)), (0, 0, 0))
    with pytest.raises(DataError, match=r"blob 'score' is 1x2x4x7 for an image of 6x9"):
        smaller(np.zeros((6, 9, 3), np.uint8))


def test_images_without_an_answer_leave_no_folder(place, capsys):
    (place / "torn.png").write_bytes(b"no image")
    assert run(place, place / "torn.png", out=place / "a" / "b") == 1
    assert "1 of 1 files have no answer" in capsys.readouterr().err and not (place / "a").exists()


def test_find_files_sorts_and_skips_others(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [file.path.name for file in find_files([tmp_path])] == ["a.png", "b.JPG"]
