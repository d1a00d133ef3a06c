"""Labels that look like a mistake: classes that few files show, and files that are void throughout."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fcn_caffe.data.own.label_check import LabelReport
from fcn_caffe.errors import DataError

__all__ = ["refuse_strays", "refuse_void_files"]

FEWEST_FILES = 3  # among fewer, every class is rare
FEW = 50  # a stray is in one file, or in one of so many
SMALL = 1e-4  # of all pixels
SURE_OF_NAMES = 10  # files; a class by name is somebody's intention unless there are so many others
SHOWN = 5


def _is_few(report: LabelReport, value: int, least: int) -> bool:
    return report.file_count >= least and len(report.files[value]) <= max(1, report.file_count // FEW)


def refuse_strays(report: LabelReport, voids: Collection[int], names: Sequence[str] = ()) -> None:
    """Refuse classes that nobody declared and hardly any file shows.

    A class by name is one that few of 10 or more files show. A value without a name is one that few of 3 or more files
    show, where it leaves a gap below it, or has fewer than one of 10,000 pixels of 20 or more files.

    Args:
        report: What the labels hold.
        voids: The values that are void.
        names: The classes' names, where values have names.

    Raises:
        DataError: Listing values and files.
    """
    total = sum(report.counts.values()) or 1
    strays = []
    for value in sorted(report.counts.keys() - set(voids)):
        gap = value > 0 and value - 1 not in report.counts
        tiny = report.counts[value] / total < SMALL and report.file_count >= 20
        if _is_few(report, value, SURE_OF_NAMES if names else FEWEST_FILES) and (names or gap or tiny):
            strays.append(value)
    if not strays:
        return
    lines = []
    for value in strays[:SHOWN]:
        files = report.files[value]
        shown = f"{names[value]!r}" if names else f"label {value}"
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        lines.append(f"{files[0]}{more}: {shown}, {report.counts[value]} pixels")
    shown = "; ".join(lines) + ("; …" if len(strays) > SHOWN else "")
    first = names[strays[0]] if names else str(strays[0])
    cure = "" if names else f"void with --void {first} 255, "
    raise DataError(
        f"of {report.file_count} files hardly any shows these classes: {shown}. If they are a mistake, correct the "
        f"files, or make them {cure}another class with --merge NEW={first}, or void with --drop {first}; "
        f"if they are meant, say so with --allow-stray{'' if names else ' or --classes'}."
    )


def refuse_void_files(report: LabelReport, voids: Collection[int]) -> None:
    """Refuse files in which every pixel is void.

    Raises:
        DataError: Listing files.
    """
    void = {file for value in voids for file in report.files.get(value, ())}
    for value, files in report.files.items():
        if value not in voids:
            void.difference_update(files)
    if void and len(void) < report.file_count:
        files = sorted(void)
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        raise DataError(
            f"{files[0]}{more}: every pixel is void, so there is nothing to learn from it. Label it, take it out, "
            "correct --void, --map or --drop; or keep it with --allow-stray."
        )
