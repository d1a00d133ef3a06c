"""get_data weights --verify: each file of the manifest, compared with what is known of the published ones."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fcn_caffe.commands.get_data import main
from fcn_caffe.models.nets import make_net
from fcn_caffe.models.published import PUBLISHED
from fcn_caffe.models.verification import verify_weights
from fcn_caffe.weights.record import Preprocessing, checksum_of, record_path, write_preprocessing
from fcn_caffe.weights.transfer import save_weights

ALEXNET = "voc-fcn-alexnet.caffemodel"  # no checksum of it is known
FCN8S = "voc-fcn8s.caffemodel"
CAFFENET = "caffenetfc.caffemodel"


def write(path: Path, net: str = "", without: str = "-") -> bytes:
    """Write a weight file with the layers of a net, each of one axis; returns its bytes."""
    layers = {}
    for layer in make_net(net or path.stem).layer:
        if layer.type in ("Convolution", "Deconvolution") and not layer.name.startswith(without):
            layers[layer.name] = [np.zeros(layer.convolution_param.num_output, np.float32)]
    save_weights(path, layers)
    return path.read_bytes()


def found(folder: Path, name: str) -> tuple[str, str]:
    (one,) = [verified for verified in verify_weights(folder) if verified.file.name == name]
    return one.state, one.text


def test_nothing_there_says_where_to_get_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "--verify", "--folder", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(PUBLISHED)
    for line, entry in zip(lines, PUBLISHED.values(), strict=True):
        assert line.startswith(f"{tmp_path / entry.file}: missing: ") and entry.source in line


@pytest.mark.parametrize("kind", ["sha256", "sha1"])
@pytest.mark.parametrize("name", [CAFFENET, "bvlc_reference_caffenet.caffemodel"])
def test_the_published_file_by_either_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    content = write(tmp_path / name, "voc-fcn-alexnet", "score")
    sums = {"sha256": "", "sha1": "", kind: hashlib.new(kind, content).hexdigest()}
    monkeypatch.setitem(PUBLISHED, CAFFENET, replace(PUBLISHED[CAFFENET], size=len(content), **sums))
    shown = {"sha256": "SHA-256", "sha1": "SHA-1"}[kind]
    assert found(tmp_path, name) == ("right", f"is the published file, by its {shown}")
    spoilt = bytearray(content)
    spoilt[len(spoilt) // 2] ^= 1  # amid the values of fc6 or fc7
    (tmp_path / name).write_bytes(spoilt)
    state, text = found(tmp_path, name)
    assert state == "wrong" and f"its {shown} is {checksum_of(tmp_path / name, kind)}, the published" in text
    assert "Remove it, and download http" in text


@pytest.mark.parametrize(
    ("change", "state", "text"),
    [
        (lambda path: None, "whole", "has the layers of voc-fcn-alexnet; no checksum of the published file is known"),
        (lambda path: write(path, without="conv4"), "wrong", "voc-fcn-alexnet has other layers conv4. Remove it, and"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5000]), "wrong", "Remove it, and download http"),
        (lambda path: path.write_text("<html>404</html>"), "wrong", "Remove it, and download http"),
        (lambda path: (path.unlink(), path.mkdir()), "wrong", "is no file. Remove it"),
        (lambda path: write_preprocessing(path, Preprocessing("BGR")), "other", "trained here, as its record says"),
        (lambda path: write_preprocessing(path, Preprocessing(source="a.pth")), "other", "made from a.pth, as its"),
        (lambda path: record_path(path).write_text("{"), "wrong", "is no record of preprocessing"),
    ],
)
def test_a_file_whose_checksum_is_not_known(
    tmp_path: Path, change: Callable[[Path], object], state: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / ALEXNET)
    change(tmp_path / ALEXNET)
    seen, words = found(tmp_path, ALEXNET)
    assert seen == state and text in words
    assert main(["weights", "--verify", "--folder", str(tmp_path)]) == int(state == "wrong")
    assert re.search(rf"{ALEXNET}: {state}: ", capsys.readouterr().out)


def test_another_size_is_a_broken_download_or_a_net_of_ones_own(tmp_path: Path) -> None:
    """vgg16fc is what the reference's surgery makes too: a net looks for that name."""
    for name in ("vgg16fc.caffemodel", "VGG_ILSVRC_16_layers.caffemodel"):
        size = len(write(tmp_path / name, "voc-fcn32s", "score"))
    state, text = found(tmp_path, "vgg16fc.caffemodel")
    assert (state, text) == (
        "other",
        f"has the layers of voc-fcn32s; it has {size} bytes, the published file 553432081",
    )
    state, text = found(tmp_path, "VGG_ILSVRC_16_layers.caffemodel")
    assert state == "wrong" and text.startswith(f"it has {size} bytes, the published file 553432081. Remove it, and")


def test_a_net_of_ones_own_beside_a_known_checksum(tmp_path: Path) -> None:
    write(tmp_path / FCN8S)
    assert found(tmp_path, FCN8S)[0] == "wrong"
    write_preprocessing(tmp_path / FCN8S, Preprocessing("BGR"))
    assert found(tmp_path, FCN8S) == ("other", "trained here, as its record says; has the layers of voc-fcn8s")


@pytest.mark.parametrize("name", [entry.file for entry in PUBLISHED.values()])
def test_every_file_has_a_net_that_tells_its_layers(tmp_path: Path, name: str) -> None:
    entry = PUBLISHED[name]
    write(tmp_path / name, entry.net, "score" if entry.is_classifier else "-")
    assert found(tmp_path, name)[0] != "missing"
    assert "other layers" not in found(tmp_path, name)[1]


def test_what_is_there_without_reading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / FCN8S).write_text("not read")
    assert main(["weights", "--folder", str(tmp_path)]) == 0
    assert f"{tmp_path / FCN8S}: there: voc-fcn8s as its authors trained it\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["voc2011", "--verify"], "--verify and --folder are for `weights`"),
        (["weights", "--folder", "nowhere"], "nowhere: no such folder."),
    ],
)
def test_refusals(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    assert message in capsys.readouterr().err
