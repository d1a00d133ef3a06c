"""WindowData: which windows, where they go in the crop, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from datum_fixtures import data_net, equal, images, pull, write_images

from fcn_caffe.data.readers.resize import resize
from fcn_caffe.data.readers.window_list import Placed, place_window, read_windows
from fcn_caffe.errors import DataError
from fcn_caffe.proto.blob_file import write_blob

Box = tuple[int, int, int, int]


def write_windows(folder: Path, *windows: str, count: int = 1, height: int = 20, width: int = 30) -> Path:
    """Images, and a window file in which every image has these windows."""
    write_images(folder, images(count, height, width))
    text = [f"# {index}\n{index}.png\n3\n{height}\n{width}\n{len(windows)}\n" for index in range(count)]
    body = "".join(f"{window}\n" for window in windows)
    (folder / "windows.txt").write_text("".join(head + body for head in text))
    return folder / "windows.txt"


def options(source: Path, more: str = "batch_size: 4") -> str:
    return f'source: "{source}" root_folder: "{source.parent}/" {more}'


def crops(text: str = "") -> str:
    return f"transform_param {{ crop_size: 8 {text} }}"


def reference(image: np.ndarray, box: Box, crop: int, context: int, square: bool, mirrored: bool) -> np.ndarray:
    """Caffe's steps one by one on one window, in float64; the boxes here do not hang on the last bit."""
    x1, y1, x2, y2 = box
    pad_w = pad_h = 0
    out_w = out_h = crop
    if context or square:
        scale = crop / (crop - 2 * context)
        half_h, half_w = (y2 - y1 + 1) / 2, (x2 - x1 + 1) / 2
        center_x, center_y = x1 + half_w, y1 + half_h
        if square:
            half_h = half_w = max(half_h, half_w)

        def nearest(value: float) -> int:
            return int(abs(value) + 0.5) * (-1 if value < 0 else 1)

        x1, x2 = nearest(center_x - half_w * scale), nearest(center_x + half_w * scale)
        y1, y2 = nearest(center_y - half_h * scale), nearest(center_y + half_h * scale)
        whole_w, whole_h = x2 - x1 + 1, y2 - y1 + 1
        pad_x1, pad_y1 = max(0, -x1), max(0, -y1)
        pad_x2, pad_y2 = max(0, x2 - image.shape[1] + 1), max(0, y2 - image.shape[0] + 1)
        x1, x2, y1, y2 = x1 + pad_x1, x2 - pad_x2, y1 + pad_y1, y2 - pad_y2
        out_w = nearest((x2 - x1 + 1) * crop / whole_w)
        out_h = nearest((y2 - y1 + 1) * crop / whole_h)
        pad_h = nearest(pad_y1 * crop / whole_h)
        pad_w = nearest((pad_x2 if mirrored else pad_x1) * crop / whole_w)
        out_h, out_w = min(out_h, crop - pad_h), min(out_w, crop - pad_w)
    warped = resize(np.ascontiguousarray(image[y1 : y2 + 1, x1 : x2 + 1]), out_h, out_w)
    result = np.zeros((3, crop, crop), np.float32)
    for row in range(out_h):
        for column in range(out_w):
            source = out_w - 1 - column if mirrored else column
            result[:, row + pad_h, column + pad_w] = warped[row, source]
    return result


BOXES = [(3, 4, 20, 15), (0, 0, 29, 19), (0, 12, 5, 19), (25, 0, 29, 3), (10, 10, 10, 10), (2, 1, 27, 4)]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("context", "mode"), [(0, "warp"), (2, "warp"), (0, "square"), (3, "square")])
@pytest.mark.parametrize("mirror", [False, True])
def test_windows_are_warped_into_place(tmp_path: Path, box: Box, context: int, mode: str, mirror: bool) -> None:
    source = write_windows(tmp_path, f"2 1 {' '.join(map(str, box))}")
    more = f'batch_size: 6 fg_fraction: 1 context_pad: {context} crop_mode: "{mode}"'
    net = data_net("WindowData", options(source, more), crops(f"mirror: {str(mirror).lower()}"))
    image = images(1, 20, 30)[0]
    plain, turned = (reference(image, box, 8, context, mode == "square", flag) for flag in (False, True))
    data = np.concatenate([batch["data"] for batch in pull(net, 3)])
    kinds = {
        "plain" if np.array_equal(crop, plain) else "turned" if np.array_equal(crop, turned) else "?" for crop in data
    }
    assert kinds <= ({"plain", "turned"} if mirror else {"plain"})
    if mirror and not np.array_equal(plain, turned):
        assert len(kinds) == 2, "18 windows are never all on one side"


