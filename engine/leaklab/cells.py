"""A cell of the tests that do something: the frame around it, the same for each.

    begin -> flood in Disconnected (the control of the witnesses) -> reach the state -> do -> judge -> leave

What the test does may add its own findings: packets out of place that no witness at the wire can see, and packets lost
that should have arrived.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.leaklab import world
from engine.leaklab.arena import DISCONNECTED, Arena, Condition, Sighting
from engine.leaklab.flood import describe
from engine.leaklab.probes import Attempt, Probe, dns, ping, tcp, udp
from engine.leaklab.result import Cell

SHOWN = 6  # lines of evidence


class Void(Exception):
    """The test cannot prove anything: why."""


class NotHere(Exception):
    """This machine, or this driver, cannot do what the test needs: why."""


@dataclass
class Findings:
    """What a test itself has found, beside the witnesses."""

    out: int = 0
    lost: int = 0
    sent: int = 0
    evidence: list[str] = field(default_factory=list)

    def leaked(self, count: int, line: str) -> None:
        """Packets out of place; none is fine."""
        if count:
            self.out += count
            self.evidence.append(line)

    def missed(self, line: str) -> None:
        """Something that should have worked did not."""
        self.lost += 1
        self.evidence.append(line)


Do = Callable[[Arena, Condition, Findings], None]


@dataclass(frozen=True)
class Test:
    """A test: `do` is called in each state, reached and watched, while everything floods.

    `before`: done in Disconnected before the state is reached. `known`: the id that explains packets out of place
    (by state if it is one of `known_in`, or in all). `lost`: the id that explains what did not work. `gap`: that of
    the VPN-service mode. `itself`: it reaches the state by itself.
    """

    group: str
    name: str
    do: Do
    states: tuple[Condition, ...]
    before: Do | None = None
    known: str = ""
    known_in: tuple[str, ...] = ()
    lost: str = ""
    gap: str = ""
    needs_daemon: bool = False
    itself: bool = False

    __test__ = False  # not pytest's


def run(arena: Arena, test: Test, condition: Condition) -> Cell:
    """One cell; whatever goes wrong makes it void, and a new world is built."""
    began = time.monotonic()
    findings = Findings()
    void, skipped, sightings, heard, tried = "", "", list[Sighting](), 0, 0
    if test.needs_daemon and not arena.driver.live:
        return Cell(test.group, test.name, condition.name, skipped=f"`molehill {arena.driver.name}` has no such thing")
    try:
        arena.begin()
        arena.watch(DISCONNECTED)
        if blind := arena.flood():
            raise Void(f"not seen where nothing is enforced: {blind}")
        if test.before is not None:
            test.before(arena, condition, findings)
        if condition != DISCONNECTED and not test.itself:
            arena.reach(condition)
        test.do(arena, condition, findings)
        arena.unwatch()
        sightings, reached = arena.judge()
        heard = len(reached)
        findings.evidence += [f"heard from {h.source} at {h.address}" for h in reached[:2]]
        if missed := arena.lost():
            raise Void(f"the witnesses missed {missed} frames")
        if left := arena.leave():
            findings.missed(f"left behind after the disconnect: {left[0]}" + (" ..." if left[1:] else ""))
        tried = arena.flooded()
    except Void as error:
        void = str(error)
    except NotHere as error:
        skipped = str(error)
    except (RuntimeError, TimeoutError, OSError, ValueError) as error:
        void = f"{type(error).__name__}: {error}"
    if void or skipped or findings.lost:
        arena.rebuild()
    seen = [f"{s.line()}{f' ({describe(s.letter)})' if s.letter else ''}" for s in sightings]
    known = test.known if not test.known_in or condition.state in test.known_in else ""
    if not arena.firewall and test.gap:
        known = test.gap
    if findings.lost and not (findings.out or sightings or heard):
        known = test.lost
    return Cell(
        test.group, test.name, condition.name, out=len(sightings) + heard + findings.out, lost=findings.lost,
        sent=tried + findings.sent, known=known, void=void, skipped=skipped, control=condition == DISCONNECTED,
        evidence=tuple([*findings.evidence, *seen][:SHOWN]), seconds=time.monotonic() - began,
    )  # fmt: skip


def inside(arena: Arena, findings: Findings, when: str) -> None:
    """What Connected permits has to work: TCP, UDP and ping to the internet, and DNS, both through the tunnel."""
    probes = [
        Probe("TCP", "", tcp(world.WEB4)),
        Probe("TCP, IPv6", "", tcp(world.WEB6)),
        Probe("UDP", "", udp(world.WEB4)),
        Probe("ping", "", ping(world.WEB6)),
        Probe("DNS", "", dns(world.GATEWAY4)),
    ]
    attempts, _, _ = arena.probe(probes)
    findings.sent += len(probes)
    for probe, attempt in zip(probes, attempts, strict=True):
        if not _through_the_tunnel(attempt):
            findings.missed(f"{when}: {probe.name} does not work inside the tunnel ({attempt.error or attempt.source})")


def _through_the_tunnel(attempt: Attempt) -> bool:
    return attempt.source is not None and attempt.source in ("", world.TUNNEL4, world.TUNNEL6)
