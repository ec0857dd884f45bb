"""Thousands of random transitions, with everything flooding: nothing out of place, and nothing lost that is permitted.

Two walks, each a cell. In both the VPN is always required, so that not even a disconnect opens anything:

* `to and fro`: reconnects, another server, resolvers, MTU, LAN and API, within Connecting and Connected. What goes into
  the tunnel is permitted all the time (CON-3, CTD-1, DSC-1), so no rule but DNS's may have refused a single packet.
* `everything`: also Error and Disconnected. In each Connected that is waited for, a burst goes through the tunnel: not
  one packet of it may have met a rule that refuses.

A transition is a status that the product tells and that differs from the one before in its state or its policy. What a
change permits is permitted from its request on, what it forbids is forbidden from its answer on.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from engine.leaklab import world
from engine.leaklab.arena import API, DISCONNECTED, Arena, Condition
from engine.leaklab.cells import SHOWN
from engine.leaklab.drivers import Daemon, Told, as_told
from engine.leaklab.flood import describe
from engine.leaklab.probes import Probe, tcp, udp
from engine.leaklab.result import Cell
from engine.management import schema
from engine.management.client import Client, ManagementError

GROUP = "transitions"
COUNT = 10_000
SEED = 20240817
_CHECKED_EVERY = 40  # commands
_JUDGED_EVERY = 5.0  # seconds
_DNS_RULES = {"DNS-1", "DNS-2", "DNS-3", "CTD-2"}
_TORN = "fragment-unknown"  # the reason that a status gives
_PERMITTING = {"CTD-1", "CON-3", "CTD-3", "CON-1", "LO-1", "DIS-1", *_DNS_RULES}


class _Watcher:
    """Counts the transitions that the product tells, on a connection of its own."""

    def __init__(self, daemon: Daemon) -> None:
        self.count = 0
        self.states: set[str] = set()
        self.unenforced: list[str] = []
        self._daemon = daemon
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="transitions", daemon=True)
        self._ready = threading.Event()
        self._thread.start()
        self._ready.wait(10)

    def _run(self) -> None:
        with suppress(ManagementError, OSError), self._daemon.client() as client:
            before = client.call("subscribe", schema.Subscribe(), schema.Status)
            self._ready.set()
            for event in client.events():
                if self._stop.is_set():
                    return
                if isinstance(event, schema.StatusEvent):
                    now = event.status
                    self.count += (now.state, now.policy) != (before.state, before.policy)
                    self.states.add(now.state)
                    if not now.enforced:
                        self.unenforced.append(f"{now.state}: not enforced: {now.failure}")
                    before = now

    def close(self) -> None:
        """Count no more; it ends with the next event."""
        self._stop.set()


class _Walk:
    """One walk: the condition as it is, and what may be asked for."""

    def __init__(self, arena: Arena, client: Client, rng: random.Random) -> None:
        self.arena, self.client, self.rng = arena, client, rng
        self.condition = Condition("connected")
        self.lost: list[str] = []
        self.sent = self.out = 0
        self.evidence: list[str] = []

    def ask(self, after: Condition, method: str, params: Any = None, result: Any = schema.Status) -> None:
        """Ask for a change: what it permits is permitted from now on, what it forbids is forbidden after the answer."""
        self.arena.expect(after)
        self.client.call(method, params, result)
        self.condition = after
        self.arena.watch(after)

    def set(self, after: Condition | None = None, **changes: Any) -> None:
        """Change settings."""
        self.ask(after or self.condition, "settings.set", schema.SettingsPatch(**changes), schema.Settings)

    def within(self) -> list[Callable[[], None]]:
        """What leaves it in Connecting or Connected."""
        now = self.condition
        choice = self.rng.choice(("one", "two"))
        return [
            lambda: self.ask(now, "reconnect"),
            lambda: self.set(choice=schema.TunnelChoice(choice)),
            lambda: self.set(replace(now, lan=not now.lan), allow_lan=not now.lan),
            lambda: self.set(replace(now, dns="private"), dns=(world.LAN_HOST4,)),
            lambda: self.set(replace(now, dns="public"), dns=(world.RESOLVER4,)),
            lambda: self.set(replace(now, dns=""), dns=()),
            lambda: self.set(mtu=self.rng.choice((None, 1280, 1380))),
            lambda: self.set(replace(now, api=not now.api), api=None if now.api else f"{API[0]}:{API[1]}/tcp"),
        ]

    def beyond(self) -> list[Callable[[], None]]:
        """What brings it elsewhere."""
        now = self.condition
        if now.state == "connected":
            return [
                lambda: self.ask(replace(now, state="error"), "debug.block", schema.Detail("transitions")),
                lambda: self.ask(replace(now, state="lockdown"), "disconnect"),
            ]
        again = lambda: self.ask(replace(now, state="connected"), "connect")  # noqa: E731
        if now.state == "error":
            return [again, lambda: self.ask(replace(now, state="lockdown"), "disconnect")]
        return [again]

    def judge(self) -> None:
        """Judge what was seen and heard so far."""
        sightings, heard = self.arena.judge()
        self.out += len(sightings) + len(heard)
        lines = [f"{s.line()}{f' ({describe(s.letter)})' if s.letter else ''}" for s in sightings]
        lines += [f"heard from {h.source}" for h in heard]
        self.evidence += lines[: SHOWN - len(self.evidence)]

    def told(self) -> Told:
        """What the product says."""
        return as_told(self.client.call("status", None, schema.Status))

    def check(self, answered: bool = False) -> None:
        """In Connected, a burst through the tunnel meets no rule that refuses; without a flood it is answered, too."""
        overflow = self.overflow()
        self.set(choice=schema.TunnelChoice("one"))
        if self.condition.state != "connected":
            self.ask(replace(self.condition, state="connected"), "connect")
        deadline = time.monotonic() + 15
        while (before := self.told()).state != "connected" and time.monotonic() < deadline:
            time.sleep(0.005)
        burst = [Probe("UDP", "", udp(world.WEB4))] * 20 + [Probe("TCP", "", tcp(world.WEB4))] * 5
        attempts, _, _ = self.arena.probe(burst)
        after = self.told()
        self.sent += len(burst)
        if (before.state, after.state) != ("connected", "connected"):
            self.lost.append(f"not connected when waited for: {before.state}, {after.state}")
            return
        self.refused(before, after, overflow, "while connected")
        unanswered = sum(attempt.source is None for attempt in attempts)
        if answered and unanswered:
            self.lost.append(f"{unanswered} of {len(burst)} packets of a burst were not answered while connected")

    def refused(self, before: Told, after: Told, overflow: int, when: str) -> None:
        """What met a rule that refuses between two statuses is lost; `overflow`: as it was at the first.

        The flood is faster than the TUN is read. A datagram whose first fragment found no room in the TUN's queue is
        torn already: that its other fragments are blocked is not the policy's doing.
        """
        torn = after.drops.get(_TORN, 0) - before.drops.get(_TORN, 0) if self.overflow() > overflow else 0
        for rule, count in refused(before, after).items():
            if rule != "P-0" or count > torn:
                self.lost.append(f"{count} packets met {rule} {when}")

    def overflow(self) -> int:
        """Packets for which the TUN's queue had no room so far."""
        (link,) = json.loads(self.arena.lab["device"].ip(f"-s -json link show dev {self.arena.driver.iface}"))
        return int(link["stats64"]["tx"]["dropped"])


