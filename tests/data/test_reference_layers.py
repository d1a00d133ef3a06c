"""What scripts of others rely on in the reference nets' data layers: attributes, methods, order, reading ahead."""

import gc
import pickle
import random
import threading
import time
from typing import ClassVar

import numpy as np
import pytest
import scipy.io
from data_layers import start, step
from helpers import make_net
from PIL import Image
from places import SHARED

from fcn_caffe import TRAIN
from fcn_caffe.data.sets import voc_layers
from fcn_caffe.data.sets.nyud_layers import NYUDSegDataLayer
from fcn_caffe.data.sets.pascalcontext_layers import PASCALContextSegDataLayer
from fcn_caffe.data.sets.siftflow_layers import SIFTFlowSegDataLayer
from fcn_caffe.data.sets.voc_layers import SBDDSegDataLayer, VOCSegDataLayer
from fcn_caffe.errors import DataError

SAMPLES = SHARED / "data" / "samples"
NAMES = [f"n{index}" for index in range(6)]


@pytest.fixture
def voc(tmp_path):
    """Six grey photographs; the first pixel and label of each are its number."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    for index, name in enumerate(NAMES):
        size = (3, 4 + index)
        Image.new("RGB", size[::-1], (index * 20,) * 3).save(tmp_path / "JPEGImages" / f"{name}.jpg")
        label = Image.fromarray(np.full(size, index, np.uint8))
        label.putpalette(list(range(256)) * 3)
        label.save(tmp_path / "SegmentationClass" / f"{name}.png")
    for split in ("train", "val"):
        (tmp_path / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(NAMES) + "\n")
    return tmp_path


def run(layer, blobs, count):
    """The names of `count` passes, seen by their labels."""
    return [NAMES[int(step(layer, blobs)[1][0, 0, 0, 0])] for _ in range(count)]


def expected(count, seed=1337):
    draws = random.Random(seed)
    return [NAMES[int(draws.random() * len(NAMES))] for _ in range(count)]


@pytest.fixture(autouse=True)
def no_threads_left():
    """Layers of the test before are gone when one begins."""
    gc.collect()
    end = time.monotonic() + 10
    while reading_threads() and time.monotonic() < end:
        time.sleep(0.01)


def reading_threads(who=""):
    """The threads that read ahead for data layers, or for those of one class."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"prefetch {who}")]


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_order_and_tops_are_the_same_however_far_it_reads_ahead(voc, ahead):
    layer, blobs = start(VOCSegDataLayer, voc_dir=str(voc), split="train", seed=1337, prefetch=ahead)
    assert run(layer, blobs, 20) == expected(20)
    assert bool(reading_threads()) == (ahead > 0)
    layer, blobs = start(VOCSegDataLayer, voc_dir=str(voc), split="val", seed=1337, prefetch=ahead)
    assert run(layer, blobs, 8) == [*NAMES, "n0", "n1"]
    del layer
    gc.collect()
    end = time.monotonic() + 10
    while reading_threads() and time.monotonic() < end:  # one that is reading finishes its image first
        time.sleep(0.01)
    assert not reading_threads()


@pytest.mark.parametrize("options", [{"split": "train", "seed": 5}, {"split": "train"}, {"split": "val"}])
def test_a_snapshot_resumes_where_forward_stood_not_where_the_thread_was(voc, options):
    layer, blobs = start(VOCSegDataLayer, voc_dir=str(voc), **options)
    run(layer, blobs, 3)
    state = layer.get_state()
    after = run(layer, blobs, 9)
    other, other_blobs = start(VOCSegDataLayer, voc_dir=str(voc), **options)
    run(other, other_blobs, 2)
    other.set_state(state)
    assert run(other, other_blobs, 9) == after
    layer.set_state(state)
    assert run(layer, blobs, 4) == after[:4]
    twin = pickle.loads(pickle.dumps(layer))
    assert run(twin, blobs, 5) == after[4:]


def test_without_a_seed_the_order_is_another_every_time(voc):
    orders = {tuple(run(*start(VOCSegDataLayer, voc_dir=str(voc), split="train"), 20)) for _ in range(4)}
    orders |= {tuple(run(*start(VOCSegDataLayer, voc_dir=str(voc), split="train", seed=None), 20)) for _ in range(4)}
    assert len(orders) == 8


