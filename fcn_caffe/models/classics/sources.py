"""Data of the classics: the data layers of Caffe's forks that read a list of pictures and label pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fcn_caffe.models.nets import DataSource
from fcn_caffe.models.trunks import NOT_DEPLOYED
from fcn_caffe.net.net_spec import NetSpec, assign_proto
from fcn_caffe.net.net_spec import layers as L
from fcn_caffe.proto import caffe_pb2

__all__ = ["VOC_MEAN", "ListSource", "lists"]

VOC_MEAN = (104.008, 116.669, 122.675)  # DeepLab's: a digit less than FCN's


@dataclass(frozen=True)
class ListSource(DataSource):
    """A fork's data layer. `module` is its type; `train` and `test` hold the name of its list and its options.

    An option that is a mapping, as transform_param, goes to the layer; the others go to the type's own message.
    ImageSegData has a third top, the pictures' sizes, that a Silence layer swallows.
    """

    @property
    def tops(self) -> list[str]:
        """The names of the tops, images first."""
        return [*super().tops, "data_dim"] if self.module == "ImageSegData" else super().tops

    def finish(self, n: NetSpec, name: str) -> caffe_pb2.NetParameter:
        """Build the net as `DataSource.finish` does; a top that nothing reads is silenced."""
        if "data_dim" in self.tops:
            n.silence = L.Silence(n.data_dim, ntop=0, exclude=NOT_DEPLOYED)
        return super().finish(n, name)

    def data_layer(self, layer: str, options: Mapping[str, Any]) -> caffe_pb2.LayerParameter:
        """Build one data layer: of the type, reading the list `layer`."""
        own = "dense_image_data_param" if self.module == "DenseImageData" else "image_data_param"
        data = caffe_pb2.LayerParameter(name=self.tops[0], type=self.module, top=self.tops)
        messages = {key: value for key, value in options.items() if isinstance(value, Mapping)}
        plain = {key: value for key, value in options.items() if key not in messages and key != "fork"}
        for key, value in {**messages, own: {"source": layer, **plain}}.items():
            assign_proto(data, key, value)
        if "fork" in options:
            data.fork = options["fork"]
        return data


def lists(
    kind: str,
    folder: str,
    train: Mapping[str, Any],
    test: Mapping[str, Any],
    size: tuple[int, int],
    *,
    names: tuple[str, str] = ("train.txt", "val.txt"),
    channels: int = 3,
) -> ListSource:
    """Return the data of two list files in a folder.

    Args:
        kind: the data layer's type.
        folder: where the lists are.
        train: the layer's options in training.
        test: the layer's options in testing.
        size: height and width of the deploy form.
        names: the two lists' names.
        channels: the pictures' channels.
    """
    first, second = (f"{folder}/{name}" for name in names)
    return ListSource(kind, (first, train), (second, test), {"data": channels}, deploy_size=size)
