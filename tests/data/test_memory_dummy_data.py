"""MemoryData: arrays, images and Datums handed in. DummyData: fillers. Their refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datum_fixtures import blobs, data_net, equal, images, pull

from fcn_caffe import TEST, Net
from fcn_caffe.data.readers.datum import datum_of_encoded, datum_of_image
from fcn_caffe.data.readers.opencv_images import encode_image
from fcn_caffe.errors import DataError, LayerError

SIZES = "batch_size: 2 channels: 3 height: 4 width: 5"


def memory_net(more: str = "", sizes: str = SIZES) -> Net:
    return data_net("MemoryData", sizes, more)


def arrays(count: int) -> tuple[np.ndarray, np.ndarray]:
    data = np.random.RandomState(0).rand(count, 3, 4, 5).astype(np.float32)
    return data, np.arange(count, dtype=np.float32)


def test_arrays_are_gone_through_round_and_round() -> None:
    net = memory_net()
    assert net.blob_shapes == {"data": (2, 3, 4, 5), "label": (2,)}
    data, labels = arrays(6)
    net.layer("l").set_input_arrays(data, labels)
    batches = pull(net, 6)
    assert np.array_equal(np.concatenate([batch["data"] for batch in batches]), np.concatenate([data, data]))
    assert [int(label) for batch in batches for label in batch["label"].flatten()] == [*range(6), *range(6)]
    net.layer("l").set_input_arrays(data[2:], labels[2:].reshape(4, 1, 1, 1))
    assert pull(net)[0]["label"].tolist() == [[[[2]]], [[[3]]]], "new arrays start at their first row"


def test_what_a_net_does_to_its_blobs_does_not_reach_the_arrays() -> None:
    net, (data, labels) = memory_net(), arrays(2)
    net.layer("l").set_input_arrays(data, labels)
    net()["data"].zero_()
    assert data.any()


def test_images_are_transformed_arrays_are_not(caplog: pytest.LogCaptureFixture) -> None:
    net = memory_net(
        "transform_param { scale: 0.5 mean_value: 10 crop_size: 4 }", SIZES.replace("width: 5", "width: 4")
    )
    pictures = images(4)
    centre = blobs(pictures)[:, :, :, 0:4]
    net.phase = TEST
    net.layer("l").transformer.random_crop = False
    net.layer("l").add_images(pictures, [1, 2, 3, 4])
    batches = pull(net, 2)
    assert np.array_equal(np.concatenate([batch["data"] for batch in batches]), (centre - 10) / 2)
    assert [int(label) for batch in batches for label in batch["label"].flatten()] == [1, 2, 3, 4]
    net.layer("l").set_input_arrays(centre.copy(), np.zeros(4, np.float32))
    assert "transform_param does not act on arrays" in caplog.text
    assert np.array_equal(pull(net)[0]["data"], centre[:2])


def test_datums_raw_and_encoded() -> None:
    first, second = images(2)
    net = memory_net()
    encoded = datum_of_encoded(encode_image(second, "png", "x"), second.shape, 8)
    net.layer("l").add_datums([datum_of_image(first, 7), encoded])
    batches = pull(net)[0]
    assert np.array_equal(batches["data"], blobs([first, second]))
    assert batches["label"].tolist() == [[[[7]]], [[[8]]]]


def test_mirrors_follow_the_seed_and_the_state() -> None:
    def run(seed: int) -> tuple[Net, list[dict[str, np.ndarray]]]:
        torch.manual_seed(seed)
        net = memory_net("transform_param { mirror: true }")
        net.layer("l").add_images(images(8), [0] * 8)
        return net, pull(net, 4)

    (net, first), (_, same), (other, different) = run(1), run(1), run(2)
    assert equal(first, same) and not equal(first, different)
    other.load_data_state(net.data_state())
    results = []
    for each in (net, other):
        each.layer("l").add_images(images(8), [0] * 8)
        results.append(pull(each, 4))
    assert equal(*results)


def test_a_state_keeps_the_place_in_the_arrays() -> None:
    net, other = memory_net(), memory_net()
    for each in (net, other):
        each.layer("l").set_input_arrays(*arrays(6))
    pull(net, 2)
    other.load_data_state(net.data_state())
    assert equal(pull(other, 2), pull(net, 2))
    with pytest.raises(LayerError, match=r"order is not one of this layer"):
        net.load_data_state({"l": {"position": 3}})


@pytest.mark.parametrize("missing", ["batch_size", "channels", "height", "width"])
def test_all_sizes_must_be_given(missing: str) -> None:
    sizes = " ".join(f"{name}: 1" for name in ("batch_size", "channels", "height", "width") if name != missing)
    with pytest.raises(LayerError, match=r"batch_size, channels, height and width of memory_data_param must be given"):
        memory_net("", sizes)


DATA, LABELS = arrays(4)


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (DATA.astype(np.float64), LABELS, "data must be float32, got float64"),
        (DATA, LABELS.astype(np.int64), "labels must be float32, got int64"),
        (DATA[0], LABELS, "data must be nx3x4x5, got 3x4x5"),
        (DATA[:, :2].copy(), LABELS, "data must be nx3x4x5, got 4x2x4x5"),
        (DATA[:, :, ::-1], LABELS, "data must be C contiguous: use numpy.ascontiguousarray"),
        (DATA, LABELS.reshape(4, 1), "labels must be n, got 4x1"),
        (DATA, LABELS[:2], "data has 4 rows, labels 2: give each row one label"),
        (DATA[:3], LABELS[:3], "arrays hold 3 images: give a positive multiple of batch_size, 2"),
        (DATA[:0], LABELS[:0], "arrays hold 0 images: give a positive multiple"),
    ],
)
def test_arrays_that_do_not_fit(data: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(LayerError, match=rf"layer 'l' \(MemoryData\): {message}"):
        memory_net().layer("l").set_input_arrays(data, labels)


def test_images_that_do_not_fit() -> None:
    memory = memory_net("transform_param { crop_size: 4 }").layer("l")
    with pytest.raises(LayerError, match=r"images must be uint8 arrays, height x width x channels"):
        memory.add_images([np.zeros((4, 5, 3), np.float32)] * 2, [0, 0])
    with pytest.raises(LayerError, match=r"2 images and 1 labels"):
        memory.add_images(images(2), [0])
    with pytest.raises(LayerError, match=r"there are 3 images: give a positive multiple of batch_size, 2"):
        memory.add_images(images(3), [0] * 3)
    with pytest.raises(LayerError, match=r"images are 3x4x4 once transformed, expected 3x4x5"):
        memory.add_images(images(2), [0, 0])
    with pytest.raises(DataError, match=r"image 0: the image is 3x2x2, smaller than crop_size 4"):
        memory.add_images(images(2, 2, 2), [0, 0])


def test_data_comes_before_forward_and_is_read_before_more() -> None:
    net = memory_net()
    with pytest.raises(LayerError, match=r"'l' \(MemoryData\): has no data yet\. From Python: net\.set_input_arrays"):
        net()
    memory = net.layer("l")
    memory.add_images(images(4), [0] * 4)
    pull(net)
    for more in (lambda: memory.add_images(images(2), [0, 0]), lambda: memory.set_batch_size(1)):
        with pytest.raises(LayerError, match=r"images that were added before are not read yet"):
            more()
    pull(net)
    with pytest.raises(LayerError, match=r"batch_size must be positive, got 0"):
        memory.set_batch_size(0)
    memory.set_batch_size(1)
    memory.add_images(images(1), [5])
    assert pull(net)[0]["data"].shape == (1, 3, 4, 5)


# -- DummyData -------------------------------------------------------------------------------------------------------


def test_constant_fillers_fill_once_and_others_every_time() -> None:
    text = 'shape { dim: 2 dim: 3 } data_filler { value: 7 } data_filler { type: "gaussian" std: 2 }'
    net = data_net("DummyData", text, tops="a b")
    assert net.blob_shapes == {"a": (2, 3), "b": (2, 3)}
    assert (net()["a"] == 7).all() and net()["a"] is net()["a"]
    assert not torch.equal(net()["b"], net()["b"])
    torch.manual_seed(0)
    first = net()["b"]
    torch.manual_seed(0)
    assert torch.equal(net()["b"], first)


def test_constants_move_with_the_net_and_are_not_weights() -> None:
    net = data_net("DummyData", "shape { dim: 2 } data_filler { value: 1 }", tops="a")
    assert not net.state_dict() and not net.params
    assert net.double()()["a"].dtype == torch.float64


def test_without_a_filler_tops_are_zero_and_one_is_for_all() -> None:
    shapes = "shape { dim: 2 } shape { dim: 3 dim: 1 }"
    batches = data_net("DummyData", shapes, tops="a b")()
    assert batches["a"].tolist() == [0, 0] and batches["b"].shape == (3, 1)
    batches = data_net("DummyData", f"{shapes} data_filler {{ value: 4 }}", tops="a b")()
    assert batches["a"].tolist() == [4, 4] and batches["b"].flatten().tolist() == [4, 4, 4]


def test_the_old_four_sizes() -> None:
    net = data_net("DummyData", "num: 2 num: 3 channels: 1 height: 4 height: 5 width: 6", tops="a b")
    assert net.blob_shapes == {"a": (2, 1, 4, 6), "b": (3, 1, 5, 6)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 shape for 3 tops: give one for all, or one each"),
        ("shape { dim: 1 } shape { dim: 1 }", "2 shape for 3 tops"),
        ("num: 1 channels: 1 height: 1", "0 width for 3 tops"),
        ("num: 1 num: 1 channels: 1 height: 1 width: 1", "2 num for 3 tops"),
        ("shape { dim: 1 } num: 1", "has shape and the old num, channels, height or width: keep shape only"),
        ("shape { dim: 1 } data_filler { } data_filler { }", "2 data_filler for 3 tops: give none, one for all"),
        ('shape { dim: 1 } data_filler { type: "noise" }', "filler type 'noise' is unknown"),
    ],
)
def test_dummy_refusals(text: str, message: str) -> None:
    with pytest.raises(LayerError, match=message) as caught:
        data_net("DummyData", text, tops="a b c")
    assert str(caught.value).startswith("layer 'l' (DummyData): ")
