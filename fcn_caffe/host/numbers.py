"""How the pages write numbers."""

from __future__ import annotations

import math

__all__ = ["number", "one_decimal", "short", "sides"]


def number(value: object) -> str:
    """Write a value for a reader: whole numbers grouped, others with four digits, anything else in words."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite" if value > 0 else "minus infinite"
    if abs(value) < 1e15 and value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def one_decimal(value: float) -> str:
    """Write a coordinate of a drawing."""
    return f"{value:.1f}"


def short(value: float) -> str:
    """Write a large number with three digits: 134M, 1.85G."""
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit * 0.9995:
            return f"{value / unit:.3g}{name}"
    return number(value)


def sides(value: object) -> str:
    """Write a kernel or a pad: 3×3, or 4×6 where the sides differ; nothing for None."""
    if value is None:
        return ""
    sizes = list(value) if isinstance(value, (list, tuple)) else [value, value]
    return "×".join(number(size) for size in (sizes * 2)[: max(2, len(sizes))])
