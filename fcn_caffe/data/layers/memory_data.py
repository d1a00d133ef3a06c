"""MemoryData: batches of arrays that are set on the layer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fcn_caffe.data.prefetch import draws, reading_order
from fcn_caffe.data.readers.datum import array_of_datum
from fcn_caffe.data.transformer import Transformer
from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, of_shape, register
from fcn_caffe.proto import caffe_pb2

Array = npt.NDArray[Any]
_log = logging.getLogger("fcn_caffe.data")


@register("MemoryData", bottoms=0, tops=2, restrictions="arrays are set on the layer: net.layer(name).set_input_arrays")
class MemoryData(Layer):
    """Batches of arrays given by `set_input_arrays`, or of images given by `add_images` or `add_datums`.

    Shapes: () -> (batch_size, channels, height, width), (batch_size, 1, 1, 1); when the net is built the labels are
    (batch_size,), as in Caffe. After the last batch the first comes again.
    Units: transform_param's for images and Datums; arrays are taken as they are.
    Raises: LayerError for sizes that are not positive, arrays that do not fit, a forward without data.
    Source: Caffe MemoryDataLayer.
    """

    remembers = True

    untraced = "walks through arrays"

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.memory_data_param
        self.size = int(options.batch_size)
        self.shape = int(options.channels), int(options.height), int(options.width)
        if min(self.size, *self.shape) < 1:
            raise self.error("batch_size, channels, height and width of memory_data_param must be given and positive.")
        self.transformer = Transformer(param.transform_param, param.phase, self.surroundings)
        self.seed = int(torch.randint(2**31 - 1, (1,), device="cpu")) if self.transformer.is_random else 0
        self.data: npt.NDArray[np.float32] | None = None
        self.labels: npt.NDArray[np.float32] = np.empty(0, np.float32)
        self.position = 0
        self.added = 0  # how often images were added; it selects their random numbers
        self.unread = False  # whether forward has still to reach the end of images that were added

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return of_shape(self.size, *self.shape), of_shape(self.size)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        if self.data is None:
            raise self.error(
                "has no data yet. From Python: net.set_input_arrays(data, labels) of `import caffe`, where a solver's "
                f"nets are solver.net and solver.test_nets[0]; or net.layer('{self.name}').set_input_arrays(data, "
                "labels) of fcn_caffe.Net. A command has no arrays: give such a net Data or HDF5Data."
            )
        rows = slice(self.position, self.position + self.size)
        self.position = (self.position + self.size) % len(self.data)
        self.unread = self.unread and self.position != 0
        labels = torch.from_numpy(self.labels[rows].copy())
        return torch.from_numpy(self.data[rows].copy()), labels.reshape(-1, 1, 1, 1)

    def set_input_arrays(self, data: Array, labels: Array) -> None:
        """Take arrays, without a transform, and start at their first row.

        Shapes: (n, channels, height, width), (n,) or (n, 1, 1, 1), float32; n a multiple of batch_size. The arrays are
        not copied.
        Source: pycaffe's Net.set_input_arrays.

        Raises:
            LayerError: for arrays of another shape or type.
        """
        labels = labels.reshape(len(labels)) if labels.ndim == 4 and labels.shape[1:] == (1, 1, 1) else labels
        for name, array, wanted in (("data", data, self.shape), ("labels", labels, ())):
            if array.dtype != np.float32:
                raise self.error(f"{name} must be float32, got {array.dtype}.")
            if array.shape[1:] != wanted or array.ndim != 1 + len(wanted):
                raise self.error(f"{name} must be {show(('n', *wanted))}, got {show(array.shape)}.")  # type: ignore[arg-type]
            if not array.flags.c_contiguous:
                raise self.error(f"{name} must be C contiguous: use numpy.ascontiguousarray.")
        if len(data) != len(labels):
            raise self.error(f"data has {len(data)} rows, labels {len(labels)}: give each row one label.")
        self._check_count(len(data), "arrays hold")
        if self.param.HasField("transform_param"):
            _log.warning("layer '%s' (MemoryData): transform_param does not act on arrays, only on images.", self.name)
        self.data, self.labels, self.position, self.unread = data, labels, 0, False

    def add_images(self, images: Sequence[npt.NDArray[np.uint8]], labels: Sequence[int]) -> None:
        """Take images, transformed by transform_param, and start at the first.

        Shapes: (H, W, C) uint8 each, BGR as OpenCV has them, (channels, height, width) once transformed; as many as a
        multiple of batch_size.
        Source: Caffe AddMatVector.

        Raises:
            LayerError: where they are not, or where those added before are not all read yet.
            DataError: as the transform does.
        """
        if any(image.dtype != np.uint8 or image.ndim != 3 for image in images):
            raise self.error("images must be uint8 arrays, height x width x channels.")
        self._add([image.transpose(2, 0, 1) for image in images], labels)

    def add_datums(self, datums: Sequence[caffe_pb2.Datum]) -> None:
        """Take Datum messages as `add_images` takes images; encoded ones are decoded.

        Source: Caffe AddDatumVector.
        """
        arrays = [array_of_datum(datum, "Datum", self.transformer.colour(datum.encoded)) for datum in datums]
        self._add(arrays, [datum.label for datum in datums])

    def set_batch_size(self, size: int) -> None:
        """Change the batch size for what is set next.

        Raises:
            LayerError: while added images are not all read.
        """
        self._check_read()
        if size < 1:
            raise self.error(f"batch_size must be positive, got {size}.")
        self.size, self.data = size, None

    def _add(self, images: list[Array], labels: Sequence[int]) -> None:
        self._check_read()
        if len(images) != len(labels):
            raise self.error(f"{len(images)} images and {len(labels)} labels: give each image one label.")
        self._check_count(len(images), "there are")
        random = draws(self.seed, self.added)
        transformed = [self.transformer(image, random, f"image {index}") for index, image in enumerate(images)]
        for image in transformed:
            if image.shape != self.shape:
                raise self.error(f"images are {show(image.shape)} once transformed, expected {show(self.shape)}.")
        self.data, self.labels = np.stack(transformed), np.array(labels, np.float32)
        self.position, self.unread, self.added = 0, True, self.added + 1

    def _check_read(self) -> None:
        if self.unread:
            raise self.error("images that were added before are not read yet: run forward until they are.")

    def _check_count(self, count: int, what: str) -> None:
        if count == 0 or count % self.size:
            raise self.error(f"{what} {count} images: give a positive multiple of batch_size, {self.size}.")

    def data_state(self) -> dict[str, int]:
        return {"seed": self.seed, "added": self.added, "position": self.position}

    def load_data_state(self, state: dict[str, Any]) -> None:
        with reading_order(self):
            self.seed, self.added, position = (int(state[key]) for key in ("seed", "added", "position"))
        self.position = position if self.data is not None and position < len(self.data) else 0
