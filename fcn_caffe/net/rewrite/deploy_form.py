"""Makes the deploy form of a classifier: images come from outside, losses and other readers of labels are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fcn_caffe.errors import GraphError, LayerError
from fcn_caffe.layers.base import REGISTRY
from fcn_caffe.net.graph import Graph
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.weights.transfer import Array

__all__ = ["deploy_form", "keep_outputs"]

_SOURCES = ("Input", "Parameter")  # layers without bottoms that a deploy form may have


def deploy_form(
    param: caffe_pb2.NetParameter,
    input_size: Sequence[int] | None = None,
    weights: Mapping[str, Sequence[Array]] | None = None,
) -> tuple[caffe_pb2.NetParameter, list[str]]:
    """Copy a filtered NetParameter, with an Input layer in place of its data layer.

    Losses, accuracies and layers that read labels are left out: one label for an image does not fit a map of scores.
    Phase rules are left out too: the form is the same in both phases.

    Args:
        input_size: (H, W) or (C, H, W) of the image; by default the Input layer's shape, or the data layer's crop_size.
        weights: the first layer's say how many channels the image has, where the net does not.

    Returns:
        The deploy form, and the names of the layers that were left out.

    Raises:
        GraphError: the net has no image.
        LayerError: the data layer does not say the image's size.
    """
    form = caffe_pb2.NetParameter()
    form.CopyFrom(param)
    form.ClearField("layer")
    form.ClearField("state")
    gone, left_out = _labels(param), []
    images = 0
    for layer in param.layer:
        if layer.bottom and (_is_judge(layer) or any(bottom in gone for bottom in layer.bottom)):
            gone.update(top for top in layer.top if top not in layer.bottom)
            left_out.append(layer.name)
            continue
        if not layer.bottom and layer.type not in _SOURCES and layer.top[:1] and layer.top[0] in gone:
            left_out.append(layer.name)
            continue
        copy = form.layer.add()
        copy.CopyFrom(layer)
        for field in ("include", "exclude", "phase"):
            copy.ClearField(field)
        if layer.bottom or layer.type == "Parameter":
            continue
        _make_input(copy, param, gone, input_size, weights)
        if not copy.top:
            del form.layer[-1]
            left_out.append(layer.name)
        images += sum(len(shape.dim) > 2 for shape in copy.input_param.shape)
    _check_images(images, param, input_size)
    return form, left_out


def _check_images(images: int, param: caffe_pb2.NetParameter, input_size: Sequence[int] | None) -> None:
    if images == 0:
        raise GraphError(
            f"net '{param.name}' has no input of N x C x H x W. Give it an Input layer of the classifier's image."
        )
    if input_size is not None and images > 1:
        raise GraphError(f"net '{param.name}' has {images} image inputs: give each its size in its Input layer.")


def keep_outputs(param: caffe_pb2.NetParameter, outputs: Sequence[str]) -> caffe_pb2.NetParameter:
    """Copy a net, with the layers alone that some blobs need, such as one of several heads.

    Raises:
        GraphError: the net does not make a blob.
    """
    graph = Graph.from_param(param)
    needed: set[int] = set()
    waiting = []
    for blob in outputs:
        makers = [node.index for node in graph.nodes if blob in node.tops]
        if not makers:
            raise GraphError(f"net '{param.name}' has no blob '{blob}'. Its outputs: {', '.join(graph.outputs)}.")
        waiting.append(makers[-1])
    while waiting:
        index = waiting.pop()
        if index not in needed:
            needed.add(index)
            waiting += [graph.producers[index, place] for place in range(len(graph.nodes[index].bottoms))]
    head = caffe_pb2.NetParameter()
    head.CopyFrom(param)
    head.ClearField("layer")
    head.layer.extend(layer for index, layer in enumerate(param.layer) if index in needed)
    return head


def _is_judge(layer: caffe_pb2.LayerParameter) -> bool:
    """Whether a layer compares an answer with the truth."""
    known = REGISTRY.get(layer.type)
    return layer.type == "Accuracy" or (known is not None and known.loss)


def _labels(param: caffe_pb2.NetParameter) -> set[str]:
    """Return the inputs that only losses and accuracies read, and the data layers' tops other than the image."""
    sources = [layer for layer in param.layer if not layer.bottom and layer.type != "Parameter"]
    labels = {top for layer in sources if layer.type != "Input" for top in layer.top[1:]}
    for layer in sources:
        for top in layer.top:
            readers = [other for other in param.layer if top in other.bottom]
            if readers and all(_is_judge(reader) or reader.type == "Silence" for reader in readers):
                labels.add(top)
    return labels


