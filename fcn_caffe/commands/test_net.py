"""Run a net on its test data and print its outputs, of every batch and in the mean, as `caffe test` does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fcn_caffe.commands import command
from fcn_caffe.commands._options import (
    PHASES,
    add_device_options,
    add_reading_options,
    add_state_options,
    fill,
    names,
    net_or_solver,
    new_parser,
    phase_number,
    positive,
    requested_device,
    use_reading_options,
)
from fcn_caffe.errors import DataError, WeightsError
from fcn_caffe.host.program import tool_call

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fcn_caffe.net.net import Net

    Sums = dict[str, npt.NDArray[np.float64]]


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("test_net", __doc__)
    add = options.add_argument
    add("-model", "--model", required=True, type=net_or_solver, help="net prototxt; its data layers are run")
    add("-weights", "--weights", type=names, action="extend", required=True, help="weight files, separated by commas")
    add("-iterations", "--iterations", type=positive, default=50, help="batches to run (default: %(default)s)")
    add("-phase", "--phase", choices=PHASES, default="TEST", help="default: %(default)s")
    add_state_options(options)
    add_device_options(options)
    add("--ignore-preprocessing", action="store_true", help="run even if the weights were made for other inputs")
    add_reading_options(options)
    return options


def _run(net: Net, iterations: int) -> tuple[float, Sums]:
    """Run the net, printing every output's values; returns the sum of the losses and of each output."""
    import torch

    from fcn_caffe.host.glog import number

    loss = 0.0
    sums: Sums = {}
    for iteration in range(iterations):
        with torch.no_grad():
            if net.loss_weights:
                total, blobs = net.forward_loss()
                loss += float(total)
            else:
                blobs = net()
        for name in net.graph.outputs:
            values = blobs[name].detach().double().reshape(-1).cpu().numpy()
            for value in values:
                print(f"Batch {iteration}, {name} = {number(value)}", flush=True)
            if iteration and values.size != sums[name].size:
                raise DataError(
                    f"net '{net.name}': output '{name}' has {values.size} values in batch {iteration} and "
                    f"{sums[name].size} before: no mean can be taken. Give the net images of one size, or see "
                    f"`{tool_call('score')}`."
                )
            sums[name] = values if iteration == 0 else sums[name] + values
    return loss, sums


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parser().parse_args(argv)
    use_reading_options(arguments)
    if not arguments.weights:
        raise WeightsError("--weights names no file: give the weights to test.")

    from fcn_caffe.evaluation.net_inputs import check_preprocessing
    from fcn_caffe.host.glog import number
    from fcn_caffe.net.net import Net
    from fcn_caffe.weights.transfer import BlobCounts

    phase, device = phase_number(arguments.phase), requested_device(arguments) or "cpu"
    for file in arguments.weights if not arguments.ignore_preprocessing else ():
        check_preprocessing(file, arguments.model, stages=arguments.stage, trains=arguments.phase == "TRAIN")
    counts = BlobCounts(arguments.weights)
    net = Net(arguments.model, phase, stages=arguments.stage, level=arguments.level, device=device, blob_counts=counts)
    fill(net, arguments.weights)
    loss, sums = _run(net, arguments.iterations)
    print(f"Loss: {number(loss / arguments.iterations)}")
    for name, total in sums.items():
        weight = net.loss_weights.get(name, 0.0)
        for mean in total / arguments.iterations:
            weighed = f" (* {number(weight)} = {number(weight * mean)} loss)" if weight else ""
            print(f"{name} = {number(mean)}{weighed}")
    return 0
