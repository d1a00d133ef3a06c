"""What a Solver needs before its first step: the SolverParameter checked, its files found, its nets built."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from fcn_caffe.errors import FcnCaffeError, SolverError
from fcn_caffe.host.devices import has_bfloat16, torch_device
from fcn_caffe.host.free_memory import free_bytes, show_bytes
from fcn_caffe.host.glog import logger
from fcn_caffe.host.paths import PathLike, Paths
from fcn_caffe.host.ranks import Ranks
from fcn_caffe.host.text import did_you_mean, show
from fcn_caffe.net.demand import Demand, training_demand
from fcn_caffe.net.fork_choice import fork_name
from fcn_caffe.net.net import Net
from fcn_caffe.net.training_runner import Segment, Thrift, cut_segments
from fcn_caffe.proto import caffe_pb2, read_text
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.proto.upgrade import upgrade_solver
from fcn_caffe.training.solver.shared_history import SharedHistory
from fcn_caffe.training.solver.update_rules import RULES, UpdateRule
from fcn_caffe.weights.transfer import BlobCounts


def read_solver(path: PathLike) -> caffe_pb2.SolverParameter:
    """Read a solver file as a modern SolverParameter.

    Raises:
        SolverError: there is no such file.
        PrototxtError: the file cannot be read; says file:line:column.
    """
    if not Path(path).is_file():
        raise SolverError(f"{os.fspath(path)}: no such solver file. Check the path.")
    return upgrade_solver(read_text(path, caffe_pb2.SolverParameter), path)


def weight_names(param: caffe_pb2.SolverParameter) -> list[str]:
    """Return the weight files that a solver's `weights` names, in order; as in Caffe an entry may list several.

    >>> weight_names(caffe_pb2.SolverParameter(weights=["a.caffemodel, b.h5", "c.npz"]))
    ['a.caffemodel', 'b.h5', 'c.npz']
    """
    return [name.strip() for entry in param.weights for name in entry.split(",") if name.strip()]


def candidate_paths(name: PathLike, solver: PathLike | None, paths: Paths | None = None) -> list[Path]:
    """List the paths that a file name in a solver may mean, in the order in which they are tried.

    A relative name leads from the root, as in Caffe from the working directory; else from the solver's folder; else
    from the folder above it, so that solvers/X.prototxt finds nets/X.prototxt from anywhere.

    Args:
        name: what the solver says.
        solver: the solver's file; None if it has none.
        paths: what relative paths start from.
    """
    folders = [(paths or Paths()).root]
    if solver is not None:
        folder = Path(solver).parent
        folders += [folder, folder / ".." if folder.name in ("", "..") else folder.parent]
    return list(dict.fromkeys(folder / name for folder in folders))


def find_file(name: PathLike, solver: PathLike | None, paths: Paths | None = None) -> Path | None:
    """Return the first of `candidate_paths` that is a file; None where none is."""
    # os.path.isfile, because Path's own raises for a name that is too long.
    return next((path for path in candidate_paths(name, solver, paths) if os.path.isfile(path)), None)


def no_loss(net: Net) -> str:
    """Say that a train net has no loss, which Caffe runs: nothing but weight decay changes the weights."""
    return f"net '{net.name}' has no loss in TRAIN: nothing is learnt. Add a loss layer, or loss_weight to a top."


class Settings:
    """A checked SolverParameter, which finds its files and builds its nets and its update rule.

    Args:
        source: a solver file or a SolverParameter.
        paths: what relative paths start from. A file that is not there is looked for beside the solver file, then in
            the folder above it, see `candidate_paths`.
        path: the file that a SolverParameter was read from.
    Raises:
        SolverError: names the file and the field.
    """

    def __init__(
        self, source: PathLike | caffe_pb2.SolverParameter, paths: Paths | None = None, path: PathLike | None = None
    ) -> None:
        self.paths = Paths() if paths is None else paths
        if isinstance(source, (str, os.PathLike)):
            self.path: Path | None = self.paths.from_root(source)
            self.param = read_solver(self.path)
        else:
            self.path = None if path is None else self.paths.from_root(path)
            self.param = caffe_pb2.SolverParameter()
            if not isinstance(source, caffe_pb2.SolverParameter):
                kind = type(source).__name__
                raise SolverError(f"a solver is made from a solver file or a SolverParameter, not from {kind}.")
            self.param.CopyFrom(source)
            upgrade_solver(self.param)
        self.place = str(self.path) if self.path else "solver"
        self._check()

    def error(self, message: str) -> SolverError:
        """Return a SolverError that names the solver file."""
        return SolverError(f"{self.place}: {message}")

    def _check(self) -> None:
        param = self.param
        if param.type not in RULES:
            hint = did_you_mean(param.type, RULES)
            raise self.error(f"type {param.type!r} is unknown. Known: {', '.join(sorted(RULES))}.{hint}")
        for name, least in (("iter_size", 1), ("average_loss", 1), ("max_iter", 0), ("display", 0), ("snapshot", 0)):
            if getattr(param, name) < least:
                raise self.error(f"{name} is {getattr(param, name)}, wanted {least} or more.")
        for field, value in param.ListFields():
            if isinstance(value, float) and not math.isfinite(value):
                raise self.error(f"{field.name} is {value:g}, wanted a finite number.")
        if param.weights and not weight_names(param):
            raise self.error("weights names no file. Name one, or take it out.")
        if param.snapshot or param.snapshot_after_train:
            self._check_prefix()

    def _check_prefix(self) -> None:
        """Refuse a folder that no snapshot can be written to, now rather than after hours of training."""
        if "\0" in str(self.snapshot_prefix):
            raise self.error("snapshot_prefix has a zero byte, which no file's name has. Set another.")
        if not self.snapshot_prefix.name:
            raise self.error(f"snapshot_prefix '{self.snapshot_prefix}' names no file. Write a name at its end.")
        folder = self.snapshot_prefix.absolute().parent
        nearest = next(parent for parent in (folder, *folder.parents) if os.path.exists(parent))
        if not nearest.is_dir():
            raise self.error(
                f"snapshot_prefix '{self.snapshot_prefix}' lies under {nearest}, which is a file. Set another."
            )
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise self.error(f"snapshot_prefix '{self.snapshot_prefix}': {nearest} cannot be written. Set another.")

    # -- files ------------------------------------------------------------------------------------------------

    def find(self, name: str, what: str) -> Path:
        """Find the file that a path in the solver means, see `candidate_paths`.

        Args:
            name: the path.
            what: what the file is, for the message.
        Raises:
            SolverError: lists every path that was tried.
        """
        path = find_file(name, self.path, self.paths)
        if path is None:
            tried = ", ".join(map(str, candidate_paths(name, self.path, self.paths)))
            raise self.error(f"{what} '{name}' is not there. Looked for {tried}. Correct the name.")
        return path

    @property
    def snapshot_prefix(self) -> Path:
        """The path that every snapshot's name begins with; by default the solver file's without its ending."""
        if self.param.snapshot_prefix:
            return self.paths.from_root(self.param.snapshot_prefix)
        return self.path.with_suffix("") if self.path else self.paths.from_root("snapshot")

    def weights(self) -> list[Path]:
        """The files that `weights:` names, in order."""
        return [self.find(name, "weights") for name in weight_names(self.param)]

    def blob_counts(self) -> BlobCounts:
        """Return how many blobs layers have in the files that `weights:` names."""
        return BlobCounts(self.find(name, "weights") for name in weight_names(self.param))

    # -- nets -------------------------------------------------------------------------------------------------

    def train_source(self) -> tuple[str, str | caffe_pb2.NetParameter]:
        """Return the one field that names the net to train, and its value.

        Raises:
            SolverError: no field names it, or several do.
        """
        param = self.param
        fields = [name for name in ("net", "net_param", "train_net", "train_net_param") if param.HasField(name)]
        if len(fields) != 1:
            raise self.error(
                f"the train net is named by {' and '.join(fields) or 'nothing'}; wanted exactly one of "
                "net, net_param, train_net, train_net_param."
            )
        return fields[0], getattr(param, fields[0])

    def train_net(self, device: torch.device, blob_counts: Mapping[str, int] | None = None, filled: bool = True) -> Net:
        """Build the net to train. blob_counts, filled: as in `Net`. Raises: SolverError, see `train_source`."""
        param = self.param
        field, source = self.train_source()
        states = [param.train_state] if param.HasField("train_state") else []
        net = self._net(field, source, TRAIN, states, device, blob_counts, filled)
        if not net.loss_weights:
            logger.warning("%s: %s", self.place, no_loss(net))
        return net

    def test_sources(self) -> list[tuple[str, str | caffe_pb2.NetParameter]]:
        """Return field and value of each net to test.

        The order is Caffe's: test_net_param, test_net, then `net` or `net_param` for the test_iter that are left.

        Raises:
            SolverError: test_iter, test_state or test_interval do not fit the number of nets.
        """
        param, counts = self.param, len(self.param.test_iter)
        own: list[tuple[str, str | caffe_pb2.NetParameter]] = [("test_net_param", net) for net in param.test_net_param]
        own += [("test_net", net) for net in param.test_net]
        generic = next((name for name in ("net_param", "net") if param.HasField(name)), None)
        if counts < len(own) or (counts > len(own) and generic is None):
            raise self.error(
                f"test_iter is given {counts} times for {len(own)} test nets. Give it once for each test net."
            )
        if generic is not None:
            own += [(generic, getattr(param, generic))] * (counts - len(own))
        if own and param.test_interval < 1:
            raise self.error(f"test_interval is {param.test_interval} with {len(own)} test nets, wanted 1 or more.")
        if any(count < 1 for count in param.test_iter):
            raise self.error(f"test_iter is {min(param.test_iter)}, wanted 1 or more.")
        states = list(param.test_state)
        if states and len(states) != len(own):
            raise self.error(
                f"test_state is given {len(states)} times for {len(own)} test nets. Give one each or none."
            )
        return own

    def test_nets(self, device: torch.device, blob_counts: Mapping[str, int] | None = None) -> list[Net]:
        """Build the nets to test. blob_counts: as in `Net`. Raises: SolverError, see `test_sources`."""
        states = list(self.param.test_state)
        return [
            self._net(name, source, TEST, [states[index]] if states else [], device, blob_counts)
            for index, (name, source) in enumerate(self.test_sources())
        ]

    def _net(
        self,
        field: str,
        source: str | caffe_pb2.NetParameter,
        phase: int,
        states: list[caffe_pb2.NetState],
        device: torch.device,
        blob_counts: Mapping[str, int] | None,
        filled: bool = True,
    ) -> Net:
        """Build a net under Caffe's precedence of states: the solver's default, the net's own, the solver's own."""
        net = self.find(source, f"{field} file") if isinstance(source, str) else source
        state = self.state(net, phase, states)
        stages, debug_info = tuple(state.stage), bool(self.param.debug_info)
        return Net(
            net,
            state.phase,
            stages=stages,
            level=state.level,
            device=device,
            debug_info=debug_info,
            paths=self.paths,
            fork=self.param.fork and fork_name(self.param.fork, f"{self.place}: "),
            blob_counts=blob_counts,
            filled=filled,
        )

    def state(
        self, source: PathLike | caffe_pb2.NetParameter, phase: int, states: list[caffe_pb2.NetState]
    ) -> caffe_pb2.NetState:
        """Return the NetState of a net: the phase, then the net's own state, then the solver's `states` for it.

        Raises:
            PrototxtError: the net's file cannot be read.
        """
        own = read_text(source, caffe_pb2.NetParameter) if isinstance(source, (str, os.PathLike)) else source
        state = caffe_pb2.NetState(phase=phase)
        for other in (own.state, *states):
            state.MergeFrom(other)
        return state

    # -- the rest ---------------------------------------------------------------------------------------------

    def update_rule(self, net: Net) -> UpdateRule:
        """Build the optimizer of the net's learning parameters, with a group for each pair of multipliers."""
        param = self.param
        groups: dict[tuple[float, float], list[torch.Tensor]] = {}
        for item in net.learnable_params:
            if item.lr_mult:
                groups.setdefault((item.lr_mult, item.decay_mult), []).append(item.blob)
        if not groups:
            logger.warning(
                "%s: net '%s' has nothing to learn: every blob has lr_mult 0, or there is none.", self.place, net.name
            )
            groups[1.0, 1.0] = []
        try:
            return RULES[param.type](
                [
                    {"params": blobs, "lr_mult": lr_mult, "decay_mult": decay_mult}
                    for (lr_mult, decay_mult), blobs in groups.items()
                ],
                lr=param.base_lr,
                momentum=param.momentum,
                weight_decay=param.weight_decay,
                regularization_type=param.regularization_type,
                clip_gradients=param.clip_gradients,
                iter_size=param.iter_size,
                momentum2=param.momentum2,
                rms_decay=param.rms_decay,
                delta=param.delta,
            )
        except SolverError as error:
            raise error.named(self.place) from None

    def share_history(self, rule: UpdateRule, ranks: Ranks) -> SharedHistory:
        """Share the histories of a rule out over the processes; say how much each keeps.

        Raises:
            SolverError: they cannot be shared.
        """
        if self.param.snapshot_diff:
            raise self.error(
                "snapshot_diff writes what the last update took away, for which one process needs all of the history. "
                "Take it out, or leave out --shard-history."
            )
        try:
            shared = SharedHistory(rule, ranks)
        except SolverError as error:
            raise error.named(self.place) from None
        every = shared.bytes_of_ranks()
        logger.info(
            "History: %s, shared out over the ranks as %s.", show_bytes(sum(every)), ", ".join(map(show_bytes, every))
        )
        return shared

    def thrift(self, net: Net, checkpoint: bool, amp: str | None) -> Thrift:
        """Return what lets a train net run in less memory.

        Raises:
            SolverError: `amp` is unknown; or debug_info is on, which looks at every blob.
        """
        if amp not in (None, "bf16"):
            raise self.error(f"amp {amp!r} is unknown. Use bf16, or leave it out.")
        if net.debug is not None:
            raise self.error(
                "debug_info looks at every blob, checkpoint and amp do not keep them. Take one of them out."
            )
        if amp is not None and not has_bfloat16(net.device):
            logger.warning(
                "%s: this %s has no bfloat16 arithmetic: --amp bf16 saves memory, and takes many times as long.",
                *(self.place, "CPU" if net.device.type == "cpu" else "GPU"),
            )
        return Thrift(checkpoint, half=amp is not None)

    def refuse_too_large(
        self,
        net: Net,
        checkpoint: bool,
        elsewhere: int = 0,
        tests: Sequence[Net] = (),
        before: int | None = None,
    ) -> None:
        """Refuse to train a net that takes more memory than is free.

        Args:
            net: the net.
            checkpoint: whether it keeps few blobs for backward.
            elsewhere: how many bytes of history other processes keep.
            tests: the nets that are tested meanwhile.
            before: what was free before the net was made; its weights, which are not filled yet, then count, too.
        Raises:
            SolverError: it does; says how much, and whether `--checkpoint` would help.
        """
        free = free_bytes(net.device) if before is None else before
        if free is None:
            return
        sources, name = _largest_input(net)

        def demand(segments: Sequence[Segment]) -> Demand:
            return training_demand(
                net, self.param.type, segments=segments, sources=sources, tests=tests, elsewhere=elsewhere
            )

        parts = demand(cut_segments(net) if checkpoint else ())
        weights = 0 if before is None else parts.weights
        if (need := weights + parts.to_come(net.device)) <= free:
            return
        cure = ""
        if not checkpoint and (less := weights + demand(cut_segments(net)).to_come(net.device)) <= free:
            cure = f" --checkpoint takes about {show_bytes(less)}."
        shapes = {**net.blob_shapes, **sources}
        shape = next((shapes[node.tops[0]] for node in net.graph.nodes if node.tops), ())
        fewer = f" Use smaller images{_batch_cure(shape, self.param.iter_size)}, or free memory."
        there = "what" if weights else "the weights and what"
        raise self.error(
            f"a training step on {show(shape)}{name and f', image {name},'} takes about {show_bytes(need)} "
            f"besides {there} is there ({parts}), {show_bytes(free)} are free.{cure}{fewer}"
        )

    def device(self, asked: str | torch.device | None) -> torch.device:
        """Return the device to run on: `asked`, else the one of solver_mode where CUDA is present, else the CPU.

        Raises:
            SolverError: `asked` is not there.
        """
        param = self.param
        if asked is None:
            if param.solver_mode != caffe_pb2.SolverParameter.GPU:
                return torch.device("cpu")
            if torch.cuda.is_available():
                return self._there(f"cuda:{param.device_id}")
            if param.HasField("solver_mode"):
                logger.warning(
                    "%s: solver_mode is GPU and torch %s finds no CUDA device: running on the CPU.",
                    *(self.place, torch.__version__),
                )
            return torch.device("cpu")
        return self._there(asked if isinstance(asked, str) else str(asked))

    def _there(self, asked: str) -> torch.device:
        try:
            return torch_device(asked)
        except FcnCaffeError as error:
            raise SolverError(str(error)) from None


def _batch_cure(shape: Sequence[int], iter_size: int) -> str:
    """Say that a batch can be smaller, where it can: with more passes an update the same images count."""
    batch = shape[0] if len(shape) == 4 else 1
    return "" if batch == 1 else f" or batches (batch_size 1 and iter_size {batch * iter_size} train on as many images)"


def _largest_input(net: Net) -> tuple[dict[str, tuple[int, ...]], str]:
    """Return the shapes of a data layer's tops for the largest of its images, and that image's name.

    Nothing where no data layer knows it at once: then the shapes that the net was built for have to do.
    """
    for step in net.steps:
        find = getattr(getattr(step.layer, "user", None), "largest_image", None)
        largest = find() if find is not None else None
        if largest is not None:
            name, height, width = largest
            return {top: (*net.blob_shapes[top][:2], height, width) for top in step.tops}, name
    return {}, ""
