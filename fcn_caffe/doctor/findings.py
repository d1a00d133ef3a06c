"""The result of an examination: findings of three levels, and the checks that could not be made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["ERROR", "NOTE", "WARNING", "Examination", "Finding"]

ERROR, WARNING, NOTE = "error", "warning", "note"
LEVELS = (ERROR, WARNING, NOTE)


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        level: "error", "warning" or "note".
        check: the check that found it.
        where: a layer or a file.
        problem: what is wrong.
        advice: what to do about it.
    """

    level: str
    check: str
    where: str
    problem: str
    advice: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.problem} {self.advice}"


@dataclass
class Examination:
    """All findings on one file. `not_checked` lists the checks that could not be made, and why."""

    subject: str
    findings: list[Finding] = field(default_factory=list)
    not_checked: list[tuple[str, str]] = field(default_factory=list)

    def add(self, findings: Iterable[Finding]) -> None:
        """Add findings; a finding that is there already is not repeated."""
        self.findings += [finding for finding in dict.fromkeys(findings) if finding not in self.findings]

    def skip(self, check: str, why: object) -> None:
        """Note that a check could not be made."""
        if (check, str(why)) not in self.not_checked:
            self.not_checked.append((check, str(why)))

    def count(self, level: str) -> int:
        """Count the findings of a level."""
        return sum(finding.level == level for finding in self.findings)

    def record(self) -> dict[str, Any]:
        """Return the examination as JSON holds it."""
        return {
            "subject": self.subject,
            **{f"{level}s": self.count(level) for level in LEVELS},
            "findings": [asdict(finding) for finding in self._sorted()],
            "not_checked": [{"check": check, "why": why} for check, why in self.not_checked],
        }

    def _sorted(self) -> list[Finding]:
        return sorted(self.findings, key=lambda finding: LEVELS.index(finding.level))

    def __str__(self) -> str:
        lines = [str(finding) for finding in self._sorted()]
        lines += [f"not checked: {check}: {why}" for check, why in self.not_checked]
        totals = ", ".join(f"{self.count(level)} {level}{'' if self.count(level) == 1 else 's'}" for level in LEVELS)
        return "\n".join([*lines, f"{self.subject}: {totals}"])
