"""Writes docs/howto/export.md's table: every net, exported to each format, run in its engine, against the plain net.

    python tests/export/nets_sweep.py [NET …]

Nets of nets/ and the stock classifiers run with a sixteenth of their channels where a layer has 64 or more, filled at
random; the others run whole, with their own weights. With names it is these alone whose rows are written anew.
Processor time: a quarter of a minute for a net, a quarter of an hour for all.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs by itself, too

import engine_runs
import onnx
import torch
from classifiers import caffenet, googlenet, vgg16
from helpers import input_layer, layer, net_param
from places import ROOT, SHARED
from torch import nn

from fcn_caffe import Net
from fcn_caffe.errors import GraphError
from fcn_caffe.export import Options, export, read_subject
from fcn_caffe.export.engines import Engine
from fcn_caffe.export.proof import Proof, prove
from fcn_caffe.export.sizes import find_sizes
from fcn_caffe.layers.forks.batch_norm import SegNetBN
from fcn_caffe.layers.neuron import PReLU
from fcn_caffe.net.graph import read_net
from fcn_caffe.net.rewrite.convolution_proof import fill_at_random
from fcn_caffe.proto import caffe_pb2, write_text
from fcn_caffe.weights.transfer import net_weights, save_weights

PAGE = ROOT / "docs" / "howto" / "export.md"
START, END = "<!-- nets: start -->", "<!-- nets: end -->"
COLUMNS = ("net", "inputs", "ONNX Runtime", "OpenVINO", "PyTorch (.pt2)", "OpenCV 5 (.onnx)")
SHARE = 16
FIXED = ("cityscapes-enet",)  # it takes multiples of 8, which PyTorch cannot trace
WHOLE = ("cityscapes-enet",)  # its masks need the widths that it has
REAL = {  # nets with their own weights: net, weights, and the blobs before a layer that no file can hold
    "lenet (MNIST)": ("lenet_v1/lenet.prototxt", "lenet_v1/lenet_iter_10000", ()),
    "slim320 (faces)": ("forks/slim320/net.prototxt", "forks/slim320/weights.caffemodel", ()),
    "rfb320 (faces)": ("forks/rfb320/net.prototxt", "forks/rfb320/weights.caffemodel", ()),
    "WeChat's QR detector (SSD)": (
        "forks/wechat_qrcode_detect/net.prototxt",
        "forks/wechat_qrcode_detect/weights.caffemodel",
        ("mbox_loc", "mbox_conf_flatten", "mbox_priorbox"),
    ),
    "WeChat's super-resolution": ("wechat/sr.prototxt", "wechat/sr.caffemodel", ()),
}
RECURRENT = (
    input_layer("data", 5, 2, 6),
    input_layer("cont", 5, 2),
    layer("lstm", "LSTM", "data cont", more="recurrent_param { num_output: 32 weight_filler { type: 'xavier' } }"),
    layer("score", "InnerProduct", "lstm", more="inner_product_param { num_output: 9 axis: 2 }"),
)
BUILT: dict[str, Callable[[], caffe_pb2.NetParameter]] = {
    "CaffeNet": lambda: caffenet(SHARE),
    "VGG-16": lambda: vgg16(SHARE),
    "GoogLeNet": lambda: narrow(googlenet()),
    "LSTM": lambda: net_param(*RECURRENT),
}
OUTPUTS = {  # a softmax that gives 0 and 1 would show nothing; a layer that no file can hold is left out
    "CaffeNet": ("fc8", "prob"),
    "VGG-16": ("fc8", "prob"),
    "GoogLeNet": ("loss3/classifier", "prob"),
    "voc-crfrnn": ("unary", "Q0"),
}


def narrow(param: caffe_pb2.NetParameter) -> caffe_pb2.NetParameter:
    """Leave a sixteenth of the channels of each wide layer."""
    for it in param.layer:
        options = it.convolution_param
        if it.type in ("Convolution", "Deconvolution") and options.num_output >= 64 and options.num_output % SHARE == 0:
            options.num_output //= SHARE
            options.group = min(options.group, options.num_output)
    return param


def subjects(folder: Path, wanted: Sequence[str] = ()) -> Iterator[tuple[str, Path, Path, tuple[str, ...]]]:
    """Yield the name of each net, or of each that is wanted, its file, its weights and the blobs to give."""
    nets = {path.stem: path for path in sorted((ROOT / "nets").glob("*.prototxt"))}
    names = [name for name in (*nets, *BUILT, *REAL) if not wanted or name in wanted]
    for name in (name for name in names if name not in REAL):
        param = BUILT[name]() if name in BUILT else read_net(nets[name], stages=("deploy",))
        param = narrow(param) if name in nets and name not in WHOLE else param
        file, weights = folder / f"{name}.prototxt", folder / f"{name}.caffemodel"
        file.write_text(write_text(param))
        net = Net(param)
        fill_at_random(net)
        for it in net.layers_in_order:
            if isinstance(it, SegNetBN):  # as in trained nets: with others 80 layers let any rounding grow
                nn.init.uniform_(it.scale, 0.5, 1.5)
            if isinstance(it, PReLU):
                nn.init.constant_(it.slope, 0.25)
        save_weights(weights, net_weights(net), net.name)
        yield name, file, weights, OUTPUTS.get(name, ())
    place = SHARED / "data" / "caffe"
    for name in (name for name in names if name in REAL):
        file_name, weights_name, outputs = REAL[name]
        yield name, place / file_name, place / weights_name, outputs


def row(name: str, file: Path, weights: Path, outputs: tuple[str, ...], folder: Path) -> list[str]:
    """Return a net's row of the table: the largest difference, as a share of the largest value, in each engine."""
    path = folder / "a.onnx"
    subject = read_subject(file, weights, outputs=outputs, trust=True)
    options = Options(fixed=name in FIXED)
    made = export(subject, path, options)
    inputs = ", ".join(f"{blob} {' x '.join(map(str, sizes))}" for blob, sizes in made.program.inputs.items())
    cells = [name, inputs, share(made.proof)]
    taken = None if options.fixed else find_sizes(subject.net, tuple(made.program.inputs))
    for measure in (
        lambda: export(subject, folder / "a.xml", options).proof,
        lambda: export(subject, folder / "a.pt2", options).proof,
        lambda: prove(subject.net, made.program, open_opencv(path), taken),
    ):
        try:
            cells.append(share(measure()))
        except Exception as error:  # (an engine's, of any class)
            print(f"{name}: {' '.join(str(error).split())[:300]}", flush=True)
            cells.append(
                "fails: its numbers are off" if isinstance(error, GraphError) else "fails: an error of the engine"
            )
    return cells


