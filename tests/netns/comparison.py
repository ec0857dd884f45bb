"""Random packets under random policies: what the kernel does with each, against the reference evaluator.

Order for each policy: forget all flows -> load the rendered document -> send the packets, one by one, the answers to
what was let out among them -> read the observer -> compare. A packet that the kernel drops before it reaches the hook
(a martian source, a multicast source) is not compared, but counted.

The model of nftables that `explain` uses (engine.explain.nftables) judges the same document and must agree with the
kernel to the last packet: what is proven of the model then holds for what is loaded.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import Any

from engine.explain import nftables as nft_model
from engine.filter import evaluate
from engine.firewall.nftables import apply
from engine.policy import Platform, Policy, rules_for
from native.facts import Direction, Facts, Interface
from tests.netns import packets
from tests.netns.host import FAR, OTHER, TUNNEL, Host, hop_limit, tos
from tests.samples import random_facts, random_policy

_HOOK = {Direction.OUT: "output", Direction.IN: "input", Direction.FORWARD: "forward"}
_BROADCAST = IPv4Address("255.255.255.255")
_EXTENSIONS = ((0,), (60,), (0, 60), (43,), (0, 43, 60), (60, 60))

Key = tuple[int, object, int | None, object, int | None]


@dataclass
class Result:
    """Counts, and every difference in words."""

    policies: int = 0
    packets: int = 0
    accepted: int = 0
    let_out: int = 0  # outgoing and forwarded ones, past the hook
    left: int = 0  # of these, seen beyond the device
    replies: int = 0
    fragmented: int = 0
    extended: int = 0
    not_shown: int = 0
    tunnel_address: int = 0  # two named differences (engine.firewall.assumptions)
    tiny_first: int = 0
    differences: list[str] = field(default_factory=list)
    of_the_model: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.packets} packets under {self.policies} policies: {self.accepted} accepted "
            f"({self.left} of {self.let_out} let out were read beyond the device), {self.replies} replies, "
            f"{self.fragmented} in fragments, {self.extended} with extension headers; {self.not_shown} more the kernel "
            f"dropped by itself; {self.tunnel_address} to the tunnel's address from outside and {self.tiny_first} "
            f"with a tiny first fragment were blocked as documented; {len(self.differences)} differences, "
            f"{len(self.of_the_model)} from the model of nftables"
        )


def compare(host: Host, seed: int, policies: int, each: int) -> Result:
    """Send `each` packets under each of so many policies."""
    rng = random.Random(seed)
    result = Result()
    for _ in range(policies):
        policy = random_policy(rng, Platform.LINUX, TUNNEL)
        host.forget_flows()
        apply.apply(policy)
        _compare_one(host, rng, policy, each, result, apply.render(policy))
        result.policies += 1
    return result


def _compare_one(
    host: Host, rng: random.Random, policy: Policy, each: int, result: Result, document: dict[str, Any]
) -> None:
    sent: dict[int, tuple[Facts, str]] = {}
    asked: dict[int, int] = {}  # the serial of an answer -> that of the packet it answers
    used: set[Key] = set()
    answers: list[tuple[int, Facts]] = []
    for serial in range(1, each + 1):
        if answers and rng.random() < 0.5:
            (asked[serial], facts), flags = answers.pop(), packets.SYN_ACK
        else:
            facts, flags = _fresh(rng, policy, used), packets.SYN
        used |= {_key(facts), _key(facts)[:1] + _key(facts)[3:] + _key(facts)[1:3]}
        how = _send(host, rng, facts, serial, flags, result)
        sent[serial] = (facts, how)
        if serial not in asked and (answer := _answer(policy, facts)):
            answers.append((serial, answer))
    seen = host.observe()
    for serial, (facts, how) in sent.items():
        hook = _HOOK[facts.direction]
        if serial not in seen.shown[hook]:
            result.not_shown += 1
            continue
        if serial in asked:  # it answers a flow only if the kernel let the question out
            facts = replace(facts, reply=asked[serial] in seen.passed["output"])
        result.packets += 1
        result.replies += facts.reply
        result.fragmented += how in ("fragments", "tiny")
        result.extended += how == "extended"
        verdict = evaluate(policy, facts)
        passed = serial in seen.passed[hook]
        result.accepted += passed
        if facts.direction is not Direction.IN and facts.iface_out is not Interface.LOOPBACK:
            left = any(serial in seen.left[name] for name in (TUNNEL, OTHER, FAR))
            result.let_out += passed
            result.left += passed and left
            if left and not passed:
                result.differences.append(f"blocked, yet it left: {facts} under {policy.describe()}")
        modelled, comment = nft_model.judge(document, facts, TUNNEL)
        if passed != (modelled == "accept") and how != "tiny":
            result.of_the_model.append(
                f"the model says {modelled} by {comment} ({how}): {facts} under {policy.describe()}"
            )
        if passed == verdict.accept:
            continue
        if not passed and _to_tunnel_address(policy, facts):
            result.tunnel_address += 1
            continue
        if not passed and how == "tiny":
            result.tiny_first += 1
            continue
        rule = rules_for(policy)[verdict.rule].id
        result.differences.append(
            f"the kernel {'passed' if passed else 'blocked'} it, {rule} says otherwise ({how}): "
            f"{facts} under {policy.describe()}"
        )


def _fresh(rng: random.Random, policy: Policy, used: set[Key]) -> Facts:
    """A packet of no flow that was there before."""
    while True:
        facts = random_facts(rng, policy)
        if facts.direction is Direction.FORWARD and facts.iface_in is Interface.LOOPBACK:
            continue  # what comes in by lo was sent by this host
        if _never_shown(facts) and rng.random() < 0.95:
            continue
        if facts.direction is Direction.FORWARD and facts.mark not in (0, 0x6D6F6C65):
            continue  # the observer knows one mark
        if facts.sport is not None and facts.sport > 600 and rng.random() < 0.8:
            facts = replace(facts, sport=rng.randint(1024, 65535))
        if facts.direction is Direction.FORWARD and facts.iface_out is Interface.LOOPBACK:
            facts = replace(facts, iface_out=Interface.OTHER)
        if facts.direction is Direction.OUT and facts.uid is None:
            facts = replace(facts, uid=0)
        if _key(facts) not in used:
            return facts


def _never_shown(facts: Facts) -> bool:
    """What the kernel drops before the hooks of incoming and forwarded packets, whatever the firewall says."""
    if facts.direction is Direction.OUT:
        return False
    martian = facts.src.is_multicast or facts.src == _BROADCAST or facts.src.is_loopback or facts.dst.is_loopback
    link_local = facts.version == 6 and (facts.src.is_link_local or facts.dst.is_link_local)
    return martian or (
        facts.direction is Direction.FORWARD and (facts.dst.is_multicast or facts.dst == _BROADCAST or link_local)
    )


def _key(facts: Facts) -> Key:
    return (facts.proto, facts.src, facts.sport, facts.dst, facts.dport)


def _answer(policy: Policy, facts: Facts) -> Facts | None:
    """The answer to a packet that was let out, from where it went."""
    if facts.direction is not Direction.OUT or facts.iface_out is Interface.LOOPBACK or facts.sport is None:
        return None
    if not policy.blocks or not evaluate(policy, facts).accept or facts.src == facts.dst:
        return None
    return replace(
        facts, direction=Direction.IN, src=facts.dst, dst=facts.src, sport=facts.dport, dport=facts.sport,
        iface_in=facts.iface_out, uid=None, mark=0, reply=True,
    )  # fmt: skip


def _send(host: Host, rng: random.Random, facts: Facts, serial: int, flags: int, result: Result) -> str:
    """Whole, in fragments, or with extension headers; returns which."""
    fields = {"hop_limit": hop_limit(facts), "tos": tos(facts)}
    body = packets.transport(facts, rng.randbytes(64), tcp_flags=flags)
    way = rng.random()
    if way < 0.15:
        cuts = rng.choice([(8,), (24,), (16, 40), (8, 16)])
        host.send(facts, packets.fragments(facts, body, serial, cuts, **fields))
        # Linux does not put these together, since the first piece lacks a part of the TCP header (RFC 8200, 4.5).
        return "tiny" if facts.version == 6 and facts.proto == packets.TCP and cuts[0] < 20 else "fragments"
    if way < 0.3 and facts.version == 6:
        first, whole = packets.extended(rng.choice(_EXTENSIONS), facts.proto, body)
        host.send(facts, [packets.ip6(facts.src, facts.dst, first, whole, serial, **fields)])
        return "extended"
    host.send(facts, [packets.packet(facts, body, serial, **fields)])
    return "whole"


def _to_tunnel_address(policy: Policy, facts: Facts) -> bool:
    return (
        policy.tunnel is not None
        and facts.direction is Direction.IN
        and facts.iface_in is Interface.OTHER
        and facts.dst in policy.tunnel.addresses
    )
