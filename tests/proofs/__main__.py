"""`python -m tests.proofs`: every policy, every property, every mutant; prints what was proven and in what time.

`--sample N`: every Nth policy of the grid. `--mutants`: each mutant with the packet that gives it away. Exit code 1:
something could not be proven, or a mutant went unseen.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby
from multiprocessing import get_context

from engine.policy import Platform
from tests.proofs.mutants import MUTANTS
from tests.proofs.policies import Case, corners, grid
from tests.proofs.run import Report, prove

CORNERS = 100
PARTS = 6


def cases(platform: Platform, sample: int) -> Iterator[Case]:
    """The policies of a platform: the grid with both sets of placeholders (a tenth of it with the second)."""
    yield from list(grid(platform))[::sample]
    yield from list(grid(platform, 1))[:: 10 * sample]
    yield from list(corners(platform, CORNERS))[::sample]


def _prove(work: tuple[Platform, int, int]) -> tuple[Report, list[str]]:
    """One part of a platform's policies: neighbours in the grid stay together, since they share questions."""
    platform, part, sample = work
    mine = list(cases(platform, sample))
    size = -(-len(mine) // PARTS)
    report = prove(mine[part * size : (part + 1) * size])
    texts = [f"{example.case.name}\n  {example}" for example in report.found]
    report.found.clear()
    return report, texts


def _hunt(number: int) -> tuple[str, str, str | None]:
    mutant = MUTANTS[number]
    example = mutant.hunt()
    return mutant.enforcer.name, mutant.what, None if example is None else str(example)


def main() -> int:
    """Prove everything; 0 if all of it held."""
    arguments = argparse.ArgumentParser(prog="python -m tests.proofs", description=__doc__)
    arguments.add_argument("--sample", type=int, default=1, metavar="N")
    arguments.add_argument("--mutants", action="store_true")
    options = arguments.parse_args()
    began = time.monotonic()
    total, failures, unseen, packets = Report(), [], [], []
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 8), mp_context=get_context("spawn")) as workers:
        work = [(platform, part, options.sample) for platform in Platform for part in range(PARTS)]
        hunts = workers.map(_hunt, range(len(MUTANTS)), chunksize=8)
        for platform, results in groupby(zip(work, workers.map(_prove, work), strict=True), key=lambda it: it[0][0]):
            here = Report()
            for _, (report, texts) in results:
                here.add(report)
                failures += texts
            total.add(here)
            print(f"{platform:8} {_line(here)}", flush=True)
        for enforcer, hunted in groupby(hunts, key=lambda it: it[0]):
            found = list(hunted)
            packets += [f"{name}, {what}:\n    {packet}" for name, what, packet in found if packet]
            unseen += [f"{name}, {what}" for name, what, packet in found if packet is None]
            print(f"{enforcer:10} {sum(it[2] is not None for it in found)} of {len(found)} mutants caught", flush=True)
    if options.mutants:
        print("\n".join(packets))
    for text in failures:
        print(f"NOT SO: {text}")
    for text in unseen:
        print(f"UNSEEN: {text}")
    print(f"{_line(total)}; {len(packets)} of {len(MUTANTS)} mutants caught; {time.monotonic() - began:.0f} s")
    return 1 if failures or unseen else 0


def _line(report: Report) -> str:
    count = report.counts
    return (
        f"{count['policies']} policies, {count['comparisons']} comparisons, {count['properties']} properties, "
        f"{count['relations']} relations ({count['questions']} questions to z3)"
    )


if __name__ == "__main__":
    sys.exit(main())
