"""Snapshots: PREFIX_iter_N.caffemodel, .rngstate and .solverstate. They are whole, or not there.

Training continues from a snapshot to the bit. In HDF5 the first file is .caffemodel.h5 and the last .solverstate.h5.
Caffe reads and writes both, in either form; the .rngstate is ours.
"""

from __future__ import annotations

import base64
import json
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fcn_caffe.errors import FcnCaffeError, SolverError, WeightsError
from fcn_caffe.host.atomic import atomic_write, new_folder, replace_together
from fcn_caffe.host.paths import Paths, refuse_endless
from fcn_caffe.host.text import show
from fcn_caffe.net.net import Net
from fcn_caffe.net.parameters import LearnableParam
from fcn_caffe.proto.wire import BinaryState, read_solver_state
from fcn_caffe.proto.wire_writer import write_solver_state
from fcn_caffe.training.solver.update_rules import UpdateRule
from fcn_caffe.weights.blobs import Fit, fit, memory_of
from fcn_caffe.weights.formats import HDF5, format_of
from fcn_caffe.weights.record import Preprocessing, record_path, write_preprocessing
from fcn_caffe.weights.transfer import Weights, copy_weights, load_weights, save_net

Array = np.ndarray[Any, Any]

# The state is last: where it is there, the other two are.
SUFFIXES = (".caffemodel", ".rngstate", ".solverstate")
HDF5_SUFFIXES = (".caffemodel.h5", ".rngstate", ".solverstate.h5")
_FORMAT = 1
_RANDOM_STATES = {"iter", "torch", "python", "numpy", "data", "test_data"}


def seed_rank(first: torch.Tensor, rank: int) -> None:
    """Seed torch for a rank by the random state of rank 0."""
    torch.manual_seed(zlib.crc32(first.numpy().tobytes()) + (rank << 32))


@dataclass(frozen=True)
class Progress:
    """The counters of a snapshot: updates done, and stepvalues passed."""

    iter: int
    current_step: int


def snapshot_paths(prefix: Path, iteration: int, hdf5: bool = False) -> tuple[Path, Path, Path]:
    """Return the paths of weights, random states and solver state of one snapshot, named as Caffe names them."""
    suffixes = HDF5_SUFFIXES if hdf5 else SUFFIXES
    model, rng, state = (prefix.with_name(f"{prefix.name}_iter_{iteration}{suffix}") for suffix in suffixes)
    return model, rng, state


