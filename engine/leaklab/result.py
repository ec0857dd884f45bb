"""What the lab has found: a cell for each test in each state, and the table they make.

A cell counts packets out of place: seen where the state permits none (`out`), or permitted and lost (`lost`). A cell
whose control failed is void: it proves nothing, and the run is no success. A cell that is not zero is explained by an
id of docs/known-issues.md, or it is a failure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What a cell says."""

    ZERO = "zero"
    KNOWN = "known"
    FAILED = "failed"
    VOID = "void"
    SKIPPED = "not run"
    CONTROL = "control"


@dataclass(frozen=True)
class Cell:
    """One test in one state. `sent`: how many attempts were made; `evidence`: a line for each of the first packets."""

    group: str
    test: str
    state: str
    out: int = 0
    lost: int = 0
    sent: int = 0
    known: str = ""
    void: str = ""
    skipped: str = ""  # why this machine or this driver cannot
    control: bool = False  # nothing is enforced here: seen is what it has to be
    evidence: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """What it says."""
        if self.void:
            return Verdict.VOID
        if self.skipped:
            return Verdict.SKIPPED
        if self.control:
            return Verdict.CONTROL
        if not self.out and not self.lost:
            return Verdict.ZERO
        return Verdict.KNOWN if self.known else Verdict.FAILED

    @property
    def text(self) -> str:
        """For a table: a number of packets, with what explains it."""
        match self.verdict:
            case Verdict.VOID:
                return "void"
            case Verdict.SKIPPED:
                return "-"
            case Verdict.CONTROL:
                return "seen"
        words = [str(self.out), *([f"lost {self.lost}"] if self.lost else [])]
        return " ".join([*words, *([self.known] if self.verdict is Verdict.KNOWN else [])])


@dataclass
class Table:
    """All cells of a run, and how it was run."""

    driver: str
    mode: str
    version: str
    kernel: str
    began: float = 0.0  # seconds since 1970
    seconds: float = 0.0
    cells: list[Cell] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Every cell zero or explained, and at least one judged."""
        judged = [cell for cell in self.cells if cell.verdict not in (Verdict.CONTROL, Verdict.SKIPPED)]
        return bool(judged) and not any(cell.verdict in (Verdict.FAILED, Verdict.VOID) for cell in judged)

    @property
    def groups(self) -> list[str]:
        """The parts of the table, in order."""
        return list(dict.fromkeys(cell.group for cell in self.cells))

    def part(self, group: str) -> tuple[list[str], list[str], dict[tuple[str, str], Cell]]:
        """Tests, states and cells of one part."""
        cells = [cell for cell in self.cells if cell.group == group]
        tests = list(dict.fromkeys(cell.test for cell in cells))
        states = list(dict.fromkeys(cell.state for cell in cells))
        return tests, states, {(cell.test, cell.state): cell for cell in cells}

    def count(self, *verdicts: Verdict) -> int:
        """How many cells say this."""
        return sum(cell.verdict in verdicts for cell in self.cells)

    def summary(self) -> str:
        """One sentence."""
        judged = len(self.cells) - self.count(Verdict.CONTROL, Verdict.SKIPPED)
        sent = sum(cell.sent for cell in self.cells)
        words = [
            f"{judged} cells, {sent:,} packets tried: {self.count(Verdict.ZERO)} zero",
            f"{self.count(Verdict.KNOWN)} explained",
            f"{self.count(Verdict.FAILED)} failed",
            f"{self.count(Verdict.VOID)} void",
            f"{self.count(Verdict.SKIPPED)} not run",
        ]
        return ", ".join(words) + f"; {self.seconds:.0f} s"


def known_ids(cells: Iterable[Cell]) -> list[str]:
    """The ids that explain cells, each once."""
    return sorted({cell.known for cell in cells if cell.verdict is Verdict.KNOWN})


def as_data(table: Table) -> dict[str, Any]:
    """The table as plain data."""
    return {
        "version": 1,
        "molehill": table.version,
        "driver": table.driver,
        "mode": table.mode,
        "kernel": table.kernel,
        "began": table.began,
        "seconds": round(table.seconds, 1),
        "good": table.good,
        "summary": table.summary(),
        "cells": [
            {
                "group": cell.group, "test": cell.test, "state": cell.state, "verdict": cell.verdict.value,
                "out": cell.out, "lost": cell.lost, "sent": cell.sent, "known": cell.known, "void": cell.void,
                "skipped": cell.skipped, "evidence": list(cell.evidence), "seconds": round(cell.seconds, 2),
            }
            for cell in table.cells
        ],
    }  # fmt: skip
