"""What the rendered nftables document does with one packet, by nft's documented semantics. It knows no `Policy`.

A packet passes the chain of its hook, rule by rule; the first rule whose matches all hold and that has a verdict
decides, else the chain's policy. A match on what a packet does not have (ports of ICMP, an owner of a forwarded
packet) never holds, whatever its operator. The grammar is the one that engine.firewall.nftables.render writes;
anything outside it is a ValueError. References: nft(8), libnftables-json(5).
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

from native.facts import Direction, Facts, Interface

_HOOKS = {Direction.OUT: "output", Direction.IN: "input", Direction.FORWARD: "forward"}
_L4 = {"icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58}


def judge(document: dict[str, Any], facts: Facts, tunnel: str | None) -> tuple[str, str | None]:
    """("accept" | "drop" | "reject", the comment of the rule that says so or None: the chain's policy, or no chain)."""
    fields = _fields(facts, tunnel)
    if facts.direction is not Direction.OUT:
        _run(document, "prerouting", fields)  # it only marks and tracks
    return _run(document, _HOOKS[facts.direction], fields)


def _run(document: dict[str, Any], hook: str, fields: dict[str, Any]) -> tuple[str, str | None]:
    policy = None
    for command in document["nftables"]:
        added = command.get("add", {})
        chain, rule = added.get("chain"), added.get("rule")
        if chain and chain["hook"] == hook:
            policy = chain["policy"]
        if not rule or rule["chain"] != hook:
            continue
        for expression in rule["expr"]:
            (kind, body), *_ = expression.items()
            if kind == "match":
                if not _holds(body, fields):
                    break
            elif kind == "mangle":
                fields["meta mark"] = body["value"]
            elif kind in ("accept", "drop", "reject"):
                return kind, rule.get("comment")
            elif kind != "counter":
                raise ValueError(f"{kind!r} is outside the grammar")
    return policy or "accept", None


def _fields(facts: Facts, tunnel: str | None) -> dict[str, Any]:
    """What nft can read of a packet after reassembly, by name; None or absent: it has none."""
    four = facts.version == 4
    fields: dict[str, Any] = {
        "meta nfproto": f"ipv{facts.version}",
        "meta l4proto": facts.proto,
        "meta mark": facts.mark,
        "meta skuid": facts.uid if facts.direction is Direction.OUT else None,
        "ct state": "established" if facts.reply else "new",
        "ct direction": "reply" if facts.reply else "original",
        f"{'ip' if four else 'ip6'} saddr": facts.src,
        f"{'ip' if four else 'ip6'} daddr": facts.dst,
        "ip frag-off": 0 if four else None,
        "th sport": facts.sport,
        "th dport": facts.dport,
    }
    if not four:
        fields |= {"icmpv6 type": facts.icmp_type, "icmpv6 code": facts.icmp_code}
    sides = {
        Direction.OUT: {"o": facts.iface_out},
        Direction.IN: {"i": facts.iface_in},
        Direction.FORWARD: {"i": facts.iface_in, "o": facts.iface_out},
    }
    names = {Interface.LOOPBACK: "lo", Interface.TUNNEL: tunnel, Interface.OTHER: ""}  # "": any other name
    for side, interface in sides[facts.direction].items():
        fields[f"meta {side}ifname"] = names[interface]
        fields[f"meta {side}iftype"] = "loopback" if interface is Interface.LOOPBACK else "ether"
    return fields


def _holds(match: dict[str, Any], fields: dict[str, Any]) -> bool:
    left = match["left"]
    mask = None
    if "&" in left:
        left, mask = left["&"]
    (kind, body), *_ = left.items()
    name = f"{body['protocol']} {body['field']}" if kind == "payload" else f"{kind} {body.get('key', 'header')}"
    value = fields.get(name)
    if value is None:
        return False
    if mask is not None:
        value &= mask
    equal = any(_equal(value, right) for right in _members(match["right"]))
    return not equal if match["op"] == "!=" else equal


def _members(right: Any) -> Iterator[Any]:
    if isinstance(right, dict) and "set" in right:
        yield from right["set"]
    elif isinstance(right, list):
        yield from right
    else:
        yield right


def _equal(value: Any, right: Any) -> bool:
    if isinstance(right, dict):
        prefix = right["prefix"]
        network = ip_network(f"{prefix['addr']}/{prefix['len']}")
        return value in network
    if isinstance(right, str) and not isinstance(value, str | int):
        return bool(value == ip_address(right))
    if isinstance(right, str) and isinstance(value, int):
        return _L4.get(right) == value
    if isinstance(right, str) and right.endswith("\\*"):
        right = f"{right[:-2]}*"
    return bool(value == right)
