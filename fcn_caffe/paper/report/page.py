"""The record of an audit as one HTML page that needs nothing else: no network, no fonts, no pictures beside it."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable
from datetime import datetime
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from fcn_caffe.paper.report.charts import chart, number
from fcn_caffe.paper.report.claims import VERDICTS, Links, anchor, badge, claims_section, groups
from fcn_caffe.paper.report.nets import differences_section, nets_section

__all__ = ["write_curves", "write_page"]

PAPER = "Fully Convolutional Networks for Semantic Segmentation"


def write_page(record: dict[str, Any], folder: str | os.PathLike[str] | None = None) -> str:
    """The page of a record, made from it alone.

    folder: where the page will lie; files of the audited root are linked from there where it lies in the root. By
    default it is the root itself.
    """
    links = Links(_way_to_root(record, folder))
    claims = record["claims"]
    body = [
        '<a class="skip" href="#claims">Skip to the claims</a>',
        _head(record),
        "<main>",
        _overview(claims),
        _filters(claims),
        claims_section(claims, links),
        nets_section(record["nets"], links),
        differences_section(record["differences"], links),
        "</main>",
        _foot(record),
    ]
    return _document("Is this the paper? An audit", body)


def write_curves(result: dict[str, Any]) -> str:
    """The page of one experiment's curves, from the result's record."""
    charts = "".join(chart(curve) for curve in result["curves"])
    says = f"<p>{escape(result['says'])}</p>"
    head = f"<h1>{escape(result['name'])}</h1>{says}"
    return _document(f"{result['name']}: curves", [f'<main>{head}<div class="charts">{charts}</div></main>'], "")


def _document(title: str, body: Iterable[str], script: str | None = None) -> str:
    style, script = _part("page.css"), _part("page.js") if script is None else script
    # Nothing but these two texts may act on the page, whatever a file that was audited says.
    policy = f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; base-uri 'none'"
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}; form-action \'none\'">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>{style}</style>\n</head>\n<body>",
            *body,
            f"<script>{script}</script>\n</body>\n</html>\n",
        ]
    )


def _part(name: str) -> str:
    return resources.files("fcn_caffe.paper").joinpath(name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _way_to_root(record: dict[str, Any], folder: str | os.PathLike[str] | None) -> str | None:
    """The relative way from the page to the root; None where the page lies outside of it."""
    if folder is None:
        return ""
    root, place = Path(record["root"]).resolve(), Path(folder).resolve()
    if not place.is_relative_to(root):
        return None
    way = Path(os.path.relpath(root, place)).as_posix()
    return "" if way == "." else f"{way}/"


def _head(record: dict[str, Any]) -> str:
    machine = record["machine"]
    made = escape(str(record["made"]))
    run = "quick: what trains was left out" if record["quick"] else "whole"
    if record.get("interrupted"):
        run += "; interrupted before its end"
    minutes, seconds = divmod(round(float(record["seconds"])), 60)
    took = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    threads = f"{machine['threads']} thread{'' if machine['threads'] == 1 else 's'}"
    facts = [
        ("Audited", f"<code>{escape(str(record['root']))}</code>"),
        ("When", f'<time datetime="{made}">{escape(_moment(str(record["made"])))}</time>'),
        ("Run", f"{escape(run)}; seed {number(record['seed'])}; {took}"),
        ("Machine", escape(f"{machine['processor']}, {threads}")),
        ("Software", escape(f"fcn-caffe {record['version']}, PyTorch {machine['torch']}, Python {machine['python']}")),
    ]
    told = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    total = len(record["claims"])
    return (
        f'<header class="top"><p class="kicker">An audit of fcn-caffe</p><h1>Is this the paper?</h1>'
        f'<p class="lead">{total} claims of <cite>{PAPER}</cite> by Long, Shelhamer and Darrell, and of what they '
        "released, each held against the nets, the solvers and the code that should realise it. Every verdict follows "
        f'from a computation that is shown.</p><dl class="facts">{told}</dl></header>'
    )


def _moment(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text):%d %B %Y, %H:%M} UTC"
    except ValueError:
        return text


def _overview(claims: list[dict[str, Any]]) -> str:
    """Every claim as a mark, by source and place, each leading to it."""
    rows = []
    for source, places in groups(claims):
        cells = []
        for where, members in places:
            marks = "".join(
                f'<li><a class="dot {VERDICTS[one["verdict"]].style}" href="#{anchor(one["id"])}" '
                f'title="{escape(one["id"])}: {escape(one["verdict"])}"><span aria-hidden="true">'
                f'{VERDICTS[one["verdict"]].sign}</span><span class="unseen">{escape(one["id"])}: '
                f"{escape(one['verdict'])}</span></a></li>"
                for one in members
            )
            cells.append(f'<div class="place"><h4>{escape(where)}</h4><ul>{marks}</ul></div>')
        rows.append(f'<div class="source"><h3>{escape(source)}</h3><div class="places">{"".join(cells)}</div></div>')
    counts = "".join(
        f'<li class="{verdict.style}"><strong>{sum(one["verdict"] == name for one in claims)}</strong> '
        f"{badge(name)}<span>{verdict.means}</span></li>"
        for name, verdict in VERDICTS.items()
    )
    return (
        '<section class="overview" aria-labelledby="at-a-glance"><h2 id="at-a-glance">At a glance</h2>'
        f'<ul class="counts">{counts}</ul><div class="map">{"".join(rows)}</div></section>'
    )


def _filters(claims: list[dict[str, Any]]) -> str:
    """The form that narrows the claims; only a script can, which shows it."""
    kinds = dict.fromkeys(one["kind"] for one in claims)
    sources = dict.fromkeys(one["source"] for one in claims)
    fields = "".join(
        (
            _choices("verdict", VERDICTS, claims),
            _choices("kind", kinds, claims),
            _choices("source", sources, claims),
        )
    )
    return (
        '<form class="filters" id="filters" role="search" aria-label="Filter the claims" hidden>'
        '<div class="find"><label for="words">Search</label><input id="words" name="q" type="search" '
        'placeholder="id, layer, file, words" autocomplete="off" spellcheck="false">'
        '<output id="shown" for="words" aria-live="polite"></output>'
        '<button type="button" id="all-details" aria-pressed="false">Open all</button>'
        f'<button type="reset" id="clear">Clear</button></div>{fields}</form>'
    )


def _choices(field: str, values: Iterable[str], claims: list[dict[str, Any]]) -> str:
    items = []
    for index, value in enumerate(values):
        count = sum(one[field] == value for one in claims)
        if count:
            style = f" {VERDICTS[value].style}" if field == "verdict" else ""
            sign = f'<span aria-hidden="true">{VERDICTS[value].sign}</span> ' if field == "verdict" else ""
            items.append(
                f'<span class="pill{style}"><input type="checkbox" id="{field}-{index}" name="{field}" '
                f'value="{escape(value)}"><label for="{field}-{index}">{sign}{escape(value) or "no check"} '
                f"<small>{count}</small></label></span>"
            )
    return f'<fieldset><legend>{field.capitalize()}</legend><div class="pills">{"".join(items)}</div></fieldset>'


def _foot(record: dict[str, Any]) -> str:
    how = " --quick" if record["quick"] else ""
    return (
        "<footer><p>Written by <code>python tools/audit.py"
        f"{how} --html</code> from its record alone. A claim of an <em>unverified source</em> is measured "
        "like the others, but nobody of us has seen where it is said.</p></footer>"
    )
