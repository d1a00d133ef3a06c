"""Of the cases that ran on Caffe a share through ONNX: in ONNX Runtime each has the numbers of this package."""

from __future__ import annotations

from itertools import islice

import pytest
from engine_sweep import Cases, Subject, fork_layers, golden_cases, golden_layers, make_subject, random_cases, run
from needs import needs_data

pytestmark = [pytest.mark.needs_package(name) for name in ("onnxscript", "onnxruntime")]

START, EVERY, EVERY_RANDOM = 5, 24, 200  # others than those that `engine_sweep.py` takes by itself


def agree(nets: Cases) -> int:
    """Run cases in one file, and return how many agreed."""
    subjects = [made for each in nets if isinstance(made := make_subject(*each), Subject)]
    found = run(subjects)
    assert not {name: problem for name, problem in found.items() if problem}
    return len(found)


def test_golden_cases() -> None:
    chosen = [
        each for nets in (fork_layers(), golden_cases(), golden_layers()) for each in islice(nets, START, None, EVERY)
    ]
    assert agree(iter(chosen)) > 5


def test_random_cases() -> None:
    assert agree(random_cases(needs_data("oracle/random"), EVERY_RANDOM, START)) > 2
