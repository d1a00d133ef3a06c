"""float64 gradcheck of every layer that has a gradient, to every bottom and parameter that gets one."""

from __future__ import annotations

import pytest
import torch
from layer_cases import CASES, OUTSIDE, WITHOUT_GRADIENT, build

from fcn_caffe import known_types


def test_every_layer_is_here() -> None:
    assert sorted([*CASES, *WITHOUT_GRADIENT, *OUTSIDE]) == known_types()


@pytest.mark.parametrize(
    ("type", "shapes", "options"),
    [pytest.param(type, *case, id=f"{type}-{i}") for type, cases in CASES.items() for i, case in enumerate(cases)],
)
def test_gradcheck(type: str, shapes: tuple[tuple[int, ...], ...], options: str) -> None:
    net, inputs = build(type, shapes, options)
    module = net.double().layer("l")
    bottoms = [bottom.double() for bottom in inputs.values()]
    wanted = [b.requires_grad_() for i, b in enumerate(bottoms) if i not in module.undifferentiable]
    wanted += [blob for blob in module.blobs if blob.requires_grad]
    assert wanted

    def run(*_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(3)  # dropout's mask is the same at every step
        if hasattr(module, "reset"):
            module.reset()
        tops = module(*bottoms)
        return tuple(top for top in ((tops,) if isinstance(tops, torch.Tensor) else tops))

    # ContrastiveLoss: Caffe's slope divides by distance + 1e-4, an error of 1e-4 by intent
    tolerance = 5e-4 if type == "ContrastiveLoss" else 1e-5
    assert torch.autograd.gradcheck(run, wanted, atol=tolerance, rtol=1e-3)
