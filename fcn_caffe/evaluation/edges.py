"""Scores of edge maps: precision, recall and F at each threshold, with a tolerance in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from fcn_caffe.errors import DataError
from fcn_caffe.evaluation.score import count_iterations, eval_mode
from fcn_caffe.host.text import show
from fcn_caffe.net.net import Net

__all__ = ["EdgeScores", "count_matches", "score_edges"]

THRESHOLDS = tuple(step / 100 for step in range(1, 100))


@dataclass
class EdgeScores:
    """The counts of all images, a row for each: answers that are right, answers, edges that are found, edges.

    Shapes: `counts` entries (thresholds, 4).
    """

    counts: list[Tensor] = field(default_factory=list)

    @staticmethod
    def _rates(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return precision, recall and F of counts (..., 4); 0 where there is nothing to divide by."""
        right, answers, found, edges = counts.double().unbind(-1)
        precision, recall = right / answers.clamp(min=1), found / edges.clamp(min=1)
        both = precision + recall
        return precision, recall, torch.where(both > 0, 2 * precision * recall / both.clamp(min=1e-12), 0)

    def best(self) -> tuple[float, float, float, float]:
        """Return threshold, precision, recall and F at the one threshold that is best for the whole set (ODS)."""
        precision, recall, score = self._rates(torch.stack(self.counts).sum(0))
        index = int(score.argmax())
        return THRESHOLDS[index], float(precision[index]), float(recall[index]), float(score[index])

    def best_by_image(self) -> float:
        """Return F where each image has the threshold that is best for it (OIS)."""
        chosen = [counts[int(self._rates(counts)[2].argmax())] for counts in self.counts]
        return float(self._rates(torch.stack(chosen).sum(0))[2])


def count_matches(probability: Tensor, edges: Tensor, tolerance: int) -> Tensor:
    """Count, at each threshold: answers that are right, answers, edges that are found, edges.

    An answer is right where an edge lies within `tolerance` pixels along each axis; an edge is found likewise. Answers
    are not thinned to a line, and several may share one edge: it is not the one-to-one matching of BSDS.

    Shapes: probability (H, W), edges (H, W) of 0 and 1 -> (thresholds, 4).
    """
    size = 2 * tolerance + 1

    def widen(plane: Tensor) -> Tensor:
        return F.max_pool2d(plane[None, None], size, 1, tolerance)[0, 0]

    steps = torch.tensor(THRESHOLDS, dtype=probability.dtype, device=probability.device)
    truth = edges == 1
    near = widen(truth.to(probability.dtype)) > 0

    def above(values: Tensor) -> Tensor:
        ordered = values.sort().values
        return len(ordered) - torch.searchsorted(ordered, steps)

    answers = above(probability.flatten())
    right, found = above(probability[near]), above(widen(probability)[truth])
    return torch.stack((right, answers, found, truth.sum().expand_as(answers)), 1).cpu()


def score_edges(
    net: Net,
    score: str,
    label: str = "label",
    *,
    tolerance: int = 2,
    images: int | None = None,
    on_image: Callable[[int, Tensor], None] | None = None,
) -> EdgeScores:
    """Run a TEST net over its data and score its edges.

    Args:
        net: the net.
        score: its blob of scores, before the sigmoid, of one channel.
        label: its blob of labels: 1 on an edge, else 0.
        tolerance: how many pixels beside an edge count as on it, along each axis.
        images: how many passes to run; by default once over the data layer's list.
        on_image: is given the number of each image and its probabilities (H, W).
    Raises:
        DataError: a blob that the net lacks, or scores of several channels.
    """
    for blob in (score, label):
        if blob not in net.blob_shapes:
            raise DataError(f"the net has no blob '{blob}'. Its blobs: {', '.join(net.blob_shapes)}.")
    if len(net.blob_shapes[score]) != 4 or net.blob_shapes[score][1] != 1:
        raise DataError(f"blob '{score}' is {show(net.blob_shapes[score])}: edges have one channel, N x 1 x H x W.")
    count = count_iterations(net, images)
    scores = EdgeScores()
    with eval_mode(net), torch.no_grad():
        for _ in range(count):
            blobs = net(keep={score, label})
            for plane, truth in zip(blobs[score].sigmoid(), blobs[label], strict=True):
                scores.counts.append(count_matches(plane[0], truth[0], tolerance))
                if on_image is not None:
                    on_image(len(scores.counts) - 1, plane[0])
    return scores
