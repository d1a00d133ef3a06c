"""The formats that new_task reads: which pixels become which class, and that every refusal names file and cure."""

import base64
import io
import json
import os
import re
import sys

import numpy as np
import own_trees as trees
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import needs_package
from own_trees import HEIGHT, SQUARE, WIDTH, halves, shape
from PIL import Image

from fcn_caffe.commands._task_options import FORMATS as OFFERED
from fcn_caffe.data.own.classes import ClassTable
from fcn_caffe.data.own.convert import convert
from fcn_caffe.data.own.formats import FORMATS, detect_format, read_source
from fcn_caffe.data.own.formats.shapes import compressed_counts, fill, paint, run_lengths
from fcn_caffe.data.own.formats.source import VOID, Reading
from fcn_caffe.errors import DataError


def read(place, name=None, **options):
    return read_source(place, name, Reading(**options))


def names(source):
    return [each.name for each in source.classes]


def splits(source):
    return {sample.name: sample.split for sample in source.samples}


def test_every_format_is_offered():
    assert tuple(FORMATS) == OFFERED


# -- shapes ------------------------------------------------------------------------------------------------------------


def test_run_lengths_run_down_the_columns():
    assert run_lengths((2, 3), [1, 3, 2], "x").tolist() == [[False, True, False], [True, True, False]]
    assert run_lengths((2, 3), [1, 3, 2], "x", "C").tolist() == [[False, True, True], [True, False, False]]
    assert run_lengths((1, 2), [0, 2], "x").all()


@given(st.lists(st.booleans(), min_size=12, max_size=12))
@settings(max_examples=50, deadline=None)
def test_packed_run_lengths_are_pycocotools_own(bits):
    needs_package("pycocotools")
    from pycocotools import mask as coco

    mask = np.asfortranarray(np.array(bits, np.uint8).reshape(3, 4))
    packed = coco.encode(mask)["counts"].decode()
    assert np.array_equal(run_lengths((3, 4), compressed_counts(packed, "x"), "x"), mask.astype(bool))


def test_long_packed_runs():
    needs_package("pycocotools")
    from pycocotools import mask as coco

    mask = np.zeros((500, 400), np.uint8, order="F")
    mask[100:120, 30:390] = 1
    mask[7, 7] = 1
    packed = coco.encode(mask)["counts"].decode()
    assert np.array_equal(run_lengths(mask.shape, compressed_counts(packed, "x"), "x"), mask.astype(bool))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([3, 4], "its run lengths fill 7 pixels, an image of 3x2 has 6"),
        ([3, -1, 4], "should be whole numbers from 0"),
        ("6", "should be whole numbers from 0"),
    ],
)
def test_wrong_run_lengths(counts, message):
    with pytest.raises(DataError, match=message):
        run_lengths((2, 3), counts, "file: annotation 1")


@pytest.mark.parametrize(("text", "message"), [("\x20", "hold ' ' at place 0"), ("P", "end within a number")])
def test_wrong_packed_runs(text, message):
    with pytest.raises(DataError, match=message):
        compressed_counts(text, "file")


def test_overlaps():
    low, high = np.zeros((1, 4), bool), np.zeros((1, 4), bool)
    low[0, :3], high[0, 2:3] = True, True
    for rule, first, second in (("last", [1, 1, 2, 0], [1, 1, 1, 0]), ("smallest", [1, 1, 2, 0], [1, 1, 2, 0])):
        assert paint((1, 4), [(1, low), (2, high)], rule, 0).tolist() == [first]
        assert paint((1, 4), [(2, high), (1, low)], rule, 0).tolist() == [second]
    assert paint((1, 4), [(1, low), (2, high)], "void", VOID).tolist() == [[1, 1, VOID, VOID]]
    assert paint((1, 4), [(1, low), (1, high)], "void", 0).tolist() == [[1, 1, 1, 0]]


def test_pillows_square_has_its_border():
    assert fill((6, 6), "polygon", [(1, 1), (4, 1), (4, 4), (1, 4)]).sum() == 16
    assert fill((6, 6), "rectangle", [(4, 4), (1, 1)]).sum() == 16


# -- COCO --------------------------------------------------------------------------------------------------------------


