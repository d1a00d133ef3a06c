"""Export: nets for other engines, as ONNX, torch.export's programs and OpenVINO's IR.

`read_subject` reads a net with its weights, `export` writes it, runs the file in its engine, and leaves it only where
the numbers are the net's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fcn_caffe.host.lazy import import_name

if TYPE_CHECKING:
    from fcn_caffe.export.portable import make_portable, refuse_unexportable
    from fcn_caffe.export.proof import Proof
    from fcn_caffe.export.subject import Subject, read_subject
    from fcn_caffe.export.write import Exported, Options, export, format_of

__all__ = [
    "Exported",
    "Options",
    "Proof",
    "Subject",
    "export",
    "format_of",
    "make_portable",
    "read_subject",
    "refuse_unexportable",
]

# A command's help, and a wrong ending, need no PyTorch.
_MODULES = {
    "Exported": "write",
    "Options": "write",
    "Proof": "proof",
    "Subject": "subject",
    "export": "write",
    "format_of": "write",
    "make_portable": "portable",
    "read_subject": "subject",
    "refuse_unexportable": "portable",
}


def __getattr__(name: str) -> object:
    return import_name(__name__, name, _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
