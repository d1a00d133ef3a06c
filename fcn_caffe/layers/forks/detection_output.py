"""SSD's last layer: boxes out of offsets, scores and prior boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import NOT_IMPLEMENTED, Layer, of_shape, register
from fcn_caffe.proto import caffe_pb2

Float = npt.NDArray[np.floating]
Int = npt.NDArray[np.int64]

CORNER, CENTER_SIZE, CORNER_SIZE = 1, 2, 3  # code_type: what the offsets are offsets of
_BLOCK = 128  # how many boxes are compared with each other at once
_SHARPENED_FROM = 0.5  # eta lowers the threshold while it is above this


@register("DetectionOutput", bottoms=3, forks="SSD")
class DetectionOutput(Layer):
    """Decode the boxes, drop those that overlap a better one of their class, and list the rest.

    Boxes are prior boxes moved by their offsets times the variances (1 with variance_encoded_in_target), by code_type:
    CORNER moves corners, CENTER_SIZE centre and size, CORNER_SIZE corners by parts of the size. They are not clipped.
    For each class but the background: the top_k best scores above confidence_threshold, from the best down; a box stays
    where it overlaps none that stayed by more than nms_threshold. With eta below 1 each box that stays lowers the
    threshold to eta times it, while it is above 0.5. Of a picture's boxes the keep_top_k best stay.

    Shapes: offsets (N, P 4) for P prior boxes, or (N, P L 4) for L classes where not share_location; scores
    (N, P num_classes); priors (1, 2, P 4) -> (1, 1, K, 7): picture, class, score, xmin, ymin, xmax, ymax, by picture,
    class and falling score. Where nothing is found (1, 1, N, 7): the picture's number and -1 six times. A net that is
    being built sees (1, 1, 1, 7).
    Gradient: none; the fork aborts where it is asked for.
    Raises: LayerError for options or shapes that do not fit.
    Source: SSD's DetectionOutputLayer (weiliu89/caffe).
    """

    undifferentiable = (0, 1, 2)
    takes_in_place = False
    untraced = "how many boxes it lists depends on the numbers"
    refused_gradients: ClassVar[Mapping[int, str]] = {0: NOT_IMPLEMENTED, 1: NOT_IMPLEMENTED}

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.detection_output_param
        overlap = options.nms_param
        self.classes: int = options.num_classes
        if self.classes < 1:
            raise self.error("has no num_classes: give how many classes are scored, with the background.")
        self.shared: bool = options.share_location
        self.background: int = options.background_label_id
        self.code: int = options.code_type
        self.encoded: bool = options.variance_encoded_in_target
        self.keep: int | None = options.keep_top_k if options.keep_top_k > -1 else None
        self.least: float = options.confidence_threshold if options.HasField("confidence_threshold") else -np.inf
        self.overlap: float = overlap.nms_threshold
        self.eta: float = overlap.eta
        self.most: int | None = overlap.top_k if overlap.HasField("top_k") and overlap.top_k > -1 else None
        if self.overlap < 0 or not 0 < self.eta <= 1:
            raise self.error(
                f"nms_threshold is {self.overlap:g} and eta {self.eta:g}: give one from 0 on, and one above 0, up to 1."
            )
        self._check(*bottoms)

    def _check(self, offsets: Tensor, scores: Tensor, priors: Tensor) -> int:
        """Return how many prior boxes there are. Raises: LayerError where the bottoms do not agree on it."""
        boxes = priors.shape[-1] // 4
        if priors.ndim < 3 or priors.shape[1] != 2 or priors.shape[-1] % 4:
            raise self.error(f"priors are {show(priors.shape)}: give 1 x 2 x 4 P, as PriorBox makes them.")
        places = boxes if self.shared else boxes * self.classes
        for what, bottom, wanted in (("offsets", offsets, places * 4), ("scores", scores, boxes * self.classes)):
            if bottom.numel() != bottom.shape[0] * wanted or bottom.shape[0] != scores.shape[0]:
                raise self.error(
                    f"{what} are {show(bottom.shape)}: {boxes} prior boxes and {self.classes} classes want "
                    f"{show((scores.shape[0], wanted))}."
                )
        return boxes

    def infer(self, *bottoms: Tensor) -> Tensor:
        self._check(*bottoms)
        return of_shape(1, 1, 1, 7)

    @torch.no_grad()
    def forward(self, offsets: Tensor, scores: Tensor, priors: Tensor) -> Tensor:
        boxes, batch = self._check(offsets, scores, priors), scores.shape[0]
        decoded = self._decode(offsets.reshape(batch, boxes, -1, 4), priors[0].reshape(2, boxes, 1, 4))
        corners = decoded.transpose(1, 2).cpu().numpy()  # picture, class (1 where shared), box, corner
        scored = scores.reshape(batch, boxes, self.classes).transpose(1, 2).cpu().numpy()
        rows = [row for image in range(batch) for row in self._list_boxes(image, corners[image], scored[image])]
        if not rows:
            rows = [np.array([[image, *[-1] * 6] for image in range(batch)], scored.dtype)]
        return torch.from_numpy(np.concatenate(rows)).to(scores)[None, None]

    def _decode(self, offsets: Tensor, priors: Tensor) -> Tensor:
        """Return the boxes' corners. Shapes: (N, P, L, 4), (2, P, 1, 4) -> (N, P, L, 4)."""
        prior, variance = priors[0], priors[1]
        moved = offsets if self.encoded else offsets * variance
        if self.code == CORNER:
            return prior + moved
        first, last = prior[..., :2], prior[..., 2:]
        size = last - first
        if self.code == CORNER_SIZE:
            return prior + moved * torch.cat((size, size), -1)
        centre = (first + last) / 2 + moved[..., :2] * size
        half = moved[..., 2:].exp() * size / 2
        return torch.cat((centre - half, centre + half), -1)

    def _list_boxes(self, image: int, corners: Float, scores: Float) -> list[Float]:
        """Return the rows of one picture, an array a class.

        Shapes: corners (L, P, 4), scores (classes, P).
        """
        kept: dict[int, Int] = {}
        for label in range(self.classes):
            if label != self.background:
                found = self._best(corners[0 if self.shared else label], scores[label])
                if len(found):
                    kept[label] = found
        if self.keep is not None and sum(map(len, kept.values())) > self.keep:
            kept = _best_of_all(kept, scores, self.keep)
        rows = []
        for label, found in kept.items():
            head = np.array([image, label], scores.dtype)
            boxes = corners[0 if self.shared else label][found]
            rows.append(np.column_stack((np.tile(head, (len(found), 1)), scores[label][found], boxes)))
        return rows

    def _best(self, corners: Float, scores: Float) -> Int:
        """Return the places of a class's boxes that stay, by falling score. Shapes: (P, 4), (P) -> (at most P)."""
        above = np.flatnonzero(scores > self.least)
        places = above[np.argsort(-scores[above], kind="stable")][: self.most]
        return places[self._without_overlap(corners[places])]

    def _without_overlap(self, corners: Float) -> Int:
        """Return the places of the boxes that overlap none before them that stays. Shapes: (boxes, 4)."""
        edges = np.ascontiguousarray(corners.T)
        threshold = self.overlap
        stay: list[int] = []
        lowest = threshold if self.eta == 1 else min(threshold, _SHARPENED_FROM * self.eta)
        for start in range(0, len(corners), _BLOCK):
            block = edges[:, start : start + _BLOCK]
            count = block.shape[1]
            # with the boxes of earlier blocks that stay, and within the block
            worst = _overlaps(edges.take(stay, 1), block).max(0).tolist() if stay else [0.0] * count
            within = _overlaps(block, block)
            rivals: list[list[tuple[int, float]]] = [[] for _ in range(count)]
            pairs = np.nonzero(within > lowest)
            for better, place, overlap in zip(*(part.tolist() for part in (*pairs, within[pairs])), strict=True):
                if better < place:
                    rivals[place].append((better, overlap))
            stays = [False] * count
            for place in range(count):
                if worst[place] <= threshold and all(share <= threshold for i, share in rivals[place] if stays[i]):
                    stays[place] = True
                    if self.eta < 1 and threshold > _SHARPENED_FROM:
                        threshold *= self.eta
            stay += [start + place for place, is_kept in enumerate(stays) if is_kept]
        return np.array(stay, np.int64)


def _overlaps(first: Float, second: Float) -> Float:
    """Return intersection over union of all pairs of boxes. Shapes: (4, A), (4, B) -> (A, B)."""
    areas = []
    for edges in (first, second):
        width, height = np.maximum(edges[2:] - edges[:2], 0)
        areas.append(width * height)
    common = np.minimum(first[2:, :, None], second[2:, None]) - np.maximum(first[:2, :, None], second[:2, None])
    np.maximum(common, 0, out=common)
    shared = common[0] * common[1]
    union = areas[0][:, None] + areas[1] - shared
    overlaps: Float = shared / np.maximum(union, np.finfo(shared.dtype).tiny)
    return overlaps


def _best_of_all(kept: Mapping[int, Int], scores: Float, most: int) -> dict[int, Int]:
    """Return the best places over all classes, again by class."""
    labels = np.concatenate([np.full(len(found), label) for label, found in kept.items()])
    places = np.concatenate(list(kept.values()))
    best = np.argsort(-scores[labels, places], kind="stable")[:most]
    chosen = {label: places[best[labels[best] == label]] for label in kept}
    return {label: found for label, found in chosen.items() if len(found)}
