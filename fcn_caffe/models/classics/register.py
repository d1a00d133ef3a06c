"""The classics by name: who, when, their data, their solver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fcn_caffe.models.classics import dilated, edges, encoder_decoder, enet, mean_field, pyramid
from fcn_caffe.models.classics.encoder_decoder import Loss
from fcn_caffe.models.classics.sources import VOC_MEAN, lists
from fcn_caffe.models.nets import VOC, DataSource
from fcn_caffe.net.net_spec import assign_proto
from fcn_caffe.proto import caffe_pb2

__all__ = ["CLASSICS", "Classic", "classic_net", "classic_solver"]


@dataclass(frozen=True)
class Classic:
    """A net of others than FCN's authors.

    Attributes:
        title: what it is called.
        authors: who wrote the paper.
        year: when.
        build: makes the net of a name.
        file: where in models/classics it is written.
        scores: the blob of scores.
        solver: the settings of its solver.
        weights: what it starts from; nothing for its fillers.
        compared: the published file that it was compared with, or "" where none was at hand.
    """

    title: str
    authors: str
    year: int
    build: Callable[[str], caffe_pb2.NetParameter]
    file: str
    scores: str
    solver: Mapping[str, Any]
    weights: tuple[str, ...] = ()
    compared: str = ""


def classic_net(name: str) -> caffe_pb2.NetParameter:
    """Build the NetParameter of a classic. Raises: KeyError for a name that is not in CLASSICS."""
    return CLASSICS[name].build(name)


def classic_solver(name: str) -> caffe_pb2.SolverParameter:
    """Build the SolverParameter of a classic. Raises: KeyError for a name that is not in CLASSICS."""
    classic = CLASSICS[name]
    solver = caffe_pb2.SolverParameter(
        net=f"nets/{name}.prototxt",
        test_iter=[1],
        test_interval=999999999,
        test_initialization=False,
        display=20,
        snapshot_prefix=f"snapshot/{name}/train",
        weights=list(classic.weights),
    )
    for key, value in {"momentum": 0.9, "weight_decay": 5e-4, "snapshot": 1000, **classic.solver}.items():
        assign_proto(solver, key, value)
    return solver


# The median of the classes' frequencies over each class's, as SegNet's files have them.
_CAMVID_WEIGHTS = (0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614)
_CAMVID_LOSS = Loss(11, _CAMVID_WEIGHTS)
_VGG = ("weights/vgg16fc.caffemodel",)
_PIXEL = caffe_pb2.ImageDataParameter.PIXEL
_IMAGENET_MEAN = (103.939, 116.779, 123.68)


def _camvid() -> DataSource:
    train = {"batch_size": 4, "shuffle": True}
    return lists("DenseImageData", "../data/camvid", train, {"batch_size": 1}, (360, 480))


def _seg_lists(
    folder: str, batch: int, size: tuple[int, int], mean: tuple[float, ...], crop: Mapping[str, int], **more: object
) -> DataSource:
    """Return DeepLab's data layer: pictures cut at random, or padded, to `crop`."""
    transform = {**crop, "mean_value": list(mean)}
    options = {"root_folder": f"{folder}/", "label_type": _PIXEL, "ignore_label": 255, "fork": "deeplab", **more}
    train = {**options, "batch_size": batch, "shuffle": True, "transform_param": {**transform, "mirror": True}}
    test = {**options, "batch_size": 1, "transform_param": transform}
    return lists("ImageSegData", folder, train, test, size)


def _deeplab_data(batch: int, crop: int, deploy: int) -> DataSource:
    return _seg_lists("../data/pascal/list", batch, (deploy, deploy), VOC_MEAN, {"crop_size": crop})


def _deconvnet_data() -> DataSource:
    return _seg_lists("../data/pascal/list", 8, (224, 224), VOC_MEAN, {"crop_size": 224})


def _ade20k() -> DataSource:
    return _seg_lists("../data/ade20k", 16, (473, 473), _IMAGENET_MEAN, {"crop_size": 473})


