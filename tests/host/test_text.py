"""How values are written in messages."""

from __future__ import annotations

import pytest

from fcn_caffe.host import text


@pytest.mark.parametrize("name", ["", "zzzz", "q" * 1_000_000])
def test_no_name_is_near_a_strange_one(name: str) -> None:
    assert text.did_you_mean(name, ["kernel_size", "pad"]) == ""


def test_the_nearest_name_is_first() -> None:
    assert text.nearest_names("conv2_1", ["pool1", "conv1_1", "conv2_2", "conv2_1_"], count=2) == [
        "conv2_1_",
        "conv2_2",
    ]
    assert text.did_you_mean("pda", {"pad": 1}, '"') == ' Did you mean "pad"?'
