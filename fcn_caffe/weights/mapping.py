"""Weights of a model that was written by hand, or by an exporter, mapped onto the layers of a net of Caffe's.

A layer is found by name where the names are ours or alike, then by order and shape. All of both sides has to be mapped:
what is left over is an error with a table, and a file of pairs says what a person knows.

>>> file = Named({"features.0.weight": np.ones((2, 3, 1, 1), "f"), "features.0.bias": np.zeros(2, "f")})
>>> conv1 = NetLayer("conv1", "Convolution", "conv1", {"weight": (2, 3, 1, 1), "bias": (2,)})
>>> mapping = map_weights(file, [conv1], "vgg.pth")
>>> print(mapping.report)
conv1  <- features.0.weight, features.0.bias
>>> [array.shape for array in mapping.weights["conv1"]]
[(2, 3, 1, 1), (2,)]
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

import numpy as np

from fcn_caffe.errors import WeightsError
from fcn_caffe.host.paths import refuse_endless
from fcn_caffe.host.text import decode_text, did_you_mean, show
from fcn_caffe.weights.blobs import memory_of
from fcn_caffe.weights.formats.arrays import ABSENT, Array, Named, PathLike, Weights, list_names

__all__ = ["MappedWeights", "NetLayer", "Pairs", "map_weights", "net_layers", "read_pairs"]

Shape = tuple[int, ...]

# What PyTorch calls a blob, by our name of it. A blob with another name has the same there.
_PYTORCH = {
    **{"slope": "weight", "scale": "weight", "shift": "bias"},
    **{"mean": "running_mean", "variance": "running_var"},
}
_FACTOR = "scale_factor"  # of BatchNorm's mean and variance; PyTorch's are divided by it already
_STATISTICS = ("running_mean", "running_var")
_COUNTED = "num_batches_tracked"
NONE = "-"


@dataclass(frozen=True)
class NetLayer:
    """A layer of the net.

    Args:
        name: Its name.
        type: Its type.
        key: What the net's state_dict calls it: layers.KEY.weight.
        shapes: The shapes of its blobs, by name, in Caffe's order.
        shared: The blobs that an earlier layer has; they are not looked for.
        transposed: Whether its weight is inputs x outputs.
    """

    name: str
    type: str
    key: str
    shapes: Mapping[str, Shape]
    shared: frozenset[str] = frozenset()
    transposed: bool = False

    @property
    def wanted(self) -> tuple[str, ...]:
        """The blobs that are the layer's own."""
        return tuple(blob for blob in self.shapes if blob not in self.shared)

    @property
    def roles(self) -> dict[str, str]:
        """PyTorch's name of each blob that has one there."""
        return {blob: _PYTORCH.get(blob, blob) for blob in self.wanted if blob != _FACTOR}

    def as_pytorch(self, blob: str) -> Shape:
        """The shape that PyTorch keeps a blob in."""
        shape = self.shapes[blob]
        return shape[::-1] if self.transposed and blob == "weight" else shape


@dataclass(frozen=True)
class FileLayer:
    """Tensors of the file that belong together: the name of each by its role."""

    name: str
    tensors: Mapping[str, str]


@dataclass
class Pairs:
    """What a file of pairs says.

    Args:
        path: The file.
        blobs: The tensor of a blob, by layer and blob name.
        layers: The layer of the file, by that of the net.
        left: Layers of the net that keep their values.
        dropped: Tensors and layers of the file that go nowhere.
    """

    path: str = ""
    blobs: dict[tuple[str, str], str] = field(default_factory=dict)
    layers: dict[str, str] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class MappedWeights:
    """The weights of the net's layers, and the report: each layer with what it is made of."""

    weights: Weights
    report: str


class HasLayers(Protocol):
    """A net, as far as this module knows it: `layers` by the key that its state_dict has."""

    @property
    def layers(self) -> Any: ...  # noqa: ANN401 (nn.ModuleDict, whose values are Layers)


def net_layers(net: HasLayers) -> list[NetLayer]:
    """Return the layers of a net that have blobs of their own; of several with one name the first, as Caffe does."""
    found: dict[str, NetLayer] = {}
    owners: set[int] = set()
    for key, layer in net.layers.items():
        shapes = {name: tuple(blob.shape) for name, blob in zip(layer.blob_names, layer.blobs, strict=True)}
        memory = {name: memory_of(blob) for name, blob in zip(layer.blob_names, layer.blobs, strict=True)}
        shared = frozenset(name for name, place in memory.items() if place in owners)
        owners.update(memory.values())
        if len(shared) < len(shapes) and layer.name not in found:
            transposed = bool(getattr(layer, "transpose", False))
            found[layer.name] = NetLayer(layer.name, layer.layer_type, key, shapes, shared, transposed)
    return list(found.values())


