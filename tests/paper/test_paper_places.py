"""Places that claims name: found to the line, or said not to be there."""

import os

import pytest
from places import ROOT

from fcn_caffe.paper.audit import claims
from fcn_caffe.paper.audit import run as audit
from fcn_caffe.paper.audit.locate import LINES, LONGEST, locate

NET = """name: "net"  # layer { name: "not me" }
layer {
  name: "data"
  type: "Input"
  include { phase: TRAIN }
}
layer {
  name: "data" type: "Input" top: "label {"
  input_param { shape { dim: 1 } }
}
layer {
  type: "Convolution"
  bottom: "data"
  param { lr_mult: 1 }
  param { lr_mult: 2 }
  convolution_param {
    num_output: 3
    weight_filler { type: "gaussian"
      std: 0.5 }
  }
  name: "a.b"
}
layer { name: 'a' type: "ReLU" bottom: "a.b" }
"""


@pytest.fixture
def root(tmp_path):
    for folder, name, text in (
        ("nets", "n.prototxt", NET),
        ("solvers", "s.prototxt", 'net: "nets/n.prototxt"\n# base_lr: 3\nbase_lr: 1e-10\nmomentum: 0.99\n'),
        ("fcn_caffe", "m.py", "RATE = 1\n\n\nclass A:\n    x: int = 3\n\n    def run(self):\n        return 1\n"),
        ("fcn_caffe", "broken.py", "def f(:\n"),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("place", "line", "what"),
    [
        ("nets/n.prototxt:data", 2, "layer data"),
        ("nets/n.prototxt:a.b", 11, "layer a.b"),
        ("nets/n.prototxt:a", 23, "layer a"),
        ("nets/n.prototxt:a.b.lr_mult", 14, "lr_mult of layer a.b"),
        ("nets/n.prototxt:a.b.std", 19, "std of layer a.b"),
        ("nets/n.prototxt:a.b.type", 12, "type of layer a.b"),
        ("nets/n.prototxt:a.b.weight_filler.type", 18, "weight_filler.type of layer a.b"),
        ("nets/n.prototxt:data.dim", 9, "dim of layer data"),
        ("nets/n.prototxt:name", 1, "field name"),
        ("nets/n.prototxt", 1, "the file"),
        ("solvers/s.prototxt:base_lr", 3, "field base_lr"),
        ("fcn_caffe/m.py:A.run", 7, "function A.run"),
        ("fcn_caffe/m.py:A", 4, "class A"),
        ("fcn_caffe/m.py:A.x", 5, "value A.x"),
        ("fcn_caffe/m.py:RATE", 1, "value RATE"),
    ],
)
def test_found_to_the_line(root, place, line, what):
    found = locate(place, root)
    assert (found.path, found.line, found.what) == (place.split(":")[0], line, what)
    text = (root / found.path).read_text().splitlines()
    assert line in dict(found.excerpt) and all(text[number - 1] == shown for number, shown in found.excerpt)


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("nets/none.prototxt:data", "the file is not there"),
        ("nets/n.prototxt:fc6", "has no layer fc6"),
        ("nets/n.prototxt:not me", "has no layer not me"),
        ("nets/n.prototxt:a.pad", "layer a has no field pad"),
        ("solvers/s.prototxt:gamma", "has no field gamma"),
        ("fcn_caffe/m.py:A.stop", "has no A.stop"),
        ("fcn_caffe/m.py:run", "has no run"),
        ("fcn_caffe/nowhere.py:run", "the file is not there"),
    ],
)
def test_not_there_is_said(root, place, what):
    found = locate(place, root)
    assert (found.line, found.what, found.excerpt) == (None, what, ())


def test_a_file_that_is_not_python_is_said(root):
    assert locate("fcn_caffe/broken.py:f", root).what.startswith("the file is not Python: ")


def test_excerpts(root):
    assert [number for number, _ in locate("nets/n.prototxt:a.b", root).excerpt] == list(range(11, 23))
    assert [number for number, _ in locate("nets/n.prototxt:a.b.lr_mult", root).excerpt] == list(range(11, 18))
    many = "".join(f"  top: '{index}'\n" for index in range(99))
    (root / "nets/n.prototxt").write_text(f"layer {{\n  name: 'long'\n{many}}}\nlayer {{ name: 'open'\n")
    assert len(locate("nets/n.prototxt:long", root).excerpt) == LONGEST
    assert locate("nets/n.prototxt:open", root).line is None  # never closed
    assert len(locate("fcn_caffe/paper/audit/locate.py:locate", root).excerpt) == LINES


def test_the_package_is_found_where_it_lies(root):
    assert locate("fcn_caffe/paper/audit/locate.py:locate", root) == locate(
        "fcn_caffe/paper/audit/locate.py:locate", ROOT
    )


def test_layers_of_our_own_nets():
    found = locate("nets/voc-fcn16s.prototxt:score_pool4c.offset", ROOT)
    assert found.line is not None and "offset: 5" in dict(found.excerpt)[found.line]
    assert locate("solvers/voc-fcn32s.prototxt:base_lr", ROOT).excerpt


def test_every_place_of_every_check():
    assert audit  # its import registers the checks
    for name, check in claims.CHECKS.items():
        assert check.realised, name
        for place in check.realised:
            found = locate(place, ROOT)
            assert found.line is not None, f"{name}: {place}: {found.what}"


def test_a_pipe_is_not_waited_for(tmp_path):
    (tmp_path / "nets").mkdir()
    os.mkfifo(tmp_path / "nets" / "a.prototxt")
    assert locate("nets/a.prototxt:conv1", tmp_path).what == "the file is not there"
