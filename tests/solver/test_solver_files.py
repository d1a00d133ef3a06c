"""A file that a solver names is found from the working directory, the solver's folder and the folder above it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from small_stages import write_stages

from fcn_caffe.commands import doctor, explain_lr, train
from fcn_caffe.doctor.stages import problems
from fcn_caffe.errors import SolverError
from fcn_caffe.host.paths import Paths
from fcn_caffe.training.plan import make_plan, read_stage
from fcn_caffe.training.solver import Solver
from fcn_caffe.training.solver.settings import candidate_paths, find_file
from fcn_caffe.training.stage import Training

FINE = "solvers/fine.prototxt"
NAMES = ("coarse", "fine")


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of nets/, solvers/ and images; the working directory is another one, where no net is."""
    monkeypatch.setenv("FCN_CAFFE_DATA", str(tmp_path / "task"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return write_stages(tmp_path / "task")


@pytest.mark.parametrize(
    ("solver", "places"),
    [
        ("solvers/a.prototxt", ["nets/a", "solvers/nets/a", "nets/a"]),
        ("/task/solvers/a.prototxt", ["nets/a", "/task/solvers/nets/a", "/task/nets/a"]),
        ("a.prototxt", ["nets/a", "nets/a", "../nets/a"]),
        ("../a.prototxt", ["nets/a", "../nets/a", "../../nets/a"]),
        (None, ["nets/a"]),
    ],
)
def test_the_places_and_their_order(solver: str | None, places: list[str]) -> None:
    assert candidate_paths("nets/a", solver) == list(dict.fromkeys(map(Path, places)))


def test_the_first_that_is_there_is_taken(tmp_path: Path) -> None:
    solver, paths = tmp_path / "task/solvers/a.prototxt", Paths(tmp_path / "base")
    assert find_file("nets/a", solver, paths) is None
    for folder in ("task", "task/solvers", "base"):  # each goes before the one that is there already
        (tmp_path / folder / "nets").mkdir(parents=True)
        (tmp_path / folder / "nets/a").touch()
        assert find_file("nets/a", solver, paths) == tmp_path / folder / "nets/a"


def train_by_command(solver: Path) -> int:
    return train.main(["--solver", str(solver)])


def train_by_stage(solver: Path) -> None:
    Training(read_stage(solver, max_iter=1)).solver.step(1)


@pytest.mark.parametrize(
    "use",
    [
        lambda solver: Solver(solver, device="cpu").step(1),
        train_by_command,
        train_by_stage,
        lambda solver: explain_lr.main([str(solver)]),
        lambda solver: doctor.main([str(solver)]),
    ],
)
def test_whoever_reads_a_solver_finds_its_net(task: Path, use: Callable[[Path], int | None]) -> None:
    here = os.getcwd()
    assert not use(task / "solvers/coarse.prototxt")
    assert os.getcwd() == here


def test_a_plan_made_elsewhere_is_the_plan_made_there(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = make_plan(task / FINE)
    assert not problems([planned.stage for planned in elsewhere.stages])
    assert [planned.stage.net for planned in elsewhere.stages] == [task / f"nets/{name}.prototxt" for name in NAMES]
    monkeypatch.chdir(task)
    there = make_plan(FINE)
    assert tuple(planned.stage.name for planned in elsewhere.stages) == NAMES
    for one, other in zip(elsewhere.stages, there.stages, strict=True):
        assert one.action == other.action == "train"
        assert one.stage.result == task / other.stage.result
        assert one.stage.sources == [task / path for path in other.stage.sources]


def test_a_net_that_is_nowhere_is_looked_for_everywhere(task: Path) -> None:
    (task / "nets/fine.prototxt").unlink()
    with pytest.raises(SolverError) as caught:
        Solver(task / FINE)
    tried = f"nets/fine.prototxt, {task}/solvers/nets/fine.prototxt, {task}/nets/fine.prototxt."
    words = f"net file 'nets/fine.prototxt' is not there. Looked for {tried} Correct the name."
    assert str(caught.value).endswith(words)


def test_a_solver_of_another_root(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Net, data, snapshots and what is restored lie below the root; the working directory stays empty."""
    monkeypatch.delenv("FCN_CAFFE_DATA")
    here, coarse, paths = Path.cwd(), "solvers/coarse.prototxt", Paths(task)
    with pytest.raises(SolverError, match=r"^solvers/coarse\.prototxt: no such solver file"):
        Solver(coarse, device="cpu")
    solver = Solver(coarse, device="cpu", paths=paths)
    solver.step(3)
    state = solver.snapshot()
    assert state == task / "snapshot/coarse/train_iter_3.solverstate"
    solver.step(2)
    again = Solver(coarse, device="cpu", paths=paths)
    again.restore("snapshot/coarse/train_iter_3.solverstate")
    again.step(2)
    assert again.iter == 5 and again.loss == solver.loss
    assert read_stage(coarse, paths=paths).snapshots() == [2, 3, 4]
    assert not list(here.iterdir())