def _cityscapes_at(height: int, width: int) -> DataSource:
    crop = {"crop_height": height, "crop_width": width}
    return _seg_lists("../data/cityscapes", 16, (height, width), _IMAGENET_MEAN, crop)


def _enet_data() -> DataSource:
    sizes = {"new_height": 512, "new_width": 1024}
    train = {"batch_size": 3, "shuffle": True, **sizes}
    return lists("DenseImageData", "../data/cityscapes", train, {"batch_size": 1, **sizes}, (512, 1024))


def _bsds() -> DataSource:
    transform = {"transform_param": {"mirror": False, "mean_value": [104.00699, 116.66877, 122.67892]}}
    options = {"root_folder": "../data/HED-BSDS/", "batch_size": 1, "fork": "hed", **transform}
    names = ("train_pair.lst", "test_pair.lst")
    return lists(
        "ImageLabelmapData", "../data/HED-BSDS", {**options, "shuffle": True}, options, (500, 500), names=names
    )


def _cells() -> DataSource:
    options = {"batch_size": 1, "is_color": False, "transform_param": {"scale": 1 / 256}}
    train = {**options, "shuffle": True, "mirror": True, "crop_height": 572, "crop_width": 572}
    test = {**options, "crop_height": 572, "crop_width": 572}
    return lists("DenseImageData", "../data/cells", train, test, (572, 572), channels=1)


def _steps(base_lr: float, gamma: float, stepsize: int, max_iter: int, **more: object) -> dict[str, Any]:
    steps = {"lr_policy": "step", "gamma": gamma, "stepsize": stepsize}
    return {"base_lr": base_lr, **steps, "max_iter": max_iter, **more}


def _poly(base_lr: float, max_iter: int, **more: object) -> dict[str, Any]:
    return {"base_lr": base_lr, "lr_policy": "poly", "power": 0.9, "max_iter": max_iter, **more}


def _fixed(base_lr: float, max_iter: int, **more: object) -> dict[str, Any]:
    return {"base_lr": base_lr, "lr_policy": "fixed", "max_iter": max_iter, **more}


