"""The rendered pf.conf text as a formula, by pf.conf(5). It reads the words of each line itself and knows no `Policy`.

A packet of a state passes; else the first matching `quick` line decides, else the last one that matches; without a
match it passes. A forwarded packet is judged at both of its interfaces. AssertionError: outside the grammar.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from ipaddress import ip_network
from typing import Any

import z3

from native.facts import Direction, Interface
from tests.proofs.packet import Packet, Symbols, Verdict

_PROTOCOLS = {"tcp": 6, "udp": 17, "icmp6": 58}


@dataclass(frozen=True)
class Line:
    """One line: its condition on a packet, and what it does."""

    matches: Any
    passes: bool
    returns: bool
    quick: bool
    keeps: bool


def pf(text: str, packet: Packet, symbols: Symbols, tunnel: str | None) -> Verdict:
    """What the anchor does with the packet."""
    lines = text.splitlines()
    if lines:
        assert lines.pop(0) == "scrub all fragment reassemble"
    into, out = packet.seen_as(Direction.IN), packet.seen_as(Direction.OUT)
    as_in, as_out = _judge(lines, into, symbols, tunnel), _judge(lines, out, symbols, tunnel)
    forwarded = Verdict(z3.And(as_in.accept, as_out.accept), z3.Or(as_in.reject, z3.And(as_in.accept, as_out.reject)))
    accept, reject = forwarded.accept, forwarded.reject
    for direction, verdict in ((Direction.OUT, as_out), (Direction.IN, as_in)):
        accept = z3.If(packet.goes(direction), verdict.accept, accept)
        reject = z3.If(packet.goes(direction), verdict.reject, reject)
    return Verdict(accept, reject)


def _judge(lines: list[str], packet: Packet, symbols: Symbols, tunnel: str | None) -> Verdict:
    stateless = [_line(line, packet, symbols, tunnel) for line in lines]
    passes, returns, _ = _decided(stateless)
    *_, keeps = _decided([_line(line, packet.first_of_flow(), symbols, tunnel) for line in lines])
    state = z3.And(packet.reply, keeps)
    return Verdict(z3.Or(state, passes), z3.And(z3.Not(state), returns))


def _decided(lines: list[Line]) -> tuple[Any, Any, Any]:
    """(passes, returns, passes and keeps state) by the deciding line."""
    passes, returns, keeps = z3.BoolVal(True), z3.BoolVal(False), z3.BoolVal(False)
    # The first quick line that matches ends the search and beats all others; without one, the last match decides.
    last = [line for line in lines if not line.quick]
    for line in [*last, *reversed([line for line in lines if line.quick])]:
        passes = z3.If(line.matches, z3.BoolVal(line.passes), passes)
        returns = z3.If(line.matches, z3.BoolVal(line.returns), returns)
        keeps = z3.If(line.matches, z3.BoolVal(line.passes and line.keeps), keeps)
    return passes, returns, keeps


class _Words:
    def __init__(self, line: str) -> None:
        self._words = line.replace(",", " ").split()

    def take(self, *words: str) -> bool:
        """Take these words if they come next."""
        if self._words[: len(words)] == list(words):
            del self._words[: len(words)]
            return True
        return False

    def one(self) -> str:
        return self._words.pop(0)

    def several(self) -> list[str]:
        """One word, or those in braces."""
        if not self.take("{"):
            return [self.one()]
        found = []
        while not self.take("}"):
            found.append(self.one())
        return found

    def number(self) -> int:
        return int(self.one())

    def done(self) -> bool:
        return not self._words


@cache
def _line(line: str, p: Packet, symbols: Symbols, tunnel: str | None) -> Line:
    words = _Words(line)
    passes = words.take("pass")
    returns = not passes and words.take("block", "return")
    assert passes or returns or words.take("block", "drop"), line
    out = words.take("out")
    assert out or words.take("in"), line
    quick = words.take("quick")
    terms = [p.goes(Direction.OUT if out else Direction.IN)]
    if words.take("on"):
        negated = words.take("!")
        name = words.one()
        face = p.iface_out if out else p.iface_in
        names = {"lo0": Interface.LOOPBACK} | ({tunnel: Interface.TUNNEL} if tunnel else {})
        on = face == int(names[name]) if name in names else z3.BoolVal(False)
        terms.append(z3.Not(on) if negated else on)
    for word, version in (("inet6", 6), ("inet", 4)):
        if words.take(word):
            terms.append(p.version(version))
    if words.take("proto"):
        terms.append(z3.Or([p.proto == _PROTOCOLS[word] for word in words.several()]))
    if not words.take("all"):
        for word, source, port in (("from", True, p.sport), ("to", False, p.dport)):
            assert words.take(word), line
            hosts = words.several()
            if hosts != ["any"]:
                terms.append(symbols.any_of(p, source, [ip_network(host) for host in hosts]))
            if words.take("port"):
                terms.append(z3.And(p.has_ports, port == symbols.port(words.number())))
    if words.take("user"):
        owner = words.one()
        uid = 0 if owner == "root" else int(owner)
        terms.append(p.sent_by(z3.And(p.has_uid, p.uid == uid)))
    if words.take("icmp6-type"):
        kind = words.number()
        assert words.take("code"), line
        terms.append(z3.And(p.has_icmp, p.icmp_type == kind, p.icmp_code == words.number()))
    words.take("flags", "S/SA")  # of a flow's first packet, which is what is judged (assumption `flows`)
    keeps = words.take("keep", "state")
    assert keeps or not passes or words.take("no", "state"), f"PF would keep state: {line}"
    words.take("allow-opts")
    assert words.take("label"), line
    words.one()
    assert words.done(), line
    return Line(z3.And(terms), passes, returns, quick, keeps)
