"""The nets that new_task makes besides the FCNs: each is trained in one stage, on one's own images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fcn_caffe.models.classics import dilated, edges, encoder_decoder
from fcn_caffe.models.classics.dilated import LearnedHead
from fcn_caffe.models.classics.encoder_decoder import Loss
from fcn_caffe.models.classics.unet_on_vgg import unet_on_vgg
from fcn_caffe.models.nets import COLOUR_SCALE, DataSource, fcn_on
from fcn_caffe.models.trunks import alexnet_by_the_text, googlenet
from fcn_caffe.proto import caffe_pb2

__all__ = ["OWN_NETS", "OwnNet", "Wanted"]


@dataclass(frozen=True)
class Wanted:
    """What a task asks of a net.

    Attributes:
        name: the net's name.
        data: its data layers.
        classes: the number of classes.
        loss: the ignored label and the classes' weights.
        size: height and width of all images, (0, 0) where they differ.
        width: the outputs of the narrowest convolutions; None for the published.
        from_weights: whether weights are given to start from.
        head: the layers that follow the trunk, where the net's paper takes them from a classifier.
    """

    name: str
    data: DataSource
    classes: int
    loss: Loss
    size: tuple[int, int] = (0, 0)
    width: int | None = None
    from_weights: bool = False
    head: LearnedHead = LearnedHead()  # noqa: RUF009 (it is frozen)


@dataclass(frozen=True)
class OwnNet:
    """One of the nets, and how it is trained unless options say otherwise.

    Attributes:
        build: makes it.
        base_lr: the rate at the start.
        max_iter: the iterations.
        weighs_classes: rare classes weigh more, by median frequency balancing.
        needs_one_size: it takes images of one size only.
        has_width: its width can be chosen.
        has_fc: the width of fc6 and fc7 can be chosen.
        head_lr: what multiplies the rate of the layers after the trunk; None where it cannot be chosen.
        solver_type: Caffe's name of the update rule.
        trunk: it starts from VGG-16's convolutions where weights are given.
        classifier: the classifier whose weights it needs; "" for none.
        outlines: it learns the outlines between the classes.
        scores: its blob of scores.
        momentum: of the solver.
        weight_decay: of the solver.
    """

    build: Callable[[Wanted], caffe_pb2.NetParameter]
    base_lr: float
    max_iter: int
    weighs_classes: bool = False
    needs_one_size: bool = False
    has_width: bool = False
    has_fc: bool = False
    head_lr: float | None = None
    solver_type: str = "SGD"
    trunk: bool = False
    classifier: str = ""
    outlines: bool = False
    scores: str = "score"
    momentum: float = 0.9
    weight_decay: float = 5e-4


def _segnet_basic(wanted: Wanted) -> caffe_pb2.NetParameter:
    return encoder_decoder.segnet_basic(
        wanted.name, wanted.data, wanted.classes, wanted.loss, size=wanted.size, width=wanted.width or 64
    )


def _segnet(wanted: Wanted) -> caffe_pb2.NetParameter:
    return encoder_decoder.segnet(wanted.name, wanted.data, wanted.classes, wanted.loss, size=wanted.size)


def _unet(wanted: Wanted) -> caffe_pb2.NetParameter:
    return encoder_decoder.unet(
        wanted.name,
        wanted.data,
        wanted.classes,
        wanted.loss,
        padded=True,
        scale=COLOUR_SCALE,
        width=wanted.width or 64,
    )


def _large_fov(wanted: Wanted) -> caffe_pb2.NetParameter:
    return dilated.large_fov(
        wanted.name,
        wanted.data,
        wanted.classes,
        wanted.loss,
        every_pixel=True,
        head=wanted.head,
        scale=None if wanted.from_weights else COLOUR_SCALE,
    )


def _unet_on_vgg(wanted: Wanted) -> caffe_pb2.NetParameter:
    return unet_on_vgg(
        wanted.name,
        wanted.data,
        wanted.classes,
        wanted.loss,
        rate=wanted.head.rate,
        scale=None if wanted.from_weights else COLOUR_SCALE,
    )


def _hed(wanted: Wanted) -> caffe_pb2.NetParameter:
    return edges.hed(wanted.name, wanted.data)


def _on_alexnet(wanted: Wanted) -> caffe_pb2.NetParameter:
    return fcn_on(wanted.name, wanted.data, wanted.classes, alexnet_by_the_text, wanted.loss.ignore)


def _on_googlenet(wanted: Wanted) -> caffe_pb2.NetParameter:
    return fcn_on(wanted.name, wanted.data, wanted.classes, googlenet, wanted.loss.ignore)


OWN_NETS: dict[str, OwnNet] = {
    "segnet-basic": OwnNet(
        _segnet_basic,
        0.05,
        2000,
        weighs_classes=True,
        needs_one_size=True,
        has_width=True,
        scores="conv_classifier",
    ),
    "segnet": OwnNet(_segnet, 0.01, 4000, weighs_classes=True, needs_one_size=True, trunk=True, scores="conv1_1_D"),
    "unet": OwnNet(_unet, 1e-3, 2000, has_width=True, scores="conv_u0d-score"),
    "deeplab-largefov": OwnNet(_large_fov, 1e-3, 2000, trunk=True, has_fc=True, head_lr=1),
    "unet-vgg16": OwnNet(_unet_on_vgg, 1.5e-4, 2000, trunk=True, head_lr=5, solver_type="Adam"),
    "fcn-alexnet": OwnNet(_on_alexnet, 1e-3, 2000, classifier="CaffeNet"),
    "fcn-googlenet": OwnNet(_on_googlenet, 1e-3, 2000, classifier="GoogLeNet"),
    "hed": OwnNet(_hed, 1e-6, 2000, trunk=True, outlines=True, scores="new-score-weighting", weight_decay=2e-4),
}