_SEGNET_AUTHORS = "Badrinarayanan, Kendall, Cipolla"
_DEEPLAB_AUTHORS = "Chen, Papandreou, Kokkinos, Murphy, Yuille"
CLASSICS: dict[str, Classic] = {
    "camvid-segnet-basic": Classic(
        "SegNet-Basic",
        "Badrinarayanan, Handa, Cipolla",
        2015,
        lambda name: encoder_decoder.segnet_basic(name, _camvid(), 11, _CAMVID_LOSS),
        "encoder_decoder",
        "conv_classifier",
        _fixed(0.1, 10000),
        compared="alexgkendall/SegNet-Tutorial Models/segnet_basic_train.prototxt",
    ),
    "camvid-segnet": Classic(
        "SegNet",
        _SEGNET_AUTHORS,
        2015,
        lambda name: encoder_decoder.segnet(name, _camvid(), 11, _CAMVID_LOSS),
        "encoder_decoder",
        "conv1_1_D",
        _fixed(0.001, 40000),
        _VGG,
        "alexgkendall/SegNet-Tutorial Models/segnet_train.prototxt",
    ),
    "voc-deconvnet": Classic(
        "DeconvNet",
        "Noh, Hong, Han",
        2015,
        lambda name: encoder_decoder.deconvnet(name, _deconvnet_data(), 21),
        "encoder_decoder",
        "seg-score-voc",
        _steps(0.01, 0.1, 10000, 40000, iter_size=8),
        _VGG,
        "HyeonwooNoh/DeconvNet training/002_stage_2/stage_2_train.prototxt",
    ),
    "cells-unet": Classic(
        "U-Net",
        "Ronneberger, Fischer, Brox",
        2015,
        lambda name: encoder_decoder.unet(name, _cells(), 2),
        "encoder_decoder",
        "conv_u0d-score",
        _fixed(1e-3, 40000, momentum=0.99),
    ),
    "voc-deeplab1-largefov": Classic(
        "DeepLab-LargeFOV (v1)",
        _DEEPLAB_AUTHORS,
        2015,
        lambda name: dilated.large_fov(name, _deeplab_data(20, 321, 513), 21),
        "dilated",
        "fc8_interp",
        _steps(0.001, 0.1, 2000, 6000, snapshot=2000),
        _VGG,
        "TheLegendAli/DeepLab-Context config/DeepLab-LargeFOV/test.prototxt",
    ),
    "voc-deeplab2-largefov": Classic(
        "DeepLab-LargeFOV (v2)",
        _DEEPLAB_AUTHORS,
        2016,
        lambda name: dilated.large_fov(name, _deeplab_data(30, 321, 513), 21),
        "dilated",
        "fc8_interp",
        _poly(0.001, 20000),
        _VGG,
    ),
    "voc-deeplab2-aspp": Classic(
        "DeepLab v2, ASPP-L",
        _DEEPLAB_AUTHORS,
        2016,
        lambda name: dilated.aspp(name, _deeplab_data(10, 321, 513), 21),
        "dilated",
        "fc8_interp",
        _poly(0.001, 20000),
        _VGG,
    ),
    "voc-dilation8": Classic(
        "Dilation8: front end and context",
        "Yu, Koltun",
        2016,
        lambda name: dilated.dilated_context(name, VOC, 21),
        "dilated",
        "score",
        _fixed(0.001, 60000, iter_size=14),
        _VGG,
        "fyu/dilation models/dilation8_pascal_voc_deploy.prototxt",
    ),
    "voc-parsenet": Classic(
        "ParseNet",
        "Liu, Rabinovich, Berg",
        2015,
        lambda name: dilated.parsenet(name, _deeplab_data(8, 321, 321), 21),
        "dilated",
        "fc8_interp",
        _poly(0.001, 20000),
        _VGG,
    ),
    "bsds-hed": Classic(
        "HED",
        "Xie, Tu",
        2015,
        lambda name: edges.hed(name, _bsds()),
        "edges",
        "new-score-weighting",
        _steps(1e-6, 0.1, 10000, 30001, iter_size=10, weight_decay=2e-4),
        _VGG,
        "s9xie/hed examples/hed/train_val.prototxt",
    ),
    "voc-crfrnn": Classic(
        "CRF-RNN on FCN-8s",
        "Zheng, Jayasumana, Romera-Paredes, Vineet, Su, Du, Huang, Torr",
        2015,
        lambda name: mean_field.crf_rnn(name, VOC, 21),
        "mean_field",
        "inference1",
        _fixed(1e-13, 100000, momentum=0.99),
        ("weights/voc-fcn8s.caffemodel",),
    ),
    "ade20k-pspnet50": Classic(
        "PSPNet-50",
        "Zhao, Shi, Qi, Wang, Jia",
        2017,
        lambda name: pyramid.pspnet50(name, _ade20k(), 150),
        "pyramid",
        "conv6_interp",
        _poly(0.01, 150000, weight_decay=1e-4),
        compared="hszhao/PSPNet evaluation/prototxt/pspnet50_ADE20K_473.prototxt",
    ),
    "cityscapes-icnet": Classic(
        "ICNet",
        "Zhao, Qi, Shen, Shi, Jia",
        2018,
        lambda name: pyramid.icnet(name, _cityscapes_at(1025, 2049), 19),
        "pyramid",
        "conv6_interp",
        _poly(0.01, 30000, weight_decay=1e-4),
        compared="hszhao/ICNet evaluation/prototxt/icnet_cityscapes_bnnomerge.prototxt",
    ),
    "cityscapes-enet": Classic(
        "ENet",
        "Paszke, Chaurasia, Kim, Culurciello",
        2016,
        lambda name: enet.enet(name, _enet_data(), 19),
        "enet",
        "deconv6_0_0",
        {
            "type": "Adam",
            "base_lr": 0.005,
            "momentum2": 0.999,
            "weight_decay": 2e-4,
            "lr_policy": "multistep",
            "gamma": 0.1,
            "stepvalue": [18750, 37500, 56250],
            "max_iter": 75000,
            "snapshot": 10000,
        },
        compared="TimoSaemann/ENet prototxts/enet_train_encoder_decoder.prototxt",
    ),
}
