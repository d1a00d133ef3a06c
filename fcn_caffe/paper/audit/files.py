"""What is audited: folders of nets, solvers, weights and data; each file is read once, each experiment run once."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from fcn_caffe.doctor.subject import Built, read_subject
from fcn_caffe.host.paths import Paths
from fcn_caffe.net.graph import read_net
from fcn_caffe.paper.experiments.registry import EXPERIMENTS, Options
from fcn_caffe.paper.result import Result
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TEST

__all__ = ["AuditedFiles"]

Place = str | os.PathLike[str]
T = TypeVar("T")


class AuditedFiles:
    """The files behind the claims.

    Args:
        root: the folder of nets/, solvers/ and weights/. A net is nets/NAME.prototxt, its solver solvers/NAME.prototxt.
        data: where data sets lie; by default $FCN_CAFFE_DATA, else where the nets say, from the root.
        quick: train nothing.
        seed: the seed of the experiments' random numbers.
        scale: the share of the iterations that experiments train for.

    Raises: its methods raise what reading and building raise, an FcnCaffeError.
    """

    def __init__(
        self, root: Place = ".", data: Place | None = None, *, quick: bool = False, seed: int = 0, scale: float = 1.0
    ) -> None:
        self.root = Path(root).resolve()
        self.paths = Paths(self.root) if data is None else Paths(self.root, Path(data).resolve())
        self.quick, self.seed, self.scale = quick, seed, scale
        self.memory: dict[Hashable, Any] = {}

    def net_path(self, name: str) -> Path:
        """The file of a net."""
        return self.root / "nets" / f"{name}.prototxt"

    def solver_path(self, name: str) -> Path:
        """The file of a solver."""
        return self.root / "solvers" / f"{name}.prototxt"

    def weights_path(self, name: str) -> Path:
        """Where the trained weights of a net belong."""
        return self.root / "weights" / f"{name}.caffemodel"

    def net(self, name: str, phase: int = TEST, stages: Sequence[str] = ()) -> caffe_pb2.NetParameter:
        """Read a net's layers of one phase. Don't change what is returned: it is shared."""
        key = "net", name, phase, tuple(stages)
        net: caffe_pb2.NetParameter = self.remember(key, lambda: read_net(self.net_path(name), phase, stages))
        return net

    def build(self, name: str, phase: int = TEST) -> Built:
        """Build a net without memory, on its data's shapes or on those of its deploy form."""
        # From its own path: the file that a solver names may be another one, seen from the working directory.
        return self.remember(
            ("build", name, phase), lambda: read_subject(self.net_path(name), paths=self.paths).build(phase)
        )

    def remember(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return `make()`, called once for a key. `key[1]` is the net's name where the value depends on its file."""
        if key not in self.memory:
            self.memory[key] = make()
        return cast(T, self.memory[key])

    def experiment(self, name: str) -> Result:
        """Run an experiment, once an audit. Raises: KeyError for an unknown name."""
        options = Options(seed=self.seed, scale=self.scale)
        return self.remember(("experiment", name), lambda: EXPERIMENTS[name].run(options))