def refused(before: Told, after: Told) -> dict[str, int]:
    """Packets that rules other than those that permit, and DNS's, have judged between two statuses."""
    grown = {rule: count - before.verdicts.get(rule, 0) for rule, count in after.verdicts.items()}
    return {rule: count for rule, count in grown.items() if count > 0 and rule not in _PERMITTING}


def walk(arena: Arena, name: str, count: int, seed: int, everything: bool) -> Cell:
    """One walk of at least `count` transitions, as a cell."""
    began = time.monotonic()
    daemon = arena.driver
    if not isinstance(daemon, Daemon):
        return Cell(GROUP, name, "", skipped="`molehill run` takes no changes")
    arena.begin()
    arena.watch(DISCONNECTED)
    if blind := arena.flood():
        return Cell(GROUP, name, "", void=f"not seen where nothing is enforced: {blind}")
    daemon.settings(always_require_vpn=True)
    arena.reach(Condition("connected"))
    watcher = _Watcher(daemon)
    rng = random.Random(seed)
    commands = 0
    with daemon.client() as client:
        walker = _Walk(arena, client, rng)
        begin, overflow = walker.told(), walker.overflow()
        judged = time.monotonic()
        arena.flood_at_full_rate(True)
        while watcher.count < count:
            doing = walker.within() if walker.condition.state == "connected" else []
            if everything:
                doing += walker.beyond() * 2
            rng.choice(doing)()
            commands += 1
            if rng.random() < 0.3:
                time.sleep(rng.choice((0.0, 0.001, 0.01, 0.03)))
            if everything and commands % _CHECKED_EVERY == 0:
                walker.check()
            if time.monotonic() - judged > _JUDGED_EVERY:
                arena.flood_at_full_rate(False)  # it waits for the witnesses, which are slower
                walker.judge()
                arena.flood_at_full_rate(True)
                judged = time.monotonic()
                arena.progress(f"{watcher.count} of {count} transitions")
        arena.flood_at_full_rate(False)
        if not everything:
            walker.refused(begin, walker.told(), overflow, "between Connecting and Connected")
        walker.check(answered=True)
    watcher.close()
    walker.judge()
    missed = arena.lost()
    arena.leave()
    evidence = [
        *walker.lost[:2], *watcher.unenforced[:2],
        *walker.evidence,
    ]  # fmt: skip
    arena.progress(f"{watcher.count} transitions by {commands} commands, through {', '.join(sorted(watcher.states))}")
    return Cell(
        GROUP, name, f"{count:,} transitions", out=walker.out,
        lost=len(walker.lost) + len(watcher.unenforced), sent=arena.flooded() + walker.sent,
        void=f"the witnesses missed {missed} frames" if missed else "", evidence=tuple(evidence[:SHOWN]),
        seconds=time.monotonic() - began,
    )  # fmt: skip


WALKS = (("to and fro", False), ("everything", True))


def run(arena: Arena, count: int = COUNT, seed: int = SEED) -> list[Cell]:
    """Both walks, half of the transitions each."""
    return [walk(arena, name, count // len(WALKS), seed, everything) for name, everything in WALKS]
