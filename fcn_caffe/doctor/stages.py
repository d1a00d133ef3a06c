"""What would stop the training of stages hours from now, found before it starts."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from fcn_caffe.errors import FcnCaffeError, SolverError
from fcn_caffe.evaluation.score import data_layer, heads
from fcn_caffe.host.free_memory import show_bytes
from fcn_caffe.host.text import show
from fcn_caffe.net.net import Net
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.training.plan import Stage
from fcn_caffe.training.solver import LearningRate
from fcn_caffe.weights.blobs import Fit, fit


def check(stages: Sequence[Stage]) -> None:
    """Build every net without memory and open every data set, so that training does not stop hours from now.

    Raises:
        FcnCaffeError: a net or a data set cannot be opened.
        SolverError: lr_policy is unknown, test_iter does not fit the split, there is no head to score or no room for
            snapshots, or the stages do not fit each other.
    """
    errors = problems(stages)
    if errors:
        raise errors[0]


def problems(stages: Sequence[Stage]) -> list[FcnCaffeError]:
    """Return all that `check` would raise, each once: a data set that several nets lack is named for the first."""
    results: dict[Path, Net] = {}
    errors: dict[str, FcnCaffeError] = {}
    for stage in stages:
        try:
            _check_stage(stage, results)
        except FcnCaffeError as error:
            errors.setdefault(str(error).removeprefix(f"{stage.net}: "), error)
    return list(errors.values())


def _check_stage(stage: Stage, results: dict[Path, Net]) -> None:
    LearningRate(stage.param, str(stage.solver))
    try:
        # The memory a net takes is not needed to see that it builds.
        train, test = (_build(stage, phase) for phase in (TRAIN, TEST))
    except FcnCaffeError as error:
        raise error.named(str(stage.net)) from error.__cause__
    if not heads(test):
        raise SolverError(f"{stage.net}: the TEST net has no SoftmaxWithLoss, so what to score is not known.")
    source, wanted = data_layer(test), list(stage.param.test_iter)
    if len(wanted) != 1:
        raise SolverError(f"{stage.solver}: gives test_iter {len(wanted)} times, wanted once: what to score on.")
    batch = getattr(source, "batch", 1)
    images = len(source) if source is not None else 0
    if images and wanted[0] * batch > images:
        raise SolverError(
            f"{stage.solver}: test_iter is {wanted[0]}, the split it scores has {images} images at {batch} a pass. "
            f"Set test_iter: {images // batch}."
        )
    for path in stage.sources:
        if path in results:
            _check_fit(path, results[path], train)
    results[stage.result] = train
    _check_room(stage, train)


def _build(stage: Stage, phase: int) -> Net:
    fork, counts = stage.param.fork, stage.blob_counts()
    return Net(stage.net, phase, device="meta", paths=stage.paths, fork=fork, blob_counts=counts)


def _check_fit(path: Path, coarse: Net, fine: Net) -> None:
    for layer, blobs in fine.params.items():
        for index, (blob, other) in enumerate(zip(blobs, coarse.params.get(layer, []), strict=False)):
            if fit(other, blob) is Fit.NONE:
                raise SolverError(
                    f"{path} will have layer '{layer}' blob {index} as {show(other.shape)}, net '{fine.name}' wants "
                    f"{show(blob.shape)}. Rename the layer to learn it from scratch."
                )


def _check_room(stage: Stage, net: Net) -> None:
    """Refuse a disk without room for two snapshots, of weights and history each, and the best weights."""
    needed = 6 * sum(blob.numel() * 4 for blobs in net.params.values() for blob in blobs)
    folder = next(folder for folder in (stage.folder, *stage.folder.parents) if folder.is_dir())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SolverError(
            f"{folder}: {show_bytes(free)} free, the snapshots of {stage.name} need {show_bytes(needed)}. Make room."
        )


def is_segmentation(stage: Stage) -> bool:
    """Say whether a stage's net gives scores for every pixel, as a classifier does not."""
    net = _build(stage, TEST)
    return any(len(net.blob_shapes[score]) == 4 for score in heads(net))
