"""Data and the prefetching that it shares with ImageData and WindowData: batches, order, threads, errors."""

from __future__ import annotations

import copy
import gc
import io
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from datum_fixtures import blobs, data_net, equal, images, pull, write_database, write_images
from needs import needs_package
from PIL import Image
from places import ROOT, TESTS

from fcn_caffe import TEST, TRAIN, Net
from fcn_caffe.data.prefetch import draws
from fcn_caffe.data.readers.databases import write_records
from fcn_caffe.data.readers.datum import datum_of_encoded, datum_of_image
from fcn_caffe.errors import DataError, LayerError
from fcn_caffe.proto import caffe_pb2

LENET = ROOT.parent / "shared" / "data" / "caffe" / "lenet_v1"


def prefetching() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def encoded(picture: np.ndarray, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture[:, :, ::-1])).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_batches_go_round_the_database(tmp_path: Path, backend: str, prefetch: int) -> None:
    pictures = images(5)
    source = write_database(tmp_path / "db", pictures, backend)
    options = f'source: "{source}" batch_size: 2 backend: {backend.upper()} prefetch: {prefetch}'
    net = data_net("Data", options)
    assert net.blob_shapes == {"data": (2, 3, 4, 5), "label": (2,)}
    assert not prefetching(), "a net that is only built starts nothing"
    batches = pull(net, 5)
    assert np.array_equal(np.concatenate([batch["data"] for batch in batches]), blobs([*pictures, *pictures]))
    assert np.concatenate([batch["label"] for batch in batches]).tolist() == [0, 10, 20, 30, 40] * 2
    assert batches[0]["data"].dtype == batches[0]["label"].dtype == np.float32


def test_one_top_is_enough(tmp_path: Path) -> None:
    net = data_net(
        "Data", f'source: "{write_database(tmp_path / "db", images(2))}" batch_size: 1 backend: LMDB', tops="x"
    )
    assert list(pull(net)[0]) == ["x"]


def test_two_layers_read_one_database(tmp_path: Path) -> None:
    options = f'source: "{write_database(tmp_path / "db", images(3))}" batch_size: 1 backend: LMDB'
    first, second = data_net("Data", options), data_net("Data", options)
    assert equal(pull(first, 4), pull(second, 4))


def test_float_data_and_encoded_images(tmp_path: Path) -> None:
    picture = images(1)[0]
    numbers = np.arange(60, dtype=np.float32).reshape(3, 4, 5) / 7
    datums = [
        caffe_pb2.Datum(channels=3, height=4, width=5, float_data=numbers.ravel(), label=1),
        datum_of_encoded(encoded(picture), picture.shape, 2),
    ]
    records = ((b"%d" % index, datum.SerializeToString()) for index, datum in enumerate(datums))
    write_records(tmp_path / "db", "lmdb", records)
    batches = pull(data_net("Data", f'source: "{tmp_path / "db"}" batch_size: 2 backend: LMDB'))[0]
    assert np.array_equal(batches["data"][0], numbers)
    assert np.array_equal(batches["data"][1], blobs([picture])[0])
    assert batches["label"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("option", "transform", "channels"),
    [("", "", 1), ("", "force_color: true", 3), ("", "force_gray: true", 1), ("force_encoded_color: true", "", 3)],
)
def test_encoded_grey_as_asked_for(tmp_path: Path, option: str, transform: str, channels: int) -> None:
    datum = datum_of_encoded(encoded(images(1)[0], "L"), (4, 5, 1), 0)
    write_records(tmp_path / "db", "lmdb", iter([(b"0", datum.SerializeToString())]))
    options = f'source: "{tmp_path / "db"}" batch_size: 1 backend: LMDB {option}'
    net = data_net("Data", options, f"transform_param {{ {transform} }}")
    assert net.blob_shapes["data"] == (1, channels, 4, 5)


def test_force_color_on_raw_images_warns_and_does_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write_database(tmp_path / "db", images(1, channels=1))
    more = "transform_param { force_color: true force_gray: true }"
    net = data_net("Data", f'source: "{source}" batch_size: 1 backend: LMDB', more)
    assert net.blob_shapes["data"] == (1, 1, 4, 5)
    assert "only for encoded images" in caplog.text


