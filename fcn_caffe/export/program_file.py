"""torch.export's own file, .pt2: run by PyTorch without this package."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from fcn_caffe.export.engines import Array, Engine
from fcn_caffe.export.program import Program
from fcn_caffe.export.quiet import quiet

__all__ = ["FACTS", "open_program", "write_program"]

FACTS = "fcn_caffe.json"  # the extra file of a .pt2 that says what the net wants


def write_program(program: Program, path: Path, facts: str) -> list[Path]:
    """Write a .pt2; facts: JSON for its extra file `FACTS`."""
    # Without an example PyTorch refuses no sizes for what the example's were like, such as whether a crop cut it.
    program.exported.example_inputs = None
    whole = io.BytesIO()  # PyTorch's own writer ends the process where a disk is full
    with quiet():
        torch.export.save(program.exported, whole, extra_files={FACTS: facts})
    path.write_bytes(whole.getbuffer())
    return [path]


def open_program(path: Path) -> Engine:
    """Load a .pt2 that this process has written."""
    with quiet():
        module = torch.export.load(path).module()

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        with torch.no_grad(), quiet():
            tops = module(*(torch.from_numpy(blob) for blob in inputs.values()))
        return [np.asarray(top) for top in ([tops] if isinstance(tops, torch.Tensor) else tops)]

    return Engine(f"PyTorch {torch.__version__}", run)
