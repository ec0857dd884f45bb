"""What came out, as values: medians and ranges over the rounds, tables in Markdown, and the targets met or missed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.endtoend.measurements import QUANTITIES, title

BARE, DEBIAN = "bare wire", "wireguard-go"
MOLEHILL, PASS_ALL, NO_CIPHER = "molehill", "molehill pass-all", "molehill no cipher"
FORCED = "molehill "  # followed by the name of a cipher kernel


@dataclass
class Results:
    """Every number: engine -> measurement -> quantity -> one value a round. `machine` says where and how."""

    machine: dict[str, Any]
    values: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)

    def add(self, engine: str, measurement: str, numbers: dict[str, float]) -> None:
        """Append one round's numbers."""
        of = self.values.setdefault(engine, {}).setdefault(measurement, {})
        for quantity, value in numbers.items():
            of.setdefault(quantity, []).append(value)

    def get(self, engine: str, measurement: str, quantity: str) -> list[float]:
        """One value a round; empty: not measured."""
        return self.values.get(engine, {}).get(measurement, {}).get(quantity, [])

    def median(self, engine: str, measurement: str, quantity: str) -> float | None:
        """None: not measured."""
        values = self.get(engine, measurement, quantity)
        return statistics.median(values) if values else None

    def ratio(self, measurement: str, quantity: str, engine: str, base: str) -> float | None:
        """Of two engines' medians in this run; None: one was not measured."""
        of, to = self.median(engine, measurement, quantity), self.median(base, measurement, quantity)
        return None if of is None or not to else of / to

    @property
    def measurements(self) -> list[str]:
        """In the order in which they were taken."""
        return list(dict.fromkeys(name for taken in self.values.values() for name in taken))


def spread(values: Sequence[float], digits: int) -> str:
    """Median (min..max)."""
    if not values:
        return ""
    middle = f"{statistics.median(values):.{digits}f}"
    return f"{middle} ({min(values):.{digits}f}..{max(values):.{digits}f})" if len(values) > 1 else middle


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def full_tables(results: Results) -> str:
    """Every number of every engine, one table for each measurement."""
    parts = []
    for name in results.measurements:
        quantities = [q for q in QUANTITIES if any(results.get(engine, name, q) for engine in results.values)]
        head = ["engine", *(f"{QUANTITIES[q].title}, {QUANTITIES[q].unit}" for q in quantities)]
        rows = [
            [engine, *(spread(results.get(engine, name, q), QUANTITIES[q].digits) for q in quantities)]
            for engine in results.values
            if name in results.values[engine]
        ]
        parts.append(f"### {title(name)}\n\n{_markdown(head, rows)}")
    return "\n\n".join(parts)


_README = (
    ("tcp1", "gbits", "TCP Gbit/s"),
    ("tcp1", "cpu_gb", "CPU s/GB"),
    ("plain-tcp1", "gbits", "without offloads Gbit/s"),
    ("plain-tcp1", "cpu_gb", "CPU s/GB"),
    ("udp-small", "kpps", "64 B kpps"),
    ("udp-small", "cpu_packet", "CPU us/packet"),
    ("ping", "ping_us", "ping us"),
    ("ping-loaded", "ping_us", "ping under load us"),
    ("memory", "rss", "RSS MiB"),
)


def readme_table(results: Results) -> str:
    """The short table: one line an engine, medians; CPU is of both ends."""
    columns = [column for column in _README if column[0] in results.measurements]
    rows = []
    for engine in results.values:
        cells = [engine]
        for measurement, quantity, _ in columns:
            value = results.median(engine, measurement, quantity)
            digits = min(QUANTITIES[quantity].digits, 2)
            cells.append("" if value is None or (engine == BARE and "cpu" in quantity) else f"{value:.{digits}f}")
        rows.append(cells)
    return _markdown(["engine", *(heading for _, _, heading in columns)], rows)


@dataclass(frozen=True)
class Target:
    """A promise: what is measured, what is wanted, the value (None: not measured in this run) and whether it holds."""

    what: str
    wanted: str
    measured: str
    met: bool | None