def test_the_global_random_stream_is_left_alone(voc):
    random.seed(3)
    state = random.getstate()
    run(*start(VOCSegDataLayer, voc_dir=str(voc), split="train", seed=1337), 5)
    assert random.getstate() == state


def test_attributes_and_methods_of_the_reference(voc):
    layer, blobs = start(VOCSegDataLayer, voc_dir=str(voc), split="train", mean=(1, 2, 3), seed=1337)
    assert (layer.voc_dir, layer.split, layer.seed, layer.random) == (str(voc), "train", 1337, True)
    assert layer.indices == NAMES and NAMES[layer.idx] == expected(1)[0]
    assert layer.mean.tolist() == [1, 2, 3]
    image, label = layer.load_image("n2"), layer.load_label("n2")
    assert (image.dtype, image.shape) == (np.float32, (3, 3, 6)) and (label.dtype, label.shape) == (np.uint8, (1, 3, 6))
    assert image[:, 0, 0].tolist() == [39, 38, 37] and label[0, 0, 0] == 2
    step(layer, blobs)
    assert np.array_equal(layer.data, blobs[0].data[0]) and np.array_equal(layer.label, blobs[1].data[0])
    val, _ = start(VOCSegDataLayer, voc_dir=str(voc), split="val", seed=1337)
    assert val.random is False and val.idx == 0


def test_the_mean_is_subtracted_in_the_references_precision(voc):
    layer, _ = start(VOCSegDataLayer, voc_dir=str(voc), split="val", mean=(104.00698793, 116.66876762, 122.67891434))
    pixels = np.array(Image.open(voc / "JPEGImages" / "n5.jpg"), dtype=np.float32)[:, :, ::-1]
    pixels -= np.array((104.00698793, 116.66876762, 122.67891434))
    assert np.array_equal(layer.load_image("n5"), pixels.transpose(2, 0, 1))


def test_the_order_may_be_set_from_outside_while_it_reads_ahead(voc):
    layer, blobs = start(VOCSegDataLayer, voc_dir=str(voc), split="val")
    run(layer, blobs, 2)
    layer.idx = 5
    assert run(layer, blobs, 3) == ["n5", "n0", "n1"]
    layer.indices = ["n4", "n3", "n1"]
    layer.idx = 0
    assert run(layer, blobs, 4) == ["n4", "n3", "n1", "n4"]
    layer.random, layer.seed = True, 1337
    assert set(run(layer, blobs, 30)) == {"n1", "n3", "n4"}


def test_more_than_one_reshape_before_a_forward(voc):
    layer, blobs = start(VOCSegDataLayer, voc_dir=str(voc), split="val")
    run(layer, blobs, 1)
    for _ in range(3):
        layer.reshape([], blobs)
        layer.data -= 1000  # what is changed is this pass's own
    assert run(layer, blobs, 2) == ["n1", "n2"]
    assert blobs[0].data.min() > -200


class Flipped(VOCSegDataLayer):
    """As people write them: other loading, other options, counting what it reads."""

    loads = 0

    def load_image(self, idx):
        self.loads += 1
        return super().load_image(idx)[:, :, ::-1]


class Renamed(VOCSegDataLayer):
    """Another name, and nothing else."""


class Complete(VOCSegDataLayer, complete=True):
    """Says that it knows its options, and that a thread may run its load_image."""

    defaults: ClassVar[dict[str, object]] = {**VOCSegDataLayer.defaults, "shade": 0}

    def load_image(self, idx):
        return super().load_image(idx) + self.options["shade"]


class Elsewhere(VOCSegDataLayer):
    """A setup of its own, as copied from the reference."""

    def setup(self, bottom, top):
        params = eval(self.param_str)
        self.voc_dir, self.split, self.mean = params["dir"], "train", np.array((0, 0, 0))
        self.random, self.seed = True, 1337
        self.indices = list(NAMES)
        random.seed(self.seed)
        self.idx = int(random.random() * len(self.indices))


