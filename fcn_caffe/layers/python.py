"""Python layers: a class that the user wrote, with Caffe's setup, reshape, forward and backward."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fcn_caffe.errors import FcnCaffeError, LayerError
from fcn_caffe.host.paths import Surroundings
from fcn_caffe.host.ranks import Share
from fcn_caffe.host.text import show
from fcn_caffe.host.trust import ALLOW_PYTHON_VARIABLE, may_run_python_of
from fcn_caffe.layers.base import Layer, register
from fcn_caffe.proto import caffe_pb2

Array = npt.NDArray[Any]
Result = TypeVar("Result")

# Packages whose modules a net may name without the package: `module: "voc_layers"`. `data.sets` adds itself.
PACKAGES: list[str] = []


class Blob:
    """A blob as a Python layer sees it: `data` and `diff`, float32 arrays of one shape."""

    def __init__(self, shape: tuple[int, ...] = (), data: Array | None = None) -> None:
        self.data: Array = np.zeros(shape, np.float32) if data is None else data
        self._diff: Array | None = None

    @property
    def diff(self) -> Array:
        """Return the gradient, which is zero until it is written."""
        if self._diff is None or self._diff.shape != self.data.shape:
            self._diff = np.zeros(self.data.shape, np.float32)
        return self._diff

    @diff.setter
    def diff(self, value: Array) -> None:
        if np.shape(value) != self.data.shape:  # else the next reader would find zeros
            raise ValueError(f"diff is {show(np.shape(value))}, data {show(self.data.shape)}: they are of one shape.")
        self._diff = value

    def reshape(self, *shape: int) -> None:
        """Take a new shape. The values stay where their number is the same; otherwise all are zero."""
        sizes = tuple(int(size) for size in shape)
        if sizes != self.data.shape:
            same = int(np.prod(sizes)) == self.data.size
            self.data = self.data.reshape(sizes) if same else np.zeros(sizes, np.float32)
            self._diff = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def count(self) -> int:
        return int(self.data.size)

    def _legacy(self, axis: int) -> int:
        if self.data.ndim > 4:
            raise LayerError(f"num, channels, height and width are for at most 4 axes, this blob has {self.data.ndim}.")
        return self.data.shape[axis] if axis < self.data.ndim else 1

    @property
    def num(self) -> int:
        return self._legacy(0)

    @property
    def channels(self) -> int:
        return self._legacy(1)

    @property
    def height(self) -> int:
        return self._legacy(2)

    @property
    def width(self) -> int:
        return self._legacy(3)


class BlobVector(list[Blob]):
    """Blobs of a Python layer: its bottoms, its tops, or its own."""

    def __setitem__(self, index: Any, blob: Any) -> None:  # noqa: ANN401 (as list has it)
        raise TypeError("a layer's blobs cannot be replaced. Write into their arrays: top[0].data[...] = array.")

    def add_blob(self, *shape: int) -> Blob:
        """Add a parameter blob of zeros; setup calls this."""
        self.append(Blob(tuple(shape)))
        return self[-1]


class PythonLayer:
    """Base of Python layers: `param_str`, `phase`, `blobs`, `surroundings`, and the four methods to write.

    A data layer that wants resumed training to see its images in the same order also has `get_state()` -> JSON-able and
    `set_state(state)`. In a run of several processes a layer without bottoms runs once for each of them in every pass,
    and the process keeps the tops that are its own; a layer that has `take_share(share)` and `skip(passes)` gives its
    process's samples itself.
    Source: pycaffe's caffe.Layer.
    """

    param_str: str
    phase: int
    blobs: BlobVector

    @cached_property
    def surroundings(self) -> Surroundings:
        """Where the layer finds its files: set by the net; for a layer made by hand, from the working directory."""
        return Surroundings()

    @property
    def type(self) -> str:
        """Return the layer type, the same for all classes."""
        return "Python"

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Read `param_str`. Runs once, first."""

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Give every top its shape. Runs before each forward."""

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Write the tops' data."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """Write the bottoms' diff from the tops' diff."""
        raise NotImplementedError(f"{type(self).__name__} has no backward")


def find_module(name: str, folder: Path | None) -> ModuleType:
    """Import a Python layer's module: from beside the net file, else from sys.path, else from one of PACKAGES.

    Beside the net counts where the person allows it (`fcn_caffe.host.trust`): a net may come from a stranger.

    Raises:
        LayerError: if there is none, it is beside a net that may not bring code, or it does not import.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise LayerError(f"python_param module {name!r} is not a module name.")
    beside = folder / (name.replace(".", "/") + ".py") if folder else None
    try:
        if folder is not None and beside is not None and beside.is_file():
            if may_run_python_of(folder):
                return _load_beside(name, beside, folder)
            module = _import_first([name])
            if module is None:
                raise LayerError(
                    f"module '{name}' is {beside}, code that came with the net and may do anything. If you trust "
                    f"it, give --allow-python, set {ALLOW_PYTHON_VARIABLE}=1, or set PYTHONPATH to its folder."
                )
            return module
        module = _import_first([name, *(f"{package}.{name}" for package in PACKAGES)])
    except FcnCaffeError:
        raise
    except (Exception, SystemExit) as error:  # a script without a main guard may call exit
        raise LayerError(
            f"module '{name}' does not import: {type(error).__name__}: {error}. "
            "Correct the module, or install what it needs."
        ) from error
    if module is not None:
        return module
    looked = f"beside the net ({folder}), " if folder else ""
    raise LayerError(
        f"module '{name}' was not found {looked}on sys.path or {_packages()}. Set PYTHONPATH to its folder."
    )


