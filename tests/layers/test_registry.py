"""The registry of layer types: a type has one class, and an unknown one is refused with the nearest name."""

from __future__ import annotations

import pytest
import torch
from helpers import input_layer, layer, make_net
from torch import Tensor

from fcn_caffe import LayerError
from fcn_caffe.layers import Layer, register
from fcn_caffe.layers.base import REGISTRY, SameShapeLayer
from fcn_caffe.layers.shape import Crop


class Double(SameShapeLayer):
    """Twice the bottom."""

    def forward(self, bottom: Tensor) -> Tensor:
        return 2 * bottom


class Triple(SameShapeLayer):
    """Three times the bottom."""

    def forward(self, bottom: Tensor) -> Tensor:
        return 3 * bottom


def run(type: str) -> float:
    net = make_net(input_layer("x", 1), layer("l", type, "x"))
    return float(net({"x": torch.ones(1)})["l"])


def test_a_type_that_is_registered_is_refused_and_stays_as_it_is() -> None:
    with pytest.raises(LayerError) as caught:
        register("Crop", bottoms=5)(Double)
    assert str(caught.value) == (
        "layer type 'Crop' is registered already, as fcn_caffe.layers.shape.Crop; test_registry.Double cannot have it "
        "too. Give the class a type of its own, or write @register('Crop', replace=True)."
    )
    assert REGISTRY["Crop"] is Crop and Crop.bottoms == 2 and Double.layer_type == ""


def test_a_class_is_refused_under_its_own_type_a_second_time_too() -> None:
    register("Double")(Double)
    with pytest.raises(LayerError, match="'Double' is registered already"):
        register("Double")(Double)


def test_replace_takes_the_place_of_the_class_that_has_the_type() -> None:
    register("Twice")(Double)
    assert run("Twice") == 2
    register("Twice", replace=True)(Triple)
    assert run("Twice") == 3


def test_the_decorator_gives_the_class_back() -> None:
    cls: type[Layer] = register("Twice", (1, None), tops=(0, 2), restrictions="none")(Double)
    assert cls is Double
    assert (cls.layer_type, cls.bottoms, cls.tops, cls.restrictions) == ("Twice", (1, None), (0, 2), "none")
