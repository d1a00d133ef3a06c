"""A net of each layer type that computes something, for checks that every type must pass."""

from __future__ import annotations

import torch
from helpers import input_layer, layer, make_net, randomise

from fcn_caffe import TEST, TRAIN, Net
from fcn_caffe.layers.base import REGISTRY

IMAGE = ((2, 3, 4, 3),)

# type -> cases of (bottom shapes, options)
CASES: dict[str, list[tuple[tuple[tuple[int, ...], ...], str]]] = {
    "AbsVal": [(IMAGE, "")],
    "AutoCrop": [(((2, 3, 5, 4), (2, 3, 2, 3)), "crop_param { offset: 1 }")],
    "Axpy": [(((2, 3), (2, 3, 2, 4), (2, 3, 2, 4)), ""), (((2, 3, 1, 1), (2, 3, 2, 2), (2, 3, 2, 2)), "")],
    "BN": [
        (IMAGE, "bn_param { scale_filler { value: 1 } }"),
        (IMAGE, "bn_param { bn_mode: INFERENCE }"),
        (IMAGE, "bn_param { eps: 0.1 }"),
        (IMAGE, "bn_param { frozen: true }"),
    ],
    "BNLL": [(IMAGE, "")],
    "BatchNorm": [
        (IMAGE, f"batch_norm_param {{ {more} }}")
        for more in ("use_global_stats: false", "", "scale_bias: true", "engine: MKLDNN relu: true")
    ],
    "BatchReindex": [(((3, 2), (5,)), "")],
    "Bias": [(IMAGE, ""), (((2, 3, 4), (3, 4)), "bias_param { axis: 1 }")],
    "BorderCopy": [
        (((2, 3, 5, 6),), "border_copy_param { start: 1 start: 2 end: 0 end: 2 copies: 3 copies: 1 }"),
        (((1, 2, 2, 3),), "border_copy_param { start: 0 end: 0 copies: 0 copies: 2 }"),
    ],
    "Clip": [(IMAGE, "clip_param { min: -0.5 max: 0.7 }")],
    "Concat": [(((2, 3), (2, 1)), "")],
    "ContrastiveLoss": [
        (((4, 3), (4, 3), (4,)), f"contrastive_loss_param {{ {more} }}")
        for more in ("margin: 3", "margin: 9 legacy_version: true")
    ],
    "Convolution": [
        (IMAGE, "convolution_param { num_output: 2 kernel_size: 3 pad: 1 stride: 2 }"),
        (((2, 4, 7),), "convolution_param { num_output: 6 kernel_size: 3 dilation: 2 group: 2 }"),
        (((1, 2, 3, 4, 3),), "convolution_param { num_output: 2 kernel_size: 2 }"),
        (((2, 2, 3, 5),), "convolution_param { num_output: 2 kernel_size: 2 axis: 2 }"),
    ],
    "ConvolutionDepthwise": [(IMAGE, "convolution_param { kernel_size: 3 pad: 1 stride: 2 }")],
    "Crop": [(((2, 3, 5, 4), (2, 3, 2, 3)), "crop_param { offset: 1 }")],
    "Deconvolution": [
        (((2, 4, 3, 2),), "convolution_param { num_output: 2 kernel_size: 4 stride: 2 pad: 1 group: 2 }"),
        (((2, 2, 3),), "convolution_param { num_output: 3 kernel_size: 3 dilation: 2 }"),
        (((1, 2, 2, 2, 3),), "convolution_param { num_output: 1 kernel_size: 2 stride: 2 }"),
    ],
    "DepthwiseConvolution": [(IMAGE, "convolution_param { num_output: 3 group: 3 kernel_size: 3 pad: 1 }")],
    "Dropout": [
        (IMAGE, f"dropout_param {{ {more} }}") for more in ("", "scale_train: false", "sample_weights_test: true")
    ],
    "ELU": [(IMAGE, "elu_param { alpha: 0.7 }")],
    "Eltwise": [
        (((2, 3), (2, 3), (2, 3)), f"eltwise_param {{ {more} }}")
        for more in ("coeff: 2 coeff: -1 coeff: 0.5", "operation: PROD", "operation: MAX")
    ],
    "Embed": [(((5,),), "embed_param { input_dim: 2 num_output: 3 }")],
    "EuclideanLoss": [(((3, 2), (3, 2)), ""), (((3, 2), (3, 2, 1)), "")],
    "Exp": [(IMAGE, "exp_param { base: 2 scale: 0.5 shift: 1 }"), (IMAGE, "")],
    "Filter": [(((4, 2), (4, 3), (4,)), "")],
    "Flatten": [(IMAGE, "flatten_param { axis: 1 end_axis: 2 }")],
    "HingeLoss": [(((4, 3), (4,)), f"hinge_loss_param {{ norm: {norm} }}") for norm in ("L1", "L2")],
    "Im2col": [
        (IMAGE, "convolution_param { kernel_size: 2 pad: 1 stride: 2 }"),
        (((2, 2, 6),), "convolution_param { kernel_size: 2 dilation: 2 }"),
        (((1, 2, 3, 3, 3),), "convolution_param { kernel_size: 2 }"),
    ],
    "InfogainLoss": [(((4, 3), (4,), (1, 1, 3, 3)), "")],
    "InnerProduct": [
        (IMAGE, "inner_product_param { num_output: 3 }"),
        (IMAGE, "inner_product_param { num_output: 3 axis: -2 transpose: true }"),
    ],
    "Interp": [
        (IMAGE, f"interp_param {{ {more} }}")
        for more in ("height: 3 width: 7", "zoom_factor: 2", "shrink_factor: 2", "zoom_factor: 1 pad_beg: -1")
    ],
    "LRN": [
        (IMAGE, "lrn_param { local_size: 3 alpha: 0.5 }"),
        (IMAGE, "lrn_param { local_size: 3 alpha: 0.5 norm_region: WITHIN_CHANNEL }"),
    ],
    "LSTM": [
        (((3, 2, 4), (3, 2)), "recurrent_param { num_output: 2 }"),
        (((3, 2, 4), (3, 2), (2, 3)), "recurrent_param { num_output: 2 }"),
        (((3, 2, 4), (3, 2), (1, 2, 2), (1, 2, 2)), "recurrent_param { num_output: 2 expose_hidden: true }"),
    ],
    "Log": [(IMAGE, "log_param { base: 2 scale: 0.1 shift: 3 }")],
    "MVN": [
        (IMAGE, ""),
        (IMAGE, "mvn_param { across_channels: true }"),
        (IMAGE, "mvn_param { normalize_variance: false }"),
    ],
    "MultiStageMeanfield": [
        (
            ((2, 3, 3, 5),) * 3,
            "multi_stage_meanfield_param { num_iterations: 3 theta_alpha: 10 theta_beta: 0.5 theta_gamma: 10 }",
        ),
    ],
    "MultinomialLogisticLoss": [(((4, 3), (4,)), "")],
    "PReLU": [(IMAGE, ""), (IMAGE, "prelu_param { channel_shared: true }")],
    "Padding": [(IMAGE, "padding_param { pad_beg: 1 pad_end: 2 }"), (IMAGE, "padding_param { pad_beg: -1 }")],
    "Parameter": [((), "parameter_param { shape { dim: 2 dim: 3 } }")],
    "Normalize": [
        *((IMAGE, f"norm_param {{ {more} }}") for more in ("", "across_spatial: false", "channel_shared: false")),
        *((IMAGE, f'normalize_param {{ normalize_type: "{norm}" }}') for norm in ("L1", "L2")),
    ],
    "PSROIPooling": [
        (((2, 8, 4, 5), (3, 5)), "psroi_pooling_param { spatial_scale: 0.7 output_dim: 2 group_size: 2 }")
    ],
    "Permute": [(IMAGE, "permute_param { order: 0 order: 2 }")],
    "Pooling": [
        (IMAGE, "pooling_param { kernel_size: 3 stride: 2 }"),
        (IMAGE, "pooling_param { kernel_size: 3 stride: 2 pad: 1 pool: AVE }"),
        (IMAGE, "pooling_param { kernel_size: 3 stride: 2 pool: STOCHASTIC }"),
    ],
    "Power": [(IMAGE, "power_param { power: 3 scale: 0.5 shift: 2 }"), (IMAGE, "power_param { scale: 0 shift: 2 }")],
    "RNN": [
        (((3, 2, 4), (3, 2)), "recurrent_param { num_output: 2 }"),
        (((3, 2, 4), (3, 2), (2, 3)), "recurrent_param { num_output: 2 }"),
        (((3, 2, 4), (3, 2), (1, 2, 2)), "recurrent_param { num_output: 2 expose_hidden: true }"),
    ],
    "ROIPooling": [(((2, 3, 4, 5), (3, 5)), "roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 1.5 }")],
    "ReLU": [(IMAGE, ""), (IMAGE, "relu_param { negative_slope: 0.1 }")],
    "ReLU6": [(IMAGE, ""), (IMAGE, "relu6_param { negative_slope: 0.1 }")],
    "Reduction": [
        (IMAGE, f"reduction_param {{ operation: {name} axis: {axis} coeff: 2 }}")
        for name, axis in (("SUM", 0), ("ASUM", 1), ("SUMSQ", -1), ("MEAN", 2))
    ],
    "Reshape": [(IMAGE, "reshape_param { shape { dim: 0 dim: -1 } }")],
    "SPP": [(IMAGE, f"spp_param {{ pyramid_height: 2 pool: {pool} }}") for pool in ("MAX", "AVE")],
    "Scale": [(IMAGE, "scale_param { bias_term: true }"), (((2, 3, 4), (3,)), "")],
    "ShuffleChannel": [(((2, 6, 2, 2),), "shuffle_channel_param { group: 3 }")],
    "Sigmoid": [(IMAGE, "")],
    "SigmoidCrossEntropyBalanceLoss": [(((4, 5), (4, 5)), "")],
    "SigmoidCrossEntropyLoss": [
        (((4, 5), (4, 5)), more)
        for more in (
            "loss_param { ignore_label: 1 normalization: VALID }",
            *(f'fork: "{fork}"' for fork in ("hed", "rcf", "deepskeleton")),
        )
    ],
    "Slice": [(IMAGE, "slice_param { slice_point: 1 }")],
    "SmoothL1Loss": [
        (((4, 3), (4, 3)), ""),
        (((4, 3), (4, 3), (4, 3), (4, 3)), "smooth_l1_loss_param { sigma: 2 }"),
        (((2, 3, 2, 2), (2, 3, 2, 2), (2, 3, 2, 2)), "loss_param { normalization: BATCH_SIZE }"),
    ],
    "Softmax": [(IMAGE, "softmax_param { axis: -1 }")],
    "SoftmaxWithLoss": [
        (((2, 3, 2, 2), (2, 1, 2, 2)), more)
        for more in (
            "",
            *(f"loss_param {{ normalization: {name} }}" for name in ("FULL", "NONE")),
            "loss_param { ignore_label: 1 }",
            "loss_param { normalize: false }",
            "loss_param { weight_by_label_freqs: true class_weighting: [0.5, 2, 1] ignore_label: 1 }",
            "loss_param { weight_by_label_freqs: true class_weighting: [0.5, 2, 1] normalize: false }",
            "loss_param { weight_by_label_freqs: true class_weighting: [0.5, 2, 1] normalization: BATCH_SIZE }",
            "softmaxloss_param { ignore_label: 1 }",
            'fork: "deepskeleton" loss_param { normalize: false ignore_label: 1 }',
        )
    ],
    "Split": [(IMAGE, "")],
    "Swish": [(IMAGE, "swish_param { beta: 1.5 }")],
    "TanH": [(IMAGE, "")],
    "Tile": [(IMAGE, "tile_param { axis: 2 tiles: 3 }")],
    "Unpooling": [
        (((1, 2, 2, 3),), f"unpooling_param {{ unpool: {mode} kernel_size: 3 stride: 2 unpool_h: 4 unpool_w: 7 }}")
        for mode in ("MAX", "AVE", "TILE")
    ],
    "Upsample": [(((1, 2, 2, 3),), "upsample_param { scale: 3 }")],
}
WITHOUT_GRADIENT: dict[str, list[tuple[tuple[tuple[int, ...], ...], str]]] = {
    "Accuracy": [(((4, 3), (4,)), "")],
    "ArgMax": [(IMAGE, "argmax_param { axis: 1 top_k: 2 }"), (IMAGE, "argmax_param { out_max_val: true }")],
    "DetectionOutput": [
        (((2, 8), (2, 4), (1, 2, 8)), "detection_output_param { num_classes: 2 confidence_threshold: 0.5 }")
    ],
    "PriorBox": [((IMAGE[0], (2, 3, 20, 30)), "prior_box_param { min_size: 4 aspect_ratio: 2 }")],
    "SegAccuracy": [(((2, 3, 2, 2), (2, 1, 2, 2)), "")],
    "Silence": [(IMAGE, "")],
    "Threshold": [(IMAGE, "")],
}
TWO_TOPS = {"Slice", "Split", "Filter"}
# Beginnings and ends of nets, and other people's code: no gradient, and nothing that a compiler could see into.
OUTSIDE = {"Data", "DummyData", "HDF5Data", "HDF5Output", "ImageData", "Input", "MemoryData", "Python", "WindowData"}
OUTSIDE |= {"DenseImageData", "ImageLabelmapData", "ImageSegData"}

