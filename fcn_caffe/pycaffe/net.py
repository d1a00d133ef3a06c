"""pycaffe's Net, over a core net."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NoReturn, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch

from fcn_caffe.host.text import show
from fcn_caffe.net.graph import AUTOMATIC
from fcn_caffe.net.net import Net as CoreNet
from fcn_caffe.net.turns import Turn, training_alone
from fcn_caffe.pycaffe import modes
from fcn_caffe.pycaffe.arguments import PathLike, check_file, list_names, net_arguments
from fcn_caffe.pycaffe.before import old_net_name
from fcn_caffe.pycaffe.blob import Blob, BlobVec, Named, Vec
from fcn_caffe.pycaffe.errors import raise_as_raised
from fcn_caffe.pycaffe.executor import Executor, Step
from fcn_caffe.pycaffe.install import find_caffe
from fcn_caffe.pycaffe.layer import layer_of
from fcn_caffe.weights.formats import CAFFEMODEL, HDF5
from fcn_caffe.weights.transfer import copy_weights, count_blobs, load_weights, save_net

Array = npt.NDArray[Any]
_Method = TypeVar("_Method", bound=Callable[..., object])


def _alone(method: _Method) -> _Method:
    """Wrap a method of Net that runs layers: a second thread is refused while one is in the net's passes."""

    @functools.wraps(method)
    def run(self: Net, *arguments: object, **options: object) -> object:
        with self._turn.alone(self.name):
            return method(self, *arguments, **options)

    return cast("_Method", run)


