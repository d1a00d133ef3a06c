"""Write blobs of a net, image by image, to databases or files, as Caffe's extract_features does.

The type is of all outputs: lmdb and leveldb hold a Datum with float_data for each image, under keys 0000000000 …; h5
and npz an array named as the blob. Without a type, each output's ending says it: .lmdb, .leveldb, .h5, .hdf5, .npz.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fcn_caffe.commands import command
from fcn_caffe.commands._options import (
    PHASES,
    add_device_options,
    add_reading_options,
    add_speed_options,
    add_state_options,
    fill,
    make_faster,
    names,
    net_or_solver,
    new_parser,
    phase_number,
    positive,
    requested_device,
    use_reading_options,
)
from fcn_caffe.errors import DataError
from fcn_caffe.host.atomic import refuse_same

FORMATS = ("lmdb", "leveldb", "h5", "npz")
_ENDINGS = {f".{name}": name for name in FORMATS} | {".hdf5": "h5"}


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("extract_features", __doc__)
    add = options.add_argument
    add("weights", type=names, help="weight files, separated by commas")
    add("net", type=net_or_solver, help="net prototxt; its data layers are run")
    add("blobs", type=names, help="blobs to write, separated by commas")
    add("outputs", type=names, help="where to, one for each blob, separated by commas")
    add("batches", type=positive, help="how many batches to run")
    add("type", nargs="?", choices=FORMATS, help="what to write (default: what the outputs' endings say)")
    add("mode", nargs="?", choices=("CPU", "GPU"), help="as Caffe has it; or see --device")
    add("device_id", nargs="?", type=int, default=0, help="number of the GPU")
    add("--phase", choices=PHASES, default="TEST", help="default: %(default)s")
    add_state_options(options)
    add_speed_options(options)
    add_device_options(options)
    add("--ignore-preprocessing", action="store_true", help="run even if the weights were made for other inputs")
    add_reading_options(options)
    return options


def _format(output: str) -> str:
    ending = Path(output).suffix.lower()
    if ending not in _ENDINGS:
        raise DataError(f"{output}: give a type after the batches ({', '.join(FORMATS)}), or an ending that names it.")
    return _ENDINGS[ending]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parser().parse_args(argv)
    use_reading_options(arguments)
    refuse_same(arguments.outputs, [arguments.net, *arguments.weights])
    formats = [arguments.type or _format(output) for output in arguments.outputs]

    from fcn_caffe.evaluation.features import extract_features
    from fcn_caffe.evaluation.net_inputs import check_preprocessing
    from fcn_caffe.host.devices import torch_device
    from fcn_caffe.net.net import Net
    from fcn_caffe.weights.transfer import BlobCounts

    device = requested_device(arguments)
    if device is None:
        device = torch_device(f"cuda:{arguments.device_id}" if arguments.mode == "GPU" else "cpu")
    for file in arguments.weights if not arguments.ignore_preprocessing else ():
        check_preprocessing(file, arguments.net, stages=arguments.stage, trains=arguments.phase == "TRAIN")
    phase = phase_number(arguments.phase)
    known = BlobCounts(arguments.weights)
    net = Net(arguments.net, phase, stages=arguments.stage, level=arguments.level, device=device, blob_counts=known)
    fill(net, arguments.weights)
    counts = extract_features(
        make_faster(net, arguments), arguments.blobs, arguments.outputs, arguments.batches, formats
    )
    for blob, output, images in zip(arguments.blobs, arguments.outputs, counts, strict=True):
        print(f"wrote '{blob}' of {images} images to {output}")
    return 0
