"""A regression check on one machine: `make bench-compare FILE=saved.json [BENCH="--short"]`.

    python -m bench.endtoend.compare SAVED.json [--new NEW.json] [--tolerance 0.15] [options of bench.endtoend]

SAVED.json is what an earlier `make bench` wrote; without --new the bench runs now. A machine is not equally fast on two
days, so what is compared is each number's ratio to a yardstick of the same run that does not change with our code:
wireguard-go, and the bare wire for round trips. Memory and loss are compared as they are.

Worse by more than the tolerance, and the two ranges of ratios (min..max of the rounds) do not overlap: a regression,
and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.endtoend import __main__ as endtoend
from bench.endtoend.measurements import QUANTITIES, title
from bench.endtoend.report import BARE, DEBIAN, MOLEHILL, Results

_ABSOLUTE = {"rss": 2.0, "idle": 0.5, "loss": 0.5}
"""Compared without a yardstick; a difference smaller than this is none."""


@dataclass(frozen=True)
class Change:
    """One number then and now, as multiples of the yardstick (or as it is)."""

    engine: str
    measurement: str
    quantity: str
    saved: float
    now: float
    worse: bool

    def __str__(self) -> str:
        q = QUANTITIES[self.quantity]
        by = f"{self.now / self.saved - 1:+.0%}" if self.saved else ""
        what = f"{self.engine:22} {title(self.measurement):44} {q.title:32}"
        return f"{what} {self.saved:9.3f} {self.now:9.3f} {by:>6}{'  WORSE' if self.worse else ''}"


def _ratios(results: Results, engine: str, measurement: str, quantity: str) -> list[float]:
    """The engine's values, each divided by the yardstick's median; empty: one of them was not measured."""
    values = results.get(engine, measurement, quantity)
    if quantity in _ABSOLUTE:
        return values
    yardstick = results.median(BARE if quantity.startswith("ping") else DEBIAN, measurement, quantity)
    return [value / yardstick for value in values] if yardstick else []


def changes(saved: Results, now: Results, tolerance: float) -> Iterator[Change]:
    """Every number of our engines that both runs have."""
    for engine in now.values:
        if not engine.startswith(MOLEHILL):
            continue
        for measurement in now.measurements:
            for quantity, q in QUANTITIES.items():
                before = _ratios(saved, engine, measurement, quantity)
                after = _ratios(now, engine, measurement, quantity)
                if not before or not after:
                    continue
                a, b = sorted(before)[len(before) // 2], sorted(after)[len(after) // 2]
                if q.more_is_better:
                    worse = b < a * (1 - tolerance) and max(after) < min(before)
                else:
                    least = _ABSOLUTE.get(quantity, 0.0)
                    worse = b > a * (1 + tolerance) + least and min(after) > max(before)
                yield Change(engine, measurement, quantity, a, b, worse)


def _read(path: Path) -> Results:
    try:
        return Results(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise SystemExit(f"{path} is not a file that `make bench` wrote: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, judge."""
    parser = argparse.ArgumentParser(prog="bench.endtoend.compare", description="Is it slower than it was?")
    parser.add_argument("saved", type=Path)
    parser.add_argument("--new", type=Path, help="compare with this file instead of measuring now")
    parser.add_argument("--tolerance", type=float, default=0.15)
    options, passed_on = parser.parse_known_args(arguments)
    saved = _read(options.saved)
    if options.new is None:
        options.new = endtoend.ROOT / "build" / "bench" / "compared.json"
        endtoend.main([*passed_on, "--json", str(options.new)])
    now = _read(options.new)
    for what in ("model", "cipher"):
        if saved.machine[what] != now.machine[what]:
            print(f"not the same machine: {saved.machine[what]}, now {now.machine[what]}", file=sys.stderr)
    found = list(changes(saved, now, options.tolerance))
    if not found:
        raise SystemExit(f"nothing to compare: {options.saved} and the new run share no measurement of {MOLEHILL}")
    print("\nmultiples of wireguard-go (round trips: of the bare wire; memory, loss, idle: as they are), then and now")
    print("\n".join(map(str, found)))
    worse = sum(change.worse for change in found)
    print(f"\n{len(found)} numbers compared, {worse} worse by more than {options.tolerance:.0%}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