def test_classes_made_from_them(voc):
    layer, blobs = start(Flipped, voc_dir=str(voc), split="train", seed=1337, own_option=3)
    assert run(layer, blobs, 6) == expected(6)
    assert layer.loads == 6 and not reading_threads()  # nobody else's code runs in a thread unasked
    layer, blobs = start(Flipped, voc_dir=str(voc), split="train", seed=1337, prefetch=2)
    assert run(layer, blobs, 6) == expected(6) and layer.loads > 6
    layer, blobs = start(Renamed, voc_dir=str(voc), split="train", seed=1337, own_option=3)
    assert run(layer, blobs, 6) == expected(6)
    assert reading_threads("Renamed")  # it loads as VOCSegDataLayer does
    layer, blobs = start(Elsewhere, dir=str(voc))
    assert run(layer, blobs, 6) == expected(6)


def test_a_class_says_itself_that_it_is_complete(voc):
    layer, blobs = start(Complete, voc_dir=str(voc), split="train", seed=1337, shade=2)
    assert run(layer, blobs, 6) == expected(6)
    assert reading_threads("Complete")
    with pytest.raises(DataError, match=r'Complete: param_str has an unknown option "shde"\. Did you mean "shade"'):
        start(Complete, voc_dir=str(voc), split="train", shde=2)


def test_load_methods_put_in_place_of_a_class_own_are_not_run_in_a_thread(voc, monkeypatch):
    monkeypatch.setattr(VOCSegDataLayer, "load_label", lambda self, idx: np.zeros((1, 3, 4 + int(idx[1:])), np.uint8))
    layer, blobs = start(VOCSegDataLayer, voc_dir=str(voc), split="val")
    step(layer, blobs)
    assert not reading_threads()


def test_a_bad_file_is_told_in_its_own_pass_and_can_be_mended(voc):
    layer, blobs = start(VOCSegDataLayer, voc_dir=str(voc), split="val")
    label = voc / "SegmentationClass" / "n3.png"
    good = label.read_bytes()
    Image.fromarray(np.full((3, 7), 21, np.uint8)).save(label)
    assert run(layer, blobs, 3) == ["n0", "n1", "n2"]
    with pytest.raises(DataError, match=r"n3\.png: labels 21 \(21 pixels\) are out of range: expected 0 to 20 or 255"):
        step(layer, blobs)
    label.write_bytes(good)
    assert run(layer, blobs, 2) == ["n3", "n4"]


def test_refusals(voc):
    good = {"voc_dir": str(voc), "split": "val"}
    with pytest.raises(DataError, match=r"takes no bottoms, the net gives 1"):
        layer, blobs = start(VOCSegDataLayer, **good)
        layer.setup([blobs[0]], blobs)
    for tops in (1, 3):
        with pytest.raises(DataError, match=rf"gives 2 tops \(data, label\), the net has {tops}"):
            start(VOCSegDataLayer, tops, **good)
    with pytest.raises(DataError, match=r"gives 3 tops \(data, sem, geo\), the net has 2"):
        start(SIFTFlowSegDataLayer, 2, siftflow_dir="gone", split="test")  # before anything is looked for
    with pytest.raises(DataError, match=r'unknown option "sede"\. Did you mean "seed"'):
        start(VOCSegDataLayer, sede=3, **good)
    with pytest.raises(DataError, match="prefetch should be a whole number from 0, got -1"):
        start(VOCSegDataLayer, prefetch=-1, **good)
    with pytest.raises(DataError, match="mean should be 3 numbers"):
        start(VOCSegDataLayer, mean=(1, 2), **good)
    with pytest.raises(DataError, match=r"tops should be a list, such as \['color', 'label'\], got 'color'"):
        start(NYUDSegDataLayer, 1, nyud_dir="gone", split="test", tops="color")
    layer, _ = start(VOCSegDataLayer, **good)
    state = layer.get_state()
    with pytest.raises(DataError, match="for a split of 9 images, this one has 6"):
        layer.set_state({**state, "count": 9})


