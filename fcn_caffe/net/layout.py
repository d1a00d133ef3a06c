"""Lays a graph out for a screen: boxes in stages, stages in columns, columns in bands, lines in the gaps between boxes.

It knows nothing of nets: boxes are numbers, and a box reads boxes before it.

    >>> made = lay_out(reads=[[], [0], [1], [2]], stages=[0, 0, 1, 1])
    >>> [(x, y) for x, y in made.corners]
    [(16, 36), (16, 118), (228, 36), (228, 118)]
    >>> made.routes[0].points
    [(102, 92), (102, 118)]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

__all__ = ["BOX", "Frame", "Layout", "Point", "Route", "lay_out", "place", "svg_path"]

BOX = (172, 56)  # pixels: width, height
ROW_GAP, LANE_GAP = 26, 28  # between the boxes of a stage
SIDE, HEAD = 10, 30  # from a stage's frame to its boxes: at its sides and its foot, at its head
EDGE = 6  # around the picture
STEP = 5  # between two lines that run side by side
GAP, CHANNEL = 10, 8  # at each side of the lines between two columns, over and under those above a band
ASPECT = 1.7  # of a screen: width to height
MOST_BANDS = 12

Reads = Sequence[Sequence[int]]
Point = tuple[int, int]
Gap = tuple[str, int]  # a kind and a number: of a rank or a band


class Frame(NamedTuple):
    """The rectangle around the boxes of a stage."""

    stage: int
    x: int
    y: int
    width: int
    height: int


class Route(NamedTuple):
    """The line from a box to one that reads it; it turns at right angles."""

    source: int
    target: int
    points: list[Point]


@dataclass(frozen=True)
class Layout:
    """Where everything is, in pixels.

    Attributes:
        width: of the picture.
        height: of the picture.
        corners: the upper left corner of each box.
        frames: of the stages, in order.
        routes: of all pairs of boxes of which one reads the other.
    """

    width: int
    height: int
    corners: list[Point]
    frames: list[Frame]
    routes: list[Route]


# -- a grid ------------------------------------------------------------------------------------------------------------


def place(reads: Reads, references: Mapping[int, Sequence[int]] | None = None) -> list[tuple[int, int]]:
    """Give each node of a graph a row and a lane: below all that it reads; the longest chain in the first lane.

    No two nodes share a place, and a line down a lane meets no other node.

    Args:
        reads: the nodes that each node reads, all of them before it.
        references: nodes that a node is not to stand above, without a line between them.

    Returns:
        (row, lane) of each node.
    """
    rows: list[int] = []
    for index, below in enumerate(reads):
        beside = (references or {}).get(index, ())
        rows.append(max([0, *(1 + rows[at] for at in below), *(rows[at] for at in beside)]))
    return list(zip(rows, _lanes(reads, rows), strict=True))


def _lanes(reads: Reads, rows: Sequence[int]) -> list[int]:
    """Put the longest chain into the first lane, then each next longest into the first lane that is free."""
    depth: list[int] = []
    readers: list[list[int]] = [[] for _ in reads]
    for index, below in enumerate(reads):
        depth.append(1 + max((depth[at] for at in below), default=0))
        for at in below:
            readers[at].append(index)
    lanes = [-1] * len(reads)
    covered: list[list[tuple[int, int]]] = []  # the rows that the chains of each lane cover
    for end in sorted(range(len(reads)), key=lambda at: (depth[at], at), reverse=True):
        if lanes[end] >= 0:
            continue
        chain = [end]
        while free := [at for at in reads[chain[-1]] if lanes[at] < 0]:
            chain.append(max(free, key=lambda at: depth[at]))
        tops = [rows[at] for at in reads[chain[-1]]]
        span = min([rows[chain[-1]], *tops]), max([rows[end], *(rows[at] for at in readers[end])])
        lane = next((at for at, spans in enumerate(covered) if not _overlaps(span, spans)), len(covered))
        if lane == len(covered):
            covered.append([])
        covered[lane].append(span)
        for at in chain:
            lanes[at] = lane
    return lanes


def _overlaps(span: tuple[int, int], others: Sequence[tuple[int, int]]) -> bool:
    return any(span[0] <= high and low <= span[1] for low, high in others)


# -- stages in columns and bands ---------------------------------------------------------------------------------------


def lay_out(reads: Reads, stages: Sequence[int], aspect: float = ASPECT) -> Layout:
    """Lay boxes out: each stage a column of boxes, top down; stages from left to right, in as many bands as fit best.

    Boxes and frames do not overlap, and no line crosses a box.

    Args:
        reads: the boxes that each box reads, all of them before it.
        stages: the stage of each box: 0, then the same number or the next.
        aspect: width to height of what the picture is for.
    """
    if not reads:
        return Layout(2 * EDGE, 2 * EDGE, [], [], [])
    plan = _Plan(reads, stages)
    counts = range(1, min(MOST_BANDS, plan.ranks) + 1)
    sizes = {count: plan.arrange(count) for count in counts}
    best = min(counts, key=lambda count: (max(sizes[count][0] / aspect, sizes[count][1]), count))
    width, height = plan.arrange(best)
    return Layout(width, height, plan.corners, plan.frames, plan.routes)


class _Tracks:
    """Numbers for the lines that share a gap: each source has one of its own there."""

    def __init__(self) -> None:
        self.of: dict[Gap, dict[int, int]] = {}

    def take(self, gap: Gap, source: int) -> int:
        tracks = self.of.setdefault(gap, {})
        return tracks.setdefault(source, len(tracks))

    def width(self, gap: Gap) -> int:
        return len(self.of.get(gap, ())) * STEP


class _Plan:
    """A layout in the making: `arrange` works out everything for a number of bands."""

    def __init__(self, reads: Reads, stages: Sequence[int]) -> None:
        self.reads, self.stages = reads, stages
        self.members: list[list[int]] = [[] for _ in range(1 + max(stages))]
        for box, stage in enumerate(stages):
            self.members[stage].append(box)
        self.cells: list[tuple[int, int]] = [(0, 0)] * len(reads)  # of each box in its stage: row, lane
        self.sizes: list[tuple[int, int]] = []  # of the frames
        between: list[list[int]] = [[] for _ in self.members]
        for stage, boxes in enumerate(self.members):
            first = boxes[0]
            inner = [[at - first for at in reads[box] if stages[at] == stage] for box in boxes]
            between[stage] = sorted({stages[at] for box in boxes for at in reads[box]} - {stage})
            cells = place(inner)
            for box, cell in zip(boxes, cells, strict=True):
                self.cells[box] = cell
            rows, lanes = 1 + max(row for row, _ in cells), 1 + max(lane for _, lane in cells)
            self.sizes.append(
                (
                    lanes * (BOX[0] + LANE_GAP) - LANE_GAP + 2 * SIDE,
                    rows * (BOX[1] + ROW_GAP) - ROW_GAP + SIDE + HEAD,
                )
            )
        self.corners: list[Point] = [(0, 0)] * len(reads)
        self.frames: list[Frame] = []
        self.routes: list[Route] = []
        self.channels: list[int] = []  # of each band: the first line over it
        self.occupied = {(stages[box], *cell) for box, cell in enumerate(self.cells)}
        places = place(between)
        self.rank = [rank for rank, _ in places]  # of each stage: its column
        self.lane = [lane for _, lane in places]
        self.ranks = 1 + max(self.rank)
        self.widths = [0] * self.ranks
        for stage, rank in enumerate(self.rank):
            self.widths[rank] = max(self.widths[rank], self.sizes[stage][0])

    def arrange(self, bands: int) -> tuple[int, int]:
        """Work out corners, frames and routes; return the picture's width and height."""
        self.band = self._break(bands)
        tracks = _Tracks()
        self._route(tracks, lambda gap: (0, 0))  # counts the lines in each gap
        starts, width = self._columns(tracks)
        self._stack(tracks, starts)
        self._route(tracks, self._gaps(starts))
        return width, self.height

    def _break(self, bands: int) -> list[int]:
        """Give each rank a band, so that the bands are about equally wide."""
        limit = sum(self.widths) / bands
        ends, total = 0, 0.0
        band: list[int] = []
        for width in self.widths:
            if band and total + width / 2 > limit * (ends + 1) and ends + 1 < bands:
                ends += 1
            band.append(ends)
            total += width
        return band

    def _columns(self, tracks: _Tracks) -> tuple[list[int], int]:
        """The left edge of each rank, and the width of the picture. A gap is named by the rank to its right."""
        margin = tracks.width(("margin", 0))
        starts, right, widest = [], 0, 0
        for rank, width in enumerate(self.widths):
            is_first = rank == 0 or self.band[rank] != self.band[rank - 1]
            if is_first:
                right = EDGE + margin + (GAP if margin else 0)
            lines = tracks.width(("gap", rank))
            beside = lines + GAP * bool(lines) if is_first else 2 * GAP + max(0, lines - STEP)
            starts.append(right + beside)
            right = starts[-1] + width
            out = tracks.width(("out", rank))
            widest = max(widest, right + (out + GAP if out else 0))
        return starts, widest + EDGE

    def _stack(self, tracks: _Tracks, starts: Sequence[int]) -> None:
        """Set corners and frames: band under band, and in a band lane under lane."""
        y = EDGE
        self.channels = []
        self.frames = []
        for band in range(1 + max(self.band)):
            self.channels.append(y)
            lines = tracks.width(("channel", band))
            y += lines + CHANNEL if lines else 0
            inside = [stage for stage, rank in enumerate(self.rank) if self.band[rank] == band]
            for lane in sorted({self.lane[stage] for stage in inside}):
                row = [stage for stage in inside if self.lane[stage] == lane]
                for stage in row:
                    self._put(stage, starts[self.rank[stage]], y)
                y += max(self.sizes[stage][1] for stage in row) + 2 * CHANNEL
        self.height = y - 2 * CHANNEL + EDGE
        self.frames.sort()

    def _put(self, stage: int, x: int, y: int) -> None:
        self.frames.append(Frame(stage, x, y, *self.sizes[stage]))
        for box in self.members[stage]:
            row, lane = self.cells[box]
            self.corners[box] = (x + SIDE + lane * (BOX[0] + LANE_GAP), y + HEAD + row * (BOX[1] + ROW_GAP))

    # -- lines ----------------------------------------------------------------------------------------------

    def _gaps(self, starts: Sequence[int]) -> Callable[[Gap], tuple[int, int]]:
        """What says where the first line of a gap runs, and in what steps the next ones follow."""

        def start(gap: Gap) -> tuple[int, int]:
            kind, number = gap
            if kind == "margin":
                return EDGE, STEP
            if kind == "gap":  # left of a rank
                return starts[number] - GAP, -STEP
            if kind == "out":  # right of a rank that ends a band
                return starts[number] + self.widths[number] + GAP, STEP
            return self.channels[number] + 2, STEP

        return start

    def _route(self, tracks: _Tracks, start: Callable[[Gap], tuple[int, int]]) -> None:
        """Make the routes; the first time, when `start` knows nothing yet, only the numbers of their tracks count."""

        def at(gap: Gap, source: int) -> int:
            first, step = start(gap)
            return first + step * tracks.take(gap, source)

        self.routes = []
        for target, below in enumerate(self.reads):
            for source in dict.fromkeys(below):
                if self.stages[source] == self.stages[target]:
                    points = self._inner_route(source, target)
                else:
                    points = self._outer_route(source, target, at)
                self.routes.append(Route(source, target, _without_doubles(points)))

    def _inner_route(self, source: int, target: int) -> list[Point]:
        """Inside a stage: down the lane of the source or of the target if it is free, else beside the source's."""
        stage, (row, lane), (to_row, to_lane) = self.stages[source], self.cells[source], self.cells[target]
        (x0, y0), (x1, y1) = self.corners[source], self.corners[target]
        start, end = (x0 + BOX[0] // 2, y0 + BOX[1]), (x1 + BOX[0] // 2, y1)
        leaves, arrives = start[1] + 7 + 4 * (lane % 2), end[1] - 9
        between = range(row + 1, to_row)
        if not any((stage, at, to_lane) in self.occupied for at in between):
            if lane == to_lane:
                return [start, end]
            return [start, (start[0], leaves), (end[0], leaves), end]
        if not any((stage, at, lane) in self.occupied for at in between):
            return [start, (start[0], arrives), (end[0], arrives), end]
        beside = x0 + BOX[0] + 6 + STEP * (row % 4)
        return [start, (start[0], leaves), (beside, leaves), (beside, arrives), (end[0], arrives), end]

    def _outer_route(self, source: int, target: int, at: Callable[[Gap, int], int]) -> list[Point]:
        """To another stage: into the gap beside the source's column, over the band if it is far, down to the target."""
        rank, to_rank = self.rank[self.stages[source]], self.rank[self.stages[target]]
        band, to_band = self.band[rank], self.band[to_rank]
        (x0, y0), (x1, y1) = self.corners[source], self.corners[target]
        start, end = (x0 + BOX[0] // 2, y0 + BOX[1]), (x1 + BOX[0] // 2 - 14, y1)
        leaves, arrives = start[1] + 7 + 4 * (self.cells[source][1] % 2), end[1] - 9
        ends_band = rank + 1 == len(self.band) or self.band[rank + 1] != band
        beside = at(("out", rank) if ends_band else ("gap", rank + 1), source)
        points = [start, (start[0], leaves), (beside, leaves)]
        if to_band == band and to_rank == rank + 1:
            return [*points, (beside, arrives), (end[0], arrives), end]
        through = band if to_band == band else band + 1
        y = at(("channel", through), source)
        points += [(beside, y)]
        if to_band > band + 1:
            margin, last = at(("margin", 0), source), at(("channel", to_band), source)
            points += [(margin, y), (margin, last)]
            y = last
        entry = at(("gap", to_rank), source)
        return [*points, (entry, y), (entry, arrives), (end[0], arrives), end]


def _without_doubles(points: Sequence[Point]) -> list[Point]:
    """The same line without points that it goes straight through."""
    kept = list(dict.fromkeys(points))
    return [
        point
        for at, point in enumerate(kept)
        if at in (0, len(kept) - 1)
        or not (kept[at - 1][0] == point[0] == kept[at + 1][0] or kept[at - 1][1] == point[1] == kept[at + 1][1])
    ]


def svg_path(points: Sequence[Point], radius: float = 6) -> str:
    """Write a route as the path of an SVG, its corners rounded.

    >>> svg_path([(0, 0), (0, 20), (30, 20)])
    'M0 0V14q0 6 6 6H30'
    """
    parts = [f"M{points[0][0]} {points[0][1]}"]
    for at, (x, y) in enumerate(points[1:], 1):
        (a, b) = points[at - 1]
        if at + 1 == len(points):
            parts.append(f"H{x}" if y == b else f"V{y}")
            continue
        (c, d) = points[at + 1]
        bend = min(radius, *((abs(q[0] - p[0]) + abs(q[1] - p[1])) / 2 for p, q in pairwise(points[at - 1 : at + 2])))
        sign = [(_sign(x - a) * bend, _sign(y - b) * bend), (_sign(c - x) * bend, _sign(d - y) * bend)]
        (u, v), (s, t) = sign
        parts.append(f"H{x - u:g}" if v == 0 else f"V{y - v:g}")
        parts.append(f"q{u:g} {v:g} {u + s:g} {v + t:g}")
    return "".join(parts)


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)
