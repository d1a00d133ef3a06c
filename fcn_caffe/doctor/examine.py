"""The examination of a net or a solver: every check, in order."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fcn_caffe.doctor.dead import dead_layers, interpolation, zero_weights
from fcn_caffe.doctor.findings import ERROR, NOTE, Examination, Finding
from fcn_caffe.doctor.inputs import class_counts, first_labels, preprocessing
from fcn_caffe.doctor.rates import rates
from fcn_caffe.doctor.refusals import refusals
from fcn_caffe.doctor.start import start_files, start_state
from fcn_caffe.doctor.structure import batch_statistics, crop_offsets, memory_needed, pooling_masks
from fcn_caffe.doctor.subject import Built, Subject, read_subject
from fcn_caffe.doctor.wrong_gradients import overwritten_blobs, scale_gradients
from fcn_caffe.errors import FcnCaffeError
from fcn_caffe.net.rewrite.ready import ready_net
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.weights.transfer import BlobCounts

__all__ = ["IMAGES", "examine"]

NAMES = {TRAIN: "TRAIN", TEST: "TEST"}
IMAGES = 4  # whose labels are checked


def examine(
    path: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    *,
    size: tuple[int, int] | None = None,
    images: int = IMAGES,
) -> Examination:
    """Find what would make a net answer nothing, or a training fail hours from now. Nothing is trained or written.

    Args:
        path: a net or a solver file.
        weights: what a net was trained to, or what a solver starts from instead of its own weights.
        size: height and width of the images, instead of the data layer's or the deploy form's.
        images: the number of images whose labels are checked.
    Raises:
        PrototxtError, SolverError: the file cannot be read.
        WeightsError: `weights` cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what building a net warns of is found here, with its layer
        return _examine(path, weights, size, images)


def _examine(
    path: str | os.PathLike[str], weights: str | os.PathLike[str] | None, size: tuple[int, int] | None, images: int
) -> Examination:
    subject = read_subject(path, size)
    files = [Path(start.weights) for start in start_files(subject, None if weights is None else os.fspath(weights))]
    subject.blob_counts = BlobCounts([file for file in files if file.is_file()])
    examination = Examination(os.fspath(path))
    built: dict[int, Built] = {}
    for phase in (TRAIN, TEST):
        if subject.has_no_net(phase):
            examination.skip(
                f"the {NAMES[phase]} net", f"{subject.net_path} brings no images into it, and nothing asks for it"
            )
            continue
        try:
            param = subject.param(phase)
            examination.add(crop_offsets(param))
            examination.add(overwritten_blobs(param) if phase == TRAIN else batch_statistics(param))
            built[phase] = subject.build(phase)
        except FcnCaffeError as error:
            problem = f"the {NAMES[phase]} net cannot be built."
            examination.add([Finding(ERROR, "build", str(subject.net_path), problem, str(error))])
    if subject.settings is not None:
        examination.add(refusals(subject.settings, built[TRAIN].net if TRAIN in built else None))
    _take_sizes(subject, built)
    for phase, net in built.items():
        _data(subject, net, NAMES[phase], images, examination)
    main = built.get(TRAIN) or built.get(TEST)
    if main is None:
        examination.skip("all other checks", "the net cannot be built")
        return examination
    examination.add(pooling_masks(main.net))
    _parameters(subject, main, None if weights is None else os.fspath(weights), examination)
    if not main.assumed:
        iter_size = subject.settings.param.iter_size if subject.settings is not None else 1
        examination.add(scale_gradients(main.net, iter_size))
    if subject.settings is not None:
        if TRAIN in built:
            examination.add(rates(built[TRAIN].net, subject.settings.param, str(subject.path)))
            tests = [ready_net(built[TEST].net)] if TEST in built else []
            examination.add(memory_needed(built[TRAIN].net, True, subject.settings.param.type, tests))
    else:
        examination.skip("rate against normalisation", "a net alone has no rate: give its solver")
    if TEST in built:
        examination.add(memory_needed(built[TEST].net, False))
    return examination


def _take_sizes(subject: Subject, built: dict[int, Built]) -> None:
    """Build a net without data again, with the sizes of the other phase's images where that one has data."""
    for phase, other in ((TRAIN, TEST), (TEST, TRAIN)):
        if phase in built and other in built and built[phase].data_error and not built[other].data_error:
            with suppress(FcnCaffeError):  # of another form: its own assumed size stays
                again = subject.build(phase, built[other].net)
                built[phase] = replace(again, assumed=False)


def _data(subject: Subject, built: Built, phase: str, images: int, examination: Examination) -> None:
    examination.add(class_counts(built.net, subject))
    if built.data_error is not None and not built.is_data_absent:
        examination.add(
            [Finding(ERROR, "data", str(subject.net_path), f"the {phase} data cannot be read.", str(built.data_error))]
        )
    if built.data_error is not None:
        examination.skip(f"label ranges, sizes of the {phase} images", built.data_error)
    elif subject.size is not None:
        examination.skip(f"label ranges ({phase})", "a size was given in place of the data")
    else:
        first_labels(built.net, images, examination)


def _parameters(subject: Subject, built: Built, weights: str | None, examination: Examination) -> None:
    net, starts = built.net, start_files(subject, weights)
    start = start_state(subject, built, starts, weights is not None, examination)
    for item in starts:
        if Path(item.weights).is_file():
            preprocessing(subject, Path(item.weights), examination)
    trained = subject.settings is None and bool(starts)
    # A bare net is filled by weights that are not known here; so is one whose weights are elsewhere.
    trusted = start.unknown or (subject.settings is None and not starts)
    examination.add(interpolation(net, start, trained))
    if trained:
        examination.add(zero_weights(net, start))
    else:
        examination.add(dead_layers(net, start, trusted))
        if (
            subject.settings is not None
            and not starts
            and any(item.check == "dead layers" for item in examination.findings)
        ):
            problem = "names no weights, so every layer starts from its filler."
            advice = "If a script copies weights in, as the reference's solve.py does, give them as --weights."
            examination.add([Finding(NOTE, "weights", str(subject.path), problem, advice)])