def test_images_of_their_own_sizes_one_a_batch(tmp_path: Path) -> None:
    pictures = [images(1, 4, 5)[0], images(1, 6, 3)[0]]
    net = data_net("Data", f'source: "{write_database(tmp_path / "db", pictures)}" batch_size: 1 backend: LMDB')
    assert [batch["data"].shape for batch in pull(net, 3)] == [(1, 3, 4, 5), (1, 3, 6, 3), (1, 3, 4, 5)]


def test_rand_skip_leaves_out_a_few_and_follows_the_seed(tmp_path: Path) -> None:
    options = f'source: "{write_database(tmp_path / "db", images(20))}" batch_size: 1 backend: LMDB rand_skip: 15'
    firsts = []
    for seed in range(8):
        torch.manual_seed(seed)
        firsts.append(pull(data_net("Data", options))[0]["label"].item() / 10)
        torch.manual_seed(seed)
        assert pull(data_net("Data", options))[0]["label"].item() / 10 == firsts[-1]
    assert len(set(firsts)) > 3 and max(firsts) < 15


def test_rand_skip_beyond_the_database_goes_round_it(tmp_path: Path) -> None:
    source = write_database(tmp_path / "db", images(3))
    for seed in range(6):
        torch.manual_seed(seed)
        net = data_net("Data", f'source: "{source}" batch_size: 1 backend: LMDB rand_skip: 4000000000')
        skipped = int(draws(net.data_state()["l"]["seed"], 1).integers(4000000000))
        assert pull(net)[0]["label"].item() / 10 == skipped % 3


# -- order, seeds and states -----------------------------------------------------------------------------------------

RANDOM = "transform_param { crop_size: 3 mirror: true }"


def random_net(folder: Path, type: str, prefetch: int = 4) -> Net:
    """Random crops and mirrors of five images, from a database or a shuffled list."""
    if type == "Data":
        source = folder / "db"
        if not source.exists():
            write_database(source, images(5))
        return data_net("Data", f'source: "{source}" batch_size: 2 backend: LMDB prefetch: {prefetch}', RANDOM)
    options = f'source: "{write_images(folder, images(5))}" root_folder: "{folder}/" batch_size: 2 shuffle: true'
    return data_net("ImageData", options, f"{RANDOM} data_param {{ prefetch: {prefetch} }}")


@pytest.mark.parametrize("type", ["Data", "ImageData"])
def test_the_seed_governs_and_the_prefetching_does_not(tmp_path: Path, type: str) -> None:
    runs = []
    for seed, prefetch in ((1, 0), (1, 1), (1, 7), (2, 4)):
        torch.manual_seed(seed)
        runs.append(pull(random_net(tmp_path, type, prefetch), 6))
    assert equal(runs[0], runs[1]) and equal(runs[0], runs[2])
    assert not equal(runs[0], runs[3])


@pytest.mark.parametrize("type", ["Data", "ImageData"])
@pytest.mark.parametrize("before", [0, 1, 4])
def test_a_state_goes_on_with_the_very_same_batches(tmp_path: Path, type: str, before: int) -> None:
    torch.manual_seed(3)
    net = random_net(tmp_path, type)
    pull(net, before)
    state = net.data_state()
    rest = pull(net, 7)
    torch.manual_seed(4)
    other = random_net(tmp_path, type)
    pull(other, 2)  # its thread is ahead already
    other.load_data_state(pickle.loads(pickle.dumps(state)))
    assert equal(pull(other, 7), rest)
    net.load_data_state(state)
    assert equal(pull(net, 7), rest)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_go_on_from_the_same_batch(tmp_path: Path, copied) -> None:
    net = random_net(tmp_path, "Data")
    pull(net, 2)
    other = copied(net)
    assert equal(pull(net, 4), pull(other, 4))


def test_a_state_that_is_none_is_refused(tmp_path: Path) -> None:
    net = random_net(tmp_path, "Data")
    odd = ({"seed": seed, "batch": 0, "key": None} for seed in ("a", float("inf")))
    for state in ({}, {"seed": 0, "batch": 0, "key": "xyz"}, *odd, None):
        with pytest.raises(LayerError, match=r"layer 'l' .*the snapshot's data order is not one of this layer"):
            net.load_data_state({"l": state})


# -- threads ---------------------------------------------------------------------------------------------------------


