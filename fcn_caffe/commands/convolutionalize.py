"""Turn a classifier into its fully convolutional form, weights included, and prove that its numbers are the same."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fcn_caffe.commands import command
from fcn_caffe.errors import PrototxtError, WeightsError
from fcn_caffe.evaluation.net_inputs import known_preprocessing
from fcn_caffe.host.atomic import atomic_write, check_place
from fcn_caffe.host.text import show
from fcn_caffe.net.graph import read_net
from fcn_caffe.net.net import Net
from fcn_caffe.net.rewrite.convolution_proof import answers_on, fill_at_random, image_input, prove, prove_places
from fcn_caffe.net.rewrite.convolutionalize import convolutional_weights, convolutionalize
from fcn_caffe.net.rewrite.deploy_form import deploy_form, keep_outputs
from fcn_caffe.proto import write_text
from fcn_caffe.proto.phases import TEST
from fcn_caffe.weights.formats import format_of, format_to_write
from fcn_caffe.weights.record import Preprocessing, read_preprocessing, sha256_of, write_preprocessing
from fcn_caffe.weights.surgery import transplant
from fcn_caffe.weights.transfer import copy_weights, load_weights, net_weights, save_weights

_EPILOG = """
Converted layers keep their names unless --suffix is given: the reference FCNs load fc6 and fc7 by these names, and the
classifier's own file cannot be mixed up with the new one, because its blobs have other shapes and are refused. With
--suffix -conv they are called as in Caffe's net surgery example; the classifier's file then loads without complaint
and leaves fc6-conv unset.
"""


def _size(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write HxW, or CxHxW")
    return tuple(int(part) for part in text.split("x"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="convolutionalize", description=__doc__, epilog=_EPILOG)
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="CLASSIFIER.prototxt CLASSIFIER.caffemodel OUT.prototxt OUT.caffemodel; "
        "with --no-weights CLASSIFIER.prototxt OUT.prototxt",
    )
    parser.add_argument(
        "--input-size",
        type=_size,
        metavar="HxW",
        help="image of the classifier, or CxHxW (default: its Input layer's shape, or its data layer's crop_size)",
    )
    parser.add_argument("--suffix", default="", help="behind the names of converted layers, e.g. --suffix -conv")
    parser.add_argument("--stage", action="append", default=[], help="stage of the net to read; may be repeated")
    parser.add_argument(
        "--output", action="append", default=[], metavar="BLOB", help="keep this head alone; may be repeated"
    )
    parser.add_argument(
        "--larger", type=_size, metavar="HxW", help="image to tell the answers for (default: twice the classifier's)"
    )
    parser.add_argument("--no-weights", action="store_true", help="convert the net alone, proved with random weights")
    parser.add_argument("--seed", type=int, default=0, help="of the random images (and weights) of the proof")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    arguments = parser.parse_args(_joined(sys.argv[1:] if argv is None else argv))
    expected = 2 if arguments.no_weights else 4
    if len(arguments.files) != expected:
        parser.error(f"{expected} files are expected, got {len(arguments.files)}: see --help")
    source, *_, out = files = arguments.files
    weights_in, out, weights_out = (None, files[1], None) if arguments.no_weights else files[1:]
    _check_outputs([name for name in (out, weights_out) if name], [name for name in (source, weights_in) if name])
    if weights_out:
        format_to_write(weights_out)

    loaded = load_weights(weights_in) if weights_in else None
    deployed, dropped = deploy_form(read_net(source, TEST, arguments.stage), arguments.input_size, loaded)
    if arguments.output:
        deployed = keep_outputs(deployed, arguments.output)
    conversion = convolutionalize(deployed, arguments.suffix)
    image = image_input(conversion.classifier)
    shape = conversion.classifier.blob_shapes[image]
    print(f"{source}: classifier of {show(shape[1:])} images ('{image}')")
    if dropped:
        print(f"left out, as a deploy form has no labels: {', '.join(dropped)}")
    for step in conversion.steps:
        print(f"  {step}")

    classifier = Net(deployed)
    if loaded is None:
        fill_at_random(classifier, arguments.seed)
    else:
        report = copy_weights(classifier, loaded, str(weights_in))
        if report.missing:
            raise WeightsError(
                f"{weights_in}: has no weights for layer {', '.join(report.missing)} of {source}. "
                "Use the classifier's own weights, or keep one head with --output."
            )
        if report.ignored:
            print(f"weights of layers that the net lacks: {', '.join(report.ignored)}")
    net = Net(conversion.net)
    transplant(net, convolutional_weights(conversion, net_weights(classifier)))
    _print_proof(conversion, classifier, net, arguments.seed)
    _print_answers(conversion, shape[2:], arguments.larger)

    with atomic_write(out, "w") as file:
        file.write(f"# Made of {Path(source).name} by tools/convolutionalize.py.\n{write_text(conversion.net)}")
        if weights_out:
            # The net's file takes its place only when the weights are whole.
            types = {node.name: node.type for node in net.graph.nodes}
            save_weights(weights_out, net_weights(net), net.name, types)
    print(f"wrote {out}")
    if weights_in and weights_out:
        record = _record(weights_in)
        print(f"wrote {weights_out}\nwrote {write_preprocessing(weights_out, record)}: {record}")
    return 0


def _record(source: str) -> Preprocessing:
    """How the images are made that the weights are for: as for the classifier's."""
    checksum = sha256_of(source)
    known = known_preprocessing(source, checksum).updated(read_preprocessing(source) or Preprocessing())
    return replace(known, source=os.path.basename(source), sha256=checksum, format=format_of(source).name)


def _joined(argv: Sequence[str]) -> list[str]:
    """The arguments with the suffix joined to its option: argparse takes `-conv` alone for an option."""
    joined = list(argv)
    if "--suffix" in joined[:-1]:
        place = joined.index("--suffix")
        joined[place : place + 2] = [f"--suffix={joined[place + 1]}"]
    return joined


def _check_outputs(outputs: Sequence[str], inputs: Sequence[str]) -> None:
    """Refuse early what would fail, or destroy the classifier, in the end."""
    for output in outputs:
        check_place(output)
        for name in (*inputs, *(other for other in outputs if other is not output)):
            if os.path.realpath(output) == os.path.realpath(name):
                raise PrototxtError("is named twice and would be overwritten. Give the output its own name.", output)


def _print_proof(conversion: Any, classifier: Net, net: Net, seed: int) -> None:
    print(f"proof on random images of the classifier's size, seed {seed}:")
    for one in prove(conversion, classifier, net, seed):
        print(
            f"  {one.blob}: off by {one.difference:.3g} at most, {one.relative:.2g} of the largest ({one.largest:.4g})"
        )
    places = prove_places(conversion, classifier, net, seed)
    if isinstance(places, str):
        print(f"places of larger images are not compared with crops: {places}")
    else:
        worst = max((one.relative for one in places), default=0.0)
        print(f"proof on an image one stride larger: {len(places)} places are their crops' answers, off by {worst:.2g}")


def _print_answers(conversion: Any, size: Sequence[int], larger: Sequence[int] | None) -> None:
    wanted = tuple(larger[-2:]) if larger else tuple(2 * extent for extent in size)
    print(f"on {show(wanted)} images:")
    for answer in answers_on(conversion, wanted):
        sees = "stride and receptive field not known"
        if answer.stride is not None:
            sees = f"stride {answer.stride}, receptive field {answer.field}"
        print(f"  {answer.blob}: {show(answer.size)}, {sees}")
