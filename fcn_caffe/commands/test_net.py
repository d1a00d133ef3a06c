"""Run a net on its test data and print its outputs, of every batch and in the mean, as `caffe test` does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch

from fcn_caffe.commands import command
from fcn_caffe.commands._options import (
    PHASES,
    add_device_options,
    add_state_options,
    chosen_device,
    fill,
    names,
    positive,
)
from fcn_caffe.errors import DataError, WeightsError
from fcn_caffe.host.glog import number
from fcn_caffe.net.net import Net


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="test_net", description=__doc__)
    add = parser.add_argument
    add("-model", "--model", required=True, help="net prototxt; its data layers are run")
    add("-weights", "--weights", type=names, action="extend", required=True, help="weight files, separated by commas")
    add("-iterations", "--iterations", type=positive, default=50, help="batches to run (default: %(default)s)")
    add("-phase", "--phase", choices=sorted(PHASES), default="TEST", help="default: %(default)s")
    add_state_options(parser)
    add_device_options(parser)
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = _parser().parse_args(argv)
    if not arguments.weights:
        raise WeightsError("--weights names no file: give the weights to test.")
    device = chosen_device(arguments) or torch.device("cpu")
    net = Net(arguments.model, PHASES[arguments.phase], stages=arguments.stage, level=arguments.level, device=device)
    fill(net, arguments.weights)
    loss, sums = 0.0, [np.zeros(0)] * len(net.graph.outputs)
    for iteration in range(arguments.iterations):
        with torch.no_grad():
            if net.loss_weights:
                total, blobs = net.forward_loss()
                loss += float(total)
            else:
                blobs = net()
        for place, name in enumerate(net.graph.outputs):
            values = blobs[name].detach().double().reshape(-1).cpu().numpy()
            for value in values:
                print(f"Batch {iteration}, {name} = {number(value)}", flush=True)
            if iteration and values.size != sums[place].size:
                raise DataError(
                    f"net '{net.name}': output '{name}' has {values.size} values in batch {iteration} and "
                    f"{sums[place].size} before: no mean can be taken. Give the net images of one size, or see "
                    "tools/score.py."
                )
            sums[place] = values if iteration == 0 else sums[place] + values
    print(f"Loss: {number(loss / arguments.iterations)}")
    for name, values in zip(net.graph.outputs, sums, strict=True):
        weight = net.loss_weights.get(name, 0.0)
        for mean in values / arguments.iterations:
            weighed = f" (* {number(weight)} = {number(weight * mean)} loss)" if weight else ""
            print(f"{name} = {number(mean)}{weighed}")
    return 0
