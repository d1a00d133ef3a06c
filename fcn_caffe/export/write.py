"""Writes a net for another engine, runs the file, and leaves it only where the numbers are the net's."""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_caffe.errors import DataError
from fcn_caffe.host.atomic import atomic_files, check_place

if TYPE_CHECKING:
    import torch

    from fcn_caffe.export.engines import Engine
    from fcn_caffe.export.program import Program
    from fcn_caffe.export.proof import Proof
    from fcn_caffe.export.subject import Subject
    from fcn_caffe.net.net import Net

__all__ = ["FORMATS", "OPSET", "Exported", "Options", "export", "format_of"]

OPSET = 18
# By ending: the format's name, and the packages it needs, each with the extra of ours that has it.
FORMATS: Mapping[str, tuple[str, dict[str, str]]] = {
    ".onnx": ("onnx", {"onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx"}),
    ".pt2": ("pt2", {}),
    ".xml": ("openvino", {"onnx": "onnx", "onnxscript": "onnx", "openvino": "openvino"}),
}


@dataclass(frozen=True)
class Options:
    """How a net is exported.

    opset: the version of ONNX's operators. preprocess: whether the file takes photographs. argmax: whether it gives
    classes. half: whether its weights are float16. fixed: whether it takes the declared sizes alone. plain: whether
    constant borders are computed as often as the net's file has it.
    """

    opset: int = OPSET
    preprocess: bool = False
    argmax: bool = False
    half: bool = False
    fixed: bool = False
    plain: bool = False


@dataclass(frozen=True)
class Exported:
    """What was written: the files, what they compute, and how exactly."""

    files: list[Path]
    program: Program
    proof: Proof


def format_of(path: str | os.PathLike[str]) -> str:
    """Return the format that a file's ending says, once it is sure that it can be written.

    Raises:
        DataError: no format has the ending, a package is not installed, or no file can be written there.
    """
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise DataError(
            f"{os.fspath(path)}: no format has the ending '{ending}'. Known: .onnx (ONNX), .pt2 (torch.export), .xml "
            "(OpenVINO)."
        )
    name, packages = FORMATS[ending]
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        extras = ",".join(dict.fromkeys(packages[package] for package in missing))
        raise DataError(
            f'{os.fspath(path)}: needs the package {" and ".join(missing)}. Install: pip install "fcn-caffe[{extras}]".'
        )
    check_place(path)
    return name


def export(
    subject: Subject,
    path: str | os.PathLike[str],
    options: Options = Options(),
    report: Callable[[str], object] | None = None,
) -> Exported:
    """Write a net to a file for another engine, run it there, and put it in its place if the numbers are the net's.

    Args:
        subject: the net, and the blobs that the file gives.
        path: the file; its ending says what it is: .onnx, .pt2 or .xml.
        options: how.
        report: takes a line on each thing that was done to the net.

    Raises:
        DataError: as `format_of`; or the net takes no photographs.
        LayerError: the net has layers that the format cannot hold.
        GraphError: the net cannot be traced, or the file's numbers are off. Nothing is left of it then.
    """
    from fcn_caffe.export.engines import engine_errors, import_engine
    from fcn_caffe.export.places import mask_blobs
    from fcn_caffe.export.portable import refuse_unexportable
    from fcn_caffe.export.program import trace
    from fcn_caffe.export.proof import prove
    from fcn_caffe.export.sizes import find_sizes

    target, format = Path(path), format_of(path)
    refuse_unexportable(subject.net, format)
    made_by = subject.made_by if options.preprocess else None
    net, types = _prepare(subject, options, format, report)
    taken = None if options.fixed else find_sizes(subject.net, net.as_module(subject.outputs).input_names)
    program = trace(net, subject.outputs, types, taken)
    plain = subject.net.as_module(subject.outputs).net  # without inputs that no layer reads
    facts = subject.facts() | ({"input": "RGB photographs, uint8"} if options.preprocess else {})
    for package in FORMATS[target.suffix.lower()][1]:
        import_engine(package)  # now: a signal during an import ends at once, and would leave the folder
    with engine_errors(subject.net.name), atomic_files(target) as place:
        engine = _write(program, place, facts, options, format)
        witness = None
        if masks := mask_blobs(plain):  # with masks a rounding may move values: see `places`
            with tempfile.TemporaryDirectory(dir=place.parent) as folder:
                witness = _write(trace(net, masks, types, taken), Path(folder) / place.name, {}, options, format)
        kinds = {"classes": options.argmax, "half": options.half}
        proof = prove(plain, program, engine, taken, made_by, witness=witness, **kinds)
        files = [target.with_name(file.name) for file in sorted(place.parent.iterdir(), key=lambda file: file != place)]
    return Exported(files, program, proof)


def _prepare(
    subject: Subject, options: Options, format: str, report: Callable[[str], object] | None
) -> tuple[Net, dict[str, torch.dtype]]:
    """Return the net that is traced, and the types of its inputs that are not float32."""
    import torch

    from fcn_caffe.export.ends import with_argmax, with_preprocessing
    from fcn_caffe.export.half import halve
    from fcn_caffe.export.portable import make_portable
    from fcn_caffe.net.rewrite.borders import borders_once

    net = subject.net if options.plain else borders_once(subject.net, report)
    net = make_portable(net)
    if options.half and format != "openvino":  # which keeps its weights so itself
        net = halve(net)
    types = {}
    if options.preprocess:
        net = with_preprocessing(net, subject.made_by)
        types = dict.fromkeys(net.graph.inputs, torch.uint8)
    if options.argmax:
        net = with_argmax(net, subject.outputs)
    return net, types


def _write(program: Program, path: Path, facts: Mapping[str, str], options: Options, format: str) -> Engine:
    """Write the file, with what it says of itself, and load it into its engine."""
    if format == "pt2":
        from fcn_caffe.export.program_file import open_program, write_program

        write_program(program, path, json.dumps(facts, ensure_ascii=False))
        return open_program(path)
    from fcn_caffe.export.onnx_file import open_onnx, write_onnx

    if format == "onnx":
        write_onnx(program, path, facts, options.opset)
        return open_onnx(path)
    from fcn_caffe.export.openvino_file import open_openvino, write_openvino

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        between = Path(folder) / "net.onnx"
        write_onnx(program, between, {}, options.opset)
        write_openvino(between, path, facts, options.half)
    return open_openvino(path)
