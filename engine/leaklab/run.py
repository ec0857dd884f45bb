"""A whole run, or the short one: which tests in which order, progress while it works, the table at the end.

    probes        every kind of probe in every state
    attacks       by neighbours, by the network, by users of the machine
    flows         connections that were open before
    faults        of the process, the machine, the firewall, the network
    transitions   ten thousand, at random

The whole takes about a quarter of an hour, the short one under a minute: the states' probes, and one or two of each of
the other parts.
"""

from __future__ import annotations

import fnmatch
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from engine.leaklab import attacks, cells, faults, flows, matrix, transitions
from engine.leaklab.arena import Arena, Condition
from engine.leaklab.cells import Test
from engine.leaklab.result import Cell, Table, Verdict

CONDITIONS = (
    Condition("connecting"),
    Condition("connected"),
    Condition("error"),
    Condition("lockdown"),
    Condition("connecting", lan=True),
    Condition("connected", lan=True),
    Condition("error", lan=True),
    Condition("lockdown", lan=True),
    Condition("connected", dns="public"),
    Condition("connected", dns="private"),
    Condition("connecting", api=True),
    Condition("connected", api=True),
    Condition("error", api=True),
    Condition("lockdown", api=True),
    Condition("connecting", bridge=True),
    Condition("connected", bridge=True),
    Condition("boot"),
    Condition("killed"),
)
TESTS: tuple[Test, ...] = (*attacks.TESTS, *flows.TESTS, *faults.TESTS)

_SHORT_CONDITIONS = (
    Condition("connecting"),
    Condition("connected"),
    Condition("error"),
    Condition("lockdown"),
    Condition("connected", lan=True),
)
SHORT = {
    "rogue DHCP routes (TunnelVision)": ("disconnected", "connected"),
    "forged packets to the tunnel's address (CVE-2019-14899)": ("disconnected", "connected +LAN"),
    "flows of before the connect": ("connected",),
    "SIGKILL, then started again": ("connected",),
    "nft flush ruleset": ("connected",),
    "our routes deleted": ("connected",),
}
_SHORT_TRANSITIONS = 100


@dataclass(frozen=True)
class Options:
    """What to run. `only`: patterns of test or group names; empty: all. `count`: of transitions."""

    driver: str = "daemon"
    firewall: bool = True
    only: tuple[str, ...] = ()
    short: bool = False
    count: int = transitions.COUNT
    seed: int = transitions.SEED


def names() -> list[tuple[str, str, str]]:
    """Every test: its group, its name, its states."""
    listed = [(matrix.GROUP, matrix.NAME, ", ".join(condition.name for condition in CONDITIONS))]
    listed += [(test.group, test.name, ", ".join(condition.name for condition in test.states)) for test in TESTS]
    listed += [(transitions.GROUP, name, "at random") for name, _ in transitions.WALKS]
    return listed


def chosen(options: Options) -> list[str]:
    """The names of the tests that these options choose."""
    return [name for group, name, _ in names() if _chosen(options, group, name)]


def run(options: Options, version: str, tell: Callable[[str], None]) -> Table:
    """Run the tests; `tell` is told of the progress, a line at a time."""
    mode = "firewall" if options.firewall else "vpn-service"
    table = Table(options.driver, mode, version, os.uname().release, time.time())
    begin = time.monotonic()
    with Arena(options.driver, options.firewall, lambda line: tell(f"      {line}")) as arena:
        for number, cell in enumerate(_cells(arena, options), 1):
            table.cells.append(cell)
            if cell.group != matrix.GROUP or cell.verdict in (Verdict.FAILED, Verdict.VOID):
                tell(f"{time.monotonic() - begin:5.0f} s {number:5}  {cell.test}, {cell.state}: {cell.text}")
                if cell.verdict in (Verdict.FAILED, Verdict.VOID):
                    for line in (cell.void,) if cell.void else cell.evidence:
                        tell(f"               {line}")
    table.seconds = time.monotonic() - begin
    return table


def _cells(arena: Arena, options: Options) -> Iterator[Cell]:
    if _chosen(options, matrix.GROUP, matrix.NAME):
        yield from _matrix(arena, _SHORT_CONDITIONS if options.short else CONDITIONS)
    for test in TESTS:
        if not _chosen(options, test.group, test.name):
            continue
        wanted = SHORT.get(test.name, ()) if options.short and not options.only else None
        for condition in test.states:
            if wanted is None or condition.name in wanted:
                yield cells.run(arena, test, condition)
    for name, everything in transitions.WALKS:
        if _chosen(options, transitions.GROUP, name):
            count = _SHORT_TRANSITIONS if options.short else options.count
            yield transitions.walk(arena, name, count // len(transitions.WALKS), options.seed, everything)


def _matrix(arena: Arena, conditions: Sequence[Condition]) -> Iterator[Cell]:
    rounds = matrix.Matrix(arena)
    arena.begin()
    yield from rounds.control()
    for condition in conditions:
        if not arena.driver.can_reach(condition.state, api=condition.api, bridge=condition.bridge):
            continue
        arena.progress(f"{matrix.NAME}, {condition.name}")
        arena.begin()
        arena.reach(condition)
        yield from rounds.round(condition)
        if left := arena.leave():
            yield Cell(matrix.GROUP, "left behind", condition.name, lost=len(left), evidence=tuple(left[:5]))
            arena.rebuild()
            arena.begin()


def _chosen(options: Options, group: str, name: str) -> bool:
    if not options.only:
        return True
    return any(fnmatch.fnmatch(word, pattern) for pattern in options.only for word in (group, name))
