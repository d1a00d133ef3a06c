"""Layer types that other Caffes added: whose they are, and what Caffe 1.0 has in their place.

Sources: the forks' own caffe.proto and layers, as far as they were read; nets that use them.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LAYERS", "RUNS", "V1_CROP", "V1_WORDS", "Foreign"]


@dataclass(frozen=True)
class Foreign:
    """A layer type, a field or a value that Caffe 1.0 has not.

    owners: whose Caffe has it. cure: sentences that say what to write instead; empty where there is nothing.
    harmless: whether no forward number of a net, and no step of its training, changes without it.
    """

    owners: str
    cure: str = ""
    harmless: bool = False


SSD = "SSD's, NVIDIA's, Intel's"
RCNN = "Fast R-CNN's, Faster R-CNN's, R-FCN's"
DEEPLAB = "DeepLab's, PSPNet's"
DEEPLAB1 = "DeepLab v1's"
SEGNET = "SegNet's, ENet's"
DECONVNET = "DeconvNet's"
FLOWNET = "FlowNet's"
SCORED = "Take it out: `fcn-caffe score` has its measures."
FED = "Give an Input layer or a data layer that runs here in its place: ImageSegData, DenseImageData."

LAYERS = {
    "AdaptiveBiasChannel": Foreign(DEEPLAB1),
    "AMSoftmax": Foreign("face recognition's"),
    "AnnotatedData": Foreign(SSD, "Only training needs it: give deploy nets an Input layer."),
    "AutoCrop": Foreign("RCF's", "Write Crop; `fcn-caffe doctor` says its offset."),
    "Axpy": Foreign("SENet's", "Write Scale with axis: 0 on the factors, shaped N x C, and an Eltwise that adds."),
    "BN": Foreign(
        f"SegNet's, ENet's and {DECONVNET} (two blobs) or PSPNet's, ICNet's and TSN's (four blobs)",
        "PSPNet's is BatchNorm, then Scale with a bias.",
    ),
    "BiasChannel": Foreign(DEEPLAB1),
    "BilateralFilter": Foreign("several authors'"),
    "BinAccuracy": Foreign(DECONVNET, SCORED),
    "BoxAnnotatorOHEM": Foreign("R-FCN's", "Only training needs it."),
    "BoxGroupOutput": Foreign("MS-CNN's"),
    "CReLU": Foreign("several authors'", "Write Power with scale: -1, Concat and ReLU."),
    "CPMData": Foreign("OpenPose's", "Only training needs it: give deploy nets an Input layer."),
    "CTCLoss": Foreign("speech and text recognition's"),
    "CensorLabel": Foreign(DEEPLAB1),
    "CenterLoss": Foreign("face recognition's", "Only training needs it."),
    "ChannelAggregator": Foreign(DEEPLAB1),
    "ChannelNorm": Foreign(FLOWNET),
    "ChannelShuffle": Foreign("ShuffleNet's"),
    "ConvolutionDepthwise": Foreign(
        "MobileNet's, ShuffleNet's",
        'Write type: "Convolution" with num_output and group equal to the channels of the bottom.',
    ),
    "Convolution3D": Foreign("C3D's", "Write Convolution on a 5-D blob, with a size for each axis."),
    "Correlation": Foreign(FLOWNET),
    "Correlation1D": Foreign("DispNet's"),
    "CustomData": Foreign(FLOWNET),
    "DataAugmentation": Foreign(FLOWNET),
    "Deconvolution3D": Foreign("C3D's", "Write Deconvolution on a 5-D blob."),
    "DeformableConvolution": Foreign("Deformable ConvNets'"),
    "DeformablePSROIPooling": Foreign("Deformable ConvNets'"),
    "DenseBlock": Foreign("DenseNet's"),
    "DenseCRF": Foreign(DEEPLAB, "Take it out: infer --crf and score --crf refine the scores."),
    "DenseImageData": Foreign(SEGNET, "Write a Python layer that reads the images, or give an Input layer."),
    "DepthwiseConvolution": Foreign("MobileNet's", 'Write type: "Convolution": its options and weights are the same.'),
    "DetectNetTransformation": Foreign("NVIDIA's", "Only training needs it."),
    "DetectionEvaluate": Foreign(SSD, "Only scoring needs it."),
    "DetectionOutput": Foreign(SSD, "Take it out and decode the boxes in the script."),
    "DiceLoss": Foreign("V-Net's and others'"),
    "DomainTransform": Foreign(DEEPLAB),
    "DominantChannel": Foreign(DEEPLAB1),
    "Downsample": Foreign(FLOWNET),
    "DropoutChannel": Foreign(DECONVNET),
    "EltwiseAccuracy": Foreign(DECONVNET, SCORED),
    "FlowWarp": Foreign(FLOWNET),
    "FocalLoss": Foreign("several authors'", "Only training needs it."),
    "GainChannel": Foreign(DEEPLAB1),
    "GenerateAugmentationParameters": Foreign(FLOWNET),
    "Histogram": Foreign(DEEPLAB1),
    "IgnoreOverlay": Foreign(DEEPLAB1),
    "ImResize": Foreign("OpenPose's", "Resize in the script."),
    "ImageLabelmapData": Foreign("HED's, RCF's, OSVOS's", "Write a Python layer that reads the images."),
    "ImageSegData": Foreign(f"{DEEPLAB}, {DECONVNET}", "Write a Python layer that reads the images."),
    "Interp": Foreign(
        f"{DEEPLAB}, ICNet's", "It is bilinear with the corners aligned; a Deconvolution is near, not equal."
    ),
    "L1Loss": Foreign(f"NVIDIA's, {FLOWNET}", "Only training needs it."),
    "LabelSpecificAdd": Foreign("face recognition's"),
    "LabelSpecificMargin": Foreign("face recognition's"),
    "LpqLoss": Foreign(FLOWNET),
    "Lstm": Foreign("several authors'", "Caffe 1.0 has LSTM, whose blobs differ."),
    "MarginInnerProduct": Foreign("SphereFace's", "In a deploy net write InnerProduct."),
    "LargeMarginInnerProduct": Foreign("L-Softmax's", "In a deploy net write InnerProduct."),
    "MatRead": Foreign(DEEPLAB),
    "MatWrite": Foreign(DEEPLAB, "Take it out: it writes a file, and no layer reads it.", harmless=True),
    "Mish": Foreign("YOLO ports'"),
    "MultiBoxLoss": Foreign(SSD, "Only training needs it."),
    "MultiStageMeanfield": Foreign("CRF-RNN's", "The scores are its first bottom: take it out to have them."),
    "Mean": Foreign(FLOWNET),
    "NNUpsample": Foreign("several authors'", "Write Deconvolution with group, stride and a kernel of ones."),
    "Nms": Foreign("OpenPose's", "Find the maxima in the script."),
    "Normalize": Foreign(f"{SSD}, happynear's"),
    "OneHot": Foreign(DEEPLAB1),
    "PSROIPooling": Foreign("R-FCN's, Intel's"),
    "PSROIAlign": Foreign("R-FCN ports'"),
    "Padding": Foreign(DEEPLAB1),
    "Permute": Foreign(f"{SSD}, happynear's", "Transpose in the script where it is an output."),
    "Pooling3D": Foreign("C3D's"),
    "PriorBox": Foreign(SSD, "Compute the boxes in the script: they depend on shapes alone."),
    "Proposal": Foreign("Faster R-CNN's ports", "py-faster-rcnn has it as a Python layer."),
    "RedAccuracy": Foreign(DECONVNET, SCORED),
    "RedSoftmaxLoss": Foreign(DECONVNET),
    "ROIAlign": Foreign("Mask R-CNN's ports"),
    "ROIPooling": Foreign(f"{RCNN}, Intel's, TSN's"),
    "ROIWarping": Foreign("MNC's"),
    "ReLU6": Foreign("MobileNet's", "Write ReLU, then Clip with clip_param { min: 0 max: 6 }."),
    "ReLUX": Foreign("soeaver's", "Write ReLU, then Clip."),
    "Region": Foreign("YOLO ports'"),
    "RegionLoss": Foreign("YOLO ports'"),
    "RelativeError": Foreign(DEEPLAB1),
    "Reorg": Foreign("YOLO ports'"),
    "Resample": Foreign(FLOWNET),
    "Resize": Foreign("several authors'"),
    "Reverse": Foreign("several authors'"),
    "SegAccuracy": Foreign(DEEPLAB, SCORED),
    "SelectSegBinary": Foreign(DECONVNET),
    "ShuffleChannel": Foreign("ShuffleNet's"),
    "SigmoidCrossEntropyBalanceLoss": Foreign("OSVOS's", "Only training needs it."),
    "Silu": Foreign("several authors'", 'Write type: "Swish".'),
    "SmoothL1Loss": Foreign(f"{RCNN}, SSD's", "Only training needs it."),
    "SmoothL1LossOHEM": Foreign("R-FCN's", "Only training needs it."),
    "SoftmaxWithFocalLoss": Foreign("several authors'", "Only training needs it."),
    "SoftmaxWithLossOHEM": Foreign("R-FCN's", "Only training needs it."),
    "SpatialTransformer": Foreign("several authors'"),
    "Transpose": Foreign("several authors'"),
    "TripletLoss": Foreign("several authors'", "Only training needs it."),
    "UniqueLabel": Foreign(DEEPLAB1),
    "Unpooling": Foreign(DECONVNET),
    "Upsample": Foreign(f"{SEGNET} (two bottoms) or YOLO ports' (one bottom)"),
    "VideoData": Foreign("TSN's, C3D's", "Give deploy nets an Input layer."),
    "WarpCTC": Foreign("speech and text recognition's"),
    "WarpCTCLoss": Foreign("speech and text recognition's"),
    "WindowClsData": Foreign(DECONVNET, FED),
    "WindowInstSegData": Foreign(DECONVNET, FED),
    "WindowSegBinary": Foreign(DECONVNET),
    "WindowSegData": Foreign(DECONVNET, FED),
    "YoloDetectionOutput": Foreign("YOLO ports'"),
    "Yolov3": Foreign("YOLO ports'"),
    "Yolov3DetectionOutput": Foreign("YOLO ports'"),
}

# Those of LAYERS that run here: `layers/forks/` and `data/layers/` have them.
RUNS = frozenset(
    {
        "AutoCrop",
        "Axpy",
        "BN",
        "ConvolutionDepthwise",
        "DepthwiseConvolution",
        "DenseImageData",
        "DetectionOutput",
        "ImageLabelmapData",
        "ImageSegData",
        "Interp",
        "MultiStageMeanfield",
        "Normalize",
        "Padding",
        "Permute",
        "PriorBox",
        "PSROIPooling",
        "ReLU6",
        "ROIPooling",
        "SegAccuracy",
        "ShuffleChannel",
        "SigmoidCrossEntropyBalanceLoss",
        "SmoothL1Loss",
        "Unpooling",
        "Upsample",
    }
)

# Words of the old `layers { type: … }` that Caffe 1.0 has not, with the modern name of the type.
# The first FCN release's Crop, which has no options: its offset comes from the coordinate map of the net.
V1_CROP = "CROP"
V1_WORDS = {
    "ADAPTIVE_BIAS_CHANNEL": "AdaptiveBiasChannel",
    "BIAS_CHANNEL": "BiasChannel",
    "BIN_ACCURACY": "BinAccuracy",
    "BN": "BN",
    "CENSOR_LABEL": "CensorLabel",
    "CHANNEL_AGGREGATOR": "ChannelAggregator",
    "DENSE_CRF": "DenseCRF",
    "DOMINANT_CHANNEL": "DominantChannel",
    "DROPOUT_CHANNEL": "DropoutChannel",
    "ELTWISE_ACCURACY": "EltwiseAccuracy",
    "GAIN_CHANNEL": "GainChannel",
    "HISTOGRAM": "Histogram",
    "IGNORE_OVERLAY": "IgnoreOverlay",
    "IMAGE_SEG_DATA": "ImageSegData",
    "INTERP": "Interp",
    "MAT_READ": "MatRead",
    "MAT_WRITE": "MatWrite",
    "MULTI_STAGE_MEANFIELD": "MultiStageMeanfield",
    "ONEHOT": "OneHot",
    "PADDING": "Padding",
    "RED_ACCURACY": "RedAccuracy",
    "RED_SOFTMAX_LOSS": "RedSoftmaxLoss",
    "RELATIVE_ERROR": "RelativeError",
    "ROI_POOLING": "ROIPooling",
    "SEG_ACCURACY": "SegAccuracy",
    "SELECT_SEG_BINARY": "SelectSegBinary",
    "SMOOTH_L1_LOSS": "SmoothL1Loss",
    "UNIQUE_LABEL": "UniqueLabel",
    "UNPOOLING": "Unpooling",
    "WINDOW_CLS_DATA": "WindowClsData",
    "WINDOW_INST_SEG_DATA": "WindowInstSegData",
    "WINDOW_SEG_BINARY": "WindowSegBinary",
    "WINDOW_SEG_DATA": "WindowSegData",
}
