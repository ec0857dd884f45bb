"""A rule's conditions as a person would write them."""

from __future__ import annotations

from collections.abc import Sequence

from engine.policy import Direction, IPNetwork, Rule
from engine.policy.nets import ICMPV6, TCP, UDP

_PROTOCOLS = {TCP: "tcp", UDP: "udp", ICMPV6: "icmp6"}


def verdict(rule: Rule) -> str:
    """accept, reject or drop; an incoming packet is dropped where an outgoing one is rejected."""
    return "accept" if rule.accept else "reject" if rule.reject else "drop"


def directions(rule: Rule) -> str:
    """Such as "out in forward"."""
    return " ".join([*(d.value for d in rule.directions), *([Direction.FORWARD.value] if rule.forward else [])])


def conditions(rule: Rule) -> str:
    """Everything but the directions, such as "other, udp, to 198.51.100.7 port 51820, mark 0x6d6f6c65"."""
    parts = []
    if rule.interfaces:
        parts.append("on " + " or ".join(rule.interfaces))
    if rule.icmp is not None:
        parts.append(f"icmp6 {rule.icmp[0]}/{rule.icmp[1]}")
    elif rule.protocols:
        parts.append(" or ".join(_PROTOCOLS.get(number, f"protocol {number}") for number in rule.protocols))
    elif rule.version is not None:
        parts.append(f"IPv{rule.version}")
    parts += _end("from", rule.sources, rule.source_port)
    parts += _end("to", rule.destinations, rule.destination_port)
    if rule.mark is not None:
        parts.append(f"mark {rule.mark:#x}")
    if rule.uid is not None:
        parts.append("by root" if rule.uid == 0 else f"by user {rule.uid}")
    if rule.apps:
        parts.append("by " + " or ".join(f"the {app.value} executable" for app in rule.apps))
    if rule.reply:
        parts.append("answers only")
    return ", ".join(parts) or "everything"


def _end(word: str, networks: Sequence[IPNetwork], port: int | None) -> list[str]:
    if not networks and port is None:
        return []
    parts = [word]
    if networks:
        parts.append(" ".join(_network(network) for network in networks))
    if port is not None:
        parts.append(f"port {port}")
    return [" ".join(parts)]


def _network(network: IPNetwork) -> str:
    return str(network.network_address if network.prefixlen == network.max_prefixlen else network)
