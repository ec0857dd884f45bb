"""The rendered nftables document as a formula, by nft's documented semantics. It knows no `Policy`.

A packet passes the base chain of its hook (an incoming or forwarded one `prerouting` before it), rule by rule: a rule
whose matches all hold runs its statement; accept, drop and reject end the chain, `mangle` sets the mark and goes on;
at the end the chain's policy decides. A match on what a packet does not have never holds, whatever its operator.
`accept` in one base chain is not final: the other hooks are asked too. AssertionError: outside the grammar.
"""

from __future__ import annotations

import json
from functools import cache
from ipaddress import ip_address, ip_network
from typing import Any

import z3

from native.facts import Direction, Fragment, Interface
from tests.proofs.packet import BITS, ICMPV6, Packet, Symbols, Verdict

Json = dict[str, Any]
_HOOKS = {Direction.OUT: "output", Direction.IN: "input", Direction.FORWARD: "forward"}


def nftables(document: Json, packet: Packet, symbols: Symbols, tunnel: str | None) -> Verdict:
    """What the whole document does with the packet; without our table nothing is enforced."""
    chains: dict[str, tuple[Json, list[Json]]] = {}
    for command in document["nftables"]:
        if "delete" in command:
            chains = {}
        added = command.get("add", {})
        if "chain" in added:
            chain = added["chain"]
            assert (chain["type"], chain["family"]) == ("filter", "inet")
            chains[chain["name"]] = (chain, [])
        if "rule" in added:
            chains[added["rule"]["chain"]][1].append(added["rule"])
    hooked = {chain["hook"]: (chain, rules) for chain, rules in chains.values()}
    accept, reject = z3.BoolVal(True), z3.BoolVal(False)
    for direction, hook in _HOOKS.items():
        mark, first = packet.mark, Verdict(z3.BoolVal(True), z3.BoolVal(False))
        if "prerouting" in hooked and direction is not Direction.OUT:
            first, mark = _chain(*hooked["prerouting"], packet, mark, direction, symbols, tunnel)
        verdict = Verdict(z3.BoolVal(True), z3.BoolVal(False))
        if hook in hooked:
            verdict, _ = _chain(*hooked[hook], packet, mark, direction, symbols, tunnel)
        here = packet.goes(direction)
        accept = z3.If(here, z3.And(first.accept, verdict.accept), accept)
        reject = z3.If(here, z3.Or(first.reject, z3.And(first.accept, verdict.reject)), reject)
    return Verdict(accept, reject)


def _chain(
    chain: Json,
    rules: list[Json],
    packet: Packet,
    mark: Any,
    direction: Direction,
    symbols: Symbols,
    tunnel: str | None,
) -> tuple[Verdict, Any]:
    """The chain's verdict, and the packet's mark as it leaves it."""
    going: Any = z3.BoolVal(True)
    accept, reject = [], []
    for rule in rules:
        terms = [going]
        for expression in rule["expr"]:
            ((kind, body),) = expression.items()
            if kind == "match" and body["left"] == {"meta": {"key": "mark"}}:
                assert body["op"] == "=="
                terms.append(mark == body["right"])
                continue
            if kind == "match":
                terms.append(_match(json.dumps(body), packet, direction, symbols, tunnel))
                continue
            holds = z3.And(terms)
            if kind == "mangle":
                assert body["key"] == {"meta": {"key": "mark"}}
                mark = z3.If(holds, z3.BitVecVal(body["value"], 32), mark)
            elif kind in ("accept", "drop", "reject"):
                (accept if kind == "accept" else reject if kind == "reject" else []).append(holds)
                going = z3.And(going, z3.Not(holds))
            else:
                assert kind == "counter", f"{kind} is outside the grammar"
    if chain["policy"] == "accept":
        accept.append(going)
    return Verdict(z3.Or(accept) if accept else z3.BoolVal(False), z3.Or(reject) if reject else z3.BoolVal(False)), mark


