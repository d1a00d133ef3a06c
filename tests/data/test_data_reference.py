"""The reference nets' data layers on small data sets in their real formats, written here, and on real SBD files."""

import random
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from data_layers import start, step
from PIL import Image
from places import SHARED

from fcn_caffe.data.prepare import DATA_SETS
from fcn_caffe.data.sets.nyud_layers import NYUDSegDataLayer
from fcn_caffe.data.sets.pascalcontext_layers import PASCALContextSegDataLayer
from fcn_caffe.data.sets.reference_layer import read_mat
from fcn_caffe.data.sets.siftflow_layers import SIFTFlowSegDataLayer
from fcn_caffe.data.sets.voc_layers import SBDDSegDataLayer, VOCSegDataLayer
from fcn_caffe.errors import DataError

SBD = SHARED / "data" / "samples" / "SBD"
SCENES = "spatial_envelope_256x256_static_8outdoorcategories"
SIZE = (3, 4)  # height, width


def photograph(path):
    """Write an image of noise; return what reading it gives, (3, H, W) BGR as float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.RandomState(3).randint(0, 256, (*SIZE, 3)).astype(np.uint8)).save(path)
    with Image.open(path) as image:
        return np.asarray(image)[:, :, ::-1].transpose(2, 0, 1).astype(np.float32)


def mat(path, **variables):
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, variables)


def lists(path, *names):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n")


def column(*mean):
    return np.array(mean, np.float32).reshape(3, 1, 1)


def test_voc(tmp_path):
    bgr = photograph(tmp_path / "JPEGImages" / "2007_000001.jpg")
    label = np.array([[0, 20, 255, 1], [3, 4, 5, 6], [0, 0, 0, 0]], np.uint8)
    (tmp_path / "SegmentationClass").mkdir()
    png = Image.fromarray(label)
    png.putpalette([9, 9, 9] * 256)
    png.save(tmp_path / "SegmentationClass" / "2007_000001.png")
    lists(tmp_path / "ImageSets" / "Segmentation" / "seg11valid.txt", "2007_000001")
    layer, blobs = start(VOCSegDataLayer, voc_dir=str(tmp_path), split="seg11valid", mean=(1, 2, 3), seed=1337)
    data, got = step(layer, blobs)
    assert np.array_equal(data[0], bgr - column(1, 2, 3)) and np.array_equal(got[0, 0], label)
    layer, blobs = start(VOCSegDataLayer, voc_dir=str(tmp_path), split="seg11valid")
    assert np.allclose(step(layer, blobs)[0][0], bgr - column(104.00699, 116.66877, 122.67892))


def test_sbd_in_matlabs_own_struct(tmp_path):
    bgr = photograph(tmp_path / "img" / "a.jpg")
    label = np.array([[0, 20, 1, 1]] * 3, np.uint8)
    boundaries = np.empty((20, 1), object)
    boundaries[:, 0] = [np.zeros(SIZE, np.uint8)] * 20
    fields = {"Boundaries": boundaries, "Segmentation": label, "CategoriesPresent": np.array([[1, 20]])}
    mat(tmp_path / "cls" / "a.mat", GTcls=fields)
    lists(tmp_path / "train.txt", "a")
    layer, blobs = start(SBDDSegDataLayer, sbdd_dir=str(tmp_path), split="train", mean=(0, 0, 0))
    data, got = step(layer, blobs)
    assert np.array_equal(data[0], bgr) and np.array_equal(got[0, 0], label)


@pytest.mark.needs_data("data/samples/SBD")
def test_sbd_files_as_matlab_wrote_them():
    layer, blobs = start(SBDDSegDataLayer, sbdd_dir=str(SBD), split="val")
    for _ in range(len(layer)):
        data, label = step(layer, blobs)
        assert data.shape[2:] == label.shape[2:] and label.max() <= 20


def nyud(folder):
    bgr = photograph(folder / "data" / "images" / "img_5001.png")
    hha = photograph(folder / "data" / "hha" / "img_5001.png")
    depth = np.arange(2000, 2012, dtype=np.uint16).reshape(SIZE)
    (folder / "data" / "depth").mkdir()
    Image.fromarray(depth).save(folder / "data" / "depth" / "img_5001.png")
    stored = np.array([[0, 1, 40, 2]] * 3, np.uint8)
    mat(folder / "segmentation" / "img_5001.mat", segmentation=stored)
    lists(folder / "trainval.txt", "5001")
    return bgr, hha, depth


def test_nyud_tops_as_asked(tmp_path):
    bgr, hha, depth = nyud(tmp_path)
    tops = ["color", "depth", "hha", "label"]
    layer, blobs = start(NYUDSegDataLayer, 4, nyud_dir=str(tmp_path), split="trainval", tops=tops, seed=1)
    color, log_depth, got_hha, label = step(layer, blobs)
    assert np.allclose(color[0], bgr - column(116.190, 97.203, 92.318))
    assert np.allclose(got_hha[0], hha[::-1] - column(132.431, 94.076, 118.477))  # as stored: no channel swap
    assert np.allclose(log_depth[0, 0], np.log(depth) - 7.844, atol=1e-6)
    assert label[0, 0, 0].tolist() == [255, 0, 39, 1]
    layer, blobs = start(NYUDSegDataLayer, 2, nyud_dir=str(tmp_path), split="trainval", tops=["hha", "label"])
    assert np.array_equal(step(layer, blobs)[0], got_hha)


def test_nyud_refusals(tmp_path):
    nyud(tmp_path)
    with pytest.raises(DataError, match=r"unknown top 'dpeth'\. Known: color, depth, hha, label"):
        start(NYUDSegDataLayer, 1, nyud_dir=str(tmp_path), split="trainval", tops=["dpeth"])
    with pytest.raises(DataError, match=r"gives 2 tops \(color, label\), the net has 3"):
        start(NYUDSegDataLayer, 3, nyud_dir=str(tmp_path), split="trainval", tops=["color", "label"])
    Image.fromarray(np.zeros(SIZE, np.uint16)).save(tmp_path / "data" / "depth" / "img_5001.png")
    with pytest.raises(DataError, match=r"img_5001\.png: depth should be one channel of positive integers"):
        start(NYUDSegDataLayer, 1, nyud_dir=str(tmp_path), split="trainval", tops=["depth"])


def test_sift_flow_two_labels(tmp_path):
    bgr = photograph(tmp_path / "Images" / SCENES / "coast_1.jpg")
    mat(tmp_path / "SemanticLabels" / SCENES / "coast_1.mat", S=np.array([[0, 1, 33, 2]] * 3, np.uint8))
    mat(tmp_path / "GeoLabels" / SCENES / "coast_1.mat", S=np.array([[-1, 1, 3, 2]] * 3, np.int16))
    lists(tmp_path / "test.txt", "coast_1")
    layer, blobs = start(SIFTFlowSegDataLayer, 3, siftflow_dir=str(tmp_path), split="test", seed=1337)
    data, semantic, geometric = step(layer, blobs)
    assert np.allclose(data[0], bgr - column(114.578, 115.294, 108.353))
    assert semantic[0, 0, 0].tolist() == [255, 0, 32, 1]
    assert geometric[0, 0, 0].tolist() == [255, 0, 2, 1]


def test_pascal_context_picks_labels_by_name(tmp_path):
    voc, context = tmp_path / "voc", tmp_path / "context"
    bgr = photograph(voc / "VOC2010" / "JPEGImages" / "2008_1.jpg")
    lists(voc / "VOC2010" / "ImageSets" / "Main" / "val.txt", "2008_1")
    lists(context / "labels.txt", "1: accordion", "2: aeroplane", "3: bag", "4: table", "5: bedclothes", "6: cloth")
    lists(context / "59_labels.txt", "1: aeroplane", "2: diningtable", "3: bed cloth", "4: clothes")
    mat(context / "trainval" / "2008_1.mat", LabelMap=np.array([[1, 2, 4, 5], [6, 3, 0, 2], [1, 1, 1, 1]], np.uint16))
    options = {"voc_dir": str(voc), "context_dir": str(context), "split": "val"}
    layer, blobs = start(PASCALContextSegDataLayer, **options)
    data, label = step(layer, blobs)
    assert np.allclose(data[0], bgr - column(104.007, 116.669, 122.679))
    assert label[0, 0].tolist() == [[0, 1, 2, 3], [4, 0, 0, 1], [0, 0, 0, 0]]
    lists(context / "59_labels.txt", "1: unicorn")
    with pytest.raises(DataError, match=r"59_labels\.txt: class 'unicorn' is not in labels\.txt"):
        start(PASCALContextSegDataLayer, **options)
    lists(context / "59_labels.txt", "aeroplane")
    with pytest.raises(DataError, match=r"59_labels\.txt:1: expected `INDEX: NAME`, got 'aeroplane'"):
        start(PASCALContextSegDataLayer, **options)


def test_random_order_is_the_references(tmp_path):
    names = [f"n{index}" for index in range(7)]
    for name in names:
        photograph(tmp_path / "img" / f"{name}.jpg")
        mat(tmp_path / "cls" / f"{name}.mat", GTcls={"Segmentation": np.zeros(SIZE, np.uint8)})
    lists(tmp_path / "train.txt", *names)
    draws = random.Random(1337)
    expected = [names[int(draws.random() * 7)] for _ in range(15)]
    layer, blobs = start(SBDDSegDataLayer, sbdd_dir=str(tmp_path), split="train", seed=1337)
    assert [(step(layer, blobs), layer.name)[1] for _ in range(15)] == expected
    layer, blobs = start(SBDDSegDataLayer, sbdd_dir=str(tmp_path), split="train", seed=1337, randomize=False)
    assert [(step(layer, blobs), layer.name)[1] for _ in range(8)] == [*names, "n0"]


LAYERS = [
    (VOCSegDataLayer, 2, {"voc_dir": "gone"}, "voc_dir='gone' is not there", "VOCtrainval_11-May-2012.tar"),
    (SBDDSegDataLayer, 2, {"sbdd_dir": "gone"}, "sbdd_dir='gone' is not there", "Semantic Boundaries Dataset"),
    (NYUDSegDataLayer, 1, {"nyud_dir": "gone", "tops": ["label"]}, "nyud_dir='gone' is not there", "NYU Depth V2"),
    (SIFTFlowSegDataLayer, 3, {"siftflow_dir": "gone"}, "siftflow_dir='gone' is not there", "SiftFlowDataset.zip"),
    (
        *(PASCALContextSegDataLayer, 2, {"voc_dir": "gone", "context_dir": "lost"}),
        *("context_dir='lost' is not there", "PASCAL-Context of"),
    ),
]


@pytest.mark.parametrize(("cls", "tops", "options", "missing", "origin"), LAYERS)
def test_a_missing_data_set_says_where_and_how(cls, tops, options, missing, origin):
    with pytest.raises(DataError) as error:
        start(cls, tops, split="train", **options)
    message = str(error.value)
    assert missing in message and origin in message and str(Path.cwd()) in message
    assert f"`fcn-caffe get_data {cls.data_set}` then prepares it" in message and cls.data_set in DATA_SETS


def test_a_missing_split_names_those_there(tmp_path):
    lists(tmp_path / "train.txt", "a")
    with pytest.raises(DataError, match=r"split 'seg' has no file .*seg\.txt\. Splits there: train\."):
        start(SBDDSegDataLayer, sbdd_dir=str(tmp_path), split="seg")


def test_mat_errors(tmp_path):
    mat(tmp_path / "a.mat", S=np.zeros((2, 2)), T=np.zeros((2, 2, 2)))
    with pytest.raises(DataError, match=r"a\.mat: has no LabelMap; found S, T\."):
        read_mat(tmp_path / "a.mat", "LabelMap")
    with pytest.raises(DataError, match=r"a\.mat: T is float64 of shape 2x2x2, expected labels"):
        read_mat(tmp_path / "a.mat", "T")
    with pytest.raises(DataError, match=r"b\.mat: no such label file"):
        read_mat(tmp_path / "b.mat", "S")
    (tmp_path / "c.mat").write_bytes(b"MATLAB 5.0 MAT-file, cut")
    with pytest.raises(DataError, match=r"c\.mat: cannot be read as a MATLAB file"):
        read_mat(tmp_path / "c.mat", "S")
    mat(tmp_path / "d.mat", GTcls={"Boundaries": np.zeros(2)})
    with pytest.raises(DataError, match=r"d\.mat: has no GTcls\.Segmentation; found Boundaries"):
        read_mat(tmp_path / "d.mat", "GTcls", "Segmentation")
