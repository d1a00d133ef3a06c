"""What every weight format shares: float32 arrays, names of blobs, and how much a file may make of itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from fcn_caffe.errors import WeightsError

Array = np.ndarray[Any, Any]
Weights = dict[str, list[Array]]
PathLike = str | os.PathLike[str]

# Stands for a blob that a file leaves out because the layer shares it with an earlier one.
ABSENT: Array = np.zeros(0, np.float32)
ABSENT.flags.writeable = False

LEGACY_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # what torch.save before 1.6 begins with

# A layer of Caffe's has a handful of blobs; an index far beyond that is damage, and would make a long list of nothing.
_MOST_BLOBS = 256
# Small files of zeros compress well; from here on, values may take three times the room of their file.
_FREE = 2**20
_MOST_AXES = 64  # NumPy's


def as_float32(array: Array, what: str) -> Array:
    """Return an array as float32, itself if it is.

    Args:
        array: The array.
        what: What errors call it.

    Raises:
        WeightsError: It holds no real numbers, or numbers beyond float32.
    """
    if not isinstance(array, np.ndarray):
        kind = type(array).__name__
        raise WeightsError(f"{what} is {kind}, wanted a NumPy array. net_weights(net) gives those of a net.")
    if array.dtype == np.float32:
        return array
    if array.dtype.kind not in "fiu":
        raise WeightsError(f"{what} holds {array.dtype}, wanted float32 or what becomes it.")
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array.astype(np.float32)
    if array.dtype.itemsize > 4 and np.isinf(converted).any():
        beyond = np.isinf(converted) & np.isfinite(array)
        if beyond.any():
            raise WeightsError(
                f"{what} holds {array[beyond].flat[0]:g}, which is beyond float32. Scale the weights, or correct them."
            )
    return converted


@dataclass(frozen=True)
class Named:
    """What a file of named tensors holds, in the order that they are used in, where the file says it.

    Args:
        arrays: The weights, float32, as PyTorch keeps them: a Linear's is outputs x inputs.
        constants: Other arrays, which are no layer's weights as far as the file says.
        is_program: Whether the file says how its weights are used, so that all of `arrays` are as PyTorch keeps them,
            also those with names of ours.
    """

    arrays: dict[str, Array]
    constants: dict[str, Array] = field(default_factory=dict)
    is_program: bool = False


class Budget:
    """Counts the bytes of values that a file declares, before they are allocated.

    A compressed file may declare three times its size, a small one 1 MiB more; a file that declares more is refused.
    """

    def __init__(self, path: PathLike, size: int) -> None:
        self.path, self.size, self.taken = path, size, 0

    def take(self, count: int, what: str) -> None:
        """Count `count` bytes of `what`.

        Raises:
            WeightsError: They are too many.
        """
        self.taken += count
        if self.taken > 3 * self.size + _FREE:
            raise WeightsError(
                f"{os.fspath(self.path)}: with {what} it declares {self.taken:,} bytes of values, the file has "
                f"{self.size:,}. More than three times the file is not read: it is corrupt, or should be saved "
                "without compression."
            )

    def take_values(self, sizes: Sequence[int], what: str) -> None:
        """Count the float32 values of an array.

        Raises:
            WeightsError: They are too many, or the array has more axes than any.
        """
        if len(sizes) > _MOST_AXES:
            raise WeightsError(
                f"{os.fspath(self.path)}: {what} has {len(sizes):,} axes, an array has {_MOST_AXES} at most. "
                "The file is corrupt. Copy it again."
            )
        self.take(4 * prod(sizes), what)


def from_blobs(by_layer: Mapping[str, Mapping[int, Array]], path: PathLike) -> Weights:
    """Return {layer: {blob index: array}} as Weights, ABSENT where an index is left out.

    Raises:
        WeightsError: An index is larger than any layer's.
    """
    weights: Weights = {}
    for layer, blobs in by_layer.items():
        if blobs and max(blobs) >= _MOST_BLOBS:
            raise WeightsError(
                f"{os.fspath(path)}: layer '{layer}' has a blob {max(blobs)}: no layer has that many. Correct the file."
            )
        if blobs:
            weights[layer] = [blobs.get(index, ABSENT) for index in range(max(blobs) + 1)]
    return weights


def blob_index(text: str) -> int | None:
    """Return the index that a text spells as Caffe writes it; None for another text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 and str(int(text)) == text else None


