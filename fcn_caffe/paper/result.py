"""The result of an experiment: numbers beside what the paper says, and a verdict that follows from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DIFFERS", "HOLDS", "NOT_RUN", "ROUNDING", "Curve", "Result", "Row", "relative"]

HOLDS, DIFFERS, NOT_RUN = "holds", "differs", "not run"
ROUNDING = 1e-5  # of the largest value: float32, over the thousands of terms of a layer's sums


@dataclass(frozen=True)
class Row:
    """One measured number, what it should be in words, and whether it is that; None where nothing is wanted of it."""

    what: str
    value: float | str
    wanted: str = ""
    holds: bool | None = None


@dataclass(frozen=True)
class Curve:
    """Lines over one axis: points (x, y) by the line's name, and the axes' names with units."""

    title: str
    x: str
    y: str
    lines: dict[str, list[tuple[float, float]]]


@dataclass
class Result:
    """The result of an experiment, or of a claim's check.

    Attributes:
        name: of the experiment, or the claim's id.
        section: of the paper.
        says: the paper's sentence, in our words.
        rows: what was measured.
        remarks: what the numbers alone do not say.
        curves: to draw.
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
        """NOT_RUN if something is missing; HOLDS if a row wants a value and all that do have it; else DIFFERS."""
        if self.missing:
            return NOT_RUN
        judged = [row.holds for row in self.rows if row.holds is not None]
        return HOLDS if judged and all(judged) else DIFFERS

    def measure(self, what: str, value: float | str, wanted: str = "", holds: bool | None = None) -> None:
        """Add a row. A value in words stays as it is."""
        number = value if isinstance(value, str) else float(value)
        self.rows.append(Row(what, number, wanted, None if holds is None else bool(holds)))

    def equal(self, what: str, difference: float, bound: float = ROUNDING) -> None:
        """Add a row for a relative difference that should be no more than rounding, or 0 where `bound` is 0."""
        wanted = f"at most {bound:g}" if bound else "0 exactly"
        self.measure(what, difference, wanted, difference <= bound)

    def record(self) -> dict[str, Any]:
        """Return the result as JSON has it."""
        rows = [{"what": row.what, "value": row.value, "wanted": row.wanted, "holds": row.holds} for row in self.rows]
        head = {"name": self.name, "section": self.section, "says": self.says, "verdict": self.verdict}
        curves = [asdict(curve) for curve in self.curves]
        return {**head, "rows": rows, "remarks": self.remarks, "curves": curves, "missing": self.missing}

    def __str__(self) -> str:
        width = max((len(row.what) for row in self.rows), default=0)
        lines = [f"{self.name} (section {self.section}): {self.says}"]
        for row in self.rows:
            mark = {None: "", True: "yes", False: "NO"}[row.holds]
            value = row.value if isinstance(row.value, str) else f"{row.value:.6g}"
            lines.append(f"  {row.what:<{width}}  {value:>12}  {row.wanted:<22} {mark}".rstrip())
        lines += [f"  {remark}" for remark in self.remarks]
        lines += [f"  missing: {text}" for text in self.missing]
        return "\n".join([*lines, f"verdict: {self.verdict}"])


def relative(tensor: Tensor, wanted: Tensor) -> float:
    """Measure the largest difference of two tensors as a share of the largest wanted value.

    Infinite where the shapes differ, where there are no values, or where one is NaN.
    """
    if tensor.shape != wanted.shape or not tensor.numel():
        return float("inf")
    largest = float(wanted.abs().max())
    difference = float((tensor - wanted).abs().max())
    if difference != difference or largest != largest:
        return float("inf")
    return difference / largest if largest else (0.0 if difference == 0 else float("inf"))
