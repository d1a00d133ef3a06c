"""Solvers' rates side by side: what each divides its loss by, and how far each moves the weights beside the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from fcn_caffe.doctor.learning_rate import Explanation, LossRate

__all__ = ["Comparison", "Line", "compare"]

Value = float | str | None


@dataclass(frozen=True)
class Line:
    """One property of solvers and its value in each; None where it has no meaning."""

    what: str
    values: list[Value]


@dataclass
class Comparison:
    """Solvers side by side: `str` gives a table and what each was warned of; `record` the numbers."""

    solvers: list[Explanation]
    lines: list[Line] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """The numbers as JSON has them: each solver's own, and the table's lines."""
        lines = [{"what": line.what, "values": line.values} for line in self.lines]
        return {"solvers": [solver.record() for solver in self.solvers], "side_by_side": lines}

    def __str__(self) -> str:
        rows = [("", [solver.solver for solver in self.solvers])]
        rows += [(line.what, [_shown(value) for value in line.values]) for line in self.lines]
        first = max(len(what) for what, _ in rows)
        widths = [max(len(values[index]) for _, values in rows) for index in range(len(self.solvers))]
        lines = []
        for what, values in rows:
            cells = (f"{value:<{width}}" for value, width in zip(values, widths, strict=True))
            lines.append(f"{what:<{first}}  {'  '.join(cells)}".rstrip())
        return "\n".join([*lines, *(f"{solver.solver}: {text}" for solver in self.solvers for text in solver.warnings)])


def compare(solvers: Sequence[Explanation]) -> Comparison:
    """Compare two or more solvers. Losses are matched by their layers' names, or where each solver has only one.

    Ratios are to the first solver.

    Raises:
        ValueError: fewer than two solvers.
    """
    if len(solvers) < 2:
        raise ValueError(f"two solvers or more are compared, got {len(solvers)}")
    comparison = Comparison(list(solvers))

    def line(what: str, value: Callable[[Explanation], Value]) -> None:
        comparison.lines.append(Line(what, [_finite(value(solver)) for solver in solvers]))

    line("rule", lambda solver: solver.type)
    line("base_lr", lambda solver: solver.base_lr)
    line("lr_policy", lambda solver: solver.policy.removeprefix("lr_policy: "))
    line("weight_decay", lambda solver: solver.weight_decay)
    line("passes a step (iter_size)", lambda solver: solver.iter_size)
    line("momentum", lambda solver: solver.momentum)
    line("momentum factor, 1 / (1 - momentum)", lambda solver: solver.factor if solver.scales else None)
    for title, losses in _losses(solvers):
        comparison.lines += _loss_lines(title, list(zip(solvers, losses, strict=True)))
    unknown = [", ".join(solver.unknown) for solver in solvers]
    if any(unknown):
        comparison.lines.append(Line("losses of unknown normalisation", [names or None for names in unknown]))
    return comparison


def _losses(solvers: Sequence[Explanation]) -> list[tuple[str, list[LossRate | None]]]:
    """Return the losses by name, one of each solver; None where it has none of that name."""
    if all(len(solver.losses) == 1 for solver in solvers):
        return [("", [solver.losses[0] for solver in solvers])]
    names = dict.fromkeys(loss.layer for solver in solvers for loss in solver.losses)
    by_name = [{loss.layer: loss for loss in solver.losses} for solver in solvers]
    return [(f"{name}: ", [known.get(name) for known in by_name]) for name in names]


def _loss_lines(title: str, pairs: list[tuple[Explanation, LossRate | None]]) -> list[Line]:
    lines: list[Line] = []

    def line(what: str, value: Callable[[Explanation, LossRate], Value]) -> None:
        lines.append(
            Line(f"{title}{what}", [None if loss is None else _finite(value(solver, loss)) for solver, loss in pairs])
        )

    def ratio(what: str, value: Callable[[Explanation, LossRate], float]) -> None:
        first, loss = pairs[0]
        base = value(first, loss) if loss is not None and first.scales else 0.0
        line(
            what, lambda solver, loss: value(solver, loss) / base if base and isfinite(base) and solver.scales else None
        )

    line("loss", lambda solver, loss: f"{loss.layer} ({loss.type})")
    line("images a step", lambda solver, loss: loss.images * solver.iter_size)
    line("positions an image", lambda solver, loss: loss.pixels)
    line("normaliser of a pass", lambda solver, loss: loss.divisor)
    line("which is", lambda solver, loss: loss.divided_by)
    line("loss_weight", lambda solver, loss: loss.weight)
    line("the log begins near", lambda solver, loss: loss.shown)
    line("rate for a loss averaged over positions", lambda solver, loss: loss.acts if solver.scales else None)
    line(
        "weight_decay beside it",
        lambda solver, loss: solver.weight_decay * solver.base_lr / loss.acts if loss.acts and solver.scales else None,
    )
    line("that rate x momentum factor", lambda solver, loss: loss.acts * solver.factor if solver.scales else None)
    ratio("step, beside the first's", lambda solver, loss: loss.acts * solver.factor)
    ratio(
        "step an image, beside the first's",
        lambda solver, loss: loss.acts * solver.factor / (loss.images * solver.iter_size),
    )
    return lines


def _finite(value: Value) -> Value:
    """The value; None for what momentum of 1 makes infinite, and ratios of it."""
    return value if value is None or isinstance(value, str) or isfinite(value) else None


def _shown(value: Value) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:g}"
