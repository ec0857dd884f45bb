"""What the screen says, as pure functions of what the daemon told: every sentence, number and time of it.

Nothing here knows Textual or the socket. Times are seconds since 1970, durations seconds, sizes bytes.
"""

from __future__ import annotations

import time
from ipaddress import ip_address, ip_network

from engine.management.schema import LogEvent, RelayChoice, Settings, SettingsPatch, Status, TunnelChoice

GONE = "The daemon is gone: what was blocked stays blocked."
NO_ANSWER = "NO ANSWER"
LEAKING = "NOT ENFORCED, TRAFFIC MAY BE LEAKING"

# Rules that block in the TUN, by id, in a few words; docs/policy.md has the whole sentences.
RULES = {
    "P-0": "no rule permits it",
    "CON-2": "to the server, not by us",
    "CTD-2": "DNS to a foreign server",
    "DNS-3": "DNS while not connected",
}

# Everything else for which a packet is dropped, by its word in counters. "policy" is not among them: the rules say it.
REASONS = {
    "no-policy": "no policy is loaded",
    "malformed": "malformed packets",
    "fragment-unknown": "fragments of the unknown",
    "fragment-bad": "broken fragments",
    "no-peer": "no peer for the address",
    "no-endpoint": "no endpoint is known",
    "stage-full": "queue for the handshake",
    "stage-expired": "no handshake came",
    "loop": "our own came back",
    "too-big": "too big for the tunnel",
    "unknown-type": "not WireGuard",
    "unknown-index": "of no known session",
    "session-expired": "of an expired session",
    "auth": "forged or damaged",
    "replay": "replayed",
    "source-not-allowed": "foreign inner source",
    "checksum": "wrong inner checksum",
    "ring-full": "control queue full",
    "udp-send": "could not be sent",
    "tun-write": "could not be delivered",
    "unknown-peer": "handshake of a stranger",
    "no-cookie": "handshake, no cookie",
    "rate-limit": "too many handshakes",
    "ecn": "false congestion mark",
}

# What the machine's firewall dropped or rejected, by where the packet went; the rule's id stands beside.
FIREWALL = {"out": "firewall: outgoing", "in": "firewall: incoming", "forward": "firewall: forwarded"}

ENFORCERS = {"firewall": "the TUN and the machine's firewall", "vpn-service": "the TUN alone"}

# Custom DNS servers in these are asked outside the tunnel (DNS-2).
_LOCAL = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "127.0.0.0/8",
        "fe80::/10", "fc00::/7", "::1/128",
    )
)  # fmt: skip


# The state


def word(status: Status) -> str:
    """The state as the big word."""
    return status.state.upper()


def sentence(status: Status) -> str:
    """What the state means for the user, and why, in one sentence (ERR-2)."""
    if status.state == "connected":
        if status.allow_lan:
            return "All traffic but the local network's goes through the tunnel."
        return "Traffic goes through the tunnel. Everything else is blocked."
    if status.state == "disconnected":
        if status.blocks:
            return "Everything is blocked: a VPN is required, and you are disconnected."
        return "Nothing is blocked: traffic goes out as if molehill did not run."
    if status.state == "disconnecting":
        return "Still blocked: the tunnel is closing."
    if status.state == "connecting":
        why = status.problem or status.cause
        attempt = f", attempt {status.attempt + 1}" if status.attempt else ""
        return f"Blocked until the tunnel is up{attempt}{': ' + why if why else ''}"
    if status.cause_kind == "offline":
        return "Blocked while this device is offline. Then it connects by itself."
    return f"Everything is blocked: {status.cause or 'the cause is unknown'}"


def failure(status: Status) -> str:
    """Why the policy is not in force (ERR-3)."""
    return capital(status.failure or "why the policy is not in force is unknown")


def capital(text: str) -> str:
    """With a capital at its beginning."""
    return text[:1].upper() + text[1:]


def facts(status: Status, now: float) -> list[tuple[str, str]]:
    """Where to, by which first hop, since when: each with its name."""
    rows = []
    if status.state != "disconnected":
        server = ", ".join(part for part in (status.connecting_to, status.endpoint) if part)
        rows += [("to", server)] if server else []
        rows += [("by", status.bridge)] if status.bridge else []
    return [*rows, ("since", f"{moment(status.since, now)}, for {duration(now - status.since)}")]


