"""docs/export_layers.md says what its script finds: all its types, and a share of its rows run again."""

from __future__ import annotations

import pytest
from export_table import HEAD, PAGE, TYPES, read_rows, row


def test_the_page_has_every_type():
    assert PAGE.read_text(encoding="utf-8").startswith(HEAD)
    assert list(read_rows()) == TYPES


@pytest.mark.needs_package("onnxscript")
@pytest.mark.needs_package("onnxruntime")
@pytest.mark.needs_package("openvino")
@pytest.mark.needs_package("cv2")
@pytest.mark.parametrize("type", ["ROIPooling", "BorderCopy"])
def test_rows_run_again(type: str) -> None:
    assert row(type) == read_rows()[type]
