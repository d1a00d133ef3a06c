"""Small nets in which the face once parted from BVLC Caffe: Caffe's numbers, or its refusal."""

import pytest
from caffe_cases import caffes_numbers, difference, read_table, run_face

CASES = read_table()
# Caffe aborts on these, and to run them is better for a person: docs/differences.md has the rule of each.
LENIENT: set[str] = {
    "empty_batch",
    "euclidean_5d",
    "filter_keeps_none",
    "prelu_inplace_5d",
    "stochastic_pool_test",
}
# Gradients that cancel to this part of their terms are float noise, in Caffe as here.
NOISE = {"batchnorm_test_batch_stats_backward": 5e-3}


def parts_from_caffe(case, phase, folder):
    """What the face has otherwise, in words; empty where it has Caffe's numbers."""
    try:
        ours = run_face(case, phase, folder)
    except Exception as error:  # whatever it is, Caffe has none
        return f"raises {type(error).__name__}: {error}"
    theirs = caffes_numbers(case)
    wrong = {
        name: difference(array, ours[name], NOISE.get(case, 2e-5)) if name in ours else "missing"
        for name, array in theirs.items()
    }
    return "; ".join(f"{name}: {what}" for name, what in wrong.items() if what)


@pytest.mark.parametrize(("case", "phase"), [(case, phase) for case, phase, runs in CASES if runs])
def test_caffes_numbers(case, phase, tmp_path):
    told = parts_from_caffe(case, phase, tmp_path)
    assert told == ""


@pytest.mark.parametrize(("case", "phase"), [(case, phase) for case, phase, runs in CASES if not runs])
def test_caffe_refuses(case, phase, tmp_path):
    try:
        run_face(case, phase, tmp_path)
        refuses = False
    except Exception as error:
        assert str(error)
        refuses = True
    assert refuses is (case not in LENIENT)
