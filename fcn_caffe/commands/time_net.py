"""Time a net layer by layer, forward and backward, as `caffe time` does. Inputs are made up; data layers run.

The times are means in milliseconds, after warm-up. Backward is 0 where no gradient arrives: at data layers, below
which nothing is learned, and beside the way from the losses. A net without a loss is given ones at its outputs.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_caffe.commands import command
from fcn_caffe.commands._options import (
    PHASES,
    add_reading_options,
    add_state_options,
    fill,
    names,
    net_or_solver,
    new_parser,
    phase_number,
    positive,
    use_reading_options,
)
from fcn_caffe.host.atomic import atomic_write, check_place, refuse_same
from fcn_caffe.host.tables import Table, print_tables
from fcn_caffe.host.text import show

if TYPE_CHECKING:
    from fcn_caffe.net.net import Net
    from fcn_caffe.net.rewrite.tuned import Tuning
    from fcn_caffe.net.timing import NetTimes

COLUMNS = ("layer", "type", "tops", "parameters", "forward_ms", "backward_ms")


def parser() -> argparse.ArgumentParser:
    options = new_parser("time_net", __doc__)
    add = options.add_argument
    add("net", nargs="?", type=net_or_solver, help="net prototxt")
    add("-model", "--model", type=net_or_solver, help="the same, as `caffe time` has it")
    add(
        "-weights",
        "--weights",
        type=names,
        action="extend",
        default=[],
        help="weight files, separated by commas (default: fillers)",
    )
    add("-iterations", "--iterations", type=positive, default=50, help="passes to average over (default: %(default)s)")
    add("--warm-up", type=positive, default=1, help="passes before these (default: %(default)s)")
    add("-phase", "--phase", choices=PHASES, default="TRAIN", help="default: %(default)s, as in Caffe")
    add_state_options(options)
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--csv", type=Path, help="write the table to this CSV file")
    add_reading_options(options)
    add("--fast", action="store_true", help="time each convolution in the quickest way that keeps scores within 1e-4")
    add("--ways", action="store_true", help="print these ways first; without --fast, time the net as it is")
    return options


def ways_table(tuning: Tuning) -> Table:
    """The way of each convolution and its gradients, and the largest error of these."""
    columns = ("convolution", "forward", "bottom's gradient", "weight's gradient", "error")
    rows = [
        (choice.layer, choice.forward, choice.bottom, choice.weight, f"{choice.error:.1e}") for choice in tuning.choices
    ]
    return Table(columns, rows)


def times_table(times: NetTimes) -> Table:
    """The layers' times, with the sums below them."""
    rows = [
        (
            layer.name,
            layer.type,
            " ".join(map(show, layer.tops)),
            f"{layer.parameters:,}",
            f"{layer.forward:.3f}",
            f"{layer.backward:.3f}",
        )
        for layer in times.layers
    ]
    total = (sum(getattr(layer, name) for layer in times.layers) for name in ("parameters", "forward", "backward"))
    parameters, forward, backward = total
    rows.append(("sum of layers", "", "", f"{parameters:,}", f"{forward:.3f}", f"{backward:.3f}"))
    return Table(("layer", "type", "tops", "parameters", "forward ms", "backward ms"), rows)


def _plain(table: Table, words: int = 3) -> str:
    """A table as lines of text; words: how many of its first columns are no numbers."""
    rows = [table.columns, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.columns))]
    lines = [
        "  ".join(
            cell.ljust(width) if place < words else cell.rjust(width) for place, (cell, width) in enumerate(cells)
        )
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "\n".join(lines)


def _write_csv(path: Path, times: NetTimes) -> None:
    with atomic_write(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for layer in times.layers:
            tops = " ".join(map(show, layer.tops))
            writer.writerow(
                (layer.name, layer.type, tops, layer.parameters, f"{layer.forward:.6f}", f"{layer.backward:.6f}")
            )


def _tuned(net: Net, arguments: argparse.Namespace) -> Net:
    """The net to time, after what --ways and --fast print."""
    from fcn_caffe.net.rewrite.tuned import tune

    tuning = tune(net)
    if arguments.ways:
        table = ways_table(tuning)
        print_tables(_plain(table, 4), [table])
    print(tuning, end="\n\n")
    return tuning.net if arguments.fast else net


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parser()
    arguments = options.parse_args(argv)
    use_reading_options(arguments)
    if (arguments.net is None) == (arguments.model is None):
        options.error("give the net once, as NET or --model NET.")
    path = arguments.model if arguments.net is None else arguments.net
    if arguments.csv:
        refuse_same([arguments.csv], [path, *arguments.weights])
        check_place(arguments.csv)

    from fcn_caffe.host.devices import torch_device
    from fcn_caffe.net.net import Net
    from fcn_caffe.net.timing import time_net
    from fcn_caffe.weights.transfer import BlobCounts

    device = torch_device(arguments.device)
    net = Net(
        path,
        phase_number(arguments.phase),
        stages=arguments.stage,
        level=arguments.level,
        device=device,
        blob_counts=BlobCounts(arguments.weights),
    )
    fill(net, arguments.weights)
    if arguments.fast or arguments.ways:
        net = _tuned(net, arguments)
    times = time_net(net, arguments.iterations, warm_up=arguments.warm_up)
    table = times_table(times)
    print_tables(_plain(table), [table])
    print(f"\nAverage Forward pass: {times.forward:.3f} ms.")
    print(f"Average Backward pass: {times.backward:.3f} ms.")
    print(f"Average Forward-Backward: {times.forward + times.backward:.3f} ms.")
    total = (times.forward + times.backward) * times.iterations
    print(f"Total Time: {total:.3f} ms for {times.iterations} iterations on {device}, phase {arguments.phase}.")
    if arguments.csv:
        _write_csv(arguments.csv, times)
    return 0
