"""DenseImageData, ImageSegData and ImageLabelmapData: golden cases, rules by arithmetic, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from datum_fixtures import Array, blobs, data_net, equal, images, pull, write_pairs
from fork_cases import FOLDER

from fcn_caffe import TEST, TRAIN, Net
from fcn_caffe.data.readers.resize import resize, resize_nearest
from fcn_caffe.errors import DataError, LayerError
from fcn_caffe.net.graph import filter_net, read_net
from fcn_caffe.proto import caffe_pb2, parse_text

GIVEN = sorted(path.parent.name for path in FOLDER.glob("*/list.txt"))
TOPS = {"DenseImageData": "data label", "ImageLabelmapData": "data label", "ImageSegData": "data label dim"}


def labels(count: int, height: int = 4, width: int = 5, seed: int = 7) -> list[Array]:
    """Random label pictures, (H, W) uint8."""
    random = np.random.RandomState(seed)
    return [random.randint(0, 256, (height, width)).astype(np.uint8) for _ in range(count)]


def label_net(folder: Path, type: str, options: str = "", more: str = "", phase: int = TRAIN, fork: str = "") -> Net:
    """A net of one of the layers over folder/list.txt."""
    fork = fork or ("hed" if type == "ImageLabelmapData" else "")
    options = f'source: "{folder}/list.txt" root_folder: "{folder}/" {options}'
    return data_net(type, options, more, phase, TOPS[type], fork=fork)


# -- golden cases ----------------------------------------------------------------------------------------------------


def given_net(name: str, fork: str = "") -> Net:
    folder = FOLDER / name
    param = parse_text((folder / "net.prototxt").read_text(), caffe_pb2.NetParameter)
    for layer in param.layer:
        options = layer.dense_image_data_param if layer.type == "DenseImageData" else layer.image_data_param
        options.source, options.root_folder = str(folder / "list.txt"), f"{folder}/"
    return Net(param, TRAIN if "Phase TRAIN" in (folder / "README").read_text() else TEST, fork=fork)


@pytest.mark.parametrize("name", [name for name in GIVEN if not name.endswith("_train")])
@pytest.mark.parametrize("fork", ["hed", "rcf"])
def test_golden_case(name: str, fork: str) -> None:
    with np.load(FOLDER / name / "expected.npz") as file:
        expected = {key: file[key] for key in file.files if key.removesuffix(f"_{fork}").count("_") == 1}
    net, seen = given_net(name, fork if name == "imagelabelmapdata" else ""), 0
    for number, batch in enumerate(pull(net, 2)):
        for key, theirs in expected.items():
            top, of_batch = key.split("_")[:2]
            if int(of_batch) == number:
                assert np.array_equal(batch[top], theirs), key
                seen += 1
    assert seen == len(expected) >= 2


def test_golden_training_case_is_one_of_its_choices_and_all_of_them_come() -> None:
    with np.load(FOLDER / "imagesegdata_pixel_train" / "expected.npz") as file:
        expected = {key: file[key] for key in file.files}
    torch.manual_seed(0)
    found = set()
    for batch in pull(given_net("imagesegdata_pixel_train"), 60):
        assert np.array_equal(batch["dim"], expected["dim_0"])
        pairs = zip(expected["data_of_choice"], expected["label_of_choice"], strict=True)
        same = [
            np.array_equal(batch["data"][0], data) and np.array_equal(batch["label"][0], label) for data, label in pairs
        ]
        assert any(same)
        found.add(same.index(True))
    assert len(found) == len(expected["choices"])


# -- what is random, and what is resumed -------------------------------------------------------------------------------


RANDOM = {
    "DenseImageData": ("batch_size: 2 shuffle: true mirror: true crop_height: 3 crop_width: 2", ""),
    "ImageLabelmapData": ("batch_size: 2 shuffle: true", "transform_param { crop_size: 3 mirror: true }"),
    "ImageSegData": (
        "batch_size: 2 shuffle: true label_type: PIXEL",
        "transform_param { crop_height: 3 crop_width: 6 mirror: true scale_factors: 1 scale_factors: 1.5 }",
    ),
}


def random_net(folder: Path, type: str, prefetch: int = 4) -> Net:
    if not (folder / "list.txt").exists():
        write_pairs(folder, images(5), labels(5))
    options, more = RANDOM[type]
    return label_net(folder, type, options, f"{more} data_param {{ prefetch: {prefetch} }}")


@pytest.mark.parametrize("type", sorted(RANDOM))
def test_the_seed_governs_and_the_prefetching_does_not(tmp_path: Path, type: str) -> None:
    runs = []
    for seed, prefetch in ((1, 0), (1, 1), (1, 7), (2, 4)):
        torch.manual_seed(seed)
        runs.append(pull(random_net(tmp_path, type, prefetch), 6))
    assert equal(runs[0], runs[1]) and equal(runs[0], runs[2])
    assert not equal(runs[0], runs[3])


@pytest.mark.parametrize("type", sorted(RANDOM))
def test_a_state_goes_on_with_the_very_same_batches(tmp_path: Path, type: str) -> None:
    torch.manual_seed(3)
    net = random_net(tmp_path, type)
    pull(net, 3)
    state, rest = net.data_state(), pull(net, 7)
    torch.manual_seed(4)
    other = random_net(tmp_path, type)
    pull(other, 2)
    other.load_data_state(state)
    assert equal(pull(other, 7), rest)


@pytest.mark.parametrize("type", sorted(RANDOM))
@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_picture_and_label_are_cut_together(tmp_path: Path, type: str, phase: int) -> None:
    """A label that is the picture's blue stays it. The crop moves in TEST, too, but for ImageSegData's."""
    pictures = [255 * (picture // 128) for picture in images(1, 6, 7)]
    write_pairs(tmp_path, pictures, [pictures[0][:, :, 0]])
    options, more = RANDOM[type]
    torch.manual_seed(0)
    whole = more.replace("crop_height: 3 crop_width: 6", "crop_size: 4").replace("scale_factors: 1.5", "")
    batches = pull(label_net(tmp_path, type, options, whole, phase), 20)
    scale = 255 if type == "ImageLabelmapData" else 1
    assert all(np.array_equal(batch["data"][:, :1], scale * batch["label"]) for batch in batches)
    kinds = {image.tobytes() for batch in batches for image in batch["data"]}
    fixed = type == "ImageSegData" and phase == TEST
    assert len(kinds) == 2 if fixed else len(kinds) > 4
    if fixed:
        centre = blobs(pictures)[0, :, 1:5, 1:5]
        assert kinds == {centre.tobytes(), centre[:, :, ::-1].tobytes()}


def test_rand_skip_and_the_end_of_the_list(tmp_path: Path) -> None:
    write_pairs(tmp_path, images(3), [np.full((4, 5), index, np.uint8) for index in range(3)])
    firsts = set()
    for seed in range(8):
        torch.manual_seed(seed)
        batches = pull(label_net(tmp_path, "DenseImageData", "batch_size: 1 rand_skip: 3"), 5)
        order = [int(batch["label"][0, 0, 0, 0]) for batch in batches]
        assert order == [(order[0] + step) % 3 for step in range(5)]
        firsts.add(order[0])
    assert len(firsts) > 1


# -- DenseImageData ----------------------------------------------------------------------------------------------------


def test_dense_pictures_of_two_sizes_come_one_by_one(tmp_path: Path) -> None:
    pictures, marks = [*images(1, 4, 5), *images(1, 6, 3)], [*labels(1, 4, 5), *labels(1, 6, 3)]
    write_pairs(tmp_path, pictures, marks)
    for batch, picture, mark in zip(
        pull(label_net(tmp_path, "DenseImageData", "batch_size: 1"), 2), pictures, marks, strict=True
    ):
        assert np.array_equal(batch["data"], blobs([picture])) and np.array_equal(batch["label"][0, 0], mark)
    net = label_net(tmp_path, "DenseImageData", "batch_size: 2")
    with pytest.raises(DataError, match=r"list\.txt:2: 1\.png: the picture is 3x6x3, the first one of the list 3x4x5"):
        net()


def test_dense_crop_makes_pictures_of_two_sizes_one(tmp_path: Path) -> None:
    write_pairs(tmp_path, [*images(1, 4, 5), *images(1, 6, 3)], [*labels(1, 4, 5), *labels(1, 6, 3)])
    net = label_net(tmp_path, "DenseImageData", "batch_size: 2 crop_height: 4 crop_width: 3")
    assert net.blob_shapes == {"data": (2, 3, 4, 3), "label": (2, 1, 4, 3)}
    pull(net, 3)


def test_dense_mean_file_of_its_own_options_does_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pairs(tmp_path, images(1), labels(1))
    net = label_net(tmp_path, "DenseImageData", 'batch_size: 1 mean_file: "none.binaryproto"')
    assert np.array_equal(pull(net)[0]["data"], blobs(images(1)))
    assert "mean_file of dense_image_data_param has no effect" in caplog.text


def test_dense_label_of_the_divided_size_is_taken_as_it_is(tmp_path: Path) -> None:
    """ENet: without new_height the label's own size has to be the picture's, divided and cut to whole numbers."""
    (mark,) = labels(1, 2, 3)
    write_pairs(tmp_path, images(1, 5, 6), [mark])
    net = label_net(tmp_path, "DenseImageData", "batch_size: 1 label_divide_factor: 2")
    assert np.array_equal(pull(net)[0]["label"][0, 0], mark)


# -- ImageSegData ------------------------------------------------------------------------------------------------------


def test_seg_resizes_the_label_too_as_its_fork_does(tmp_path: Path) -> None:
    pictures, marks = images(1, 6, 8), labels(1, 6, 8)
    write_pairs(tmp_path, pictures, marks)
    options = "batch_size: 1 label_type: PIXEL new_height: 5 new_width: 7"
    deeplab = pull(label_net(tmp_path, "ImageSegData", options))[0]
    assert np.array_equal(deeplab["data"], blobs([resize(pictures[0], 5, 7)]))
    assert np.array_equal(deeplab["label"][0, 0], resize(marks[0], 5, 7))
    for more, fork in (("has_label: true", ""), ("", "deconvnet")):
        deconvnet = pull(label_net(tmp_path, "ImageSegData", f"{options} {more}", fork=fork))[0]
        assert np.array_equal(deconvnet["label"][0, 0], resize_nearest(marks[0], 5, 7))
    assert deeplab["dim"].tolist() == [[[[5, 7]]]]


def test_seg_old_net_that_resizes_labels_asks_whose_it_is(tmp_path: Path) -> None:
    pictures, marks = images(1, 6, 8), labels(1, 6, 8)
    write_pairs(tmp_path, pictures, marks)
    text = f"""layers {{ name: "d" type: IMAGE_SEG_DATA top: "data" top: "label" top: "dim"
      image_data_param {{ source: "{tmp_path}/list.txt" root_folder: "{tmp_path}/"
      new_height: 5 new_width: 7 LABEL }} }}"""
    path = tmp_path / "old.prototxt"
    path.write_text(text.replace("LABEL", "label_type: PIXEL"))
    with pytest.raises(
        LayerError, match=r"deeplab \(new_height resizes labels bilinearly\) or deconvnet .*--fork deeplab"
    ):
        Net(path)
    assert filter_net(read_net(path)).layer[0].fork == "?"
    assert np.array_equal(pull(Net(path, fork="deconvnet"))[0]["label"][0, 0], resize_nearest(marks[0], 5, 7))
    assert np.array_equal(pull(Net(path, fork="DeepLab v1"))[0]["label"][0, 0], resize(marks[0], 5, 7))
    unpooling = """layers { name: "p" type: POOLING bottom: "data" top: "p" top: "mask"
      pooling_param { kernel_size: 2 stride: 2 } }
      layers { name: "u" type: UNPOOLING bottom: "p" bottom: "mask" top: "u" unpooling_param { unpool: MAX
      kernel_size: 2
      stride: 2 } }"""
    for neighbours, fork in (
        ("layers { name: 'i' type: INTERP bottom: 'data' top: 'i' interp_param { zoom_factor: 2 } }", "deeplab"),
        (unpooling, "deconvnet"),
    ):
        path.write_text(text.replace("LABEL", "label_type: PIXEL") + neighbours)
        assert filter_net(read_net(path)).layer[0].fork == fork
    path.write_text(text.replace("LABEL", "label_type: NONE"))
    assert (pull(Net(path))[0]["label"] == 255).all()


def test_seg_scales_then_pads_then_crops(tmp_path: Path) -> None:
    """Half of 5 x 9 is 2 x 4; rows and columns beyond are 0 and ignore_label; dim is of the whole picture."""
    pictures, marks = images(1, 5, 9), labels(1, 5, 9)
    write_pairs(tmp_path, pictures, marks)
    transform = "transform_param { crop_height: 3 crop_width: 6 scale_factors: 0.5 mean_value: 9.3 scale: 2 }"
    net = label_net(tmp_path, "ImageSegData", "batch_size: 2 label_type: PIXEL ignore_label: 7", transform)
    batch = pull(net)[0]
    data, label = np.zeros((3, 3, 6), np.float32), np.full((3, 6), 7, np.float32)
    data[:, :2, :4] = (blobs([resize(pictures[0], 2, 4)])[0] - np.float32(9.3)) * 2
    label[:2, :4] = resize_nearest(marks[0], 2, 4)
    for image in range(2):
        assert np.array_equal(batch["data"][image], data) and np.array_equal(batch["label"][image, 0], label)
        assert batch["dim"][image].tolist() == [[[3, 6]]]


def test_seg_scale_is_cut_in_float(tmp_path: Path) -> None:
    """10 * 0.7 is 7 in float; the nearest float to 0.7 times 10 is below 7."""
    write_pairs(tmp_path, images(1, 10, 10), labels(1, 10, 10))
    net = label_net(
        tmp_path,
        "ImageSegData",
        "batch_size: 1 label_type: PIXEL",
        "transform_param { crop_size: 9 scale_factors: 0.7 }",
    )
    assert (pull(net)[0]["label"][0, 0] == 255).sum() >= 81 - 49
    assert (pull(net)[0]["data"][0, :, 6, :7] != 0).any()


def test_seg_without_crop_wants_one_size_in_batches_of_one_too(tmp_path: Path) -> None:
    write_pairs(tmp_path, [*images(1, 4, 5), *images(1, 6, 3)], [*labels(1, 4, 5), *labels(1, 6, 3)])
    net = label_net(tmp_path, "ImageSegData", "batch_size: 1 label_type: PIXEL")
    pull(net)
    with pytest.raises(DataError, match=r"layer 'l' \(ImageSegData\): .*list\.txt:2: 1\.png: the picture is 3x6x3"):
        net()


def test_seg_label_of_the_line_and_none(tmp_path: Path) -> None:
    write_pairs(tmp_path, images(2), labels(2))
    (tmp_path / "list.txt").write_text("0.png 12\n1.png\n")
    batch = pull(label_net(tmp_path, "ImageSegData", "batch_size: 2"))[0]
    assert [np.unique(label).tolist() for label in batch["label"]] == [[12], [0]]
    assert batch["dim"].tolist() == [[[[4, 5]]]] * 2
    batch = pull(label_net(tmp_path, "ImageSegData", "batch_size: 2 label_type: NONE ignore_label: 9"))[0]
    assert np.unique(batch["label"]).tolist() == [9]


def test_seg_grey_pictures_are_padded_as_well(tmp_path: Path) -> None:
    write_pairs(tmp_path, images(1), labels(1))
    options = "batch_size: 1 label_type: PIXEL is_color: false"
    net = label_net(tmp_path, "ImageSegData", options, "transform_param { crop_size: 6 mean_value: 5 }", TEST)
    batch = pull(net)[0]
    assert batch["data"].shape == (1, 1, 6, 6)
    assert (batch["data"][0, 0, 4:] == 0).all() and (batch["label"][0, 0, :, 5:] == 255).all()


def test_seg_says_what_does_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pairs(tmp_path, images(1), labels(1))
    net = label_net(tmp_path, "ImageSegData", "batch_size: 1 label_type: NONE ignore_label: -1 max_labels: 3")
    assert (pull(net)[0]["label"] == 0).all()
    assert "ignore_label -1 becomes 0" in caplog.text and "max_labels: no effect" in caplog.text


# -- ImageLabelmapData -------------------------------------------------------------------------------------------------


def test_labelmap_of_each_fork(tmp_path: Path) -> None:
    mark = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_pairs(tmp_path, images(1, 16, 16), [mark])

    def label(fork: str) -> Array:
        return pull(label_net(tmp_path, "ImageLabelmapData", "batch_size: 1", fork=fork))[0]["label"].ravel()

    byte = np.arange(256)
    assert np.array_equal(label("hed"), byte >= 128)
    assert np.array_equal(label("rcf"), np.where(byte >= 128, 1, byte.astype(np.float32) / np.float32(255)))
    bands = [0, *[1] * 9, *[2] * 16, *[3] * 34, *[4] * 90, *[0] * 106]
    assert np.array_equal(label("deepskeleton"), bands)


def test_labelmap_is_resized_bilinearly(tmp_path: Path) -> None:
    pictures, marks = images(1, 6, 8), labels(1, 6, 8)
    write_pairs(tmp_path, pictures, marks)
    batch = pull(label_net(tmp_path, "ImageLabelmapData", "batch_size: 1 new_height: 5 new_width: 7"))[0]
    assert np.array_equal(batch["data"], blobs([resize(pictures[0], 5, 7)]))
    assert np.array_equal(batch["label"][0, 0], resize(marks[0], 5, 7) >= 128)


def test_labelmap_batches_take_their_first_pictures_size(tmp_path: Path) -> None:
    sizes = [(4, 5), (4, 5), (6, 3), (6, 3), (4, 5), (6, 3)]
    write_pairs(tmp_path, [images(1, *size)[0] for size in sizes], [labels(1, *size)[0] for size in sizes])
    net = label_net(tmp_path, "ImageLabelmapData", "batch_size: 2")
    assert [batch["label"].shape for batch in pull(net, 2)] == [(2, 1, 4, 5), (2, 1, 6, 3)]
    with pytest.raises(DataError, match=r"list\.txt:6: 5\.png: the image is 3x6x3, the first of its batch 3x4x5"):
        net()


def test_labelmap_asks_whose_it_is(tmp_path: Path) -> None:
    write_pairs(tmp_path, images(1), labels(1))
    with pytest.raises(
        LayerError, match=r"hed \(a label is 1 from 128 on, else 0\) or rcf .* or deepskeleton .*--fork hed"
    ):
        data_net("ImageLabelmapData", f'source: "{tmp_path}/list.txt"')


# -- refusals ----------------------------------------------------------------------------------------------------------

DENSE, SEG, MAP = "DenseImageData", "ImageSegData", "ImageLabelmapData"
PIXEL = "batch_size: 1 label_type: PIXEL"
REFUSED = [
    (SEG, PIXEL, "transform_param { scale_factors: 1e38 crop_size: 3 }", r"scale_factors 1e\+38 makes .* or too large"),
    *((type, "batch_size: 0", "", "batch_size must be given and positive") for type in (DENSE, SEG, MAP)),
    *((type, "batch_size: 1 new_width: 3", "", "new_height and new_width go together") for type in (DENSE, SEG, MAP)),
    (DENSE, "batch_size: 1 crop_width: 3", "", "crop_height and crop_width go together"),
    (
        DENSE,
        "batch_size: 1 crop_width: 3 crop_height: 5",
        "",
        r"list\.txt:1: picture 0\.png is 4x5, smaller than .*5x3",
    ),
    (DENSE, "batch_size: 1", "transform_param { crop_size: 3 }", "Write crop_height and crop_width into dense_image"),
    (DENSE, "batch_size: 1", "transform_param { mirror: true }", "Write mirror into dense_image_data_param"),
    (DENSE, "batch_size: 1 rand_skip: 4000", "", "the list has 2. Make it smaller"),
    (DENSE, "batch_size: 1 label_divide_factor: 0", "", "label_divide_factor is 0: give 1 or more"),
    (DENSE, "batch_size: 1 label_divide_factor: 2 crop_width: 3 crop_height: 3", "", "2 and a crop do not go together"),
    (DENSE, "batch_size: 1 label_divide_factor: 2", "", r"list\.txt:1: label label0\.png is 4x5; .* must be 2x2"),
    (DENSE, "batch_size: 1 label_divide_factor: 4 new_height: 3 new_width: 9", "", "leaves nothing of new_height"),
    (SEG, PIXEL, 'transform_param { mean_file: "m" }', "a mean_file is not supported"),
    (SEG, PIXEL, "transform_param { crop_size: 3 crop_height: 3 crop_width: 3 }", "not both kinds"),
    (
        SEG,
        PIXEL,
        "transform_param { crop_height: 3 }",
        "crop_height and crop_width go together: give both, or crop_size",
    ),
    (SEG, PIXEL, "transform_param { scale_factors: 0 crop_size: 3 }", "scale_factors must be above 0"),
    (SEG, PIXEL, "transform_param { scale_factors: 2 }", "of several sizes: give crop_size, too"),
    (
        SEG,
        PIXEL,
        "transform_param { scale_factors: 0.1 crop_size: 3 }",
        "scale_factors 0.1 makes a picture of 4x5 too small",
    ),
    (SEG, PIXEL, "transform_param { mean_value: 1 mean_value: 2 }", "mean_value is given 2 times"),
    (
        SEG,
        "batch_size: 1",
        "",
        r"list\.txt:1: label_type is IMAGE, the default: .* got 'label0\.png'\. Write label_type",
    ),
    (SEG, "batch_size: 1 label_type: IMAGE", "", r"list\.txt:1: label_type is IMAGE: expected a whole number"),
    (SEG, f"{PIXEL} label_divide_factor: 2", "", "label_divide_factor of SegNet's, ENet's Caffe is nothing that Image"),
    (
        MAP,
        "batch_size: 1 label_type: PIXEL",
        "",
        "image_data_param.label_type of DeepLab's.* is nothing that ImageLabelmap",
    ),
    (
        MAP,
        "batch_size: 1",
        "transform_param { crop_size: 9 }",
        r"list\.txt:1: picture 0\.png: .* smaller than crop_size 9",
    ),
    (
        "ImageData",
        "label_type: PIXEL",
        "",
        "image_data_param.label_type of .* is nothing that ImageData reads. Leave it",
    ),
]


@pytest.mark.parametrize(("type", "options", "more", "message"), REFUSED)
def test_refusals(tmp_path: Path, type: str, options: str, more: str, message: str) -> None:
    write_pairs(tmp_path, images(2), labels(2))
    torch.manual_seed(0)
    with pytest.raises(DataError, match=message) as caught:
        if type == "ImageData":
            data_net(type, options, more)
        label_net(tmp_path, type, options, more)
    assert str(caught.value).startswith(f"layer 'l' ({type}): ")


@pytest.mark.parametrize(
    ("type", "text", "message"),
    [
        (
            DENSE,
            "0.png label0.png\n1.png\n",
            r'list\.txt:2: expected "PICTURE LABEL_PICTURE", got 1 word: \'1\.png\'\. Names',
        ),
        (MAP, "0.png my label.png\n", r"list\.txt:1: .*got 3 words"),
        (SEG, "\n0.png\n", r"list\.txt:2: expected .* as label_type is PIXEL, got '0\.png' alone"),
        (SEG, "0.png label9.png\n", r"list\.txt:1: .*label9\.png: cannot be read"),
        (DENSE, "9.png label0.png\n", r"list\.txt:1: .*9\.png: cannot be read"),
        (
            DENSE,
            "0.png label1.png\n",
            r"list\.txt:1: label label1\.png is 6x3; picture 0\.png is 4x5, so the label must be 4x5",
        ),
        (MAP, "0.png label1.png\n", r"list\.txt:1: label label1\.png is 6x3"),
        (SEG, "0.png label1.png\n", r"list\.txt:1: label label1\.png is 6x3"),
        (DENSE, "\n", "the list of pictures is empty"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, type: str, text: str, message: str) -> None:
    write_pairs(tmp_path, images(2), [*labels(1), *labels(1, 6, 3)])
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        label_net(tmp_path, type, PIXEL if type == SEG else "batch_size: 1")


@pytest.mark.parametrize("number", ["-1", "256"])
def test_labels_that_are_no_bytes_are_refused(tmp_path: Path, number: str) -> None:
    write_pairs(tmp_path, images(1), labels(1))
    (tmp_path / "list.txt").write_text(f"0.png {number}\n")
    with pytest.raises(DataError, match=rf"list\.txt:1: label {number} is not in 0 to 255"):
        label_net(tmp_path, SEG, "batch_size: 1")
