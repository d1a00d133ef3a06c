"""The four metrics, against counts small enough to do by hand and against the formulas written out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fcn_caffe.errors import DataError
from fcn_caffe.evaluation.metrics import ConfusionMatrix


def test_by_hand():
    matrix = ConfusionMatrix(2)
    matrix.add(np.array([[0, 0, 0, 1]]), np.array([[0, 0, 1, 1]]))
    scores = matrix.scores()
    assert scores.pixel_accuracy == 3 / 4
    assert scores.mean_accuracy == (2 / 3 + 1) / 2
    assert scores.class_iu.tolist() == [2 / 3, 1 / 2]
    assert scores.mean_iu == (2 / 3 + 1 / 2) / 2
    assert scores.frequency_weighted_iu == pytest.approx(3 / 4 * 2 / 3 + 1 / 4 * 1 / 2)
    assert (scores.absent, scores.pixels) == ((), 4)


def test_void_is_not_counted():
    matrix = ConfusionMatrix(3)
    matrix.add(np.array([255.0, -1, 3, 2], np.float32), np.array([0, 1, 2, 2]))
    assert matrix.counts.sum() == 1 and matrix.counts[2, 2] == 1


def test_absent_class_predicted_counts_as_zero_unless_left_out():
    matrix = ConfusionMatrix(3)
    matrix.add(np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1]))
    scores, left_out = matrix.scores(), matrix.scores(leave_out_absent=True)
    assert scores.absent == (2,) and math.isnan(scores.class_accuracy[2])
    assert scores.class_iu.tolist() == [0.5, 1.0, 0.0] and scores.mean_iu == 0.5
    assert math.isnan(left_out.class_iu[2]) and left_out.mean_iu == 0.75
    assert scores.mean_accuracy == left_out.mean_accuracy == 0.75


def test_class_seen_nowhere_is_left_out_of_the_mean():
    matrix = ConfusionMatrix(3)
    matrix.add(np.array([0, 1]), np.array([0, 1]))
    scores = matrix.scores()
    assert math.isnan(scores.class_iu[2]) and scores.mean_iu == 1.0 and scores.absent == (2,)


def test_nothing_counted_is_nan_not_an_error():
    scores = ConfusionMatrix(2).scores()
    assert all(math.isnan(value) for value in scores.summary().values())


@given(
    arrays(np.int64, (4, 5), elements=st.integers(0, 4)),
    arrays(np.int64, (4, 5), elements=st.integers(0, 3)),
)
def test_formulas_written_out(label, prediction):
    matrix, halves = ConfusionMatrix(4), ConfusionMatrix(4)
    matrix.add(label, prediction)
    for rows in (slice(0, 1), slice(1, 4)):
        part = ConfusionMatrix(4)
        part.add(label[rows], prediction[rows])
        halves.merge(part)
    assert np.array_equal(matrix.counts, halves.counts)
    valid = label < 4
    if not valid.any():
        return
    scores = matrix.scores()
    assert scores.pixel_accuracy == pytest.approx((label == prediction)[valid].mean())
    ious = []
    for c in range(4):
        truth, answer = (label == c) & valid, (prediction == c) & valid
        if (truth | answer).any():
            ious.append((truth & answer).sum() / (truth | answer).sum())
            assert scores.class_iu[c] == pytest.approx(ious[-1])
        else:
            assert math.isnan(scores.class_iu[c])
    assert scores.mean_iu == pytest.approx(np.mean(ious))
    weighted = sum((label == c)[valid].mean() * scores.class_iu[c] for c in range(4) if ((label == c) & valid).any())
    assert scores.frequency_weighted_iu == pytest.approx(weighted)


@pytest.mark.parametrize(
    ("label", "prediction", "message"),
    [
        (np.zeros((2, 2)), np.zeros((2, 3)), "label is 2x2 and prediction 2x3: they should be of one shape."),
        (np.zeros(2), np.array([0, 2]), "predictions run from 0 to 2, classes from 0 to 1."),
    ],
)
def test_errors(label, prediction, message):
    with pytest.raises(DataError) as error:
        ConfusionMatrix(2).add(label, prediction)
    assert str(error.value) == message


def test_merge_of_different_sizes():
    with pytest.raises(DataError, match="cannot merge 3 classes into 2"):
        ConfusionMatrix(2).merge(ConfusionMatrix(3))
