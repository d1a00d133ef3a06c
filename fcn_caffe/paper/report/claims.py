"""What the page's templates ask about a claim: its verdict's sign, its group, its evidence in few words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fcn_caffe.host.numbers import number
from fcn_caffe.paper.audit.claims import NO_UNITS

__all__ = ["VERDICTS", "ClaimView", "Verdict", "anchor", "by_source"]


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
_SHOWN = 3  # numbers that stand beside the claim; the others wait below


def anchor(id: str) -> str:
    """The id of a claim's element."""
    return f"claim-{quote(id, safe='')}"


@dataclass(frozen=True)
class ClaimView:
    """A claim of a record, with what the template `claim.html` derives from it."""

    record: dict[str, Any]

    @property
    def anchor(self) -> str:
        """The id of the claim's element."""
        return anchor(self.record["id"])

    @property
    def verdict(self) -> Verdict:
        """How its verdict is shown."""
        return VERDICTS[self.record["verdict"]]

    @property
    def kind(self) -> str:
        """Its kind and what that means."""
        kind = self.record["kind"]
        return f"{kind}: {_KINDS[kind]}" if kind in _KINDS else kind or "no check"

    @property
    def unit(self) -> str:
        """The unit of its value; empty where the column says what sort of claim it is."""
        return "" if self.record["unit"] in NO_UNITS else self.record["unit"]

    @property
    def who_says(self) -> str:
        """The heading of its value."""
        says = {"released model": "The release says", "this project": "We say"}
        return says.get(self.record["source"], "The paper says")

    @property
    def judged(self) -> list[dict[str, Any]]:
        """Its rows that ask for a value."""
        return [row for row in self.record["rows"] if row["holds"] is not None]

    @property
    def first_rows(self) -> list[dict[str, Any]]:
        """The rows that stand beside the claim."""
        return self.judged[:_SHOWN]

    @property
    def missing_in_short(self) -> list[str]:
        """What is missing, each in its first sentence."""
        return [_first_sentence(text) for text in self.record["missing"]]

    @property
    def first_place(self) -> dict[str, Any] | None:
        """The place that a reader should see first."""
        places = self.record["realised"]
        return next((place for place in places if place["line"] is not None), places[0] if places else None)

    @property
    def contents(self) -> str:
        """What its evidence consists of: "3 numbers, 1 chart"."""
        words = {"rows": "number", "curves": "chart", "remarks": "remark", "realised": "place"}
        counts = ((len(self.record[key]), word) for key, word in words.items())
        return ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count)

    @property
    def seconds(self) -> str:
        """How long its check took."""
        return number(round(float(self.record["seconds"]), 2))


def by_source(claims: Iterable[dict[str, Any]]) -> list[tuple[str, list[tuple[str, list[ClaimView]]]]]:
    """Group claims by source, then by place, both in the order in which they first come."""
    sources: dict[str, dict[str, list[ClaimView]]] = {}
    for claim in claims:
        sources.setdefault(claim["source"], {}).setdefault(claim["where"], []).append(ClaimView(claim))
    return [(source, list(places.items())) for source, places in sources.items()]


def _first_sentence(text: str) -> str:
    """The text up to its first full stop or semicolon, or as much as fits in two lines."""
    first = re.split(r"(?<=[^.\s]{2})[.;](?:\s|$)", text, maxsplit=1)[0]
    return first if len(first) <= 150 else f"{first[:149].rsplit(' ', 1)[0]} …"
