"""new_task: from folders of images and labels to nets that build, with every kind of wrong label refused by name."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from places import SHARED

from fcn_caffe import TEST, TRAIN, Net
from fcn_caffe.commands.new_task import main
from fcn_caffe.data.own.splits import Splits
from fcn_caffe.data.readers.labels import read_classes, read_colors
from fcn_caffe.models.class_weights import median_frequency_weights
from fcn_caffe.models.own_nets import OWN_NETS
from fcn_caffe.models.own_task import STAGES, Task, Training, task_net
from fcn_caffe.proto import caffe_pb2, read_text
from fcn_caffe.weights.transfer import save_weights

SAMPLES = SHARED / "data" / "samples"
needs_samples = pytest.mark.needs_data("data/samples")


def write(folder, name, label, suffix=".png", image_size=None):
    """Write an image of noise and its label."""
    label = np.asarray(label, np.uint8)
    height, width = image_size or label.shape[:2]
    image = np.random.RandomState(len(name)).randint(0, 256, (height, width, 3)).astype(np.uint8)
    for part in ("images", "labels"):
        (folder / part).mkdir(exist_ok=True)
    Image.fromarray(image).save(folder / "images" / f"{name}{suffix}")
    Image.fromarray(label).save(folder / "labels" / f"{name}.png")


@pytest.fixture
def folder(tmp_path):
    """Ten images of 20x24 with labels 0, 1, 2 and void 255."""
    for index in range(10):
        label = np.random.RandomState(index).choice([0, 1, 2, 255], (20, 24))
        write(tmp_path, f"photo{index}", label)
    return tmp_path


def run(folder, *options):
    arguments = ["--images", folder / "images", "--labels", folder / "labels", "--out", folder / "task", *options]
    return main([str(argument) for argument in arguments])


def test_writes_nets_that_build_run_and_read_the_folder(folder, capsys):
    assert run(folder, "--name", "photos", "--trunk", "narrow") == 0
    out = capsys.readouterr().out
    assert "10 images with labels" in out and "solvers/photos-fcn8s.prototxt" in out
    task = folder / "task"
    train, val = (set((task / f"{split}.txt").read_text().split()) for split in ("train", "val"))
    assert len(train) == 8 and len(val) == 2 and not train & val
    assert read_classes(task / "nets" / "classes.txt") == ["class 0", "class 1", "class 2"]
    for stage in STAGES:
        path = task / "nets" / f"photos-fcn{stage}.prototxt"
        net = Net(path, TRAIN)
        loss, _ = net.forward_loss()
        assert float(loss.detach()) == pytest.approx(np.log(3), rel=1e-5)  # scores start at zero
        loss.backward()
        assert net(keep=("score",))["score"].shape[2:] == (20, 24)
        assert Net(path, TEST, stages=("deploy",)).blob_shapes["score"] == (1, 3, 500, 500)
        solver = read_text(task / "solvers" / f"photos-fcn{stage}.prototxt", caffe_pb2.SolverParameter)
        assert solver.net == f"nets/photos-fcn{stage}.prototxt" and solver.test_iter == [2]
    assert list(solver.weights) == ["weights/photos-fcn16s.caffemodel"]


def test_same_folder_same_split(folder):
    run(folder)
    first = (folder / "task" / "val.txt").read_text()
    run(folder, "--force")
    assert (folder / "task" / "val.txt").read_text() == first
    run(folder, "--force", "--seed", "1")
    assert (folder / "task" / "val.txt").read_text() != first


def test_mean_is_of_the_training_images_only(tmp_path, capsys):
    for name, level in (("a", 10), ("b", 20), ("c", 200)):
        write(tmp_path, name, [[0, 1]] * 2)
        Image.fromarray(np.full((2, 2, 3), (level, level + 1, level + 2), np.uint8)).save(
            tmp_path / "images" / f"{name}.png"
        )
    (tmp_path / "train.txt").write_text("a\nb.png\n")
    (tmp_path / "val.txt").write_text("c\n")
    assert run(tmp_path, "--train-list", tmp_path / "train.txt", "--val-list", tmp_path / "val.txt") == 0
    assert "mean (BGR) of 2 training images: 17.0 16.0 15.0" in capsys.readouterr().out


def test_void_amid_the_classes_is_mapped_away(folder, capsys):
    assert run(folder, "--void", "0", "255") == 0
    assert (folder / "task" / "mapping.txt").read_text() == "0: 255\n1: 0\n2: 1\n255: 255\n"
    net = Net(next((folder / "task" / "nets").glob("*-fcn32s.prototxt")), TEST)
    label = net(keep=("label",))["label"].numpy()
    assert set(np.unique(label)) == {0, 1, 255}
    assert net.blob_shapes["score"][1] == 2


def test_void_next_to_the_classes_is_ignored_where_it_is(tmp_path):
    for index in range(3):
        write(tmp_path, f"street{index}", [[0, 1, 11]] * 2)
    assert run(tmp_path, "--void", "11", "--classes", "11") == 0
    net = Net(next((tmp_path / "task" / "nets").glob("*-fcn8s.prototxt")), TRAIN)
    assert net.layer("loss").param.loss_param.ignore_label == 11
    assert net.blob_shapes["score"][1] == 11


def test_learned_layers_follow_from_the_weights(folder, tmp_path, capsys):
    save_weights(tmp_path / "trunk.caffemodel", {"conv1_1": [np.zeros((64, 3, 3, 3), np.float32)]})
    assert run(folder, "--weights", tmp_path / "trunk.caffemodel", "--name", "x") == 0
    layers = {
        layer.name: layer for layer in read_text(folder / "task/nets/x-fcn32s.prototxt", caffe_pb2.NetParameter).layer
    }
    assert not layers["conv1_1"].convolution_param.HasField("weight_filler")
    assert layers["fc6"].convolution_param.weight_filler.type == "msra"
    assert layers["fc6"].convolution_param.num_output == 512
    save_weights(tmp_path / "other.caffemodel", {"ip1": [np.zeros((2, 2), np.float32)]})
    assert run(folder, "--force", "--weights", tmp_path / "other.caffemodel") == 1
    message = "other.caffemodel: has no layer of VGG-16's, VGG-19's, CaffeNet's or GoogLeNet's trunk (it has ip1 …)"
    assert message in capsys.readouterr().err


def plain_task(**changes):
    given = {"name": "t", "out": Path("."), "images": Path("i"), "labels": Path("l"), "classes": 21, "mean": (1, 2, 3)}
    return Task(splits=Splits(["a"], ["b"]), **{**given, **changes})


GEOMETRIES = pytest.mark.parametrize(("kernel", "pad"), [(7, 100), (5, 100), (3, 1), (1, 1)])


@pytest.mark.parametrize("stage", STAGES)
@GEOMETRIES
def test_crops_fit_at_every_size(stage, kernel, pad):
    net = Net(
        task_net(plain_task(trunk="narrow", fc_width=2, fc_kernel=kernel, pad=pad), stage),
        TEST,
        stages=["deploy"],
        device="meta",
    )
    for size in range(32, 65):
        image = torch.empty(1, 3, size, size + 1, device="meta")
        assert net(data=image)["score"].shape == (1, 21, size, size + 1)


@pytest.mark.parametrize(
    ("stage", "source", "stride"),
    [
        ("32s", "fr", 32),
        ("16s", "fr", 32),
        ("8s", "fr", 32),
        ("16s", "pool4", 16),
        ("8s", "pool4", 16),
        ("8s", "pool3", 8),
    ],
)
@GEOMETRIES
def test_scores_land_where_the_image_is(stage, source, stride, kernel, pad):
    """A ramp through centre taps comes out as the ramp; max pooling alone moves it, by half a stride less a half."""
    net = Net(
        task_net(plain_task(trunk="narrow", classes=2, fc_width=2, fc_kernel=kernel, pad=pad), stage),
        TEST,
        stages=["deploy"],
    )
    for name, blobs in net.params.items():
        weight = blobs[0].data
        weight.zero_()
        if name == "scale_data":
            weight.fill_(1)
        elif name.startswith("up"):
            near = 1 - (torch.arange(weight.shape[2]) - (weight.shape[2] - 1) / 2).abs() / (weight.shape[2] / 2)
            weight[0, 0] = near[:, None] * near[None, :]
        elif name in (f"score_{source}",) or not name.startswith("score"):
            weight[0, 0, weight.shape[2] // 2, weight.shape[3] // 2] = 1
    size = 224
    ramp = torch.arange(1.0, size + 1)
    for image in (ramp.expand(size, size), ramp.expand(size, size).T):
        score = net(data=image.expand(1, 3, size, size).contiguous())["score"][0, 0]
        middle = slice(80, 144)
        difference = (score - image)[middle, middle]
        assert torch.allclose(difference, torch.full_like(difference, (stride - 1) / 2), atol=1e-3)


def test_the_papers_offsets():
    offsets = {}
    for stage in STAGES:
        net = task_net(plain_task(), stage)
        offsets[stage] = [layer.crop_param.offset[0] for layer in net.layer if layer.type == "Crop"]
        first = next(layer for layer in net.layer if layer.name == "conv1_1")
        assert first.convolution_param.pad[0] == 100
    assert offsets == {"32s": [19], "16s": [5, 27], "8s": [5, 9, 31]}


def spoil_labels(folder, what):
    """Make the labels wrong in one way."""
    labels = folder / "labels"
    if what == "range":
        write(folder, "photo3", np.full((20, 24), 7))
    elif what == "colours":
        for path in labels.iterdir():
            Image.fromarray(np.random.RandomState(0).choice([0, 128], (20, 24, 3)).astype(np.uint8)).save(path)
    elif what == "mixed":
        Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(labels / "photo3.png")
    elif what == "jpeg":
        colours = np.random.RandomState(0).randint(0, 256, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(colours).save(labels / "photo3.png")
    elif what == "size":
        write(folder, "photo3", np.zeros((20, 24)), image_size=(24, 20))
    elif what == "unreadable":
        (labels / "photo3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    elif what == "no pairs":
        for path in labels.iterdir():
            path.rename(path.with_name(path.stem + "_mask.png"))
    else:
        flat = {"masks": np.eye(20, 24) * 255, "all void": np.full((20, 24), 9), "one class": np.zeros((20, 24))}
        for path in labels.iterdir():
            Image.fromarray(flat[what].astype(np.uint8)).save(path)


def spoil(folder, what):
    """Break the folder in one way; returns options for the command."""
    options = {
        "range": ["--classes", "3"],
        "overlap": ["--train-list", folder / "train.txt", "--val-list", folder / "val.txt"],
        "unlisted": ["--train-list", folder / "train.txt"],
        "empty": ["--train-list", folder / "train.txt"],
        "all void": ["--void", "9"],
        "no folder": ["--images", folder / "nowhere"],
    }
    lists = {
        "overlap": {"train": "photo1\nphoto2\n", "val": "photo1\nphoto2\n"},
        "unlisted": {"train": "photo1\nphoto77\n"},
        "empty": {"train": ""},
    }
    for split, text in lists.get(what, {}).items():
        (folder / f"{split}.txt").write_text(text)
    if what not in (*lists, "no folder"):
        spoil_labels(folder, what)
    return options.get(what, [])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("range", "photo3.png: label 7. If 7 is void give --void 7; otherwise raise --classes"),
        (
            "colours",
            "labels are colour-coded (8 colours): which is which class is yours to say. A mapping to check is in",
        ),
        ("mixed", "1 labels are colour-coded (such as "),
        ("jpeg", "photo3.png: has more than 1024 different colours: no label image. Was it saved as JPEG"),
        ("masks", "labels are masks of 0 and 255: which is which class is yours to say."),
        ("size", "photo3.png: the label is 24x20, its image "),
        ("unreadable", "photo3.png: "),
        ("no pairs", "--label-suffix says what label names have besides. Images: photo0 … Labels: photo0_mask …"),
        ("overlap", "val.txt: 2 names are also in the train list, such as 'photo1'. Scores would be too good"),
        ("unlisted", "train.txt: 1 of 2 names have no image with a label, such as 'photo77'."),
        ("empty", "train.txt: the split is empty. It should have one image name on each line."),
        ("all void", "all labels are void (9): there is nothing to learn. Correct --void."),
        ("one class", "only label 0 is used: segmentation needs at least 2 classes."),
        ("no folder", "nowhere: no such folder of images"),
    ],
)
def test_refusals(folder, capsys, what, message):
    options = spoil(folder, what)
    assert run(folder, *options) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1
    assert message in printed
    assert not (folder / "task" / "nets").exists()


@pytest.mark.parametrize(("what", "classes"), [("colours", 8), ("masks", 2)])
def test_suggested_mapping_works_as_given(folder, what, classes):
    spoil(folder, what)
    assert run(folder) == 1
    assert run(folder, "--mapping", folder / "task" / "mapping.txt") == 0
    net = Net(next((folder / "task" / "nets").glob("*-fcn32s.prototxt")), TEST)
    assert net.blob_shapes["score"][1] == classes
    assert set(np.unique(net(keep=("label",))["label"].numpy())) <= set(range(classes))


@needs_samples
@pytest.mark.parametrize(
    ("where", "options", "classes"),
    [("VOC", ["--allow-stray"], 18), ("NYU", ["--label-suffix", "_mask", "--allow-stray"], 40)],
)
def test_real_samples_in_one_folder(tmp_path, where, options, classes):
    place = SAMPLES / where
    arguments = ["--images", place, "--labels", place, "--out", tmp_path, "--val-fraction", "0.3", *options]
    assert main([str(argument) for argument in arguments]) == 0
    net = Net(next((tmp_path / "nets").glob("*-fcn32s.prototxt")), TEST, device="meta")
    assert net.blob_shapes["score"][1] == classes


@needs_samples
def test_real_colour_coded_labels(tmp_path, capsys):
    place = SAMPLES / "Context"
    arguments = ["--images", place, "--labels", place, "--out", tmp_path]
    assert main([str(argument) for argument in arguments]) == 1
    assert "labels are colour-coded" in capsys.readouterr().err
    assert main([str(argument) for argument in [*arguments, "--mapping", tmp_path / "mapping.txt"]]) == 0


def test_training_options_reach_the_solver(folder):
    options = [
        "--base-lr",
        "0.5",
        "--max-iter-16s",
        "40",
        "--momentum",
        "0.3",
        "--iter-size",
        "4",
        "--lr-policy",
        "fixed",
    ]
    assert run(folder, "--name", "x", *options) == 0
    solver = read_text(folder / "task/solvers/x-fcn16s.prototxt", caffe_pb2.SolverParameter)
    assert (solver.base_lr, solver.max_iter, solver.iter_size, solver.lr_policy) == (0.5, 40, 4, "fixed")
    assert solver.momentum == pytest.approx(0.3) and solver.snapshot == 10
    other = read_text(folder / "task/solvers/x-fcn8s.prototxt", caffe_pb2.SolverParameter)
    assert other.max_iter == Training().max_iter["8s"] and other.base_lr == 0.5


@pytest.mark.parametrize("net", [net for net in OWN_NETS if not OWN_NETS[net].classifier])
def test_a_net_of_one_stage_builds_reads_the_folder_and_takes_a_step(folder, capsys, net):
    width = ("--width", "4") if OWN_NETS[net].has_width else ()
    assert run(folder, "--name", "mine", "--net", net, *width) == 0
    assert f"solvers/mine-{net}.prototxt" in capsys.readouterr().out
    task = folder / "task"
    assert not list(task.glob("*/mine-fcn*"))
    path = task / f"nets/mine-{net}.prototxt"
    train = Net(path, TRAIN)
    loss, blobs = train.forward_loss(keep=("label",))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(bool(weights[0].any()) for name, weights in train.params.items() if re.match("conv[1-5]", name))
    if OWN_NETS[net].outlines:
        assert set(blobs["label"].unique().tolist()) == {0, 1}
    deploy = Net(path, TEST, stages=("deploy",), device="meta")
    for blob in deploy.graph.outputs:
        if len(deploy.blob_shapes[blob]) == 4 and blob != "fc8_interp":
            assert deploy.blob_shapes[blob][2:] == deploy.blob_shapes["data"][2:] == (20, 24)
    solver = read_text(task / f"solvers/mine-{net}.prototxt", caffe_pb2.SolverParameter)
    kind = OWN_NETS[net]
    assert (solver.base_lr, solver.max_iter) == pytest.approx((kind.base_lr, kind.max_iter), rel=1e-6)
    assert solver.net == f"nets/mine-{net}.prototxt" and not solver.weights
    assert solver.weight_decay == pytest.approx(kind.weight_decay)


def test_options_go_before_the_kinds_own_settings(folder):
    options = ("--max-iter", "7", "--base-lr", "0.5", "--weight-decay", "0", "--momentum", "0.1")
    assert run(folder, "--name", "x", "--net", "hed", *options) == 0
    solver = read_text(folder / "task/solvers/x-hed.prototxt", caffe_pb2.SolverParameter)
    assert (solver.max_iter, solver.base_lr, solver.weight_decay) == (7, 0.5, 0)
    assert solver.momentum == pytest.approx(0.1)


def test_the_learned_head_of_a_dilated_net_has_its_width_and_its_rate(folder):
    assert run(folder, "--name", "x", "--net", "deeplab-largefov", "--fc-width", "6", "--head-lr", "5") == 0
    param = read_text(folder / "task/nets/x-deeplab-largefov.prototxt", caffe_pb2.NetParameter)
    layers = {layer.name: layer for layer in param.layer}
    for name in ("fc6", "fc7"):
        assert layers[name].convolution_param.num_output == 6
        assert [rate.lr_mult for rate in layers[name].param] == [5, 10]
    assert layers["conv5_3"].param[0].lr_mult == 1 and layers["fc8_voc12"].param[0].lr_mult == 10


def test_classes_weigh_by_the_median_of_their_frequencies(folder):
    assert run(folder, "--name", "x", "--net", "segnet-basic", "--width", "2") == 0
    param = read_text(folder / "task/nets/x-segnet-basic.prototxt", caffe_pb2.NetParameter)
    (loss,) = (layer for layer in param.layer if layer.type == "SoftmaxWithLoss")
    names = (folder / "task/train.txt").read_text().split()
    labels = np.stack([np.asarray(Image.open(folder / "labels" / f"{name}.png")) for name in names])
    counts = np.bincount(labels.ravel(), minlength=256)[:3]
    assert list(loss.loss_param.class_weighting) == pytest.approx(np.median(counts) / counts, abs=1e-4)
    assert loss.loss_param.ignore_label == 255
    assert median_frequency_weights([4, 0, 2], [8, 0, 8]) == [0.75, 0, 1.5]
    assert median_frequency_weights([4, 2], [8, 4]) == [1, 1]  # as frequent where they are shown
    assert median_frequency_weights([0, 0], [0, 0]) == [1, 1]
    assert median_frequency_weights([1, 4, 0], [16, 16, 0], 0.5) == [1.5811, 0.7906, 0]


def test_nets_of_one_stage_refuse_what_they_cannot_take(folder, capsys):
    assert run(folder, "--net", "hed", "--width", "8") == 1
    assert "--width is not for --net hed" in capsys.readouterr().err
    write(folder, "photo3", np.zeros((30, 24)))
    assert run(folder, "--net", "segnet-basic") == 1
    assert "takes images of one size, these differ" in capsys.readouterr().err
    assert not (folder / "task" / "nets").exists()


def test_weights_must_be_of_the_trunk_where_there_is_one(folder, tmp_path, capsys):
    weights = tmp_path / "other.caffemodel"
    save_weights(weights, {"other": [np.zeros(3, np.float32)]})
    assert run(folder, "--net", "hed", "--weights", weights) == 1
    assert "has no layer of VGG-16's, VGG-19's" in capsys.readouterr().err
    assert run(folder, "--name", "x", "--net", "unet", "--width", "2", "--weights", weights) == 0
    solver = read_text(folder / "task/solvers/x-unet.prototxt", caffe_pb2.SolverParameter)
    assert list(solver.weights) == ["start/other.caffemodel"] and (folder / "task/start/other.caffemodel").is_file()


def give_palette(folder, table):
    """Save the labels as palette images whose first colours are those of a table."""
    for path in (folder / "labels").iterdir():
        image = Image.fromarray(np.asarray(Image.open(path)))
        image.putpalette([part for colour in table for part in colour] + [7] * (768 - 3 * len(table)))
        image.save(path)


def test_classes_have_the_colours_of_a_palette(folder):
    table = [(0, 0, 0), (10, 120, 40), (250, 200, 30)]
    give_palette(folder, table)
    assert run(folder, "--trunk", "narrow") == 0
    assert read_colors(folder / "task" / "nets" / "classes.txt") == table
    assert "1: class 1  # 10 120 40\n" in (folder / "task" / "nets" / "classes.txt").read_text()


def test_classes_have_the_colours_of_a_mapping(folder):
    colours = {0: (9, 9, 9), 1: (200, 0, 0), 2: (0, 0, 220), 255: (255, 255, 255)}
    for path in (folder / "labels").iterdir():
        label = np.asarray(Image.open(path))
        Image.fromarray(
            np.stack([np.vectorize(lambda v, c=c: colours[v][c])(label) for c in range(3)], 2).astype(np.uint8)
        ).save(path)
    rules = "".join(f"{red} {green} {blue}: {index}\n" for index, (red, green, blue) in colours.items())
    (folder / "mapping.txt").write_text(rules + "1 2 3: 2\n")
    assert run(folder, "--mapping", folder / "mapping.txt", "--trunk", "narrow") == 0
    assert read_colors(folder / "task" / "nets" / "classes.txt") == [(9, 9, 9), (200, 0, 0), (0, 0, 220)]


@pytest.mark.parametrize("table", [[], [(0, 0, 0), (1, 1, 1), (2, 2, 2)], [(0, 0, 0), (9, 0, 0), (9, 0, 0)]])
def test_greys_and_equal_colours_are_no_colours(folder, table):
    """Many tools save label images with a ramp of greys: in pictures its classes all look black."""
    if table:
        give_palette(folder, table)
    assert run(folder, "--trunk", "narrow") == 0
    assert read_colors(folder / "task" / "nets" / "classes.txt") == [(0, 0, 0), (128, 0, 0), (0, 128, 0)]


@pytest.mark.parametrize(
    ("card", "colors"),
    [
        ("0: a  # 1 2 3\n1: b # 4,5,6\n", [(1, 2, 3), (4, 5, 6)]),
        ("\ufeff0: a  # 1 2 3\n", [(1, 2, 3)]),  # as Windows' editors begin a file
        ("0: a  # 1 2 3\n1: b\n", None),
        ("0: a  # 1 2 3\n1: b # 4 5 256\n", None),
        ("0: a  # 1 2 3\n1: b # 4 5 6 7\n", None),
        ("# 1 2 3\n0: a\n", None),
    ],
)
def test_colours_of_a_class_card(tmp_path, card, colors):
    (tmp_path / "classes.txt").write_text(card)
    assert read_colors(tmp_path / "classes.txt") == colors


def train_options(folder, name="task-fcn8s"):
    """Return the options of the training data layer and of the validation's."""
    net = read_text(folder / "task" / "nets" / f"{name}.prototxt", caffe_pb2.NetParameter)
    return [ast.literal_eval(layer.python_param.param_str) for layer in net.layer if layer.type == "Python"][:2]


