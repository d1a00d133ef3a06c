"""The wheel is whole: what it holds, and that it works in an empty folder without a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from places import ROOT

import fcn_caffe

SHIPPED = ("nets/*.prototxt", "solvers/*.prototxt", "weights/MANIFEST.toml")
SOURCES = (
    "fcn_caffe",
    "nets",
    "solvers",
    "weights/MANIFEST.toml",
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
NOT_SOURCES = shutil.ignore_patterns("__pycache__", "shipped", "*.pyc")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of a copy of the sources: building leaves folders behind."""
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=NOT_SOURCES)
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
    call = [sys.executable, "-c", "import setuptools.build_meta as b; print(b.build_wheel('dist'))"]
    run = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return folder / "dist" / run.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> dict[str, str]:
    """The environment of a process that imports the package from the wheel's files."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return {**os.environ, "PYTHONPATH": str(site)}


def run(environment: dict[str, str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "fcn_caffe", *words]
    return subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_it_holds_every_file_of_the_package_and_the_nets(wheel):
    package = ROOT / "fcn_caffe"
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and "shipped" not in path.parts
    }
    for pattern in SHIPPED:
        wanted |= {f"fcn_caffe/models/shipped/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob(pattern)}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("fcn_caffe/")}
    assert held == wanted


def test_its_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = archive.read(f"{folder}/METADATA").decode()
        scripts = archive.read(f"{folder}/entry_points.txt").decode()
        licence = archive.read(f"{folder}/licenses/LICENSE").decode()
    assert f"Version: {fcn_caffe.__version__}\n" in metadata
    assert "License-Expression: BSD-2-Clause\n" in metadata and "Requires-Python: >=3.10\n" in metadata
    assert "Requires-Dist: torch>=2.5\n" in metadata and "# fcn_caffe" in metadata
    assert "fcn-caffe = fcn_caffe.commands:main" in scripts
    assert licence == (ROOT / "LICENSE").read_text()


def test_solve_without_arguments_works_in_an_empty_folder(installed, tmp_path):
    dry = run(installed, tmp_path, "solve", "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "shapes-fcn8s" in dry.stdout and "missing" not in dry.stdout and not list(tmp_path.iterdir())
    result = run(installed, tmp_path, "solve", "solvers/shapes-classifier.prototxt", "--max-iter", "1", "--steps", "1")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "weights/shapes-classifier.caffemodel").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"snapshot", "weights"}


@pytest.mark.parametrize("name", ["doctor", "explain_lr"])
def test_commands_find_the_nets_of_the_wheel(installed, tmp_path, name):
    result = run(installed, tmp_path, name, "solvers/voc-fcn8s.prototxt")
    assert "voc-fcn8s" in result.stdout and "no such" not in result.stderr


def test_the_audit_finds_the_nets_of_the_wheel(installed, tmp_path):
    result = run(installed, tmp_path, "audit", "--only", "T1.rf")
    assert "1 claims: " in result.stdout and " 0 not run" in result.stdout, result.stderr
