"""Where an engine is measured: two namespaces joined by a veth of MTU 1500, the engine on both ends, tunnel MTU 1420.

A wire without offloads is the same veth with tso, gso, gro and tx-udp-segmentation off. Without a command the scene
is the bare wire. Order of events: namespaces -> both engines -> `wg setconf` -> addresses -> one ping, whose time holds
the handshake -> the measurements -> everything is removed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.netns.engines import Engine, Keys, config
from tests.netns.lab import Lab, Namespace, pair

MTU = 1420
BARE = ""
"""The command that stands for no engine at all."""

_HERE, _THERE = "10.9.0.1", "10.9.0.2"
_TICKS_PER_SECOND = 100  # of /proc/stat (USER_HZ)


@dataclass
class Spent:
    """What a measurement took: wall seconds, and CPU seconds of the engines (both ends) and of the whole machine."""

    seconds: float = 0.0
    engines: float = 0.0
    machine: float = 0.0


class Scene:
    """A pair of namespaces that reach each other by `target` (the address of b, seen from a)."""

    def __init__(self, lab: Lab, ends: tuple[Engine, ...], target: str) -> None:
        self.lab, self.ends, self.target = lab, ends, target
        self.first_reply_ms = 0.0

    @property
    def a(self) -> Namespace:
        """Where the traffic starts."""
        return self.lab["a"]

    @property
    def b(self) -> Namespace:
        """Where it goes."""
        return self.lab["b"]

    @property
    def peak_rss(self) -> int:
        """Bytes, of the larger end."""
        return max((end.cost().peak_rss for end in self.ends), default=0)

    @contextmanager
    def spent(self) -> Iterator[Spent]:
        """Fills in at the end of the block what was used within."""
        spent = Spent()
        begin, engines, machine = time.monotonic(), self._engines(), _machine()
        yield spent
        spent.seconds = time.monotonic() - begin
        spent.engines, spent.machine = self._engines() - engines, _machine() - machine

    def _engines(self) -> float:
        return sum(end.cost().cpu for end in self.ends)


def _machine() -> float:
    """Seconds of CPU that all processors together have worked."""
    user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq) / _TICKS_PER_SECOND


@contextmanager
def scene(command: str, *, offload: bool = True) -> Iterator[Scene]:
    """The engine that `command` (with {iface}) starts, on both ends of the wire; BARE: none."""
    with pair() as lab:
        if not offload:
            for role in "ab":
                features = ("tso", "gso", "gro", "tx-udp-segmentation")
                lab[role].sh("ethtool", "-K", "eth0", *(word for name in features for word in (name, "off")))
        ends = () if command == BARE else _engines(lab, command)
        made = Scene(lab, ends, _THERE if ends else "172.16.9.2")
        said = made.a.sh("ping", "-n", "-c", "1", "-W", "5", made.target)
        made.first_reply_ms = ping_times(said)[0]
        yield made


def _engines(lab: Lab, command: str) -> tuple[Engine, Engine]:
    """Both ends, configured; nothing has been sent yet."""
    ours, theirs = Keys.new(), Keys.new()
    a, b = (Engine(lab, lab[role], f"mh{lab.tag}{role}", command) for role in "ab")
    a.setconf(config(ours, theirs.public, f"{_THERE}/32", endpoint="172.16.9.2:51820"))
    b.setconf(config(theirs, ours.public, f"{_HERE}/32", port=51820))
    lab["a"].sh("ping", "-n", "-c", "1", "-W", "5", "172.16.9.2")  # the neighbours' hardware addresses are known
    b.up([f"{_THERE}/24"], mtu=MTU)
    a.up([f"{_HERE}/24"], mtu=MTU)
    time.sleep(0.5)  # what a new interface says by itself (MLD, router solicitations) has been said
    return a, b


def ping_times(output: str) -> list[float]:
    """The round trips in ms that `ping` has printed."""
    return [float(found) for found in re.findall(r"time=([\d.]+) ms", output)]
