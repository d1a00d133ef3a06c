"""Processes that load the samples of a Python data layer.

Each is a new Python that makes the same layer again from what the net says of it, so nothing is forked from a process
with threads, no script is run again, and nothing is pickled: names go in as lines of JSON, arrays come back as bytes.
A process ends when its input does, so also when the process that started it is killed. Ctrl-C does not reach it.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from fcn_caffe.errors import DataError, FcnCaffeError

__all__ = ["Loaders", "Request", "serve"]

Array = npt.NDArray[Any]
Request = tuple[str, int, int]  # the name of an image, its place in the split, and its turn, see sampling.Order

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from fcn_caffe.data.loading import serve; serve(json.loads(sys.argv[2]))"
)


class Loaders:
    """Processes that load samples, each the next of a stream in turn.

    Args:
        count: how many.
        layer: what `serve` makes the layer from.
        who: the layer, for errors.
    """

    def __init__(self, count: int, layer: dict[str, Any], who: str) -> None:
        self.who = who
        self._processes: list[subprocess.Popen[bytes]] = []
        arguments = [json.dumps(sys.path), json.dumps(layer)]
        # One thread each: there are as many processes as the person wants to keep busy.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        try:
            for _ in range(count):
                process = subprocess.Popen(
                    [sys.executable, "-c", _PROGRAM, *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                    start_new_session=True,
                )
                self._processes.append(process)
        except OSError as error:
            self.close()
            raise DataError(
                f"{who}: a loading process does not start ({error}). Set workers to 0, or raise the limit."
            ) from error

    def load(self, requests: Iterable[Request], ahead: int) -> Iterator[list[Array]]:
        """Yield the samples of requests in their order; `ahead` of them are asked for before the first is taken.

        Raises:
            DataError: what loading raised, or a process has ended; it names the image.
        """
        asked: deque[tuple[subprocess.Popen[bytes], Request]] = deque()
        for number, request in enumerate(requests):
            process = self._processes[number % len(self._processes)]
            self._ask(process, request)
            asked.append((process, request))
            if len(asked) > ahead:
                yield self._answer(*asked.popleft())
        while asked:
            yield self._answer(*asked.popleft())

    def _ask(self, process: subprocess.Popen[bytes], request: Request) -> None:
        assert process.stdin is not None
        with suppress(OSError):  # it has ended: its answers say so
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()

    def _answer(self, process: subprocess.Popen[bytes], request: Request) -> list[Array]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._ended(process, request)
        answer = json.loads(line)
        if "error" in answer:
            raise DataError(answer["error"])
        arrays: list[Array] = []
        for shape, dtype in answer["arrays"]:
            data = bytearray(math.prod(shape) * np.dtype(dtype).itemsize)
            if not _fill(process.stdout, data):
                raise self._ended(process, request)
            arrays.append(np.frombuffer(data, dtype).reshape(shape))
        return arrays

    def _ended(self, process: subprocess.Popen[bytes], request: Request) -> DataError:
        status = process.wait()
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        return DataError(
            f"{self.who}: the process that was to load image {request[0]!r} has ended ({how}). Where memory was short "
            "take fewer workers; set workers to 0 to see what the image does."
        )

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):  # a request that it did not take
                        stream.close()
        for process in self._processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = []


def _fill(stream: IO[bytes], data: bytearray) -> bool:
    """Read as many bytes as `data` has; False where the stream ends early."""
    left = memoryview(data)
    while left:
        count = stream.readinto(left)  # type: ignore[attr-defined]
        if not count:
            return False
        left = left[count:]
    return True


def serve(layer: dict[str, Any]) -> None:
    """Load samples for another process: requests come on standard input, arrays go out where standard output was.

    Args:
        layer: `module` and `layer` of python_param, `param_str`, `phase`, `tops`, where files are, `folder` of the
            net, `root` and `data`, and whether the module may be one beside the net: `allowed`.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a layer prints must not come among the arrays
    try:
        read = _make_reader(layer)
        failure = ""
    except Exception as error:  # told with the first image
        failure = _text(error)
    try:
        for line in sys.stdin.buffer:
            request = json.loads(line)
            try:
                if failure:
                    raise DataError(failure)
                arrays = [np.ascontiguousarray(array) for array in read(*request)]
            except Exception as error:
                _write(answers, {"error": _text(error, request[0])}, ())
                continue
            _write(answers, {"arrays": [[array.shape, array.dtype.str] for array in arrays]}, arrays)
    except BrokenPipeError:
        os._exit(0)  # nobody listens any more; Python would try to write the rest


def _write(answers: IO[bytes], head: dict[str, Any], arrays: Sequence[Array]) -> None:
    answers.write(json.dumps(head).encode() + b"\n")
    for array in arrays:
        answers.write(array.tobytes())
    answers.flush()


def _text(error: Exception, image: str = "") -> str:
    if isinstance(error, FcnCaffeError):
        return str(error)
    return f"{f'image {image!r}: ' if image else ''}loading raised {type(error).__name__}: {error}"


def _make_reader(layer: dict[str, Any]) -> Any:  # noqa: ANN401 (a method of the user's class)
    import fcn_caffe.data.sets  # noqa: F401 (its layers may be named without the package)
    from fcn_caffe.host.paths import Paths, Surroundings
    from fcn_caffe.host.trust import allow_python
    from fcn_caffe.layers.python import Blob, BlobVector, find_module

    if layer["allowed"]:
        allow_python()
    folder = None if layer["folder"] is None else Path(layer["folder"])
    data = None if layer["data"] is None else Path(layer["data"])
    cls = getattr(find_module(layer["module"], folder), layer["layer"])
    made: Any = object.__new__(cls)
    made.param_str, made.phase, made.blobs = layer["param_str"], layer["phase"], BlobVector()
    made.surroundings = Surroundings(Paths(Path(layer["root"]), data), folder)
    made.__init__()
    made.setup([], [Blob() for _ in range(layer["tops"])])
    return made.read_sample
