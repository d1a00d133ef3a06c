"""The record of an audit as one HTML page that needs nothing else: no network, no fonts, no pictures beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from fcn_caffe.host.charts import chart
from fcn_caffe.paper.report.claims import VERDICTS, Verdict, by_source
from fcn_caffe.paper.report.net_drawing import draw_net
from fcn_caffe.paper.report.templates import package_text, write_document

__all__ = ["write_curves", "write_page"]

_TOTALS = {
    "parameters": "Parameters",
    "multiply_adds": "Multiply-adds",
    "convolutions": "Convolutions",
    "depth": "Deepest chain",
    "max_stride": "Max stride",
    "receptive_field": "Receptive field",
}


class _Choice(NamedTuple):
    """A value to filter by: how many claims have it, and how it is shown if it is a verdict."""

    value: str
    claims: int
    verdict: Verdict | None


def write_page(record: dict[str, Any], folder: str | os.PathLike[str] | None = None) -> str:
    """Write the page of an audit's record, from the record alone.

    Args:
        record: what `audit` returns.
        folder: where the page will lie, the audited root by default. Files of the root become links if it lies there.
    """
    claims = record["claims"]
    return write_document(
        "audit.html",
        script=package_text("page.js"),
        record=record,
        root_url=_url_of_root(record, folder),
        moment=_moment(str(record["made"])),
        duration=_duration(float(record["seconds"])),
        verdicts=VERDICTS,
        verdict_counts={name: sum(claim["verdict"] == name for claim in claims) for name in VERDICTS},
        sources=by_source(claims),
        filters={
            "verdict": _choices("verdict", VERDICTS, claims),
            "kind": _choices("kind", dict.fromkeys(claim["kind"] for claim in claims), claims),
            "source": _choices("source", dict.fromkeys(claim["source"] for claim in claims), claims),
        },
        totals=_TOTALS,
        chart=chart,
        draw_net=draw_net,
    )


def write_curves(result: dict[str, Any]) -> str:
    """Write the page of one experiment's curves, from `Result.record()`."""
    return write_document("curves.html", script=Markup(), result=result, chart=chart)


def _url_of_root(record: dict[str, Any], folder: str | os.PathLike[str] | None) -> str | None:
    """The relative address of the root, seen from the page; None for a page outside of it, whose links would break."""
    if folder is None:
        return ""
    root, place = Path(record["root"]).resolve(), Path(folder).resolve()
    if not place.is_relative_to(root):
        return None
    path = Path(os.path.relpath(root, place)).as_posix()
    return "" if path == "." else f"{path}/"


def _moment(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text):%d %B %Y, %H:%M} UTC"
    except ValueError:
        return text


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _choices(field: str, values: Iterable[str], claims: list[dict[str, Any]]) -> list[tuple[int, _Choice]]:
    """The values that some claim has, each with its number among all."""
    counts = {value: sum(claim[field] == value for claim in claims) for value in values}
    return [
        (at, _Choice(value, count, VERDICTS[value] if field == "verdict" else None))
        for at, (value, count) in enumerate(counts.items())
        if count
    ]
