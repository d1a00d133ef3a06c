"""HDF5Data and HDF5Output: rows, order, refusals."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from datum_fixtures import data_net, equal, pull
from helpers import input_layer, layer, make_net

from fcn_caffe import Net
from fcn_caffe.errors import DataError, FcnCaffeError, LayerError


def write_files(folder: Path, *counts: int) -> Path:
    """Files of so many rows, numbered through; returns their list."""
    start = 0
    for index, count in enumerate(counts):
        rows = np.arange(start, start + count)
        with h5py.File(folder / f"{index}.h5", "w") as file:
            file["data"] = rows[:, None, None] + np.zeros((count, 2, 3))
            file["label"] = rows.astype(np.int64)
        start += count
    (folder / "list.txt").write_text("\n".join(str(folder / f"{index}.h5") for index in range(len(counts))))
    return folder / "list.txt"


def hdf5_net(source: Path, batch_size: int, more: str = "", tops: str = "data label") -> Net:
    return data_net("HDF5Data", f'source: "{source}" batch_size: {batch_size} {more}', tops=tops)


def labels(net: Net, batches: int) -> list[int]:
    return [int(label) for batch in pull(net, batches) for label in batch["label"]]


def test_rows_of_all_files_round_and_round(tmp_path: Path) -> None:
    net = hdf5_net(write_files(tmp_path, 3, 2, 4), 2)
    assert net.blob_shapes == {"data": (2, 2, 3), "label": (2,)}
    batches = pull(net, 9)
    assert [int(label) for batch in batches for label in batch["label"]] == list(range(9)) * 2
    for batch in batches:
        assert batch["data"].dtype == batch["label"].dtype == np.float32
        assert np.array_equal(batch["data"], batch["label"][:, None, None] + np.zeros((2, 2, 3), np.float32))


def test_a_batch_may_be_larger_than_the_files(tmp_path: Path) -> None:
    assert labels(hdf5_net(write_files(tmp_path, 2, 1), 8), 1) == [0, 1, 2, 0, 1, 2, 0, 1]


def test_any_data_sets_by_name(tmp_path: Path) -> None:
    assert list(pull(hdf5_net(write_files(tmp_path, 2), 1, tops="label"))[0]) == ["label"]


def test_shuffled_rows_stay_with_their_file_and_files_change_places(tmp_path: Path) -> None:
    source = write_files(tmp_path, 3, 3, 3)
    torch.manual_seed(1)
    rounds = np.array(labels(hdf5_net(source, 9, "shuffle: true"), 12)).reshape(12, 3, 3)
    for around in rounds:
        assert sorted(file[0] // 3 for file in around) == [0, 1, 2]
        assert all(sorted(file) == sorted(range(file[0] // 3 * 3, file[0] // 3 * 3 + 3)) for file in around)
    assert len({tuple(around[:, 0] // 3) for around in rounds}) > 2, "files are ordered anew"
    assert len({tuple(file % 3) for around in rounds for file in around}) > 3, "rows are ordered anew"


def test_one_file_is_shuffled_anew_each_time_round(tmp_path: Path) -> None:
    torch.manual_seed(1)
    rounds = np.array(labels(hdf5_net(write_files(tmp_path, 5), 5, "shuffle: true"), 6)).reshape(6, 5)
    assert len({tuple(around) for around in rounds}) > 3


@pytest.mark.parametrize("counts", [(5,), (3, 2, 4)])
@pytest.mark.parametrize("before", [0, 1, 5])
def test_a_state_goes_on_with_the_same_rows(tmp_path: Path, counts: tuple[int, ...], before: int) -> None:
    source = write_files(tmp_path, *counts)
    torch.manual_seed(1)
    net = hdf5_net(source, 2, "shuffle: true")
    pull(net, before)
    state, rest = net.data_state(), pull(net, 8)
    torch.manual_seed(2)
    other = hdf5_net(source, 2, "shuffle: true")
    assert not equal(pull(other, 8), rest)
    other.load_data_state(state)
    assert equal(pull(other, 8), rest)


def test_states_of_others_are_refused(tmp_path: Path) -> None:
    net = hdf5_net(write_files(tmp_path, 2), 1)
    with pytest.raises(LayerError, match=r"order is for a list of 2 files, this one has 1"):
        net.load_data_state({"l": {"seed": 0, "load": 0, "row": 0, "files": 2}})
    with pytest.raises(LayerError, match=r"order is not one of this layer"):
        net.load_data_state({"l": {"seed": 0}})
    with pytest.raises(LayerError, match=r"order is not one of this layer"):
        net.load_data_state({"l": {"seed": float("inf"), "load": 0, "row": 0, "files": 1}})


@pytest.mark.parametrize(
    ("options", "tops", "message"),
    [
        ('source: "{folder}/list.txt"', "data", "batch_size must be given and positive"),
        ("batch_size: 1", "data", "no list of HDF5 files is named"),
        ('source: "none.txt" batch_size: 1', "data", r"none\.txt: no such list of HDF5 files"),
        ('source: "{folder}/empty.txt" batch_size: 1', "data", "the list of HDF5 files is empty"),
        ('source: "{folder}/gone.txt" batch_size: 1', "data", r"gone\.h5: no such HDF5 file"),
        ('source: "{folder}/text.txt" batch_size: 1', "data", r"text\.txt: cannot be read as HDF5"),
        ('source: "{folder}/list.txt" batch_size: 1', "scores", r"has no data set 'scores'. It has: .*words"),
        ('source: "{folder}/list.txt" batch_size: 1', "words", "data set 'words' holds object, expected numbers"),
        ('source: "{folder}/list.txt" batch_size: 1', "single", r"'single' is \(scalar\), expected one row or more"),
        ('source: "{folder}/list.txt" batch_size: 1', "none", "'none' is 0x2, expected one row or more"),
        (
            'source: "{folder}/list.txt" batch_size: 1',
            "data short",
            "'short' has 1 rows, 'data' 2: give them equal numbers",
        ),
    ],
)
def test_refusals(tmp_path: Path, options: str, tops: str, message: str) -> None:
    with h5py.File(tmp_path / "0.h5", "w") as file:
        file["data"], file["short"], file["none"], file["single"] = np.zeros((2, 2)), [1.0], np.zeros((0, 2)), 1.0
        file["words"] = ["a", "b"]
    for name, text in {"list": "0.h5", "empty": "", "gone": "gone.h5", "text": "text.txt"}.items():
        (tmp_path / f"{name}.txt").write_text(str(tmp_path / text) if text else "")
    with pytest.raises(FcnCaffeError, match=message) as caught:
        data_net("HDF5Data", options.format(folder=tmp_path), tops=tops)
    assert str(caught.value).startswith("layer 'l' (HDF5Data): ")


def test_a_transform_is_refused_as_caffe_does(tmp_path: Path) -> None:
    options = f'source: "{write_files(tmp_path, 2)}" batch_size: 1'
    with pytest.raises(LayerError, match=r"layer 'l' \(HDF5Data\): does not transform data: take transform_param out"):
        data_net("HDF5Data", options, "transform_param { scale: 2 }")


def test_files_of_other_shapes_do_not_share_a_batch(tmp_path: Path) -> None:
    source = write_files(tmp_path, 2, 2)
    with h5py.File(tmp_path / "1.h5", "w") as file:
        file["data"], file["label"] = np.zeros((2, 9)), np.zeros(2)
    net = hdf5_net(source, 3)
    with pytest.raises(DataError, match=r"1\.h5: rows of 'data' are 9, in the file before 2x3"):
        net()


# -- HDF5Output ------------------------------------------------------------------------------------------------------


def output_net(path: Path | str, data: tuple[int, ...] = (2, 3), label: tuple[int, ...] = (2,)) -> Net:
    options = f'hdf5_output_param {{ file_name: "{path}" }}' if path else ""
    return make_net(
        input_layer("data", *data), input_layer("label", *label), layer("out", "HDF5Output", "data label", "", options)
    )


def test_data_and_label_are_written_as_caffe_does(tmp_path: Path) -> None:
    net = output_net(tmp_path / "out.h5")
    assert not list(tmp_path.iterdir()), "building writes nothing"
    data = torch.arange(6.0).reshape(2, 3)
    assert net(data=data, label=torch.tensor([4.0, 5.0])) == {}
    with h5py.File(tmp_path / "out.h5") as file:
        assert sorted(file) == ["data", "label"]
        assert file["data"].dtype == file["label"].dtype == np.float32
        assert np.array_equal(file["data"], data.numpy().reshape(2, 3, 1, 1))
        assert np.array_equal(file["label"], np.array([4, 5], np.float32).reshape(2, 1, 1, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]


def test_a_file_of_before_is_replaced_and_a_second_forward_refused(tmp_path: Path) -> None:
    (tmp_path / "out.h5").write_bytes(b"old")
    net = output_net(tmp_path / "out.h5")
    blobs = {"data": torch.ones(2, 3), "label": torch.ones(2)}
    net(**blobs)
    with pytest.raises(LayerError, match=r"out.h5 holds the first batch already, and the layer writes one"):
        net(**blobs)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["data"][...].sum() == 6


def test_it_reads_what_it_wrote(tmp_path: Path) -> None:
    output_net(tmp_path / "0.h5")(data=torch.rand(2, 3), label=torch.tensor([7.0, 8.0]))
    (tmp_path / "list.txt").write_text(str(tmp_path / "0.h5"))
    assert pull(hdf5_net(tmp_path / "list.txt", 2))[0]["label"].ravel().tolist() == [7, 8]


@pytest.mark.parametrize(
    ("path", "data", "label", "message"),
    [
        ("", (2, 3), (2,), "needs hdf5_output_param { file_name }"),
        ("{folder}/.profile", (2, 3), (2,), r"\.profile: writes files named \.h5, \.hdf5, \.hdf alone\. Name it so"),
        ("{folder}/none/out.h5", (2, 3), (2,), "none: no such folder for the file. Create it"),
        ("{folder}/out.h5", (2, 3), (3,), "data is 2x3, label 3: give both the same batch size"),
        ("{folder}/out.h5", (2, 1, 1, 1, 3), (2,), "writes blobs of at most 4 axes, got 2x1x1x1x3"),
    ],
)
def test_output_refusals(
    tmp_path: Path, path: str, data: tuple[int, ...], label: tuple[int, ...], message: str
) -> None:
    with pytest.raises(LayerError, match=message) as caught:
        output_net(path.format(folder=tmp_path), data, label)
    assert str(caught.value).startswith("layer 'out' (HDF5Output): ")


def test_no_link_leads_to_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "out.h5").symlink_to(tmp_path / ".profile")
    with pytest.raises(LayerError, match=r"out\.h5: writes files named"):
        output_net(tmp_path / "out.h5")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    net = output_net(tmp_path / "out" / "out.h5") if (tmp_path / "out").mkdir() is None else None
    (tmp_path / "out").rmdir()
    assert net is not None
    with pytest.raises(DataError, match=r"out.h5: cannot be written"):
        net(data=torch.ones(2, 3), label=torch.ones(2))
    assert not list(tmp_path.iterdir())