class Net:
    """A net whose blobs and parameters are arrays: `Net(file, phase)`, `Net(file, weights, phase)`.

    `Net(network_file, phase, level=0, stages=None, weights=None)` is the whole form. The arrays of `blobs` and `params`
    are the memory that layers compute in: write to them and run. An array that a script keeps shows what later passes
    write. So one thread at a time may run a net: another that does so meanwhile gets a GraphError. `fork=` says whose
    Caffe a net is of where its file does not, as in the core's Net; pycaffe has no such word.

    Raises:
        RuntimeError: a file is not there.
        TypeError: the arguments are others.
        FcnCaffeError: the net or its weights are wrong.

    Source: pycaffe's Net.
    """

    _core: CoreNet
    _executor: Executor
    _turn: Turn

    def __init__(self, *arguments: object, **options: object) -> None:
        fork = str(options.pop("fork", ""))
        file, phase, level, stages, weights = net_arguments(arguments, options)
        find_caffe()
        with raise_as_raised():
            arrays = {} if weights is None else load_weights(check_file(weights))
            core = CoreNet(
                check_file(file),
                phase,
                stages=stages,
                level=level,
                device=modes.current_device(),
                fork=fork,
                blob_counts=count_blobs(arrays),
            )
        self._start(core)
        if weights is not None:
            self.copy_from(weights)

    @classmethod
    def over(cls, core: CoreNet) -> Net:
        """Make the face of a core net; both work in the same memory."""
        net = cls.__new__(cls)
        cls._start(net, core)
        return net

    def _start(self, core: CoreNet) -> None:
        self._core, self._executor, self._turn = core, Executor(core, modes.current_device), Turn()
        steps = self._executor.steps
        self._layer_names = Vec(step.node.name for step in steps)
        self._blob_names = Vec(self._face_name(name) for name in self._executor.blobs)
        self._blobs = BlobVec(self._executor.blobs.values())
        self.layers = Vec(layer_of(step) for step in steps)
        self.blobs: OrderedDict[str, Blob] = Named(OrderedDict(zip(self._blob_names, self._blobs, strict=True)))
        self.layer_dict: OrderedDict[str, Any] = OrderedDict(zip(self._layer_names, self.layers, strict=True))
        self.params: OrderedDict[str, BlobVec] = Named(
            OrderedDict((step.node.name, step.blobs) for step in steps if step.blobs)
        )
        self.inputs = list(self._executor.graph.inputs)
        self.outputs = list(self._executor.outputs)
        self.top_names = OrderedDict((step.node.name, self._names(step.node.tops)) for step in steps)
        self.bottom_names = OrderedDict((step.node.name, self._names(step.node.bottoms)) for step in steps)
        self._before_forward: list[Callable[[int], Any]] = []
        self._after_forward: list[Callable[[int], Any]] = []
        self._before_backward: list[Callable[[int], Any]] = []
        self._after_backward: list[Callable[[int], Any]] = []

    @staticmethod
    def _face_name(name: str) -> str:
        return AUTOMATIC if name.startswith(AUTOMATIC) else name

    def _names(self, names: Sequence[str]) -> list[str]:
        return [self._face_name(name) for name in names]

    @property
    def core(self) -> CoreNet:
        """The net that computes."""
        return self._core

    @property
    def executor(self) -> Executor:
        """What runs the layers over the blobs."""
        return self._executor

    def __getattr__(self, name: str) -> object:
        hint = old_net_name(name)
        raise AttributeError(f"'{type(self).__name__}' object has no attribute {name!r}.{hint and f' {hint}'}")

    def __deepcopy__(self, memo: dict[int, Any]) -> Net:
        net = type(self).__new__(type(self))
        memo[id(self)] = net
        net.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return net

    def __reduce_ex__(self, protocol: Any) -> NoReturn:  # noqa: ANN401 (as object has it)
        raise TypeError(
            "a caffe.Net cannot be pickled, as in pycaffe. Save its weights, net.save(path), and make it where it is "
            "needed, also in another process: caffe.Net(file, path, caffe.TEST)."
        )

    # -- names of pycaffe's own code -------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The net's name in its file."""
        return self._core.name

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """Each blob's weight in the loss, by name; 0 for most."""
        return OrderedDict(zip(self._blob_names, self._blob_loss_weights, strict=False))

    @property
    def _blob_loss_weights(self) -> Vec:
        weights = dict.fromkeys(self._executor.blobs, 0.0)
        for step in self._executor.steps:
            weights.update(zip(step.node.tops, step.weights, strict=True))
        return Vec(weights.values())

    @property
    def _inputs(self) -> Vec:
        return Vec(list(self._executor.blobs).index(name) for name in self.inputs)

    @property
    def _outputs(self) -> Vec:
        return Vec(list(self._executor.blobs).index(name) for name in self.outputs)

    def _top_ids(self, index: int) -> Vec:
        """Return the numbers of a layer's tops in `_blobs`."""
        return self._ids(self._executor.steps[index].node.tops)

    def _bottom_ids(self, index: int) -> Vec:
        """Return the numbers of a layer's bottoms in `_blobs`."""
        return self._ids(self._executor.steps[index].node.bottoms)

    def _ids(self, names: Sequence[str]) -> Vec:
        order = list(self._executor.blobs)
        return Vec(order.index(name) for name in names)

    # -- running --------------------------------------------------------------------------------------------------

    @_alone
    def run_forward(self, start: int, end: int) -> float:
        """Run layers `start` to `end`, both included, by number; return their loss."""
        return self._executor.loss(*self._run_layers(start, end))

    def _run_layers(self, start: int, end: int) -> tuple[list[Step], torch.device]:
        self._check_range(start, end, "forward")
        executor = self._executor
        device = executor.device
        for index in range(start, end + 1):
            for call in self._before_forward:
                call(index)
            executor.forward(executor.steps[index], device)
            for call in self._after_forward:
                call(index)
        return executor.steps[start : end + 1], device

    @_alone
    def run_backward(self, start: int, end: int) -> None:
        """Run layers `start` down to `end` backward, both included, by number, from the diffs that their tops have."""
        self._check_range(end, start, "backward")
        executor = self._executor
        device = executor.device
        with training_alone((item.blob for item in self._core.learnable_params), self.name):
            for index in range(start, end - 1, -1):
                for call in self._before_backward:
                    call(index)
                executor.backward(executor.steps[index], device)
                for call in self._after_backward:
                    call(index)
        debug = self._core.debug
        if debug is not None and debug.enabled:
            debug.show_norms()

    # pycaffe's own names of these two
    _forward = run_forward
    _backward = run_backward

    def _check_range(self, first: int, last: int, way: str) -> None:
        count = len(self._executor.steps)
        if not (0 <= first < count and 0 <= last < count):
            raise IndexError(f"{way}: layers {first} to {last} are asked for, the net has 0 to {count - 1}.")

    @_alone
    def forward(
        self, blobs: list[str] | None = None, start: str | None = None, end: str | None = None, **kwargs: Array
    ) -> dict[str, Array]:
        """Run the layers from `start` to `end`, by name; return arrays of the outputs, or of `end`'s tops.

        Args:
            blobs: more blobs to return.
            start: the first layer to run; by default the net's first.
            end: the last layer to run; by default the net's last.
            kwargs: arrays for all of the net's inputs.

        Raises:
            Exception: the inputs are not the net's, or have another batch size.
            ValueError: a layer is not there.
            KeyError: a blob is not there.
            FcnCaffeError: a layer fails; of the class that a Python layer raised, too.
        """
        first = 0 if start is None else self._index(start)
        last = len(self.layers) - 1 if end is None else self._index(end)
        outputs = set((self.outputs if end is None else self.top_names[end]) + list(blobs or ()))
        if kwargs:
            if set(kwargs) != set(self.inputs):
                raise Exception(
                    f"Input blob arguments do not match net inputs. Given: {list_names(kwargs)}; "
                    f"the net has: {list_names(self.inputs)}."
                )
            for name, array in kwargs.items():
                self._fill(name, array, "data", "Input is not batch sized")
        self._run_layers(first, last)
        return {name: self.blobs[name].data for name in outputs}

    @_alone
    def backward(
        self, diffs: list[str] | None = None, start: str | None = None, end: str | None = None, **kwargs: Array
    ) -> dict[str, Array]:
        """Run the layers from `start` down to `end` backward; return the diffs of the inputs, or of `end`'s bottoms.

        It begins with the diffs that `start`'s tops have; a loss's is its loss weight. Parameters' diffs add up.

        Args:
            diffs: more blobs whose diff to return.
            start: the first layer to run, by name; by default the net's last.
            end: the last layer to run, by name; by default the net's first.
            kwargs: diffs for all of the net's outputs.

        Raises:
            Exception: as in `forward`.
        """
        first = len(self.layers) - 1 if start is None else self._index(start)
        last = 0 if end is None else self._index(end)
        outputs = set((self.inputs if end is None else self.bottom_names[end]) + list(diffs or ()))
        if kwargs:
            if set(kwargs) != set(self.outputs):
                raise Exception(
                    f"Top diff arguments do not match net outputs. Given: {list_names(kwargs)}; "
                    f"the net has: {list_names(self.outputs)}."
                )
            for name, array in kwargs.items():
                self._fill(name, array, "diff", "Diff is not batch sized")
        self.run_backward(first, last)
        return {name: self.blobs[name].diff for name in outputs}

    def _index(self, layer: str) -> int:
        if layer not in self._layer_names:
            raise ValueError(
                f"'{layer}' is not a layer of net '{self.name}'. Its layers: {list_names(self._layer_names)}."
            )
        return self._layer_names.index(layer)

    def _fill(self, name: str, array: Array, what: str, complaint: str) -> None:
        blob = self.blobs[name]
        if array.shape[:1] != tuple(blob.shape[:1]):
            raise Exception(
                f"{complaint}: '{name}' is {show(array.shape)}, the blob {show(blob.shape)}. Reshape the blob first."
            )
        getattr(blob, what)[...] = array

    @_alone
    def forward_all(self, blobs: list[str] | None = None, **kwargs: Array) -> dict[str, Array]:
        """Run forward in batches over arrays of any length; return whole arrays of the outputs and of `blobs`."""
        rows: dict[str, list[Array]] = {name: [] for name in set(self.outputs + list(blobs or ()))}
        for batch in self._batch(kwargs):
            for name, array in self.forward(blobs, None, None, **batch).items():
                rows[name].extend(array.copy())
        return _join(rows, len(next(iter(kwargs.values()))))

    @_alone
    def forward_backward_all(
        self, blobs: list[str] | None = None, diffs: list[str] | None = None, **kwargs: Array
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Run forward and backward in batches over arrays of any length.

        Args:
            blobs: more blobs to return.
            diffs: more blobs whose diff to return.
            kwargs: arrays for the inputs, and diffs for the outputs.

        Returns:
            Whole arrays of the outputs and of `blobs`; and of the inputs' diffs and of `diffs`.
        """
        rows: dict[str, list[Array]] = {name: [] for name in set(self.outputs + list(blobs or ()))}
        gradients: dict[str, list[Array]] = {name: [] for name in set(self.inputs + list(diffs or ()))}
        forwards = self._batch({name: kwargs[name] for name in self.inputs if name in kwargs})
        backwards = self._batch({name: kwargs[name] for name in self.outputs if name in kwargs})
        above: dict[str, Array]
        below: dict[str, Array]
        for above, below in zip_longest(forwards, backwards, fillvalue={}):
            for name, array in self.forward(blobs, None, None, **above).items():
                rows[name].extend(array.copy())
            for name, array in self.backward(diffs, None, None, **below).items():
                gradients[name].extend(array.copy())
        count = len(next(iter(kwargs.values())))
        return _join(rows, count), _join(gradients, count)

    def _batch(self, blobs: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        """Cut the arrays into batches of the net's size; the last is filled up with zeros."""
        if not blobs:
            return
        count, size = len(next(iter(blobs.values()))), int(next(iter(self.blobs.values())).shape[0])
        for begin in range(0, count, size):
            batch = {name: array[begin : begin + size] for name, array in blobs.items()}
            missing = size - (min(begin + size, count) - begin)
            if missing:
                batch = {
                    name: np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
                    for name, array in batch.items()
                }
            yield batch

    def reshape(self) -> None:
        """Give every blob the shape that follows from its layer's bottoms."""
        self._executor.reshape()

    def set_input_arrays(self, data: Array, labels: Array) -> None:
        """Give the net's MemoryData layer its arrays, both float32.

        Shapes: data of four axes, labels of one or four.

        Raises:
            RuntimeError: the first layer is no MemoryData layer.
            LayerError: the arrays do not fit.
        """
        if labels.ndim == 1:
            labels = np.ascontiguousarray(labels[:, np.newaxis, np.newaxis, np.newaxis])
        self._set_input_arrays(data, labels)

    def _set_input_arrays(self, data: Array, labels: Array) -> None:
        step = self._executor.steps[0]
        if step.node.type != "MemoryData" or step.layer is None:
            raise RuntimeError(
                f"set_input_arrays may only be called if the first layer is a MemoryData layer; it is {step.node}."
            )
        step.layer.set_input_arrays(data, labels)

    def before_forward(self, function: Callable[[int], Any]) -> None:
        """Call `function(layer number)` before each layer's forward."""
        self._before_forward.append(function)

    def after_forward(self, function: Callable[[int], Any]) -> None:
        """Call `function(layer number)` after each layer's forward."""
        self._after_forward.append(function)

    def before_backward(self, function: Callable[[int], Any]) -> None:
        """Call `function(layer number)` before each layer's backward."""
        self._before_backward.append(function)

    def after_backward(self, function: Callable[[int], Any]) -> None:
        """Call `function(layer number)` after each layer's backward."""
        self._after_backward.append(function)

    # -- parameters -----------------------------------------------------------------------------------------------

    def clear_param_diffs(self) -> None:
        """Set all parameters' diffs to zero; backward adds to them."""
        for blobs in self.params.values():
            for blob in blobs:
                blob.diff_memory.clear()

    def copy_from(self, path: PathLike) -> None:
        """Copy the weights of a file into the layers of the same name.

        Raises:
            RuntimeError: the file is not there.
            WeightsError: the weights do not fit.
        """
        weights = load_weights(check_file(path))
        self.flush()
        copy_weights(self._core, weights, path)

    def load_hdf5(self, path: PathLike) -> None:
        """Copy the weights of a .caffemodel.h5, whatever its name; as `copy_from`."""
        weights = HDF5.read(check_file(path))
        self.flush()
        copy_weights(self._core, weights, path)

    def share_with(self, other: Net) -> None:
        """Use another net's parameters in the layers of the same name.

        Raises:
            LayerError: shapes differ.
        """
        self._core.share_with(other.core)

    def save(self, path: PathLike) -> None:
        """Write the weights as a .caffemodel, whatever its name.

        Raises:
            WeightsError: they cannot be written in this format.
            OSError: the file cannot be written.
        """
        self.flush()
        save_net(path, self._core, form=CAFFEMODEL)

    def save_hdf5(self, path: PathLike) -> None:
        """Write the weights as Caffe's HDF5, shared ones once.

        Raises:
            WeightsError: they cannot be written in this format.
            OSError: the file cannot be written.
        """
        self.flush()
        save_net(path, self._core, self._types(), form=HDF5)

    def _types(self) -> dict[str, str]:
        return {step.node.name: step.node.type for step in self._executor.steps}

    def flush(self) -> None:
        """On a GPU: bring what a script wrote to parameters to the module."""
        for blobs in self.params.values():
            for blob in blobs:
                blob.data_memory.flush()


def _join(rows: Mapping[str, list[Array]], count: int) -> dict[str, Array]:
    """Make arrays of rows, without the rows that filled up the last batch."""
    arrays = {name: np.asarray(items) for name, items in rows.items()}
    extra = len(next(iter(arrays.values()))) - count if arrays else 0
    return {name: array[:-extra] if extra > 0 else array for name, array in arrays.items()}
