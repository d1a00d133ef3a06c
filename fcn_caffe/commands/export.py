"""Export a net for other engines, and prove the file by running it.

The ending of OUT says what is written: .onnx (ONNX), .pt2 (torch.export) or .xml with .bin (OpenVINO's IR). The file is
run in its engine, ONNX Runtime, PyTorch or OpenVINO, at sizes that it was not made at, and compared with the net. No
file is left whose numbers are off by more than 1e-4 of the largest (1e-2 with --fp16).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fcn_caffe.commands import command
from fcn_caffe.commands._options import (
    add_reading_options,
    finite,
    image_size,
    level,
    names,
    net_or_solver,
    new_parser,
    use_reading_options,
)
from fcn_caffe.errors import DataError, WeightsError


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("export", __doc__)
    add = options.add_argument
    add(
        "net", metavar="NET", type=net_or_solver, help="net prototxt; a net that trains loses its data layer and losses"
    )
    add("out", metavar="OUT", help="the file to write: NAME.onnx, NAME.pt2 or NAME.xml")
    add("--weights", metavar="FILE", help="weights trained with that net, in any form")
    add("--outputs", nargs="+", metavar="BLOB", default=[], help="blobs to give (default: the net's outputs)")
    add(
        "--preprocess",
        action="store_true",
        help="take photographs, N x 3 x H x W, RGB from 0 to 255 as uint8: order, mean and scale are in the file",
    )
    add("--argmax", action="store_true", help="give classes in place of scores, N x H x W as int64")
    add(
        "--fp16",
        action="store_true",
        help="keep the weights in float16, half the file; what is computed, inputs and outputs stay float32",
    )
    add(
        "--opset",
        type=int,
        choices=range(18, 24),
        metavar="N",
        help="version of ONNX's operators, 18 to 23 (default: 18)",
    )
    add("--fixed", action="store_true", help="take inputs of the net's own size alone, not of any size")
    size = "image that the net is built for, HEIGHTxWIDTH (default: its Input layer's, or its data layer's crop_size)"
    add("--input-size", type=image_size, metavar="HxW", help=size)
    add("--plain", action="store_true", help="run each layer as the net file has it: constant borders not only once")
    _add_input_options(options)
    add("-level", "--level", type=level, default=0, help="NetState level (default: 0)")
    stage = "NetState stages, separated by commas (default: deploy)"
    add("-stage", "--stage", type=names, action="extend", default=[], help=stage)
    add_reading_options(options)
    return options


def _add_input_options(options: argparse.ArgumentParser) -> None:
    group = options.add_argument_group("what the net's input is, where neither the net nor the weights' record says it")
    group.add_argument(
        "--mean", type=finite, nargs="+", metavar="NUMBER", help="one number, or one a channel in the net's order"
    )
    group.add_argument("--channel-order", choices=["BGR", "RGB"], help="the net's order of channels")
    group.add_argument(
        "--ignore-preprocessing", action="store_true", help="go on even if the weights were made for other inputs"
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the file is written."""
    from fcn_caffe.export.write import OPSET, Options, export, format_of

    arguments = parser().parse_args(argv)
    use_reading_options(arguments)
    if format_of(arguments.out) == "pt2" and arguments.opset is not None:
        raise DataError(f"--opset is of ONNX, which {arguments.out} is not made of. Leave --opset out.")
    if not arguments.weights:
        raise WeightsError(f"{arguments.net}: a net file has no weights. Give them: --weights FILE.")

    from fcn_caffe.export.subject import read_subject

    subject = read_subject(
        arguments.net,
        arguments.weights,
        stages=arguments.stage or ("deploy",),
        level=arguments.level,
        input_size=arguments.input_size,
        outputs=arguments.outputs,
        mean=arguments.mean,
        channel_order=arguments.channel_order,
        trust=arguments.ignore_preprocessing,
    )
    options = Options(
        arguments.opset or OPSET,
        arguments.preprocess,
        arguments.argmax,
        arguments.fp16,
        arguments.fixed,
        arguments.plain,
    )
    made = export(subject, arguments.out, options, print)
    program = made.program
    for kind, blobs, called in (
        ("takes", program.inputs, list(program.inputs)),
        ("gives", program.outputs, program.output_names()),
    ):
        for sizes, name in zip(blobs.values(), called, strict=True):
            print(f"{kind} {name}, {' x '.join(map(str, sizes)) or 'one number'}, {program.types[name]}")
    print(made.proof)
    for file in made.files:
        print(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB)")
    return 0