def read_pairs(path: PathLike, layers: Sequence[NetLayer]) -> Pairs:
    """Read a file of pairs, one a line: ours (LAYER, LAYER/0, LAYER.weight), theirs (a tensor; for LAYER a layer).

    `-` in place of one says that the other has no counterpart. What follows a # is a comment.

    Raises:
        WeightsError: The file cannot be read, a line has not two words, or names what the net does not have.
    """
    try:
        refuse_endless(path)
        with open(path, "rb") as file:
            lines = decode_text(file.read()).splitlines()
    except OSError as error:
        raise WeightsError(
            f"{os.fspath(path)}: cannot be read: {error.strerror}. Give a file that can be read."
        ) from None
    pairs = Pairs(os.fspath(path))
    known = {layer.name: layer for layer in layers}
    blobs = {name: (layer.name, blob) for layer in layers for blob in layer.wanted for name in _own_names(layer, blob)}
    for number, line in enumerate(lines, 1):
        words = line.split("#", 1)[0].split()
        where = f"{pairs.path}:{number}"
        if not words:
            continue
        if len(words) != 2 or words == [NONE, NONE]:
            raise WeightsError(
                f"{where}: wanted two words, a layer or blob of the net and a name in the file, found {len(words)}."
            )
        ours, theirs = words
        if ours == NONE:
            pairs.dropped.add(theirs)
        elif ours not in known and ours not in blobs:
            hint = did_you_mean(ours, [*known, *blobs]) or f" Known: {list_names(known)}."
            raise WeightsError(f"{where}: the net has no '{ours}'.{hint}")
        elif theirs == NONE and ours not in known:
            raise WeightsError(f"{where}: a layer keeps its values as a whole: write `{blobs[ours][0]} -`.")
        elif theirs == NONE:
            pairs.left.add(ours)
        elif ours in known:
            pairs.layers[ours] = theirs
        else:
            pairs.blobs[blobs[ours]] = theirs
    return pairs


def map_weights(
    file: Named, layers: Sequence[NetLayer], source: PathLike, pairs: Pairs | None = None, hint: str = ""
) -> MappedWeights:
    """Map the tensors of a file onto the layers of a net.

    Args:
        file: The tensors.
        layers: The layers that have blobs of their own, in file order.
        source: What messages call the file.
        pairs: What a person says.
        hint: What a message about layers that are left over adds.

    Raises:
        WeightsError: Something is left over on one side, or could be mapped in several ways; it has a table.
    """
    work = _Work(file, layers, os.fspath(source))
    pairs = pairs or Pairs()
    work.take_pairs(pairs)
    work.take_own_names()
    work.take_names()
    work.take_order()
    work.refuse_rest(pairs, hint)
    return MappedWeights(work.weights(), work.report())