def _target(what: str, value: float | None, limit: float, digits: int, unit: str, *, least: bool) -> Target:
    wanted = f"{'>=' if least else '<='} {limit:g}{unit}"
    if value is None:
        return Target(what, wanted, "not measured", None)
    rounded = round(value, digits)
    return Target(what, wanted, f"{value:.{digits}f}{unit}", rounded >= limit if least else rounded <= limit)


def _share_of_wire(results: Results, measurement: str) -> float | None:
    return results.ratio(measurement, "kpps", MOLEHILL, BARE)


def targets(results: Results) -> list[Target]:
    """The table of what has to be shown. Absolute figures are of the machine they were set on (Zen 4, AVX-512)."""

    def most(what: str, measurement: str, quantity: str, limit: float, engine: str = MOLEHILL) -> Target:
        q = QUANTITIES[quantity]
        value = results.median(engine, measurement, quantity)
        return _target(what, value, limit, q.digits, f" {q.unit}", least=False)

    def least(what: str, measurement: str, quantity: str, limit: float, engine: str = MOLEHILL) -> Target:
        q = QUANTITIES[quantity]
        value = results.median(engine, measurement, quantity)
        return _target(what, value, limit, q.digits, f" {q.unit}", least=True)

    def share(what: str, engine: str, base: str, limit: float) -> Target:
        return _target(what, results.ratio("tcp1", "gbits", engine, base), limit, 2, "", least=True)

    cpu_ratio = results.ratio("tcp1", "cpu_gb", MOLEHILL, DEBIAN)
    cipher = results.machine.get("cipher", "")
    chosen = {"avx512": 0.60, "avx2": 0.48, "libcrypto": 0.44}
    of_no_cipher = [share(f"TCP 1 stream, x no cipher ({cipher})", MOLEHILL, NO_CIPHER, chosen.get(cipher, 0.44))]
    for forced, limit in chosen.items():
        if FORCED + forced in results.values:
            what = f"TCP 1 stream, x no cipher ({forced} forced)"
            of_no_cipher.append(share(what, FORCED + forced, NO_CIPHER, limit))
    return [
        most("TCP 1 stream, engine CPU", "tcp1", "cpu_gb", 2.1),
        _target("TCP 1 stream, engine CPU, x wireguard-go", cpu_ratio, 0.08, 3, "", least=False),
        *of_no_cipher,
        least("no cipher, TCP 1 stream", "tcp1", "gbits", 9, NO_CIPHER),
        most("no cipher, engine CPU", "tcp1", "cpu_gb", 1.0, NO_CIPHER),
        share("filter on, x pass-all", MOLEHILL, PASS_ALL, 0.98),
        least("TCP, wire without offloads", "plain-tcp1", "gbits", 1.2),
        most("TCP, wire without offloads, engine CPU", "plain-tcp1", "cpu_gb", 8),
        least("UDP 64 B delivered", "udp-small", "kpps", 160),
        _target("UDP 64 B delivered, x bare wire", _share_of_wire(results, "udp-small"), 0.8, 2, "", least=True),
        most("UDP 64 B, engine CPU a packet", "udp-small", "cpu_packet", 6),
        most("UDP full size, paced 300 Mbit/s, loss", "udp-paced", "loss", 0.1),
        most("UDP full size, paced 300 Mbit/s, engine CPU", "udp-paced", "cpu_gb", 6),
        most("ping, idle", "ping", "ping_us", 110),
        most("ping, beside a TCP stream", "ping-loaded", "ping_us", 1000),
        most("ping, beside a TCP stream, loss", "ping-loaded", "loss", 0),
        most("first packet to reply", "first", "first_us", 1000),
        most("peak memory", "memory", "rss", 60),
    ]


def target_table(results: Results) -> str:
    """`targets` in Markdown."""
    words: Callable[[bool | None], str] = {True: "met", False: "MISSED", None: ""}.__getitem__
    rows = [[t.what, t.wanted, t.measured, words(t.met)] for t in targets(results)]
    return _markdown(["what", "target", "measured", ""], rows)
