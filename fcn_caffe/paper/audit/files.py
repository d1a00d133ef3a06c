"""What is audited: folders of nets, solvers, weights and data; each file is read once, each experiment run once."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

from fcn_caffe.doctor.subject import Built, read_subject
from fcn_caffe.net.graph import read_net
from fcn_caffe.paper.result import Result
from fcn_caffe.proto.phases import TEST

__all__ = ["Audited"]

Place = str | os.PathLike[str]


class Audited:
    """The files behind the claims.

    root: the folder of nets/, solvers/ and weights/; a net is nets/NAME.prototxt and its solver solvers/NAME.prototxt.
    data: where data sets lie (default: $FCN_CAFFE_DATA, else the working directory). quick: no training. scale: the
    share of the iterations that experiments train for. Methods raise what reading and building raise: FcnCaffeError.
    """

    def __init__(
        self, root: Place = ".", data: Place | None = None, *, quick: bool = False, seed: int = 0, scale: float = 1.0
    ) -> None:
        self.root, self.data = Path(root), None if data is None else Path(data)
        self.quick, self.seed, self.scale = quick, seed, scale
        self._results: dict[str, Result] = {}
        self.made: dict[Hashable, Any] = {}

    def net_path(self, name: str) -> Path:
        """A net's file."""
        return self.root / "nets" / f"{name}.prototxt"

    def solver_path(self, name: str) -> Path:
        """A solver's file."""
        return self.root / "solvers" / f"{name}.prototxt"

    def weights_path(self, name: str) -> Path:
        """Where the trained weights of a net belong."""
        return self.root / "weights" / f"{name}.caffemodel"

    def net(self, name: str, phase: int = TEST, stages: Sequence[str] = ()) -> Any:
        """A net's layers of one phase, as a NetParameter: to read, not to change."""
        key = "net", name, phase, tuple(stages)
        return self.once(key, lambda: read_net(self.net_path(name), phase, stages))

    def built(self, name: str, phase: int = TEST) -> Built:
        """A net built without memory, on its data's shapes or those of its deploy form."""
        # By its own path: what a solver names may be another file, seen from the working directory.
        found: Built = self.once(("built", name, phase), lambda: read_subject(self.net_path(name)).build(phase))
        return found

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for a key; the second part is the net's name, if it hangs on its file."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def experiment(self, name: str) -> Result:
        """An experiment's result, run once an audit. Raises: KeyError for an unknown name."""
        # Experiments load what trains; an audit of files alone needs none of it.
        from fcn_caffe.paper.experiments.registry import EXPERIMENTS, Options

        if name not in self._results:
            self._results[name] = EXPERIMENTS[name].run(Options(seed=self.seed, scale=self.scale))
        return self._results[name]
