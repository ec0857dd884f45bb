"""The symbolic packet: every fact of the policy as a z3 variable, and the way back from a model to `Facts`.

Addresses and ports of endpoints are symbols too: `Symbols` says which constants of an artefact stand for a symbol. An
artefact is rendered with placeholder values; its encoder writes the symbol where it meets a placeholder, and so one
proof covers every value of that endpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import z3

from engine.policy import IPAddress, IPNetwork
from engine.policy.nets import LAN, LOOPBACK
from native.facts import App, Direction, Facts, Fragment, Interface

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
BITS = {4: 32, 6: 128}


@dataclass(frozen=True, eq=False)
class Packet:
    """One packet, as z3 terms: the same term for the same question, so that formulas share them.

    `any_sender`: the sender's conditions are taken as met (the flow is there already).
    """

    direction: Any
    iface_in: Any
    iface_out: Any
    v6: Any
    proto: Any
    src4: Any
    dst4: Any
    src6: Any
    dst6: Any
    has_ports: Any
    sport: Any
    dport: Any
    has_icmp: Any
    icmp_type: Any
    icmp_code: Any
    fragment: Any
    more: Any
    mark: Any
    has_uid: Any
    uid: Any
    app: Any
    reply: Any
    any_sender: bool = False

    @classmethod
    def fresh(cls, prefix: str = "") -> Packet:
        def bits(name: str, width: int) -> Any:
            return z3.BitVec(prefix + name, width)

        def flag(name: str) -> Any:
            return z3.Bool(prefix + name)

        return cls(
            bits("direction", 2), bits("iface_in", 2), bits("iface_out", 2), flag("v6"), bits("proto", 8),
            bits("src4", 32), bits("dst4", 32), bits("src6", 128), bits("dst6", 128),
            flag("has_ports"), bits("sport", 16), bits("dport", 16),
            flag("has_icmp"), bits("icmp_type", 8), bits("icmp_code", 8),
            bits("fragment", 2), flag("more"), bits("mark", 32), flag("has_uid"), bits("uid", 32), bits("app", 2),
            flag("reply"),
        )  # fmt: skip

    @cache
    def wellformed(self) -> Any:
        """The facts of one packet fit each other: ports of TCP and UDP and types of ICMP are shown, but by later
        fragments (what does not fit is dropped as malformed before it is judged: assumption `malformed`). Only what
        leaves from a socket of this machine has an owner (assumption `senders`)."""
        later = self.fragment == int(Fragment.LATER)
        icmp = z3.If(self.v6, self.proto == ICMPV6, self.proto == ICMP)
        return z3.And(
            z3.ULE(self.direction, 2), z3.ULE(self.iface_in, 2), z3.ULE(self.iface_out, 2),
            z3.ULE(self.fragment, 2), z3.ULE(self.app, 2),
            self.has_ports == z3.And(z3.Or(self.proto == TCP, self.proto == UDP), z3.Not(later)),
            self.has_icmp == z3.And(icmp, z3.Not(later)),
            z3.Implies(self.fragment == int(Fragment.WHOLE), z3.Not(self.more)),
            z3.Implies(self.fragment == int(Fragment.FIRST), self.more),
            z3.Implies(self.has_uid, self.goes(Direction.OUT)),
        )  # fmt: skip

    @cache
    def outside_tunnel(self) -> Any:
        """Neither of its interfaces is the tunnel: every packet's case while there is none."""
        return z3.And(self.iface_in != int(Interface.TUNNEL), self.iface_out != int(Interface.TUNNEL))

    @cache
    def goes(self, direction: Direction) -> Any:
        return self.direction == int(direction)

    @cache
    def version(self, version: int) -> Any:
        return self.v6 if version == 6 else z3.Not(self.v6)

    def source(self, version: int) -> Any:
        return self.src6 if version == 6 else self.src4

    def destination(self, version: int) -> Any:
        return self.dst6 if version == 6 else self.dst4

    @cache
    def seen_as(self, direction: Direction) -> Packet:
        """The same packet as a firewall sees it that judges a forwarded one at each side."""
        return replace(self, direction=z3.BitVecVal(int(direction), 2))

    @cache
    def first_of_flow(self) -> Packet:
        """The packet that this one answers: ends and direction swapped, sent by whoever was allowed to."""
        out, into = z3.BitVecVal(int(Direction.OUT), 2), z3.BitVecVal(int(Direction.IN), 2)
        return replace(
            self, direction=z3.If(self.goes(Direction.OUT), into, out), iface_in=self.iface_out,
            iface_out=self.iface_in, src4=self.dst4, dst4=self.src4, src6=self.dst6, dst6=self.src6,
            sport=self.dport, dport=self.sport, reply=z3.BoolVal(False), any_sender=True,
        )  # fmt: skip

    def sent_by(self, condition: Any) -> Any:
        """A condition on the sender, which a flow that is there already has met."""
        return z3.BoolVal(True) if self.any_sender else condition

    def equals(self, facts: Facts) -> Any:
        """This packet is that one."""
        six = facts.version == 6
        terms = [
            self.v6 == six,
            self.source(facts.version) == int(facts.src), self.destination(facts.version) == int(facts.dst),
            self.direction == int(facts.direction), self.iface_in == int(facts.iface_in),
            self.iface_out == int(facts.iface_out), self.proto == facts.proto,
            self.has_ports == (facts.sport is not None), self.sport == (facts.sport or 0),
            self.dport == (facts.dport or 0), self.has_icmp == (facts.icmp_type is not None),
            self.icmp_type == (facts.icmp_type or 0), self.icmp_code == (facts.icmp_code or 0),
            self.fragment == int(facts.fragment), self.more == facts.more_fragments, self.mark == facts.mark,
            self.has_uid == (facts.uid is not None), self.uid == (facts.uid or 0), self.app == int(facts.app),
            self.reply == facts.reply,
        ]  # fmt: skip
        return z3.And(terms)

    def facts(self, model: z3.ModelRef) -> Facts:
        """The packet of a model. What it does not show is left out, and the interface that does not count is OTHER."""

        def number(term: Any) -> int:
            return int(model.eval(term, model_completion=True).as_long())

        def holds(term: Any) -> bool:
            return z3.is_true(model.eval(term, model_completion=True))

        version = 6 if holds(self.v6) else 4
        address: type[IPv4Address] | type[IPv6Address] = IPv6Address if version == 6 else IPv4Address
        ports, icmp = holds(self.has_ports), holds(self.has_icmp)
        fragment, direction = Fragment(number(self.fragment)), Direction(number(self.direction))
        return Facts(
            version, number(self.proto), address(number(self.source(version))),
            address(number(self.destination(version))),
            number(self.sport) if ports else None, number(self.dport) if ports else None,
            number(self.icmp_type) if icmp else None, number(self.icmp_code) if icmp else None,
            fragment, frag_id=int(fragment is not Fragment.WHOLE), more_fragments=holds(self.more),
            frag_offset=1480 if fragment is Fragment.LATER else 0,
            frag_len=1480 if fragment is not Fragment.WHOLE else 0,
            direction=direction,
            iface_in=Interface.OTHER if direction is Direction.OUT else Interface(number(self.iface_in)),
            iface_out=Interface.OTHER if direction is Direction.IN else Interface(number(self.iface_out)),
            reply=holds(self.reply), uid=number(self.uid) if holds(self.has_uid) else None,
            mark=number(self.mark), app=App(number(self.app)),
        )  # fmt: skip

    def plainest(self) -> list[Any]:
        """Wishes for a counterexample that a person can read, in order: each is kept if there still is one."""
        return [
            self.fragment == 0, z3.Not(self.reply), self.app == 0, z3.Not(self.v6),
            self.goes(Direction.OUT), self.iface_out == int(Interface.OTHER), self.iface_in == int(Interface.OTHER),
            self.proto == UDP, self.src4 == int(IPv4Address("192.168.1.5")),
            self.src6 == int(IPv6Address("2001:db8::5")), self.sport == 4000, self.dport == 443,
            self.dst4 == int(IPv4Address("203.0.113.80")), self.dst6 == int(IPv6Address("2001:db8::80")),
            self.mark == 0, z3.Not(self.has_uid), self.uid == 1000, self.icmp_type == 0, self.icmp_code == 0,
        ]  # fmt: skip


