"""The layer types of BVLC Caffe 1.0, the options that each reads, and the older words for them."""

from __future__ import annotations

from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.upgrade import modern_type
from fcn_caffe.proto.upgrade_v0 import V0_TYPES

__all__ = ["OPTIONS", "modern_name", "options_with", "v1_word"]

# Type -> the field of LayerParameter that holds its options; empty for a type without options.
OPTIONS = {
    "AbsVal": "",
    "Accuracy": "accuracy_param",
    "ArgMax": "argmax_param",
    "BNLL": "",
    "BatchNorm": "batch_norm_param",
    "BatchReindex": "",
    "Bias": "bias_param",
    "Clip": "clip_param",
    "Concat": "concat_param",
    "ContrastiveLoss": "contrastive_loss_param",
    "Convolution": "convolution_param",
    "Crop": "crop_param",
    "Data": "data_param",
    "Deconvolution": "convolution_param",
    "Dropout": "dropout_param",
    "DummyData": "dummy_data_param",
    "ELU": "elu_param",
    "Eltwise": "eltwise_param",
    "Embed": "embed_param",
    "EuclideanLoss": "",
    "Exp": "exp_param",
    "Filter": "",
    "Flatten": "flatten_param",
    "HDF5Data": "hdf5_data_param",
    "HDF5Output": "hdf5_output_param",
    "HingeLoss": "hinge_loss_param",
    "Im2col": "convolution_param",
    "ImageData": "image_data_param",
    "InfogainLoss": "infogain_loss_param",
    "InnerProduct": "inner_product_param",
    "Input": "input_param",
    "LRN": "lrn_param",
    "LSTM": "recurrent_param",
    "Log": "log_param",
    "MVN": "mvn_param",
    "MemoryData": "memory_data_param",
    "MultinomialLogisticLoss": "",
    "PReLU": "prelu_param",
    "Parameter": "parameter_param",
    "Pooling": "pooling_param",
    "Power": "power_param",
    "Python": "python_param",
    "RNN": "recurrent_param",
    "ReLU": "relu_param",
    "Reduction": "reduction_param",
    "Reshape": "reshape_param",
    "SPP": "spp_param",
    "Scale": "scale_param",
    "Sigmoid": "sigmoid_param",
    "SigmoidCrossEntropyLoss": "loss_param",
    "Silence": "",
    "Slice": "slice_param",
    "Softmax": "softmax_param",
    "SoftmaxWithLoss": "softmax_param",
    "Split": "",
    "Swish": "swish_param",
    "TanH": "tanh_param",
    "Threshold": "threshold_param",
    "Tile": "tile_param",
    "WindowData": "window_data_param",
}
_SHARED_OPTIONS = ("transform_param", "loss_param")  # read by layers of several types, beside their own


def _plain(word: str) -> str:
    return word.replace("_", "").lower()


_V1_WORDS = {
    word: modern_type(number) for word, number in caffe_pb2.V1LayerParameter.LayerType.items() if word != "NONE"
}
_V0_WORDS = {word: _V1_WORDS[v1] for word, (v1, _) in V0_TYPES.items()}
_BY_PLAIN = {_plain(word): name for word, name in _V1_WORDS.items()} | {_plain(name): name for name in OPTIONS}


def modern_name(word: str) -> str:
    """Return the type that a word means: V1's, V0's, or one in other letters; empty for a word of none.

    >>> modern_name("SOFTMAX_LOSS"), modern_name("innerproduct"), modern_name("Relu"), modern_name("ReLU6")
    ('SoftmaxWithLoss', 'InnerProduct', 'ReLU', '')
    """
    return _V0_WORDS.get(word) or _BY_PLAIN.get(_plain(word), "")


def v1_word(type: str) -> str:
    """Return the word that the old `layers` have for a modern type; empty where they have none.

    >>> v1_word("Convolution"), v1_word("BatchNorm")
    ('CONVOLUTION', '')
    """
    return next((word for word, name in _V1_WORDS.items() if name == type), "")


def options_with(field: str, type: str = "") -> list[str]:
    """Return the options messages that have a field: the one that layers of the type read, or all of them.

    >>> options_with("weight_filler", "InnerProduct")
    ['inner_product_param']
    """
    fields = caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name
    having = [
        name
        for name in dict.fromkeys((*OPTIONS.values(), *_SHARED_OPTIONS))
        if name and (message := fields[name].message_type) is not None and field in message.fields_by_name
    ]
    own = [name for name in (OPTIONS.get(type, ""), *_SHARED_OPTIONS) if name in having]
    return own[:1] or having
