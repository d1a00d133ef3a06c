"""RCF's AutoCrop."""

from __future__ import annotations

from fcn_caffe.layers.base import register
from fcn_caffe.layers.shape import Crop


@register("AutoCrop", bottoms=2, forks="RCF")
class AutoCrop(Crop):
    """Crop both spatial axes at the offset that the coordinate map of the net gives.

    The net derives the offset when it is read, and writes it as crop_param. Crop without crop_param is the same in nets
    of HED, CRF-RNN, DeconvNet and the first FCN release, as is V1's CROP.
    Shapes: (N, C, H, W), (*, *, h, w) -> (N, C, h, w).
    Gradient: to bottom 0.
    Raises: GraphError where the map gives no offset; LayerError if offset + size exceeds bottom 0.
    Source: RCF's AutoCropLayer; longjon's CropLayer.
    """
