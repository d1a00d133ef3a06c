"""The audit: run the check of every claim and collect one record, of which the table and the page are made."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import torch

from fcn_caffe.errors import DataError, FcnCaffeError
from fcn_caffe.host.program import tool_call
from fcn_caffe.host.text import nearest_names
from fcn_caffe.paper.audit.checks import behaviour, release, scores, table1_and_section4
from fcn_caffe.paper.audit.claims import BEHAVIOURAL, CHECKS, DATA, STATIC, UNVERIFIED, Claim, read_claims
from fcn_caffe.paper.audit.differences import find_differences
from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.paper.audit.locate import locate
from fcn_caffe.paper.audit.net_tables import net_tables
from fcn_caffe.paper.result import DIFFERS, HOLDS, NOT_RUN, Result

__all__ = ["UNVERIFIED_SOURCE", "VERDICTS", "Entry", "audit", "choose_claims"]

UNVERIFIED_SOURCE = "unverified source"  # the verdict of a claim whose source nobody of us saw
VERDICTS = (HOLDS, DIFFERS, NOT_RUN, UNVERIFIED_SOURCE)
KINDS = (STATIC, BEHAVIOURAL, DATA)
Entry = dict[str, Any]  # of JSON
OnClaim = Callable[[Claim, "Entry | None"], None]

# Each registers its checks by being imported.
_REGISTERED = (behaviour, scores, release, table1_and_section4)


def choose_claims(wanted: Sequence[str]) -> list[Claim]:
    """Choose claims by id, by what ids begin with, or by kind.

    Args:
        wanted: the words; none chooses all claims.

    Returns: the claims, in the order of claims.tsv.
    Raises: DataError for a word that means no claim, with the ids that are near.
    """
    claims = read_claims()
    ids = [claim.id for claim in claims]
    chosen: set[str] = set()
    for word in wanted:
        meant = {id for id in ids if id.startswith(word)} if word else set()
        if word in KINDS:
            meant = {id for id in ids if id in CHECKS and CHECKS[id].kind == word}
        if not meant:
            near = nearest_names(word, [*ids, *KINDS], 3, 0.4)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"Kinds: {', '.join(KINDS)}."
            raise DataError(f"no claim is called {word!r}, begins so, or is of such a kind. {hint}")
        chosen |= meant
    return [claim for claim in claims if not wanted or claim.id in chosen]


def audit(audited: AuditedFiles, *, only: Collection[str] | None = None, on_claim: OnClaim | None = None) -> Entry:
    """Run the checks of claims and return their record, as JSON holds it.

    Relative paths of solvers and nets start from the audited root. Ctrl-C ends the audit: the record then is
    "interrupted", and the claims not reached are not run.

    Args:
        audited: the files.
        only: the ids of the claims; by default all.
        on_claim: is called with a claim and None before its check, with the claim and its entry after it.
    """
    began = time.monotonic()
    record: Entry = {"version": _version(), "made": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    record["machine"] = _machine()
    entries: list[Entry] = []
    nets: list[Any] = []
    differences: list[Any] = []
    interrupted = False
    known: dict[int, tuple[Result, float]] = {}
    for claim in (claim for claim in read_claims() if only is None or claim.id in only):
        try:
            if interrupted:
                raise KeyboardInterrupt
            if on_claim is not None:
                on_claim(claim, None)
            entry = _answer(claim, audited, known)
            if on_claim is not None:
                on_claim(claim, entry)
        except KeyboardInterrupt:
            interrupted = True
            entry = _entry(claim, audited, _left_out(claim, "interrupted: run the audit again"), 0.0)
        entries.append(entry)
    try:
        if not interrupted:
            nets, differences = net_tables(audited), _differences(audited)
    except KeyboardInterrupt:
        interrupted = True
    record |= {"root": str(audited.root), "quick": audited.quick, "seed": audited.seed, "scale": audited.scale}
    record["seconds"] = round(time.monotonic() - began, 3)
    if interrupted:
        record["interrupted"] = True
    record["counts"] = {verdict: sum(entry["verdict"] == verdict for entry in entries) for verdict in VERDICTS}
    return cast(Entry, _for_json({**record, "claims": entries, "nets": nets, "differences": differences}))


# -- one claim ---------------------------------------------------------------------------------------------------------


def _answer(claim: Claim, audited: AuditedFiles, known: dict[int, tuple[Result, float]]) -> Entry:
    """Run a claim's check, or take its result of another claim."""
    check = CHECKS.get(claim.id)
    if check is None:
        return _entry(claim, audited, _left_out(claim, "no check answers this claim"), 0.0)
    if check.trains and audited.quick:
        why = f"training: left out by --quick; {tool_call('experiment')} {check.trains} runs it"
        return _entry(claim, audited, _left_out(claim, why), 0.0)
    key = id(check.run)
    if key in known:
        return _entry(claim, audited, known[key][0], 0.0)
    began, broken = time.monotonic(), ""
    try:
        result = check.run(audited)
    except FcnCaffeError as error:
        result, broken = Result(claim.id, claim.where, claim.quantity), str(error)
    except Exception as error:  # one check's bug must not lose what the others found
        result = Result(claim.id, claim.where, claim.quantity)
        broken = f"the check itself failed: {type(error).__name__}: {error}"
    seconds = time.monotonic() - began
    if not broken:
        known[key] = result, seconds
    return _entry(claim, audited, result, seconds, broken)


