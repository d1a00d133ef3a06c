"""new_task on people's own data: every format to a task that trains after it was moved, and every refusal's cure."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import own_trees as trees
import pytest
import torch
from needs import needs_package
from own_trees import halves
from PIL import Image, ImageOps

from fcn_caffe import TEST, TRAIN, Net
from fcn_caffe.commands import doctor, infer, score, solve
from fcn_caffe.commands.new_task import main, parser, training_settings
from fcn_caffe.data.own import convert, staging
from fcn_caffe.data.own.classes import change_values, merge_classes, read_changes, read_class_file
from fcn_caffe.data.own.formats.source import ClassName
from fcn_caffe.data.own.label_check import Pair
from fcn_caffe.data.own.splits import Drawing, make_splits
from fcn_caffe.data.readers.labels import read_classes, read_colors
from fcn_caffe.errors import DataError
from fcn_caffe.models import Start
from fcn_caffe.models.class_weights import read_class_weights
from fcn_caffe.models.own_start import choose_start
from fcn_caffe.models.own_task import STAGES, Training
from fcn_caffe.proto import caffe_pb2, read_text
from fcn_caffe.proto.blob_file import read_blob, write_blob
from fcn_caffe.training.stage import start_from
from fcn_caffe.weights.transfer import save_weights

WRITERS = {
    "coco": lambda folder: trees.write_coco(folder).parent.parent,
    "labelme": trees.write_labelme,
    "cvat": trees.write_cvat,
    "cvat-masks": trees.write_cvat_masks,
    "cityscapes": trees.write_cityscapes,
    "ade20k": trees.write_ade20k,
    "mapillary": trees.write_mapillary,
    "voc": trees.write_voc,
}
QUICK = ("--trunk", "narrow", "--max-iter", "1")


def run(*options):
    return main([str(option) for option in options])


def pixels(path):
    with Image.open(path) as picture:
        return np.array(picture)


def labels_of(task):
    paths = sorted(path for path in (task / "labels").rglob("*") if path.is_file())
    return {path.relative_to(task / "labels").as_posix(): pixels(path) for path in paths}


def split(task, name):
    return (task / f"{name}.txt").read_text().split()


def index_labels(folder, values):
    """Write images with labels: each a constant, or an array."""
    for index, value in enumerate(values):
        trees.photograph(folder / "images" / f"{index:02}.png", index)
        label = value if isinstance(value, np.ndarray) else halves(0, value)
        trees.label(folder / "labels" / f"{index:02}.png", label)
    return ("--images", folder / "images", "--labels", folder / "labels", "--out", folder / "task")


# -- formats -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_becomes_a_task(tmp_path, name):
    if name in ("coco", "cvat"):
        needs_package("pycocotools")
    data = WRITERS[name](tmp_path / "data")
    task = tmp_path / "task"
    assert run("--annotations", data, "--out", task, "--name", "mine", *QUICK) == 0
    net = Net(task / "nets/mine-fcn32s.prototxt", TRAIN)
    blobs = net(keep=("label",))
    classes = read_classes(task / "nets/classes.txt")
    assert net.blob_shapes["score"][1] == len(classes) == len(read_colors(task / "nets/classes.txt"))
    assert set(np.unique(blobs["label"].numpy())) <= {*range(len(classes)), 255}
    listed = split(task, "train") + split(task, "val")
    assert sorted(f"{entry}.png" for entry in listed) == sorted(labels_of(task))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_from_a_coco_file_to_scores_in_a_folder_that_was_moved(tmp_path, monkeypatch, capsys):
    needs_package("pycocotools")
    monkeypatch.chdir(tmp_path)
    file = trees.write_coco(Path("pets"))
    assert run("--annotations", file, *QUICK, "--class-weights", "median") == 0
    moved = tmp_path / "another" / "place"
    moved.parent.mkdir()
    shutil.move("tasks/pets", moved)
    shutil.rmtree("pets")  # the task has all it needs
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    solver, net = moved / "solvers/pets-fcn8s.prototxt", moved / "nets/pets-fcn8s.prototxt"
    weights = moved / "weights/pets-fcn8s.caffemodel"
    assert doctor.main([str(solver)]) == 0
    assert solve.main([str(solver)]) == 0
    assert all((moved / f"weights/pets-fcn{stage}.caffemodel").is_file() for stage in STAGES)
    capsys.readouterr()
    assert score.main([str(net), "--weights", str(weights)]) == 0
    assert "background" in capsys.readouterr().out
    image = next(path for path in (moved / "images").rglob("*.jpg"))
    assert infer.main([str(image), "--net", str(net), "--weights", str(weights), "--out", "seen"]) == 0
    text = "".join(path.read_text() for path in moved.rglob("*.prototxt"))
    assert str(tmp_path) not in text  # every path is relative


def test_from_cityscapes_to_a_step(tmp_path, monkeypatch, capsys):
    data = trees.write_cityscapes(tmp_path / "city", "polygons")
    monkeypatch.chdir(tmp_path)
    assert run("--annotations", data, "--drop", "car", "--merge", "ground=road,sidewalk", *QUICK) == 0
    out = capsys.readouterr().out
    assert "cityscapes: 5 images with labels, 19 classes" in out and "splits: train 3 (60.0%), val 2 (40.0%)" in out
    task = Path("tasks/city")
    assert read_classes(task / "nets/classes.txt")[0] == "ground" and len(split(task, "val")) == 2
    assert set(np.unique(next(iter(labels_of(task).values())))) == {0, 255}
    monkeypatch.chdir(task)
    assert solve.main(["solvers/city-fcn32s.prototxt"]) == 0


def test_images_are_other_names_of_the_same_files(tmp_path, monkeypatch):
    data = trees.write_voc(tmp_path / "voc")
    assert run("--annotations", data, "--out", tmp_path / "linked", *QUICK) == 0
    assert (tmp_path / "linked/images/a.jpg").samefile(data / "JPEGImages/a.jpg")

    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(convert.os, "link", refuse)
    assert run("--annotations", data, "--out", tmp_path / "copied", *QUICK) == 0
    copy = tmp_path / "copied/images/a.jpg"
    assert (
        not copy.samefile(data / "JPEGImages/a.jpg") and copy.read_bytes() == (data / "JPEGImages/a.jpg").read_bytes()
    )


def test_labels_carry_the_classes_colours(tmp_path):
    assert run("--annotations", trees.write_cvat_masks(tmp_path / "a"), "--out", tmp_path / "task", *QUICK) == 0
    with Image.open(tmp_path / "task/labels/0.png") as picture:
        assert picture.mode == "P" and picture.getpalette()[3:6] == [250, 50, 83]


def test_longest_side(tmp_path):
    data = trees.write_voc(tmp_path / "voc")
    assert run("--annotations", data, "--out", tmp_path / "task", "--longest-side", "16", *QUICK) == 0
    assert {label.shape for label in labels_of(tmp_path / "task").values()} == {(12, 16)}
    original = pixels(data / "JPEGImages/a.jpg").astype(float)
    small = pixels(tmp_path / "task/images/a.png").astype(float)
    assert original.shape == (24, 32, 3) and small.shape == (12, 16, 3)
    means = original.reshape(12, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(small - means).mean() < np.abs(small - original[::2, ::2]).mean()  # smoothed, not sampled
    assert run("--annotations", data, "--out", tmp_path / "same", "--longest-side", "32", *QUICK) == 0
    assert (tmp_path / "same/images/a.jpg").is_file()  # small enough: as it is


def test_longest_side_of_label_pictures(tmp_path, capsys):
    options = index_labels(tmp_path, [1, 1, 1, 1])
    assert run(*options, *QUICK, "--void", "0", "--longest-side", "8") == 1
    assert "beside void only label 1 is used" in capsys.readouterr().err
    assert run(*options, *QUICK, "--longest-side", "8") == 0
    label = labels_of(tmp_path / "task")["00.png"]
    assert label.shape == (6, 8) and np.array_equal(label, np.repeat([[0] * 4 + [1] * 4], 6, 0))
    assert not (tmp_path / "task/mapping.txt").exists()


@pytest.mark.parametrize("orientation", range(2, 9))
def test_labels_turn_with_their_image(tmp_path, orientation):
    """An annotation of the pixels as they are stored is turned as viewers turn the image."""
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    picture = Image.fromarray(stored)
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    turned = convert._turned(stored, tmp_path / "a.png", tmp_path)
    if orientation > 4:
        with Image.open(tmp_path / "a.png") as picture:
            assert np.array_equal(turned, np.asarray(ImageOps.exif_transpose(picture)))
    else:
        assert np.array_equal(turned, stored)  # its size does not tell: taken as people see it


def test_an_annotation_of_another_size_is_refused(tmp_path, capsys):
    data = trees.write_voc(tmp_path / "voc")
    trees.photograph(data / "JPEGImages/c.jpg", size=(10, 12))
    assert run("--annotations", data, "--out", tmp_path / "task", *QUICK) == 1
    assert "c.png: the label is 32x24, its image c.jpg is 12x10" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["voc"]  # nothing is left behind


# -- classes -----------------------------------------------------------------------------------------------------------


def test_a_map_merges_and_drops(tmp_path):
    data = trees.write_labelme(tmp_path / "data")
    (tmp_path / "map.txt").write_text("# what is what\ncat = pet\ndog = pet\n")
    assert run("--annotations", data, "--out", tmp_path / "task", "--map", tmp_path / "map.txt", *QUICK) == 0
    assert read_classes(tmp_path / "task/nets/classes.txt") == ["background", "pet"]


def test_a_class_file_orders_and_colours(tmp_path, capsys):
    data = trees.write_labelme(tmp_path / "data")
    names = tmp_path / "names.txt"
    names.write_text("dog 9 8 7\nbackground\ncat\nhorse, 1, 2, 3\n")
    assert run("--annotations", data, "--out", tmp_path / "task", "--class-file", names, *QUICK) == 0
    assert read_classes(tmp_path / "task/nets/classes.txt") == ["dog", "background", "cat", "horse"]
    assert read_colors(tmp_path / "task/nets/classes.txt")[::3] == [(9, 8, 7), (1, 2, 3)]
    assert read_class_file(tmp_path / "task/nets/classes.txt")[0] == ClassName("dog", (9, 8, 7))
    names.write_text("background\ncat\n")
    assert run("--annotations", data, "--out", tmp_path / "other", "--class-file", names, *QUICK) == 1
    assert "names.txt: does not list the class 'dog' of the data. Add it there" in capsys.readouterr().err
    assert run("--annotations", data, "--out", tmp_path / "other", "--class-file", names, "--drop", "dog", *QUICK) == 0


def test_a_class_file_of_colours_is_a_mapping(tmp_path):
    colours = np.array([[10, 0, 0], [0, 20, 0]], np.uint8)
    options = index_labels(tmp_path, [colours[halves(0, 1)]] * 3)
    (tmp_path / "names.txt").write_text("grass 0 20 0\nearth 10 0 0\n")
    assert run(*options, "--class-file", tmp_path / "names.txt", *QUICK) == 0
    task = tmp_path / "task"
    assert read_colors(task / "nets/classes.txt") == [(0, 20, 0), (10, 0, 0)]
    label = Net(next((task / "nets").glob("*-fcn32s.prototxt")), TEST)(keep=("label",))["label"]
    assert np.array_equal(label[0, 0].numpy(), halves(1, 0))


def test_merging_and_dropping_label_values(tmp_path):
    options = index_labels(tmp_path, [np.repeat([[0, 1, 2, 3, 255] * 2], 4, 0)[:, :10]] * 3)
    for index in range(3):
        trees.photograph(tmp_path / "images" / f"{index:02}.png", index, (4, 10))
    (tmp_path / "names.txt").write_text("sky\ntree\nbush\ncar\n")
    names = ("--class-file", tmp_path / "names.txt")
    assert run(*options, *names, "--merge", "plant=tree,bush", "--drop", "car", *QUICK) == 0
    task = tmp_path / "task"
    assert read_classes(task / "nets/classes.txt") == ["sky", "plant"]
    label = Net(next((task / "nets").glob("*-fcn32s.prototxt")), TEST)(keep=("label",))["label"]
    assert label[0, 0, 0, :5].tolist() == [0, 1, 1, 255, 255]
    assert run(*options, "--force", "--merge", "1=2", *QUICK) == 0
    label = Net(next((task / "nets").glob("*-fcn32s.prototxt")), TEST)(keep=("label",))["label"]
    assert label[0, 0, 0, :5].tolist() == [0, 1, 1, 2, 255]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 2 300\n", "names.txt:1: expected `NAME` or `NAME RED GREEN BLUE`"),
        ("a\na\n", "names.txt: the class 'a' comes twice"),
        ("a 1 2 3\nb 1 2 3\n", "the colour (1, 2, 3) comes twice"),
        ("0: a\n2: b\n", "names.txt:2: class 2 should be 1"),
        ("# none\n", "names.txt: lists no class"),
    ],
)
def test_wrong_class_files(tmp_path, text, message):
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(DataError) as caught:
        read_class_file(tmp_path / "names.txt")
    assert message in str(caught.value)


def test_wrong_changes(tmp_path):
    path = tmp_path / "map.txt"
    for text, message in (
        ("cat\n", "map.txt:1: expected `old = new`"),
        ("a = b\na = c\n", "map.txt:2: what becomes of .* 'a' is said twice"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_changes(path)
    with pytest.raises(DataError, match=r"--merge 'pet=cat,cat': what becomes of the class 'cat' is said twice"):
        read_changes(None, ["pet=cat,cat"])
    with pytest.raises(DataError, match="--drop 'cat': what becomes of the class 'cat' is said twice"):
        read_changes(None, ["pet=cat"], ["cat"])
    with pytest.raises(DataError, match="--merge 'pet': expected NEW=OLD,OLD"):
        read_changes(None, ["pet"])
    classes = [ClassName("cat"), ClassName("dog"), ClassName("cow")]
    with pytest.raises(DataError, match=r"the class 'dgo' .* is none of the data's. Did you mean 'dog'"):
        merge_classes(classes, {"dgo": None})
    with pytest.raises(DataError, match="only 1 class is left"):
        merge_classes(classes, {"cat": "pet", "dog": "pet", "cow": None})
    with pytest.raises(DataError, match="300 classes are more than a label picture holds"):
        merge_classes([ClassName(str(index)) for index in range(300)], {})
    with pytest.raises(DataError, match=r"there is no class '9' to merge or drop\. Known: 1, 2"):
        change_values({"9": None}, (), {1, 2})
    with pytest.raises(DataError, match="the class '2' is merged or dropped itself"):
        change_values({"1": "2", "2": None}, (), {1, 2})


def test_options_of_classes_add_up(tmp_path):
    options = ("--merge", "pet=1", "--merge", "plant=2", "--drop", "3", "--drop", "4", "--void", "8", "--void", "9")
    given = parser().parse_args(options)
    assert read_changes(None, given.merge, given.drop) == {"1": "pet", "2": "plant", "3": None, "4": None}
    assert given.void == [8, 9] and parser().parse_args([]).merge == []


@pytest.mark.parametrize("name", ["", "a\nb", "C# file", "\ud800"])
def test_names_that_break_the_class_card(tmp_path, capsys, name):
    shapes = [trees.shape(name, "rectangle", (1, 1), (9, 9)), trees.shape("dog", "rectangle", (9, 9), (20, 20))]
    for index in range(2):
        trees.photograph(tmp_path / "data" / f"{index}.png", index)
        trees.write_json(tmp_path / "data" / f"{index}.json", trees.labelme(f"{index}.png", shapes))
    options = ("--annotations", tmp_path / "data", "--out", tmp_path / "task", *QUICK)
    assert run(*options) == 1
    assert f"data: the class name {name!r} is empty, or holds # or what cannot be printed" in capsys.readouterr().err
    if name == "C# file":
        assert run(*options, "--merge", "notes=C# file") == 0
        assert read_classes(tmp_path / "task" / "nets" / "classes.txt") == ["background", "notes", "dog"]


# -- strays ------------------------------------------------------------------------------------------------------------


def stray(folder):
    odd = halves(0, 1)
    odd[3, 3] = 77
    return index_labels(folder, [1] * 9 + [odd])


def test_a_stray_value_stops_with_its_file(tmp_path, capsys):
    options = stray(tmp_path)
    assert run(*options, *QUICK) == 1
    message = capsys.readouterr().err
    assert "labels/09.png: label 77, 1 pixels. If they are a mistake, correct the files" in message
    assert all(
        cure in message for cure in ("--void 77 255", "--merge NEW=77", "--drop 77", "--allow-stray", "--classes")
    )
    assert not (tmp_path / "task").exists()


@pytest.mark.parametrize(
    ("cure", "classes"),
    [
        (("--void", "77", "255"), 2),
        (("--drop", "77"), 2),
        (("--merge", "1=77"), 2),
        (("--allow-stray",), 78),
        (("--classes", "78"), 78),
    ],
)
def test_each_cure_of_a_stray_works(tmp_path, cure, classes):
    assert run(*stray(tmp_path), *QUICK, *cure) == 0
    net = Net(next((tmp_path / "task/nets").glob("*-fcn32s.prototxt")), TRAIN, device="meta")
    assert net.blob_shapes["score"][1] == classes


def test_a_few_pixels_in_few_files_are_strays(tmp_path, capsys):
    """No gap: a value that smoothing makes, next to a class."""
    odd = np.zeros((240, 320), np.uint8)
    odd[:, 9:], odd[0, 9] = 1, 2
    plain = np.minimum(odd, 1)
    options = index_labels(tmp_path, [plain] * 19 + [odd])
    for path in (tmp_path / "images").iterdir():
        trees.photograph(path, size=(240, 320))
    assert run(*options, *QUICK) == 1
    assert "labels/19.png: label 2, 1 pixels" in capsys.readouterr().err


def test_a_stray_name(tmp_path, capsys):
    data = trees.write_labelme(tmp_path / "data", 12)
    path = data / "7.json"
    path.write_text(path.read_text().replace('"cat"', '"cta"'))
    assert run("--annotations", data, "--out", tmp_path / "task", *QUICK) == 1
    assert "7.json: 'cta', 143 pixels" in capsys.readouterr().err
    assert run("--annotations", data, "--out", tmp_path / "task", "--merge", "cat=cta", *QUICK) == 0
    assert read_classes(tmp_path / "task/nets/classes.txt") == ["background", "cat", "dog"]


def test_a_void_file_stops_with_its_name(tmp_path, capsys):
    options = index_labels(tmp_path, [1, 1, np.full((24, 32), 255), 1])
    assert run(*options, *QUICK) == 1
    assert "labels/02.png: every pixel is void, so there is nothing to learn from it" in capsys.readouterr().err
    assert run(*options, *QUICK, "--allow-stray") == 0


# -- splits ------------------------------------------------------------------------------------------------------------


def pairs(*names):
    return [Pair(name, Path(name), Path(name)) for name in names]


def test_groups_stay_together():
    names = [f"drive{group}/frame{index}" for group in range(10) for index in range(5)]
    for by in ("parent", r"drive\d", r"(\d)/"):
        splits = make_splits(pairs(*names), Drawing(0.2, 0.1, 7, by))
        groups = [{name.split("/")[0] for name in part} for part in vars(splits).values()]
        assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
        assert [len(part) for part in vars(splits).values()] == [35, 10, 5]
        assert splits == make_splits(pairs(*reversed(names)), Drawing(0.2, 0.1, 7, by))
        assert splits != make_splits(pairs(*names), Drawing(0.2, 0.1, 8, by))
    assert str(splits) == "splits: train 35 (70.0%), val 10 (20.0%), test 5 (10.0%)"


def test_large_groups():
    names = [f"a/{index}" for index in range(9)] + [f"b/{index}" for index in range(7)]
    splits = make_splits(pairs(*names), Drawing(0.2, group_by="parent"))
    assert len(splits.val) == 7  # the smaller of two that are both too large
    with pytest.raises(DataError, match="1 group of --group-by are too few to split"):
        make_splits(pairs(*names), Drawing(group_by="[/]"))


def test_the_data_sets_own_splits():
    own = {"a": "train", "b": "train", "c": "val", "d": "test", "e": ""}
    splits = make_splits(pairs(*own), Drawing(), given=own)
    assert (splits.train, splits.val, splits.test) == (["a", "b", "e"], ["c"], ["d"])
    drawn = make_splits(pairs(*own), Drawing(), given=dict.fromkeys(own, "val"))
    assert len(drawn.val) == 1 and len(drawn.train) == 4  # nothing to train on: drawn
    halved = make_splits(pairs("a", "b", "c"), Drawing(), given={"a": "train", "b": "train", "c": "test"})
    assert len(halved.val) == 1 and halved.test == ["c"]


@pytest.mark.parametrize(
    ("drawing", "message"),
    [
        (Drawing(group_by="("), "is no regular expression"),
        (Drawing(group_by="x"), "does not match the image 'a'"),
        (Drawing(val=1.5), "--val-fraction should lie between 0 and 1"),
        (Drawing(test=-1), "--test-fraction should lie between 0 and 1"),
    ],
)
def test_wrong_drawings(drawing, message):
    with pytest.raises(DataError, match=message):
        make_splits(pairs("a", "b", "c"), drawing)


# -- the task's folder -------------------------------------------------------------------------------------------------


def test_a_share_of_what_is_listed_is_refused(tmp_path, capsys):
    options = ("--annotations", trees.write_cityscapes(tmp_path / "data"), "--out", tmp_path / "task", *QUICK)
    assert run(*options, "--val-fraction", 0.5) == 1
    assert "error: --val-fraction: the data set says which images are val. Leave it out" in capsys.readouterr().err
    (tmp_path / "list.txt").write_text("x\n")
    lists = ("--train-list", tmp_path / "list.txt", "--test-list", tmp_path / "list.txt", "--test-fraction", 0.5)
    assert run(*options, *lists) == 1
    assert "list.txt says which images are test. Leave it out." in capsys.readouterr().err
    assert run(*options, "--val-fraction", 0.5, "--group-by", "[^/]+$", "--allow-stray") == 0


def test_nothing_is_overwritten_without_force(tmp_path, capsys):
    options = (*index_labels(tmp_path, [1] * 4), *QUICK)
    task = tmp_path / "task"
    assert run(*options, "--name", "one") == 0
    (task / "weights/one-fcn32s.caffemodel").write_bytes(b"trained")
    before = {path: path.stat().st_mtime_ns for path in task.rglob("*")}
    assert run(*options, "--name", "two") == 1
    assert "there is images, labels, nets, solvers, classes.png, train.txt, val.txt already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in task.rglob("*")} == before
    assert run(*options, "--name", "two", "--force") == 0
    assert "note: weights and snapshots of the older task stay" in capsys.readouterr().out
    assert not (task / "nets/one-fcn32s.prototxt").exists() and (task / "nets/two-fcn32s.prototxt").is_file()
    assert (task / "weights/one-fcn32s.caffemodel").read_bytes() == b"trained"


def test_a_task_of_another_run_meanwhile_is_not_overwritten(tmp_path, capsys, monkeypatch):
    options = (*index_labels(tmp_path, [1] * 4), *QUICK)
    check = staging.check_out

    def run_beside(*words):
        check(*words)
        monkeypatch.setattr(staging, "check_out", check)
        assert run(*options, "--name", "one") == 0

    monkeypatch.setattr(staging, "check_out", run_beside)
    assert run(*options, "--name", "two") == 1
    assert "Give another --out, or --force to replace it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("task/nets/*32s*")] == ["one-fcn32s.prototxt"]


def test_folders_that_are_no_task_stay(tmp_path, capsys):
    options = index_labels(tmp_path, [1] * 4)[:4]
    other = tmp_path / "other"
    (other / "images").mkdir(parents=True)
    assert run(*options, "--out", other, "--force", *QUICK) == 1
    assert "holds images, but is no task of new_task's" in capsys.readouterr().err
    assert run(*options, "--out", tmp_path, "--force", *QUICK) == 1
    assert f"{tmp_path}: holds {tmp_path / 'images'}, which is read" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert run(*options, "--out", tmp_path / "file", *QUICK) == 1
    assert "file: is a file. Give another --out." in capsys.readouterr().err


def test_a_failure_leaves_the_old_task(tmp_path, monkeypatch):
    options = (*index_labels(tmp_path, [1] * 4), *QUICK, "--name", "one")
    assert run(*options) == 0
    task = tmp_path / "task"
    before = {path.relative_to(task): path.read_bytes() for path in task.rglob("*") if path.is_file()}
    replace, count = staging.os.replace, iter(range(100))

    def fail(source, target):
        if Path(source).parent.name.endswith(".partial") and Path(source).name == "nets" and next(count) == 0:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(staging.os, "replace", fail)
    assert run(*options, "--force", "--seed", "3") == 1
    assert {path.relative_to(task): path.read_bytes() for path in task.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "labels", "task"]


@pytest.mark.parametrize("end", [False, True])
def test_a_full_disk_is_the_tasks_not_the_photographs(tmp_path, monkeypatch, capsys, end):
    def fail(source, target):
        raise OSError(*((28, "No space left on device", str(source), None, str(target)) if end else (13, "No", source)))

    options = (*index_labels(tmp_path, [1] * 4), *QUICK, "--name", "x")
    monkeypatch.setattr(convert.os, "link", fail)
    monkeypatch.setattr(convert.shutil, "copyfile", fail)
    assert run(*options) == 1
    error = capsys.readouterr().err
    photograph = tmp_path / "images" / "00.png"
    full = f"error: {tmp_path / 'task'}: cannot be written (No space left on device). Give another --out."
    assert (full if end else f"error: {photograph}: cannot be read (No). Correct its rights") in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "labels"]


def test_in_place(tmp_path, capsys):
    options = index_labels(tmp_path, [1] * 4)
    assert run(*options, "--in-place", "--longest-side", "9", *QUICK) == 1
    assert run(*options, "--in-place", *QUICK) == 0
    assert not (tmp_path / "task/images").exists()
    net = next((tmp_path / "task/nets").glob("*-fcn32s.prototxt"))
    assert str(tmp_path / "images") in net.read_text()
    assert Net(net, TRAIN).blob_shapes["data"] == (1, 3, 24, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--images", "a"), "give --images and --labels, or --annotations"),
        (("--annotations", "a", "--labels", "b"), "--annotations takes the place of --labels"),
        (("--classes", "300"), "--classes: should be a whole number from 2 to 255, got 300"),
        (("--void", "-1"), "--void: should be a whole number from 0 to 2147483647, got -1"),
        (("--max-iter", "0"), "--max-iter: should be a whole number from 1 to 2147483647, got 0"),
        (("--max-iter", "2147483648"), "--max-iter: should be a whole number from 1 to 2147483647, got 2147483648"),
        (("--batch-size", "2000000"), "--batch-size: should be a whole number from 1 to 1048576"),
        (("--snapshot", "0"), "--snapshot: should be a whole number from 1 to 2147483647, got 0"),
        (("--base-lr-8s", "nan"), "--base-lr-8s: should be a number from 0 to 3.4e+38, got nan"),
        (("--base-lr", "1e39"), "--base-lr: should be a number from 0 to 3.4e+38, got 1e39"),
        (("--momentum", "1"), "--momentum: should be a number from 0, below 1, got 1"),
        (("--seed", "-1"), "--seed: should be a whole number from 0"),
    ],
)
def test_command_lines_that_say_too_little_or_too_much(options, message, capsys):
    with pytest.raises(SystemExit):
        run(*options)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a\nb", " a", "a\t", "a\u2028b", b"\xff".decode("utf-8", "surrogateescape")])
def test_images_whose_names_no_list_can_hold(name):
    pairs = [Pair(each, Path("x"), Path("x")) for each in ("b", name)]
    with pytest.raises(DataError, match="is no name that a list of images can hold") as error:
        make_splits(pairs, Drawing())
    assert str(error.value).startswith(repr(name)) and str(error.value).isprintable()


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", ".x", "a\nb", "x" * 101])
def test_names_that_are_no_file_names(tmp_path, capsys, name):
    assert run(*index_labels(tmp_path, [1] * 4), *QUICK, f"--name={name}") == 1
    assert "becomes file names" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "labels"]


@pytest.mark.parametrize(
    "options",
    [
        ("--width", 4),
        ("--net", "unet", "--pad", 1),
        ("--net", "unet", "--fc-width", 4),
        ("--net", "unet", "--head-lr", 4),
        ("--net", "deeplab-largefov", "--fc-kernel", 3),
        ("--net", "unet", "--trunk", "narrow"),
        ("--net", "segnet", "--max-iter-8s", 3),
    ],
)
def test_options_of_another_net_are_refused(tmp_path, capsys, options):
    assert run(*index_labels(tmp_path, [1] * 4), "--name", "x", *options) == 1
    assert f"error: {options[-2]} is not for --net {'fcn' if len(options) == 2 else options[1]}. Leave it out." in (
        capsys.readouterr().err
    )


def test_a_rate_of_nothing_is_a_rate():
    assert set(training_settings(parser().parse_args(["--base-lr", "0"])).base_lr.values()) == {0}


def test_what_is_said_of_a_stage_counts_before_what_is_said_of_all():
    words = ["--base-lr", "1", "--base-lr-8s", "0", "--max-iter-16s", "7", "--max-iter", "5"]
    settings = training_settings(parser().parse_args(words))
    assert settings.base_lr == {"32s": 1, "16s": 1, "8s": 0} and settings.max_iter == {"32s": 5, "16s": 7, "8s": 5}
    assert training_settings(parser().parse_args([])).max_iter == Training().max_iter


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--classes", 2), "labels out of range for 2 classes"),
        (("--val-fraction", 0.7, "--test-fraction", 0.7), "--val-fraction 0.7 and --test-fraction 0.7 leave nothing"),
        (("--class-weights", "median=0.0"), "the power should be above 0 and at most 1"),
        (("--class-weights", "median=nan"), "the power should be above 0 and at most 1"),
    ],
)
def test_a_refused_task_leaves_no_folder(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "some" / "tasks" / "mine"
    assert run(*index_labels(tmp_path, [1, 2] * 2)[:4], "--out", place, "--name", "x", *QUICK, *options) == 1
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "labels"]


def test_the_commands_to_type_next_are_quoted(tmp_path, capsys):
    options = index_labels(tmp_path, [1] * 4)[:4]
    assert run(*options, "--name", "it's mine", "--out", tmp_path / "a place", *QUICK) == 0
    lines = capsys.readouterr().out.splitlines()
    words = next(shlex.split(line) for line in lines if line.startswith("  cd "))
    assert words[:3] == ["cd", str(tmp_path / "a place"), "&&"] and words[-1] == "solvers/it's mine-fcn8s.prototxt"
    words = next(shlex.split(line) for line in lines if "fcn-caffe score" in line)
    assert words[-3:] == ["nets/it's mine-fcn8s.prototxt", "--weights", "weights/it's mine-fcn8s.caffemodel"]


@pytest.mark.parametrize("option", [("--void", 3), ("--classes", 3), ("--in-place",), ("--mapping", "a")])
def test_options_of_label_pictures_are_not_for_annotations(tmp_path, capsys, option):
    data = trees.write_voc(tmp_path / "voc")
    assert run("--annotations", data, "--out", tmp_path / "task", *option) == 1
    assert f"{option[0]} is for --labels. Leave it out." in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--overlap", "void"), ("--all-classes",), ("--format", "coco")])
def test_options_of_annotations_are_not_for_label_pictures(tmp_path, capsys, option):
    assert run(*index_labels(tmp_path, [1] * 4), *option) == 1
    assert f"{option[0]} is for --annotations. Leave it out." in capsys.readouterr().err


@pytest.mark.parametrize("options", [(), ("--longest-side", "8")])
def test_a_damaged_photograph_is_named_where_it_is(tmp_path, capsys, options):
    data = trees.write_voc(tmp_path / "voc")
    path = data / "JPEGImages/a.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    assert run("--annotations", data, "--out", tmp_path / "task", *options, *QUICK) == 1
    assert f"{path}: cannot be read" in capsys.readouterr().err
    held = trees.write_labelme(tmp_path / "labelme") / "0.json"
    held.write_text(re.sub('"imageData": "(.{400})[^"]*"', r'"imageData": "\1"', held.read_text(), count=1))
    assert run("--annotations", held.parent, "--out", tmp_path / "task", *options, *QUICK) == 1
    assert f"{held}: the image that it holds cannot be read" in capsys.readouterr().err


# -- weights of classes ------------------------------------------------------------------------------------------------


def test_class_weights_train_by_infogain_and_score_as_before(tmp_path):
    options = (*index_labels(tmp_path, [halves(0, 1)] * 3 + [np.pad(halves(0, 1)[:4], ((20, 0), (0, 0)))]), *QUICK)
    assert run(*options, "--name", "x", "--class-weights", "median") == 0
    path = tmp_path / "task/nets/x-fcn8s.prototxt"
    matrix = read_blob(tmp_path / "task/nets/x-class-weights.binaryproto").reshape(2, 2)
    names = split(tmp_path / "task", "train")
    counts = np.stack([np.bincount(labels_of(tmp_path / "task")[f"{name}.png"].ravel(), minlength=2) for name in names])
    frequencies = counts.sum(0) / (24 * 32 * len(names))
    assert np.diag(matrix) == pytest.approx(np.median(frequencies) / frequencies, abs=1e-4)
    train, test = Net(path, TRAIN), Net(path, TEST)
    assert train.layer("loss").param.type == "InfogainLoss" and test.layer("loss").param.type == "SoftmaxWithLoss"
    loss, blobs = train.forward_loss(keep=("label",))
    weights = np.diag(matrix)[blobs["label"].numpy().astype(int)]
    assert float(loss.detach()) == pytest.approx(np.log(2) * weights.mean(), rel=1e-5)  # scores start at zero
    plain = tmp_path / "plain"
    assert run(*options[:5], plain, *QUICK, "--name", "x") == 0
    before = Net(plain / "nets/x-fcn8s.prototxt", TEST)
    assert float(test.forward_loss()[0].detach()) == float(before.forward_loss()[0].detach())
    param = read_text(path, caffe_pb2.NetParameter)
    assert [layer.include[0].phase for layer in param.layer if layer.name == "loss"] == [TRAIN, TEST]


def test_class_weights_of_a_file(tmp_path, capsys):
    options = (*index_labels(tmp_path, [1] * 4), "--max-iter", "1", "--name", "x")
    (tmp_path / "weights.txt").write_text("0: 0.5  # the ground\n1: 2\n")
    assert run(*options, "--net", "unet", "--width", "2", "--class-weights", tmp_path / "weights.txt") == 0
    assert np.diag(read_blob(tmp_path / "task/nets/x-class-weights.binaryproto").reshape(2, 2)).tolist() == [0.5, 2]
    assert torch.isfinite(Net(tmp_path / "task/nets/x-unet.prototxt", TRAIN).forward_loss()[0])
    assert run(*options, "--force", "--net", "hed", "--class-weights", "median") == 1
    assert "--class-weights is not for --net hed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat: 1\n", "has no weight of dog"),
        (
            "cat: 1\ncat: 2  # again\ndog: 1\n",
            "weights.txt:2: expected `NAME: WEIGHT`, once a class, got 'cat: 2  # again'",
        ),
        ("cat: -1\ndog: 1\n", "weights.txt:1: expected"),
        ("cow: 1\n", "weights.txt:1: expected"),
        ("cat: 0\ndog: 0\n", "should be numbers from 0, and one above"),
    ],
)
def test_wrong_class_weights(tmp_path, text, message):
    (tmp_path / "weights.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_class_weights(tmp_path / "weights.txt", ["cat", "dog"])


def test_class_weights_of_a_matrix(tmp_path):
    path = tmp_path / "h.binaryproto"
    write_blob(path, np.diag([1.0, 3.0]))
    assert read_class_weights(path, ["cat", "dog"]) == [1, 3]
    write_blob(path, np.ones((2, 2)))
    with pytest.raises(DataError, match="H is not diagonal"):
        read_class_weights(path, ["cat", "dog"])
    with pytest.raises(DataError, match="H has 4 numbers, 3 classes have 9"):
        read_class_weights(path, ["cat", "dog", "cow"])


# -- weights to start from ---------------------------------------------------------------------------------------------


def zeros(**shapes):
    return {name.replace("__", "/"): [np.zeros(shape, np.float32)] for name, shape in shapes.items()}


STARTS = {
    "vgg16": zeros(conv1_1=(64, 3, 3, 3), conv3_3=(1,)),
    "vgg19": zeros(conv1_1=(64, 3, 3, 3), conv3_4=(1,)),
    "narrow": zeros(conv1_1=(16, 3, 3, 3)),
    "fcn-alexnet": zeros(**{f"conv{n}": (1,) for n in range(1, 6)}, fc6=(1,), fc7=(1,), fc8=(1,)),
    "fcn-googlenet": {
        name: [np.zeros(1, np.float32)]
        for name in ("conv1/7x7_s2", "conv2/3x3", "inception_3a/1x1", "inception_5b/1x1", "loss3/classifier")
    },
}


@pytest.mark.parametrize("name", STARTS)
def test_weights_say_which_trunk_they_are_of(tmp_path, name):
    path = tmp_path / "x.caffemodel"
    save_weights(path, STARTS[name])
    start = choose_start(path, "fcn", None)
    assert (start.net if name.startswith("fcn") else start.trunk) == name
    if name.startswith("fcn"):
        with pytest.raises(DataError, match=f"of the classifier of {name}; --net hed starts from VGG-16's"):
            choose_start(path, "hed", None)


def test_nets_of_a_classifier_need_its_weights(tmp_path, capsys):
    options = index_labels(tmp_path, [1] * 4)
    assert run(*options, "--net", "fcn-googlenet") == 1
    assert "--net fcn-googlenet starts from GoogLeNet's weights" in capsys.readouterr().err
    for name in ("fcn-googlenet", "fcn-alexnet"):
        save_weights(tmp_path / "w.caffemodel", STARTS[name])
        assert run(*options, "--force", "--name", "x", "--weights", tmp_path / "w.caffemodel") == 0
        assert f"of the classifier of {name}, which is taken" in capsys.readouterr().out
        path = tmp_path / f"task/nets/x-{name}.prototxt"
        assert Net(path, TRAIN, device="meta").blob_shapes["score"] == (1, 2, 24, 32)
        solver = read_text(tmp_path / f"task/solvers/x-{name}.prototxt", caffe_pb2.SolverParameter)
        assert list(solver.weights) == ["start/w.caffemodel"]


@pytest.mark.parametrize("old", [False, True])
def test_a_classifier_becomes_convolutional_on_the_way(tmp_path, old):
    """Its fc6 and fc7 are inner products, which old files give four axes."""
    random = np.random.default_rng(0)
    fc6 = random.normal(size=(40, 128 * 5 * 5)).astype(np.float32)
    fc7 = random.normal(size=(40, 40)).astype(np.float32)
    shaped = [fc6[None, None], fc7[None, None]] if old else [fc6, fc7]
    bias = np.zeros((1, 1, 1, 40) if old else 40, np.float32)
    weights = {**STARTS["narrow"], "fc6": [shaped[0], bias], "fc7": [shaped[1], bias]}
    weights["conv1_1"].append(np.zeros(16, np.float32))
    save_weights(tmp_path / "classifier.caffemodel", weights)
    options = index_labels(tmp_path, [1] * 4)
    assert run(*options, "--name", "x", "--weights", tmp_path / "classifier.caffemodel") == 0
    net = Net(tmp_path / "task/nets/x-fcn32s.prototxt", TRAIN)
    start_from(net, [Start(str(tmp_path / "task/start/classifier.caffemodel"))])
    assert np.array_equal(net.params["fc6"][0].data.detach().numpy(), fc6.reshape(40, 128, 5, 5))
    assert np.array_equal(net.params["fc7"][0].data.detach().numpy(), fc7.reshape(40, 40, 1, 1))


def test_help_needs_no_torch():
    code = "import sys; from fcn_caffe.commands.new_task import parser; parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
