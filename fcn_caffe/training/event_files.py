"""A run for TensorBoard: losses, rates, gradients' norms, scores, and images with their answers."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from fcn_caffe.errors import SolverError
from fcn_caffe.host.atomic import check_folder
from fcn_caffe.host.pictures import panel
from fcn_caffe.training.solver import Solver
from fcn_caffe.training.stage import Scoring

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["EventFiles", "check_tensorboard"]

NORMS_EVERY = 20  # iterations from one look at the gradients to the next, where the solver has no display


class EventFiles:
    """Writes what TensorBoard shows of one solver: `with EventFiles(folder, solver): solver.solve()`.

    The folder gets three runs in TensorBoard's sense, so that curves lie over each other: `train`, `test` (outputs of
    the solver's own tests) and `score` (metrics and images of each scoring). A step is the number of updates before.
    A solver that goes on from a snapshot, or starts anew in the same folder, takes the place of the steps that it does
    again: no step is there twice.

    Args:
        folder: where the runs lie.
        solver: the solver, behind `restore` if it goes on.
        scored: whether the score at the solver's iteration is there already, and is not done again.
    Raises:
        SolverError: TensorBoard is not installed; while the solver runs, its files cannot be written.
    """

    def __init__(self, folder: Path, solver: Solver, *, scored: bool = False) -> None:
        self._make_writer = _writer_class()
        self.folder, self.solver = folder, solver
        self._scored_before = solver.iter if scored else None
        self._begin: int | None = None  # the solver's iteration at the first event: `solve` may restore it
        self._writers: dict[str, SummaryWriter] = {}

    def __enter__(self) -> EventFiles:
        solver = self.solver
        solver.on_step.append(self._add_step)
        solver.on_display.append(self._add_outputs)
        solver.before_update.append(self._add_norms)
        solver.on_test.append(self._add_test)
        solver.on_snapshot.append(self._flush)
        self._report_thread, threading.excepthook = threading.excepthook, self._report_other
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            with self._writing():
                for writer in self._writers.values():
                    writer.close()
        except SolverError:
            if error is None:
                raise
        finally:
            threading.excepthook = self._report_thread

    def _report_other(self, failure: threading.ExceptHookArgs) -> None:
        """Leave out tracebacks of TensorBoard's threads: their errors come up where the run writes next."""
        if not (isinstance(failure.exc_value, OSError) and type(failure.thread).__module__.startswith("tensorboard")):
            self._report_thread(failure)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Say where it cannot be written: TensorBoard's own errors name no file."""
        try:
            yield
        except OSError as error:
            raise SolverError(
                f"{self.folder}: TensorBoard's files cannot be written: {error.strerror or error}. Make room, or leave "
                "out --tensorboard, and go on with --resume."
            ) from error

    def add_scores(self, scoring: Scoring) -> None:
        """Add the metrics of each head, and the images as rows of image, truth and answer."""
        with self._writing():
            writer = self._writer("score")
            for head, scores in scoring.scores.items():
                place = "" if head == "score" else f"{head}/"
                for name, value in {**scores.summary(), "loss": scores.loss}.items():
                    if value is not None and math.isfinite(value):
                        writer.add_scalar(place + name, value, scoring.iteration)
            for sample in scoring.first:
                # uint8: what is of another type is taken for shares of 1, and multiplied by 255.
                picture = panel([[sample.image, sample.truth, sample.answer]])
                writer.add_image(f"image {sample.name}", picture, scoring.iteration, dataformats="HWC")
            writer.flush()

    def _writer(self, name: str) -> SummaryWriter:
        if self._begin is None:
            self._begin = self.solver.iter
        if name not in self._writers:
            is_kept = name == "score" and self._scored_before == self._begin
            purge_step = self._begin + 1 if is_kept else self._begin
            self._writers[name] = self._make_writer(str(self.folder / name), purge_step=purge_step)
        return self._writers[name]

    def _add_step(self, solver: Solver) -> None:
        with self._writing():
            for name, value in (("loss", solver.loss), ("rate", solver.rate)):
                self._writer("train").add_scalar(name, value, solver.iter - 1)

    def _add_outputs(self, solver: Solver, outputs: dict[str, Any]) -> None:
        self._add_all("train", "output", outputs)

    def _add_test(self, solver: Solver, index: int, outputs: dict[str, Any]) -> None:
        with self._writing():
            self._add_all("test", "output" if index == 0 else f"net {index}", outputs)
            self._writer("test").flush()

    def _add_all(self, run: str, group: str, outputs: dict[str, Any]) -> None:
        with self._writing():
            for name, value in outputs.items():
                if isinstance(value, float):
                    self._writer(run).add_scalar(f"{group}/{name}", value, self.solver.iter)

    def _add_norms(self, solver: Solver) -> None:
        """Add the L2 norm of each layer's gradient, of the mean over iter_size passes, before clipping."""
        with self._writing():
            writer = self._writer("train")
            if solver.iter % (solver.param.display or NORMS_EVERY) == 0:
                for layer, norm in gradient_norms(solver).items():
                    writer.add_scalar(f"gradient norm/{layer}", norm, solver.iter)

    def _flush(self, solver: Solver, state: Path) -> None:
        """Let the files hold what a snapshot holds: a run that is killed goes on from there."""
        with self._writing():
            for writer in self._writers.values():
                writer.flush()


def gradient_norms(solver: Solver) -> dict[str, float]:
    """Return the L2 norm of each layer's gradient, of the mean over iter_size passes."""
    grads = {
        layer: [blob.grad for blob in blobs if blob.grad is not None] for layer, blobs in solver.net.params.items()
    }
    grads = {layer: own for layer, own in grads.items() if own}
    if not grads:
        return {}
    norms = [torch.linalg.vector_norm(torch.stack([grad.norm() for grad in own])) for own in grads.values()]
    return dict(zip(grads, (torch.stack(norms) / solver.param.iter_size).tolist(), strict=True))


def check_tensorboard(folder: Path) -> None:
    """Refuse, before anything is trained, what cannot be written for TensorBoard.

    Raises:
        SolverError: TensorBoard is not installed, or the folder is a file.
        DataError: The folder cannot be made or written to.
    """
    _writer_class()
    if folder.exists() and not folder.is_dir():
        raise SolverError(f"--tensorboard {folder}: this is a file. Give a folder, which is made if need be.")
    check_folder(folder)


def _writer_class() -> type[SummaryWriter]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SolverError(
            'TensorBoard is not installed. Use: pip install "fcn-caffe[tensorboard]", or leave out --tensorboard.'
        ) from error
    return SummaryWriter
