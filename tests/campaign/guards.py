"""What reading one file must not do, and the watch over it.

It ends within SECONDS of processor time, in an answer or in one of our errors, which is short, names a place and says
what to do; it takes no more memory than its kind may, mostly three times the file and 24 MiB; it writes nothing, opens
nothing outside its folder, runs no program, and imports nothing that a file names.

Files that C libraries open by themselves raise no audit event: tests of the readers look after those.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import sys
import sysconfig
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzzing import FORBIDDEN, MESSAGE

from campaign.readers import Reader
from fcn_caffe import FcnCaffeError

SECONDS = 5.0
ADDRESS_SPACE = 3 * 2**30  # what a worker may take beyond what it has: more is refused by the system, not taken
PACKAGE = str(Path(sys.modules["fcn_caffe"].__file__ or "").parent) + os.sep

# Where Python's own files are, and what says how much memory, which processor and what time there is.
_OWN = (
    *(os.path.realpath(path) + os.sep for path in {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix}),
    *(PACKAGE, str(Path(__file__).parents[1]) + os.sep),
    *("/proc/self/", "/proc/meminfo", "/proc/cpuinfo", "/sys/fs/cgroup/", "/sys/devices/", "/dev/null", "/dev/urandom"),
    *("/etc/localtime", "/usr/share/zoneinfo/"),
)
_WRITES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
_RUNS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "socket.bind")
# What a sentence has that says what to do, or what would be right.
_CURE = re.compile(
    r"\b("
    r"add|ask|build|call|change|check|choose|clear|close|compress|convert|copy|correct|"
    r"create|cut|declare|delete|divide|download|draw|drop|end|expected|export|feed|fetch|"
    r"fill|flatten|free|get|give|install|join|keep|known|leave|list|load|lower|make|map|merge|mend|"
    r"move|must|name|need|needs|number|pass|pick|pip|place|put|raise|remove|rename|repair|"
    r"repeat|replace|reshape|resume|run|save|say|scale|set|shorten|should|shrink|split|spell|start|"
    r"stop|swap|take|train|try|unpack|upgrade|use|want|wants|wanted|wire|write"
    r")\b|did you mean|takes|only|goes into|true or false|quoted string|is one of|out of range|smaller than"
    r"|looked for|ends before|missing|not [0-9]|of another format|or another file|is it another file"
)


class Hang(BaseException):
    """Ran longer than SECONDS. No Exception, so that nothing on the way takes it for an error of its own."""


@dataclass(frozen=True)
class Failure:
    """What one file made a reader do that it must not: its kind, where in our code, and more in words."""

    kind: str
    where: str
    words: str


class Watch:
    """Sees what this process opens, writes and runs. It cannot be taken off again: for a process of its own.

    Args:
        folder: The reader's.
        reader: What it may do beyond reading the folder.
    """

    def __init__(self, folder: Path, reader: Reader) -> None:
        self.reader = reader
        self.temporary = folder.with_name(f"{folder.name}-temporary")
        self.temporary.mkdir(exist_ok=True)
        tempfile.tempdir = str(self.temporary)
        self.inside = (str(folder) + os.sep, str(folder), str(self.temporary))
        self.outlets = (str(self.temporary), *([str(folder / reader.target)] if reader.target else []))
        self.is_on = False
        self.found: list[Failure] = []
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, int):
                writes = bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
                self._check_path("writes" if writes else "opens", path)
        elif event in _WRITES:
            self._check_path("writes", arguments[0])
        elif event in _RUNS or event == "pickle.find_class":
            self._add("runs", f"{event} {arguments!r:.200}")
        elif event == "import" and arguments[0] in FORBIDDEN:
            self._add("imports", str(arguments[0]))

    def _check_path(self, kind: str, path: Any) -> None:
        place = os.path.abspath(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else repr(path)
        allowed = self.outlets if kind == "writes" else (*self.inside, *_OWN)
        if place.startswith(allowed) or (kind == "opens" and self.reader.names_files) or place == os.devnull:
            return
        self._add(kind, place)
        if kind == "writes":
            raise PermissionError(13, "The campaign lets nobody write there", place)

    def _add(self, kind: str, words: str) -> None:
        self.is_on = False
        self.found.append(Failure(kind, _place(traceback.extract_stack()), words))
        self.is_on = True


def limit_worker() -> None:
    """Bound the memory of this process, and let it notice when its time is up."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _ring)


def _ring(*_: Any) -> None:
    raise Hang(f"ran for more than {SECONDS} s")


def try_file(watch: Watch, path: Path, size: int) -> tuple[str, list[Failure]]:
    """Read a file under the watch.

    Returns:
        "accepted" or "refused", and what was wrong.
    """
    failures: list[Failure] = []
    outcome = "accepted"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    watch.found.clear()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    watch.is_on = True
    try:
        watch.reader.read(path)
    except FcnCaffeError as error:
        watch.is_on = False
        outcome = "refused"
        failures += _check_message(error, path, watch.inside[1])
    except BaseException as error:  # a panic in Rust is no Exception, nor is Hang
        watch.is_on = False
        outcome = "refused"
        kind = "hang" if isinstance(error, Hang) else type(error).__name__
        failures.append(Failure(kind, _place(traceback.extract_tb(error.__traceback__)), f"{error!s:.300}"))
    finally:
        watch.is_on = False
        signal.setitimer(signal.ITIMER_PROF, 0)
    taken = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if taken > watch.reader.times * size + watch.reader.memory * 2**20:
        failures.append(Failure("memory", watch.reader.name, f"took {taken:,} bytes for a file of {size:,}"))
    failures += watch.found
    if left := os.listdir(watch.temporary):
        failures.append(Failure("leaves", watch.reader.name, f"left {left} in the temporary folder"))
        shutil.rmtree(watch.temporary)  # so that the next file is not blamed for it
        watch.temporary.mkdir()
    return outcome, failures


def _check_message(error: FcnCaffeError, path: Path, folder: str) -> list[Failure]:
    """Whether an error is short, names a place, and says what to do."""
    text, where = str(error), _place(traceback.extract_tb(error.__traceback__))
    found = []
    if len(text) > MESSAGE:
        found.append(Failure("long message", where, f"{len(text)} characters: {text[:200]}"))
    if not any(place in text for place in (folder, path.name, "layer '", "net '")):
        found.append(Failure("no place", where, text[:300]))
    said = text.replace(str(path), "").lower()
    if not _CURE.search(said):
        # By its words without what they speak of, for many errors are raised in one line.
        kind = re.sub(r"'[^']*'|\"[^\"]*\"|[\d/.:x]+", "", text.replace(str(path), ""))
        found.append(Failure("no cure", f"{where}: {kind.strip()[:60]}", text[:300]))
    try:
        text.encode()
    except UnicodeEncodeError:
        found.append(Failure("unprintable", where, f"{text[:300]!a}"))
    return found


def _place(stack: traceback.StackSummary) -> str:
    """The last line of our code in a traceback."""
    own = [frame for frame in stack if frame.filename.startswith(PACKAGE)]
    last = own[-1] if own else stack[-1]
    return f"{last.filename.removeprefix(PACKAGE)}:{last.lineno}"
