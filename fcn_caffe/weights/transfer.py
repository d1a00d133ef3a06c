"""Weight files, and weights into nets: `Weights` is {layer name: [arrays in Caffe's blob order]}."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fcn_caffe.errors import WeightsError
from fcn_caffe.host.text import show
from fcn_caffe.weights.formats import ABSENT, Array, Weights, as_float32, format_of, format_to_write

__all__ = ["ABSENT", "Array", "CopyReport", "Weights", "copy_weights", "load_weights", "net_weights", "save_weights"]


@dataclass
class CopyReport:
    """What copy_weights did, by layer name; `coerced` names blobs whose legacy 4-D shape was dropped."""

    copied: list[str] = field(default_factory=list)
    coerced: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"copied {len(self.copied)}: {', '.join(self.copied) or 'none'}"]
        if self.coerced:
            lines.append(f"coerced {len(self.coerced)}: {'; '.join(self.coerced)}")
        if self.ignored:
            lines.append(f"ignored {len(self.ignored)} the net does not have: {', '.join(self.ignored)}")
        if self.missing:
            lines.append(f"missing {len(self.missing)}, left as they are: {', '.join(self.missing)}")
        return "\n".join(lines)


def load_weights(path: str | os.PathLike[str]) -> Weights:
    """Return the arrays of a weight file, float32, layers in file order; layers without blobs are left out.

    `.caffemodel` (modern, V1 and V0; shaped and 4-D blobs): arrays are views of the mapped file, so this reads
    next to nothing. The mapping is private: writing to an array does not change the file.
    `.caffemodel.h5` as Caffe writes it; `.safetensors` (needs its library), `.pth` or `.pt` (weights_only), `.npz`:
    arrays LAYER/0, LAYER/1 … as save_weights names them, or a Net's state_dict.
    A file's first bytes tell which it is, as in Caffe, then its ending; any other file is read as a `.caffemodel`.
    Blobs that a file leaves out, being shared with an earlier layer, are ABSENT. Arrays of other dtypes are converted.
    Files that declare more than three times their size (small ones 1 MiB more) are refused before that is allocated.
    Raises: WeightsError if the file cannot be read, is truncated or corrupt (with the byte), or no weights at all.
    """
    return format_of(path).read(path)


def save_weights(
    path: str | os.PathLike[str],
    weights: Mapping[str, list[Array]],
    net_name: str = "",
    types: Mapping[str, str] | None = None,
) -> None:
    """Write weights, as float32, in the format of the ending: see load_weights.

    `types` gives layers their Caffe type, for Caffe's tools to show (.caffemodel, .safetensors); HDF5 gets a group for
    each of them, as from Caffe. HDF5, .pth and .npz have no place for the net's name.
    Whole or not at all: the file is written beside and renamed, an older one stays until then.
    Raises: WeightsError if the file cannot be written, the ending is unknown, or numbers do not fit into float32.
    """
    form = format_to_write(path)
    name = os.fspath(path)
    plain = {
        layer: [
            blob if blob is ABSENT else as_float32(blob, f"{name}: layer '{layer}' blob {index}")
            for index, blob in enumerate(blobs)
        ]
        for layer, blobs in weights.items()
    }
    try:
        form.write(path, plain, net_name, types or {})
    except OSError as error:
        why = error.strerror or str(error).rstrip(".")
        raise WeightsError(f"{name}: cannot be written: {why}. Nothing was replaced.") from error


def net_weights(net: Any, shared: bool = True) -> Weights:
    """Return the net's parameters as arrays, in file order. On the CPU they share the net's memory.

    shared: also those that a layer has from an earlier one, as a .caffemodel holds them; else they are ABSENT, as in
    Caffe's HDF5.
    """
    found: Weights = {}
    seen: set[int] = set()
    for name, blobs in net.params.items():
        found[name] = []
        for blob in blobs:
            left_out = not shared and _memory(blob) in seen
            found[name].append(ABSENT if left_out else blob.detach().cpu().numpy())
            seen.add(_memory(blob))
    return found


def copy_weights(
    net: Any, weights: Mapping[str, list[Array]], source: str | os.PathLike[str] = "weights", strict: bool = False
) -> CopyReport:
    """Copy arrays into the net's parameters by layer name, as Caffe's copy_from does; `source` is for messages.

    Number of blobs and shapes must match; a 4-D blob with leading 1s also matches without them (old files).
    Everything is checked before anything is copied. Layers the net lacks are ignored, layers the weights lack
    keep their values; with `strict` either is an error. Works on any device and dtype of the net.
    Raises: WeightsError naming the layer, the blob and both shapes.
    """
    name = os.fspath(source)
    report, pairs, problems = CopyReport(), [], []
    reached: set[int] = set()
    shared = _shared(net)
    for layer, arrays in weights.items():
        targets: list[Tensor] | None = net.params.get(layer)
        if targets is None:
            report.ignored.append(layer)
            continue
        # What the file leaves out, the layer must have from another.
        lacking = [index for index in range(len(targets)) if index >= len(arrays) or arrays[index] is ABSENT]
        if len(arrays) > len(targets) or any((layer, index) not in shared for index in lacking):
            problems.append(
                f"layer '{layer}' has {_count(_present(arrays), 'blob')}, the net wants {len(targets)}. "
                "Is bias_term the same? Rename the layer to learn it from scratch."
            )
            continue
        report.copied.append(layer)
        for index, (array, target) in enumerate(zip(arrays, targets, strict=False)):
            if array is ABSENT:
                continue
            shape = tuple(target.shape)
            if array.shape != shape:
                if array.ndim != 4 or array.shape != (1,) * (4 - len(shape)) + shape:
                    problems.append(_mismatch(layer, index, array.shape, shape))
                    continue
                report.coerced.append(f"{layer} blob {index} {show(array.shape)} to {show(shape)}")
            pairs.append((target, array))
            reached.add(_memory(target))
    for layer, targets in net.params.items():
        # A layer that shares another's parameters has them from there.
        if layer not in weights and any(_memory(target) not in reached for target in targets):
            report.missing.append(layer)
    if problems:
        more = f" ({_count(len(problems) - 1, 'more blob')} also do not fit.)" if len(problems) > 1 else ""
        raise WeightsError(f"{name}: {problems[0]}{more}")
    if strict and (report.ignored or report.missing):
        raise WeightsError(f"{name}: the layers are not those of the net.\n{report}")
    if any(target.is_meta for target, _ in pairs):
        raise WeightsError(f"{name}: the net is on the meta device and holds no memory. Build it on cpu or cuda.")
    for target, array in pairs:
        _copy(target, array)
    return report


def _memory(blob: Tensor) -> int:
    """What blobs that share their values have in common; views of one blob do, objects of their own."""
    return blob.data_ptr() or id(blob)


def _shared(net: Any) -> set[tuple[str, int]]:
    """(layer, blob index) of the blobs that belong to an earlier layer."""
    seen: set[int] = set()
    found = set()
    for layer, blobs in net.params.items():
        for index, blob in enumerate(blobs):
            if _memory(blob) in seen:
                found.add((layer, index))
            seen.add(_memory(blob))
    return found


def _present(arrays: list[Array]) -> int:
    return sum(array is not ABSENT for array in arrays)


def _copy(target: Tensor, array: Array) -> None:
    """Set `target` to `array`, which holds as many values; their shapes may differ by leading 1s."""
    with torch.no_grad():
        if target.device.type == "cpu" and target.dtype == torch.float32:
            # numpy's copy runs at the speed of memcpy, also from a file's unaligned floats; torch's at two thirds.
            np.copyto(target.detach().numpy(), array.reshape(tuple(target.shape)))
            # Autograd counts writes, and has not seen this one: write to none of the elements.
            target.reshape(-1)[:0].zero_()
        else:
            # torch warns of arrays it may not write to; a loaded file's are writable, the few others are copied.
            writable = array if array.flags.writeable else array.copy()
            target.copy_(torch.from_numpy(writable).reshape(target.shape))


def _mismatch(layer: str, index: int, have: tuple[int, ...], want: tuple[int, ...]) -> str:
    message = f"layer '{layer}' blob {index} is {show(have)}, the net wants {show(want)}."
    if np.prod(have, dtype=object) == np.prod(want, dtype=object):
        return f"{message} Same count: use transplant, or rename the layer to learn it from scratch."
    differing = {pair for pair in zip(have, want, strict=False) if pair[0] != pair[1]}
    if len(have) == len(want) and len(differing) == 1 and have[0] != want[0]:
        # One number differs, outputs included: the usual reason is another number of classes.
        message += f" The weights have {have[0]} outputs, the net {want[0]}; if classes differ,"
        return f"{message} rename the layer to learn it from scratch."
    return f"{message} Rename the layer to learn it from scratch."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
