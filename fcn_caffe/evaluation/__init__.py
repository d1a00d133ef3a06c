"""Evaluation: scores, predictions, pictures and features of a trained net.

`score_net` runs a net over its data layer's images; the metrics come from one confusion matrix over all pixels.

>>> import numpy as np
>>> from fcn_caffe.evaluation import ConfusionMatrix
>>> matrix = ConfusionMatrix(2)
>>> matrix.add(label=np.array([0, 0, 1, 255]), prediction=np.array([0, 1, 1, 0]))  # 255 is void
>>> scores = matrix.scores()
>>> scores.pixels, round(scores.pixel_accuracy, 3), round(scores.mean_iu, 3)
(3, 0.667, 0.5)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fcn_caffe.host.lazy import import_name

if TYPE_CHECKING:
    from fcn_caffe.evaluation.answer_run import AnswerRun
    from fcn_caffe.evaluation.answers import AnswerFiles, find_files
    from fcn_caffe.evaluation.average import Average
    from fcn_caffe.evaluation.confusion_picture import draw_confusion
    from fcn_caffe.evaluation.crf import DenseCrf, Refiner
    from fcn_caffe.evaluation.details import Details
    from fcn_caffe.evaluation.edges import EdgeScores, score_edges
    from fcn_caffe.evaluation.features import extract_features
    from fcn_caffe.evaluation.infer import Answer, Segmenter, net_mean, trained_net
    from fcn_caffe.evaluation.metrics import METRICS, NAMES, ConfusionMatrix, Scores
    from fcn_caffe.evaluation.net_inputs import check_preprocessing, net_preprocessing, trained_preprocessing
    from fcn_caffe.evaluation.predictions import PredictionWriter, voc_writer
    from fcn_caffe.evaluation.score import class_indices, class_names, format_scores, heads, score_heads, score_net

__all__ = [
    "METRICS",
    "NAMES",
    "Answer",
    "AnswerFiles",
    "AnswerRun",
    "Average",
    "ConfusionMatrix",
    "DenseCrf",
    "Details",
    "EdgeScores",
    "PredictionWriter",
    "Refiner",
    "Scores",
    "Segmenter",
    "check_preprocessing",
    "class_indices",
    "class_names",
    "draw_confusion",
    "extract_features",
    "find_files",
    "format_scores",
    "heads",
    "net_mean",
    "net_preprocessing",
    "score_edges",
    "score_heads",
    "score_net",
    "trained_net",
    "trained_preprocessing",
    "voc_writer",
]

# The log tools take the metrics' names from here, and need no PyTorch.
_MODULES = {
    "METRICS": "metrics",
    "NAMES": "metrics",
    "Answer": "infer",
    "AnswerFiles": "answers",
    "AnswerRun": "answer_run",
    "Average": "average",
    "ConfusionMatrix": "metrics",
    "DenseCrf": "crf",
    "Details": "details",
    "EdgeScores": "edges",
    "PredictionWriter": "predictions",
    "Refiner": "crf",
    "Scores": "metrics",
    "Segmenter": "infer",
    "check_preprocessing": "net_inputs",
    "class_indices": "score",
    "class_names": "score",
    "draw_confusion": "confusion_picture",
    "extract_features": "features",
    "find_files": "answers",
    "format_scores": "score",
    "heads": "score",
    "net_mean": "infer",
    "net_preprocessing": "net_inputs",
    "score_edges": "edges",
    "score_heads": "score",
    "score_net": "score",
    "trained_net": "infer",
    "trained_preprocessing": "net_inputs",
    "voc_writer": "predictions",
}


def __getattr__(name: str) -> object:
    return import_name(__name__, name, _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
