"""The claims that are audited: the rows of claims.tsv, and the check that answers each."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources

from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.paper.audit.locate import Code, place_of
from fcn_caffe.paper.result import Result

__all__ = [
    "BEHAVIOURAL",
    "CHECKS",
    "DATA",
    "NO_UNITS",
    "STATIC",
    "UNVERIFIED",
    "Check",
    "Claim",
    "check",
    "read_claims",
]

STATIC, BEHAVIOURAL, DATA = "static", "behavioural", "data"
NO_UNITS = ("identity", "rule", "setting", "trend")  # entries of the column of units that say what sort of claim it is
UNVERIFIED = "unverified"  # the status of a claim whose source nobody of us saw

Run = Callable[[AuditedFiles], Result]


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

    Attributes:
        kind: STATIC reads nets and solvers, BEHAVIOURAL runs something now, DATA needs a data set and weights.
        run: measures, and says what it wants.
        realised: the places where the claim becomes code, as `locate` takes them; first what a reader should see first.
        trains: the experiment that it trains nets for, which a quick audit leaves out.
    """

    kind: str
    run: Run
    realised: tuple[str, ...]
    trains: str = ""


CHECKS: dict[str, Check] = {}


def check(*ids: str, kind: str, realised: tuple[str | Code, ...], trains: str = "") -> Callable[[Run], Run]:
    """Register a function as the check of the claims with these ids.

    Args:
        ids: the claims.
        kind: STATIC, BEHAVIOURAL or DATA.
        realised: places of nets and solvers as texts; functions, classes and modules of the package as themselves.
        trains: as `Check` has it.

    Raises: ValueError for a claim that has a check.
    """
    places = tuple(place if isinstance(place, str) else place_of(place) for place in realised)

    def add(run: Run) -> Run:
        for id in ids:
            if id in CHECKS:
                raise ValueError(f"claim {id} has two checks")
            CHECKS[id] = Check(kind, run, places, trains)
        return run

    return add


@cache
def read_claims() -> tuple[Claim, ...]:
    """Read every claim, in the order of claims.tsv: the papers' tables and sections, then what the release says."""
    text = resources.files("fcn_caffe.paper.audit").joinpath("claims.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return tuple(Claim(**row) for row in rows)
