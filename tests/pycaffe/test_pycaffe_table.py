"""docs/pycaffe.md says what the package does, and nothing of pycaffe is missing."""

from __future__ import annotations

import sys

import pycaffe_table as table
import pytest

import fcn_caffe.pycaffe as caffe


@pytest.fixture(scope="module", autouse=True)
def installed():
    """`import caffe` means the face for these tests, and nothing afterwards."""
    before = {name for name in sys.modules if name.split(".")[0] == "caffe"}
    caffe.install()
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "caffe" and name not in before]:
        del sys.modules[name]


def test_no_name_is_missing_and_each_takes_its_arguments() -> None:
    with table.samples() as objects:
        states = {name.name: table.state(name, objects) for name in table.read_names()}
    assert not {name: state for name, state in states.items() if state.startswith("MISSING")}


def test_the_page_is_what_is_found() -> None:
    assert table.PAGE.read_text(encoding="utf-8") == table.page(), "run: python tests/pycaffe_table.py"


def test_the_facts_are_in_order() -> None:
    names = table.read_names()
    assert len({name.name for name in names}) == len(names)
    for name in names:
        assert name.kind in ("module", "class", "function", "method", "attribute", "value"), name
        assert not name.note or name.note.startswith(("differs: ", "refused: ")), name


def test_what_all_says_is_in_the_table() -> None:
    ours = {"Blob", "Solver", "install"}  # Caffe has the first two in caffe._caffe
    known = {name.name for name in table.read_names()}
    assert {f"caffe.{name}" for name in caffe.__all__ if name not in ours} <= known


def test_a_gap_is_found() -> None:
    with table.samples() as objects:
        assert table.state(table.Name("caffe.Net.fly", "method", "()", ""), objects) == "MISSING"
        wrong = table.Name("caffe.io.resize_image", "function", "(im, size)", "")
        assert table.state(wrong, objects) == "MISSING: takes (im, new_dims, interp_order=1)"
        short = table.Name("caffe.Net.share_with", "method", "C++ ()", "")
        assert table.state(short, objects).startswith("MISSING: missing a required argument")
        value = table.Name("caffe.TRAIN", "function", "()", "")
        assert table.state(value, objects) == "MISSING: cannot be called"
