"""Runs the proofs over policies, and counts. A question that was answered before (same artefact, same policy as far
as the specification speaks of it) is not asked again; the policies it stands for are all counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from engine.policy import Platform
from tests.proofs import safety
from tests.proofs.policies import Case, corners, grid
from tests.proofs.prove import ENFORCERS, Counterexample, compare, question

RANDOM = 100  # policies of each platform, beside the named corners
PARTS = 6  # of a platform's policies, for as many workers as there are


@dataclass
class Report:
    """What was proven, and what was not."""

    counts: Counter[str] = field(default_factory=Counter)
    found: list[Counterexample] = field(default_factory=list)

    def add(self, other: Report) -> None:
        self.counts += other.counts
        self.found += other.found


def prove(cases: Iterable[Case], *, give_up_after: int = 5) -> Report:
    """Every enforcer of every policy: equal to the specification, and the safety properties."""
    report = Report()
    seen: set[tuple[object, ...]] = set()
    related: set[tuple[object, ...]] = set()
    for case in cases:
        report.counts["policies"] += 1
        for enforcer in ENFORCERS[case.policy.platform]:
            artefact = enforcer.make(case.policy)
            asked = question(case, enforcer, artefact)
            report.counts["comparisons"] += 1
            if asked not in seen:
                seen.add(asked)
                report.counts["questions"] += 1
                _note(report, compare(case, enforcer, artefact))
                if enforcer.name != "reference":
                    how_many, example = safety.check(case, enforcer, artefact)
                    report.counts["properties"] += how_many
                    report.counts["questions"] += bool(how_many)
                    _note(report, example)
            if enforcer.name == "reference":
                continue
            for claim, other, kind in safety.relations(case):
                report.counts["relations"] += 1
                pair = (claim, asked, question(Case(other, case.symbols), enforcer, enforcer.make(other)))
                if pair not in related and not (kind == "equal" and pair[1][:2] == pair[2][:2]):
                    related.add(pair)
                    report.counts["questions"] += 1
                    _note(report, safety.relate(case, enforcer, artefact, other, kind, claim))
        if len(report.found) >= give_up_after:
            break
    return report


def _note(report: Report, example: Counterexample | None) -> None:
    if example is not None:
        report.found.append(example)


def cases(platform: Platform, sample: int) -> Iterator[Case]:
    """The policies of a platform, every `sample`th: of the grid, a twentieth of it with other values, the corners."""
    yield from list(grid(platform))[::sample]
    yield from list(grid(platform, 1))[:: 20 * sample]
    yield from list(corners(platform, RANDOM))[::sample]


def prove_part(work: tuple[Platform, int, int]) -> tuple[Report, list[str]]:
    """(platform, part, sample): what was proven, and what was not, in words. For a worker process.

    Neighbours in the grid stay together, since they share questions.
    """
    platform, part, sample = work
    mine = list(cases(platform, sample))
    size = -(-len(mine) // PARTS)
    report = prove(mine[part * size : (part + 1) * size])
    texts = [f"{example.case.name}\n  {example}" for example in report.found]
    report.found.clear()
    return report, texts