class _Work:
    """A mapping in the making."""

    def __init__(self, file: Named, layers: Sequence[NetLayer], source: str) -> None:
        self.file, self.source = file, source
        self.every = {**file.arrays, **file.constants}
        self.all_layers = layers
        self.ours = list(layers)  # not mapped yet, in file order
        self.theirs = _file_layers(file.arrays, layers)  # the same, in order of use
        self.found: dict[str, dict[str, Array]] = {}  # by layer and blob
        self.lines: dict[str, str] = {}
        self.used: set[str] = set()

    # -- what is mapped, and how ----------------------------------------------------------------------------------

    def take_pairs(self, pairs: Pairs) -> None:
        """Map what the file of pairs says."""
        by_name = {layer.name: layer for layer in self.all_layers}
        for theirs in (*pairs.dropped, *pairs.blobs.values(), *pairs.layers.values()):
            if theirs not in self.every and not self._layers_named(theirs):
                names = [*self.every, *(layer.name for layer in self.theirs)]
                raise WeightsError(f"{pairs.path}: {self.source} has no '{theirs}'.{did_you_mean(theirs, names)}")
        for ours, theirs in pairs.layers.items():
            fitting = [layer for layer in self._layers_named(theirs) if _fits(by_name[ours], layer, self.every)]
            if not fitting:
                raise WeightsError(
                    f"{pairs.path}: {_words(by_name[ours])} does not fit '{theirs}' of {self.source}. Correct the pair."
                )
            self._take(by_name[ours], fitting[0])
        for (name, blob), theirs in pairs.blobs.items():
            layer = by_name[name]
            wanted = layer.as_pytorch(blob)
            if theirs not in self.every or not _fits_shape(self.every[theirs].shape, wanted):
                has = show(self.every[theirs].shape) if theirs in self.every else "a layer"
                raise WeightsError(
                    f"{pairs.path}: {name}.{blob} is {show(wanted)}, '{theirs}' of {self.source} {has}. "
                    "Correct the pair."
                )
            self._set(layer, blob, self.every[theirs])
            self._use(layer, [theirs])
        self.used |= pairs.dropped
        self._forget()
        self.theirs = [layer for layer in self.theirs if layer.name not in pairs.dropped]
        self.ours = [layer for layer in self.ours if layer.name not in self.found.keys() | pairs.left]

    def take_own_names(self) -> None:
        """Map layers whose blobs have our own names, as our own files have them, in our own shapes."""
        for layer in list(self.ours):
            names = {blob: self._own_name(layer, blob) for blob in layer.wanted}
            if None in names.values() or (layer.transposed and self.file.is_program):
                continue
            for blob, name in names.items():
                self.found.setdefault(layer.name, {})[blob] = self.every[name or ""].reshape(layer.shapes[blob])
            self.ours.remove(layer)
            self._use(layer, [name for name in names.values() if name])

    def take_names(self) -> None:
        """Map layers that have one name on both sides, or one last part of it, and fit."""
        for shorten in (str, _last):
            for layer in list(self.ours):
                alike = [it for it in self.theirs if _plain(shorten(it.name)) == _plain(layer.name)]
                fitting = [it for it in alike if _fits(layer, it, self.every)]
                if len(fitting) == 1:
                    self._take(layer, fitting[0])

    def take_order(self) -> None:
        """Map the rest by order and shape: from both ends, then where one layer alone fits another."""
        before = -1
        while before != len(self.ours):
            before = len(self.ours)
            for end in (0, -1):
                while self.ours and self.theirs and _fits(self.ours[end], self.theirs[end], self.every):
                    self._take(self.ours[end], self.theirs[end])
        for layer in list(self.ours):
            fitting = [it for it in self.theirs if _fits(layer, it, self.every)]
            if len(fitting) == 1 and sum(_fits(other, fitting[0], self.every) for other in self.ours) == 1:
                self._take(layer, fitting[0])

    def _take(self, layer: NetLayer, found: FileLayer) -> None:
        for blob, role in layer.roles.items():
            self._set(layer, blob, self.every[found.tensors[role]])
        self.ours.remove(layer)
        self._use(layer, list(found.tensors.values()))

    def _use(self, layer: NetLayer, tensors: Sequence[str]) -> None:
        """Note what a layer is made of; what is used up is no longer left."""
        self.used.update(tensors)
        self.lines[layer.name] = ", ".join(filter(None, (self.lines.get(layer.name), *tensors)))
        self._forget()

    def _forget(self) -> None:
        self.theirs = [layer for layer in self.theirs if not self.used.issuperset(layer.tensors.values())]

    def _set(self, layer: NetLayer, blob: str, array: Array) -> None:
        array = array.reshape(layer.as_pytorch(blob))
        self.found.setdefault(layer.name, {})[blob] = array.T if layer.transposed and blob == "weight" else array
        if _FACTOR in layer.shapes:
            self.found[layer.name].setdefault(_FACTOR, np.ones(1, np.float32))

    def _own_name(self, layer: NetLayer, blob: str) -> str | None:
        """The tensor that has a blob's own name and shape."""
        for name in _own_names(layer, blob):
            if name in self.every and _sizes(self.every[name].shape) == _sizes(layer.shapes[blob]):
                return name
        return None

    def _layers_named(self, name: str) -> list[FileLayer]:
        return [layer for layer in self.theirs if layer.name == name]

    # -- what came of it ------------------------------------------------------------------------------------------

    def weights(self) -> Weights:
        """Return the blobs of every mapped layer, in the net's order."""
        return {
            layer.name: [
                ABSENT if blob in layer.shared else np.ascontiguousarray(self.found[layer.name][blob])
                for blob in layer.shapes
            ]
            for layer in self.all_layers
            if layer.name in self.found
        }

    def report(self) -> str:
        """Return a line for every layer, and one for the arrays that are no weights."""
        width = max((len(name) for name in self.lines), default=0)
        lines = [
            f"{layer.name:<{width}}  <- {self.lines[layer.name]}"
            for layer in self.all_layers
            if layer.name in self.lines
        ]
        skipped = [name for name in self.file.constants if name not in self.used]
        if skipped:
            lines.append(f"left out, no layer's weights: {', '.join(skipped[:8])}{' …' if len(skipped) > 8 else ''}")
        return "\n".join(lines)

    def refuse_rest(self, pairs: Pairs, hint: str) -> None:
        """Raise where a layer is left over on either side, or is mapped in part."""
        partly = [
            layer.name
            for layer in self.all_layers
            if layer.name in self.found and len(self.found[layer.name]) != len(layer.wanted)
        ]
        if not self.ours and not self.theirs and not partly:
            return
        ambiguous = any(_fits(layer, it, self.every) for layer in self.ours for it in self.theirs)
        why = "could be mapped in several ways" if ambiguous else "have no counterpart"
        raise WeightsError(
            f"{self.source}: {len(self.ours)} layers of the net and {len(self.theirs)} of the file {why}.{hint} Say "
            f"which is which in {pairs.path or 'a file for --map'}, `LAYER NAME` a line, with - for none:\n"
            + "\n".join([*self._table(), *(f"mapped in part: {name}" for name in partly)])
        )

    def _table(self) -> list[str]:
        """Return what is left on both sides, side by side."""
        left = [_words(layer) for layer in self.ours] or ["nothing"]
        right = [self._words(it) for it in self.theirs] or ["nothing"]
        left, right = (_short(column) for column in (["left of the net", *left], ["left of the file", *right]))
        width = max(map(len, left))
        rows = max(len(left), len(right))
        columns = ((*column, *[""] * (rows - len(column))) for column in (left, right))
        return [f"  {ours:<{width}}  | {theirs}".rstrip() for ours, theirs in zip(*columns, strict=True)]

    def _words(self, layer: FileLayer) -> str:
        shapes = (f"{role} {show(self.every[name].shape)}" for role, name in layer.tensors.items())
        return f"{layer.name or NONE} {', '.join(shapes)}"


