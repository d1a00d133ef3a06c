"""Layers of Caffe's forks against golden cases: OpenCV's outputs, or NumPy from the fork's formulas."""

import pytest
from fork_cases import ForkCase, case_names, check_case


@pytest.mark.parametrize("name", case_names())
def test_golden_case(name: str) -> None:
    check_case(ForkCase(name))
