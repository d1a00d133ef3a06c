"""caffe.coord_map: maps of layers, their composition, and crops, with pycaffe's numbers and failures."""

from __future__ import annotations

import numpy as np
import pytest

from fcn_caffe import GraphError
from fcn_caffe.pycaffe import NetSpec
from fcn_caffe.pycaffe import layers as L
from fcn_caffe.pycaffe import params as P
from fcn_caffe.pycaffe.coord_map import (
    PASS_THROUGH_LAYERS,
    AxisMismatchException,
    UndefinedMapException,
    compose,
    conv_params,
    coord_map,
    coord_map_from_to,
    crop,
    crop_params,
    inverse,
)


def spec(ks=3, stride=1, pad=0, pool=2, dstride=2, dpad=0):
    """Convolve, pool, and undo the pooling."""
    n = NetSpec()
    n.data = L.Input(shape={"dim": [2, 1, 100, 100]})
    n.conv = L.Convolution(n.data, num_output=10, kernel_size=ks, stride=stride, pad=pad)
    n.pool = L.Pooling(n.conv, pool=P.Pooling.MAX, kernel_size=pool, stride=pool, pad=0)
    n.deconv = L.Deconvolution(
        n.pool, convolution_param={"num_output": 10, "kernel_size": dstride * 2, "stride": dstride, "pad": dpad}
    )
    return n


def shown(found):
    return found[0], np.atleast_1d(found[1]).tolist(), np.atleast_1d(found[2]).tolist()


FNS = {
    "conv": (L.Convolution(L.Input(), kernel_size=5, stride=2, pad=1), (1, [0.5], [-0.5])),
    "dilated": (L.Convolution(L.Input(), kernel_size=3, dilation=3, pad=2), (1, [1], [-1])),
    "nested": (L.Convolution(L.Input(), convolution_param={"kernel_size": [3, 5], "axis": 2}), (2, [1], [-1, -2])),
    "pool": (L.Pooling(L.Input(), kernel_size=2, stride=2), (1, [0.5], [-0.25])),
    "nested pool": (L.Pooling(L.Input(), pooling_param={"kernel_size": 2, "stride": 2}), (1, [0.5], [-0.25])),
    "im2col": (L.Im2col(L.Input(), kernel_size=3, pad=1), (1, [1], [0])),
    "deconv": (L.Deconvolution(L.Input(), kernel_size=4, stride=2, pad=1), (1, [2], [0.5])),
    "crop": (L.Crop(L.Input(), L.Input(), axis=2, offset=[3, 4]), (1, [1], [-3, -4])),
    "default crop": (L.Crop(L.Input(), L.Input()), (1, [1], [0])),
    "relu": (L.ReLU(L.Input()), (None, [1], [0])),
}


@pytest.mark.parametrize("case", FNS)
def test_maps_of_layers(case):
    top, wanted = FNS[case]
    assert shown(coord_map(top.fn)) == wanted


def test_parameters_of_layers():
    axis, stride, kernel, pad = conv_params(L.Convolution(L.Input(), kernel_size=3, dilation=2, pad=[1, 2]).fn)
    assert (axis, stride.tolist(), kernel.tolist(), pad.tolist()) == (1, [1], [5], [1, 2])
    axis, offset = crop_params(L.Crop(L.Input(), L.Input(), crop_param={"axis": 3, "offset": 7}).fn)
    assert (axis, offset.tolist()) == (3, [7])
    with pytest.raises(AssertionError, match="do not take kernel_h, kernel_w"):
        conv_params(L.Convolution(L.Input(), kernel_h=3, kernel_w=3).fn)


def test_types_without_a_map():
    assert "ReLU" in PASS_THROUGH_LAYERS and "Concat" not in PASS_THROUGH_LAYERS
    for top in (L.InnerProduct(L.Input()), L.Concat(L.Input()), L.Pooling(L.Input(), global_pooling=True)):
        with pytest.raises(UndefinedMapException, match=top.fn.type_name):
            coord_map(top.fn)


def test_compose_and_inverse():
    assert compose((1, 2, 3), (1, 5, 7)) == (1, 10, 17)
    assert compose((None, 1, 0), (1, 5, 7)) == (1, 5, 7) == compose((1, 5, 7), (None, 1, 0))
    assert inverse((1, 2, 3)) == (1, 0.5, -1.5)
    with pytest.raises(AxisMismatchException, match="after axis 1, the other after axis 2"):
        compose((1, 1, 0), (2, 1, 0))
    assert issubclass(AxisMismatchException, GraphError) and issubclass(UndefinedMapException, GraphError)


def test_pass_through_layers_and_one_by_one_convolutions_change_nothing():
    n = spec()
    n.relu = L.ReLU(n.deconv)
    n.one = L.Convolution(n.relu, num_output=10, kernel_size=1)
    found = shown(coord_map_from_to(n.deconv, n.data))
    assert found == (1, [1], [0])  # the convolution takes one, 2x2 pooling and 4x4 upsampling give it back
    assert shown(coord_map_from_to(n.relu, n.data)) == shown(coord_map_from_to(n.one, n.data)) == found


def test_padding_a_convolution_adds_and_padding_a_deconvolution_subtracts():
    n, padded, up_padded = spec(), spec(pad=7), spec(dpad=7)
    shift = coord_map_from_to(n.deconv, n.data)[2]
    assert coord_map_from_to(padded.deconv, padded.data)[2] == shift - 7
    assert coord_map_from_to(up_padded.deconv, up_padded.data)[2] == shift + 7


def test_each_axis_has_its_own():
    n = NetSpec()
    n.data = L.Input(shape={"dim": [2, 3, 100, 100, 100]})
    n.conv = L.Convolution(n.data, num_output=10, kernel_size=[3, 3, 3], stride=[1, 1, 1], pad=[0, 1, 2])
    n.pool = L.Pooling(n.conv, pool=P.Pooling.MAX, kernel_size=2, stride=2, pad=0)
    n.deconv = L.Deconvolution(n.pool, num_output=10, kernel_size=4, stride=2, pad=0)
    axis, scale, shift = coord_map_from_to(n.deconv, n.data)
    assert axis == 1 and np.all(scale == 1) and shift.tolist() == [0, -1, -2]


def test_crops_of_crops():
    n = spec()
    n.crop = L.Crop(n.deconv, n.data, axis=2, offset=5)
    assert shown(coord_map_from_to(n.crop, n.data)) == (1, [1], [5])


def test_crop():
    n = spec(pad=5)
    made = crop(n.deconv, n.data)
    assert made.fn.params == {"crop_param": {"axis": 2, "offset": [5]}} and made.fn.inputs == (n.deconv, n.data)
    assert made.to_proto().layer[-1].crop_param.offset == [5]
    assert crop(L.ReLU(n.data), n.data).fn.params["crop_param"] == {"axis": 2, "offset": [0]}


FAILURES = {
    "unconnected": (lambda: coord_map_from_to(L.InnerProduct(spec().deconv), spec().data), RuntimeError, "in common"),
    "scale": (lambda: crop((n := spec(pool=3)).deconv, n.data), AssertionError, "scale mismatch on crop"),
    "negative": (lambda: crop((n := spec(dpad=10)).deconv, n.data), AssertionError, "cannot crop negative offset"),
    "fraction": (lambda: crop((n := spec(ks=4, pad=3)).deconv, n.data), AssertionError, "noninteger offset"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures(case):
    act, kind, message = FAILURES[case]
    with pytest.raises(kind, match=message) as caught:
        act()
    assert isinstance(caught.value, GraphError)
