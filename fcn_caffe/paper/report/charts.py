"""A curve of a record as an inline SVG: axes with ticks, a legend, and lines told apart without their colours."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = ["STYLES", "chart", "number"]

WIDTH, HEIGHT = 460, 290
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 46  # what the frame leaves free, for numbers and names of axes
STYLES = 6  # colours with dashes that page.css has
MOST = 400  # points drawn of a line; of more, the least and the greatest of each stretch
MARKED = 30  # points up to which each gets a mark
NAME_ROOM, NAME_LINE = 38, 14  # letters of a name beside the frame's height, pixels of each line of it
LOG_FROM = 200.0  # the ratio of the largest to the least value from which an axis is logarithmic

Point = tuple[float, float]


def number(value: Any) -> str:
    """A number as a reader wants it: whole ones grouped, others with four digits, what is no number in words."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite" if value > 0 else "minus infinite"
    if abs(value) < 1e15 and value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


@dataclass(frozen=True)
class _Axis:
    """From values to places: low and high are of the values, or of their logarithms."""

    low: float
    high: float
    log: bool
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        share = ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def chart(curve: dict[str, Any]) -> str:
    """A figure of a record's curve: its picture, a caption and a legend; values that are not finite break a line."""
    lines = {name: [_point(pair) for pair in points] for name, points in curve["lines"].items()}
    drawn = [pair for points in lines.values() for pair in points if _finite(pair)]
    lost = sum(len(points) for points in lines.values()) - len(drawn)
    caption = f"<figcaption>{escape(curve['title'])}</figcaption>"
    if not drawn:
        why = "no value is finite" if lost else "it has no points"
        return f'<figure class="chart">{caption}<p class="none">Nothing to draw: {why}.</p></figure>'
    y = _axis([pair[1] for pair in drawn], HEIGHT - BOTTOM, TOP, 5)
    beside = textwrap.wrap(_named(curve["y"], y), NAME_ROOM)
    left = LEFT + NAME_LINE * (len(beside) - 1)
    x = _axis([pair[0] for pair in drawn], left, WIDTH - RIGHT, 6)
    parts = [*_frame(x, y, _named(curve["x"], x), beside)]
    for index, points in enumerate(lines.values()):
        parts += _line(points, x, y, index % STYLES)
    names = ", ".join(lines)
    said = f"{curve['title']}: {curve['y']} against {curve['x']}. Lines: {names}."
    picture = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(said)}">'
        f"{''.join(parts)}</svg>{_legend(lines)}"
    )
    note = f'<p class="none">{lost} value{"s are" if lost > 1 else " is"} not finite and not drawn.</p>' if lost else ""
    return f'<figure class="chart">{caption}{picture}{note}</figure>'


def _point(pair: Sequence[Any]) -> Point:
    x, y = (math.nan if value is None else float(value) for value in pair)
    return x, y


def _finite(pair: Point) -> bool:
    return all(math.isfinite(value) and abs(value) < 1e300 for value in pair)  # differences are finite too


def _axis(values: list[float], start: float, end: float, wanted: int) -> _Axis:
    low, high = min(values), max(values)
    if low > 0 and high / low >= LOG_FROM:
        low, high = math.log10(low), math.log10(high)
        ticks = [10.0**power for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
        every = math.ceil(len(ticks) / wanted)
        return _Axis(low - (high - low) * 0.04, high + (high - low) * 0.04, True, start, end, tuple(ticks[::every]))
    spread = high - low
    largest = max(abs(low), abs(high))
    if spread <= max(largest * 1e-12, 1e-290):  # one value, or as good as one
        spread = largest if largest > 1e-290 else 1.0
        low, high = low - spread / 2, high + spread / 2
    step = _nice((high - low) / wanted)
    ticks = [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    margin = (high - low) * 0.04
    return _Axis(low - margin, high + margin, False, start, end, tuple(ticks))


def _nice(step: float) -> float:
    """The least of 1, 2, 2.5 and 5 times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9))


def _tick(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def _named(name: str, axis: _Axis) -> str:
    return f"{name} (logarithmic)" if axis.log else name


def _frame(x: _Axis, y: _Axis, below: str, beside: list[str]) -> Iterable[str]:
    """Axes, ticks and the names of the axes, that beside the frame in lines."""
    left = x.start
    for value in y.ticks:
        at = y(value)
        yield f'<path class="grid" d="M{left:g} {at:.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text class="tick end" x="{left - 7:g}" y="{at + 4:.1f}">{_tick(value)}</text>'
    for value in x.ticks:
        at = x(value)
        yield f'<path class="tick" d="M{at:.1f} {HEIGHT - BOTTOM}v5"/>'
        yield f'<text class="tick middle" x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}">{_tick(value)}</text>'
    yield f'<path class="axis" d="M{left:g} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
    middle_x, middle_y = (left + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    yield f'<text class="name middle" x="{middle_x:.0f}" y="{HEIGHT - 8}">{escape(below)}</text>'
    for index, line in enumerate(beside):
        at = 13 + NAME_LINE * index
        yield f'<text class="name middle" transform="translate({at} {middle_y:.0f}) rotate(-90)">{escape(line)}</text>'


def _line(points: Sequence[Point], x: _Axis, y: _Axis, style: int) -> Iterable[str]:
    stretches: list[list[Point]] = [[]]
    for pair in points:
        if _finite(pair):
            stretches[-1].append(pair)
        elif stretches[-1]:
            stretches.append([])
    for stretch in stretches:
        if len(stretch) > 1:
            path = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in _thinned(stretch))
            yield f'<path class="line style{style}" d="M{path}"/>'
        if stretch and (len(stretch) == 1 or len(points) <= MARKED):
            for a, b in stretch:
                told = f"<title>{number(a)}: {number(b)}</title>"
                yield f'<circle class="mark style{style}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3">{told}</circle>'


def _thinned(points: list[Point]) -> list[Point]:
    if len(points) <= MOST:
        return points
    length = math.ceil(2 * len(points) / MOST)
    kept: list[Point] = []
    for start in range(0, len(points), length):
        stretch = range(start, min(start + length, len(points)))
        ends = {min(stretch, key=lambda at: points[at][1]), max(stretch, key=lambda at: points[at][1])}
        kept += [points[at] for at in sorted(ends)]
    return kept


def _legend(lines: Iterable[str]) -> str:
    items = (
        f'<li><svg class="swatch" viewBox="0 0 34 10" aria-hidden="true"><path class="line style{index % STYLES}" '
        f'd="M1 5H33"/></svg>{escape(name)}</li>'
        for index, name in enumerate(lines)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'
