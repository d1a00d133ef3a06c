"""What holds for all tests: signals, threads, layer types, what a test needs, and which are slow.

Signals are as a terminal gives them, also where pytest runs in the background (`pytest &`, `nohup pytest`, some CIs). A
shell starts a background command with SIGINT ignored, and its children inherit that: a test that interrupts a process
would wait for ever. A signal that has a handler here is at its default in the processes that tests start.
"""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Iterator

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # Before PyTorch is loaded: the workers share the cores, and so do the processes that tests start.
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))

import pytest
from needs import NEEDS

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda number, frame: None)  # still ignored in this process, as nohup asks


def pytest_configure(config: pytest.Config) -> None:
    for name, need in NEEDS.items():
        config.addinivalue_line("markers", f"{name}: {(need.__doc__ or '').splitlines()[0]}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in reversed(list(item.iter_markers())):
        if mark.name in NEEDS:
            NEEDS[mark.name](*mark.args)


@pytest.fixture(autouse=True, scope="session")
def keep_cache_apart(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let `--fast` remember nothing in the person's own cache, here and in the processes that tests start."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="session")
def allow_python() -> None:
    """Let modules beside the tests' nets run, also in processes that tests start; test_trust.py takes it back."""
    os.environ["FCN_CAFFE_ALLOW_PYTHON"] = "1"


@pytest.fixture(autouse=True)
def keep_layer_types() -> Iterator[None]:
    """Take out again the layer types that a test registers."""
    importlib.import_module("fcn_caffe.data.layers")  # all types are there; only now, for this loads PyTorch
    from fcn_caffe.layers.base import REGISTRY, VARIANTS

    types, variants = dict(REGISTRY), dict(VARIANTS)
    yield
    REGISTRY.clear()
    REGISTRY.update(types)
    VARIANTS.clear()
    VARIANTS.update(variants)
