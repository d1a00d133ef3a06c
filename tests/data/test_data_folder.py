"""FolderSegData: what it gives, in which order, and the error for every kind of broken folder."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from data_layers import start as start_layer
from data_layers import step
from PIL import Image

from fcn_caffe.data.readers.image_files import image_size, read_image
from fcn_caffe.data.sets.folder_layers import FolderSegData
from fcn_caffe.errors import DataError, SolverError
from fcn_caffe.host.paths import DATA_ROOT_VARIABLE
from fcn_caffe.layers.python import Blob
from fcn_caffe.net.net import Net
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.proto.phases import TEST
from fcn_caffe.training.solver import Solver, settings


def start(**options):
    return start_layer(FolderSegData, 2, **options)


@pytest.fixture
def folder(tmp_path):
    """Three images of different sizes, labels 0, 1 and void; returns the options of a layer."""
    generator = np.random.RandomState(0)
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for name, (height, width) in {"a": (4, 6), "b": (5, 3), "c": (2, 2)}.items():
        image = generator.randint(0, 256, (height, width, 3)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / f"{name}.png")
        label = generator.choice([0, 1, 255], (height, width)).astype(np.uint8)
        Image.fromarray(label).save(tmp_path / "labels" / f"{name}.png")
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_text("a\nb\n\nc\n")
    return {
        "images": str(tmp_path / "images"),
        "labels": str(tmp_path / "labels"),
        "split": str(tmp_path / "val.txt"),
        "mean": (1, 2, 3),
        "classes": 2,
    }


def test_gives_bgr_minus_mean_and_labels_in_order(folder):
    layer, blobs = start(**folder)
    for name in "abca":
        data, label = step(layer, blobs)
        assert layer.name == name and data.dtype == label.dtype == np.float32
        rgb = np.asarray(Image.open(f"{folder['images']}/{name}.png")).astype(np.float32)
        assert np.array_equal(data[0], (rgb[:, :, ::-1] - [1, 2, 3]).transpose(2, 0, 1))
        assert np.array_equal(label[0, 0], np.asarray(Image.open(f"{folder['labels']}/{name}.png")))
    assert len(layer) == 3


def test_training_order_is_the_references(folder):
    folder["split"] = folder["split"].replace("val", "train")
    layer, blobs = start(**folder, seed=7)
    order = [(step(layer, blobs), layer.name)[1] for _ in range(20)]
    # Once in setup, once after each forward: image t is draw t. Python 2's randint(0, n - 1) is int(random() * n).
    draws = random.Random(7)
    assert order == ["abc"[int(draws.random() * 3)] for _ in range(20)]
    assert len(set(order)) == 3


def test_other_users_of_random_do_not_shift_the_order(folder):
    folder["split"] = folder["split"].replace("val", "train")
    runs = []
    for disturb in (False, True):
        layer, blobs = start(**folder)
        runs.append([])
        for _ in range(8):
            if disturb:
                random.random()
            step(layer, blobs)
            runs[-1].append(layer.name)
    assert runs[0] == runs[1]


@pytest.mark.parametrize("split", ["train", "val"])
def test_state_resumes_the_order(folder, split):
    folder["split"] = folder["split"].replace("val", split)
    layer, blobs = start(**folder)
    for _ in range(5):
        step(layer, blobs)
    state = json.loads(json.dumps(layer.get_state()))
    expected = [step(layer, blobs)[0].tolist() for _ in range(9)]
    resumed, blobs = start(**folder)
    resumed.set_state(state)
    assert [step(resumed, blobs)[0].tolist() for _ in range(9)] == expected
    state["count"] = 4
    with pytest.raises(DataError, match="data order is for a split of 4 images, this one has 3"):
        resumed.set_state(state)


def test_runs_inside_a_net(folder):
    text = f"""
    layer {{ name: "data" type: "Python" top: "data" top: "label" python_param {{
      module: "folder_layers" layer: "FolderSegData" param_str: "{folder}" }} }}
    """
    net = Net(parse_text(text, caffe_pb2.NetParameter), TEST)
    shapes = [tuple(net(keep=("data",))["data"].shape) for _ in range(3)]
    assert shapes == [(1, 3, 4, 6), (1, 3, 5, 3), (1, 3, 2, 2)]
    assert net.data_state()["data"]["index"] == 0


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA", "CMYK", "I;16"])
def test_image_modes_become_three_channels(folder, mode):
    path = Path(folder["images"], "a.png")
    grey = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) * 10)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 256)
    else:
        image = grey.convert("RGB").convert(mode) if mode == "CMYK" else grey.convert(mode)
    path.unlink()
    image.save(path.with_suffix(".tif" if mode == "CMYK" else ".png"))
    layer, blobs = start(**{**folder, "mean": (0, 0, 0)})
    data, _ = step(layer, blobs)
    assert data.shape == (1, 3, 4, 6)
    expected = np.asarray(image.convert("L")) if mode == "1" else np.asarray(grey)
    assert np.abs(data[0] - expected).max() <= (1 if mode == "CMYK" else 0)


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_label_modes_keep_their_numbers(folder, mode):
    label = np.array([[0, 1], [255, 1]])
    if mode == "P":
        image = Image.fromarray(label.astype(np.uint8))
        image.putpalette([7, 7, 7] * 256)
    else:
        image = Image.fromarray(label.astype(np.uint16 if mode == "I;16" else np.uint8))
    image.save(Path(folder["labels"], "c.png"))
    layer, blobs = start(**folder)
    step(layer, blobs), step(layer, blobs)
    assert np.array_equal(step(layer, blobs)[1][0, 0], label)


def test_colour_coded_labels_through_a_mapping(folder, tmp_path):
    (tmp_path / "mapping.txt").write_text("# colours\n0 0 0: 0\n10 20 30: 1  # horse\n255 255 255: 255\n")
    colours = np.array([[[0, 0, 0], [10, 20, 30]], [[255, 255, 255], [0, 0, 0]]], np.uint8)
    Image.fromarray(colours).save(Path(folder["labels"], "c.png"))
    (tmp_path / "val.txt").write_text("c\n")
    layer, blobs = start(**folder, mapping=str(tmp_path / "mapping.txt"))
    assert step(layer, blobs)[1].tolist() == [[[[0, 1], [255, 0]]]]
    Image.fromarray(colours).quantize(4).save(Path(folder["labels"], "c.png"))  # the same colours through a palette
    layer, blobs = start(**folder, mapping=str(tmp_path / "mapping.txt"))
    assert step(layer, blobs)[1].tolist() == [[[[0, 1], [255, 0]]]]
    colours[0, 0] = (9, 9, 9)
    Image.fromarray(colours).save(Path(folder["labels"], "c.png"))
    with pytest.raises(DataError, match=r"c\.png: colour 9 9 9 \(1 pixels\) has no rule in the label mapping"):
        start(**folder, mapping=str(tmp_path / "mapping.txt"))


def test_exif_orientation_is_applied_to_photographs(folder):
    Path(folder["images"], "a.png").unlink()
    turned = Image.fromarray(np.zeros((6, 4, 3), np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    turned.save(Path(folder["images"], "a.jpg"), exif=exif)
    layer, blobs = start(**folder)
    assert step(layer, blobs)[0].shape == (1, 3, 4, 6)
    assert layer.largest_image() == ("a", 4, 6)


def test_a_png_that_notes_its_turn_behind_its_pixels(tmp_path: Path) -> None:
    path, exif = tmp_path / "a.png", Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((6, 4, 3), np.uint8)).save(path, exif=exif)
    data, chunks = path.read_bytes(), []
    place = 8
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        chunks.append(data[place:end])
        place = end
    chunks.sort(key=lambda chunk: (b"IHDR", b"IDAT", b"eXIf", b"IEND").index(chunk[4:8]))
    path.write_bytes(data[:8] + b"".join(chunks))
    assert read_image(path).shape[:2] == image_size(path) == (4, 6)
    path.write_bytes(data[:8] + b"".join(chunks[:2])[:-6])  # cut off in its pixels
    assert image_size(path) == (6, 4)


def test_a_step_on_the_largest_image_has_to_fit(folder, monkeypatch):
    Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(Path(folder["images"], "c.png"))
    net = f"""
    layer {{ name: "data" type: "Python" top: "data" top: "label" python_param {{
      module: "fcn_caffe.data.sets.folder_layers" layer: "FolderSegData" param_str: "{folder}" }} }}
    layer {{ name: "score" type: "Convolution" bottom: "data" top: "score"
      convolution_param {{ num_output: 2 kernel_size: 1 }} }}
    layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss"
      loss_param {{ ignore_label: 255 }} }}"""
    param = parse_text('base_lr: 1 lr_policy: "fixed"', caffe_pb2.SolverParameter)
    param.net_param.CopyFrom(parse_text(net, caffe_pb2.NetParameter))
    solver = Solver(param)
    assert solver.net.blob_shapes["data"] == (1, 3, 4, 6)
    monkeypatch.setattr(settings, "free_bytes", lambda device: 10_000)
    with pytest.raises(SolverError, match=r"a training step on 1x3x40x30, image c, takes about .* free"):
        solver.refuse_too_large()


def test_data_root_takes_the_place_of_data(folder, monkeypatch, tmp_path):
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    layer, _ = start(**{**folder, "images": "../data/images", "labels": "labels", "split": "data/val.txt"})
    assert layer.indices == ["a", "b", "c"]


def spoil(folder, what):
    """Break the folder in one way; returns options to change."""
    images, labels = Path(folder["images"]), Path(folder["labels"])
    if what == "missing image":
        (images / "a.png").unlink()
    elif what == "missing label":
        (labels / "a.png").unlink()
    elif what == "not an image":
        (images / "a.png").write_text("hello")
    elif what == "cut short":
        whole = (images / "a.png").read_bytes()
        (images / "a.png").write_bytes(whole[: len(whole) - 30])
    elif what == "sizes":
        Image.fromarray(np.zeros((6, 4), np.uint8)).save(labels / "a.png")
    elif what == "range":
        Image.fromarray(np.full((4, 6), 2, np.uint8)).save(labels / "a.png")
    elif what == "colours":
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(labels / "a.png")
    elif what == "empty split":
        Path(folder["split"]).write_text("\n \n")
    return {
        "no folder": {"images": "/nowhere/images"},
        "no split": {"split": "/nowhere/val.txt"},
        "option": {"imagse": 1},
        "mean": {"mean": (1, 2)},
    }.get(what, {})


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing image", "images/a: no image of that name (tried .jpg, .jpeg, .png, "),
        ("missing label", "labels/a: no label of that name (tried .png, "),
        ("not an image", "images/a.png: not an image Pillow can read. Convert it, or take it out of the list."),
        ("cut short", "images/a.png: cannot be read ("),
        ("sizes", "labels/a.png: the label is 4x6, its image "),
        ("range", "labels/a.png: labels 2 (24 pixels) are out of range: expected 0 to 1 or 255 (void). Correct"),
        ("colours", "labels/a.png: is colour-coded (3 channels). Give a mapping file with lines `RED GREEN BLUE: "),
        ("empty split", "val.txt: the split is empty. It should have one image name on each line."),
        ("no folder", "/nowhere/images: no such folder of images (looked from "),
        ("no split", "/nowhere/val.txt: no such split file."),
        ("option", 'FolderSegData: param_str has an unknown option "imagse". Did you mean "images"?'),
        ("mean", "FolderSegData: mean should be 3 numbers, blue green red, got (1, 2)."),
    ],
)
def test_broken_folders(folder, what, message):
    changed = spoil(folder, what)
    with pytest.raises(DataError) as error:
        start(**{**folder, **changed})
    assert message in str(error.value)


def test_missing_option_and_bad_param_str(folder):
    del folder["labels"]
    with pytest.raises(DataError, match=r'param_str needs "labels"\. It has: images, split, mean, classes'):
        start(**folder)
    layer = FolderSegData.__new__(FolderSegData)
    layer.param_str = "{'images': "
    with pytest.raises(DataError, match="param_str is not a Python dict literal"):
        layer.setup([], [Blob(), Blob()])


def test_wrong_number_of_tops(folder):
    with pytest.raises(DataError, match=r"gives 2 tops \(data, label\), the net has 3"):
        start_layer(FolderSegData, 3, **folder)
