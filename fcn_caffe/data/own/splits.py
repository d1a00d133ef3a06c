"""Which images are trained on, scored and kept for the last word: by lists, by the data set, or drawn by groups."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from fcn_caffe.data.own.label_check import Pair
from fcn_caffe.data.readers.image_files import IMAGE_SUFFIXES, read_split
from fcn_caffe.errors import DataError

__all__ = ["Drawing", "Splits", "make_splits"]


@dataclass
class Splits:
    """The names of each split. `test` may be empty."""

    train: list[str]
    val: list[str]
    test: list[str] = field(default_factory=list)

    def non_empty(self) -> dict[str, list[str]]:
        """Return the splits that list something: names by the split's name."""
        return {name: names for name, names in vars(self).items() if names}

    def __str__(self) -> str:
        total = sum(len(names) for names in vars(self).values())
        shares = (f"{name} {len(names)} ({len(names) / total:.1%})" for name, names in self.non_empty().items())
        return f"splits: {', '.join(shares)}"


@dataclass(frozen=True)
class Drawing:
    """How images are drawn for val and test.

    Attributes:
        val: The share of the images for val.
        test: The share for test; 0 for none.
        seed: Of the shuffle.
        group_by: What images have in common that must not be torn apart: "parent", the folder of the name; or a
            regular expression, whose first group, or whole match, is what counts. None: every image is by itself.
    """

    val: float = 0.2
    test: float = 0.0
    seed: int = 1337
    group_by: str | None = None

    def key(self) -> Callable[[str], str]:
        """Return the function that says an image's group.

        Raises:
            DataError: The expression is none.
        """
        if self.group_by is None:
            return lambda name: name
        if self.group_by == "parent":
            return lambda name: PurePosixPath(name).parent.as_posix()
        try:
            pattern = re.compile(self.group_by)
        except re.error as error:
            raise DataError(f"--group-by {self.group_by!r} is no regular expression: {error}.") from error

        def group(name: str) -> str:
            match = pattern.search(name)
            if match is None:
                raise DataError(
                    f"--group-by {self.group_by!r} does not match the image {name!r}. Correct the expression: it "
                    "should say the group of every image."
                )
            return str(match[1] if pattern.groups else match[0])

        return group


def make_splits(
    pairs: Sequence[Pair],
    drawing: Drawing,
    *,
    train_list: str | Path | None = None,
    val_list: str | Path | None = None,
    test_list: str | Path | None = None,
    given: Mapping[str, str] | None = None,
) -> Splits:
    """Read the lists, or take the data set's own splits; draw what they leave open from the sorted names.

    Args:
        pairs: The images.
        drawing: How they are drawn. By groups, the data set's own splits do not count.
        train_list: The names to train on.
        val_list: The names to score.
        test_list: The names for the last word.
        given: The data set's split of each name, "" where it says none.

    Raises:
        DataError: for a listed name without image and label, names in two splits, a name that no list can
            hold, or too few images to split.
    """
    known = {pair.name for pair in pairs}
    for name in sorted(known):
        if not _fits_a_list(name):
            raise DataError(
                f"{name!r}: is no name that a list of images can hold: one line of text in UTF-8 without blanks at its "
                "ends. Rename the image and its label."
            )
    if val_list is None and test_list is None and max(drawing.val, drawing.test) < 1 <= drawing.val + drawing.test:
        raise DataError(
            f"--val-fraction {drawing.val:g} and --test-fraction {drawing.test:g} leave nothing to train on. Give less."
        )
    if train_list is None and (val_list is not None or test_list is not None):
        raise DataError("--val-list and --test-list need --train-list: give the list of images to train on too.")
    lists = _read_lists({"train": train_list, "val": val_list, "test": test_list}, known)
    own = {name: split or "train" for name, split in (given or {}).items()}
    if not lists and drawing.group_by is None and "train" in (given or {}).values():
        lists = {split: [name for name in own if own[name] == split] for split in dict.fromkeys(own.values())}
    train = lists.get("train") or sorted(known - set(lists.get("test", ())))
    val, test = lists.get("val"), lists.get("test", [])
    total = len(train)  # which both shares are of
    if "test" not in lists and drawing.test:
        train, test = _draw(train, drawing.test, total, drawing, "--test-fraction")
    if val is None:
        train, val = _draw(train, drawing.val, total, drawing, "--val-fraction")
    return Splits(train, val, test)


def _fits_a_list(name: str) -> bool:
    """Say whether `read_split` gives a name back from a list."""
    try:
        name.encode()
    except UnicodeEncodeError:  # its bytes are of another encoding
        return False
    return [line.strip() for line in name.splitlines()] == [name]


def _read_lists(paths: Mapping[str, str | Path | None], known: set[str]) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    for split, path in paths.items():
        if path is None:
            continue
        lists[split] = [_without_suffix(name, known) for name in read_split(path)]
        missing = [name for name in lists[split] if name not in known]
        if missing:
            raise DataError(
                f"{path}: {len(missing)} of {len(lists[split])} names have no image with a label, "
                f"such as {missing[0]!r}. Take them off the list or add the files."
            )
        for other, names in lists.items():
            shared = set(names) & set(lists[split]) if other != split else set()
            if shared:
                raise DataError(
                    f"{path}: {len(shared)} names are also in the {other} list, such as {min(shared)!r}. "
                    "Scores would be too good: take them out of one list."
                )
    return lists


def _draw(names: Sequence[str], share: float, total: int, drawing: Drawing, option: str) -> tuple[list[str], list[str]]:
    """Draw whole groups until a share of the total is held back; returns the rest and those."""
    if not 0 < share < 1:
        raise DataError(f"{option} should lie between 0 and 1, got {share}.")
    groups: dict[str, list[str]] = {}
    key = drawing.key()
    for name in sorted(names):
        groups.setdefault(key(name), []).append(name)
    wanted = max(1, round(total * share))
    if len(groups) < 2 or (drawing.group_by is None and wanted >= len(names)):
        what = f"{len(groups)} group of --group-by" if drawing.group_by else f"{len(names)} images with labels"
        raise DataError(f"{what} are too few to split. Give at least 2.")
    order = sorted(groups)
    random.Random(drawing.seed).shuffle(order)
    held: list[str] = []
    for group in order:
        if len(held) + len(groups[group]) <= wanted:
            held += groups[group]
    if not held:  # every group is larger than the share
        held = groups[min(order, key=lambda group: len(groups[group]))]
    rest = set(names) - set(held)
    return sorted(rest), sorted(held)


def _without_suffix(name: str, known: set[str]) -> str:
    if name in known or Path(name).suffix.lower() not in IMAGE_SUFFIXES:
        return name
    return Path(name).with_suffix("").as_posix()
