"""`python -m tests.proofs`: every policy, every property, every mutant; prints what was proven and in what time.

`--sample N`: every Nth policy of the grid. `--mutants`: each mutant with the packet that gives it away. Exit code 1:
something could not be proven, or a mutant went unseen.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby
from multiprocessing import get_context

from engine.policy import Platform
from tests.proofs.mutants import MUTANTS, hunt
from tests.proofs.run import PARTS, Report, prove_part


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
        hunts = workers.map(hunt, range(len(MUTANTS)), chunksize=8)
        for platform, results in groupby(
            zip(work, workers.map(prove_part, work), strict=True), key=lambda it: it[0][0]
        ):
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
