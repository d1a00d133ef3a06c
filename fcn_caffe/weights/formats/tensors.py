"""Files of tensors: .safetensors, and .pth or .pt as torch.save writes them. A tensor LAYER/INDEX for each blob."""

from __future__ import annotations

import json
import os
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO, FileIO
from types import ModuleType
from typing import IO, Any

import numpy as np
import torch

from fcn_caffe.errors import WeightsError
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.weights.formats.arrays import (
    LEGACY_TORCH_MAGIC,
    Array,
    Budget,
    Named,
    PathLike,
    Weights,
    as_float32,
    blob_names,
    from_names,
    list_names,
    reading,
)

# -- safetensors ---------------------------------------------------------------------------------------------------


def read_safetensors(path: PathLike) -> Weights:
    """Read the arrays of a .safetensors, float32, in the order that our metadata gives, else in that of their names.

    Raises:
        WeightsError: The file is corrupt or holds something else, or the library is missing.
    """
    named, ordered = _safetensors_arrays(path)
    return from_names(named, path, ordered)


def read_safetensors_named(path: PathLike) -> Named:
    """Read the tensors by the names that they have in the file; raise as `read_safetensors`."""
    return Named(_safetensors_arrays(path)[0])


def _safetensors_arrays(path: PathLike) -> tuple[dict[str, Array], bool]:
    """The tensors by name, and whether they are in the order of our metadata; otherwise in that of the file."""
    library = _safetensors(path)
    with reading(path, "safetensors"):
        budget, named = Budget(path, os.stat(path).st_size), {}
        with library.safe_open(os.fspath(path), framework="pt") as file:
            names = list(file.keys())
            order = _order(file.metadata() or {})
            for name in sorted(names, key=lambda name: order.get(name, len(order))):
                named[name] = _array(file.get_tensor(name), name, path, budget)
        return named, set(names) <= order.keys()


def read_safetensors_names(path: PathLike) -> tuple[str, dict[str, str]]:
    """Read the net's name and its layers' types from our own metadata.

    Raises:
        WeightsError: The file is corrupt, or the library is missing.
    """
    library = _safetensors(path)
    with reading(path, "safetensors"), library.safe_open(os.fspath(path), framework="pt") as file:
        metadata = file.metadata() or {}
    try:
        types = json.loads(metadata.get("types", "{}"))
    except (ValueError, RecursionError):
        types = {}
    if not isinstance(types, dict) or not all(isinstance(kind, str) for kind in types.values()):
        types = {}
    return metadata.get("net", ""), types


def write_safetensors(
    path: PathLike, weights: Mapping[str, list[Array]], net_name: str = "", types: Mapping[str, str] | None = None
) -> None:
    """Write weights as .safetensors; its metadata keeps the net's name, the layers' types and the order.

    Raises:
        OSError: The file cannot be written.
        WeightsError: The library is missing.
    """
    library = _safetensors(path)
    arrays = {name: np.ascontiguousarray(array, "<f4").reshape(array.shape) for name, array in blob_names(weights)}
    metadata = {
        "format": "pt",
        "net": net_name,
        "order": json.dumps(list(arrays)),
        "types": json.dumps({layer: kind for layer, kind in (types or {}).items() if layer in weights}),
    }
    with atomic_write(path) as file:
        try:
            library.numpy.save_file(arrays, file.name, metadata)
        except Exception as error:
            if isinstance(error, OSError):
                raise
            raise OSError(None, str(error)) from error


def _order(metadata: Mapping[str, str]) -> dict[str, int]:
    """The position of each name, from our own metadata."""
    try:
        names = json.loads(metadata.get("order", "[]"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(names, list):
        return {}
    return {name: index for index, name in enumerate(names) if isinstance(name, str)}


def _safetensors(path: PathLike) -> ModuleType:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError:
        raise WeightsError(
            f"{os.fspath(path)}: needs the library safetensors. Run `pip install fcn-caffe[safetensors]`."
        ) from None
    return safetensors


# -- torch's own -----------------------------------------------------------------------------------------------------

# A dict of tensors calls for these alone. Another name in a file is a function to call, or a class of a model.
_KINDS = ("Float", "Double", "Half", "BFloat16", "Byte", "Char", "Short", "Int", "Long")
_NEEDED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in _KINDS),
}
_SMALL = 2**16  # numbers that ask for no room to speak of, such as the version of the file
_BUILT = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "LIST", "EMPTY_LIST", "DICT", "EMPTY_DICT", "FROZENSET", "EMPTY_SET"}


def read_pth(path: PathLike) -> Weights:
    """Read the tensors of a dict that torch.save wrote, float32, in its order; where they can, as views of the file.

    Before it is loaded (with weights_only) its pickle is checked: it may call for tensors alone, and for no more of
    them than the file holds.

    Raises:
        WeightsError: The file is corrupt or compressed, or holds something else, which is named.
    """
    return from_names(read_pth_named(path).arrays, path, ordered=True)


