"""Turn weights of any form into any other, say what is in them, and note beside them how their inputs are made.

The forms are those of load_weights and save_weights, by the file's content and the output's ending: .caffemodel,
.caffemodel.h5, .safetensors, .pth, .npz. With --net, ONNX files (.onnx), programs of torch.export (.pt2) and
state_dicts with other names than the net's are mapped onto its layers, by name, then by order and shape.
OUT.preprocessing.json holds channel order, mean, scale, classes and the source's checksum: from the options, else from
the input's own record, else from what is known of published files. With --net the weights have to fit that net, and the
record its data layer, which fills in what is not known.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import suppress
from math import isfinite
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from fcn_caffe.commands import command
from fcn_caffe.commands._options import add_reading_options, finite, net_or_solver, new_parser, use_reading_options
from fcn_caffe.errors import DataError, WeightsError
from fcn_caffe.host.text import show

if TYPE_CHECKING:
    from fcn_caffe.net.net import Net
    from fcn_caffe.weights.formats import Format, Named
    from fcn_caffe.weights.mapping import NetLayer
    from fcn_caffe.weights.record import Preprocessing
    from fcn_caffe.weights.transfer import Weights

ORDERS = ("BGR", "RGB")  # of the channels


def parser() -> argparse.ArgumentParser:
    options = new_parser("port_weights", __doc__)
    add = options.add_argument
    add("source", metavar="IN", help="weights to read")
    add("target", metavar="OUT", help="weights to write, whole or not at all; the ending is the form")
    add("--net", type=net_or_solver, help="net prototxt they have to fit; they are written in its shapes and order")
    add(
        "--map",
        metavar="FILE",
        help="which layer or blob of --net is what in IN: two names a line, ours first, `-` for none",
    )
    add(
        "--check",
        nargs="?",
        const="",
        metavar="FILE",
        help="compare the filled net with IN, an ONNX file, run by ONNX Runtime; or with what FILE says: an .npz of "
        "inputs and of what IN's model made of them, by the net's blob names",
    )
    add("--stage", action="append", help="NetState stage of that net (repeatable; default: deploy)")
    add(
        "--mean",
        nargs="+",
        metavar="VALUE",
        help="what is subtracted: one number, one for each channel, or a mean file (.binaryproto)",
    )
    add("--scale", type=finite, help="what the inputs are multiplied by after that")
    add("--channel-order", type=str.upper, choices=ORDERS, help="of the inputs; Caffe's own are BGR")
    add("--classes", nargs="+", metavar="NAME", help="names of the classes in order, or a file of them, one a line")
    add("--ignore-preprocessing", action="store_true", help="write even if the net's data layer contradicts the record")
    add_reading_options(options)
    return options


def _listing(weights: Weights) -> str:
    """The shapes of every layer's blobs, and how much there is of all."""
    from fcn_caffe.weights.transfer import ABSENT

    width = max((len(layer) for layer in weights), default=0)
    present = [blob for blobs in weights.values() for blob in blobs if blob is not ABSENT]
    values = sum(blob.size for blob in present)
    lines = [f"{len(weights)} layers, {len(present)} blobs, {values:,} values"]
    for layer, blobs in weights.items():
        shapes = ("shared" if blob is ABSENT else show(blob.shape) for blob in blobs)
        lines.append(f"  {layer:<{width}}  {', '.join(shapes)}")
    return "\n".join(lines)


def _fit(arguments: argparse.Namespace, form: Format) -> tuple[Net, Weights]:
    """Fit weights to the net of --net.

    Returns:
        The net; its layers that were copied, in its order and shapes, then the layers it does not have, as they were.

    Raises:
        WeightsError: No layer is in the net, or one does not fit.
    """
    from fcn_caffe.net.net import Net
    from fcn_caffe.weights.transfer import copy_weights, count_blobs, net_weights

    weights, named = _own_weights(arguments, form)
    net = Net(arguments.net, stages=arguments.stage or ["deploy"], blob_counts=count_blobs(weights or {}))
    if arguments.map or weights is None or (named and not weights.keys() & net.params.keys() and _is_foreign(named)):
        if named is None:
            raise WeightsError(
                f"{arguments.source}: has layers with names of their own ({form.name}); --map is for others."
            )
        weights = _map(arguments, form, net, named)
    else:
        print(f"{arguments.source} ({form.name}): {_listing(weights)}")
    report = copy_weights(net, weights, arguments.source)
    print(f"{arguments.net}: {report}")
    if not report.copied:
        raise WeightsError(f"{arguments.source}: none of its layers is in {arguments.net}. Is it the right net?")
    fitted = {layer: blobs for layer, blobs in net_weights(net).items() if layer in report.copied}
    return net, {**fitted, **{layer: weights[layer] for layer in report.ignored}}


def _own_weights(arguments: argparse.Namespace, form: Format) -> tuple[Weights | None, Named | None]:
    """Return the weights, None where their names are not ours; and the tensors, of a format that names each."""
    from fcn_caffe.weights.formats import PROGRAMS
    from fcn_caffe.weights.transfer import load_weights

    if not form.has_names:
        return load_weights(arguments.source), None
    if form not in PROGRAMS:
        with suppress(WeightsError):
            return load_weights(arguments.source), form.read_named(arguments.source)
    return None, form.read_named(arguments.source)


