"""torch.compile and torch.export see through every layer; the support table says of the others why not."""

from __future__ import annotations

import pytest
import torch
from layer_cases import CASES, OUTSIDE, UNTRACED, WITHOUT_GRADIENT, build

from fcn_caffe import Net
from fcn_caffe.layers.base import REGISTRY

LAYERS = {**CASES, **WITHOUT_GRADIENT}


class Positional(torch.nn.Module):
    """A net whose inputs are arguments in order, as torch.export wants them."""

    def __init__(self, net: Net, names: list[str]) -> None:
        super().__init__()
        self.net, self.names = net, names

    def forward(self, *bottoms: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.net(dict(zip(self.names, bottoms, strict=True)))


def run(function: torch.nn.Module, bottoms: dict[str, torch.Tensor], net: Net) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    if hasattr(net.layer("l"), "reset"):
        net.layer("l").reset()
    return function(*bottoms.values())


@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of its compiler
@pytest.mark.parametrize("type", [type for type in LAYERS if not REGISTRY[type].untraced])
def test_compiles_and_exports(type: str) -> None:
    net, bottoms = build(type, *LAYERS[type][0])
    module = Positional(net, list(bottoms))
    expected = run(module, bottoms, net)
    torch.compiler.reset()
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    exported = torch.export.export(module, tuple(bottoms.values()), strict=False).module()
    for traced in (compiled, exported):
        blobs = run(traced, bottoms, net)
        assert blobs.keys() == expected.keys()
        for name, blob in expected.items():
            torch.testing.assert_close(blobs[name], blob)


def test_the_table_says_why_not() -> None:
    assert {type for type, layer in REGISTRY.items() if layer.untraced} == {*OUTSIDE - {"Input"}, *UNTRACED}
