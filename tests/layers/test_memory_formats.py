"""Every layer with bottoms and gradients that are strided, expanded or channels-last: the same numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from layer_cases import CASES, build
from torch import Tensor


def strided(values: Tensor) -> Tensor:
    """The same numbers, each second in its memory along the last axis."""
    room = values.new_empty((*values.shape[:-1], 2 * values.shape[-1])) if values.ndim else values.new_empty(2)
    view = room[..., ::2] if values.ndim else room[0]
    return view.copy_(values)


def transposed(values: Tensor) -> Tensor:
    """The same numbers, with the first axis the quickest in memory."""
    axes = list(reversed(range(values.ndim)))
    return values.permute(axes).contiguous().permute(axes)


def channels_last(values: Tensor) -> Tensor:
    """The same numbers, with the channels the quickest in memory where there are images."""
    if values.ndim == 5:
        return values.contiguous(memory_format=torch.channels_last_3d)
    return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else transposed(values)


# Dropout is left out: it draws its mask in the order of memory.
LAYOUTS: list[Callable[[Tensor], Tensor]] = [strided, transposed, channels_last]


def pass_through(
    type: str, case: tuple[tuple[tuple[int, ...], ...], str], layout: Callable[[Tensor], Tensor], expanded: bool
) -> list[Tensor]:
    """The tops, and the gradients of bottoms and parameters.

    expanded: the gradients of the tops are one number without memory for each element.
    """
    net, inputs = build(type, *case)
    module = net.layer("l")
    bottoms = [layout(bottom.detach()) for bottom in inputs.values()]
    for position, bottom in enumerate(bottoms):
        bottom.requires_grad_(position not in module.undifferentiable)
    torch.manual_seed(3)
    tops = module(*bottoms)
    tops = [top for top in ([tops] if isinstance(tops, Tensor) else tops) if top.requires_grad]
    wanted = [leaf for leaf in (*bottoms, *module.blobs) if leaf.requires_grad]
    torch.manual_seed(4)
    if expanded:
        diffs = [torch.full((), 0.5).expand(top.shape) for top in tops]
    else:
        diffs = [layout(torch.randn(top.shape)) for top in tops]
    gradients = torch.autograd.grad(tops, wanted, diffs, allow_unused=True)  # exposed states get none
    return [*tops, *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize(
    ("type", "case"),
    [
        pytest.param(type, case, id=f"{type}-{i}")
        for type, cases in CASES.items()
        for i, case in enumerate(cases)
        if type != "Dropout"
    ],
)
def test_memory_makes_no_difference(type: str, case: tuple[tuple[tuple[int, ...], ...], str]) -> None:
    for expanded in (False, True):
        expected = pass_through(type, case, torch.Tensor.contiguous, expanded)
        for layout in LAYOUTS:
            for ours, theirs in zip(pass_through(type, case, layout, expanded), expected, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_softmax_loss_along_each_axis(axis: int) -> None:
    shape = (2, 3, 2, 4)
    case = (shape, (*shape[:axis], *shape[axis + 1 :])), f"softmax_param {{ axis: {axis} }}"
    expected = pass_through("SoftmaxWithLoss", case, torch.Tensor.contiguous, False)
    for layout in LAYOUTS:
        for ours, theirs in zip(pass_through("SoftmaxWithLoss", case, layout, False), expected, strict=True):
            torch.testing.assert_close(ours, theirs)
