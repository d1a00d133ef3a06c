"""Spoilt files: thousands of nets, solvers, weights and states with something wrong in them.

Whatever a file holds, reading it ends, in an answer or an FcnCaffeError that is short and says where, in memory of
three times the file, with nothing written and nothing imported. `make fuzz` runs the whole 20,000 with new random
seeds; a test run takes FCN_CAFFE_FUZZ of them (4,000 unless set), the same ones each time.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import binary_mutations
import mutations
import pytest
from fuzz_seeds import files, golden_text, nets, solvers, states, weights
from fuzzing import Bench, check_message, check_net, check_solver, check_state, check_weights, golden_solver
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from oracle import FOLDER

from fcn_caffe.proto import wire
from fcn_caffe.training.solver import Solver, snapshot

# The limits that each file runs under are Linux's.
pytestmark = pytest.mark.needs_linux

COUNT = int(os.environ.get("FCN_CAFFE_FUZZ", "4000"))
# A golden solver state and its weights, names and bytes.
MODEL, STATE = ((path.name, path.read_bytes()) for path in sorted((FOLDER / "states").glob("adam_iter_5.*")))
STATE_STEP = wire.read_solver_state(FOLDER / "states" / STATE[0]).iter
WHOLE = COUNT >= 20_000


def amount(share: float) -> Any:
    """Hypothesis's settings for this share of COUNT: the same files each time, unless the whole is asked for."""
    return settings(
        max_examples=max(1, int(COUNT * share)),
        deadline=None,  # fuzzing.SECONDS is the limit
        derandomize=not WHOLE,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def spoilt(seeds: dict[str, bytes], ways: tuple[mutations.Mutation, ...]) -> Any:
    """A strategy for files: one of `seeds`, by name, after one to four mutations."""
    steps = st.lists(st.tuples(st.sampled_from(ways), st.integers(0, 2**32 - 1)), min_size=1, max_size=4)
    name = st.sampled_from(sorted(seeds))
    return st.builds(lambda one, other, how: mutations.mutate(seeds[one], seeds[other], how), name, name, steps)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    set_hypothesis_home_dir(str(tmp_path_factory.mktemp("hypothesis")))
    logging.disable()  # every restored state and every odd rate says so, thousands of times
    made = Bench(tmp_path_factory.mktemp("fuzz"))
    made.put("fixed.prototxt", golden_text("solvers", "adam", "net"))
    yield made
    logging.disable(logging.NOTSET)
    print("", *(f"{count:7,d} {what}" for what, count in sorted(made.counts.items())), sep="\n")


# -- the tests -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@amount(0.34)
@given(data=spoilt(nets(), mutations.NETS))
def test_a_spoilt_net(bench: Bench, data: bytes) -> None:
    check_net(bench, data)


@pytest.mark.slow
@amount(0.15)
@given(data=spoilt(solvers(), mutations.SOLVERS))
def test_a_spoilt_solver(bench: Bench, data: bytes) -> None:
    check_solver(bench, data)


# The endings of binary weights, how they are spoilt, and their share; and the same for solver states.
WEIGHTS = {
    "caffemodel": (binary_mutations.WIRE, 0.12),
    "h5": (binary_mutations.HDF5, 0.07),
    "npz": (binary_mutations.ZIP, 0.03),
    "pth": (binary_mutations.ZIP, 0.03),
    "safetensors": (binary_mutations.SAFETENSORS, 0.03),
}
STATES = {"solverstate": (binary_mutations.WIRE, 0.08), "solverstate.h5": (binary_mutations.HDF5, 0.05)}


@pytest.mark.slow
@pytest.mark.parametrize("ending", WEIGHTS)
def test_spoilt_weights(bench: Bench, ending: str) -> None:
    ways, share = WEIGHTS[ending]

    @amount(share)
    @given(data=spoilt(weights(ending), ways))
    def check(data: bytes) -> None:
        check_weights(bench, data, f"spoilt.{ending}")

    check()


@pytest.mark.slow
@pytest.mark.parametrize("ending", STATES)
def test_a_spoilt_solver_state(bench: Bench, ending: str) -> None:
    ways, share = STATES[ending]

    @amount(share)
    @given(data=spoilt(states(ending), ways))
    def check(data: bytes) -> None:
        check_state(bench, data, f"adam_iter_5.{ending}", MODEL)

    check()


@pytest.mark.slow
@amount(0.05)
@given(data=spoilt(files("*.caffemodel"), binary_mutations.WIRE))
def test_a_spoilt_binary_net(bench: Bench, data: bytes) -> None:
    check_message(bench, data, "net.binaryproto")


@amount(0.02)
@given(data=spoilt(files("*.caffemodel"), binary_mutations.WIRE))
def test_the_weights_of_a_state_spoilt(bench: Bench, data: bytes) -> None:
    check_state(bench, STATE[1], STATE[0], (MODEL[0], data))


@lru_cache
def random_states() -> dict[str, bytes]:
    """The .rngstate files that a solver writes, at the golden states' step and at another."""
    solver = Solver(golden_solver("adam"), device="cpu")
    return {str(step): json.dumps(snapshot.random_states(solver.net, [], step)).encode() for step in (STATE_STEP, 7)}


@amount(0.03)
@given(data=spoilt(random_states(), mutations.JSON))
def test_the_random_states_of_a_state_spoilt(bench: Bench, data: bytes) -> None:
    check_state(bench, STATE[1], STATE[0], MODEL, ("adam_iter_5.rngstate", data))