def _map(arguments: argparse.Namespace, form: Format, net: Net, named: Named) -> Weights:
    """Map tensors onto the layers of the net; print which is which."""
    from fcn_caffe.weights.formats import ONNX
    from fcn_caffe.weights.mapping import map_weights, net_layers, read_pairs

    layers = net_layers(net)
    pairs = read_pairs(arguments.map, layers) if arguments.map else None
    hint = ""
    if form is ONNX and any("mean" in layer.shapes for layer in layers) and not _has_all_statistics(named, layers):
        hint = (
            " The file lacks batch normalisations of the net: exporters fold them into the convolutions. Give the "
            "state_dict or the .pt2 of the model, or a net without them (`fcn-caffe merge_bn`)."
        )
    mapped = map_weights(named, layers, arguments.source, pairs, hint)
    print(f"{arguments.source} ({form.name}): {len(named.arrays)} tensors\n{indent(mapped.report, '  ')}")
    return mapped.weights


def _is_foreign(named: Named) -> bool:
    """Whether tensors have no names of the form LAYER/INDEX."""
    return not any(name.rpartition("/")[2].isdigit() for name in named.arrays)


def _has_all_statistics(named: Named, layers: Sequence[NetLayer]) -> bool:
    """Whether there are as many batch normalisations in a file as in a net."""
    means = [name for name in (*named.arrays, *named.constants) if name.endswith((".running_mean", ".mean"))]
    return len(means) >= sum("mean" in layer.shapes for layer in layers)


def _record(arguments: argparse.Namespace, form: Format) -> Preprocessing:
    """What the options say, over the input's own record, over what is known of published files, over what it says."""
    from fcn_caffe.evaluation.net_inputs import source_preprocessing
    from fcn_caffe.weights.record import Preprocessing, preprocessing_of_facts

    source = arguments.source
    base = preprocessing_of_facts(form.read_facts(source)).with_facts_of(source_preprocessing(source))
    mean, mean_file = _mean(arguments.mean)
    if mean is not None and mean_file is None:
        base = base.without_mean_file()
    asked = Preprocessing(
        arguments.channel_order,
        mean,
        mean_file,
        arguments.scale,
        _classes(arguments.classes),
    )
    return base.with_facts_of(asked)


def _mean(words: Sequence[str] | None) -> tuple[tuple[float, ...] | None, str | None]:
    """The numbers of --mean, and the file they come from where it names one."""
    if words is None:
        return None, None
    try:
        numbers = tuple(float(word) for word in words)
        if not all(map(isfinite, numbers)):
            raise DataError(f"--mean {' '.join(words)}: wanted numbers that are finite.")
        return numbers, None
    except ValueError:
        if len(words) > 1:
            raise DataError(f"--mean {' '.join(words)}: wanted numbers, or one mean file.") from None

    from fcn_caffe.evaluation.net_inputs import file_mean

    return file_mean(words[0]), os.path.basename(words[0])


def _classes(words: Sequence[str] | None) -> tuple[str, ...] | None:
    """The names of --classes, or those of the file that it names."""
    if words is None:
        return None
    if len(words) == 1 and Path(words[0]).is_file():
        from fcn_caffe.data.readers.labels import read_classes

        return tuple(read_classes(words[0]))
    return tuple(words)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the weights and their record are written."""
    arguments = parser().parse_args(argv)
    use_reading_options(arguments)

    from fcn_caffe.commands._parts.port_check import check
    from fcn_caffe.evaluation.net_inputs import net_preprocessing, refuse_differences
    from fcn_caffe.host.atomic import check_place, refuse_same
    from fcn_caffe.weights.formats import format_of, format_to_write
    from fcn_caffe.weights.record import record_path, recorded
    from fcn_caffe.weights.transfer import load_weights, save_weights

    source, target = arguments.source, arguments.target
    refuse_same([target], [arguments.net, arguments.map, arguments.check or None])
    form, wanted = format_of(source), format_to_write(target)
    check_place(target)
    if arguments.scale is not None and arguments.scale <= 0:
        raise DataError(f"--scale {arguments.scale:g}: all inputs would be 0, or turned round. Give a number above 0.")
    if arguments.stage and not arguments.net:
        raise DataError("--stage is of a net: give --net too, or leave --stage out.")
    for option in ("map", "check"):
        if getattr(arguments, option) is not None and not arguments.net:
            raise DataError(f"--{option} needs the net that the weights are for: --net NET.")
    net_name, types = form.names(source)
    if not arguments.net:
        weights = load_weights(source)
        print(f"{source} ({form.name}): {_listing(weights)}")
    else:
        net, weights = _fit(arguments, form)
        if arguments.check is not None:
            print(check(net, source, form, arguments.check))
        net_name, types = net.name, {**types, **{node.name: node.type for node in net.graph.nodes}}
    record = _record(arguments, form)
    if arguments.net:
        if not arguments.ignore_preprocessing:
            refuse_differences(record, arguments.net, source)
        record = net_preprocessing(arguments.net).with_facts_of(record)
    with recorded(target, record) as place:
        save_weights(place, weights, net_name, types)
    print(f"wrote {target} ({wanted.name})\nwrote {record_path(target)}: {record}")
    return 0
