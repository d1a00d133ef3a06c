"""The claims of the audit's page: what the paper says, what was found, and the lines that realise it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

from fcn_caffe.paper.audit.claims import NO_UNITS
from fcn_caffe.paper.report.charts import chart, number

__all__ = ["VERDICTS", "Links", "Verdict", "anchor", "badge", "claims_section", "groups"]


@dataclass(frozen=True)
class Verdict:
    """How a verdict is shown: its class in page.css, its sign, and what it means."""

    style: str
    sign: str
    means: str


VERDICTS = {
    "holds": Verdict("holds", "✓", "computed here, and as stated"),
    "differs": Verdict("differs", "≠", "computed here, and not as stated; the reason is given"),
    "not run": Verdict("notrun", "–", "what it needs is missing or was left out"),
    "unverified source": Verdict("unseen-source", "?", "measured where it can be, but nobody of us saw the source"),
}
_KINDS = {
    "static": "read from nets and solvers",
    "behavioural": "run now, on this machine",
    "data": "needs data and weights",
}


@dataclass(frozen=True)
class Links:
    """Files of the root as links. way: from the page to the root; None where there is none that lasts."""

    way: str | None

    def place(self, path: str, line: int | None) -> str:
        """A path with its line, linked where the page lies in the root."""
        told = f"<code>{escape(path)}{'' if line is None else f':{line}'}</code>"
        return told if self.way is None or line is None else f'<a href="{escape(self.way + quote(path))}">{told}</a>'


def anchor(id: str) -> str:
    """The id of a claim's element."""
    return f"claim-{quote(id, safe='')}"


def badge(verdict: str) -> str:
    """A verdict as a sign, a word and a colour."""
    known = VERDICTS[verdict]
    return f'<span class="badge {known.style}"><span aria-hidden="true">{known.sign}</span> {escape(verdict)}</span>'