def write(
    prefix: Path,
    net: Net,
    test_nets: Sequence[Net],
    rule: UpdateRule,
    progress: Progress,
    hdf5: bool = False,
    gradients: bool = False,
    preprocessing: Preprocessing | None = None,
    others: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write the three files of a snapshot, and the weights' record.

    They are written in a folder beside, then renamed as one, the state last. So a full disk or a kill leaves earlier
    snapshots whole, and no part of this one under its final name. The prefix's folder is made if need be.

    Args:
        prefix: the path that the files' names begin with.
        net: the net that is trained.
        test_nets: the nets that are tested.
        rule: the update rule, which has the histories.
        progress: the counters.
        hdf5: write HDF5 instead of binary messages.
        others: the random states of the other processes that train together, as `process_states` gives them.
        gradients: write each blob's diff beside it: what the last update took away, as Caffe leaves it there.
        preprocessing: what the record beside the weights says; None writes none.
    Returns:
        The solver state's path.
    Raises:
        SolverError: the snapshot cannot be written.
    """
    targets = snapshot_paths(prefix, progress.iter, hdf5)
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(prefix.with_name(f"{prefix.name}_iter_{progress.iter}")) as folder:
            model, rng, state = (folder / target.name for target in targets)
            save_net(model, net, _types(net, hdf5), _diffs(net, rule, progress.iter) if gradients else None)
            with atomic_write(rng, "w") as file:
                json.dump(random_states(net, test_nets, progress.iter, others), file)
            _write_state(state, str(targets[0]), net, rule, progress)
            record = [] if preprocessing is None else [write_preprocessing(model, preprocessing)]
            files = {file.name: file for file in (*record, model, rng, state)}
            replace_together(targets[-1], prefix.parent, files, [record_path(model).name])  # no older record stays
    except (OSError, WeightsError) as error:
        raise SolverError(
            f"{targets[-1]}: the snapshot cannot be written: {_why(error)}. Earlier snapshots are whole; "
            f"make room or set snapshot_prefix, then snapshot again."
        ) from error
    return targets[-1]


def _why(error: OSError | WeightsError) -> str:
    """Say why a file could not be written, without its temporary place."""
    cause = error.__cause__ if isinstance(error, WeightsError) else error
    return (isinstance(cause, OSError) and cause.strerror) or str(error).rstrip(".")


def _write_state(path: Path, learned_net: str, net: Net, rule: UpdateRule, progress: Progress) -> None:
    """Write the solver state in the form that its ending says."""
    histories = _histories(net.learnable_params, rule)
    if path.name.endswith(".h5"):
        from fcn_caffe.weights.formats.hdf5 import write_solver_state as write_hdf5

        write_hdf5(path, progress.iter, learned_net, histories, progress.current_step)
        return
    with atomic_write(path) as file:
        write_solver_state(file, progress.iter, learned_net, histories, progress.current_step)


def _types(net: Net, hdf5: bool) -> dict[str, str]:
    """Return the types of a net's layers; HDF5 has a group for each of Caffe's Split layers, too."""
    types = dict.fromkeys(_split_layers(net), "Split") if hdf5 else {}
    return {**types, **{node.name: node.type for node in net.graph.nodes}}


def _split_layers(net: Net) -> Iterator[str]:
    """Give the names of the Split layers that Caffe inserts where a blob has several readers.

    Caffe's HDF5 has a group for each.
    """
    readers: dict[tuple[int, str], int] = {}
    for node in net.graph.nodes:
        for position, blob in enumerate(node.bottoms):
            source = net.graph.producers[node.index, position], blob
            readers[source] = readers.get(source, 0) + 1
        # A loss weight of its own reads the top too.
        for top, weight in zip(node.tops, node.param.loss_weight, strict=False):
            if weight:
                readers[node.index, top] = readers.get((node.index, top), 0) + 1
    for (index, blob), count in readers.items():
        if count > 1:
            maker = net.graph.nodes[index]
            yield f"{blob}_{maker.name}_{maker.tops.index(blob)}_split"


def _diffs(net: Net, rule: UpdateRule, iteration: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what gives the diff of a blob: what the last update took away, zero where nothing learns or before it."""
    learning = {memory_of(item.blob): item.blob for item in net.learnable_params if item.lr_mult}

    def diff(blob: torch.Tensor) -> torch.Tensor:
        owner = learning.get(memory_of(blob))
        return torch.zeros_like(blob) if owner is None or iteration == 0 else rule.last_update(owner).view_as(blob)

    return diff


def _histories(learnable: Sequence[LearnableParam], rule: UpdateRule) -> Iterator[Array]:
    """Give the histories in Caffe's order: the first of every parameter, then the second of every parameter."""
    for index in range(rule.histories):
        for item in learnable:
            if item.lr_mult:
                yield rule.history(item.blob)[index].detach().cpu().numpy()
            else:
                yield np.zeros(tuple(item.blob.shape), np.float32)


# -- random states -----------------------------------------------------------------------------------------------


def seed(number: int) -> None:
    """Seed torch (all devices), NumPy and Python's random, which Python data layers may use."""
    torch.manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)


def random_states(
    net: Net, test_nets: Sequence[Net], iteration: int, others: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Return the random states of torch, NumPy and Python, and the place of each net in its data, as JSON holds them.

    others: those of the other processes.

    Raises:
        SolverError: JSON cannot hold a data layer's state.
    """
    states: dict[str, Any] = {
        "format": _FORMAT,
        "iter": iteration,
        **process_states(net.device),
        "data": net.data_state(),
        "test_data": [test_net.data_state() for test_net in test_nets],
        **({"others": list(others)} if others else {}),
    }
    try:
        json.dumps(states["data"]), json.dumps(states["test_data"])
    except (TypeError, ValueError) as error:
        layers = ", ".join(states["data"])
        raise SolverError(
            f"a data layer's get_state() gave what JSON cannot hold ({error}); layers: {layers}. "
            "Give numbers, strings, lists and dicts."
        ) from error
    return states


def process_states(device: torch.device) -> dict[str, Any]:
    """Return the random states of torch, NumPy and Python in this process, as JSON holds them."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    states: dict[str, Any] = {
        "torch": _encode(torch.get_rng_state()),
        "python": [version, list(words), gauss],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
    }
    if device.type == "cuda":
        states["cuda"] = _encode(torch.cuda.get_rng_state(device))
    return states