def _load_beside(name: str, beside: Path, folder: Path) -> ModuleType:
    """Run the module beside the net, once, whatever else is called so. Its own imports look beside the net, too."""
    known = sys.modules.get(name)
    if known is not None and Path(getattr(known, "__file__", None) or "").resolve() == beside.resolve():
        return known
    spec = importlib.util.spec_from_file_location(name, beside)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    sys.modules.setdefault(name, module)
    return module


def _import_first(candidates: Sequence[str]) -> ModuleType | None:
    """Import the first of these modules that there is.

    Raises:
        LayerError: The name is of Python's own library.
    """
    name = candidates[0]
    if name.split(".")[0] in sys.stdlib_module_names:  # importing some of them has effects
        raise LayerError(f"module '{name}' is Python's own and holds no layers. Name the module of the layer.")
    for candidate in candidates:
        if candidate in sys.modules:  # also "__main__", which cannot be found
            return sys.modules[candidate]
        try:
            spec = importlib.util.find_spec(candidate)
        except ModuleNotFoundError:
            spec = None
        if spec is not None:
            return importlib.import_module(candidate)
    return None


def _packages() -> str:
    return f"in {', '.join(PACKAGES)}" if PACKAGES else "in a package of layers"


class _Context(torch.autograd.function.FunctionCtx):
    """What `_Run` keeps from its forward for its backward."""

    layer: Python
    bottoms: list[Blob]
    device: torch.device
    needs_input_grad: tuple[bool, ...]


class _Run(torch.autograd.Function):
    """The user's forward and backward as one autograd step: bottoms, then the layer's own blobs."""

    @staticmethod
    def forward(ctx: _Context, layer: Python, *tensors: Tensor) -> tuple[Tensor, ...]:
        bottoms = layer.run_forward(tensors)
        ctx.layer, ctx.bottoms, ctx.device = layer, bottoms, tensors[0].device
        return layer.top_tensors(ctx.device)

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        diffs = ctx.layer.run_backward(ctx.bottoms, grads, ctx.needs_input_grad[1 : 1 + len(ctx.bottoms)])
        return (None, *(torch.tensor(diff, device=ctx.device) for diff in diffs))


