"""What the fuzz tests and the campaign spoil: nets, solvers, weights and states of the repository and of Caffe."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from fuzzing import DATA_NETS
from oracle import FOLDER, cases, load

from fcn_caffe.proto import wire
from fcn_caffe.weights.formats import hdf5
from fcn_caffe.weights.transfer import load_weights, save_weights

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data" / "caffe"
NET = b'net: "fixed.prototxt"\n'  # what every bench has


@lru_cache
def nets() -> dict[str, bytes]:
    """Every net file of the repository, of Caffe's measured cases, and of other people's Caffe where it is there."""
    found = {
        f"{name}/{case}": golden_text(name, case, "prototxt") for name in ("layers", "nets") for case in cases(name)
    }
    paths = [*(ROOT / "nets").glob("*.prototxt"), *(FOLDER / "formats").glob("*.prototxt")]
    paths += [path for path in DATA.rglob("*.prototxt") if "solver" not in path.name]
    return found | DATA_NETS | {str(path): path.read_bytes() for path in sorted(paths)}


@lru_cache
def solvers() -> dict[str, bytes]:
    """Every solver: those of Caffe's runs with their net inside, and all with the net of the bench."""
    found = {}
    for case in cases("solvers"):
        text, net = golden_text("solvers", case, "solver"), golden_text("solvers", case, "net")
        found[f"{case} with its net"] = text + b"\nnet_param {\n" + net + b"}\n"
        found[case] = NET + re.sub(rb'(?<=[\d"]) ', b"\n", text)
    for path in sorted([*(ROOT / "solvers").glob("*.prototxt"), *DATA.rglob("*solver.prototxt")]):
        found[str(path)] = NET + re.sub(rb"(?m)^(net|weights|test_iter|test_net|train_net): .*", b"", path.read_bytes())
    return found


def golden_text(name: str, case: str, key: str) -> bytes:
    """A net or solver of a golden case."""
    return str(load(name)[f"{case}/{key}"]).encode()


@lru_cache
def files(pattern: str) -> dict[str, bytes]:
    """The golden files that match, and those of other people's Caffe that are short enough to spoil thousands of."""
    paths = [*FOLDER.rglob(pattern), *(path for path in DATA.rglob(pattern) if path.stat().st_size < 10**5)]
    return {str(path): path.read_bytes() for path in sorted(paths)}


@lru_cache
def weights(ending: str) -> dict[str, bytes]:
    """Weight files of one form: golden ones, or the golden caffemodels saved in it."""
    if ending == "caffemodel":
        return files("*.caffemodel")
    found = files("*.caffemodel.h5") if ending == "h5" else {}
    with TemporaryDirectory() as folder:
        for name in sorted(files("*.caffemodel")):
            path = Path(folder) / f"weights.{ending}"
            save_weights(path, load_weights(name), "net")
            found[f"{name} as {ending}"] = path.read_bytes()
    return found


@lru_cache
def states(ending: str) -> dict[str, bytes]:
    """Solver states of one form: golden ones, and for HDF5 the golden binary ones saved in it."""
    found = files(f"*.{ending}")
    if ending == "solverstate.h5":
        with TemporaryDirectory() as folder:
            for name in sorted(files("*.solverstate")):
                path, state = Path(folder) / f"state.{ending}", wire.read_solver_state(name)
                hdf5.write_solver_state(path, state.iter, state.learned_net, state.history, state.current_step)
                found[f"{name} as HDF5"] = path.read_bytes()
    return found