def test_nyud_by_its_own_names(tmp_path):
    for folder, mode in (("images", "RGB"), ("hha", "RGB"), ("depth", "I;16")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        shade = 3000 if folder == "depth" else (10, 20, 30)
        Image.new(mode, (5, 4), shade).save(tmp_path / "data" / folder / "img_5003.png")
    (tmp_path / "segmentation").mkdir()
    labels = np.array([[0, 1, 40, 7, 7]] * 4, np.uint8)
    scipy.io.savemat(tmp_path / "segmentation" / "img_5003.mat", {"segmentation": labels})
    (tmp_path / "val.txt").write_text("5003\n")
    tops = ("label", "depth", "hha", "color")
    layer, blobs = start(NYUDSegDataLayer, 4, nyud_dir=str(tmp_path), split="val", tops=tops)
    for _ in range(2):
        got = dict(zip(tops, step(layer, blobs), strict=True))
        for top in tops:
            assert np.array_equal(layer.data[top], layer.load(top, "5003"))
            assert np.array_equal(got[top][0], layer.data[top])
    means = np.float32(layer.mean_bgr), np.float32(layer.mean_hha)
    assert np.array_equal(layer.load_image("5003")[:, 0, 0], np.float32((30, 20, 10)) - means[0])
    assert np.array_equal(layer.load_hha("5003")[:, 0, 0], np.float32((10, 20, 30)) - means[1])
    assert np.array_equal(layer.load_depth("5003")[0, 0, :1], np.log(np.float32([3000])) - layer.mean_logd)
    assert layer.load_label("5003")[0, 0].tolist() == [255, 0, 39, 6, 6]
    with pytest.raises(DataError, match="unknown top 'normals'"):
        layer.load("normals", "5003")
    scipy.io.savemat(tmp_path / "segmentation" / "img_5003.mat", {"segmentation": labels + 1})
    with pytest.raises(DataError, match=r"img_5003\.mat: labels 41 \(4 pixels\) are out of range: expected 0 to 40"):
        layer.load_label("5003")


def test_sift_flow_by_its_own_names(tmp_path):
    scenes = "spatial_envelope_256x256_static_8outdoorcategories"
    for folder in ("Images", "SemanticLabels", "GeoLabels"):
        (tmp_path / folder / scenes).mkdir(parents=True)
    Image.new("RGB", (4, 2)).save(tmp_path / "Images" / scenes / "coast_1.jpg")
    scipy.io.savemat(
        tmp_path / "SemanticLabels" / scenes / "coast_1.mat",
        {"S": np.array([[0, 1, 33, 5]] * 2, np.uint8), "names": np.array(["awning"], object)},
    )
    geometric = np.array([[-1.0, 1, 3, 0]] * 2)
    scipy.io.savemat(tmp_path / "GeoLabels" / scenes / "coast_1.mat", {"S": geometric, "names": ["sky"]})
    (tmp_path / "trainval.txt").write_text("coast_1\n")
    layer, blobs = start(SIFTFlowSegDataLayer, 3, siftflow_dir=str(tmp_path), split="trainval", seed=1337)
    step(layer, blobs)
    assert layer.load_label("coast_1", label_type="semantic")[0, 0].tolist() == [255, 0, 32, 4]
    assert layer.load_label("coast_1", "geometric")[0, 0].tolist() == [255, 0, 2, 255]
    assert layer.label_semantic.dtype == layer.label_geometric.dtype == np.uint8
    with pytest.raises(DataError, match=r"unknown label type None\. Pick semantic or geometric"):
        layer.load_label("coast_1")
    scipy.io.savemat(tmp_path / "GeoLabels" / scenes / "coast_1.mat", {"S": geometric - 1})
    with pytest.raises(DataError, match=r"coast_1\.mat: labels -2\.0 \(2 pixels\) are out of range"):
        layer.load_label("coast_1", "geometric")


def test_pascal_context_by_its_own_names(tmp_path):
    voc, context = tmp_path / "VOC2010", tmp_path / "context"
    for folder in (voc / "JPEGImages", voc / "ImageSets" / "Main", context / "trainval"):
        folder.mkdir(parents=True)
    (voc / "ImageSets" / "Main" / "val.txt").write_text("2008_1\n")
    Image.new("RGB", (6, 1)).save(voc / "JPEGImages" / "2008_1.jpg")
    scipy.io.savemat(context / "trainval" / "2008_1.mat", {"LabelMap": np.array([[0, 1, 2, 3, 4, 5]], np.uint16)})
    (context / "labels.txt").write_text("1: table\n2: night stand\n3: cloth\n4: bedclothes\n5: sky\n")
    (context / "59_labels.txt").write_text("1: clothes\n2: bedcloth\n3: diningtable\n4: nightstand\n")
    options = {"voc_dir": str(tmp_path), "context_dir": str(context), "split": "val"}
    layer, _ = start(PASCALContextSegDataLayer, **options)
    assert layer.voc_dir == str(voc) and layer.context_dir == str(context)
    assert layer.labels_400 == ["table", "nightstand", "cloth", "bedclothes", "sky"]
    assert layer.labels_59 == ["cloth", "bedclothes", "table", "nightstand"]
    assert layer.load_label("2008_1").tolist() == [[[0, 3, 4, 1, 2, 0]]]
    (context / "labels.txt").write_text("1: table\n3: cloth\n")
    with pytest.raises(DataError, match=r"labels\.txt:2: expected index 2, got 3"):
        start(PASCALContextSegDataLayer, **options)


def test_in_a_net_the_first_image_is_loaded_once_more_and_order_goes_on(voc, tmp_path):
    param_str = {"voc_dir": str(voc), "split": "train", "seed": 1337}
    text = (
        'layer { name: "data" type: "Python" top: "data" top: "label" python_param { module: "voc_layers" '
        f'layer: "VOCSegDataLayer" param_str: "{param_str}" }} }}'
    )
    net = make_net(text, phase=TRAIN, path=tmp_path / "net.prototxt")
    values = [NAMES[int(net.forward()["label"][0, 0, 0, 0])] for _ in range(5)]
    state = net.data_state()
    values += [NAMES[int(net.forward()["label"][0, 0, 0, 0])] for _ in range(5)]
    assert values == expected(10)
    net.load_data_state(state)
    assert NAMES[int(net.forward()["label"][0, 0, 0, 0])] == values[5]


@pytest.mark.needs_data("data/samples/VOC")
def test_real_voc_photographs_and_palettes(tmp_path):
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    names = sorted(path.stem for path in (SAMPLES / "VOC").glob("*.png"))
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names))
    for folder in ("JPEGImages", "SegmentationClass"):
        (tmp_path / folder).symlink_to(SAMPLES / "VOC")
    layer, blobs = start(VOCSegDataLayer, voc_dir=str(tmp_path), split="val")
    for _ in names:
        data, label = step(layer, blobs)
        assert data.shape[2:] == label.shape[2:]
        assert set(np.unique(label)) <= {*range(21), 255} and 255 in label


