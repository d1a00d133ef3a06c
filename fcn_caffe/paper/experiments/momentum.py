"""Momentum against minibatch: a batch of k with momentum p, and single images with momentum p^(1/k).

Source: Shelhamer, Long, Darrell, PAMI 2016, on optimisation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fcn_caffe.paper.result import Result, relative
from fcn_caffe.training.solver import SGD

__all__ = ["momentum_and_batch", "run_package", "run_sgd"]


def run_sgd(examples: Tensor, targets: Tensor, rate: float, momentum: float, batch: int) -> Tensor:
    """Run least squares by Caffe's rule, written out: V = p V + rate G, W = W - V, where G sums over the batch.

    Each example is used once, in order; the weights start at zero.

    Shapes: examples (n, d), targets (n) -> the weights after each minibatch (n / batch, d).
    """
    weights = torch.zeros(examples.shape[1], dtype=examples.dtype)
    history, path = torch.zeros_like(weights), []
    for start in range(0, len(examples), batch):
        part = slice(start, start + batch)
        gradient = examples[part].T @ (examples[part] @ weights - targets[part])
        history = momentum * history + rate * gradient
        weights = weights - history
        path.append(weights)
    return torch.stack(path)


def run_package(examples: Tensor, targets: Tensor, rate: float, momentum: float, batch: int) -> Tensor:
    """Run the same by the package's own rule, which divides the sum of a batch by its size."""
    weights = torch.zeros(examples.shape[1], dtype=examples.dtype, requires_grad=True)
    rule, path = SGD([weights], rate * batch, momentum, iter_size=batch), []
    for start in range(0, len(examples), batch):
        part = slice(start, start + batch)
        with torch.no_grad():
            weights.grad = examples[part].T @ (examples[part] @ weights - targets[part])
        rule.step()
        path.append(weights.detach().clone())
    return torch.stack(path)


def momentum_and_batch(batch: int = 20, momentum: float = 0.9, seed: int = 0) -> Result:
    """Compare the weights that both learn, after every `batch` examples of a least-squares stream.

    In the end an example's gradient moves the weights by rate / (1 - p), so single examples take the rate times
    (1 - p^(1/k)) / (1 - p), about 1 / k. The control is single examples with p itself and the same final step.
    """
    generator = torch.Generator().manual_seed(seed)
    examples = torch.randn((400 * batch, 8), generator=generator, dtype=torch.float64)
    wanted = torch.linspace(-1, 1, 8, dtype=torch.float64)
    targets = examples @ wanted + 0.1 * torch.randn(len(examples), generator=generator, dtype=torch.float64)
    rate = 2e-3 / batch
    single = momentum ** (1 / batch)
    accumulated = run_sgd(examples, targets, rate, momentum, batch)
    final = rate / (1 - momentum)
    online = run_sgd(examples, targets, final * (1 - single), single, 1)[batch - 1 :: batch]
    plain = run_sgd(examples, targets, final * (1 - momentum), momentum, 1)[batch - 1 :: batch]
    of_package = relative(run_package(examples, targets, rate, momentum, batch), accumulated)
    distance = {name: _distance(path, accumulated) for name, path in (("single", online), ("plain", plain))}
    result = Result("momentum", "PAMI, optimisation", "batch k with momentum p is like batch 1 with momentum p^(1/k)")
    result.measure(f"p^(1/k) for p = {momentum:g}, k = {batch}", single)
    ratio = distance["plain"] / distance["single"] if distance["single"] else 1.0
    result.measure(
        "path with p^(1/k) beside the batch's, of its length",
        distance["single"],
        "at most 0.1",
        distance["single"] <= 0.1,
    )
    result.measure("path with p itself beside the batch's", distance["plain"])
    result.measure("how much farther p itself is", ratio, "above 2", ratio > 2)
    result.measure("last weights, batch, from the true ones", (accumulated[-1] - wanted).norm())
    result.measure("last weights, p^(1/k), from the true ones", (online[-1] - wanted).norm())
    result.equal("path of the batches by the rule that solvers train by, from V = p V + rate G", of_package)
    result.remarks.append(
        "an equivalence of averages: an example waits for its batch, so the paths are near, not equal"
    )
    return result


def _distance(path: Tensor, other: Tensor) -> float:
    return float((path - other).norm(dim=1).max() / other.norm(dim=1).max())