def notices(status: Status) -> list[str]:
    """What the user should know besides, each a sentence."""
    lines = list(status.notices)
    if not status.online and status.cause_kind != "offline":
        lines.append("this device is offline")
    return lines


def drops(status: Status) -> list[tuple[int, str, str]]:
    """What was dropped: packets, why in words, rule id or reason; the most frequent first."""
    rows = [(count.packets, RULES[id], id) for id, count in status.verdicts.items() if id in RULES]
    rows += [
        (count, REASONS.get(reason, reason), reason) for reason, count in status.drops.items() if reason != "policy"
    ]
    rows += [(it.packets, FIREWALL.get(it.direction, it.direction), it.rule) for it in status.firewall_drops]
    return sorted((row for row in rows if row[0]), reverse=True)


def tells(line: LogEvent) -> bool:
    """Whether a line of the log is for the screen: what the state machine was told ("event: ...") is for developers."""
    return line.level != "debug" and not line.text.startswith("event: ")


# The settings


def choice(chosen: TunnelChoice | RelayChoice | None) -> str:
    """What is connected to."""
    if chosen is None:
        return "none"
    if isinstance(chosen, TunnelChoice):
        return chosen.name
    return chosen.hostname or ", ".join(part for part in (chosen.country, chosen.city) if part) or "any relay"


def dns(servers: tuple[str, ...]) -> str:
    """The custom servers in as few words as fit."""
    if not servers:
        return "the relay's"
    return servers[0] if len(servers) == 1 and len(servers[0]) < 16 else f"{len(servers)} custom"


def opens(before: Settings, patch: SettingsPatch, state: str) -> tuple[str, str] | None:
    """What a change of the settings opens, as a question and a sentence; None if nothing."""
    if patch.allow_lan is True and not before.allow_lan:
        opened = "Devices in the local network can then be reached, and can reach this one, outside the tunnel."
        return "Allow the local network?", opened
    if patch.always_require_vpn is False and before.always_require_vpn:
        when = "At once, as you are disconnected," if state == "disconnected" else "Whenever you are disconnected,"
        return "No longer require a VPN?", f"{when} nothing is blocked any more."
    if patch.auto_connect is False and before.auto_connect and not before.always_require_vpn:
        return "No longer connect at start?", "When this machine starts, nothing is blocked until you connect."
    if isinstance(patch.dns, tuple):
        outside = [server for server in patch.dns if server not in before.dns and is_local(server)]
        if outside:
            opened = f"{' and '.join(outside)}: a local address, so these queries leave outside the tunnel."
            return "Ask a DNS server outside the tunnel?", opened
    return None


def is_local(server: str) -> bool:
    """Whether a DNS server is asked outside the tunnel. ValueError if it is no address."""
    address = ip_address(server)
    return any(address in network for network in _LOCAL)


# Numbers and times


def size(count: int) -> str:
    """Bytes in binary units."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def rate(octets: float) -> str:
    """Bytes a second as bits a second, in decimal units."""
    value = octets * 8
    for unit in ("bit/s", "kbit/s", "Mbit/s"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bit/s" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} Gbit/s"


def number(count: int) -> str:
    """A count in at most six characters."""
    if count < 100_000:
        return str(count)
    return f"{count / 1e3:.0f}k" if count < 10_000_000 else f"{count / 1e6:.0f}M"


def duration(seconds: float) -> str:
    """How long, in its two largest units."""
    left = max(0, int(seconds))
    if left < 60:
        return f"{left} s"
    if left < 3600:
        return f"{left // 60} min {left % 60} s"
    if left < 86400:
        return f"{left // 3600} h {left % 3600 // 60} min"
    return f"{left // 86400} d {left % 86400 // 3600} h"


def moment(at: float, now: float) -> str:
    """A time of day, with its date if that is another than today's."""
    then, today = time.localtime(at), time.localtime(now)
    return time.strftime("%H:%M:%S" if then[:3] == today[:3] else "%Y-%m-%d %H:%M:%S", then)
