"""docs/export_layers.md says what its script finds: all its types, and a share of its rows run again."""

from __future__ import annotations

import pytest
from export_table import ALL, ENGINES, HEAD, PAGE, TYPES, cell, read_rows, row


def test_the_page_has_every_type():
    assert PAGE.read_text(encoding="utf-8").startswith(HEAD)
    assert list(read_rows()) == TYPES


def test_yes_is_said_where_a_case_was_right() -> None:
    assert cell([], 1) == "yes"
    assert cell([("axis: 2", "an error")], 2) == "yes; not with `axis: 2`: an error"
    assert cell([("axis: 1", "an error"), ("axis: 2", "an error")], 2) == "no: an error"
    for type, line in read_rows().items():
        for said in line.removesuffix(" |").split(" | ")[-len(ENGINES) :]:
            assert said.startswith("no") or said.count("not with") < len(ALL[type]), (type, said)


@pytest.mark.needs_package("onnxscript")
@pytest.mark.needs_package("onnxruntime")
@pytest.mark.needs_package("openvino")
@pytest.mark.needs_package("cv2")
@pytest.mark.parametrize("type", ["ROIPooling", "BorderCopy"])
def test_rows_run_again(type: str) -> None:
    assert row(type) == read_rows()[type]