@dataclass(eq=False)
class Symbols:
    """The endpoints' addresses and ports as z3 constants, by the placeholder that stands for them in artefacts.

    `conditions`: what is assumed of them; that is all the generality a proof lacks.
    """

    addresses: dict[tuple[int, int], Any] = field(default_factory=dict)
    ports: dict[int, Any] = field(default_factory=dict)
    conditions: list[Any] = field(default_factory=list)

    def add_address(self, name: str, value: IPAddress) -> Any:
        """A symbol of this name for a placeholder: any address that a `Policy` takes."""
        term = z3.BitVec(f"{name}.{value.version}", BITS[value.version])
        assert (value.version, int(value)) not in self.addresses, f"{value} stands for two symbols"
        self.addresses[value.version, int(value)] = term
        multicast = z3.Extract(31, 28, term) == 0xE if value.version == 4 else z3.Extract(127, 120, term) == 0xFF
        self.conditions += [term != 0, z3.Not(multicast)]
        if value.version == 6:  # IPv4-mapped addresses are refused
            self.conditions.append(z3.Extract(127, 32, term) != 0xFFFF)
        return term

    def add_port(self, name: str, value: int) -> Any:
        """A symbol for a placeholder port: any but 0 and 53, for WFP has filters of its own for port 53."""
        term = z3.BitVec(f"{name}.port", 16)
        assert value not in self.ports, f"port {value} stands for two symbols"
        self.ports[value] = term
        self.conditions += [term != 0, term != 53]
        return term

    def is_local(self, value: IPAddress) -> Any:
        """A custom DNS server's class, in which the renderer put it: private or loopback, or not (DNS-2)."""
        return z3.Or([self.within(self.address(value), n) for n in (*LAN, *LOOPBACK) if n.version == value.version])

    def address(self, value: IPAddress) -> Any:
        return self.number(value.version, int(value))

    def number(self, version: int, value: int) -> Any:
        return self.addresses.get((version, value), z3.BitVecVal(value, BITS[version]))

    def port(self, value: int) -> Any:
        return self.ports.get(value, z3.BitVecVal(value, 16))

    @cache
    def within(self, term: Any, network: IPNetwork) -> Any:
        """An address term lies in a network; a network of one address may stand for a symbol."""
        bits = network.max_prefixlen
        if network.prefixlen == 0:
            return z3.BoolVal(True)
        if network.prefixlen == bits:
            return term == self.number(network.version, int(network.network_address))
        value = int(network.network_address) >> (bits - network.prefixlen)
        return z3.Extract(bits - 1, bits - network.prefixlen, term) == value

    def any_of(self, packet: Packet, source: bool, networks: Iterable[IPNetwork]) -> Any:
        """The packet's source or destination lies in one of the networks."""
        return self._any_of(packet, source, tuple(networks))

    @cache
    def _any_of(self, packet: Packet, source: bool, networks: tuple[IPNetwork, ...]) -> Any:
        ends = {v: packet.source(v) if source else packet.destination(v) for v in (4, 6)}
        return z3.Or([z3.And(packet.version(n.version), self.within(ends[n.version], n)) for n in networks])

    def placeholders(self) -> list[Any]:
        """Each symbol has its placeholder's value: what the artefact itself says."""
        return [
            *(term == value for (_, value), term in self.addresses.items()),
            *(term == value for value, term in self.ports.items()),
        ]


@dataclass(frozen=True)
class Verdict:
    """What an enforcer does with the symbolic packet: `reject` is a block that answers."""

    accept: Any
    reject: Any


def first_match(lines: Iterable[tuple[Any, bool, bool]], default: tuple[bool, bool]) -> Verdict:
    """(condition, accept, reject) in order: the first condition that holds decides."""
    accept, reject = z3.BoolVal(default[0]), z3.BoolVal(default[1])
    for condition, accepts, rejects in reversed(list(lines)):
        accept = z3.Or(condition, accept) if accepts else z3.And(z3.Not(condition), accept)
        reject = z3.Or(condition, reject) if rejects else z3.And(z3.Not(condition), reject)
    return Verdict(accept, reject)