def test_coco(tmp_path):
    needs_package("pycocotools")
    from pycocotools import mask as coco

    path = trees.write_coco(tmp_path)
    assert detect_format(path) == "coco" and detect_format(tmp_path) == "coco"
    source = read(tmp_path)
    assert names(source) == ["background", "cat", "dog"] and len(source.samples) == 6
    assert source.samples[0].name == "images/0"
    expected = halves(0, 2).astype(int)  # the crowd lies below
    for part in (SQUARE, [24, 18, 30, 18, 30, 22, 24, 22]):
        packed = coco.frPyObjects([part], HEIGHT, WIDTH)[0]["counts"].decode()
        expected[run_lengths((HEIGHT, WIDTH), compressed_counts(packed, "x"), "x")] = 1
    assert np.array_equal(source.samples[0].draw(), expected)
    assert (expected == 1).sum() == 16 * 12 + 6 * 4  # COCO's pixels, not Pillow's


def test_coco_without_background_and_with_void_overlaps(tmp_path):
    needs_package("pycocotools")
    source = read(trees.write_coco(tmp_path), images=tmp_path / "images", unlabelled="void", overlap="void")
    assert names(source) == ["cat", "dog"] and source.samples[0].name == "0"
    drawn = source.samples[0].draw()
    assert drawn[0, 0] == VOID and drawn[20, 26] == VOID and drawn[5, 5] == 0 and drawn[0, 20] == 1


def test_coco_splits_by_file_names(tmp_path):
    for split in ("train2017", "val2017"):
        table = trees.coco(2)
        for entry in table["images"]:
            entry["file_name"] = f"{split}{entry['file_name']}"
            trees.photograph(tmp_path / split / entry["file_name"])
        trees.write_json(tmp_path / "annotations" / f"instances_{split}.json", table)
    trees.write_json(tmp_path / "annotations" / "captions_train2017.json", {"images": []})
    assert splits(read(tmp_path)) == {
        "train2017/train20170": "train",
        "train2017/train20171": "train",
        "val2017/val20170": "val",
        "val2017/val20171": "val",
    }


def test_coco_without_pycocotools_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    source = read(trees.write_coco(tmp_path))
    with pytest.raises(DataError, match=r'Run: pip install "fcn-caffe\[coco\]"'):
        source.samples[0].draw()


def packed(table):
    table["annotations"] = [
        {"id": 0, "image_id": 0, "category_id": 3, "segmentation": {"size": [24, 32], "counts": "P"}}
    ]


