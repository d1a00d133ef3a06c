"""Code beside a net runs only where the person says so."""

from __future__ import annotations

import sys
from contextvars import copy_context
from pathlib import Path

import pytest
from helpers import layer
from PIL import Image

from fcn_caffe import Net, commands
from fcn_caffe.errors import LayerError
from fcn_caffe.host.trust import allow_python

MODULE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
class Number:
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(1)
    def forward(self, bottom, top): top[0].data[...] = 7
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stranger's net: a Python layer whose module lies beside it, and leaves a file when it runs."""
    monkeypatch.delenv("FCN_CAFFE_ALLOW_PYTHON", raising=False)
    monkeypatch.delitem(sys.modules, "strange_layers", raising=False)
    folder = tmp_path / "download"
    folder.mkdir()
    (folder / "strange_layers.py").write_text(MODULE)
    options = 'python_param { module: "strange_layers" layer: "Number" }'
    (folder / "net.prototxt").write_text(layer("seven", "Python", more=options))
    return folder / "net.prototxt"


@pytest.mark.parametrize("value", [None, "", "0", "no", "false"])
def test_a_strangers_module_is_refused_and_not_run(
    net: Path, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("FCN_CAFFE_ALLOW_PYTHON", value)
    with pytest.raises(LayerError, match=r"^layer 'seven' .*strange_layers\.py, code that came with .*--allow-python"):
        Net(net)
    assert not net.with_name("ran").exists()


def test_the_environment_allows_it(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCN_CAFFE_ALLOW_PYTHON", "1")
    assert float(Net(net)()["seven"]) == 7


def test_a_folder_of_pythons_own_path_is_the_persons(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(net.parent.parent)
    monkeypatch.setattr(sys, "path", ["download", *sys.path])
    assert float(Net(net)()["seven"]) == 7


def test_the_persons_module_of_that_name_runs_in_its_place(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = net.parent.parent / "own"
    own.mkdir()
    (own / "strange_layers.py").write_text(MODULE.replace("= 7", "= 8"))
    monkeypatch.syspath_prepend(own)
    assert float(Net(net)()["seven"]) == 8
    assert not net.with_name("ran").exists()


def test_a_module_beside_the_net_does_not_stand_in_for_ours_unasked(net: Path) -> None:
    """`voc_layers` beside the net is not what the package calls so: it does not run until the person chose."""
    net.with_name("strange_layers.py").rename(net.with_name("voc_layers.py"))
    net.write_text(net.read_text().replace("strange_layers", "voc_layers"))
    # Where the process has the package's own by that name, as scripts with reference layers do, that one is found.
    with pytest.raises(LayerError, match=r"came with the net|'voc_layers' has no layer class"):
        Net(net)
    assert not net.with_name("ran").exists()


def test_the_option_allows_it_for_one_command(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["time_net", str(net), "--iterations", "1"]
    assert commands.main([*command, "--allow-python"]) == 0
    del sys.modules["strange_layers"]
    net.with_name("ran").unlink()
    assert commands.main(command) == 1
    assert "If you trust it, give --allow-python" in capsys.readouterr().err
    assert not net.with_name("ran").exists()


def test_loading_processes_run_what_their_net_may(net: Path) -> None:
    """A second Python makes the layer again: what the command allowed counts there, too."""
    net.with_name("strange_layers.py").write_text(
        "from fcn_caffe.data.sets.folder_layers import FolderSegData\n"
        "class Number(FolderSegData, complete=True):\n"
        "    def load_image(self, idx): return super().load_image(idx) * 0 + 7\n"
    )
    for folder in ("images", "labels"):
        net.with_name(folder).mkdir()
        Image.new("RGB" if folder == "images" else "L", (2, 2)).save(net.parent / folder / "a.png")
    net.with_name("val.txt").write_text("a\n")
    options = {"images": "images", "labels": "labels", "split": "val.txt", "base": ".", "workers": 1}
    net.write_text(
        'layer { name: "d" type: "Python" top: "data" top: "label" python_param { module: "strange_layers" '
        f'layer: "Number" param_str: "{options}" }} }}'
    )

    def run() -> float:
        allow_python()
        reader = Net(net)
        for _ in range(2):  # the first image is this process's own
            data = reader()["data"]
        return float(data.max())

    assert copy_context().run(run) == 7
