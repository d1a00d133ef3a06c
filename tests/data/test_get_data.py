"""tools/get_data.py on miniature archives laid out as the official ones."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace

import h5py
import numpy as np
import pytest
import scipy.io
from data_layers import start, step
from PIL import Image
from places import ROOT

from fcn_caffe.commands.get_data import main
from fcn_caffe.data.prepare import DATA_SETS, Job
from fcn_caffe.data.prepare.archives import Archive, unpack
from fcn_caffe.data.sets.nyud_layers import NYUDSegDataLayer
from fcn_caffe.data.sets.voc_layers import VOCSegDataLayer
from fcn_caffe.errors import DataError

SCENES = "spatial_envelope_256x256_static_8outdoorcategories"
SIZE = (4, 5)  # height, width


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def jpeg(size=SIZE):
    file = io.BytesIO()
    Image.new("RGB", size[::-1], (90, 60, 30)).save(file, "JPEG")
    return file.getvalue()


def mat(**variables):
    file = io.BytesIO()
    scipy.io.savemat(file, variables)
    return file.getvalue()


def lines(*names):
    return "".join(f"{name}\n" for name in names).encode()


def labels(*values):
    return np.resize(np.array(values, np.uint8), SIZE)


def tar(path, files, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def zipped(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.fixture
def job(tmp_path):
    """A run over miniatures, whose sums are not the published ones; what it reports is in `job.lines`."""
    lines = []
    job = Job(tmp_path / "data", tmp_path / "archives", checksums=False, report=lines.append)
    job.lines = lines
    return job


def prepare(name, job, **counts):
    DATA_SETS[name].prepare(replace(job, counts=counts))


def voc_files(year, prefix=""):
    root = f"{prefix}VOCdevkit/VOC{year}"
    files = {f"{root}/ImageSets/Segmentation/{split}.txt": lines(*names) for split, names in VOC_SPLITS.items()}
    for name in VOC_SPLITS["trainval"]:
        files[f"{root}/JPEGImages/{name}.jpg"] = jpeg()
        files[f"{root}/SegmentationClass/{name}.png"] = png(labels(0, 20, 255))
        files[f"{root}/Annotations/{name}.xml"] = b"<annotation/>"
    return files


VOC_SPLITS = {"train": ["a", "b"], "val": ["c", "d", "e"], "trainval": ["a", "b", "c", "d", "e"]}
SBD_TRAIN, SBD_VAL = ["b", "d", "f"], ["g"]


def sbd_files():
    root = "benchmark_RELEASE/dataset"
    files = {f"{root}/train.txt": lines(*SBD_TRAIN), f"{root}/val.txt": lines(*SBD_VAL), "benchmark_RELEASE/x.m": b"%"}
    for name in SBD_TRAIN + SBD_VAL:
        files[f"{root}/img/{name}.jpg"] = jpeg()
        files[f"{root}/cls/{name}.mat"] = mat(GTcls={"Segmentation": labels(0, 20), "Boundaries": np.zeros(2)})
        files[f"{root}/inst/{name}.mat"] = mat(GTinst=1)
    return files


def make_voc2011(job, **more):
    tar(job.archives / "VOCtrainval_25-May-2011.tar", {**voc_files(2011, "TrainVal/"), **more})


def make_sbd(job, **more):
    tar(job.archives / "benchmark.tgz", {**sbd_files(), **more}, "w:gz")


def test_voc_2011_and_sbd_make_seg11valid(job):
    make_voc2011(job)
    with pytest.raises(DataError, match=r"sbdd/dataset/train\.txt: no such file, and seg11valid is .* Prepare sbd"):
        prepare("voc2011", job)
    make_sbd(job)
    prepare("sbd", job, train=3, val=1)
    prepare("voc2011", job, train=2, val=3, trainval=5, seg11valid=2)
    folder = job.data / "pascal" / "VOC2011"
    assert (folder / "ImageSets" / "Segmentation" / "seg11valid.txt").read_text() == "c\ne\n"
    assert not (folder / "Annotations").exists() and not (job.data / "sbdd" / "dataset" / "inst").exists()
    assert any("PASCAL VOC 2011 segmentation is ready in" in line for line in job.lines)
    layer, blobs = start(VOCSegDataLayer, voc_dir=str(folder), split="seg11valid", seed=1337)
    assert step(layer, blobs)[1].shape == (1, 1, *SIZE)
    # A list that shares an image with SBD's train is not passed.
    (folder / "ImageSets" / "Segmentation" / "seg11valid.txt").write_text("c\nd\n")
    with pytest.raises(DataError, match=r"train\.txt and .*seg11valid\.txt share 1 images, such as d"):
        DATA_SETS["voc2011"].check(replace(job, counts={"seg11valid": 2}))


def test_sbd_after_voc_writes_the_list_and_png(job):
    make_voc2011(job)
    with pytest.raises(DataError):
        prepare("voc2011", job)
    make_sbd(job)
    prepare("sbd", replace(job, png=True), train=3, val=1)
    assert (job.data / "pascal/VOC2011/ImageSets/Segmentation/seg11valid.txt").read_text() == "c\ne\n"
    folder = job.data / "sbdd" / "dataset" / "cls_png"
    assert sorted(path.name for path in folder.iterdir()) == ["b.png", "d.png", "f.png", "g.png"]
    image = Image.open(folder / "b.png")
    assert image.mode == "P" and np.array_equal(np.asarray(image), labels(0, 20))
    assert image.getpalette()[60:63] == [0, 64, 128]  # VOC's colour of tvmonitor
    times = {path: path.stat().st_mtime_ns for path in job.data.rglob("*") if path.suffix in (".mat", ".jpg", ".png")}
    prepare("sbd", replace(job, png=True), train=3, val=1)
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_voc_2012(job):
    tar(job.archives / "VOCtrainval_11-May-2012.tar", voc_files(2012))
    prepare("voc2012", job, train=2, val=3, trainval=5)
    with pytest.raises(DataError, match=r"train\.txt: lists 2 images, the published split has 1464"):
        DATA_SETS["voc2012"].check(job)


def sift_files():
    files = {"SiftFlowDataset/TestSet1.txt": f"{SCENES}\\coast_b.jpg\n{SCENES}\\street_a.jpg\n".encode()}
    for name in ("coast_a", "coast_b", "coast_c", "street_a"):
        files[f"SiftFlowDataset/Images/{SCENES}/{name}.jpg"] = jpeg()
        files[f"SiftFlowDataset/SemanticLabels/{SCENES}/{name}.mat"] = mat(S=labels(0, 33))
        files[f"SiftFlowDataset/GeoLabels/{SCENES}/{name}.mat"] = mat(S=np.resize(np.array([-1, 3], np.int16), SIZE))
    return files


def test_sift_flow(job):
    zipped(job.archives / "SiftFlowDataset.zip", sift_files())
    prepare("siftflow", job, trainval=2, test=2)
    folder = job.data / "sift-flow"
    assert (folder / "test.txt").read_text() == "coast_b\nstreet_a\n"
    assert (folder / "trainval.txt").read_text() == "coast_a\ncoast_c\n"
    (folder / "trainval.txt").write_text("coast_c\ncoast_a\n")  # the reference's order, say
    prepare("siftflow", job, trainval=2, test=2)
    assert (folder / "trainval.txt").read_text() == "coast_c\ncoast_a\n"
    (folder / "trainval.txt").write_text("coast_c\ncoast_b\n")
    with pytest.raises(DataError, match=r"trainval\.txt and .*test\.txt share 1 images, such as coast_b"):
        prepare("siftflow", job, trainval=2, test=2)
    (folder / "trainval.txt").write_text("coast_c\ncoast_c\n")
    with pytest.raises(DataError, match=r"trainval\.txt: lists coast_c more than once"):
        prepare("siftflow", job, trainval=2, test=2)


def test_pascal_context(job):
    voc = "VOCdevkit/VOC2010"
    files = {f"{voc}/JPEGImages/{name}.jpg": jpeg() for name in ("p", "q", "r")}
    for split, names in {"train": ("p",), "val": ("q", "r"), "aeroplane_train": ("p",)}.items():
        files[f"{voc}/ImageSets/Main/{split}.txt"] = lines(*names)
    tar(job.archives / "VOCtrainval_03-May-2010.tar", files)
    trainval = {f"trainval/{name}.mat": mat(LabelMap=labels(1, 2, 3).astype(np.uint16)) for name in ("p", "q", "r")}
    tar(job.archives / "trainval.tar.gz", trainval, "w:gz")
    with pytest.raises(DataError, match=r"needs, in .*archives: labels\.txt from https.*; 59_labels\.txt from https"):
        prepare("pascal-context", job, train=1, val=2)
    (job.archives / "labels.txt").write_text("1: table\n2: sky\n3: cloth\n")
    (job.archives / "59_labels.txt").write_text("1: clothes\n2: diningtable\n")
    prepare("pascal-context", job, train=1, val=2)
    assert not (job.data / "pascal/VOC2010/ImageSets/Main/aeroplane_train.txt").exists()
    assert (job.data / "pascal-context" / "labels.txt").read_text().startswith("1: table")


def official_nyud(job, count=4):
    """NYU's files, with MATLAB's axes in reverse, as h5py sees them; returns colour and labels."""
    job.archives.mkdir(parents=True)
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (count, 3, *SIZE[::-1])).astype(np.uint8)
    depths = random.uniform(0.7, 9.9, (count, *SIZE[::-1])).astype(np.float32)
    stored = random.randint(0, 895, (count, *SIZE[::-1])).astype(np.uint16)
    with h5py.File(job.archives / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"], file["depths"], file["labels"] = images, depths, stored
    classes = random.randint(1, 41, 894)
    scipy.io.savemat(job.archives / "classMapping40.mat", {"mapClass": classes[None].astype(np.uint8)})
    numbers = {"trainNdxs": np.array([[1], [4]], np.uint16), "testNdxs": np.array([[2], [3]], np.uint16)}
    scipy.io.savemat(job.archives / "splits.mat", numbers)
    return images, depths, np.concatenate([[0], classes])[stored]


def test_nyud_from_nyus_own_files(job):
    images, depths, classes = official_nyud(job)
    prepare("nyud", job, trainval=2, test=2, train=1, val=1)
    folder = job.data / "nyud"
    assert (folder / "trainval.txt").read_text() == "5001\n5004\n" and (
        folder / "test.txt"
    ).read_text() == "5002\n5003\n"
    tops = ["color", "depth", "label"]
    layer, blobs = start(NYUDSegDataLayer, 3, nyud_dir=str(folder), split="test", tops=tops)
    color, depth, label = step(layer, blobs)
    assert np.array_equal(color[0] + layer.mean_bgr[:, None, None], images[1].transpose(0, 2, 1)[::-1])
    assert np.allclose(np.exp(depth[0, 0] + 7.844), depths[1].T * 1000, atol=0.6)
    assert np.array_equal(label[0, 0], (classes[1].T - 1).astype(np.uint8))
    printed = "\n".join(job.lines)
    assert "not there: train, val" in printed and "not there: data/hha" in printed
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("img_*")}
    prepare("nyud", job, trainval=2, test=2)
    assert times == {path: path.stat().st_mtime_ns for path in times} and len(times) == 12


@pytest.mark.parametrize(
    ("file", "variables", "message"),
    [
        ("classMapping40.mat", {"mapClass": np.full((1, 894), 41)}, r"classMapping40\.mat: mapClass runs to 41"),
        ("classMapping40.mat", {"mapClass": np.ones((1, 3))}, r"img_5001 has label \d+, the mapping ends at 3"),
        ("classMapping40.mat", {"other": 1}, r"classMapping40\.mat: has no variable mapClass"),
        (
            *("splits.mat", {"trainNdxs": np.array([[9]]), "testNdxs": np.array([[2]])}),
            r"splits\.mat: numbers images to 9, nyu_depth_v2_labeled\.mat holds 4",
        ),
    ],
)
def test_nyud_files_that_do_not_fit(job, file, variables, message):
    official_nyud(job)
    scipy.io.savemat(job.archives / file, variables)
    with pytest.raises(DataError, match=message):
        prepare("nyud", job, trainval=2, test=2)


def test_nyud_files_that_are_damaged(job):
    official_nyud(job)
    path = job.archives / "nyu_depth_v2_labeled.mat"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"nyu_depth_v2_labeled\.mat: cannot be read as NYU's HDF5 file"):
        prepare("nyud", job)
    (job.archives / "splits.mat").write_bytes(b"no")
    with pytest.raises(DataError, match=r"splits\.mat: cannot be read as a MATLAB file"):
        prepare("nyud", job)


def test_nyud_from_the_references_layout(job):
    splits = {"train": ["5001"], "val": ["5002"], "trainval": ["5001", "5002"], "test": ["5003"]}
    files = {f"nyud/{split}.txt": lines(*names) for split, names in splits.items()}
    for name in ("5001", "5002", "5003"):
        for folder in ("images", "hha"):
            files[f"nyud/data/{folder}/img_{name}.png"] = png(np.zeros((*SIZE, 3), np.uint8))
        files[f"nyud/data/depth/img_{name}.png"] = png(np.full(SIZE, 3000, np.uint16))
        files[f"nyud/segmentation/img_{name}.mat"] = mat(segmentation=labels(0, 40))
    tar(job.archives / "nyud.tar.gz", files, "w:gz")
    prepare("nyud", job, train=1, val=1, trainval=2, test=1)
    assert not any("not there" in line for line in job.lines)
    bad = job.data / "nyud" / "segmentation" / "img_5003.mat"
    bad.write_bytes(mat(segmentation=labels(41)))
    with pytest.raises(DataError, match=r"img_5003\.mat: labels 41 \(20 pixels\) are out of range"):
        DATA_SETS["nyud"].check(replace(job, counts={"test": 1}))
    bad.write_bytes(mat(segmentation=np.ones((3, 3), np.uint8)))
    with pytest.raises(DataError, match=r"5003: image and labels are 3x3 and 5x4 \(NYUDSegDataLayer\)"):
        DATA_SETS["nyud"].check(replace(job, counts={"test": 1}))


@pytest.mark.parametrize("name", sorted(DATA_SETS))
def test_without_archives_it_says_what_to_download(job, name, capsys):
    assert main([name, "--data", str(job.data)]) == 1
    out, err = capsys.readouterr()
    for archive in DATA_SETS[name].archives:
        assert f"{archive.name} from {archive.address}" in out and f"{archive.name} from {archive.address}" in err
    assert str(job.data / "archives") in err and "does not download" in err
    assert "labels" in out and "classes" in out
    assert not job.data.exists()


@pytest.mark.parametrize("name", sorted(DATA_SETS))
def test_check_of_nothing(job, name, capsys):
    assert main([name, "--data", str(job.data), "--check"]) == 1
    assert "no such folder. Run without --check" in capsys.readouterr().err
    assert not job.data.exists()


def test_the_command_asserts_the_published_counts_and_sums(job, capsys):
    tar(job.archives / "VOCtrainval_11-May-2012.tar", voc_files(2012))
    options = ["voc2012", "--data", str(job.data), "--archives", str(job.archives)]
    assert main(options) == 1
    err = capsys.readouterr().err
    assert "its MD5 sum is" in err and "6cd6e144f989b92b3379bac3b3de84fd" in err and not job.data.exists()
    assert main([*options, "--no-checksum"]) == 1
    assert "lists 2 images, the published split has 1464" in capsys.readouterr().err
    assert main(["voc2012", "--png"]) == 1
    assert "--png is for sbd" in capsys.readouterr().err


def test_the_published_counts():
    assert dict(DATA_SETS["sbd"].counts) == {"train": 8498, "val": 2857}
    assert DATA_SETS["voc2011"].counts["seg11valid"] == 736
    assert dict(DATA_SETS["nyud"].counts) == {"train": 381, "val": 414, "trainval": 795, "test": 654}
    assert dict(DATA_SETS["siftflow"].counts) == {"trainval": 2488, "test": 200}
    assert DATA_SETS["pascal-context"].counts["val"] == 5105


def test_a_matching_sum_is_taken(job, monkeypatch):
    path = job.archives / "VOCtrainval_11-May-2012.tar"
    tar(path, voc_files(2012))
    data_set = DATA_SETS["voc2012"]
    known = Archive(path.name, "somewhere", hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setattr(data_set, "archives", (known,))
    prepare("voc2012", replace(job, checksums=True), train=2, val=3, trainval=5)
    assert any("checking its MD5 sum" in line for line in job.lines)


def test_without_its_archive_a_folder_that_is_there_is_checked(job):
    make_sbd(job)
    prepare("sbd", job, train=3, val=1)
    (job.archives / "benchmark.tgz").unlink()
    prepare("sbd", job, train=3, val=1)
    assert any("benchmark.tgz is not in" in line for line in job.lines)
    (job.data / "sbdd" / "dataset" / "cls" / "g.mat").unlink()
    with pytest.raises(DataError, match=r"cls/g\.mat: no such label file"):
        prepare("sbd", job, train=3, val=1)
    make_sbd(job)
    prepare("sbd", job, train=3, val=1)  # only what is missing is unpacked
    assert "benchmark.tgz: 1 files unpacked" in job.lines


def test_labels_out_of_range_and_bad_images_are_named(job):
    name = "benchmark_RELEASE/dataset/cls/f.mat"
    make_sbd(job, **{name: mat(GTcls={"Segmentation": labels(21)})})
    with pytest.raises(DataError, match=r"cls/f\.mat: labels 21 \(20 pixels\) are out of range: expected 0 to 20"):
        prepare("sbd", job, train=3, val=1)
    make_sbd(job, **{"benchmark_RELEASE/dataset/img/g.jpg": jpeg()[:200]})
    with pytest.raises(DataError, match=r"img/g\.jpg: "):
        prepare("sbd", job, train=3, val=1)


@pytest.mark.parametrize("name", ["../out.txt", "/abs/out.txt", "a/../../out.txt", "..\\out.txt", "C:/out.txt"])
@pytest.mark.parametrize("pack", [tar, zipped])
def test_an_archive_that_reaches_outside_is_refused(tmp_path, name, pack):
    if pack is zipped and "\\" in name:
        name = name.replace("\\", "/")
    path = tmp_path / "bad.archive"
    pack(path, {name: b"x"})
    with pytest.raises(DataError, match=r"bad\.archive: holds '.*', which lies outside the folder"):
        unpack(path, tmp_path / "target" / "deep", "/".join)
    assert not list(tmp_path.rglob("out.txt"))


def test_links_and_devices_are_refused(tmp_path):
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
        with tarfile.open(tmp_path / "links.tar", "w") as archive:
            info = tarfile.TarInfo("inside")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        with pytest.raises(DataError, match=r"'inside' is a (link|device), expected plain files"):
            unpack(tmp_path / "links.tar", tmp_path / "target", "/".join)
    for mode, what in ((0o120777, "link"), (0o020666, "device"), (0o060666, "device"), (0o010666, "device")):
        with zipfile.ZipFile(tmp_path / "links.zip", "w") as archive:
            info = zipfile.ZipInfo("inside")
            info.external_attr = mode << 16
            archive.writestr(info, "/etc/passwd")
        with pytest.raises(DataError, match=f"'inside' is a {what}"):
            unpack(tmp_path / "links.zip", tmp_path / "target", "/".join)
    assert not list(tmp_path.rglob("inside*"))
    # A link that lies in the target and leads out of it.
    (tmp_path / "target").mkdir(exist_ok=True)
    (tmp_path / "target" / "way").symlink_to(tmp_path / "elsewhere")
    tar(tmp_path / "plain.tar", {"way/file": b"x"})
    with pytest.raises(DataError, match=r"way/file: a link leads out of"):
        unpack(tmp_path / "plain.tar", tmp_path / "target", "/".join)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "zip"])
def test_cut_archives_are_named(tmp_path, mode):
    path = tmp_path / "cut.archive"
    files = {f"file{index}": np.random.RandomState(index).bytes(5000) for index in range(20)}
    zipped(path, files) if mode == "zip" else tar(path, files, mode)
    whole = path.read_bytes()
    for part in (0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(DataError, match=r"cut\.archive: cannot be unpacked .*download it again"):
            unpack(path, tmp_path / "target", "/".join)
    path.write_bytes(whole)
    unpack(path, tmp_path / "target", "/".join)
    assert {file.name: file.read_bytes() for file in (tmp_path / "target").iterdir()} == files


@pytest.mark.parametrize("mode", ["w", "w:gz", "zip"])
def test_mutated_archives_are_unpacked_or_refused(tmp_path, mode):
    path = tmp_path / "odd.archive"
    files = {f"folder/file{index}": b"content" * index for index in range(6)}
    zipped(path, files) if mode == "zip" else tar(path, files, mode)
    whole, random, refused = path.read_bytes(), np.random.RandomState(0), 0
    for trial in range(150):
        mutated = bytearray(whole)
        for place in random.randint(0, len(whole), 3):
            mutated[place] = random.randint(0, 256)
        path.write_bytes(mutated)
        try:
            unpack(path, tmp_path / f"target{trial}", "/".join)
        except DataError as error:
            assert str(error).startswith(str(path)), error
            refused += 1
    assert refused > 10


@pytest.mark.slow
def test_stopped_by_ctrl_c_it_leaves_whole_files_and_goes_on(tmp_path):
    data = tmp_path / "data"
    content = np.random.RandomState(0).bytes(200_000)
    files = {f"VOCdevkit/VOC2012/JPEGImages/{index}.jpg": content for index in range(2000)}
    tar(data / "archives" / "VOCtrainval_11-May-2012.tar", files)
    tool = [sys.executable, str(ROOT / "tools" / "get_data.py"), "voc2012", "--data", str(data)]
    run = subprocess.Popen([*tool, "--no-checksum"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    images, end = data / "pascal" / "VOC2012" / "JPEGImages", time.monotonic() + 60
    while not any(images.glob("*.jpg")) and run.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGINT)
    assert run.communicate(timeout=60)[1] == "interrupted\n" and run.returncode == 130
    left = sorted(images.iterdir())
    whole = [path for path in left if not path.name.startswith(".")]
    assert whole == left and 0 < len(left) < 2000 and all(path.stat().st_size == len(content) for path in left)
    place = DATA_SETS["voc2012"].place
    assert unpack(data / "archives" / "VOCtrainval_11-May-2012.tar", data, place) == 2000 - len(left)