def test_background_comes_first_and_has_label_zero(tmp_path: Path) -> None:
    windows = ["7 0.5 0 0 9 9", "3 0.9 5 5 9 9", "4 0.49 0 0 19 19", "5 0 2 2 9 9"]
    net = data_net("WindowData", options(write_windows(tmp_path, *windows, count=3), "batch_size: 10"), crops())
    assert net.blob_shapes == {"data": (10, 3, 8, 8), "label": (10,)}
    batches = pull(net, 10)
    for batch in batches:
        assert (batch["label"][:8] == 0).all() and set(batch["label"][8:]) <= {7, 3}, "a quarter of 10 is 2"
    assert {label for batch in batches for label in batch["label"]} == {0, 3, 7}


def test_windows_between_the_thresholds_are_left_out(tmp_path: Path) -> None:
    source = write_windows(tmp_path, "1 0.75 0 0 9 9", "1 0.3 0 0 8 8", "1 0.05 0 0 7 7")
    windows = read_windows(source, 0.75, 0.1)
    assert [window.box for window in windows.foreground] == [(0, 0, 9, 9)]
    assert [(window.box, window.label) for window in windows.background] == [((0, 0, 7, 7), 0)]


def test_mean_and_scale(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write_windows(tmp_path, "2 1 0 12 5 19")
    image = images(1, 20, 30)[0]
    more = 'batch_size: 1 fg_fraction: 1 context_pad: 2 crop_mode: "warp"'
    plain = reference(image, (0, 12, 5, 19), 8, 2, False, False)
    inside = pull(data_net("WindowData", options(source, more), crops("mean_value: 300")))[0]["data"][0] != 0
    assert inside.any() and not inside.all(), "around the image it stays zero, whatever the mean"
    batches = pull(
        data_net(
            "WindowData",
            options(source, f"{more} scale: 0.5"),
            crops("scale: 7 mean_value: 1 mean_value: 2 mean_value: 3"),
        )
    )
    assert "layer 'l' (WindowData): transform_param { scale } has no effect, as in Caffe" in caplog.text
    each = np.array([1, 2, 3], np.float32)[:, None, None]
    assert np.array_equal(batches[0]["data"][0], np.where(inside, (plain - each) / 2, 0))
    mean = np.random.RandomState(0).rand(3, 12, 12).astype(np.float32)
    write_blob(tmp_path / "mean.binaryproto", mean)
    batches = pull(
        data_net("WindowData", options(source, more), crops(f'mean_file: "{tmp_path / "mean.binaryproto"}"'))
    )
    assert np.array_equal(batches[0]["data"][0], np.where(inside, plain - mean[:, 2:10, 2:10], 0))


def test_cached_images_are_the_same(tmp_path: Path) -> None:
    source = write_windows(tmp_path, "1 1 0 0 9 9", "1 0 3 3 20 19", count=3)
    runs = []
    for cached in ("false", "true"):
        torch.manual_seed(0)
        net = data_net("WindowData", options(source, f"batch_size: 4 cache_images: {cached}"), crops("mirror: true"))
        if cached == "true":
            for index in range(3):
                (tmp_path / f"{index}.png").unlink()
        runs.append(pull(net, 4))
    assert equal(*runs)


def test_a_state_goes_on_with_the_same_windows(tmp_path: Path) -> None:
    source = write_windows(tmp_path, "1 1 0 0 9 9", "2 0.8 3 3 20 19", "1 0 1 1 7 8", count=4)
    torch.manual_seed(0)
    net = data_net("WindowData", options(source), crops("mirror: true"))
    pull(net, 3)
    state, rest = net.data_state(), pull(net, 4)
    torch.manual_seed(1)
    other = data_net("WindowData", options(source), crops("mirror: true"))
    assert not equal(pull(other, 4), rest)
    other.load_data_state(state)
    assert equal(pull(other, 4), rest)


GOOD = "1 1 0 0 9 9"


@pytest.mark.parametrize(
    ("more", "transform", "message"),
    [
        ("", "crop_size: 8", "batch_size must be given and positive"),
        ("batch_size: 1", "", "crop_size must be given and positive"),
        ("batch_size: 1 context_pad: 4", "crop_size: 8", "context_pad 4 leaves nothing of crop_size 8"),
        ('batch_size: 1 crop_mode: "round"', "crop_size: 8", "crop_mode 'round' is unknown. Known: square, warp"),
        ("batch_size: 4", "crop_size: 8", "a batch needs 3 background windows"),
        ("batch_size: 1 fg_fraction: 1 fg_threshold: 2", "crop_size: 8", "needs 1 foreground windows"),
        ("batch_size: 1 fg_fraction: 1", "crop_size: 8 mean_value: 1 mean_value: 2", "mean_value is given 2 times for"),
        ("batch_size: 1 fg_fraction: 1", 'crop_size: 8 mean_file: "{mean}"', "mean_file is 3x5x5, wanted 3 channels"),
        ("batch_size: 1 fg_fraction: 1", 'crop_size: 8 mean_value: 1 mean_file: "{mean}"', "keep one of them"),
        ('batch_size: 1 fg_fraction: 1 cache_images: true root_folder: "/none/"', "crop_size: 8", "0.png: cannot be"),
    ],
)
def test_refusals(tmp_path: Path, more: str, transform: str, message: str) -> None:
    source = write_windows(tmp_path, GOOD)
    write_blob(tmp_path / "mean", np.zeros((3, 5, 5), np.float32))
    transform = transform.format(mean=tmp_path / "mean")
    text = more if "root_folder" in more else f'{more} root_folder: "{tmp_path}/"'
    with pytest.raises(DataError, match=message) as caught:
        data_net("WindowData", f'source: "{source}" {text}', f"transform_param {{ {transform} }}")
    assert str(caught.value).startswith("layer 'l' (WindowData): ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the window file is empty"),
        ("0\n", "windows.txt:1: expected '#' and the number of an image"),
        ("# 9999999999\n", r"windows.txt:1: expected the number of an image, 9999999999 is too large"),
        ("# x\n", "windows.txt:1: expected the number of an image, got 'x'"),
        ("# 0\na.png\n3\n9\n", "windows.txt:4: the file ends where width should be"),
        ("# 0\na.png\n3\n9\n9\n1\n1 0.5 0 0\n", "windows.txt:7: the file ends where x2 should be"),
        ("# 0\na.png\n3\n9\n9\n1\n1 much 0 0 1 1\n", "windows.txt:7: expected an overlap, got 'much'"),
        ("# 0\na.png\n3\n9\n9\n1\n0 1 0 0 1 1\n", "windows.txt:7: a foreground window has class 0; classes count"),
        ("# 0\na.png\n3\n9\n9\n0\n# 0\nb.png", "windows.txt:7: image 0 is there twice"),
        ("# 0\na.png\n3\n9\n9\n0\n# 1\nb.png\n1\n", "windows.txt:9: image 1 has 1 channels, the images before it 3"),
        ("# 0\na.png\n0\n", "windows.txt:3: image 0 has 0 channels"),
    ],
)
def test_window_files_that_do_not_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "windows.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_windows(tmp_path / "windows.txt", 0.5, 0.5)


