"""Checks of what goes into a net: its preprocessing, its number of classes, its first labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fcn_caffe.data.readers.labels import read_classes
from fcn_caffe.data.sets.options import parse_param_str
from fcn_caffe.doctor.findings import ERROR, NOTE, WARNING, Examination, Finding
from fcn_caffe.doctor.subject import Subject, data_nodes
from fcn_caffe.errors import FcnCaffeError
from fcn_caffe.evaluation.net_inputs import net_preprocessing
from fcn_caffe.layers.python import find_module
from fcn_caffe.net.graph import Node
from fcn_caffe.net.net import Net
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.weights.record import differences, read_preprocessing

__all__ = ["class_counts", "first_labels", "preprocessing"]

_LABELLED = ("SoftmaxWithLoss", "InfogainLoss", "MultinomialLogisticLoss")
VOID = 255


def preprocessing(subject: Subject, weights: Path, examination: Examination) -> None:
    """Compare the weights' record of preprocessing with the net's data layer."""
    check = "mean and channel order"
    record = read_preprocessing(weights)
    if record is None:
        examination.skip(check, f"{weights} has no record ({weights.name}.preprocessing.json)")
        return
    phases = (TEST, TRAIN) if subject.settings is None else (TRAIN, TEST)
    net = subject.sources[phases[0]]
    if not isinstance(net, Path):
        examination.skip(check, "the net is inside the solver file")
        return
    try:
        theirs = net_preprocessing(net, subject.paths, phases=phases)
    except FcnCaffeError as error:
        examination.skip(check, error)
        return
    contradictions = differences(record, theirs, starts=subject.settings is not None)
    if contradictions:
        advice = "Change the data layer's mean or order, or use weights made for these inputs."
        examination.add(
            [
                Finding(
                    ERROR,
                    check,
                    str(weights),
                    f"was made for other inputs than {subject.net_path} gives: {'; '.join(contradictions)}.",
                    advice,
                )
            ]
        )


def _heads(net: Net) -> Iterator[tuple[Node, str, str, int]]:
    """Give layer, score blob, label blob and number of classes of each loss over classes."""
    for node in net.graph.nodes:
        if node.type in _LABELLED and len(net.blob_shapes[node.bottoms[0]]) > 1:
            yield node, node.bottoms[0], node.bottoms[1], net.blob_shapes[node.bottoms[0]][1]


def class_counts(net: Net, subject: Subject) -> Iterator[Finding]:
    """Compare the number of classes of each head with classes.txt, the data layer and its options."""
    heads = list(_heads(net))
    labels = [label for _, _, label, _ in heads]
    for node, score, label, classes in heads:
        for count, who in _counts(net, subject, label, labels):
            if count > classes:
                yield Finding(
                    ERROR,
                    "class counts",
                    str(node),
                    f"score '{score}' has {classes} classes, {who} has {count}: "
                    f"labels beyond {classes - 1} are refused.",
                    f"Set num_output: {count} in the score layers and the deconvolutions.",
                )
            elif count < classes:
                yield Finding(
                    WARNING,
                    "class counts",
                    str(node),
                    f"score '{score}' has {classes} classes, {who} has {count}: the others are never seen.",
                    f"Set num_output: {count} in the score layers and the deconvolutions, or complete the classes.",
                )


def _counts(net: Net, subject: Subject, label: str, labels: list[str]) -> Iterator[tuple[int, str]]:
    """Give each number of classes that a label blob is said to have, and who says so. labels: those of all heads."""
    folder, alone = subject.net_path.parent, len(set(labels)) == 1
    card = folder / "classes.txt"
    for node in subject.param(net.phase).layer:
        known = [top for top in node.top if top in labels]
        # Which of the layer's labels it is. A label that other layers make counts as the data's if it is the only one.
        place = known.index(label) if label in known else 0 if alone else None
        if node.bottom or place is None:
            continue
        if card.is_file() and place == 0:
            yield len(read_classes(card)), str(card)
        if node.type != "Python":
            continue
        with suppress(FcnCaffeError):
            options: dict[str, Any] = parse_param_str(node.python_param.param_str, node.name)
            stated, name = options.get("classes"), node.python_param.module
            if isinstance(stated, int):
                counts, who = [stated], f"data layer '{node.name}'"
            else:
                module = find_module(name, folder)
                names = getattr(module, "CLASSES", ())
                counts = list(getattr(module, "LABEL_CLASSES", [len(names)] if names else []))
                who = f"module {name} ({'LABEL_CLASSES' if hasattr(module, 'LABEL_CLASSES') else 'CLASSES'})"
            if place < len(counts):
                yield counts[place], who


def _targets(net: Net) -> Iterator[tuple[Node, str, str, int]]:
    """Give the heads, and the losses whose labels are 0 and 1."""
    yield from _heads(net)
    for node in net.graph.nodes:
        if node.type == "SigmoidCrossEntropyLoss":
            yield node, node.bottoms[0], node.bottoms[1], 2


@dataclass
class _Labels:
    """What the first images of a data layer hold in one label blob.

    Attributes:
        loss: the layer that reads the labels.
        blob: the label blob.
        classes: the number of classes that the loss knows.
        ignore: the label that the loss leaves out, or None.
        values: the labels that were seen.
        void_images: the number of images without any other label than `ignore`.
    """

    loss: Node
    blob: str
    classes: int
    ignore: int | None
    values: set[int] = field(default_factory=set)
    void_images: int = 0

    def add(self, labels: torch.Tensor) -> list[int]:
        """Take the labels of one image; return those that the loss refuses, in order."""
        unique = set(torch.unique(labels).long().tolist())
        self.values |= unique
        self.void_images += unique <= {self.ignore}
        return sorted(value for value in unique if not 0 <= value < self.classes and value != self.ignore)


def first_labels(net: Net, images: int, examination: Examination) -> None:
    """Check the labels of each data layer's first images: out of range, all void, masks of 0 and 255."""
    targets, sources = list(_targets(net)), data_nodes(net.graph)
    for node, _, label, _ in targets:
        if sources and not any(label in source.tops for source in sources):
            examination.skip(f"label ranges of {node}", f"its labels '{label}' are made by other layers")
    for source in sources:
        heads = [
            _Labels(node, label, classes, getattr(net.layer(node), "ignore_label", None))
            for node, _, label, classes in targets
            if label in source.tops
        ]
        if heads and not _read_labels(net, source, heads, images, examination):
            return
        for head in heads:
            examination.add(_void_or_mask(source, head, images))


