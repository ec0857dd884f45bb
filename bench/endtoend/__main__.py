"""End to end: engines side by side, in interleaved rounds. `make bench`, `make bench BENCH="--short"`.

    python -m bench.endtoend [--engine NAME=COMMAND ...] [--only MEASUREMENT ...] [--rounds 5] [--seconds 3] [--short]
                             [--json FILE] [--chart FILE.svg] [--markdown FILE.md]

A machine's speed drifts with its neighbours, so the engines take turns within each round, and what counts is the ratio
of medians in one run. CPU seconds of the engine processes, both ends and all threads, hardly swing at all.

COMMAND is a command line with {iface}, for any program with wireguard-go's command line and control socket. Without
--engine: wireguard-go (Debian's); molehill with the policy of Connected in force (filtered.py), with the cipher kernel
it chooses here and with each simpler one forced; molehill letting everything pass; and the no-crypto build
(bench/nocrypto_build.py), the ceiling of our own datapath. The bare wire comes first in any case.

The exit code is 0 whatever was measured: a busy machine is no failure. `bench.endtoend.compare` judges.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.endtoend.chart import chart
from bench.endtoend.measurements import MEASUREMENTS, OF_ENGINES, ON_PLAIN_WIRE, PLAIN, measure
from bench.endtoend.report import (
    BARE,
    DEBIAN,
    FORCED,
    MOLEHILL,
    NO_CIPHER,
    PASS_ALL,
    Results,
    full_tables,
    readme_table,
    target_table,
)
from bench.endtoend.scene import BARE as NO_ENGINE
from bench.endtoend.scene import scene
from bench.nocrypto_build import ROOT, build
from engine.leaklab.rights import need_namespaces
from native.aead import kernel
from tests.netns.engines import MOLEHILL as PASS_ALL_COMMAND
from tests.netns.engines import WIREGUARD_GO

SHORT = ("first", "tcp1", "udp-small", "udp-paced", "ping", "ping-loaded", "memory", "plain-tcp1")
_LADDER = ("avx512", "avx2", "libcrypto")


def engines(given: Sequence[str], *, short: bool) -> dict[str, str]:
    """Name -> command line. Short: one of ours, the no-crypto build and wireguard-go."""
    named: dict[str, str] = {BARE: NO_ENGINE}
    if given:
        return named | dict(item.split("=", 1) for item in given)
    filtered = f"{sys.executable} -P -m bench.endtoend.filtered -f {{iface}}"
    ours = f"env PYTHONPATH={ROOT} {filtered}"
    named |= {DEBIAN: WIREGUARD_GO, MOLEHILL: ours}
    if not short:
        named[PASS_ALL] = PASS_ALL_COMMAND
        for simpler in _LADDER[_LADDER.index(kernel()) + 1 :]:
            named[FORCED + simpler] = f"env PYTHONPATH={ROOT} MOLEHILL_AEAD={simpler} {filtered}"
    named[NO_CIPHER] = f"env PYTHONPATH={build()}:{ROOT} {filtered}"
    return named


def machine(rounds: int, seconds: float) -> dict[str, object]:
    """Where and how, for the head of the report."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    model = found[1] if found else platform.machine()
    return {
        "cpus": os.cpu_count(), "model": model, "linux": platform.release(), "cipher": kernel(),
        "load": round(os.getloadavg()[0], 1), "rounds": rounds, "seconds": seconds,
    }  # fmt: skip


def one_turn(results: Results, name: str, command: str, wanted: Sequence[str], seconds: float) -> None:
    """One engine's turn in one round: a scene for each kind of wire that something is to be measured on."""
    for plain in (False, True):
        these = [m for m in wanted if m.startswith(PLAIN) == plain and not (command == NO_ENGINE and m in OF_ENGINES)]
        if not these:
            continue
        with scene(command, offload=not plain) as made:
            for measurement in these:
                results.add(name, measurement, measure(measurement, made, seconds))


def run(commands: dict[str, str], wanted: Sequence[str], rounds: int, seconds: float) -> Results:
    """All rounds; progress goes to standard error."""
    results = Results(machine(rounds, seconds))
    begin, turns = time.monotonic(), 0
    for number in range(1, rounds + 1):
        for name, command in commands.items():
            took = time.monotonic() - begin
            left = f", {took / turns * (rounds * len(commands) - turns):.0f} s to go" if turns else ""
            print(f"round {number} of {rounds}: {name}{left}", file=sys.stderr, flush=True)
            one_turn(results, name, command, wanted, seconds)
            turns += 1
    return results


def head(results: Results) -> str:
    """One paragraph: what the numbers are of."""
    m = results.machine
    busy = " The machine was busy with other work: trust ratios and CPU alone." if m["load"] > 1 else ""
    return (
        f"{m['rounds']} interleaved rounds of {m['seconds']:g} s a measurement, veth MTU 1500, tunnel MTU 1420, "
        f"Linux {m['linux']}, {m['cpus']} CPUs ({m['model']}), cipher {m['cipher']}, load {m['load']} before the first "
        f"round; median (min..max). molehill judges every packet by the policy of Connected.{busy}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="bench.endtoend", description="Engines side by side, end to end.")
    parser.add_argument("--engine", action="append", default=[], metavar="NAME=COMMAND", help="COMMAND has {iface}")
    names = (*MEASUREMENTS, *ON_PLAIN_WIRE)
    parser.add_argument("--only", action="append", default=[], choices=names, metavar="MEASUREMENT", help=str(names))
    parser.add_argument("--short", action="store_true", help="3 rounds of 1 s, fewer engines and measurements")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of each measurement")
    out = ROOT / "build" / "bench"
    parser.add_argument("--json", type=Path, default=out / "endtoend.json", metavar="FILE", help="every number")
    parser.add_argument("--chart", type=Path, default=out / "endtoend.svg", metavar="FILE")
    parser.add_argument("--markdown", type=Path, default=out / "endtoend.md", metavar="FILE", help="the tables")
    options = parser.parse_args(arguments)
    for item in options.engine:
        if "=" not in item or "{iface}" not in item:
            parser.error(f"--engine {item}: want NAME=COMMAND with {{iface}} in COMMAND")
    need_namespaces()
    wanted = options.only or (SHORT if options.short else names)
    rounds = options.rounds or (3 if options.short else 5)
    seconds = options.seconds or (1 if options.short else 3)
    results = run(engines(options.engine, short=options.short), wanted, rounds, seconds)
    sections = [head(results), readme_table(results), target_table(results), full_tables(results)]
    for path, text in (
        (options.json, json.dumps(asdict(results), indent=1) + "\n"),
        (options.markdown, "\n\n".join(sections) + "\n"),
        (options.chart, chart(results)),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    print("\n\n".join(sections))
    print(f"\nwritten: {options.json}, {options.markdown}, {options.chart}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