def test_the_thread_and_its_files_go_with_the_net(tmp_path: Path) -> None:
    source = write_database(tmp_path / "db", images(3), "leveldb")
    net = data_net("Data", f'source: "{source}" batch_size: 1')
    files = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    pull(net, 2)
    assert prefetching() == ["prefetch l"]
    del net
    gc.collect()
    assert prefetching() == []
    assert not files or len(os.listdir("/proc/self/fd")) <= files  # what earlier tests left may be closed meanwhile


def test_the_database_can_be_replaced_once_the_net_is_gone(tmp_path: Path) -> None:
    net = random_net(tmp_path, "Data")
    pull(net)
    del net
    gc.collect()
    needs_package("lmdb")
    import lmdb

    lmdb.open(str(tmp_path / "db")).close()  # refused while it is open in this process


@pytest.mark.parametrize("prefetch", [0, 4])
def test_an_error_comes_with_the_batch_it_belongs_to(tmp_path: Path, prefetch: int) -> None:
    pictures = images(3)
    datums = [datum_of_image(picture, 0).SerializeToString() for picture in pictures]
    records = [(b"%d" % index, data) for index, data in enumerate(datums)]
    write_records(tmp_path / "db", "lmdb", iter([*records, (b"3", b"\xff\xff"), (b"4", datums[0])]))
    net = data_net("Data", f'source: "{tmp_path / "db"}" batch_size: 1 backend: LMDB prefetch: {prefetch}')
    pull(net, 3)
    for _ in range(2):  # the batch is tried again, and fails again
        with pytest.raises(DataError, match=r"layer 'l' \(Data\): .*db: record '3': not a Datum .*Which program wrote"):
            net()
    assert prefetching() == []


@pytest.mark.needs_linux
def test_a_forked_child_reads_on_by_itself(tmp_path: Path) -> None:
    script = f"""
import os, sys
sys.path[:0] = [{str(TESTS / "data")!r}, {str(TESTS)!r}, {str(ROOT)!r}]
from pathlib import Path
from test_data_layer import *
net = random_net(Path({str(tmp_path)!r}), "Data")
pull(net, 2)
copied = copy.deepcopy(net)
child = os.fork()
found = pull(net, 3)
if child == 0:
    del net
    gc.collect()
    os._exit(0 if equal(found, pull(copied, 3)) else 9)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    # Newer Pythons warn of every fork with threads; this one is what is tested.
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("end", ["pass", "raise SystemExit", "import signal; signal.raise_signal(signal.SIGINT)"])
def test_a_process_ends_with_its_threads_running(tmp_path: Path, end: str) -> None:
    script = f"""
import sys
sys.path[:0] = [{str(TESTS / "data")!r}, {str(TESTS)!r}, {str(ROOT)!r}]
from pathlib import Path
from test_data_layer import *
source = write_database(Path({str(tmp_path)!r}) / "db", images(3), "leveldb")
net = data_net("Data", f'source: "{{source}}" batch_size: 1')
pull(net, 2)
{end}
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", script]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert "Exception ignored" not in run.stderr and "ResourceWarning" not in run.stderr, run.stderr
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("fcn-caffe")], "left in TMPDIR"


# -- refusals --------------------------------------------------------------------------------------------------------

