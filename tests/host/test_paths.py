"""What relative paths start from, and where the files lie that come with the package."""

import os
import re
from pathlib import Path

import pytest

from fcn_caffe.errors import DataError
from fcn_caffe.host import paths
from fcn_caffe.host.paths import DATA_ROOT_VARIABLE, Paths, Surroundings, checkout, is_endless, refuse_endless, shipped

ROOT = Path(__file__).resolve().parents[2]


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return path


def test_the_root_is_the_working_directory_unless_one_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Paths().from_root("nets/a.prototxt") == Path("nets/a.prototxt")
    assert Paths(Path("below")).from_root("a") == tmp_path / "below/a"
    assert Paths(Path("below")).from_root("/a") == Path("/a")


def test_a_path_joined_twice_is_joined_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given in (Paths(), Paths(Path("below"))):
        assert given.from_root(given.from_root("a")) == given.from_root("a")


def test_the_data_folder_is_the_environments_unless_one_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    before = Paths()
    monkeypatch.delenv(DATA_ROOT_VARIABLE)
    assert before.data == tmp_path, "it is read once"
    assert Paths().data is None
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    assert Paths(data=None).data is None
    assert Paths(data=tmp_path / "other").data == tmp_path / "other"


@pytest.mark.parametrize("named", ["data/voc/2011", "../data/voc/2011", "voc/2011"])
def test_data_is_found_in_the_data_folder_first(named, tmp_path):
    root, data = tmp_path / "root", tmp_path / "sets"
    write(root / "data/voc/2011"), write(root / "voc/2011")
    inside = write(data / "voc/2011")
    assert Paths(root, data).find_data(named) == inside
    inside.unlink()
    assert Paths(root, data).find_data(named) == root / named


def test_what_is_nowhere_comes_back_from_the_root(tmp_path):
    assert Paths(tmp_path, tmp_path / "sets").find_data("none") == tmp_path / "none"
    assert Paths(tmp_path).find_data("~/none") == Path.home() / "none"


def test_beside_the_net_is_tried_last(tmp_path):
    root, beside = write(tmp_path / "root/list.txt"), write(tmp_path / "nets/list.txt")
    around = Surroundings(Paths(root.parent), beside.parent)
    assert around.locate("list.txt") == root
    root.unlink()
    assert around.locate("list.txt") == around.find_source("list.txt", "list") == beside


def test_what_is_not_there_is_told_with_every_place(tmp_path):
    around = Surroundings(Paths(tmp_path, tmp_path / "sets"), tmp_path / "nets")
    places = f"{tmp_path}, and from {tmp_path}/sets (the data folder: --data or $FCN_CAFFE_DATA), and from "
    message = f"none: no such list. Looked from {places}{tmp_path}/nets (beside the net). Correct the path in the net."
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        around.find_source("none", "list")
    with pytest.raises(DataError, match=r"^/none: no such list\. Correct the path"):
        around.find_source("/none", "list")
    with pytest.raises(DataError, match=r"^no list is named\."):
        around.find_source("", "list")
    with pytest.raises(DataError, match="is no list but a device"):
        around.find_source(os.devnull, "list")


def test_a_named_pipe_and_a_device_are_endless_and_a_shells_pipe_is_not(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    for path in (pipe, tmp_path / "link", os.devnull):
        with pytest.raises(OSError, match="a device or a pipe may never end"):
            refuse_endless(path)
    source, sink = os.pipe()
    for path in (f"/dev/fd/{source}", write(tmp_path / "file"), tmp_path, tmp_path / "nowhere"):
        assert not is_endless(path)
    os.close(source)
    os.close(sink)
    with pytest.raises(OSError, match="holds no zero byte"):
        refuse_endless("a\0b")


# -- what comes with the package -------------------------------------------------------------------------------------


def test_a_checkouts_own_files_are_shipped():
    assert checkout() == ROOT == shipped()
    assert shipped("nets") == ROOT / "nets"
    assert shipped("solvers/voc-fcn8s.prototxt") == ROOT / "solvers/voc-fcn8s.prototxt"
    assert shipped("weights/MANIFEST.toml") == ROOT / "weights/MANIFEST.toml"


def test_what_is_not_shipped(tmp_path):
    assert shipped("solvers/none.prototxt") is None
    assert shipped(tmp_path) is None, "an absolute path is the user's own"


def test_an_installed_package_has_them_below_models(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "site-packages/fcn_caffe")
    write(tmp_path / "site-packages/nets/a.prototxt")  # another package's
    solver = write(tmp_path / "site-packages/fcn_caffe/models/shipped/solvers/a.prototxt")
    assert checkout() is None
    assert shipped("solvers/a.prototxt") == solver and shipped() == solver.parents[1]
    assert shipped("nets") is None