def spoil_entry(kind, number, **changes):
    def spoil(table):
        table[kind][number].update(changes)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table.pop("categories"), 'instances.json: "categories" should be list, got nothing'),
        (spoil_entry("images", 1, id=0), "images[1]: the image id 0 comes twice"),
        (spoil_entry("images", 1, id=-1), "images[1]: id should be a whole number from 0, got -1"),
        (spoil_entry("images", 1, id="1"), "images[1]: \"id\" should be int, got '1'"),
        (spoil_entry("images", 1, width=0), "images[1]: the image is said to be 0x24"),
        (spoil_entry("images", 1, file_name="/etc/passwd"), "names the image '/etc/passwd', which is not inside of"),
        (spoil_entry("images", 1, file_name="../../1.jpg"), "names the image '../../1.jpg', which is not inside of"),
        (spoil_entry("images", 1, file_name="C:\\1.jpg"), "which is not inside of"),
        (spoil_entry("images", 1, file_name="a" * 300), "images[1]: there is no image 'aaa"),
        (spoil_entry("images", 1, file_name="nowhere.jpg"), "images[1]: there is no image 'nowhere.jpg' (looked in "),
        (spoil_entry("categories", 1, id=3), "the category id 3 comes twice"),
        (spoil_entry("categories", 1, name="cat "), "the category 'cat' comes twice"),
        (spoil_entry("annotations", 1, id=0), "annotation 0: the id comes twice"),
        (spoil_entry("annotations", 1, id=-4), "annotations[1]: id should be a whole number from 0, got -4"),
        (spoil_entry("annotations", 1, category_id=9), "annotation 1: category_id 9 is in no category (3 cat, 7 dog"),
        (spoil_entry("annotations", 1, image_id=99), "annotation 1: image_id 99 is of no image"),
        (spoil_entry("annotations", 0, segmentation=[]), "annotation 0: has no polygon"),
        (spoil_entry("annotations", 0, segmentation=[[1, 1, 5, 5]]), "segmentation[0]: has 2 points, needs 3 at least"),
        (spoil_entry("annotations", 0, segmentation=[[1, 1, 5]]), "a polygon should be a list of x, y"),
        (spoil_entry("annotations", 0, iscrowd="0"), "\"iscrowd\" should be 0 or 1, got '0'"),
        (spoil_entry("annotations", 0, segmentation=[[-9e4, 1, 9e4, 2] * 50]), "its outline has 1.8e+07 pixels"),
        (spoil_entry("annotations", 0, segmentation=[[1, 1, 5, 5, 1e9, 3]]), "should be two numbers up to 100000"),
        (spoil_entry("annotations", 0, segmentation=[[1, 1, 5, 5, float("nan"), 3]]), "should be two numbers"),
        (
            spoil_entry("annotations", 1, segmentation={"size": [32, 24], "counts": [768]}),
            "annotation 1: its run lengths are of 24x32, its image is 32x24",
        ),
        (
            spoil_entry("annotations", 1, segmentation={"size": [24], "counts": [1]}),
            '"size" should be height and width',
        ),
    ],
)
def test_coco_refusals(tmp_path, spoil, message):
    table = trees.coco()
    spoil(table)
    path = trees.write_coco(tmp_path, table)
    with pytest.raises(DataError) as caught:
        read(path, images=tmp_path / "images")
    assert message in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(("counts", "message"), [([5], "fill 5 pixels"), ("P", "end within a number")])
def test_coco_run_lengths_that_do_not_fit(tmp_path, counts, message):
    table = trees.coco()
    table["annotations"][1]["segmentation"]["counts"] = counts
    with pytest.raises(DataError, match=f"instances.json: annotation 1: .*{message}"):
        table["annotations"][0]["iscrowd"] = 0
        table["annotations"].pop(0)
        read(trees.write_coco(tmp_path, table)).samples[0].draw()


def test_coco_leaves_missing_images_out(tmp_path):
    path = trees.write_coco(tmp_path)
    (tmp_path / "images" / "3.jpg").unlink()
    source = read(path, images=tmp_path / "images", skip_missing=True)
    assert "3" not in splits(source) and "left out: 1 images of" in source.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is no JSON"), ("[1]", "expected a JSON object at the top, got list"), ("[" * 100000, "is no JSON")],
)
def test_bad_json(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"x\.json: {message}"):
        read(path, "coco")


# -- labelme -----------------------------------------------------------------------------------------------------------


def test_labelme(tmp_path):
    trees.write_labelme(tmp_path)
    assert detect_format(tmp_path) == "labelme"
    source = read(tmp_path)
    assert names(source) == ["background", "cat", "dog"] and not source.declared
    assert isinstance(source.samples[0].image, bytes) and source.samples[1].image == tmp_path / "1.png"
    drawn = source.samples[1].draw()
    assert (drawn == 1).sum() == 13 * 11  # labelme's pixels are Pillow's: with the border
    assert drawn[4, 18] == drawn[10, 28] == 2 and drawn[17, 26] == 2 and drawn[13, 22] == 2
    assert source.notes == ["left out, as they have no area or no image: 4 line"]


def test_labelme_masks_background_and_ignore(tmp_path):
    trees.photograph(tmp_path / "a.png")
    mask = {**shape("cat", "mask", (3, 2), (5, 4)), "mask": trees.picture_bytes(np.array([[0, 255], [255, 255]]))}
    shapes = [shape("_background_", "polygon", (0, 0), (9, 0), (9, 9)), mask]
    shapes.append(shape("__ignore__", "rectangle", (20, 20), (31, 23)))
    trees.write_json(tmp_path / "a.json", trees.labelme("a.png", shapes))
    source = read(tmp_path)
    assert names(source) == ["_background_", "cat"]
    drawn = source.samples[0].draw()
    assert drawn[2, 3] == 0 and drawn[2, 4] == drawn[3, 3] == 1 and drawn[22, 25] == VOID and (drawn == 1).sum() == 3