def _make_input(
    layer: caffe_pb2.LayerParameter,
    param: caffe_pb2.NetParameter,
    gone: set[str],
    input_size: Sequence[int] | None,
    weights: Mapping[str, Sequence[Array]] | None,
) -> None:
    """Turn a layer without bottoms into an Input layer of its images."""
    tops = [top for top in layer.top if top not in gone]
    if layer.type == "Input":
        shapes = [list(shape.dim) for shape in layer.input_param.shape]
        if len(shapes) == 1:
            shapes *= len(layer.top)
        used = [shape for top, shape in zip(layer.top, shapes, strict=False) if top not in gone]
        for shape in used:
            if input_size is not None and len(shape) == 4:
                shape[4 - len(input_size) :] = input_size
    else:
        used = [[1, *_data_shape(layer, param, input_size, weights)] for _ in tops]
    name = layer.name
    layer.Clear()
    layer.name, layer.type = name, "Input"
    layer.top.extend(tops)
    for shape in used:
        layer.input_param.shape.add(dim=shape)


def _data_shape(
    layer: caffe_pb2.LayerParameter,
    param: caffe_pb2.NetParameter,
    input_size: Sequence[int] | None,
    weights: Mapping[str, Sequence[Array]] | None,
) -> tuple[int, ...]:
    size = tuple(input_size or ())
    transform = layer.transform_param
    if not size and layer.type == "DummyData" and layer.dummy_data_param.shape:
        return tuple(layer.dummy_data_param.shape[0].dim[1:])
    if not size and layer.type == "MemoryData":
        memory = layer.memory_data_param
        crop = transform.crop_size
        return memory.channels, crop or memory.height, crop or memory.width
    size = size or picture_size(layer)
    if not size:
        raise LayerError(
            "does not say how large the image is: it has no crop_size. Give --input-size HxW.", layer.name, layer.type
        )
    return size if len(size) == 3 else (_channels(layer, param, size, weights), *size)


def picture_size(layer: caffe_pb2.LayerParameter) -> tuple[int, ...]:
    """Return the height and the width that a data layer crops or resizes its pictures to; () where it does neither."""
    transform, dense = layer.transform_param, layer.dense_image_data_param
    sizes = [(transform.crop_size, transform.crop_size)]
    if layer.type == "ImageSegData":
        sizes.append((transform.crop_height, transform.crop_width))
    if layer.type == "DenseImageData":
        sizes = [(dense.crop_height, dense.crop_width), (dense.new_height, dense.new_width)]
    if layer.type in ("ImageData", "ImageLabelmapData", "ImageSegData"):
        sizes.append((layer.image_data_param.new_height, layer.image_data_param.new_width))
    return next((size for size in sizes if all(size)), ())


def _channels(
    layer: caffe_pb2.LayerParameter,
    param: caffe_pb2.NetParameter,
    size: tuple[int, ...],
    weights: Mapping[str, Sequence[Array]] | None,
) -> int:
    """Return an image's channels: as the first layer's weights take them, as the data layer says, or 3."""
    for reader in param.layer:
        arrays = (weights or {}).get(reader.name)
        if layer.top[0] not in reader.bottom or not arrays:
            continue
        if reader.type == "Convolution" and arrays[0].ndim >= 4:
            return int(arrays[0].shape[1]) * int(reader.convolution_param.group)
        if reader.type == "InnerProduct":
            outputs = int(reader.inner_product_param.num_output)
            return max(1, arrays[0].size // (outputs * size[0] * size[1]))
    transform = layer.transform_param
    if transform.force_gray or not (layer.image_data_param.is_color and layer.dense_image_data_param.is_color):
        return 1
    return len(transform.mean_value) if len(transform.mean_value) > 1 else 3