def share(proof: Proof) -> str:
    """Return the largest difference; and, where it is above 1e-5, that from the net in float64."""
    return f"{proof.relative:.1e}" + (f" ({proof.exact[0]:.1e})" if proof.exact else "")


def open_opencv(path: Path) -> Engine:
    """Load an ONNX file into OpenCV, for its outputs."""
    import cv2

    names = [value.name for value in onnx.load(path).graph.output]
    return Engine(f"OpenCV {cv2.__version__}", engine_runs.open_opencv(path.read_bytes(), names))


def write_row(cells: list[str]) -> None:
    """Put a net's row into the page, in the place of its old one."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    table, _, after = rest.partition(END)
    rows = {line.split(" | ")[0]: line for line in table.strip().splitlines()[2:]}
    line = f"| {' | '.join(cells)} |"
    rows[line.split(" | ")[0]] = line
    head = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    written = "\n".join([*head, *(rows[name] for name in sorted(rows, key=str.lower))])
    PAGE.write_text(f"{before}{START}\n{written}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Run the nets, and write a row of each as soon as it is there."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        for subject in subjects(Path(folder), sys.argv[1:]):
            start = time.process_time()
            cells = row(*subject, Path(folder))
            write_row(cells)
            print(f"{' | '.join(cells)}: {time.process_time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