@pytest.mark.needs_data("data/samples/HHA")
def test_a_real_depth_image_and_its_hha(tmp_path):
    for folder, file in (("depth", "0.png"), ("hha", "matlab_hha.png")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / "img_0.png").symlink_to(SAMPLES / "HHA" / file)
    (tmp_path / "test.txt").write_text("0\n")
    layer, blobs = start(NYUDSegDataLayer, 2, nyud_dir=str(tmp_path), split="test", tops=["depth", "hha"])
    depth, hha = step(layer, blobs)
    assert depth.shape[2:] == hha.shape[2:] and np.isfinite(depth).all()
    stored = np.asarray(Image.open(SAMPLES / "HHA" / "matlab_hha.png")).astype(np.float32)
    assert np.allclose(hha[0], stored.transpose(2, 0, 1) - layer.mean_hha[:, None, None])


@pytest.mark.needs_data("data/samples/SBD")
def test_real_sbd_files(tmp_path):
    layer, blobs = start(SBDDSegDataLayer, sbdd_dir=str(SAMPLES / "SBD"), split="train", seed=1337)
    for _ in range(3):
        data, label = step(layer, blobs)
        assert data.shape[2:] == label.shape[2:]
    assert layer.load_label(layer.indices[0]).dtype == np.uint8


def test_the_classes_have_names():
    assert len(voc_layers.CLASSES) == 21