@cache
def _match(text: str, p: Packet, direction: Direction, symbols: Symbols, tunnel: str | None) -> Any:
    body = json.loads(text)
    left, right, op = body["left"], body["right"], body["op"]
    masked = "&" in left
    if masked:
        left, mask = left["&"]
        assert (left, mask) == ({"payload": {"protocol": "ip", "field": "frag-off"}}, 0x3FFF)
    ((kind, what),) = left.items()
    if isinstance(right, dict) and "set" in right:
        right = right["set"]
    members = right if isinstance(right, list) else [right]
    there, equal = _KINDS[kind](what, members, p, direction, symbols, tunnel)
    assert op in ("==", "in", "!="), op
    return z3.And(there, z3.Not(equal) if op == "!=" else equal)


def _number(term: Any, members: list[Any]) -> Any:
    return z3.Or([term == value for value in members])


def _meta(
    what: Json, members: list[Any], p: Packet, direction: Direction, symbols: Symbols, tunnel: str | None
) -> tuple[Any, Any]:
    always = z3.BoolVal(True)
    key = what["key"]
    if key == "nfproto":
        return always, z3.Or([p.version({"ipv4": 4, "ipv6": 6}[value]) for value in members])
    if key == "l4proto":
        return always, _number(p.proto, members)
    if key == "skuid":  # of a socket of this machine: what comes in or through has none
        return z3.And(z3.BoolVal(direction is Direction.OUT), p.has_uid), _number(p.uid, members)
    side, word = key[0], key[1:]
    assert side in "io", key
    there = z3.BoolVal(
        (side == "i" and direction is not Direction.OUT) or (side == "o" and direction is not Direction.IN)
    )
    face = p.iface_in if side == "i" else p.iface_out
    if word == "iftype":
        assert members == ["loopback"]
        return there, face == int(Interface.LOOPBACK)
    assert word == "ifname", key
    names = {Interface.LOOPBACK: "lo", Interface.TUNNEL: tunnel}
    literal = [m[:-2] + "*" if m.endswith("\\*") else m for m in members]
    return there, z3.Or([face == int(i) for i, name in names.items() if name in literal])


def _payload(
    what: Json, members: list[Any], p: Packet, direction: Direction, symbols: Symbols, tunnel: str | None
) -> tuple[Any, Any]:
    protocol, field = what["protocol"], what["field"]
    if protocol == "th":
        term = {"sport": p.sport, "dport": p.dport}[field]
        return p.has_ports, z3.Or([term == symbols.port(value) for value in members])
    if protocol == "icmpv6":
        term = {"type": p.icmp_type, "code": p.icmp_code}[field]
        return z3.And(p.v6, p.proto == ICMPV6, p.has_icmp), _number(term, members)
    version = {"ip": 4, "ip6": 6}[protocol]
    if field == "frag-off":  # & 0x3fff: the offset and the flag for more
        return p.version(4), p.fragment == int(Fragment.WHOLE) if members == [0] else _outside(what)
    term = {"saddr": p.source, "daddr": p.destination}[field](version)
    return p.version(version), z3.Or([_address(term, version, value, symbols) for value in members])


def _address(term: Any, version: int, value: Any, symbols: Symbols) -> Any:
    if isinstance(value, dict):
        prefix = value["prefix"]
        return symbols.within(term, ip_network(f"{prefix['addr']}/{prefix['len']}"))
    address = ip_address(value)
    assert BITS[address.version] == BITS[version]
    return term == symbols.address(address)


def _exthdr(
    what: Json, members: list[Any], p: Packet, direction: Direction, symbols: Symbols, tunnel: str | None
) -> tuple[Any, Any]:
    assert what["name"] == "frag"
    there = z3.And(p.v6, p.fragment != int(Fragment.WHOLE))
    if what["field"] == "frag-off":
        assert members == [0]
        return there, p.fragment == int(Fragment.FIRST)
    assert (what["field"], members) == ("more-fragments", [1])
    return there, p.more


def _ct(
    what: Json, members: list[Any], p: Packet, direction: Direction, symbols: Symbols, tunnel: str | None
) -> tuple[Any, Any]:
    words = {"state": ("established", "new"), "direction": ("reply", "original")}[what["key"]]
    return z3.BoolVal(True), z3.If(p.reply, z3.BoolVal(words[0] in members), z3.BoolVal(words[1] in members))


def _outside(what: Json) -> Any:
    raise AssertionError(f"{what} is outside the grammar")


_KINDS = {"meta": _meta, "payload": _payload, "exthdr": _exthdr, "ct": _ct}
