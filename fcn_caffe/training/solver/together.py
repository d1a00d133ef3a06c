"""What a solver does so that the processes of a run train one net together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fcn_caffe.errors import SolverError
from fcn_caffe.host.ranks import Ranks
from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer
from fcn_caffe.layers.loss import LossLayer
from fcn_caffe.layers.norm import OverRanks
from fcn_caffe.net.net import Net
from fcn_caffe.training.solver.snapshot import seed_rank
from fcn_caffe.training.solver.update_rules import UpdateRule


def common_seed(seed: int, ranks: Ranks) -> int:
    """Return the seed of a run: random_seed where it is given, else in a run of several one that rank 0 draws; or -1.

    Nets have to be built from the same random numbers: data layers draw the seed of their order then.
    """
    if seed >= 0 or ranks.count == 1:
        return seed
    return int(ranks.from_first(torch.seed() % 2**31))


def draw_apart(ranks: Ranks) -> None:
    """Let dropout and random fillers of rank 1 and above draw other numbers than rank 0's, which stay as they are.

    Only torch's random state changes: layers of one's own that draw their order from NumPy or Python have to draw alike
    in all processes.
    """
    if ranks.rank:
        seed_rank(torch.get_rng_state(), ranks.rank)


def join(ranks: Ranks, net: Net, test_nets: list[Net], rule: UpdateRule | None) -> None:
    """Give every process rank 0's weights, histories and order of data, and of the train net's samples its share.

    rule: whose histories; None where each process has read its own.
    """
    ranks.copy_from_first([item.blob for item in net.learnable_params])
    if rule is not None:
        for param in rule.parameters():
            ranks.copy_from_first(rule.history(param))
    for one in (net, *test_nets):
        one.load_data_state(ranks.from_first(one.data_state()))
    net.take_share(ranks.share())


def use_ranks(ranks: Ranks, net: Net, *, norms: bool, losses: bool) -> None:
    """Let layers compute over the processes.

    Args:
        ranks: the processes.
        net: the net that is trained.
        norms: the statistics of batch normalisations.
        losses: the number of valid positions that losses are divided by.
    """
    for layer in (*net.layers_in_order, *(step.layer for step in net.steps)):
        if (norms and isinstance(layer, OverRanks)) or (losses and isinstance(layer, LossLayer)):
            layer.ranks = ranks


def statistics(net: Net) -> list[Tensor]:
    """Return the blobs that a pass changes: the running statistics of batch normalisations."""
    layers: dict[str, Layer] = {layer.name: layer for layer in net.layers_in_order}
    return [item.blob for item in net.learnable_params if not item.lr_mult and not layers[item.layer].is_repeatable()]


def mean_of_outputs(ranks: Ranks, outputs: dict[str, Any]) -> dict[str, Any]:
    """Return a net's outputs with each single number as its mean over the processes; arrays are this one's."""
    names = [name for name, value in outputs.items() if isinstance(value, float)]
    return {**outputs, **dict(zip(names, ranks.mean([outputs[name] for name in names]), strict=True))}


def add_outputs(ranks: Ranks, sums: Mapping[str, Tensor], net: Net) -> dict[str, Tensor]:
    """Return each output's sum over the processes; one that had no pass has no sums.

    Raises:
        SolverError: an output has several shapes.
    """
    if ranks.count == 1:
        return dict(sums)
    found = [shapes for shapes in ranks.gather({name: list(total.shape) for name, total in sums.items()}) if shapes]
    for other in found[1:]:
        for name, shape in found[0].items():
            if other[name] != shape:
                raise SolverError(
                    f"test net '{net.name}': output '{name}' is {show(shape)} in one pass and {show(other[name])} in "
                    "another, which have no mean. Let a layer read it (Silence), or use images of one size."
                )
    zeros = {name: torch.zeros(shape, device=net.device) for name, shape in found[0].items()}
    return {name: ranks.add(sums.get(name, zero)) for name, zero in zeros.items()}
