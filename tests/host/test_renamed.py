"""The names of 0.1 import the modules of today, with a warning."""

import importlib
import subprocess
import sys

import pytest
from places import ROOT

from fcn_caffe.host.renamed import RENAMED, new_name


@pytest.mark.parametrize("old", sorted(RENAMED))
def test_an_old_name_is_the_new_module(old, monkeypatch):
    old = f"fcn_caffe.{old}"
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=rf"{old} is now {new_name(old)}; the old name goes with 0.3."):
        module = importlib.import_module(old)
    assert module is importlib.import_module(new_name(old))
    assert module.__spec__.name == module.__name__ == new_name(old)


def test_a_renamed_package_has_no_second_copy_of_its_modules():
    with pytest.warns(DeprecationWarning):
        from fcn_caffe.solver.update_rules import SGD
    from fcn_caffe.training.solver.update_rules import SGD as same

    assert SGD is same


def test_the_warning_shows_the_line_that_imports(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import fcn_caffe\nfrom fcn_caffe.surgery import interp\nprint(interp.__module__)\n")
    run = subprocess.run(
        [sys.executable, "-W", "default", script],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.stdout == "fcn_caffe.weights.surgery\n"
    assert f"{script}:2: DeprecationWarning: fcn_caffe.surgery is now fcn_caffe.weights.surgery" in run.stderr


def test_other_names_are_left_alone():
    assert new_name("fcn_caffe.net") is new_name("json") is new_name("fcn_caffe.nowhere") is None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("fcn_caffe.nowhere")