BOTH = "transform_param { force_color: true force_gray: true }"


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        ('source: "{db}"', "", "batch_size must be given and positive"),
        ("batch_size: 1", "", "no database is named"),
        ('source: "none" batch_size: 1', "", r"none: no such database\. Looked from .*Correct the path in the net"),
        ('source: "/none" batch_size: 1', "", r"/none: no such database\. Correct the path in the net"),
        ('source: "{db}" batch_size: 1', "", "no LEVELDB database is there. It looks like LMDB: set backend"),
        ('source: "{leveldb}" batch_size: 1 backend: LMDB', "", "no LMDB database is there. It looks like LEVELDB"),
        ('source: "{folder}" batch_size: 1', "", "no LEVELDB database is there. It should hold a file CURRENT"),
        ('source: "{folder}" batch_size: 1 backend: LMDB', "", "It should hold data.mdb"),
        ('source: "{empty}" batch_size: 1 backend: LMDB', "", "the database is empty"),
        ('source: "{db}" batch_size: 1 backend: LMDB', "transform_param { crop_size: 9 }", "smaller than crop_size 9"),
        ('source: "{encoded}" batch_size: 1 backend: LMDB', BOTH, "force_color and force_gray: keep one"),
        ('source: "{broken}" batch_size: 1 backend: LMDB', "", "record '0': not an image Pillow can read"),
        ('source: "{wrong}" batch_size: 1 backend: LMDB', "", "the Datum says 3x4x5, but holds 2 numbers"),
    ],
)
def test_refusals(tmp_path: Path, options: str, more: str, message: str) -> None:
    picture = images(1)[0]
    write_database(tmp_path / "db", [picture])
    write_database(tmp_path / "leveldb", [picture], "leveldb")
    (tmp_path / "folder").mkdir()
    datums = {
        "encoded": datum_of_encoded(encoded(picture), picture.shape, 0),
        "broken": datum_of_encoded(b"no image", picture.shape, 0),
        "wrong": caffe_pb2.Datum(channels=3, height=4, width=5, data=b"12"),
    }
    for name, datum in datums.items():
        write_records(tmp_path / name, "lmdb", iter([(b"0", datum.SerializeToString())]))
    write_records(tmp_path / "empty", "lmdb", iter([]))
    places = {name: tmp_path / name for name in ("db", "leveldb", "folder", "empty", *datums)}
    with pytest.raises(DataError, match=message) as caught:
        data_net("Data", options.format(**places), more)
    assert str(caught.value).startswith("layer 'l' (Data): ")


def test_two_sizes_in_one_batch_are_refused(tmp_path: Path) -> None:
    source = write_database(tmp_path / "db", [images(1, 4, 5)[0], images(1, 6, 3)[0]])
    net = data_net("Data", f'source: "{source}" batch_size: 2 backend: LMDB')
    message = r"record '00000001': the image is 3x6x3, the first of its batch 3x4x5\. .*or set batch_size to 1"
    with pytest.raises(DataError, match=message):
        net()


def test_sources_are_looked_for_beside_the_net_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    options = 'source: "db" batch_size: 1 backend: LMDB'
    with pytest.raises(DataError, match=r"Looked from .*/elsewhere, and from .*/nets \(beside the net\)\."):
        data_net("Data", options, path=tmp_path / "nets" / "net.prototxt")
    write_database(tmp_path / "nets" / "db", images(1))
    assert pull(data_net("Data", options, path=tmp_path / "nets" / "net.prototxt"))
    write_database(tmp_path / "elsewhere" / "db", images(1, 2, 2))
    net = data_net("Data", options, path=tmp_path / "nets" / "net.prototxt")
    assert net.blob_shapes["data"] == (1, 3, 2, 2), "the working directory comes first, as in Caffe"


@pytest.mark.parametrize(("backend", "package"), [("lmdb", "lmdb"), ("leveldb", "plyvel")])
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, package: str
) -> None:
    source = write_database(tmp_path / "db", images(1), backend)
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"{backend.upper()} databases need the package {package}: pip install 'fcn-caffe\[{backend}\]'"
    with pytest.raises(DataError, match=message):
        data_net("Data", f'source: "{source}" batch_size: 1 backend: {backend.upper()}')


@pytest.mark.needs_data("data/caffe/lenet_v1")
def test_the_lenet_of_2014_scores_on_its_own_database() -> None:
    from fcn_caffe.weights.transfer import copy_weights, load_weights

    before = sorted(path.name for path in (LENET / "mnist-test-leveldb").iterdir())
    net = Net(LENET / "lenet_test.prototxt", TEST)
    copy_weights(net, load_weights(LENET / "lenet_iter_10000"))
    with torch.no_grad():
        accuracy = sum(float(net()["accuracy"]) for _ in range(100)) / 100
    assert accuracy == pytest.approx(0.9910, abs=1e-6)
    assert sorted(path.name for path in (LENET / "mnist-test-leveldb").iterdir()) == before


def test_the_phase_decides_where_the_crop_lies(tmp_path: Path) -> None:
    picture = images(1, 8, 9)[0]
    options = f'source: "{write_database(tmp_path / "db", [picture])}" batch_size: 1 backend: LMDB'
    crop = "transform_param { crop_size: 3 }"
    centre = blobs([picture])[:, :, 2:5, 3:6]
    assert all(np.array_equal(b["data"], centre) for b in pull(data_net("Data", options, crop, phase=TEST), 5))
    batches = pull(data_net("Data", options, crop, phase=TRAIN), 20)
    assert len({batch["data"].tobytes() for batch in batches}) > 5
