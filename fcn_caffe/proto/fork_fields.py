"""Fields and values that other Caffes added: whose they are, and what to do without them. Sources: as in `forks`."""

from __future__ import annotations

from fcn_caffe.proto.forks import DECONVNET, DEEPLAB, DEEPLAB1, FLOWNET, RCNN, SEGNET, SSD, Foreign

__all__ = ["FIELDS", "VALUES", "foreign_field", "foreign_value"]

NO_NUMBER = "Leave it out: it changes no number."
ROUNDING = "Leave it out: numbers are equal up to rounding."
FLOAT = "Leave it out: the net then runs in float, not in 8 bits."
STRICT_SHAPES = "Leave it out: weights have to fit in every dimension here."
SCORING = "Leave it out: only scoring needs it."
DRAWING = "Leave it out: it only writes files or pictures."
SCALE = "Write a Scale layer with bias_term: true behind."
RELU = "Write a ReLU layer behind."


HARMLESS = {NO_NUMBER, ROUNDING, FLOAT, STRICT_SHAPES, SCORING, DRAWING}


def _of(owners: str, names: str, cure: str = "") -> dict[str, Foreign]:
    return dict.fromkeys(names.split(), Foreign(owners, cure, cure in HARMLESS))


_LAYER = {
    **_of(f"{DEEPLAB}, {DECONVNET}", "seg_accuracy_param interp_param"),
    **_of(f"{SEGNET}, {DECONVNET}, PSPNet's, TSN's", "bn_param"),
    **_of(f"{SEGNET}, YOLO ports'", "upsample_param"),
    **_of(SEGNET, "dense_image_data_param"),
    **_of(DECONVNET, "unpooling_param"),
    **_of("CRF-RNN's", "multi_stage_meanfield_param"),
    **_of(SSD, "permute_param prior_box_param detection_output_param norm_param annotated_data_param"),
    **_of(SSD, "multibox_loss_param detection_evaluate_param video_data_param"),
    **_of("happynear's", "normalize_param"),
    **_of(f"{RCNN}, Intel's, TSN's", "roi_pooling_param"),
    **_of(f"{RCNN}, Intel's", "smooth_l1_loss_param"),
    **_of("R-FCN's, Intel's", "psroi_pooling_param box_annotator_ohem_param"),
    **_of("ShuffleNet's", "shuffle_channel_param channel_shuffle_param"),
    **_of(DEEPLAB, "dense_crf_param mat_write_param mat_read_param domain_transform_param"),
    **_of(DEEPLAB1, "padding_param softmaxloss_param"),
    **_of("MobileNet's", "relu6_param"),
    **_of(FLOWNET, "correlation_param resample_param augmentation_param l1_loss_param"),
    **_of("MNC's, Mask R-CNN ports'", "roi_warping_param roi_align_param"),
    **_of("Faster R-CNN ports'", "proposal_param"),
    **_of("YOLO ports'", "region_loss_param reorg_param yolov3_param yolov3_detection_output_param"),
    **_of("NVIDIA's", "forward_type backward_type forward_math backward_math debug cudnn_math_override", NO_NUMBER),
    **_of("Intel's", "engine multinode mn_activation_param mn_grad_compress_param", NO_NUMBER),
    **_of("Intel's", "quantization_param", FLOAT),
    **_of(DEEPLAB1, "strict_dim", STRICT_SHAPES),
}

