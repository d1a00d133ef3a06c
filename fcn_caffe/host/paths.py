"""Where files are found: what relative paths start from, what lies beside a net, what comes with the package."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from fcn_caffe.errors import DataError

__all__ = [
    "DATA_ROOT_VARIABLE",
    "ENDLESS",
    "PathLike",
    "Paths",
    "Surroundings",
    "checkout",
    "is_endless",
    "is_installed",
    "refuse_endless",
    "shipped",
]

PathLike = str | os.PathLike[str]
ENDLESS = "a device or a pipe, which may never end. Name a file."  # how errors about them end

DATA_ROOT_VARIABLE = "FCN_CAFFE_DATA"  # the data folder of a user who does not name one with --data

_PACKAGE = Path(__file__).resolve().parents[1]


def _data_from_environment() -> Path | None:
    folder = os.environ.get(DATA_ROOT_VARIABLE)
    return Path(folder) if folder else None


@dataclass(frozen=True)
class Paths:
    """What relative paths start from. Commands make one and hand it down; nothing else changes where files are found.

    Args:
        root: Where paths of nets, solvers, weights and snapshots start; by default the working directory, as in Caffe.
        data: A folder that data paths may also start from, and which is tried first; by default $FCN_CAFFE_DATA, read
            when this value is made. None for none.
    """

    root: Path = Path()
    data: Path | None = field(default_factory=_data_from_environment)

    def __post_init__(self) -> None:
        # Absolute, so that joining a path twice is joining it once; the working directory alone stays what it is now.
        root, data = Path(self.root), self.data
        object.__setattr__(self, "root", root if root == Path() else root.absolute())
        object.__setattr__(self, "data", None if data is None else Path(data).absolute())

    def from_root(self, path: PathLike) -> Path:
        """Join a path to the root; an absolute path stays as it is."""
        return self.root / path

    def seen_from_root(self, path: PathLike) -> Path:
        """Write a path as it is called from the root: relative where it lies below it."""
        path = Path(path)
        return path.relative_to(self.root) if path.is_relative_to(self.root) else path

    def find_data(self, path: PathLike) -> Path:
        """Find a data path: below the data folder where it is there, else from the root.

        A leading `..` or `data` is dropped below the data folder, so `data/sbdd/dataset` is found as
        DATA/sbdd/dataset. `~` is the user's home.

        Returns:
            The path that is there; the one from the root if none is, for the caller's error.
        """
        path = Path(os.path.expanduser(path))
        if self.data is not None and not path.is_absolute():
            parts = list(path.parts)
            while parts and parts[0] in ("..", "."):
                parts.pop(0)
            for tail in (parts, parts[1:] if parts[:1] == ["data"] else parts):
                if tail and os.path.exists(Path(self.data, *tail)):
                    return Path(self.data, *tail)
        return self.from_root(path)


@dataclass(frozen=True)
class Surroundings:
    """Where a layer finds its files.

    Args:
        paths: What relative paths start from.
        folder: The folder of the net's file, which is tried last; None for a net that comes from no file.
    """

    paths: Paths = field(default_factory=Paths)
    folder: Path | None = None

    def locate(self, source: str) -> Path:
        """Find a data path: in the data folder, from the root, beside the net's file, in this order.

        Returns:
            The path that is there; the one from the root if none is. Source: Caffe opens paths relative to the working
            directory.
        """
        place = self.paths.find_data(source)
        if self.folder is not None and not os.path.exists(place) and os.path.exists(self.folder / source):
            return self.folder / source
        return place

    def find_source(self, source: str, what: str) -> Path:
        """Find the file or folder that a net names and that must be there.

        Args:
            source: The path in the net.
            what: What it is, for the error: "list of images".

        Returns:
            Its absolute path: the working directory may be another one when it is read.

        Raises:
            DataError: It is not there; names every place that was tried. Or it is a device or a pipe.
        """
        if not source:
            raise DataError(f"no {what} is named. Write `source`, or what names it, into the net.")
        path = self.locate(source)
        if not os.path.exists(path):
            looked = "" if Path(source).is_absolute() else f" Looked from {', and from '.join(self._places())}."
            raise DataError(f"{source}: no such {what}.{looked} Correct the path in the net.")
        if is_endless(path):
            raise DataError(f"{source}: is no {what} but {ENDLESS}")
        return path.absolute()

    def _places(self) -> list[str]:
        """The folders that a relative path is looked for in, as an error names them."""
        root = self.paths.root.absolute()
        places = [str(root)]
        if self.paths.data is not None:
            places.append(f"{self.paths.data} (the data folder: --data or ${DATA_ROOT_VARIABLE})")
        if self.folder is not None and self.folder.absolute() != root:
            places.append(f"{self.folder.absolute()} (beside the net)")
        return places


def is_endless(path: PathLike) -> bool:
    """Whether a path is a device, such as /dev/zero, or a named pipe: its bytes may never end, or never come.

    A pipe without a name, as a shell makes for `<(…)`, has a writer already.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # not there; or no path at all
        return False
    if stat.S_ISFIFO(mode):
        return os.path.exists(os.path.realpath(path))
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def refuse_endless(path: PathLike) -> None:
    """Raise OSError for what `is_endless`, or is no path at all, as opening does for a file that cannot be read."""
    if "\0" in os.fspath(path):
        raise OSError(errno.EINVAL, "a path holds no zero byte", os.fspath(path))
    if is_endless(path):
        raise OSError(errno.ESPIPE, "a device or a pipe may never end", os.fspath(path))


def checkout() -> Path | None:
    """Find the checkout that this package runs from: the folder of nets/, solvers/ and tools/ beside it.

    Returns:
        The folder; None for an installed package.
    """
    folder = _PACKAGE.parent
    return folder if (folder / "pyproject.toml").is_file() and (folder / "nets").is_dir() else None


def shipped(name: PathLike = "") -> Path | None:
    """Find a file or folder that comes with the package: in the checkout, else in the installed package.

    Args:
        name: `nets`, `solvers/voc-fcn8s.prototxt`, `weights/MANIFEST.toml`; "" for the folder that holds them.

    Returns:
        Its absolute path; None where the package does not ship it.
    """
    if Path(name).is_absolute():
        return None
    # The build puts copies of the three folders below models/; a checkout has none there.
    place = (checkout() or _PACKAGE / "models" / "shipped") / name
    return place if place.exists() else None


def is_installed(path: PathLike) -> bool:
    """Whether a path lies among the files of an installed package, where nothing may be written beside it."""
    return checkout() is None and Path(path).is_relative_to(_PACKAGE / "models" / "shipped")
