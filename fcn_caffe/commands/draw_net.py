"""Draw a net for a screen, or as Caffe draws it. The output's ending says the format: svg, png, pdf, dot.

For a screen: a box for each layer and those in place on its top, stages of one image size in columns; svg alone,
without Graphviz. As Caffe: boxes for layers, octagons for blobs, in one chain. Layers of other Caffes are drawn, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fcn_caffe.commands import command
from fcn_caffe.commands._options import (
    PHASES,
    add_reading_options,
    add_state_options,
    net_or_solver,
    new_parser,
    phase_number,
    use_reading_options,
)

RANKDIRS = ("LR", "TB", "BT", "RL")
LAYOUTS = ("screen", "caffe")


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("draw_net", __doc__)
    add = options.add_argument
    add("net", type=net_or_solver, help="net prototxt, old forms too")
    add("out", type=Path, help="picture to write, such as net.svg; .dot needs no Graphviz")
    add("--layout", choices=LAYOUTS, help="whom for (default: screen for .svg, caffe where Caffe's options are given)")
    add("--rankdir", choices=RANKDIRS, help="direction of the data in Caffe's picture (default: LR)")
    add("--phase", choices=[*PHASES, "ALL"], default="ALL", help="layers to draw (default: %(default)s)")
    add_state_options(options)
    add("--display_lrm", "--display-lrm", action="store_true", help="show the layers' lr_mult")
    add(
        "--shapes",
        action="store_true",
        help="show the shapes of blobs; the net is built for that, so its data must be there (needs --phase)",
    )
    add(
        "--as-run",
        action="store_true",
        help="draw the net as the commands run it, its constant borders computed once (needs --phase, and its data)",
    )
    add_reading_options(options)
    return options


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parser()
    arguments = options.parse_args(argv)
    use_reading_options(arguments)
    layout = arguments.layout or _layout(arguments)
    if layout == "screen" and _layout(arguments) != "screen":
        options.error("--layout screen writes .svg, and takes neither --rankdir nor --display_lrm.")
    if arguments.phase == "ALL" and (arguments.stage or arguments.level or arguments.shapes or arguments.as_run):
        options.error("--stage, --level, --shapes and --as-run are of one phase: give --phase TRAIN or TEST.")

    from fcn_caffe.host.atomic import atomic_write, check_place
    from fcn_caffe.net.draw import draw_net_to_file
    from fcn_caffe.net.graph import filter_net
    from fcn_caffe.net.net import Net
    from fcn_caffe.net.picture import to_svg
    from fcn_caffe.net.rewrite.borders import compute_borders_once
    from fcn_caffe.proto import caffe_pb2, read_text
    from fcn_caffe.proto.upgrade import upgrade_net

    phase = None if arguments.phase == "ALL" else phase_number(arguments.phase)
    net = upgrade_net(
        read_text(arguments.net, caffe_pb2.NetParameter, keep_foreign=not arguments.strict), arguments.net
    )
    shapes = None
    if phase is not None and (arguments.shapes or arguments.as_run):
        built = Net(arguments.net, phase, stages=arguments.stage, level=arguments.level, device="meta")
        if arguments.as_run:
            net = compute_borders_once(built).net
            built = Net(net, phase, stages=arguments.stage, level=arguments.level, device="meta")
        shapes = built.blob_shapes if arguments.shapes else None
    if layout == "screen":
        drawn = net if phase is None else filter_net(net, phase, arguments.stage, arguments.level)
        check_place(arguments.out)
        with atomic_write(arguments.out, "w") as file:
            file.write(to_svg(drawn, shapes))
        print(f"wrote {arguments.out}")
        return 0
    draw_net_to_file(
        net,
        arguments.out,
        rankdir=arguments.rankdir or "LR",
        phase=phase,
        stages=arguments.stage,
        level=arguments.level,
        lr_mult=arguments.display_lrm,
        shapes=shapes,
    )
    print(f"wrote {arguments.out}")
    return 0


def _layout(arguments: argparse.Namespace) -> str:
    is_caffe = arguments.rankdir or arguments.display_lrm or arguments.out.suffix.lower() != ".svg"
    return "caffe" if is_caffe else "screen"
