"""Make an old net modern: V0 and V1 layers, transforms in data options, net-level inputs, BatchNorm's multipliers.

Takes nets in text and binary nets, whose blobs are kept, and writes the form it read. A modern net is copied as it is.
Layers and fields of other Caffes stay as they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fcn_caffe.commands import command
from fcn_caffe.commands._options import add_reading_options, new_parser, use_reading_options

if TYPE_CHECKING:
    from fcn_caffe.proto import caffe_pb2

    Message = TypeVar("Message", caffe_pb2.NetParameter, caffe_pb2.SolverParameter)


def old_forms(net: caffe_pb2.NetParameter) -> list[str]:
    """Say what about a net is old, as `upgrade_net` will change it: "7 V1 layers", "net-level input data" …"""
    from fcn_caffe.proto.upgrade import has_old_multipliers, old_transforms

    forms = []
    v0 = sum(layer.HasField("layer") for layer in net.layers)
    if v0:
        forms.append(_count(v0, "V0 layer"))
    if len(net.layers) > v0:
        forms.append(_count(len(net.layers) - v0, "V1 layer"))
    moved = [layer.name for layer in net.layers if old_transforms(layer)]
    if moved:
        forms.append(f"transforms in the data options of {', '.join(moved)}")
    norms = [
        layer.name
        for layer in net.layer
        if has_old_multipliers(layer) and any(param.lr_mult or param.decay_mult for param in layer.param)
    ]
    if norms:
        forms.append(f"multipliers of BatchNorm in {', '.join(norms)}")
    if net.input:
        forms.append(f"net-level input {', '.join(net.input)}")
    return forms


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def upgrade_parser(tool: str, description: str | None, what: str) -> argparse.ArgumentParser:
    """Make the parser of an upgrading command. what: the kind of file that it upgrades."""
    options = new_parser(tool, description)
    options.add_argument("source", metavar="IN", help=f"old {what}, text or binary: told by its content")
    options.add_argument("target", metavar="OUT", help="file to write, whole or not at all; may be IN")
    form = options.add_mutually_exclusive_group()
    form.add_argument("--text", action="store_true", help="write text")
    form.add_argument("--binary", action="store_true", help="write binary")
    add_reading_options(options)
    return options


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    return upgrade_parser("upgrade_net", __doc__, "net")


def upgrade(
    arguments: argparse.Namespace,
    message_class: type[Message],
    old_forms: Callable[[Message], list[str]],
    make_modern: Callable[[Message, str], object],
) -> int:
    """Read a message, make it modern, write it and say what was old.

    Args:
        arguments: Of the command line.
        message_class: What the file holds.
        old_forms: Says what is old about it, in words.
        make_modern: Upgrades it in place.

    Returns:
        0 always: what is modern already is no mistake.
    """
    from fcn_caffe.proto.files import read_message, replace, write_message

    source, target = arguments.source, arguments.target
    message, was_binary = read_message(source, message_class, keep_foreign=not arguments.strict)
    binary = arguments.binary or (was_binary and not arguments.text)
    old = old_forms(message)
    make_modern(message, source)
    if old or binary != was_binary:
        write_message(target, message, binary)
    elif not (Path(target).exists() and Path(source).samefile(target)):
        replace(target, Path(source).read_bytes())
    print(f"{source}: {'upgraded ' + '; '.join(old) if old else 'is modern already'}")
    print(f"wrote {target} ({'binary' if binary else 'text'})")
    return 0


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 also when there was nothing to upgrade."""
    arguments = parser().parse_args(argv)
    use_reading_options(arguments)

    from fcn_caffe.net.graph import upgrade_whole_net
    from fcn_caffe.proto import caffe_pb2

    return upgrade(arguments, caffe_pb2.NetParameter, old_forms, upgrade_whole_net)
