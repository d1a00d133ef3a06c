"""Merge batch normalisations into the convolutions beside them, weights included, and prove that the numbers stay.

BatchNorm (BVLC's, NVIDIA's, Intel's) and BN (PSPNet's; SegNet's with bn_mode: INFERENCE), with the Scale and Bias
layers that follow, go into the Convolution, Deconvolution or InnerProduct before them; or into the one behind, where it
does not pad. The net that is written is for inference: it has neither data layers nor losses.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fcn_caffe.commands import command
from fcn_caffe.commands._options import add_reading_options, image_size, names, new_parser, seed, use_reading_options
from fcn_caffe.commands._rewritten import RewriteFiles, fill_wholly, write_rewritten
from fcn_caffe.host.text import show


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("merge_bn", __doc__)
    add = options.add_argument
    add("net", metavar="NET", help="net file, a deploy form or one that trains")
    add("out", metavar="OUT_NET", help="where the merged net goes")
    add("out_weights", metavar="OUT_WEIGHTS", help="where its weights go; the ending says in which form")
    add("--weights", required=True, metavar="FILE", help="the net's weights, in any form")
    size = "image that the net is built for, HEIGHTxWIDTH (default: its Input layer's, or its data layer's crop_size)"
    add("--input-size", type=image_size, metavar="HxW", help=size)
    add("--stage", type=names, action="extend", default=[], help="stage of the net to read; may be repeated")
    add("--seed", type=seed, default=0, help="of the random images of the proof (default: 0)")
    add_reading_options(options)
    return options


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the net and its weights are written."""
    arguments = parser().parse_args(argv)
    use_reading_options(arguments)
    files = RewriteFiles((arguments.net, arguments.weights, arguments.out, arguments.out_weights))
    files.check_outputs()

    from fcn_caffe.net.graph import read_net
    from fcn_caffe.net.net import Net
    from fcn_caffe.net.rewrite.deploy_form import deploy_form
    from fcn_caffe.net.rewrite.merged_batch_norm import merge_batch_norm
    from fcn_caffe.net.rewrite.merger_proof import prove_merger
    from fcn_caffe.proto.phases import TEST
    from fcn_caffe.weights.transfer import count_blobs, load_weights

    weights = load_weights(arguments.weights)
    param = read_net(arguments.net, TEST, arguments.stage, blob_counts=count_blobs(weights))
    deployed, left_out = deploy_form(param, arguments.input_size, weights)
    deployed.ClearField("debug_info")
    if left_out:
        print(f"left out, as a net for inference has no labels: {', '.join(left_out)}")
    net = Net(deployed)
    fill_wholly(net, weights, arguments.weights, arguments.net)
    merger = merge_batch_norm(net)
    for line in (*merger.merged, *merger.kept):
        print(f"  {line}")
    proof = prove_merger(net, merger, arguments.seed)
    images = " and ".join(show(size) for size in proof.sizes)
    worst = max(proof.differences, key=lambda one: one.relative)
    print(
        f"proof on random images of {images}, seed {arguments.seed}: blobs compared: {len(proof.differences)}; "
        f"'{worst.blob}' is off by most, {worst.relative:.2g} of its largest ({worst.largest:.4g})"
    )
    if proof.skipped:
        print(f"no other size was compared: {proof.skipped}")
    write_rewritten(files, merger.net, merger.weights, "merge_bn")
    return 0