@pytest.mark.parametrize(
    ("shapes", "image", "message"),
    [
        ([shape("cat", "polygon", (1, 1), (2, 2))], "a.png", "shapes[0]: has 2 points, needs 3 at least"),
        ([shape("cat", "circle", (1, 1), (2, 2), (3, 3))], "a.png", "shapes[0]: a circle should have 2 points, has 3"),
        ([shape("cat", "spline", (1, 1))], "a.png", "shapes[0]: is a 'spline'; read are polygon, rectangle"),
        ([{"points": []}], "a.png", 'shapes[0]: "label" should be str, got nothing'),
        ([], "b.png", "there is no image 'b.png' (looked in "),
        ([], "../a.png", "names the image '../a.png', which is not inside of"),
        ([], "..\\..\\a.png", "which is not inside of"),
        ([], "/a.png", "which is not inside of"),
        ([], "a" * 300, "there is no image 'aaa"),
        ([{"label": "cat", "shape_type": ["polygon"]}], "a.png", "shapes[0]: is a \"['polygon']\"; read are"),
    ],
)
def test_labelme_refusals(tmp_path, shapes, image, message):
    trees.photograph(tmp_path / "a.png")
    path = trees.write_json(tmp_path / "a.json", trees.labelme(image, shapes))
    with pytest.raises(DataError) as caught:
        read(tmp_path, "labelme")
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_labelme_damaged_data(tmp_path):
    table = trees.labelme("a.png", [shape("cat", "rectangle", (1, 1), (3, 3))])
    path = trees.write_json(tmp_path / "a.json", {**table, "imageData": "€€"})
    with pytest.raises(DataError, match="imageData: is no base64"):
        read(path)
    trees.photograph(tmp_path / "a.png")
    for mask, message in (("AAAA", "its mask is no picture"), (trees.picture_bytes(np.ones((9, 9))), "lies outside")):
        table["shapes"] = [{**shape("cat", "mask", (-3, 1), (3, 3)), "mask": mask}]
        trees.write_json(path, table)
        with pytest.raises(DataError, match=rf"shapes\[0\]: .*{message}"):
            read(path).samples[0].draw()


# -- CVAT --------------------------------------------------------------------------------------------------------------


def test_cvat(tmp_path):
    needs_package("pycocotools")
    trees.write_cvat(tmp_path)
    assert detect_format(tmp_path) == detect_format(tmp_path / "annotations.xml") == "cvat"
    source = read(tmp_path)
    assert names(source) == ["background", "cat", "dog"] and source.classes[2].colour == (0, 255, 127)
    assert source.notes == ["left out, as they have no area or no image: 4 points"]
    drawn = source.samples[0].draw()
    assert (drawn == 1).sum() == 16 * 12  # on top by z_order, in COCO's pixels
    assert drawn[3, 12] == 2 and drawn[5, 12] == 1 and drawn[18, 26] == 2
    assert drawn[20:22, :4].tolist() == [[0, 0, 2, 2], [2, 2, 0, 0]]


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ('<polygon label="cat" points="1,1;2,2"/>', "object 0 (polygon): has 2 points, needs 3 at least"),
        ('<polygon label="cat" points="1,1;2;3,3"/>', "a point should be two numbers"),
        ('<polygon label="cat" points="1,1;a,b;3,3"/>', "points should be `x,y;x,y;…`, got 'a,b'"),
        ('<polygon label="cow" points="1,1;2,2;3,1"/>', "the label 'cow' is none of the task's"),
        ('<box label="cat" xtl="1" ytl="nan" xbr="3" ybr="4"/>', "ytl should be a number up to 100000, got 'nan'"),
        ('<box label="cat" xtl="-1e9" ytl="1" xbr="3" ybr="4"/>', "xtl should be a number up to 100000, got '-1e9'"),
        ('<ellipse label="cat" cx="1" cy="1" rx="1e6" ry="1"/>', "rx should be a number up to 100000, got '1e6'"),
        ('<box label="cat" xtl="1" ytl="1" xbr="3" ybr="4" rotation="x"/>', "rotation should be a number"),
        ('<mask label="cat" rle="3" left="0" top="0" width="2" height="2"/>', "run lengths fill 3 pixels"),
        ('<mask label="cat" rle="4" left="31" top="0" width="2" height="2"/>', "the mask leaves its image of 32x24"),
        ('<spline label="cat"/>', "object 0 (spline): is not known"),
    ],
)
def test_cvat_refusals(tmp_path, objects, message):
    trees.write_cvat(tmp_path, objects)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert message in str(caught.value) and "annotations.xml: image '0.jpg'" in str(caught.value)