@register("Python", bottoms=(0, None), tops=(0, None), restrictions="share_in_parallel is accepted and has no effect")
class Python(Layer):
    """A class from a module of the user's: python_param { module, layer, param_str }.

    Shapes: what the class's reshape gives its tops.
    Gradient: what its backward writes into the bottoms' diff.
    Order: setup and reshape when building, then reshape and forward each pass, so that a data layer loads its first
    image twice, as in Caffe. Data is float32 on the CPU.
    Raises: LayerError with the layer's name around whatever the class raises.
    Source: Caffe PythonLayer.
    """

    remembers = True
    may_write = True

    untraced = "runs any Python on arrays"
    share = Share()

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.python_param
        module = find_module(options.module, self.surroundings.folder)
        cls = getattr(module, options.layer, None)
        methods = ("setup", "reshape", "forward")
        if not isinstance(cls, type) or not all(callable(getattr(cls, name, None)) for name in methods):
            raise self.error(
                f"module '{options.module}' has no layer class '{options.layer}' with {', '.join(methods)}. "
                "Correct python_param."
            )
        user: Any = object.__new__(cls)  # pycaffe sets the attributes before __init__ runs
        user.param_str, user.phase, user.blobs = options.param_str, param.phase, BlobVector()
        user.surroundings = self.surroundings
        self.user = user
        self.call_user(user.__init__)
        self.top_blobs = BlobVector(Blob() for _ in param.top)
        bottom_blobs = BlobVector(Blob(tuple(bottom.shape)) for bottom in bottoms)
        self._place_tops(bottom_blobs)
        self.call_user(user.setup, bottom_blobs, self.top_blobs)
        self.call_user(user.reshape, bottom_blobs, self.top_blobs)
        self.own_blobs: list[Blob] = user.blobs
        for index, blob in enumerate(user.blobs):
            name = f"blob{index}"
            self.register_parameter(name, nn.Parameter(torch.from_numpy(blob.data)))
            self.blob_names.append(name)
            self.blob_fillers.append(None)

    def _place_tops(self, bottoms: list[Blob]) -> None:
        """Let a top that is named as a bottom be that bottom's Blob, as in Caffe."""
        names = list(self.param.bottom)
        self.top_blobs = BlobVector(
            bottoms[names.index(name)] if name in names else blob
            for name, blob in zip(self.param.top, self.top_blobs, strict=True)
        )

    def call_user(self, method: Callable[..., Result], *arguments: object) -> Result:
        """Call a method of the user's class.

        Raises:
            LayerError: The method raises; the error says what, and is raised from it.
        """
        try:
            return method(*arguments)
        except FcnCaffeError as error:
            raise error.named(f"layer '{self.name}' (Python)") from error.__cause__
        except Exception as error:
            where = f"{type(self.user).__name__}.{method.__name__}"
            raise self.error(f"{where} raised {type(error).__name__}: {error}") from error

    def method(self, name: str) -> Callable[..., Any]:
        """Return a method of the user's class. Raises: LayerError: it has none."""
        found = getattr(self.user, name, None)
        if not callable(found):
            raise self.error(f"{type(self.user).__name__} has no {name}. Write one; a layer without a gradient passes.")
        return found  # type: ignore[no-any-return]

    def check_own_blobs(self) -> None:
        """Raise LayerError where the user's class has added a blob after its setup: nothing would learn or keep it."""
        if len(self.user.blobs) != len(self.blob_names):
            raise self.error(
                f"{type(self.user).__name__} has {len(self.user.blobs)} blobs, {len(self.blob_names)} behind setup. "
                "Call add_blob in setup alone."
            )

    def top_tensors(self, device: torch.device | str) -> tuple[Tensor, ...]:
        """Return what the user's class has left in its tops. Raises: LayerError: it is no array of numbers."""
        tensors = []
        for name, top in zip(self.param.top, self.top_blobs, strict=True):
            if not isinstance(top.data, np.ndarray) or top.data.dtype.kind not in "biuf":
                kind = top.data.dtype if isinstance(top.data, np.ndarray) else type(top.data).__name__
                raise self.error(
                    f"{type(self.user).__name__} put {kind} into top '{name}', wanted an array of numbers. Write "
                    "top[0].data[...] = array."
                )
            tensors.append(torch.tensor(top.data, dtype=torch.float32, device=device))
        return tuple(tensors)

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty(top.shape, device="meta") for top in self.top_blobs)

    def run_forward(self, tensors: tuple[Tensor, ...]) -> list[Blob]:
        """Run reshape and forward of the user's class, and return the bottoms it got."""
        count = len(self.param.bottom)
        bottoms = BlobVector(Blob(data=_array(tensor)) for tensor in tensors[:count])
        for bottom, name in zip(bottoms, self.param.bottom, strict=True):
            if name in self.param.top:
                bottom.data = bottom.data.copy()  # the layer overwrites it, and it belongs to another layer
        self._place_tops(bottoms)
        self._use_own_blobs(tensors[count:])
        self._run_user(bottoms)
        if self.share.count > 1:
            self._keep_own()
        return bottoms

    def _run_user(self, bottoms: list[Blob]) -> None:
        self.call_user(self.user.reshape, bottoms, self.top_blobs)
        self.call_user(self.user.forward, bottoms, self.top_blobs)
        self.check_own_blobs()

    def _keep_own(self) -> None:
        """Run a data layer that knows of no processes for the others, too, after it ran for the first of them."""
        tops: list[Array] = []
        for turn in range(self.share.count):
            if turn:
                self._run_user([])
            if turn == self.share.rank:
                tops = [blob.data.copy() for blob in self.top_blobs]
        for blob, data in zip(self.top_blobs, tops, strict=True):
            blob.reshape(*data.shape)
            blob.data[...] = data

    def take_share(self, share: Share) -> None:
        if hasattr(self.user, "take_share"):
            self.call_user(self.user.take_share, share)
        elif not self.param.bottom:
            self.share = share

    def skip(self, passes: int) -> None:
        if hasattr(self.user, "take_share"):
            self.call_user(self.user.skip, passes)
        elif not self.param.bottom:  # its tops stay as they are until it runs again
            for _ in range(passes):
                self._run_user([])

    def run_backward(self, bottoms: list[Blob], grads: tuple[Tensor, ...], down: tuple[bool, ...]) -> list[Array]:
        """Run backward of the user's class, and return the gradients of the bottoms and of its own blobs."""
        self._place_tops(bottoms)
        for top, grad, name in zip(self.top_blobs, grads, self.param.top, strict=True):
            array = np.ascontiguousarray(_array(grad))
            top.diff = array.copy() if name in self.param.bottom else array
        self._use_own_blobs(self.blobs)
        for blob in self.user.blobs:
            blob.diff[...] = 0
        self.call_user(self.method("backward"), self.top_blobs, list(down), bottoms)
        return [blob.diff for blob in (*bottoms, *self.user.blobs)]

    def _use_own_blobs(self, tensors: Sequence[Tensor]) -> None:
        """Give the user's class blobs with the present numbers; the pycaffe face gives it blobs of its own."""
        self.user.blobs = self.own_blobs
        for blob, tensor in zip(self.own_blobs, tensors, strict=True):
            blob.data = _array(tensor)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        tensors = (*bottoms, *self.blobs)
        if not tensors or not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in tensors):
            self.run_forward(tensors)
            device = tensors[0].device if tensors else "cpu"
            return self.top_tensors(device)
        return _Run.apply(self, *tensors)  # type: ignore[no-any-return, no-untyped-call]

    def data_state(self) -> dict[str, Any] | None:
        return self.user.get_state() if hasattr(self.user, "get_state") else None

    def load_data_state(self, state: dict[str, Any]) -> None:
        self.call_user(self.user.set_state, state)


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().numpy()
