"""What commands that rewrite a net with its weights have in common: the files, filling the net, and writing both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_caffe.errors import WeightsError
from fcn_caffe.host.atomic import atomic_write, check_place, refuse_same

if TYPE_CHECKING:
    from fcn_caffe.net.net import Net
    from fcn_caffe.proto import caffe_pb2
    from fcn_caffe.weights.transfer import Weights


class RewriteFiles:
    """NET WEIGHTS OUT_NET OUT_WEIGHTS of a command line; NET OUT_NET alone, where there are no weights.

    Args:
        names: The four, or two, files.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.source, self.out = (names[0], names[1]) if len(names) == 2 else (names[0], names[2])
        self.weights = names[1] if len(names) == 4 else None
        self.weights_out = names[3] if len(names) == 4 else None

    def check_outputs(self) -> None:
        """Refuse early what would fail, or destroy the old net, in the end.

        Raises:
            DataError: A file is named twice, or no file can be written to a place.
            WeightsError: No form of weights has the ending.
        """
        from fcn_caffe.weights.formats import format_to_write

        refuse_same((self.out, self.weights_out), (self.source, self.weights))
        for output in (self.out, self.weights_out):
            if output is not None:
                check_place(output)
        if self.weights_out:
            format_to_write(self.weights_out)


def fill_wholly(net: Net, weights: Weights, source: str, net_name: str, advice: str = "") -> None:
    """Fill every layer of a net; print the layers of the file that the net lacks.

    Args:
        net: The net.
        weights: Its weights.
        source: Their file.
        net_name: The net's file.
        advice: What else a person can do about missing layers, as a message ends.

    Raises:
        WeightsError: The weights lack a layer, or do not fit.
    """
    from fcn_caffe.weights.transfer import copy_weights

    report = copy_weights(net, weights, source)
    if report.missing:
        raise WeightsError(
            f"{source}: has no weights for layer {', '.join(report.missing)} of {net_name}. "
            f"Use the net's own weights{advice and ','}{advice}."
        )
    if report.ignored:
        print(f"weights of layers that the net lacks: {', '.join(report.ignored)}")


def write_rewritten(files: RewriteFiles, param: caffe_pb2.NetParameter, weights: Weights, tool: str) -> None:
    """Write a net, its weights, and the record of how their images are made; say so.

    Args:
        files: Where to.
        param: The net.
        weights: Its weights; not written where `files` has no place for them.
        tool: The command that made it.

    Raises:
        WeightsError: The weights cannot be written.
    """
    from fcn_caffe.evaluation.net_inputs import source_preprocessing
    from fcn_caffe.proto import write_text
    from fcn_caffe.weights.record import record_path, recorded
    from fcn_caffe.weights.transfer import save_weights

    with atomic_write(files.out, "w") as file:
        file.write(f"# Made of {Path(files.source).name} by tools/{tool}.py.\n" + write_text(param))
        said = f"wrote {files.out}"
        if files.weights and files.weights_out:
            # The net's file takes its place only when the weights are whole.
            record = source_preprocessing(files.weights)
            with recorded(files.weights_out, record) as place:
                save_weights(place, weights, param.name, {layer.name: layer.type for layer in param.layer})
            said += f"\nwrote {files.weights_out}\nwrote {record_path(files.weights_out)}: {record}"
    print(said)
