"""Which policies are proven: every state with every combination of settings, and concrete ones at the odd corners.

`grid`: endpoints are symbols, so each policy stands for all values of its addresses and ports (`Symbols.conditions`
says which). `corners`: concrete values that a symbol's conditions leave out or that coincide: port 53, DHCP's ports,
one address in two roles, endpoints in the local network; and random policies, in which all that happens by chance.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from itertools import product

from engine.policy import Hop, IPAddress, Platform, Policy, Protocol, State, Tunnel
from engine.policy.nets import is_local
from tests.proofs.packet import Symbols
from tests.samples import random_policy

_A = ip_address
_ADDRESSES: dict[str, tuple[dict[str, IPAddress], ...]] = {
    "peer": ({"4": _A("198.51.100.7"), "6": _A("2001:db8::7")}, {"4": _A("192.168.4.4"), "6": _A("fd00::7")}),
    "bridge": ({"4": _A("203.0.113.9"), "6": _A("2001:db8:9::9")}, {"4": _A("10.1.1.1"), "6": _A("fe80::9")}),
    "api": ({"4": _A("192.0.2.80"), "6": _A("2001:db8:80::80")}, {"4": _A("169.254.8.8"), "6": _A("::1")}),
    "tunnel": ({"4": _A("10.64.0.2"), "6": _A("fc00:bbbb::2")}, {"4": _A("100.64.9.9"), "6": _A("2001:db8:7::2")}),
    "gateway": ({"4": _A("10.64.0.1"), "6": _A("fc00:bbbb::1")}, {"4": _A("8.8.4.4"), "6": _A("2001:db8:7::1")}),
    "local": ({"4": _A("192.168.1.53"), "6": _A("fd00::53")}, {"4": _A("127.0.0.53"), "6": _A("fe80::53")}),
    "public": ({"4": _A("1.1.1.1"), "6": _A("2606:4700:4700::1111")}, {"4": _A("223.255.255.1"), "6": _A("2001::53")}),
}
_PORTS = {"peer": (51820, 1), "bridge": (4443, 65535), "api": (8443, 1024)}

HOPS = ("4udp", "4tcp", "6udp", "6tcp")
APIS = (None, *HOPS)
BRIDGES = (None, "4tcp", "6tcp")
FAMILIES = ("4", "46")
DNS = ((), ("local4",), ("local6",), ("public4",), ("local4", "local6", "public4", "public6"))

NAMES = {Platform.MACOS: "utun4"}


@cache
def _symbols(values: int) -> Symbols:
    """All of them, whichever a policy uses. Nothing says that two of them differ: they may coincide."""
    symbols = Symbols()
    for role, sets in _ADDRESSES.items():
        for value in sets[values].values():
            symbols.add_address(role, value)
            if role in ("local", "public"):
                symbols.conditions.append(symbols.is_local(value) == is_local(value))
    for role, ports in _PORTS.items():
        symbols.add_port(role, ports[values])
    return symbols


CONCRETE = Symbols()


@dataclass(frozen=True)
class Case:
    """A policy and which of its values are symbols."""

    policy: Policy
    symbols: Symbols

    @property
    def name(self) -> str:
        return self.policy.describe()


class _Maker:
    """Makes hops, tunnels and servers of placeholder values."""

    def __init__(self, values: int) -> None:
        self.values = values
        self.symbols = _symbols(values)

    def address(self, role: str, version: str) -> IPAddress:
        return _ADDRESSES[role][self.values][version]

    def hop(self, role: str, kind: str | None) -> Hop | None:
        return (kind and Hop(self.address(role, kind[0]), _PORTS[role][self.values], Protocol(kind[1:]))) or None

    def tunnel(self, families: str | None, platform: Platform) -> Tunnel | None:
        if families is None:
            return None
        addresses = tuple(self.address("tunnel", version) for version in families)
        gateways = tuple(self.address("gateway", version) for version in families)
        return Tunnel(NAMES.get(platform, "molehill0"), addresses, gateways)

    def servers(self, kinds: tuple[str, ...]) -> tuple[IPAddress, ...]:
        return tuple(self.address(kind[:-1], kind[-1]) for kind in kinds)


def grid(platform: Platform, values: int = 0) -> Iterator[Case]:
    """Every state and every combination of settings. `values`: which of the two sets of placeholders."""
    for state, required in ((State.DISCONNECTED, False), (State.DISCONNECTED, True), (State.ERROR, False)):
        for lan, api in product((False, True), APIS):
            for open_ in (False, True) if platform is Platform.IOS else (False,):
                make = _Maker(values)
                yield Case(
                    Policy(
                        state, platform, lan, required, api=make.hop("api", api), peer=make.hop("peer", "4udp"),
                        tunnel=make.tunnel("46", platform), ios_blocking=open_,
                    ),
                    make.symbols,
                )  # fmt: skip
    kept = ((State.CONNECTING, None), (State.DISCONNECTING, State.CONNECTING))
    for (state, keeps), lan, api, hop, bridge, families in product(
        kept, (False, True), APIS, (*HOPS, None), BRIDGES, (None, *FAMILIES)
    ):
        make = _Maker(values)
        yield Case(
            Policy(
                state, platform, lan, peer=make.hop("peer", hop), bridge=make.hop("bridge", bridge),
                api=make.hop("api", api), tunnel=make.tunnel(families, platform), kept=keeps,
            ),
            make.symbols,
        )  # fmt: skip
    kept = ((State.CONNECTED, None), (State.DISCONNECTING, State.CONNECTED))
    for (state, keeps), lan, api, hop, bridge, families, dns in product(
        kept, (False, True), APIS, HOPS, BRIDGES, FAMILIES, DNS
    ):
        make = _Maker(values)
        yield Case(
            Policy(
                state, platform, lan, peer=make.hop("peer", hop), bridge=make.hop("bridge", bridge),
                api=make.hop("api", api), tunnel=make.tunnel(families, platform), kept=keeps, dns=make.servers(dns),
            ),
            make.symbols,
        )  # fmt: skip
    for lan, api in product((False, True), APIS):
        make = _Maker(values)
        yield Case(Policy(State.DISCONNECTING, platform, lan, api=make.hop("api", api), kept=State.ERROR), make.symbols)


def corners(platform: Platform, count: int) -> Iterator[Case]:
    """Concrete policies: named ones, and `count` random ones."""
    name = NAMES.get(platform, "molehill0")
    tunnel = Tunnel(name, (_A("10.64.0.2"), _A("fc00:bbbb::2")), (_A("10.64.0.1"), _A("fc00:bbbb::1")))
    udp, tcp = Protocol.UDP, Protocol.TCP
    server4, server6 = _A("198.51.100.7"), _A("2001:db8::7")
    hops = [
        Hop(server4, 53, udp), Hop(server6, 53, tcp), Hop(_A("192.168.4.4"), 53, udp),
        Hop(_A("255.255.255.255"), 67, udp),
        Hop(_A("fe80::1"), 547, udp), Hop(_A("10.64.0.1"), 53, udp), Hop(_A("127.0.0.1"), 51820, udp),
        Hop(_A("192.168.1.53"), 53, tcp),
    ]  # fmt: skip
    named = []
    for hop, lan in product(hops, (False, True)):
        other = Hop(hop.ip, 443, tcp)
        named += [
            Policy(State.CONNECTING, platform, lan, peer=hop, api=hop, tunnel=tunnel),
            Policy(State.CONNECTING, platform, lan, peer=hop, bridge=other, api=other),
            Policy(State.ERROR, platform, lan, api=hop),
            Policy(State.CONNECTED, platform, lan, peer=hop, tunnel=tunnel),
            Policy(
                State.CONNECTED, platform, lan, peer=other, bridge=hop, tunnel=tunnel,
                dns=(hop.ip, _A("192.168.1.53")),
            ),
            Policy(
                State.CONNECTED, platform, lan, peer=Hop(_A("192.168.1.53"), 53, udp), bridge=hop, tunnel=tunnel,
                dns=(_A("192.168.1.53"), _A("192.168.1.53"), _A("10.64.0.1")),
            ),
        ]  # fmt: skip
    bare = Tunnel(name, (), ())
    named += [
        Policy(State.CONNECTED, platform, True, tunnel=bare),
        Policy(State.CONNECTED, platform, True, tunnel=bare, dns=(_A("1.1.1.1"),)),
        Policy(State.CONNECTING, platform, True, tunnel=bare),
    ]
    if platform is Platform.LINUX:
        peer = Hop(server4, 51820, udp)
        named += [
            Policy(state, platform, lan, peer=peer, tunnel=own, tun_only=True)
            for state, lan, own in product((State.CONNECTING, State.CONNECTED), (False, True), (tunnel, bare))
        ]
    rng = random.Random(platform.value)
    named += [random_policy(rng, platform, name) for _ in range(count)]
    for policy in named:
        yield Case(policy, CONCRETE)
