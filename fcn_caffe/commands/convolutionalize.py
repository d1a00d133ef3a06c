"""Turn a classifier into its fully convolutional form, weights included, and prove that its numbers are the same."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fcn_caffe.commands import command
from fcn_caffe.commands._options import add_reading_options, new_parser, seed, use_reading_options
from fcn_caffe.commands._rewritten import RewriteFiles, fill_wholly, write_rewritten
from fcn_caffe.host.text import show

if TYPE_CHECKING:
    from fcn_caffe.net.net import Net
    from fcn_caffe.net.rewrite.convolutionalize import Conversion
    from fcn_caffe.proto import caffe_pb2
    from fcn_caffe.weights.transfer import Weights

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


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("convolutionalize", __doc__, _EPILOG)
    add = options.add_argument
    files = (
        "CLASSIFIER.prototxt CLASSIFIER.caffemodel OUT.prototxt OUT.caffemodel; "
        "with --no-weights CLASSIFIER.prototxt OUT.prototxt"
    )
    add("files", nargs="+", metavar="FILE", help=files)
    size = "image of the classifier, or CxHxW (default: its Input layer's shape, or its data layer's crop_size)"
    add("--input-size", type=_size, metavar="HxW", help=size)
    add("--suffix", default="", help="behind the names of converted layers, e.g. --suffix -conv")
    add("--stage", action="append", default=[], help="stage of the net to read; may be repeated")
    add("--output", action="append", default=[], metavar="BLOB", help="keep this head alone; may be repeated")
    larger = "image to tell the answers for (default: twice the classifier's)"
    add("--larger", type=_size, metavar="HxW", help=larger)
    add("--no-weights", action="store_true", help="convert the net alone, proved with random weights")
    add("--seed", type=seed, default=0, help="of the random images (and weights) of the proof")
    add_reading_options(options)
    return options


def _joined(argv: Sequence[str]) -> list[str]:
    """The arguments with the suffix joined to its option: argparse takes `-conv` alone for an option."""
    joined = list(argv)
    if "--suffix" in joined[:-1]:
        place = joined.index("--suffix")
        joined[place : place + 2] = [f"--suffix={joined[place + 1]}"]
    return joined


def _read(
    files: RewriteFiles, arguments: argparse.Namespace
) -> tuple[caffe_pb2.NetParameter, Weights | None, list[str]]:
    """Read the classifier: its deploy form, its weights, and the layers that its deploy form leaves out."""
    from fcn_caffe.net.graph import read_net
    from fcn_caffe.net.rewrite.deploy_form import deploy_form, keep_outputs
    from fcn_caffe.proto.phases import TEST
    from fcn_caffe.weights.transfer import count_blobs, load_weights

    weights = load_weights(files.weights) if files.weights else None
    net = read_net(files.source, TEST, arguments.stage, blob_counts=count_blobs(weights or {}))
    deployed, left_out = deploy_form(net, arguments.input_size, weights)
    if arguments.output:
        deployed = keep_outputs(deployed, arguments.output)
    return deployed, weights, left_out


def _print_steps(source: str, conversion: Conversion, left_out: Sequence[str]) -> None:
    from fcn_caffe.net.rewrite.convolution_proof import image_input

    image = image_input(conversion.classifier)
    print(f"{source}: classifier of {show(conversion.classifier.blob_shapes[image][1:])} images ('{image}')")
    if left_out:
        print(f"left out, as a deploy form has no labels: {', '.join(left_out)}")
    for step in conversion.steps:
        print(f"  {step}")


def _filled(deployed: caffe_pb2.NetParameter, weights: Weights | None, files: RewriteFiles, seed: int) -> Net:
    """Build the classifier and fill it, at random where there are no weights.

    Raises: WeightsError where the weights lack a layer.
    """
    from fcn_caffe.net.net import Net
    from fcn_caffe.net.rewrite.convolution_proof import fill_at_random

    classifier = Net(deployed)
    if weights is None:
        fill_at_random(classifier, seed)
        return classifier
    fill_wholly(classifier, weights, str(files.weights), files.source, " or keep one head with --output")
    return classifier


def _print_proof(conversion: Conversion, classifier: Net, net: Net, seed: int) -> None:
    from fcn_caffe.net.rewrite.convolution_proof import prove, prove_places

    print(f"proof on random images of the classifier's size, seed {seed}:")
    for answer in prove(conversion, classifier, net, seed):
        print(
            f"  {answer.blob}: off by {answer.difference:.3g} at most, "
            f"{answer.relative:.2g} of the largest ({answer.largest:.4g})"
        )
    places = prove_places(conversion, classifier, net, seed)
    if isinstance(places, str):
        print(f"places of larger images are not compared with crops: {places}")
    else:
        worst = max((place.relative for place in places), default=0.0)
        print(f"proof on an image one stride larger: {len(places)} places are their crops' answers, off by {worst:.2g}")


def _print_answers(conversion: Conversion, larger: Sequence[int] | None) -> None:
    """Say what the new net answers on larger images: how many places, their stride, what each sees."""
    from fcn_caffe.net.rewrite.convolution_proof import answers_on, image_input

    size = conversion.classifier.blob_shapes[image_input(conversion.classifier)][2:]
    wanted = tuple(larger[-2:]) if larger else tuple(2 * extent for extent in size)
    print(f"on {show(wanted)} images:")
    for answer in answers_on(conversion, wanted):
        sees = "stride and receptive field not known"
        if answer.stride is not None:
            sees = f"stride {answer.stride}, receptive field {answer.field}"
        print(f"  {answer.blob}: {show(answer.size)}, {sees}")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parser()
    arguments = options.parse_args(_joined(sys.argv[1:] if argv is None else argv))
    expected = 2 if arguments.no_weights else 4
    if len(arguments.files) != expected:
        options.error(f"{expected} files are expected, got {len(arguments.files)}: see --help")
    use_reading_options(arguments)
    files = RewriteFiles(arguments.files)
    files.check_outputs()

    from fcn_caffe.net.net import Net
    from fcn_caffe.net.rewrite.convolutionalize import convolutional_weights, convolutionalize
    from fcn_caffe.weights.surgery import transplant
    from fcn_caffe.weights.transfer import net_weights

    deployed, weights, left_out = _read(files, arguments)
    conversion = convolutionalize(deployed, arguments.suffix)
    _print_steps(files.source, conversion, left_out)
    classifier = _filled(deployed, weights, files, arguments.seed)
    net = Net(conversion.net)
    transplant(net, convolutional_weights(conversion, net_weights(classifier)))
    _print_proof(conversion, classifier, net, arguments.seed)
    _print_answers(conversion, arguments.larger)
    write_rewritten(files, conversion.net, net_weights(net), "convolutionalize")
    return 0
