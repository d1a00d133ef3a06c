"""Read and write weight files, and copy weights into nets: `Weights` is {layer name: [arrays in Caffe's order]}."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from fcn_caffe.errors import WeightsError
from fcn_caffe.host.atomic import unwritten
from fcn_caffe.host.text import show
from fcn_caffe.weights.blobs import (
    Fit,
    HasAllParams,
    HasParams,
    fit,
    memory_of,
    missing_layers,
    refuse_meta,
    set_values,
)
from fcn_caffe.weights.formats import (
    ABSENT,
    CAFFEMODEL,
    HDF5,
    Array,
    Format,
    Weights,
    as_float32,
    format_of,
    format_to_write,
)
from fcn_caffe.weights.formats.caffemodel import write_layers

__all__ = [
    "ABSENT",
    "Array",
    "BlobCounts",
    "CopyReport",
    "Weights",
    "copy_weights",
    "count_blobs",
    "load_weights",
    "net_weights",
    "save_weights",
]


@dataclass
class CopyReport:
    """What a copy did, by layer name.

    Args:
        copied: Layers whose blobs were set.
        coerced: Blobs that changed their shape on the way: `conv1 blob 1 1x1x1x8 to 8`.
        ignored: Layers that the net does not have.
        missing: Layers of the net that keep their values.
    """

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
    """Read the arrays of a weight file: float32, layers in file order, without layers that have no blobs.

    The format is detected from the file's first bytes, as in Caffe, then from its ending:

    - `.caffemodel` (modern, V1 and V0; shaped and 4-D blobs), also any file of an unknown ending. Arrays are views of
      the mapped file, so this reads next to nothing. The mapping is private: writing to one does not change the file.
    - `.caffemodel.h5`, as Caffe writes it.
    - `.safetensors` (needs its library), `.pth` or `.pt` (only tensors are unpickled), `.npz`: arrays LAYER/0,
      LAYER/1 … as save_weights names them, or the state_dict of a Net.

    A blob that a file leaves out because an earlier layer shares it is ABSENT. Other dtypes are converted. A file that
    declares more than three times its size (a small one 1 MiB more) is refused before anything is allocated.

    Raises:
        WeightsError: The file cannot be read, is truncated or corrupt (says at which byte), or holds no weights.
    """
    return format_of(path).read(path)


def save_weights(
    path: str | os.PathLike[str],
    weights: Mapping[str, list[Array]],
    net_name: str = "",
    types: Mapping[str, str] | None = None,
) -> None:
    """Write weights, as float32, in the format of the file's ending: see load_weights.

    The file is there whole or not at all: it is written beside and renamed, and an older one stays until then.

    Args:
        path: The file.
        weights: The arrays.
        net_name: The net's name, for which HDF5, .pth and .npz have no place.
        types: Layers' Caffe types, which Caffe's tools show (.caffemodel, .safetensors). HDF5 gets a group for each
            of these layers, as from Caffe.

    Raises:
        WeightsError: The file cannot be written, the ending is unknown, or a number does not fit into float32.
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
        raise WeightsError(f"{os.fspath(path)}: {unwritten(error)}") from error


def count_blobs(weights: Mapping[str, Sequence[Array]]) -> dict[str, int]:
    """Return how many blobs each layer has: what `Net` takes as `blob_counts`, to tell forks of Caffe apart."""
    return {layer: len(blobs) for layer, blobs in weights.items()}


class BlobCounts(Mapping[str, int]):
    """How many blobs each layer has in weight files, which are read when a number is asked for.

    Args:
        files: The files; of a layer that several have the last counts.
    """

    def __init__(self, files: Iterable[str | os.PathLike[str]]) -> None:
        self._files = files

    @cached_property
    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for file in self._files:
            counts.update(count_blobs(load_weights(file)))
        return counts

    def __getitem__(self, layer: str) -> int:
        return self._counts[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)


def net_weights(net: HasParams, shared: bool = True) -> Weights:
    """Return the net's parameters as arrays, in file order. On the CPU they share the net's memory.

    Args:
        net: The net.
        shared: Whether a blob that a layer has from an earlier one is there too, as in a .caffemodel; otherwise it is
            ABSENT, as in Caffe's HDF5.
    """
    return {
        layer: [
            ABSENT if is_shared and not shared else blob.detach().cpu().numpy()
            for blob, is_shared in zip(blobs, shares, strict=True)
        ]
        for (layer, blobs), shares in zip(net.params.items(), _shares(net), strict=True)
    }


def save_net(
    path: str | os.PathLike[str],
    net: HasAllParams,
    types: Mapping[str, str] | None = None,
    gradients: Callable[[Tensor], Tensor] | None = None,
    form: Format | None = None,
) -> None:
    """Write a net's weights as Caffe does: in a .caffemodel every blob of every layer, in HDF5 shared ones once.

    Args:
        path: The file.
        net: The net.
        types: Layers' Caffe types; HDF5 gets a group for each of them.
        gradients: What gives the gradient that is stored beside each blob, by a .caffemodel and by HDF5; None for none.
        form: The format; by default that of the file's ending.

    Raises:
        WeightsError: The file cannot be written; or several layers with blobs have one name, which a .caffemodel
            alone can hold.
    """
    form = form or format_to_write(path)

    layers = [
        (name, kind, _arrays(blobs, path, name), _arrays(map(gradients, blobs), path, name) if gradients else [])
        for name, kind, blobs in net.all_params()
    ]
    try:
        if form is CAFFEMODEL:
            write_layers(path, net.name, layers)
            return
        _refuse_repeated([name for name, *_ in layers], path, form)
        weights = net_weights(net, shared=form is not HDF5)
        if form is HDF5 and gradients:
            from fcn_caffe.weights.formats.hdf5 import write_weights as write_hdf5

            write_hdf5(path, weights, net.name, types, {name: diffs for name, _, _, diffs in layers})
        else:
            form.write(path, weights, net.name, types or {})
    except OSError as error:
        raise WeightsError(f"{os.fspath(path)}: {unwritten(error)}") from error