def _read_labels(net: Net, source: Node, heads: list[_Labels], images: int, examination: Examination) -> bool:
    """Run a data layer for its first images; return False where a label is out of range or an image is unreadable."""
    for number in range(images):
        try:
            tops = net.layer(source.name)()
        except FcnCaffeError as error:
            examination.add([Finding(ERROR, "label ranges", str(source), "an image cannot be read:", str(error))])
            return False
        blobs = dict(zip(source.tops, (tops,) if isinstance(tops, torch.Tensor) else tops, strict=False))
        for head in heads:
            refused = head.add(blobs[head.blob])
            if refused:
                examination.add([_out_of_range(source, head, number, refused)])
                return False
    return True


def _out_of_range(source: Node, head: _Labels, image: int, refused: list[int]) -> Finding:
    advice = "Map the labels"
    if head.loss.type in _LABELLED:
        advice += ", or raise the number of classes"
    advice += "."
    if refused in ([VOID], [head.classes]):  # behind the last class lies void in some data sets: SegNet's CamVid, 11
        advice += f" Give loss_param {{ ignore_label: {refused[0]} }} if it means void."
        if head.classes == 2:
            advice += " In 0/255 masks map 255 to 1 (mapping option, `255: 1`)."
    void = "" if head.ignore is None else f" and {head.ignore} (void)"
    return Finding(
        ERROR,
        "label ranges",
        str(source),
        f"image {image} of its labels '{head.blob}' holds {', '.join(map(str, refused[:8]))}, "
        f"{head.loss} takes 0 to {head.classes - 1}{void}.",
        advice,
    )


def _void_or_mask(source: Node, head: _Labels, images: int) -> Iterator[Finding]:
    if head.void_images:
        yield Finding(
            ERROR if head.void_images == images else NOTE,
            "label ranges",
            str(source),
            f"{head.void_images} of the first {images} labels '{head.blob}' are all void ({head.ignore}).",
            "Such images teach nothing; is the void value right?",
        )
    elif head.values == {0, VOID} and head.ignore == VOID and head.classes == 2:
        yield Finding(
            WARNING,
            "label ranges",
            str(source),
            f"the first {images} labels '{head.blob}' hold 0 and 255 alone, and 255 is void here.",
            "They look like 0/255 masks: map 255 to 1 (mapping option, `255: 1`), else only background is learned.",
        )
