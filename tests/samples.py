"""Random policies and random packets, chosen where the rules have their edges. Deterministic for a seed."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

from engine.policy import MARK, Hop, IPAddress, Platform, Policy, Protocol, State, Tunnel, rules_for
from engine.policy.nets import ICMPV6, LAN, LAN_MULTICAST, TCP, UDP
from native.facts import App, Direction, Facts, Interface

_PEERS4 = ("198.51.100.7", "203.0.113.9", "192.168.4.4")
_PEERS6 = ("2001:db8::7", "2001:db8:9::9", "fd00::7")
_DNS4 = ("192.168.1.53", "1.1.1.1", "10.64.0.53", "127.0.0.53")
_DNS6 = ("2606:4700:4700::1111", "fd00::53", "fe80::53", "::1")
_TUNNEL4 = (ip_address("10.64.0.2"), ip_address("10.64.0.1"))
_TUNNEL6 = (ip_address("fc00:bbbb::2"), ip_address("fc00:bbbb::1"))

PORTS = (53, 67, 68, 546, 547, 443, 51820, 5353, 1, 1024, 40000, 65535)


def random_policy(rng: random.Random, platform: Platform, tunnel_name: str) -> Policy:
    """Any state with any settings, that a `Policy` can be made of."""
    state = rng.choice([State.CONNECTING, State.CONNECTED, State.CONNECTED, State.ERROR, State.DISCONNECTING, *State])
    kept = rng.choice([State.CONNECTING, State.CONNECTED, State.ERROR]) if state is State.DISCONNECTING else None
    families = rng.choice([(4,), (6,), (4, 6)])
    ends = [pair for version, pair in ((4, _TUNNEL4), (6, _TUNNEL6)) if version in families]
    tunnel = Tunnel(tunnel_name, tuple(e[0] for e in ends), tuple(e[1] for e in ends[: rng.choice([0, 2, 2])]))
    if State.CONNECTED not in (state, kept) and rng.random() < 0.5:
        tunnel = None
    dns = tuple(ip_address(a) for a in rng.sample(_DNS4 + _DNS6, rng.choice([0, 0, 1, 2, 3])))
    return Policy(
        state, platform, allow_lan=rng.random() < 0.5, always_require_vpn=rng.random() < 0.5,
        peer=_hop(rng) if rng.random() < 0.9 else None, bridge=_hop(rng) if rng.random() < 0.3 else None,
        api=_hop(rng) if rng.random() < 0.6 else None, tunnel=tunnel, dns=dns, kept=kept,
    )  # fmt: skip


def _hop(rng: random.Random) -> Hop:
    return Hop(
        ip_address(rng.choice(_PEERS4 + _PEERS6)), rng.choice([51820, 443, 53, 51820]), rng.choice(list(Protocol))
    )


def edges(version: int) -> list[IPAddress]:
    """First and last address of every network of the policy, and the neighbours just outside."""
    found: set[IPAddress] = set()
    for network in (*LAN, *LAN_MULTICAST):
        if network.version != version:
            continue
        first, last = int(network.network_address), int(network.broadcast_address)
        for number in (first - 1, first, first + 1, last - 1, last, last + 1):
            if 0 <= number < 2**network.max_prefixlen:
                found.add(IPv4Address(number) if version == 4 else IPv6Address(number))
    return sorted(found, key=int)


def random_address(rng: random.Random, version: int, policy: Policy) -> IPAddress:
    """One that the policy speaks of, an edge, or just any."""
    named: list[IPAddress] = [hop.ip for hop in (policy.peer, policy.bridge, policy.api) if hop]
    named += policy.dns
    if policy.tunnel:
        named += [*policy.tunnel.addresses, *policy.tunnel.gateways]
    if version == 4:
        special = ["255.255.255.255", "192.168.1.2", "8.8.8.8", "224.0.0.251", "10.1.2.3"]
    else:
        special = ["ff02::2", "ff02::1:2", "ff05::1:3", "ff02::1:ff00:1", "fe80::1", "ff02::fb", "2001:db8::1"]
    named += [ip_address(text) for text in special]
    pool = [address for address in named if address.version == version]
    way = rng.random()
    if way < 0.6:
        return IPv4Address(int(rng.choice(pool))) if version == 4 else IPv6Address(int(rng.choice(pool)))
    if way < 0.9:
        return rng.choice(edges(version))
    return IPv4Address(rng.getrandbits(32)) if version == 4 else IPv6Address(0x20010DB8 << 96 | rng.getrandbits(64))


def random_facts(rng: random.Random, policy: Policy) -> Facts:
    """A whole packet, half of the time built from a rule of the policy with one thing changed or none."""
    version = rng.choice([4, 6])
    icmp = 1 if version == 4 else ICMPV6
    proto = rng.choice([TCP, UDP, UDP, icmp, icmp, 47, 132, 136])
    facts = Facts(
        version, proto, random_address(rng, version, policy), random_address(rng, version, policy),
        direction=rng.choice([Direction.OUT, Direction.OUT, Direction.IN, Direction.IN, Direction.FORWARD]),
        iface_in=rng.choice([Interface.TUNNEL, Interface.OTHER, Interface.OTHER, Interface.LOOPBACK]),
        iface_out=rng.choice([Interface.TUNNEL, Interface.OTHER, Interface.OTHER, Interface.LOOPBACK]),
        uid=rng.choice([0, 0, 1000]), mark=rng.choice([MARK, MARK, 0, MARK ^ 1]), app=rng.choice(list(App)),
    )  # fmt: skip
    if rng.random() < 0.5:
        facts = _like_a_rule(rng, policy, facts)
    if facts.proto in (TCP, UDP):
        facts = replace(
            facts,
            sport=facts.sport if facts.sport is not None else rng.choice(PORTS),
            dport=facts.dport if facts.dport is not None else rng.choice(PORTS),
            icmp_type=None, icmp_code=None,
        )  # fmt: skip
    elif facts.proto == (1 if facts.version == 4 else ICMPV6):
        kind = (0, 8, 3) if facts.proto == 1 else (133, 134, 135, 136, 137, 128, 143, 1)
        facts = replace(
            facts, sport=None, dport=None,
            icmp_type=facts.icmp_type if facts.icmp_type is not None else rng.choice(kind),
            icmp_code=facts.icmp_code if facts.icmp_code is not None else rng.choice([0, 0, 0, 1, 255]),
        )  # fmt: skip
    else:
        facts = replace(facts, sport=None, dport=None, icmp_type=None, icmp_code=None)
    if facts.direction is not Direction.OUT:
        facts = replace(facts, uid=None)
    if policy.tunnel is None:  # then nothing is in it
        outside = {Interface.TUNNEL: Interface.OTHER}
        facts = replace(
            facts,
            iface_in=outside.get(facts.iface_in, facts.iface_in),
            iface_out=outside.get(facts.iface_out, facts.iface_out),
        )
    return facts


def _like_a_rule(rng: random.Random, policy: Policy, facts: Facts) -> Facts:
    """The fields that some rule speaks of, set to what it wants, but for one now and then."""
    rule = rng.choice(rules_for(policy))
    version = rule.version or rng.choice(sorted({n.version for n in (*rule.sources, *rule.destinations)}) or [4, 6])
    sources = [n for n in rule.sources if n.version == version]
    destinations = [n for n in rule.destinations if n.version == version]
    wanted: dict[str, object] = {
        "version": version,
        "proto": rng.choice(rule.protocols or (TCP, UDP)),
        "src": _in(rng, sources) if sources else random_address(rng, version, policy),
        "dst": _in(rng, destinations) if destinations else random_address(rng, version, policy),
        "direction": Direction[rng.choice(rule.directions).name],
    }
    if rng.random() < 0.2 and rule.forward:
        wanted["direction"] = Direction.FORWARD
    if rule.interfaces:
        name = rng.choice(rule.interfaces).name
        wanted |= {"iface_in": Interface[name], "iface_out": Interface[name]}
    if rule.source_port is not None or rule.destination_port is not None:
        wanted["sport"] = rule.source_port or rng.choice(PORTS)
        wanted["dport"] = rule.destination_port or rng.choice(PORTS)
    if rule.icmp is not None:
        wanted |= {"icmp_type": rule.icmp[0], "icmp_code": rule.icmp[1] if rng.random() < 0.8 else 1}
    if rng.random() < 0.4:
        del wanted[rng.choice([name for name in wanted if name in ("proto", "direction", "iface_in", "iface_out")])]
    return replace(facts, **wanted)  # type: ignore[arg-type]


def _in(rng: random.Random, networks: list) -> IPAddress:  # type: ignore[type-arg]
    """An address in one of the networks, at an edge more often than not, or just outside."""
    network = rng.choice(networks)
    first, last = int(network.network_address), int(network.broadcast_address)
    number = rng.choice([first, last, rng.randint(first, last), first - 1, last + 1, first])
    number = min(max(number, 0), 2**network.max_prefixlen - 1)
    return IPv4Address(number) if network.version == 4 else IPv6Address(number)
