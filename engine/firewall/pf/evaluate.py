"""PF's documented semantics for the text that `render` emits: a parser, and a judge of packets.

It knows nothing of `Policy`: it reads the text. As pf.conf(5) says, and not more:

* a packet that belongs to a state passes without a look at the rules;
* else the last matching rule decides, or the first one that is `quick`; without any match the packet passes;
* a rule that passes with `keep state` makes a state, which answers pass by too; `no state` makes none;
* `block return` answers (TCP RST, ICMP unreachable), `block drop` does not;
* a list in braces stands for one rule per member; `user` matches the owner of the socket, of TCP and UDP alone;
* a forwarded packet is judged twice, incoming at one interface and outgoing at the other.

This is a model: no real pfctl has read the text (docs/known-issues.md). ValueError: text outside the grammar.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import ip_network

from engine.firewall.packet import Packet
from engine.firewall.pf.render import SCRUB
from engine.policy import Direction, Interface, IPNetwork
from engine.policy.nets import ICMPV6, ROOT, TCP, UDP

_NUMBERS = {"tcp": TCP, "udp": UDP, "icmp6": ICMPV6}

_LINE = re.compile(
    r"(?P<action>pass|block return|block drop) (?P<direction>out|in) (?P<quick>quick )?"
    r"(?:on (?P<negated>! )?(?P<interface>\S+) )?"
    r"(?:(?P<family>inet6|inet) )?"
    r"(?:proto (?P<protocols>\{ [^}]+ \}|\w+) )?"
    r"(?:all|from (?P<sources>\{ [^}]+ \}|\S+)(?: port (?P<source_port>\d+))?"
    r" to (?P<destinations>\{ [^}]+ \}|\S+)(?: port (?P<destination_port>\d+))?)"
    r"(?: user (?P<user>\w+))?"
    r"(?: icmp6-type (?P<type>\d+) code (?P<code>\d+))?"
    r"(?P<syn> flags S/SA)?(?: (?P<state>keep|no) state)?(?P<options> allow-opts)?"
    r' label "(?P<label>[^"]+)"'
)


class Outcome(StrEnum):
    """What becomes of a packet."""

    PASS = "pass"
    DROP = "block drop"
    RETURN = "block return"


@dataclass(frozen=True)
class PfRule:
    """One line, read. Absent conditions are None or empty. `interface` is a name; `negated`: any other one."""

    outcome: Outcome
    direction: Direction
    quick: bool
    interface: str | None
    negated: bool
    version: int | None
    protocols: tuple[int, ...]
    sources: tuple[IPNetwork, ...]
    destinations: tuple[IPNetwork, ...]
    source_port: int | None
    destination_port: int | None
    icmp: tuple[int, int] | None
    uid: int | None
    keep_state: bool
    label: str


def parse(text: str) -> tuple[PfRule, ...]:
    """Every rule of an anchor's text, in order. ValueError names the line that is outside the grammar."""
    lines = text.splitlines()
    if lines and lines[0] != SCRUB:
        raise ValueError(f"the text must begin with `{SCRUB}`, not {lines[0]!r}")
    return tuple(_parse_line(line) for line in lines[1:])


def judge(rules: Sequence[PfRule], packet: Packet, tunnel: str | None) -> tuple[Outcome, str | None]:
    """What becomes of a packet, and the label of the rule that says so (None: no rule, or a forwarded packet passed).

    `tunnel` is the name of the interface that the packet's TUNNEL stands for.
    """
    if packet.direction is Direction.FORWARD:
        assert packet.other_side is not None, "a forwarded packet leaves by an interface"
        incoming = judge(rules, replace(packet, direction=Direction.IN), tunnel)
        if incoming[0] is not Outcome.PASS:
            return incoming
        return judge(rules, replace(packet, direction=Direction.OUT, interface=packet.other_side), tunnel)
    if packet.reply:
        first = _deciding(rules, packet.first_of_flow(), tunnel)
        if first is not None and first.outcome is Outcome.PASS and first.keep_state:
            return Outcome.PASS, first.label
    rule = _deciding(rules, packet, tunnel)
    return (Outcome.PASS, None) if rule is None else (rule.outcome, rule.label)


def matches(rule: PfRule, packet: Packet, tunnel: str | None) -> bool:
    """Whether a rule's conditions hold for a packet."""
    names = {Interface.LOOPBACK: "lo0", Interface.TUNNEL: tunnel, Interface.OTHER: None}
    return (
        rule.direction is packet.direction
        and (rule.interface is None or (names[packet.interface] == rule.interface) != rule.negated)
        and rule.version in (None, packet.version)
        and (not rule.protocols or packet.protocol in rule.protocols)
        and _within(packet.source.version, int(packet.source), rule.sources)
        and _within(packet.destination.version, int(packet.destination), rule.destinations)
        and rule.source_port in (None, packet.source_port)
        and rule.destination_port in (None, packet.destination_port)
        and rule.icmp in (None, packet.icmp)
        and (rule.uid is None or packet.any_sender or rule.uid == packet.uid)
    )


def _deciding(rules: Sequence[PfRule], packet: Packet, tunnel: str | None) -> PfRule | None:
    last = None
    for rule in rules:
        if matches(rule, packet, tunnel):
            last = rule
            if rule.quick:
                break
    return last


def _within(version: int, address: int, networks: Sequence[IPNetwork]) -> bool:
    return not networks or any(
        n.version == version and int(n.network_address) <= address <= int(n.broadcast_address) for n in networks
    )


def _parse_line(line: str) -> PfRule:
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError(f"not in the grammar: {line!r}")
    part = found.groupdict()
    sender = part["user"]
    return PfRule(
        outcome=Outcome(part["action"]),
        direction=Direction(part["direction"]),
        quick=part["quick"] is not None,
        interface=part["interface"],
        negated=part["negated"] is not None,
        version={"inet": 4, "inet6": 6, None: None}[part["family"]],
        protocols=tuple(_NUMBERS[word] for word in _members(part["protocols"])),
        sources=tuple(ip_network(word) for word in _members(part["sources"]) if word != "any"),
        destinations=tuple(ip_network(word) for word in _members(part["destinations"]) if word != "any"),
        source_port=_number(part["source_port"]),
        destination_port=_number(part["destination_port"]),
        icmp=None if part["type"] is None else (int(part["type"]), int(part["code"])),
        uid=None if sender is None else ROOT if sender == "root" else int(sender),
        keep_state=part["state"] == "keep",
        label=part["label"],
    )


def _members(words: str | None) -> list[str]:
    return [] if words is None else words.strip("{} ").split(", ")


def _number(word: str | None) -> int | None:
    return None if word is None else int(word)
