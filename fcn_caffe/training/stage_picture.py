"""A picture of a run's stages on a few of the images that they are scored on: image, truth, each stage's answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fcn_caffe.evaluation.infer import net_mean, trained_net
from fcn_caffe.evaluation.score import score_net
from fcn_caffe.host.pictures import colour, panel, save_image
from fcn_caffe.net.net import Net
from fcn_caffe.training.plan import Stage

IMAGES = 4
SMALL = 160  # pixels a side, up to which images are shown at twice their size


def draw_stages(stages: Sequence[Stage], images: int = IMAGES) -> Path | None:
    """Write picture.png into the last stage's folder.

    A stage without weights is left out. So is one of several heads, whose labels do not share colours.

    Args:
        stages: the stages, one column each.
        images: the number of images, one row each.
    Returns:
        The picture's path, or None where there is nothing to draw.
    """
    rows: list[list[npt.NDArray[np.uint8]]] = []
    titles = ["image", "truth"]
    for stage in stages:
        if not stage.result.is_file():
            continue
        net = trained_net(stage.net, stage.result, paths=stage.paths, fork=stage.param.fork)
        if not {"data", "score", "label"} <= net.blob_shapes.keys():
            continue
        mean = np.asarray(net_mean(stage.net) or (0, 0, 0), np.float32)
        titles.append(stage.name)
        for place, (image, label, answer) in enumerate(_examples(net, images)):
            if place == len(rows):
                rgb = (image + mean[:, None, None])[::-1].transpose(1, 2, 0).round().clip(0, 255).astype(np.uint8)
                rows.append([rgb, colour(label)])
            rows[place].append(colour(answer))
    if not rows or not stages[-1].folder.is_dir():  # its weights may be of another place, without its run
        return None
    path = stages[-1].folder / "picture.png"
    side = max(rows[0][0].shape[:2])
    save_image(path, panel(rows, titles, scale=2 if side <= SMALL else 1))
    return path


def _examples(net: Net, images: int) -> list[tuple[npt.NDArray[Any], ...]]:
    """Return image, label and answer of the first images. Shapes: (3, H, W), (H, W), (H, W)."""
    examples: list[tuple[npt.NDArray[Any], ...]] = []

    def look(iteration: int, blobs: Mapping[str, Tensor]) -> None:
        answers = blobs["score"].argmax(1)
        for image, label, answer in zip(blobs["data"], blobs["label"], answers, strict=True):
            examples.append((image[:3].numpy(), label[0].numpy(), answer.numpy()))

    score_net(net, -(-images // max(net.blob_shapes["data"][0], 1)), on_image=look)
    return examples[:images]
