"""Curves as an inline SVG: axes with ticks, a legend, and lines that differ in colour and dashes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup

from fcn_caffe.host.numbers import number
from fcn_caffe.host.pages import templates

__all__ = ["STYLES", "chart"]

WIDTH, HEIGHT = 460, 290
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 46  # margins around the frame, for the axes' numbers and names
STYLES = 6  # line styles that page.css has
MOST = 400  # points drawn of one line; a longer line keeps the least and the greatest of each stretch
MARKED = 30  # a line of at most so many points gets a mark at each
NAME_ROOM, NAME_LINE = 38, 14  # letters of the y axis' name that fit beside the frame, pixels of each line of it
TICK_ROOM, LETTER = 5, 7  # letters of a tick that fit beside the frame, pixels of each one more
LOG_FROM = 200.0  # an axis is logarithmic if its largest value is this many times its least

Point = tuple[float, float]


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels. low, high: in values, or in their logarithms where log is set."""

    low: float
    high: float
    log: bool
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        share = ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def labels(self) -> list[tuple[float, str]]:
        """The pixel and the text of each tick."""
        return [(self(value), _tick(value)) for value in self.ticks]


class _Mark(NamedTuple):
    x: float
    y: float
    title: str


class _Line(NamedTuple):
    style: int
    name: str
    paths: list[str]
    marks: list[_Mark]


def chart(curve: dict[str, Any]) -> Markup:
    """Draw curves as a figure: picture, caption and legend. A value that is not finite breaks its line.

    Args:
        curve: `title`, the axes' names `x` and `y`, and `lines`: points as pairs, by the line's name. None counts as
            not a number.
    """
    lines = {name: [_point(pair) for pair in points] for name, points in curve["lines"].items()}
    finite = [pair for points in lines.values() for pair in points if _is_finite(pair)]
    lost = sum(len(points) for points in lines.values()) - len(finite)
    if not finite:
        return _render(curve=curve, lines=None, lost=lost)
    y = _axis([pair[1] for pair in finite], HEIGHT - BOTTOM, TOP, 5)
    beside = textwrap.wrap(_axis_name(curve["y"], y), NAME_ROOM)
    widest = max((len(text) for _, text in y.labels()), default=0)
    left = LEFT + NAME_LINE * (len(beside) - 1) + LETTER * max(0, widest - TICK_ROOM)
    x = _axis([pair[0] for pair in finite], left, WIDTH - RIGHT, 6)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    return _render(
        curve=curve,
        lines=[_line(name, points, x, y, at % STYLES) for at, (name, points) in enumerate(lines.items())],
        lost=lost,
        size=(WIDTH, HEIGHT),
        frame={"left": left, "right": right, "top": TOP, "bottom": bottom},
        middle=((left + right) / 2, (TOP + bottom) / 2),
        x_ticks=x.labels(),
        y_ticks=y.labels(),
        below=_axis_name(curve["x"], x),
        beside=[(13 + NAME_LINE * at, text) for at, text in enumerate(beside)],
    )


def _render(**values: object) -> Markup:
    return Markup(templates("fcn_caffe.host").get_template("chart.html").render(**values))


def _point(pair: Sequence[float | None]) -> Point:
    x, y = (math.nan if value is None else float(value) for value in pair)
    return x, y


def _is_finite(pair: Point) -> bool:
    return all(math.isfinite(value) and abs(value) < 1e300 for value in pair)  # so that differences are finite too


def _axis(values: list[float], start: float, end: float, wanted: int) -> _Axis:
    low, high = min(values), max(values)
    if low > 0 and high / low >= LOG_FROM:
        low, high = math.log10(low), math.log10(high)
        ticks = [10.0**power for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
        every = math.ceil(len(ticks) / wanted)
        return _Axis(low - (high - low) * 0.04, high + (high - low) * 0.04, True, start, end, tuple(ticks[::every]))
    spread = high - low
    largest = max(abs(low), abs(high))
    if spread <= max(largest * 1e-12, 1e-290):  # all values are one, up to rounding
        spread = largest if largest > 1e-290 else 1.0
        low, high = low - spread / 2, high + spread / 2
    step = _round_step((high - low) / wanted)
    ticks = [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    margin = (high - low) * 0.04
    return _Axis(low - margin, high + margin, False, start, end, tuple(ticks))


def _round_step(step: float) -> float:
    """The least of 1, 2, 2.5 and 5 times a power of ten that is not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9))


def _tick(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def _axis_name(name: str, axis: _Axis) -> str:
    return f"{name} (logarithmic)" if axis.log else name


def _line(name: str, points: Sequence[Point], x: _Axis, y: _Axis, style: int) -> _Line:
    line = _Line(style, name, [], [])
    for stretch in _stretches(points):
        if len(stretch) > 1:
            line.paths.append("L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in _thinned(stretch)))
        if len(stretch) == 1 or len(points) <= MARKED:
            line.marks.extend(_Mark(x(a), y(b), f"{number(a)}: {number(b)}") for a, b in stretch)
    return line


def _stretches(points: Sequence[Point]) -> Iterator[list[Point]]:
    """The points between those that are not finite."""
    stretch: list[Point] = []
    for pair in points:
        if _is_finite(pair):
            stretch.append(pair)
        elif stretch:
            yield stretch
            stretch = []
    if stretch:
        yield stretch


def _thinned(points: list[Point]) -> list[Point]:
    """At most MOST points: of each stretch the least and the greatest."""
    if len(points) <= MOST:
        return points
    length = math.ceil(2 * len(points) / MOST)
    kept: list[Point] = []
    for start in range(0, len(points), length):
        stretch = range(start, min(start + length, len(points)))
        ends = {min(stretch, key=lambda at: points[at][1]), max(stretch, key=lambda at: points[at][1])}
        kept += [points[at] for at in sorted(ends)]
    return kept