# Layers whose work depends on their bottoms' numbers.
UNTRACED = {"DetectionOutput", "MultiStageMeanfield", "ROIPooling"}


def build(type: str, shapes: tuple[tuple[int, ...], ...], options: str) -> tuple[Net, dict[str, torch.Tensor]]:
    """A net of one layer `l` with random parameters, and bottoms that suit it: labels, selectors, probabilities."""
    names = [f"x{i}" for i in range(len(shapes))]
    states = len(REGISTRY[type].__dict__.get("states", ())) if "expose_hidden" in options else 0
    tops = ["l"] + [f"t{i}" for i in range(states)] + (["l2"] if type in TWO_TOPS else [])
    inputs = "".join(input_layer(name, *shape) for name, shape in zip(names, shapes, strict=True))
    top = "" if type == "Silence" else " ".join(tops)
    net = make_net(inputs, layer("l", type, " ".join(names), top, options), phase=TRAIN if type == "Dropout" else TEST)
    randomise(net)
    module = net.layer("l")
    if type in ("BatchNorm", "BN"):
        for blob in module.blobs:
            blob.detach().abs_()  # a variance
    generator = torch.Generator().manual_seed(7)
    bottoms = {}
    for position, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        if (
            position in module.undifferentiable
            and shape != (1, 1, 3, 3)
            and not (position == 0 and type in WITHOUT_GRADIENT)
        ):
            bottoms[name] = torch.randint(0, 2, shape, generator=generator).float()
        else:
            bottoms[name] = torch.rand(shape, generator=generator) * 2 - 0.9
    if type in ("MultinomialLogisticLoss", "Pooling"):
        bottoms["x0"] = bottoms["x0"].abs() + 0.1
    if type == "Filter":
        bottoms[names[-1]] = torch.tensor([1.0, 0, 3, 1])
    return net, bottoms