def test_without_options_data_are_as_they_were(folder):
    run(folder, "--name", "task", "--trunk", "narrow")
    train, val = train_options(folder)
    assert train == {**val, "split": "train.txt"}


def test_batches_and_augmentation_are_written_and_trained(folder):
    """In the training layer alone; the paper's three nets take windows of another size than the images."""
    more = "mirror,scale=0.5:2,rotate=10,colour=0.4,crop=16x18,least=0.2"
    options = ("--augment", more, "--batch-size", "3", "--buckets", "--workers", "2", "--trunk", "narrow")
    assert run(folder, "--name", "task", *options) == 0
    train, val = train_options(folder)
    augment = {"mirror": True, "scale": (0.5, 2.0), "rotate": 10.0, "colour": 0.4, "crop": (16, 18), "least": 0.2}
    assert train == {
        **val,
        "split": "train.txt",
        "augment": augment,
        "batch_size": 3,
        "buckets": True,
        "order": "epochs",
        "workers": 2,
    }
    path = folder / "task" / "nets" / "task-fcn8s.prototxt"
    net = Net(path, TRAIN)
    assert net.blob_shapes["data"] == (3, 3, 16, 18)
    assert Net(path, TEST, stages=("val",)).blob_shapes["data"] == (1, 3, 20, 24)


