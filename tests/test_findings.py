"""The findings keep their form. They need the network and are run by hand before they are committed."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from places import ROOT

FINDINGS = ROOT / "findings"
SCRIPTS = sorted(path.name for path in FINDINGS.glob("*.sh"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_finding_has_its_form(name: str) -> None:
    path = FINDINGS / name
    text = path.read_text(encoding="utf-8")
    head = re.match(r"#!/bin/sh\n((?:# .*\n)+)", text)
    assert head, "the first lines say what the finding is"
    for part in ("# A good guess: ", "# What happens: ", "# Source: "):
        assert part in head[1], f"{name} does not say {part!r}"
    assert f"({name})" in (FINDINGS / "README.md").read_text(), f"findings/README.md does not list {name}"
    assert "mktemp -d" in text and re.search(r"pip.* install .*==", text), "pinned packages in a temporary folder"
    assert not re.search(r"import fcn_caffe|from fcn_caffe|index-url|https?://", text)
    assert os.access(path, os.X_OK)
    subprocess.run(["sh", "-n", path], check=True)


def test_there_are_findings_and_nothing_else() -> None:
    assert SCRIPTS
    assert {path.name for path in FINDINGS.iterdir()} == {*SCRIPTS, "README.md"}