def _arrays(blobs: Iterable[Tensor], path: str | os.PathLike[str], layer: str) -> list[Array]:
    return [as_float32(blob.detach().cpu().numpy(), f"{os.fspath(path)}: layer '{layer}'") for blob in blobs]


def _refuse_repeated(names: list[str], path: str | os.PathLike[str], form: Format) -> None:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise WeightsError(
            f"{os.fspath(path)}: several layers named '{repeated}' have blobs, which {form.name} cannot hold. "
            "Give each its own name, or write a .caffemodel."
        )


def copy_weights(
    net: HasParams,
    weights: Mapping[str, list[Array]],
    source: str | os.PathLike[str] = "weights",
    strict: bool = False,
) -> CopyReport:
    """Copy arrays into the net's parameters by layer name, as Caffe's copy_from does.

    The number of a layer's blobs and their shapes must match; an array of 4 axes also matches without its leading 1s,
    which old files have. Everything is checked before anything is copied. The net may be on any device, of any dtype.

    Args:
        net: The net.
        weights: The arrays.
        source: What messages call the weights.
        strict: Whether a layer that only one of the two has is an error. Otherwise a layer that the net lacks is
            ignored, and one that the weights lack keeps its values.

    Raises:
        WeightsError: Names the layer, the blob and both shapes.
    """
    name = os.fspath(source)
    adapt = getattr(net, "adapt_weights", None)  # a Net has it
    report, pairs, problems = _pair_up(net, weights if adapt is None else adapt(weights))
    if problems:
        more = f" ({_count(len(problems) - 1, 'more blob')} also do not fit.)" if len(problems) > 1 else ""
        raise WeightsError(f"{name}: {problems[0]}{more}")
    if strict and (report.ignored or report.missing):
        raise WeightsError(f"{name}: the layers are not those of the net.\n{report}")
    refuse_meta((target for target, _ in pairs), f"{name}: ")
    for target, array in pairs:
        set_values(target, array)
    return report


def _pair_up(
    net: HasParams, weights: Mapping[str, list[Array]]
) -> tuple[CopyReport, list[tuple[Tensor, Array]], list[str]]:
    """Return the report of a copy, the blobs with their arrays, and what is wrong, one sentence a layer or blob."""
    params, report = net.params, CopyReport()
    pairs: list[tuple[Tensor, Array]] = []
    problems: list[str] = []
    shares = dict(zip(params, _shares(net), strict=True))
    for layer, arrays in weights.items():
        if layer not in params:
            report.ignored.append(layer)
        elif not _has_every_blob(arrays, shares[layer]):
            present = sum(array is not ABSENT for array in arrays)
            problems.append(
                f"layer '{layer}' has {_count(present, 'blob')}, the net wants {len(params[layer])}. "
                "Is bias_term the same? Rename the layer to learn it from scratch."
            )
        else:
            report.copied.append(layer)
            for index, (array, target) in enumerate(zip(arrays, params[layer], strict=False)):
                if array is ABSENT:
                    continue
                how = fit(array, target)
                if how < Fit.LEGACY:
                    problems.append(_mismatch(layer, index, array.shape, tuple(target.shape), how))
                    continue
                if how is Fit.LEGACY:
                    report.coerced.append(f"{layer} blob {index} {show(array.shape)} to {show(target.shape)}")
                pairs.append((target, array))
    report.missing = missing_layers(params, weights, (target for target, _ in pairs))
    return report, pairs, problems


def _shares(net: HasParams) -> list[list[bool]]:
    """For each layer of `params`, whether each of its blobs belongs to an earlier layer."""
    owners: set[int] = set()
    shares: list[list[bool]] = []
    for blobs in net.params.values():
        shares.append([])
        for blob in blobs:
            shares[-1].append(memory_of(blob) in owners)
            owners.add(memory_of(blob))
    return shares


def _has_every_blob(arrays: list[Array], shares: list[bool]) -> bool:
    """Whether there is an array for every blob of a layer, but for those that it has from another, and no more."""
    if len(arrays) > len(shares):
        return False
    absent = [*(array is ABSENT for array in arrays), *[True] * (len(shares) - len(arrays))]
    return all(is_shared for is_shared, is_absent in zip(shares, absent, strict=True) if is_absent)


def _mismatch(layer: str, index: int, have: tuple[int, ...], want: tuple[int, ...], how: Fit) -> str:
    message = f"layer '{layer}' blob {index} is {show(have)}, the net wants {show(want)}."
    if how is Fit.COUNT:
        return f"{message} Same count: use transplant, or rename the layer to learn it from scratch."
    differing = {pair for pair in zip(have, want, strict=False) if pair[0] != pair[1]}
    if len(have) == len(want) and len(differing) == 1 and have[0] != want[0]:
        # One number differs, outputs included: the usual reason is another number of classes.
        message += f" The weights have {have[0]} outputs, the net {want[0]}; if classes differ,"
        return f"{message} rename the layer to learn it from scratch."
    return f"{message} Rename the layer to learn it from scratch."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
