"""What an experiment found: numbers beside what the paper says, and a verdict that follows from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["DIFFERS", "HOLDS", "NOT_RUN", "ROUNDING", "Curve", "Result", "Row", "relative"]

HOLDS, DIFFERS, NOT_RUN = "holds", "differs", "not run"
ROUNDING = 1e-5  # of the largest value: float32, over the thousands of sums of a layer


@dataclass(frozen=True)
class Row:
    """One measured number, what it should be in words, and whether it is that; None where it is only told."""

    what: str
    value: float | str
    wanted: str = ""
    holds: bool | None = None


@dataclass(frozen=True)
class Curve:
    """Lines over one axis: points (x, y) by line's name, and what the axes are in words and units."""

    title: str
    x: str
    y: str
    lines: dict[str, list[tuple[float, float]]]


@dataclass
class Result:
    """An experiment's name, the paper's sentence in our words with its section, rows, remarks and curves.

    missing: what has to be there before it can run, each with how to get it.
    """

    name: str
    section: str
    says: str
    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """HOLDS where every row that asks for something has it, and one asks; NOT_RUN where something is missing."""
        if self.missing:
            return NOT_RUN
        asked = [row.holds for row in self.rows if row.holds is not None]
        return HOLDS if asked and all(asked) else DIFFERS

    def measure(self, what: str, value: float | str, wanted: str = "", holds: bool | None = None) -> None:
        """Add a row; a value in words stays as it is."""
        told = value if isinstance(value, str) else float(value)
        self.rows.append(Row(what, told, wanted, None if holds is None else bool(holds)))

    def equal(self, what: str, difference: float, bound: float = ROUNDING) -> None:
        """Add a row for a relative difference that should be rounding only, or 0 where `bound` is."""
        wanted = f"at most {bound:g}" if bound else "0 exactly"
        self.measure(what, difference, wanted, difference <= bound)

    def record(self) -> dict[str, Any]:
        """The result as JSON has it."""
        rows = [{"what": row.what, "value": row.value, "wanted": row.wanted, "holds": row.holds} for row in self.rows]
        told = {"name": self.name, "section": self.section, "says": self.says, "verdict": self.verdict}
        curves = [asdict(curve) for curve in self.curves]
        return {**told, "rows": rows, "remarks": self.remarks, "curves": curves, "missing": self.missing}

    def __str__(self) -> str:
        width = max((len(row.what) for row in self.rows), default=0)
        lines = [f"{self.name} (section {self.section}): {self.says}"]
        for row in self.rows:
            mark = {None: "", True: "yes", False: "NO"}[row.holds]
            value = row.value if isinstance(row.value, str) else f"{row.value:.6g}"
            lines.append(f"  {row.what:<{width}}  {value:>12}  {row.wanted:<22} {mark}".rstrip())
        lines += [f"  {remark}" for remark in self.remarks]
        lines += [f"  missing: {one}" for one in self.missing]
        return "\n".join([*lines, f"verdict: {self.verdict}"])


def relative(found: Any, wanted: Any) -> float:
    """The largest difference of two tensors as a share of the largest value; infinite where shapes or NaN forbid it."""
    if found.shape != wanted.shape or not found.numel():
        return float("inf")
    largest = float(wanted.abs().max())
    difference = float((found - wanted).abs().max())
    if difference != difference or largest != largest:
        return float("inf")
    return difference / largest if largest else (0.0 if difference == 0 else float("inf"))
