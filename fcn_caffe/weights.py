"""Weight files, and weights into nets: `Weights` is {layer name: [arrays in Caffe's blob order]}."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .atomic import atomic_write
from .errors import WeightsError
from .proto import wire, wire_writer

__all__ = ["CopyReport", "Weights", "copy_weights", "load_weights", "net_weights", "save_weights"]

Array = np.ndarray[Any, Any]
Weights = dict[str, list[Array]]


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
    Raises: WeightsError if the file cannot be read, is truncated or corrupt (with the byte), or of another format.
    """
    loaded: Weights = _format_of(path, _READERS)(path)
    return loaded


def save_weights(
    path: str | os.PathLike[str],
    weights: Mapping[str, list[Array]],
    net_name: str = "",
    types: Mapping[str, str] | None = None,
) -> None:
    """Write weights in the format of the suffix; `types` gives layers their Caffe type, for Caffe's tools to show.

    Whole or not at all: the file is written beside and renamed, an older one stays until then.
    Raises: WeightsError if the file cannot be written or the suffix is unknown.
    """
    writer = _format_of(path, _WRITERS)
    try:
        writer(path, weights, net_name, types or {})
    except OSError as error:
        raise WeightsError(f"{os.fspath(path)}: cannot be written: {error.strerror}. Nothing was replaced.") from error


def net_weights(net: Any) -> Weights:
    """Return the net's parameters as arrays, in file order. On the CPU they share the net's memory."""
    return {name: [blob.detach().cpu().numpy() for blob in blobs] for name, blobs in net.params.items()}


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
    for layer, arrays in weights.items():
        targets: list[Tensor] | None = net.params.get(layer)
        if targets is None:
            report.ignored.append(layer)
            continue
        if len(arrays) != len(targets):
            problems.append(
                f"layer '{layer}' has {_count(len(arrays), 'blob')}, the net wants {len(targets)}. "
                "Is bias_term the same? Rename the layer to learn it from scratch."
            )
            continue
        report.copied.append(layer)
        for index, (array, target) in enumerate(zip(arrays, targets, strict=True)):
            shape = tuple(target.shape)
            if array.shape != shape:
                if array.ndim != 4 or array.shape != (1,) * (4 - len(shape)) + shape:
                    problems.append(_mismatch(layer, index, array.shape, shape))
                    continue
                report.coerced.append(f"{layer} blob {index} {_shape(array.shape)} to {_shape(shape)}")
            pairs.append((target, array))
            reached.add(id(target))
    for layer, targets in net.params.items():
        # A layer that shares another's parameters has them from there.
        if layer not in weights and any(id(target) not in reached for target in targets):
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
    message = f"layer '{layer}' blob {index} is {_shape(have)}, the net wants {_shape(want)}."
    if np.prod(have, dtype=object) == np.prod(want, dtype=object):
        return f"{message} Same count: use transplant, or rename the layer to learn it from scratch."
    differing = {pair for pair in zip(have, want, strict=False) if pair[0] != pair[1]}
    if len(have) == len(want) and len(differing) == 1 and have[0] != want[0]:
        # One number differs, outputs included: the usual reason is another number of classes.
        message += f" The weights have {have[0]} outputs, the net {want[0]}; if classes differ,"
        return f"{message} rename the layer to learn it from scratch."
    return f"{message} Rename the layer to learn it from scratch."


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single value"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# -- formats -------------------------------------------------------------------------------------------------------


def _read_caffemodel(path: str | os.PathLike[str]) -> Weights:
    return {layer.name: layer.blobs for layer in wire.read_net(path).layers if layer.blobs}


def _write_caffemodel(
    path: str | os.PathLike[str], weights: Mapping[str, list[Array]], net_name: str, types: Mapping[str, str]
) -> None:
    with atomic_write(path) as file:
        wire_writer.write_net(file, net_name, ((name, types.get(name, ""), blobs) for name, blobs in weights.items()))


# Adding a format is one line in each table. Longer endings come first: `.caffemodel.h5` is not a `.caffemodel`.
_READERS: dict[str, Callable[[str | os.PathLike[str]], Weights]] = {".caffemodel": _read_caffemodel}
_WRITERS: dict[str, Callable[..., None]] = {".caffemodel": _write_caffemodel}


def _format_of(path: str | os.PathLike[str], table: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    name = os.fspath(path)
    for ending, function in table.items():
        if name.lower().endswith(ending):
            return function
    raise WeightsError(f"{name}: the ending names no weight format this version knows. Known: {', '.join(table)}.")
