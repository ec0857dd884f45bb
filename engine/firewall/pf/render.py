"""`render`: a policy as pf.conf text for one anchor, which pfctl loads as one transaction (ATOM-1).

Each rule of `rules_for` becomes one line per IP version and direction, in the same order, all `quick`, so that the
first match wins here too. The label of a line is the id of the claim. Differences in form:

* What a reply rule of the policy says, PF says by `keep state` on the rule of the first packet; every other rule has
  `no state`, so that nothing outlives the rule it came by, and a DHCP answer opens no way back.
* LO-1 is the first line, so "an interface that is neither loopback nor the tunnel" is `on ! TUNNEL` below it.
* `scrub`: PF puts fragments together first, so ports are always to be seen.
* `allow-opts`: the policy does not look at IP options; PF would block a packet that has them (IGMP, for one).
* P-0 is two lines: outgoing packets are answered, incoming ones vanish.

What PF cannot say is in engine.firewall.assumptions. References: pf.conf(5) of macOS.

Grammar of the output: a comment line, `scrub all fragment reassemble`, and rules, each
    (pass | block return | block drop) (out | in) quick [on [!] IF] [inet | inet6] [proto P | proto { P, P }]
    ( all | from HOSTS [port N] to HOSTS [port N] ) [user root] [icmp6-type N code N]
    [flags S/SA] [keep state | no state] [allow-opts] label "ID"
with HOSTS = any, a network, or { network, ... }.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.firewall.networks import of_version
from engine.policy import Direction, Interface, IPNetwork, Platform, Policy, Rule, rules_for
from engine.policy.nets import ICMPV6, ROOT, TCP, UDP

ANCHOR = "molehill"
SCRUB = "scrub all fragment reassemble"

_PROTOCOLS = {TCP: "tcp", UDP: "udp", ICMPV6: "icmp6"}
# A name without a number at its end is a group of interfaces to PF (`on utun` would be every tunnel there is).
_INTERFACE = re.compile(r"[a-z]+[0-9]+")


def render(policy: Policy) -> str:
    """The text for `pfctl -a molehill -f -`; Disconnected is an empty anchor (DIS-1).

    Raises ValueError for a policy of another platform, and for a tunnel name that PF would not take for one interface.
    """
    if policy.platform is not Platform.MACOS:
        raise ValueError(f"PF is the firewall of macOS, this policy is for {policy.platform}")
    if policy.tunnel is not None and not _INTERFACE.fullmatch(policy.tunnel.name):
        raise ValueError(
            f"PF needs the tunnel's name to be letters and a number like utun4, not {policy.tunnel.name!r}"
        )
    if not policy.blocks:
        return ""
    rules = rules_for(policy)
    lines = [line for rule in rules if not rule.reply for line in _lines(rule, rules, policy)]
    return "\n".join([SCRUB, *lines]) + "\n"


def _lines(rule: Rule, rules: tuple[Rule, ...], policy: Policy) -> Iterator[str]:
    if rule.mark is not None or rule.apps:
        raise ValueError(f"{rule.id}: PF knows no marks and no executables")
    for direction in rule.directions:
        for interface in _interface(rule, policy):
            for headers in _headers(rule):
                action = _action(rule, direction)
                sender = [] if rule.uid is None else ["user root" if rule.uid == ROOT else f"user {rule.uid}"]
                icmp = [] if rule.icmp is None else [f"icmp6-type {rule.icmp[0]} code {rule.icmp[1]}"]
                state = _state(rule, direction, rules) if rule.accept else []
                words = [action, direction, "quick", *interface, *headers, *sender, *icmp, *state]
                yield " ".join([*words, f'label "{rule.id}"'])


def _action(rule: Rule, direction: Direction) -> str:
    if rule.accept:
        return "pass"
    return "block return" if rule.reject and direction is Direction.OUT else "block drop"


def _state(rule: Rule, direction: Direction, rules: tuple[Rule, ...]) -> list[str]:
    """`keep state` where the policy has a reply rule for the other way of the same flow."""
    answered = direction is Direction.OUT and any(
        reply.reply
        and reply.protocols == rule.protocols
        and reply.sources == rule.destinations
        and reply.source_port == rule.destination_port
        for reply in rules
    )
    if not answered:
        return ["no state", "allow-opts"]
    return [*(["flags S/SA"] if TCP in rule.protocols else []), "keep state", "allow-opts"]


def _interface(rule: Rule, policy: Policy) -> list[list[str]]:
    if not rule.interfaces:
        return [[]]
    ways = []
    for interface in rule.interfaces:
        if interface is Interface.LOOPBACK:
            ways.append(["on lo0"])
        elif interface is Interface.OTHER:
            ways.append([f"on ! {policy.tunnel.name}"] if policy.tunnel else [])
        elif policy.tunnel is not None:
            ways.append([f"on {policy.tunnel.name}"])
    return ways


def _headers(rule: Rule) -> list[list[str]]:
    """Family, protocol and both ends, once per IP version that can match."""
    protocol = [f"proto {_list([_PROTOCOLS[number] for number in rule.protocols])}"] if rule.protocols else []
    ends = rule.sources or rule.destinations or rule.source_port is not None or rule.destination_port is not None
    if not rule.sources and not rule.destinations:
        family = [] if rule.version is None else [_family(rule.version)]
        return [[*family, *protocol, *(_ends(rule, [], []) if ends else ["all"])]]
    ways = []
    for version in (4, 6) if rule.version is None else (rule.version,):
        sources, destinations = of_version(rule.sources, version), of_version(rule.destinations, version)
        if bool(sources) == bool(rule.sources) and bool(destinations) == bool(rule.destinations):
            ways.append([_family(version), *protocol, *_ends(rule, sources, destinations)])
    return ways


def _ends(rule: Rule, sources: list[IPNetwork], destinations: list[IPNetwork]) -> list[str]:
    words = ["from", _hosts(sources)]
    if rule.source_port is not None:
        words.append(f"port {rule.source_port}")
    words += ["to", _hosts(destinations)]
    if rule.destination_port is not None:
        words.append(f"port {rule.destination_port}")
    return words


def _hosts(networks: list[IPNetwork]) -> str:
    hosts = [str(n.network_address) if n.prefixlen == n.max_prefixlen else str(n) for n in networks]
    return _list(hosts) if hosts else "any"


def _list(words: list[str]) -> str:
    return words[0] if len(words) == 1 else "{ " + ", ".join(words) + " }"


def _family(version: int) -> str:
    return "inet" if version == 4 else "inet6"