def _encode(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _decode(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


def set_random_states(states: Mapping[str, Any], net: Net, test_nets: Sequence[Net], rank: int = 0) -> None:
    """Set the states that `random_states` returned, or of a snapshot of several processes those of one.

    A rank that the snapshot has no states of gets states of its own, by those of rank 0.

    Raises: what a data layer raises.
    """
    net.load_data_state(states["data"])
    for test_net, data in zip(test_nets, states["test_data"], strict=False):
        # A test net may be another one by now, and training does not depend on its data.
        with suppress(FcnCaffeError):
            test_net.load_data_state(data)
    every = [states, *states.get("others", ())]
    own = every[rank] if rank < len(every) else states
    version, words, gauss = own["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(tuple(own["numpy"]))
    if rank >= len(every):
        seed_rank(_decode(states["torch"]), rank)
        return
    torch.set_rng_state(_decode(own["torch"]))
    if net.device.type == "cuda" and "cuda" in own:
        torch.cuda.set_rng_state(_decode(own["cuda"]), net.device)


# -- restoring ---------------------------------------------------------------------------------------------------


@dataclass
class Snapshot:
    """A snapshot that was read and fits a net."""

    path: Path
    state: BinaryState
    weights_path: Path | None
    weights: Weights
    random_states: Mapping[str, Any] | None

    def put(
        self, net: Net, test_nets: Sequence[Net], rule: UpdateRule, rank: int = 0, own: UpdateRule | None = None
    ) -> None:
        """Set weights, histories, random states, those of a rank, and data order.

        Args:
            net: the net that is trained.
            test_nets: the nets that are tested.
            rule: its update rule.
            rank: whose random states.
            own: the rule that has the histories of some parameters, where `rule` has none.
        Raises:
            FcnCaffeError: what copy_weights or a data layer raises; everything is as before.
        """
        before = random_states(net, test_nets, 0)
        try:
            if self.random_states is not None:
                set_random_states(self.random_states, net, test_nets, rank)
            if self.weights_path is not None:
                copy_weights(net, self.weights, self.weights_path)
        except Exception as error:
            with suppress(FcnCaffeError):
                set_random_states(before, net, test_nets)
            if isinstance(error, FcnCaffeError):
                raise
            raise SolverError(_not_random_states(_beside(self.path, ".rngstate"), error)) from error
        keeper = own or rule
        kept = {id(param) for param in keeper.parameters()}
        histories = iter(self.state.history)
        for index in range(rule.histories):
            for item in net.learnable_params:
                array = next(histories)
                if id(item.blob) in kept:
                    keeper.history(item.blob)[index].copy_(torch.from_numpy(array).reshape(item.blob.shape))
        for group in rule.param_groups:
            group["iter"] = self.state.iter


def read(path: Path, net: Net, rule: UpdateRule, paths: Paths | None = None) -> Snapshot:
    """Read a solver state with its weights and random states, and check that its histories fit.

    The weights are looked for beside the state, so that a folder of snapshots can be moved, then where the state says.

    Args:
        path: the solver state.
        net: the net that is trained.
        rule: its update rule.
        paths: what a relative path in the state starts from.
    Raises:
        SolverError, WeightsError: a file cannot be read, or does not fit; nothing has changed.
    """
    if not path.name.endswith((".solverstate", ".solverstate.h5")):
        stem = path.name.removesuffix(".h5").removesuffix(".caffemodel")
        states = [path.parent / (stem + ending) for ending in (".solverstate", ".solverstate.h5")]
        beside = next((f" Beside it is {state.name}." for state in states if state.is_file()), "")
        raise SolverError(
            f"{path}: a solver state's name ends in .solverstate or .solverstate.h5.{beside} "
            "To start from weights use `weights:` in the solver, or --weights."
        )
    if not path.is_file():
        raise SolverError(f"{path}: no such solver state. Check the path.")
    state = _read_state(path)
    if not 0 <= state.iter < 2**31 or not 0 <= state.current_step < 2**31:
        raise SolverError(
            f"{path}: is of iteration {state.iter}, step {state.current_step}. The file is corrupt. Copy it again."
        )
    learnable = net.learnable_params
    wanted = len(learnable) * rule.histories
    if len(state.history) != wanted:
        raise SolverError(
            f"{path}: holds {len(state.history)} histories, {rule.type} on net '{net.name}' has {wanted} "
            f"({len(learnable)} blobs x {rule.histories}). It is of another net or solver: give its own."
        )
    for array, item in zip(state.history, list(learnable) * rule.histories, strict=True):
        if fit(array, item.blob) < Fit.LEGACY:
            raise SolverError(
                f"{path}: the history of layer '{item.layer}' blob {item.index} is {show(array.shape)}, "
                f"the net wants {show(item.blob.shape)}. It belongs to another net."
            )
    weights_path = _find_weights(path, state.learned_net, paths or Paths())
    rng = _beside(path, ".rngstate")
    return Snapshot(
        path,
        state,
        weights_path,
        _load_whole(weights_path, net, path) if weights_path else {},
        _read_random_states(rng, state.iter) if rng.is_file() else None,
    )


def _load_whole(weights_path: Path, net: Net, path: Path) -> Weights:
    """Load a snapshot's weights, of every layer of the net; path: the solver state. Raises: SolverError: some lack."""
    weights = load_weights(weights_path)
    for layer in net.params:
        if layer not in weights:
            raise SolverError(
                f"{path}: is of another net: {weights_path} has nothing for layer '{layer}'. Give a state of this net; "
                "to start from the weights alone use `weights:` in the solver, or --weights."
            )
    return weights


def _read_state(path: Path) -> BinaryState:
    """Read a solver state in either form, which its first bytes tell."""
    if format_of(path) is not HDF5:
        return read_solver_state(path)
    from fcn_caffe.weights.formats.hdf5 import read_solver_state as read_hdf5

    return read_hdf5(path)


def _beside(path: Path, suffix: str) -> Path:
    """Return the path of a snapshot's other file, by its ending."""
    return path.with_name(path.name[: path.name.rindex(".solverstate")] + suffix)


def own_weights(state: Path) -> tuple[Path, ...]:
    """Return the paths that a solver state's weights can have by its own name, the likelier first."""
    if ".solverstate" not in state.name:
        return ()
    binary, hdf5 = (_beside(state, suffix) for suffix in (".caffemodel", ".caffemodel.h5"))
    return (hdf5, binary) if state.name.endswith(".h5") else (binary, hdf5)


def _find_weights(path: Path, named: str, paths: Paths) -> Path | None:
    if not named:
        return None
    # By the state's own name first: files that were renamed together belong together.
    own = own_weights(path)
    candidates = list(dict.fromkeys((own[0], path.parent / Path(named).name, paths.from_root(named), own[1])))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    tried = ", ".join(map(str, candidates))
    raise SolverError(f"{path}: its weights are not there. Looked for {tried}. Put them beside it.")


def _read_random_states(path: Path, iteration: int) -> Mapping[str, Any]:
    try:
        refuse_endless(path)
        states = json.loads(path.read_text("utf-8"))
        if states["format"] != _FORMAT or not states.keys() >= _RANDOM_STATES:
            raise ValueError(f"format {states['format']}, wanted {_FORMAT}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SolverError(_not_random_states(path, error)) from error
    if states["iter"] != iteration:
        raise SolverError(f"{path}: is of iteration {states['iter']}, the solver state of {iteration}. Remove it.")
    checked: Mapping[str, Any] = states
    return checked


def _not_random_states(path: Path, error: Exception) -> str:
    return (
        f"{path}: not the random states of a snapshot ({type(error).__name__}: {error}). "
        "Remove it to restore without them."
    )