def blob_names(weights: Mapping[str, list[Array]]) -> Iterator[tuple[str, Array]]:
    """Yield LAYER/INDEX and the array of every blob, in order, without those that are ABSENT."""
    for layer, blobs in weights.items():
        yield from ((f"{layer}/{index}", blob) for index, blob in enumerate(blobs) if blob is not ABSENT)


# The order of a layer's blobs where only their names are known; other layers have one blob, or keep their order.
_ORDER = ("weight", "bias", "mean", "variance", "scale_factor")


def from_names(named: Mapping[str, Array], path: PathLike, ordered: bool) -> Weights:
    """Return named arrays as Weights.

    Args:
        named: Arrays by name: LAYER/INDEX, or as in the state_dict of a Net (layers.LAYER.weight, LAYER.weight).
        path: What errors call the file.
        ordered: Whether a layer's names come in the order of its blobs; otherwise weight comes before bias, and so on.

    Raises:
        WeightsError: The names are others, which are listed.
    """
    by_layer: dict[str, dict[int, Array]] = {}
    loose: dict[str, list[tuple[str, Array]]] = {}
    foreign = []
    for name, array in named.items():
        layer, slash, last = name.rpartition("/")
        index = blob_index(last) if slash else None
        parts = name.split(".")
        if layer and index is not None:
            by_layer.setdefault(layer, {})[index] = array
        elif len(parts) == 3 and parts[0] == "layers" and all(parts):
            loose.setdefault(parts[1], []).append((parts[2], array))
        elif len(parts) == 2 and parts[0] and parts[1] in _ORDER:
            loose.setdefault(parts[0], []).append((parts[1], array))
        else:
            foreign.append(name)
    if foreign or (by_layer and loose) or not named:
        shown = list_names(foreign or named)
        raise WeightsError(
            f"{os.fspath(path)}: holds {shown or 'nothing'}; wanted LAYER/0, LAYER/1 … as save_weights writes them, or "
            "the state_dict of a Net (layers.LAYER.weight). `fcn-caffe port_weights IN OUT --net NET` maps other names "
            "onto the layers of a net."
        )
    for layer, blobs in loose.items():
        if not ordered and len(blobs) > 1:
            unknown = [name for name, _ in blobs if name not in _ORDER]
            if unknown:
                raise WeightsError(
                    f"{os.fspath(path)}: layer '{layer}' has {list_names(name for name, _ in blobs)}, whose order is "
                    f"not known. Name them {layer}/0, {layer}/1 … in Caffe's order."
                )
            blobs.sort(key=lambda blob: _ORDER.index(blob[0]))
        by_layer[layer] = {index: array for index, (_, array) in enumerate(blobs)}
    return from_blobs(by_layer, path)


def list_names(names: Iterable[str]) -> str:
    """List the first names of many, for an error."""
    every = list(names)
    shown = ", ".join(repr(name if len(name) <= 60 else f"{name[:60]}…") for name in every[:4])
    return f"{shown} and {len(every) - 4} more" if len(every) > 4 else shown


@contextmanager
def reading(path: PathLike, what: str) -> Iterator[None]:
    """Turn whatever a library raises over a file in this block into a WeightsError that names the file."""
    name = os.fspath(path)
    try:
        yield
    except WeightsError:
        raise
    except OSError as error:
        if error.errno not in (None, errno.EINVAL) and error.strerror:  # EINVAL: a place that the file does not have
            raise WeightsError(f"{name}: cannot be read: {error.strerror}. Give a file that can be read.") from None
        raise WeightsError(_damaged(name, what, error)) from None
    except Exception as error:
        raise WeightsError(_damaged(name, what, error)) from None
    except BaseException as error:
        # What a panic in a library written in Rust becomes is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise WeightsError(_damaged(name, what, error)) from None


def _damaged(name: str, what: str, error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    words = lines[0][:200].rstrip(".") if lines else ""
    reason = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return f"{name}: cannot be read as {what} ({reason}). The file is truncated, corrupt or of another format."