def test_windows_that_do_not_fit_are_named_in_forward(tmp_path: Path) -> None:
    source = write_windows(tmp_path, "1 1 0 0 30 9")
    net = data_net("WindowData", options(source, "batch_size: 1 fg_fraction: 1"), crops())
    with pytest.raises(DataError, match=r"0\.png: window \(0, 0, 30, 9\) is not inside its image of 20x30"):
        net()
    for box in ((40, 0, 50, 9), (-20, 0, -15, 9), (0, 25, 5, 30), (5, 5, 2, 9)):
        with pytest.raises(DataError, match=r"w holds nothing of its image of 20x30"):
            place_window(box, (20, 30, 3), 8, 2, False, "w")
    with pytest.raises(DataError, match=r"w is not inside its image"):
        place_window((5, 5, 2, 9), (20, 30, 3), 8, 0, False, "w")
    assert place_window((0, 0, 29, 19), (20, 30, 3), 8, 0, False, "w") == Placed(0, 0, 30, 20, 8, 8)


def test_images_of_other_channels_than_the_file_says(tmp_path: Path) -> None:
    source = write_windows(tmp_path, GOOD)
    source.write_text(source.read_text().replace("0.png\n3\n", "0.png\n1\n"))
    net = data_net("WindowData", options(source, "batch_size: 1 fg_fraction: 1"), crops())
    with pytest.raises(DataError, match=r"0\.png: has 3 channels, the window file says 1"):
        net()


def test_an_image_that_is_gone_is_named(tmp_path: Path) -> None:
    net = data_net("WindowData", options(write_windows(tmp_path, GOOD), "batch_size: 1 fg_fraction: 1"), crops())
    (tmp_path / "0.png").unlink()
    with pytest.raises(DataError, match=r"layer 'l' \(WindowData\): .*0\.png: cannot be read"):
        net()
