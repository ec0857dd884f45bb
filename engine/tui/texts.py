"""The two texts that open over the screen: the keys and what the states mean, and everything the status has."""

from __future__ import annotations

from collections.abc import Sequence

from engine.management.schema import Hello, Status
from engine.tui import words

Section = tuple[str, Sequence[tuple[str, str]]]
"""A title, and its rows of a name and a text."""

HELP: tuple[Section, ...] = (
    (
        "Keys",
        (
            ("c", "connect"),
            ("d", "disconnect; asks first if that opens something"),
            ("r", "connect anew; blocked meanwhile"),
            ("↑ ↓ Enter", "change the marked setting; or press its letter"),
            ("PgUp PgDn", "scroll the events"),
            ("i", "details: policy, peers, what cannot be blocked"),
            ("Ctrl+T", "dark or light"),
            ("q", "leave; the tunnel stays as it is"),
        ),
    ),
    (
        "States",
        (
            ("Disconnected", "open, unless a VPN is always required"),
            ("Connecting", "blocked until the tunnel is up"),
            ("Connected", "through the tunnel, or blocked"),
            ("Disconnecting", "as blocked as before"),
            ("Error", "blocked; c tries again, d opens"),
        ),
    ),
)


def details(status: Status, hello: Hello | None, now: float) -> list[Section]:
    """Everything the status has that the screen has no room for."""
    offloads = [name for name, on in status.offloads.items() if on]
    rows = [
        ("policy", status.policy),
        ("enforced by", words.ENFORCERS.get(status.mode, status.mode)),
        ("verified by", status.verified_by),
        ("interface", f"{status.interface}, MTU {status.mtu}"),
        ("DNS", status.dns),
        ("offloads", ", ".join(offloads)),
        ("daemon", f"molehill {hello.version}, process {hello.pid}" if hello is not None else ""),
    ]
    sections: list[Section] = [("Tunnel", [row for row in rows if row[1]])]
    for peer in status.peers:
        shaken = f"{words.duration(now - peer.last_handshake)} ago" if peer.last_handshake else "never"
        traffic = f"{words.size(peer.rx_bytes)} in, {words.size(peer.tx_bytes)} out"
        rows = [("key", peer.public_key), ("endpoint", peer.endpoint or "unknown")]
        sections.append(("Peer", [*rows, ("handshake", shaken), ("traffic", traffic)]))
    if status.notices:
        sections.append(("Notices", [("!", notice) for notice in status.notices]))
    if status.cannot_block:
        sections.append(("Cannot be blocked in this mode", [(gap.id, gap.text) for gap in status.cannot_block]))
    return sections
