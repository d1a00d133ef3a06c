"""What comes into a net: how images are made, how many classes there are, and what the first labels hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
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
from fcn_caffe.proto.phases import TEST
from fcn_caffe.weights.record import differences, read_preprocessing

__all__ = ["class_counts", "first_labels", "preprocessing"]

_LABELLED = ("SoftmaxWithLoss", "InfogainLoss", "MultinomialLogisticLoss")
VOID = 255


def preprocessing(subject: Subject, weights: Path, seen: Examination) -> None:
    """Compare what the weights' record says with what the net's data layer does."""
    check = "mean and channel order"
    record = read_preprocessing(weights)
    if record is None:
        seen.skip(check, f"{weights} has no record ({weights.name}.preprocessing.json)")
        return
    net = subject.sources[TEST]
    if not isinstance(net, Path):
        seen.skip(check, "the net is inside the solver file")
        return
    try:
        theirs = net_preprocessing(net, subject.paths)
    except FcnCaffeError as error:
        seen.skip(check, error)
        return
    found = differences(record, theirs, starts=subject.settings is not None)
    if found:
        advice = "Change the data layer's mean or order, or use weights made for these inputs."
        seen.add(
            [
                Finding(
                    ERROR,
                    check,
                    str(weights),
                    f"was made for other inputs than {subject.net_path} gives: {'; '.join(found)}.",
                    advice,
                )
            ]
        )


def _heads(net: Net) -> Iterator[tuple[Node, str, str, int]]:
    """Losses over classes: layer, score blob, label blob, number of classes."""
    for node in net.graph.nodes:
        if node.type in _LABELLED and len(net.blob_shapes[node.bottoms[0]]) > 1:
            yield node, node.bottoms[0], node.bottoms[1], net.blob_shapes[node.bottoms[0]][1]


def class_counts(net: Net, subject: Subject) -> Iterator[Finding]:
    """The classes a head scores against class card, data layer and its options."""
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
    """How many classes a label blob has, and who says so. labels: those of all heads."""
    folder, alone = subject.net_path.parent, len(set(labels)) == 1
    card = folder / "classes.txt"
    for node in subject.param(net.phase).layer:
        known = [top for top in node.top if top in labels]
        # Which of the layer's labels it is; one that other layers make is that of the data, where there is one alone.
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
    """The heads, and losses whose labels are 0 and 1 themselves."""
    yield from _heads(net)
    for node in net.graph.nodes:
        if node.type == "SigmoidCrossEntropyLoss":
            yield node, node.bottoms[0], node.bottoms[1], 2


def first_labels(net: Net, images: int, seen: Examination) -> None:
    """Look at the labels of a data layer's first images: out of range, all void, masks of 0 and 255."""
    targets, sources = list(_targets(net)), data_nodes(net.graph)
    for node, _, label, _ in targets:
        if sources and not any(label in source.tops for source in sources):
            seen.skip(f"label ranges of {node}", f"its labels '{label}' are made by other layers")
    for source in sources:
        heads = [head for head in targets if head[2] in source.tops]
        if not heads:
            continue
        values: dict[str, set[int]] = {label: set() for _, _, label, _ in heads}
        void_only: dict[str, int] = dict.fromkeys(values, 0)
        try:
            for number in range(images):
                made = net.layer(source.name)()
                tops = dict(zip(source.tops, (made,) if isinstance(made, torch.Tensor) else made, strict=False))
                for node, _, label, classes in heads:
                    unique = set(torch.unique(tops[label]).long().tolist())
                    ignore = getattr(net.layer(node.name), "ignore_label", None)
                    values[label] |= unique
                    void_only[label] += unique <= {ignore}
                    bad = sorted(value for value in unique if not 0 <= value < classes and value != ignore)
                    if bad:
                        void = f" Give loss_param {{ ignore_label: {VOID} }} if it means void." if bad == [VOID] else ""
                        if bad == [VOID] and classes == 2:
                            void += " In 0/255 masks map 255 to 1 (mapping option, `255: 1`)."
                        raised = ", or raise the number of classes" if node.type in _LABELLED else ""
                        seen.add(
                            [
                                Finding(
                                    ERROR,
                                    "label ranges",
                                    str(source),
                                    f"image {number} of its labels '{label}' holds {', '.join(map(str, bad[:8]))}, "
                                    f"{node} takes 0 to {classes - 1}"
                                    f"{'' if ignore is None else f' and {ignore} (void)'}.",
                                    f"Map the labels{raised}.{void}",
                                )
                            ]
                        )
                        return
        except FcnCaffeError as error:
            seen.add([Finding(ERROR, "label ranges", str(source), "an image cannot be read:", str(error))])
            return
        for node, _, label, classes in heads:
            ignore = getattr(net.layer(node.name), "ignore_label", None)
            if void_only[label]:
                level = ERROR if void_only[label] == images else NOTE
                seen.add(
                    [
                        Finding(
                            level,
                            "label ranges",
                            str(source),
                            f"{void_only[label]} of the first {images} labels '{label}' are all void ({ignore}).",
                            "Such images teach nothing; is the void value right?",
                        )
                    ]
                )
            elif values[label] == {0, VOID} and ignore == VOID and classes == 2:
                seen.add(
                    [
                        Finding(
                            WARNING,
                            "label ranges",
                            str(source),
                            f"the first {images} labels '{label}' hold 0 and 255 alone, and 255 is void here.",
                            "They look like 0/255 masks: map 255 to 1 (mapping option, `255: 1`), "
                            "else only background is learned.",
                        )
                    ]
                )