FIELDS: dict[str, dict[str, Foreign]] = {
    "NetParameter": {
        **_of("NVIDIA's", "default_forward_type default_backward_type default_forward_math", NO_NUMBER),
        **_of("NVIDIA's", "default_backward_math global_grad_scale global_grad_scale_adaptive", NO_NUMBER),
        **_of("NVIDIA's", "default_conv_algos_override reduce_buckets default_cudnn_math_override", NO_NUMBER),
        **_of("NVIDIA's", "eltwise_mem_sharing", NO_NUMBER),
        **_of("Intel's", "engine compile_net_state multinode bn_stats_batch_size", NO_NUMBER),
    },
    "LayerParameter": _LAYER,
    "V1LayerParameter": _LAYER,
    "ConvolutionParameter": {
        **_of(DEEPLAB1, "hole", "Write dilation: with the same number."),
        **_of(DEEPLAB1, "hole_h hole_w", "Write dilation: twice, first for the height, then for the width."),
        **_of("NVIDIA's", "cudnn_convolution_algo_seeker conv_algos_override", NO_NUMBER),
        **_of("Intel's", "conv_algorithm", NO_NUMBER),
        **_of("Intel's", "relu negative_slope", RELU),
        **_of("Intel's", "fusion_type coeff fuse", "Write the fused layers behind, each by itself."),
    },
    "InnerProductParameter": _of("Intel's", "relu negative_slope", RELU),
    "ReLUParameter": _of("Intel's", "fuse"),
    "PoolingParameter": {
        **_of("Intel's", "avg_include_pad"),
        **_of("several authors'", "kernel_size_3d pad_3d stride_3d"),
        **_of("NVIDIA's", "torch_pooling", NO_NUMBER),
    },
    "BatchNormParameter": {
        **_of("NVIDIA's", "scale_bias scale_filler", SCALE),
        **_of("NVIDIA's, Intel's", "bias_filler", SCALE),
        **_of("Intel's", "use_weight_bias bias_term filler", SCALE),
        **_of("Intel's", "relu", RELU),
        **_of("Intel's", "stats_batch_size"),
        **_of("NVIDIA's, Intel's", "engine", ROUNDING),
    },
    "EltwiseParameter": _of("Intel's, NVIDIA's", "engine", ROUNDING),
    "ConcatParameter": _of("Intel's", "engine", ROUNDING),
    "LossParameter": {
        **_of(SEGNET, "weight_by_label_freqs class_weighting", "Without it all classes weigh the same."),
        **_of("R-FCN's", "pre_fixed_normalizer"),
        **_of("NVIDIA's, Intel's", "label_smoothing"),
    },
    "DropoutParameter": {
        **_of(RCNN, "scale_train"),
        **_of(SEGNET, "sample_weights_test", "Without it TEST draws no samples."),
    },
    "DataParameter": {
        **_of("NVIDIA's", "threads parser_threads cache precache", NO_NUMBER),
        **_of("NVIDIA's, Intel's", "shuffle", "Shuffle when the database is made."),
    },
    "ImageDataParameter": {
        **_of(f"{DEEPLAB}, {DECONVNET}", "ignore_label label_type"),
        **_of(SEGNET, "label_divide_factor"),
        **_of("Intel's", "min_height min_width"),
        **_of(DECONVNET, "has_label max_labels other_object_label"),
    },
    "TransformationParameter": {
        **_of(DEEPLAB, "scale_factors crop_height crop_width"),
        **_of(SSD, "resize_param noise_param distort_param expand_param emit_constraint crop_h crop_w"),
        **_of("NVIDIA's", "use_gpu_transform display num_labels forward_packing", NO_NUMBER),
        **_of("NVIDIA's", "img_rand_resize_lower img_rand_resize_upper rand_resize_ratio_lower"),
        **_of("NVIDIA's", "rand_resize_ratio_upper vertical_stretch_lower vertical_stretch_upper"),
        **_of("NVIDIA's", "horizontal_stretch_lower horizontal_stretch_upper interpolation_algo_up"),
        **_of("NVIDIA's", "interpolation_algo_down allow_upscale random_seed"),
        **_of("Intel's", "random_resize_param random_aspect_ratio_param bgr2rgb pad flow"),
        **_of("TSN's", "fix_crop more_fix_crop multi_scale max_distort scale_ratios is_flow"),
        **_of("happynear's", "center_crop erase_ratio scale_min scale_max aspect_min aspect_max"),
    },
    "DetectionOutputParameter": _of(SSD, "save_output_param visualize visualize_threshold save_file", DRAWING),
    "ParamSpec": _of("several authors'", "force_mult param_propagate_down"),
    "SolverParameter": {
        **_of("NVIDIA's", "store_blobs_in_old_format solver_data_type", NO_NUMBER),
        **_of("Intel's", "test_offset disabled_update engine", NO_NUMBER),
        **_of("SSD's", "eval_type ap_version show_per_class_result", SCORING),
        **_of("SSD's, NVIDIA's", "plateau_winsize", "Caffe 1.0 has no policy of this kind."),
        **_of("NVIDIA's", "momentum_policy max_momentum momentum_power", "Without it the momentum is constant."),
        **_of(
            "NVIDIA's", "larc larc_policy larc_eta larc_turbo", "Without it the rates of layers are lr_mult's alone."
        ),
        **_of(
            "NVIDIA's", "weight_decay_policy weight_decay_power max_weight_decay", "Without it the decay is constant."
        ),
        **_of("NVIDIA's", "rampup_interval rampup_lr min_lr", "Begin with a solver of a lower base_lr in its place."),
        **_of("Intel's", "warmup_iter warmup_start_lr", "Begin with a solver of a lower base_lr in its place."),
        **_of("Intel's", "stagelr stageiter", 'Write lr_policy: "multistep" where it fits.'),
        **_of("Intel's", "local_lr_auto local_gw_ratio", "Without it the rates of layers are lr_mult's alone."),
    },
}

# Words of an enum, by the field's name.
VALUES: dict[str, dict[str, Foreign]] = {
    "engine": _of("Intel's", "MKL2017 MKLDNN MKL_DNN", ROUNDING),
    "normalization": _of("R-FCN's, Intel's", "PRE_FIXED", "Write FULL or VALID: the divisor then differs."),
}


def foreign_field(message: str, field: str) -> Foreign | None:
    """Return whose a field is, if it is of a fork that is known. message: such as ConvolutionParameter."""
    return FIELDS.get(message, {}).get(field)


def foreign_value(field: str, word: str) -> Foreign | None:
    """Return whose a word of an enum is, if it is of a fork that is known."""
    return VALUES.get(field, {}).get(word)