def test_cvat_turns_boxes_and_ellipses(tmp_path):
    box = '<box label="cat" xtl="6" ytl="10" xbr="26" ybr="14" rotation="{}"/>'
    upright = '<box label="cat" xtl="14" ytl="2" xbr="18" ybr="22"/>'
    ellipse = '<ellipse label="cat" cx="16" cy="12" rx="{}" ry="{}" rotation="{}"/>'

    def drawn(objects):
        trees.write_cvat(tmp_path, objects, images=1)
        return read(tmp_path).samples[0].draw()

    assert (drawn(box.format("90.00")) == drawn(upright)).all()
    slanted = drawn(box.format("45"))  # clockwise, as its top edge's right end goes down
    assert slanted[17, 21] == slanted[7, 11] == 1 and slanted[7, 21] == slanted[17, 11] == 0
    turned, plain = drawn(ellipse.format(9, 4, "90")), drawn(ellipse.format(4, 9, "0"))
    assert (turned != plain).sum() < 0.2 * plain.sum() and turned.sum() > 80


def test_cvat_files_that_are_none(tmp_path):
    path = trees.write_cvat(tmp_path) / "annotations.xml"
    text = path.read_text()
    for spoilt, message in (
        (text[:-20], "is no XML"),
        (text.replace("<annotations>", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotations>"), "declares a document type"),
        ("<annotations><track/></annotations>", "is no file of `CVAT for image 1.1`"),
        (text.replace("0.jpg", "../0.jpg"), "names the image '../0.jpg', which is not inside of"),
        (text.replace("0.jpg", "nowhere.jpg"), "there is no such image"),
        (text.replace("<name>cat</name>", "<name>dog</name>"), "the label 'dog' comes twice"),
        (text.replace('width="32"', 'width="-32"'), "width should be a whole number"),
    ):
        path.write_text(spoilt)
        with pytest.raises(DataError, match=rf"annotations\.xml.*{message}"):
            read(tmp_path, images=tmp_path / "images")


def test_cvat_masks(tmp_path):
    trees.write_cvat_masks(tmp_path)
    assert detect_format(tmp_path) == "cvat-masks"
    source = read(tmp_path)
    assert names(source) == ["background", "cat"] and source.classes[1].colour == (250, 50, 83)
    assert np.array_equal(source.samples[0].draw(), halves(0, 1))
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\ncat:1,2,3::\n")
    with pytest.raises(DataError, match=r"0\.png: colour 250 50 83 \(384 pixels\) is of no class"):
        read(tmp_path).samples[0].draw()
    for text, message in (
        ("cat:1,2::\n", "labelmap.txt:1: expected `NAME:R,G,B::`"),
        ("cat:1,2,3::\ndog:1,2,3::\n", "comes twice"),
        ("# nothing\n", "lists no class"),
    ):
        (tmp_path / "labelmap.txt").write_text(text)
        with pytest.raises(DataError, match=message):
            read(tmp_path)


# -- data sets of label pictures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes(tmp_path, kind):
    trees.write_cityscapes(tmp_path, kind)
    assert detect_format(tmp_path) == "cityscapes"
    source = read(tmp_path)
    assert len(source.classes) == 19 and names(source)[13] == "car" and source.classes[0].colour == (128, 64, 128)
    assert source.notes == ["left out: 1 images of test, whose labels are not public"]
    assert splits(source)["train/aachen/aachen_000000_000019_leftImg8bit"] == "train"
    assert list(splits(source).values()) == ["train"] * 3 + ["val"] * 2
    assert np.array_equal(source.samples[0].draw(), halves(0, 13))


def test_cityscapes_polygons_are_drawn_in_order(tmp_path):
    trees.write_cityscapes(tmp_path, "polygons")
    drawn = read(tmp_path).samples[0].draw()
    assert (drawn == 13).sum() == 17 * 13  # a car group with its plate; by Pillow's rule
    assert drawn[0, 0] == 0 and drawn[19, 29] == VOID
    every = read(tmp_path, all_classes=True)
    assert len(every.classes) == 30 and names(every)[0] == "static"
    assert every.samples[0].draw()[19, 29] == 0 and every.samples[0].draw()[5, 5] == names(every).index("car")


def test_cityscapes_table_is_the_published_one():
    from fcn_caffe.data.own.formats.cityscapes import LABELS

    assert len(LABELS) == 34 and sorted(train for _, train, _ in LABELS if train < 255) == list(range(19))
    assert sum(train == 255 for _, train, _ in LABELS) == 15


def test_cityscapes_refusals(tmp_path):
    trees.write_cityscapes(tmp_path, "polygons")
    path = tmp_path / "gtFine/train/aachen/aachen_000000_000019_gtFine_polygons.json"
    table = json.loads(path.read_text())
    for entry, message in (
        ({"label": "zebra", "polygon": [[0, 0], [1, 1], [2, 0]]}, "'zebra' is no label of Cityscapes"),
        ({"label": "car", "polygon": [[0, 0], [1, 1]]}, "has 2 points, needs 3 at least"),
    ):
        trees.write_json(path, {**table, "objects": [entry]})
        with pytest.raises(DataError, match=rf"polygons\.json: objects\[0\]: {message}"):
            read(tmp_path).samples[0].draw()
    path.unlink()
    with pytest.raises(DataError, match=r"there is no label picture of .*aachen_000000_000019_leftImg8bit.png"):
        read(tmp_path)
    assert read(tmp_path, skip_missing=True).notes[-1] == "left out: 1 images without a label picture"
    with pytest.raises(DataError, match="Cityscapes has folders leftImg8bit and gtFine"):
        read(tmp_path / "gtFine", "cityscapes")


def test_ade20k(tmp_path):
    trees.write_ade20k(tmp_path)
    assert detect_format(tmp_path) == "ade20k"
    source = read(tmp_path)
    assert names(source) == ["wall", "building"]
    assert splits(source) == {
        **{f"training/ADE_training_{index}": "train" for index in range(3)},
        **{f"validation/ADE_validation_{index}": "val" for index in range(2)},
    }
    drawn = source.samples[0].draw()
    assert (drawn[:4] == VOID).all() and np.array_equal(drawn[4:], halves(0, 1)[4:])
    (tmp_path / "objectInfo150.txt").write_text("Idx\tName\n2\twall\n")
    with pytest.raises(DataError, match=r"objectInfo150\.txt:2: expected `Idx … Name` with Idx 1"):
        read(tmp_path)
    (tmp_path / "objectInfo150.txt").unlink()
    assert len(read(tmp_path).classes) == 150


@pytest.mark.parametrize("version", ["", "v2.0"])
def test_mapillary(tmp_path, version):
    trees.write_mapillary(tmp_path, version)
    assert detect_format(tmp_path) == "mapillary"
    source = read(tmp_path)
    assert names(source) == ["Sky", "Car"] and source.classes[1].colour == (0, 0, 142)
    assert source.notes == ["left out: testing, which has no labels"]
    drawn = source.samples[0].draw()
    assert (drawn[:4] == VOID).all() and np.array_equal(drawn[4:], halves(0, 1)[4:])
    every = read(tmp_path, all_classes=True)
    assert names(every) == ["Sky", "Ego Vehicle", "Car"] and every.samples[0].draw()[0, 0] == 1


def test_mapillary_config_that_is_wrong(tmp_path):
    trees.write_mapillary(tmp_path)
    for entry, message in (
        ({"name": "x", "evaluate": True, "color": [1, 2]}, '"color" should be red, green, blue'),
        ({"name": "x"}, '"evaluate" should be bool, got nothing'),
    ):
        trees.write_json(tmp_path / "config.json", {"labels": [entry]})
        with pytest.raises(DataError, match=rf"config\.json: labels\[0\]: {message}"):
            read(tmp_path)
    trees.write_json(tmp_path / "config.json", {"labels": []})
    with pytest.raises(DataError, match=r"config\.json: lists no label that counts"):
        read(tmp_path)
    trees.write_json(tmp_path / "config.json", {"labels": [{"name": "x", "evaluate": True}]})
    with pytest.raises(DataError, match=r"labels.training0\.png: value 1 .* is none of the data set's"):
        read(tmp_path).samples[0].draw()


def test_voc(tmp_path):
    trees.write_voc(tmp_path)
    assert detect_format(tmp_path) == "voc"
    source = read(tmp_path)
    assert names(source)[:3] == ["background", "aeroplane", "bicycle"] and len(source.classes) == 21
    assert splits(source) == {"a": "train", "b": "train", "c": "train", "d": "val", "e": "val"}
    drawn = source.samples[0].draw()
    assert (drawn[0] == VOID).all() and np.array_equal(drawn[1:], halves(0, 2)[1:])
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("a\n")
    with pytest.raises(DataError, match="a is in the list of train, too"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["voc", "cityscapes", "ade20k", "mapillary", "coco", "labelme"])
def test_an_empty_folder_is_of_no_format(tmp_path, name):
    with pytest.raises(DataError, match=str(tmp_path)):
        read(tmp_path, name)


def test_what_is_of_no_format(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such file or folder of annotations"):
        read(tmp_path / "nowhere")
    trees.photograph(tmp_path / "a.png")
    with pytest.raises(DataError, match="is of no format that is known: coco, labelme"):
        read(tmp_path)


def test_names_that_a_list_cannot_hold(tmp_path):
    path = trees.photograph(tmp_path / "a .png")
    trees.write_json(tmp_path / "a.json", trees.labelme(path.name, []))
    (tmp_path / "a.json").rename(tmp_path / "a .json")
    with pytest.raises(DataError, match="the image name 'a ' begins with a dot, or has blanks"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["labelme", "cvat"])
def test_a_wrong_size_is_refused_before_it_is_drawn(tmp_path, name, monkeypatch):
    if name == "labelme":
        trees.write_labelme(tmp_path)
        path = tmp_path / "0.json"
    else:
        trees.write_cvat(tmp_path, "")
        path = tmp_path / "annotations.xml"
    path.write_text(re.sub(r'((?:eight|idth)"?[:=] ?"?)\d+', r"\g<1>16384", path.read_text()))
    monkeypatch.setattr(f"fcn_caffe.data.own.formats.{name}.paint", None)
    source = read(tmp_path)
    table = ClassTable(source.classes, list(range(len(source.classes))))
    with pytest.raises(DataError, match="the label is 16384x16384, its image"):
        convert(source, table, tmp_path / "out")


def test_linked_folders_are_read_once(tmp_path):
    trees.write_labelme(tmp_path / "data")
    for link in ("again", "more"):
        (tmp_path / "data" / link).symlink_to(".")
    assert len(read(tmp_path / "data").samples) == 4


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    for place, name in ((tmp_path, None), (tmp_path, "labelme"), (tmp_path / "a.json", None)):
        with pytest.raises(DataError, match=r"a\.json: is a pipe or a device"):
            read(place, name)


def test_a_damaged_first_file_is_named(tmp_path):
    trees.write_labelme(tmp_path)
    (tmp_path / "0.json").write_text("")
    with pytest.raises(DataError, match=r"0\.json: is no JSON"):
        read(tmp_path)


@pytest.mark.parametrize("pixels", [(24, 33), (20000, 20000)])
def test_labelme_masks_larger_than_their_image(tmp_path, pixels):
    stream = io.BytesIO()
    Image.new("1", pixels[::-1]).save(stream, "PNG")
    mask = shape("cat", "mask", (1, 1), (5, 5)) | {"mask": base64.b64encode(stream.getvalue()).decode()}
    trees.photograph(tmp_path / "0.png")
    trees.write_json(tmp_path / "0.json", trees.labelme("0.png", [mask]))
    with pytest.raises(DataError, match=r"0.json: shapes\[0\]: its mask (is 33x24, the image 32x24|cannot be read)"):
        read(tmp_path).samples[0].draw()
