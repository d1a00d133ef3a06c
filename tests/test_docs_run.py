"""The code in the documents and in docstrings runs, and the site is built."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import CURRENT, Block, blocks
from places import ROOT

from fcn_caffe import commands

RUN = [d for d in CURRENT if any(b.is_run and b.language in ("python", "pycon", "sh") for b in blocks(d))]
DOCTESTED = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "fcn_caffe").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory with the checkout's nets and solvers; modules that lie in it are forgotten again."""
    for folder in ("nets", "solvers"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FCN_CAFFE_ALLOW_PYTHON", raising=False)  # a reader has not set it
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


class Page:
    """Runs the blocks of a document in their order, in one namespace and one working directory."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.namespace: dict[str, object] = {"__name__": "__page__"}
        self.printed = ""

    def run(self, block: Block) -> None:
        if block.note == "output":
            for line in filter(None, block.text.splitlines()):
                wanted = ".*".join(re.escape(part.strip()) for part in line.split("…"))
                assert re.search(wanted, self.printed), f"not printed: {line}\nprinted:\n{self.printed}"
        elif block.title:
            (self.folder / block.title).write_text(block.text)
        elif not block.is_run:
            if block.language == "python":
                compile(block.text, "page", "exec")
        elif block.language == "python":
            exec(compile(block.text, "page", "exec"), self.namespace)
        elif block.language == "pycon":
            with self.monkeypatch.context() as patch:
                patch.setattr(sys, "path", ["", *sys.path])  # an interactive Python looks in the working directory
                run_doctest(block.text, self.namespace)
        elif block.language == "sh":
            self.shell(block)

    def shell(self, block: Block) -> None:
        """Run a block's commands: the tools' functions in this process, `python` in one of its own."""
        self.printed, status = "", 0
        for words in block.commands():
            assert status == 0, f"{words} comes after a command that failed:\n{self.printed}"
            out = io.StringIO()
            if words[0] == "cd":
                self.monkeypatch.chdir(words[1])
            elif words[0] == "python":
                environment = {**os.environ, "PYTHONPATH": str(ROOT)}
                command = [sys.executable, *words[1:]]
                process = subprocess.run(command, env=environment, capture_output=True, text=True)
                status = process.returncode
                out.write(process.stdout + process.stderr)
            else:
                assert words[0] == "fcn-caffe", f"{words[0]}: the test does not run it; say why it is not run"
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                    status = commands.main(words[1:])
            self.printed += out.getvalue()
        assert status == block.exit_status, f"{block.text}\nexit status {status}\n{self.printed}"


def run_doctest(text: str, namespace: dict[str, object]) -> None:
    test = doctest.DocTestParser().get_doctest(text, namespace, "page", None, 0)
    told = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test, out=told.write, clear_globs=False)
    assert not runner.summarize(verbose=False).failed, told.getvalue()
    namespace.update(test.globs)


@pytest.mark.parametrize("document", RUN)
def test_the_code_in_a_document_runs(document: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(workplace, monkeypatch)
    for block in blocks(document):
        page.run(block)


@pytest.mark.parametrize("name", DOCTESTED)
def test_examples_in_docstrings_run(name: str, workplace: Path) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted and not result.failed, f"{name}: {result}"


@pytest.mark.slow
@pytest.mark.needs_package("material")
@pytest.mark.needs_package("mkdocstrings")
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    build = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert build.returncode == 0, build.stdout + build.stderr
    loads = re.compile(r"""<(?:script|img|link rel="?(?:stylesheet|preload))[^>]*(?:src|href)="?(https?://[^" >]*)""")
    for page in (tmp_path / "site").rglob("*.html"):
        assert not loads.findall(page.read_text()), f"{page.name} loads what is elsewhere"
