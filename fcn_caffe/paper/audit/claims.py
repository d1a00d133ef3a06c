"""The claims that are audited: the rows of claims.tsv, and the check that answers each."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources

from fcn_caffe.paper.audit.files import Audited
from fcn_caffe.paper.result import Result

__all__ = [
    *("BEHAVIOURAL", "CHECKS", "DATA", "NO_UNITS", "STATIC", "UNVERIFIED"),
    *("Check", "Claim", "check", "read_claims"),
]

STATIC, BEHAVIOURAL, DATA = "static", "behavioural", "data"
NO_UNITS = ("identity", "rule", "setting", "trend")  # in the column of units, but words for what is claimed
UNVERIFIED = "unverified"  # the status of a row whose source we have not seen with our own eyes

Run = Callable[[Audited], Result]


@dataclass(frozen=True)
class Claim:
    """A row of claims.tsv: what a source says, where it says it, and whether we saw it there ("seen")."""

    id: str
    source: str
    where: str
    quantity: str
    value: str
    unit: str
    status: str


@dataclass(frozen=True)
class Check:
    """How a claim is answered.

    kind: STATIC reads nets and solvers, BEHAVIOURAL runs something now, DATA needs a data set and weights.
    realised: where the claim becomes code, the first being what a reader should see first: "nets/NAME.prototxt:LAYER",
    "solvers/NAME.prototxt:FIELD", "fcn_caffe/FILE.py:FUNCTION". trains: the experiment that it trains nets for, which a
    quick audit leaves out.
    """

    kind: str
    run: Run
    realised: tuple[str, ...]
    trains: str = ""


CHECKS: dict[str, Check] = {}


def check(*ids: str, kind: str, realised: tuple[str, ...], trains: str = "") -> Callable[[Run], Run]:
    """Register a function as the check of the claims with these ids."""

    def add(run: Run) -> Run:
        for one in ids:
            if one in CHECKS:
                raise ValueError(f"claim {one} has two checks")
            CHECKS[one] = Check(kind, run, realised, trains)
        return run

    return add


@cache
def read_claims() -> tuple[Claim, ...]:
    """Every claim, in the order of claims.tsv: the papers' own tables and sections, then what the release says."""
    text = resources.files("fcn_caffe.paper.audit").joinpath("claims.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return tuple(Claim(**row) for row in rows)