def groups(claims: Iterable[dict[str, Any]]) -> list[tuple[str, list[tuple[str, list[dict[str, Any]]]]]]:
    """Claims by source, then by place, both in the order in which they first come."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for claim in claims:
        found.setdefault(claim["source"], {}).setdefault(claim["where"], []).append(claim)
    return [(source, list(places.items())) for source, places in found.items()]


def claims_section(claims: list[dict[str, Any]], links: Links) -> str:
    """All claims, by paper, then by table or section."""
    parts = []
    for at, (source, places) in enumerate(groups(claims)):
        inner = []
        for place, (where, members) in enumerate(places):
            heading = f"where-{at}-{place}"
            articles = "".join(_claim(one, links) for one in members)
            inner.append(
                f'<section class="where" aria-labelledby="{heading}"><h3 id="{heading}">{escape(_named(where))}</h3>'
                f"{articles}</section>"
            )
        parts.append(
            f'<section class="paper" aria-labelledby="from-{at}"><h2 id="from-{at}">{escape(source)}</h2>'
            f"{''.join(inner)}</section>"
        )
    return f'<div id="claims" tabindex="-1">{"".join(parts)}<p id="no-match" hidden>No claim matches.</p></div>'


def _named(where: str) -> str:
    return f"Section {where}" if where[:1].isdigit() else where


def _claim(claim: dict[str, Any], links: Links) -> str:
    known = VERDICTS[claim["verdict"]]
    kind = claim["kind"]
    unit = "" if claim["unit"] in NO_UNITS else f" <small>{escape(claim['unit'])}</small>"
    title = f"title-{anchor(claim['id'])}"
    return (
        f'<article class="claim {known.style}" id="{anchor(claim["id"])}" aria-labelledby="{title}" '
        f'data-verdict="{escape(claim["verdict"])}" data-kind="{escape(kind)}" data-source="{escape(claim["source"])}">'
        f'<header><h4 id="{title}">{escape(claim["quantity"])}</h4>{badge(claim["verdict"])}</header>'
        f'<p class="tags"><code>{escape(claim["id"])}</code><span>{escape(kind) or "no check"}'
        f"{f': {_KINDS[kind]}' if kind in _KINDS else ''}</span></p>"
        f'<dl class="sides"><div><dt>{_says(claim)}</dt><dd class="value">{escape(claim["value"])}{unit}</dd></div>'
        f"<div><dt>Found here</dt><dd>{_found(claim)}</dd></div></dl>{_where(claim, links)}"
        f"<details open><summary>Evidence<span> {escape(_inside(claim))}</span></summary>{_evidence(claim, links)}"
        "</details></article>"
    )


def _says(claim: dict[str, Any]) -> str:
    return "The release says" if claim["source"] == "released model" else "The paper says"


def _found(claim: dict[str, Any]) -> str:
    """One line of what came out: the verdict of the measuring, and its numbers or the reason."""
    found = claim["found"]
    asked = [row for row in claim["rows"] if row["holds"] is not None]
    lead = ""
    if claim["verdict"] != found:  # unverified: what the measuring says by itself
        lead = f"<p>Measured: {badge(found)}</p>" if found in VERDICTS else f"<p>{escape(str(found))}</p>"
    if claim["missing"]:  # how to get it is told below
        items = "".join(f"<li>{escape(_first_sentence(one))}</li>" for one in claim["missing"])
        return f"{lead}<p>No verdict; what is missing:</p><ul>{items}</ul>"
    if claim["reason"]:
        kept = sum(row["holds"] for row in asked)
        others = f"<p>{kept} of {len(asked)} numbers are as wanted.</p>" if kept else ""
        return f'{lead}<p class="reason">{escape(claim["reason"])}</p>{others}'
    first = asked[:3]
    items = "".join(f"<li>{escape(row['what'])}: <b>{escape(number(row['value']))}</b></li>" for row in first)
    more = f"<li>and {len(asked) - 3} more, all as wanted</li>" if len(asked) > 3 else ""
    return f"{lead}<ul>{items}{more}</ul>" if items else f"{lead}<p>Nothing was measured.</p>"


def _first_sentence(text: str) -> str:
    """The text up to its first full stop or semicolon, or as much as fits in two lines."""
    first = re.split(r"(?<=[^.\s]{2})[.;](?:\s|$)", text, maxsplit=1)[0]
    return first if len(first) <= 150 else f"{first[:149].rsplit(' ', 1)[0]} …"


def _where(claim: dict[str, Any], links: Links) -> str:
    """Where a reader goes first."""
    places = [place for place in claim["realised"] if place["line"] is not None] or claim["realised"]
    if not places:
        return '<p class="first none">No place in the code was named.</p>'
    more = f" and {len(claim['realised']) - 1} more below" if len(claim["realised"]) > 1 else ""
    return f'<p class="first">Realised in {links.place(places[0]["path"], places[0]["line"])}{more}</p>'


def _inside(claim: dict[str, Any]) -> str:
    counts = (("rows", "number"), ("curves", "chart"), ("remarks", "remark"), ("realised", "place"))
    told = [f"{len(claim[key])} {word}{'' if len(claim[key]) == 1 else 's'}" for key, word in counts if claim[key]]
    return ", ".join(told)


def _evidence(claim: dict[str, Any], links: Links) -> str:
    parts = []
    if claim["missing"]:
        items = "".join(f"<li>{escape(one)}</li>" for one in claim["missing"])
        parts.append(f"<h5>What is missing</h5><ul>{items}</ul>")
    if claim["curves"]:  # before the numbers: the figure is what a reader of the paper knows
        parts.append(f'<h5>Curves</h5><div class="charts">{"".join(chart(curve) for curve in claim["curves"])}</div>')
    if claim["rows"]:
        parts.append(f"<h5>What was computed</h5>{_rows(claim)}")
    if claim["remarks"]:
        items = "".join(f"<li>{escape(one)}</li>" for one in claim["remarks"])
        parts.append(f"<h5>Remarks</h5><ul>{items}</ul>")
    if claim["realised"]:
        parts.append(f"<h5>Realised in</h5>{''.join(_place(place, links) for place in claim['realised'])}")
    parts.append(f'<p class="took">Checked in {number(round(float(claim["seconds"]), 2))} s.</p>')
    return "".join(parts)


def _rows(claim: dict[str, Any]) -> str:
    marks = {
        True: '<td class="yes"><span aria-hidden="true">✓</span> yes</td>',
        False: '<td class="no"><span aria-hidden="true">✗</span> no</td>',
    }
    rows = "".join(
        f'<tr><th scope="row">{escape(row["what"])}</th>'
        f'<td class="{_column(row["value"])}">{escape(number(row["value"]))}</td>'
        f"<td>{escape(row['wanted'])}</td>{marks.get(row['holds']) or _not_judged(row)}</tr>"
        for row in claim["rows"]
    )
    head = '<th scope="col">Measured</th><th scope="col" class="number">Value</th><th scope="col">Wanted</th>'
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="Numbers of {escape(claim["id"])}">'
        f'<table class="rows"><thead><tr>{head}<th scope="col">As wanted</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _not_judged(row: dict[str, Any]) -> str:
    return f'<td class="told">{"not judged" if row["wanted"] else "only told"}</td>'


def _column(value: Any) -> str:
    """Numbers stand below each other; a value in many words is read from the left."""
    return "long" if len(number(value)) > 24 else "number"


def _place(place: dict[str, Any], links: Links) -> str:
    caption = f"{links.place(place['path'], place['line'])} <span>{escape(str(place['what']))}</span>"
    if not place["excerpt"]:
        return f'<figure class="place-of"><figcaption>{caption}</figcaption></figure>'
    lines = "".join(
        f'<{"mark" if at == place["line"] else "span"} class="line"><b>{at}</b>{escape(text)}\n'
        f"</{'mark' if at == place['line'] else 'span'}>"
        for at, text in place["excerpt"]
    )
    label = escape(f"{place['path']}, line {place['line']}")
    return (
        f'<figure class="place-of"><figcaption>{caption}</figcaption>'
        f'<pre tabindex="0" role="region" aria-label="{label}"><code>{lines}</code></pre></figure>'
    )