def test_the_papers_augmentation_by_name(folder):
    run(folder, "--name", "task", "--trunk", "narrow", "--augment", "paper")
    assert train_options(folder)[0]["augment"] == {"mirror": True, "jitter": 32}


@pytest.mark.parametrize("net", ["segnet-basic", "unet", "hed"])
def test_other_nets_are_augmented_too(folder, net):
    """One that takes a single size gets windows of that size."""
    more = ("--net", net, "--augment", "scale=0.5:2,mirror", "--batch-size", "2")
    assert run(folder, "--name", "task", *more, *(() if net == "hed" else ("--width", "4"))) == 0
    train = train_options(folder, f"task-{net}")[0]
    assert ("crop" in train["augment"]) == (net == "segnet-basic") and train["batch_size"] == 2
    built = Net(folder / "task" / "nets" / f"task-{net}.prototxt", TRAIN)
    loss, _ = built.forward_loss()
    assert built.blob_shapes["data"][0] == 2 and np.isfinite(float(loss.detach()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--augment", "mirrored"), 'unknown option "mirrored". Did you mean "mirror"'),
        (("--augment", "scale=big"), "augment's scale should be the least and the greatest factor"),
        (("--buckets",), "Give --batch-size too"),
        (("--net", "segnet-basic", "--augment", "crop=8x8"), "takes images of one size: 20x24. Leave crop out"),
        (("--workers", "-1"), "--workers"),
    ],
)
def test_wrong_augmentation_leaves_no_task(folder, capsys, options, message):
    try:
        status = run(folder, "--name", "task", *options)
    except SystemExit as error:
        status = error.code
    assert status and message in capsys.readouterr().err
    assert not (folder / "task").exists()