def _left_out(claim: Claim, why: str) -> Result:
    return Result(claim.id, claim.where, claim.quantity, missing=[why])


def _entry(claim: Claim, audited: AuditedFiles, result: Result, seconds: float, broken: str = "") -> Entry:
    """A claim with the result of its check. broken: the error that ended the check."""
    check = CHECKS.get(claim.id)
    verdict = DIFFERS if broken else result.verdict
    record = result.record()
    evidence = {key: record[key] for key in ("rows", "remarks", "missing", "curves")}
    realised = [asdict(locate(place, audited.root)) for place in (check.realised if check else ())]
    return {
        **asdict(claim),
        "kind": check.kind if check else "",
        "verdict": UNVERIFIED_SOURCE if claim.status == UNVERIFIED else verdict,
        "found": verdict,
        "reason": broken or _reason(claim, result, verdict),
        **evidence,
        "seconds": round(seconds, 3),
        "realised": realised,
    }


def _reason(claim: Claim, result: Result, verdict: str) -> str:
    """Why a claim differs, with both values and the check's remarks, or why it was not run."""
    if verdict == NOT_RUN:
        return "; ".join(text.rstrip(".") for text in result.missing)
    if verdict == HOLDS:
        return ""
    failed = [row for row in result.rows if row.holds is False]
    if not failed:
        return "nothing was measured that answers the claim."
    rows = []
    for row in failed:
        value = row.value if isinstance(row.value, str) else f"{row.value:.6g}"
        rows.append(f"{row.what}: {value}" + (f", wanted {row.wanted}" if row.wanted else ""))
    # The reason that the experiment names; all its remarks where it names none.
    reasons = [remark for remark in result.remarks if remark.startswith("our reason: ")] or result.remarks
    return " ".join([f"{claim.source} says {claim.value}. Found {'; '.join(rows)}.", *map(_sentence, reasons)])


def _sentence(remark: str) -> str:
    return f"{remark.removesuffix('.')}."


# -- the rest of the record --------------------------------------------------------------------------------------------


def _differences(audited: AuditedFiles) -> list[Any]:
    """Where the released nets and the text of CVPR 2015 differ, as far as the files can be read."""
    try:
        return [asdict(difference) for difference in find_differences(audited)]
    except FcnCaffeError:
        return []  # the claim that reads the broken file says so


def _version() -> str:
    try:
        return importlib.metadata.version("fcn-caffe")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _machine() -> Entry:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": _processor(),
    }


def _processor() -> str:
    """The processor's name, which Python knows on few systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _for_json(value: object) -> object:
    """A value as JSON can hold it: infinite and NaN become words, and points with them are left out."""
    if isinstance(value, dict):
        return {str(key): _for_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        points = [part for part in value if not (isinstance(part, tuple) and any(map(_is_odd, part)))]
        return [_for_json(part) for part in points]
    return str(value) if _is_odd(value) or isinstance(value, Path) else value


def _is_odd(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