def _short(column: list[str], most: int = 24) -> list[str]:
    return [*column[:most], f"… and {len(column) - most} more"] if len(column) > most else column


def _words(layer: NetLayer) -> str:
    shapes = ", ".join(f"{blob} {show(layer.shapes[blob])}" for blob in layer.wanted)
    return f"{layer.name} ({layer.type}) {shapes}"


def _file_layers(arrays: Mapping[str, Array], layers: Iterable[NetLayer]) -> list[FileLayer]:
    """Group tensors by the part of their names before the last point.

    The statistics of a batch normalisation are a layer of their own where the net has them so, before scale and shift.
    """
    groups: dict[str, dict[str, str]] = {}
    for name in arrays:
        module, _, role = name.rpartition(".")
        if role != _COUNTED:
            groups.setdefault(module, {})[role] = name
    whole = any({"running_mean", "weight"} <= set(layer.roles.values()) for layer in layers)
    found: list[FileLayer] = []
    for module, tensors in groups.items():
        statistics = {role: name for role, name in tensors.items() if role in _STATISTICS}
        if statistics and not whole:
            found.append(FileLayer(module, statistics))
            tensors = {role: name for role, name in tensors.items() if role not in _STATISTICS}
        if tensors:
            found.append(FileLayer(module, tensors))
    return found


def _fits(layer: NetLayer, found: FileLayer, arrays: Mapping[str, Array]) -> bool:
    """Whether a layer of the file has all that a layer of the net wants, and no more."""
    roles = layer.roles
    return set(roles.values()) == found.tensors.keys() and all(
        _fits_shape(arrays[found.tensors[role]].shape, layer.as_pytorch(blob)) for blob, role in roles.items()
    )


def _fits_shape(have: Shape, want: Shape) -> bool:
    """Whether shapes are one but for sizes of 1, or are those of a Linear and of a convolution of the whole image.

    >>> _fits_shape((1, 8, 1, 1), (8,)), _fits_shape((5, 128), (5, 8, 4, 4)), _fits_shape((5, 8, 4, 4), (5, 32, 2, 2))
    (True, True, False)
    """
    if _sizes(have) == _sizes(want):
        return True
    return have[:1] == want[:1] and prod(have) == prod(want) and min(len(have), len(want)) == 2


def _sizes(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _own_names(layer: NetLayer, blob: str) -> tuple[str, ...]:
    """The names that our own files have for a blob."""
    index = list(layer.shapes).index(blob)
    return f"{layer.name}/{index}", f"{layer.name}.{blob}", f"layers.{layer.key}.{blob}"


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _last(name: str) -> str:
    return name.rpartition(".")[2]