def read_pth_named(path: PathLike) -> Named:
    """Read the tensors by the names that they have in the file; raise as `read_pth`."""
    name = os.fspath(path)
    with reading(path, "a torch file"), _quiet():
        size = os.stat(path).st_size
        zipped = zipfile.is_zipfile(path)
        if zipped:
            _check_zip(path, size)
        else:
            _check_legacy(path, size)
        try:
            loaded = torch.load(name, map_location="cpu", weights_only=True, mmap=zipped)
        except pickle.UnpicklingError:
            # Its own words advise to load without weights_only.
            raise WeightsError(
                f"{name}: cannot be read as a dict of tensors. The file is corrupt. Copy it again."
            ) from None
        if not isinstance(loaded, dict):
            raise WeightsError(
                f"{name}: holds a {type(loaded).__name__}, wanted a dict of tensors, as a state_dict is."
            )
        strange = {key: value for key, value in loaded.items() if not _is_plain(key, value)}
        if strange:
            held = ", ".join(f"{_key(key)} ({type(value).__name__})" for key, value in list(strange.items())[:4])
            raise WeightsError(
                f"{name}: wanted a dict of tensors, as a state_dict is, found {held}"
                f"{' …' if len(strange) > 4 else ''}. Save the state_dict alone."
            )
        budget = Budget(path, size)
        return Named({key: _array(value, key, path, budget) for key, value in loaded.items()})


def _key(key: object) -> str:
    return repr(key[:60]) if isinstance(key, str) else f"a key of type {type(key).__name__}"


def _is_plain(key: object, value: object) -> bool:
    return (
        isinstance(key, str)
        and isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and value.device.type == "cpu"
    )


def _check_zip(path: PathLike, size: int) -> None:
    """Refuse a torch file that would unpack to more than it is, or whose pickle calls for more than tensors."""
    with zipfile.ZipFile(path) as archive:
        pickles = [member for member in archive.infolist() if member.filename.endswith("data.pkl")]
        if len(pickles) != 1:
            raise WeightsError(f"{os.fspath(path)}: is a zip file, but not one that torch.save wrote.")
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise WeightsError(f"{os.fspath(path)}: is compressed, which torch.save never does. Save it again.")
        if pickles[0].file_size > size:
            raise WeightsError(f"{os.fspath(path)}: declares more than it holds. The file is corrupt. Copy it again.")
        _check_pickle(BytesIO(archive.read(pickles[0])), path, size)


class _Whole(FileIO):
    """A file whose `read` makes no room for more than is left, however much a corrupt pickle says to read."""

    def read(self, size: int | None = -1) -> bytes:
        """Read up to `size` bytes, or all that is left."""
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left)) or b""


def _check_legacy(path: PathLike, size: int) -> None:
    """The same for files of torch before 1.6: a magic number, a version and a description, then the pickle."""
    with _Whole(path) as file:
        if file.read(len(LEGACY_TORCH_MAGIC)) != LEGACY_TORCH_MAGIC:
            raise WeightsError(f"{os.fspath(path)}: does not begin as a file of torch.save does. Is it truncated?")
        for _ in ("version", "description", "tensors", "keys of the storages"):
            _check_pickle(file, path, size)


def _check_pickle(file: IO[bytes], path: PathLike, size: int) -> None:
    strange: list[str] = []
    memo: dict[Any, str] = {}
    before = ""
    for code, value, _ in pickletools.genops(file):
        if code.name in ("GLOBAL", "INST", "STACK_GLOBAL") and value not in _NEEDED:
            strange.append(str(value or "a class by name").replace(" ", "."))
        elif code.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if value is None else value] = before
        elif code.name == "DUP" or (code.name in ("GET", "BINGET", "LONG_BINGET") and memo.get(value) in _BUILT):
            # Tuples of twice the same tuple, and so on, double with each byte: to hash one as a key would never end.
            raise WeightsError(f"{os.fspath(path)}: holds a list or tuple twice, which no dict of tensors does.")
        elif isinstance(value, int) and not isinstance(value, bool) and abs(value) > max(size, _SMALL):
            raise WeightsError(
                f"{os.fspath(path)}: speaks of {value} values or bytes, the file has {size:,} bytes. It is corrupt: "
                "copy it again."
            )
        before = code.name
    if strange:
        raise WeightsError(
            f"{os.fspath(path)}: holds {list_names(dict.fromkeys(strange))}, wanted a dict of tensors, as a "
            "state_dict is. Save the state_dict alone."
        )


def write_pth(
    path: PathLike, weights: Mapping[str, list[Array]], net_name: str = "", types: Mapping[str, str] | None = None
) -> None:
    """Write weights as torch.save does a plain dict of tensors; it has no place for the net's name.

    Raises:
        OSError: The file cannot be written.
    """
    tensors = {}
    for name, array in blob_names(weights):
        plain = np.asarray(array, np.float32)
        # torch warns of arrays it may not write to.
        tensors[name] = torch.from_numpy(plain if plain.flags.writeable else plain.copy()).contiguous()
    with atomic_write(path) as file:
        try:
            torch.save(tensors, file)
        except RuntimeError as error:
            # torch's writer ends in an error of its own after the one of the file.
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__cause__ or cause.__context__
            raise cause or OSError(None, str(error).splitlines()[0]) from error


def _array(tensor: torch.Tensor, name: str, path: PathLike, budget: Budget) -> Array:
    """A tensor as a float32 array; a view where it is float32 already."""
    budget.take(4 * tensor.numel(), name)
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return as_float32(tensor.numpy(), f"{os.fspath(path)}: {name}")


@contextmanager
def _quiet() -> Iterator[None]:
    """torch warns of how old files were written, which their reader cannot change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
