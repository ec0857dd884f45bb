"""The audit's loop in C counts a capture as a slow reading in Python does, packet by packet, leaks included."""

import struct
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from engine.filter import FragmentModel, compile_rules
from engine.policy import Hop, Policy, Protocol, rules_for
from native.audit import Audit, Outcome, Sender
from native.facts import App, Direction, Facts, Interface, parse
from native.reasons import Reason
from native.verdict import Answer, Verdict
from tests.properties import policies
from tests.properties.packets import damaged_packets, packets
from tests.unit.native.test_audit import RAW_INTERFACE, SECTION, enhanced

SENDER = Sender(mark=0x6D6F6C65, uid=0, app=App.SERVICE)
IN, OUT = 1, 2  # as pcapng's flags say it


def outcome_of(verdict: Verdict) -> Outcome:
    if verdict.accept:
        return Outcome.ACCEPT
    if verdict.reason in (Reason.FRAGMENT_UNKNOWN, Reason.FRAGMENT_BAD):
        return Outcome[verdict.reason.name]
    return Outcome.REJECT if verdict.answer is Answer.REJECT else Outcome.DROP


def end(facts: Facts) -> tuple[object, ...]:
    return (facts.proto, facts.src, facts.sport, facts.dst, facts.dport)


def slowly(policy: Policy, capture: list[tuple[int, bytes]]) -> Counter[tuple[int, Outcome]]:
    """What the rows should be, with plain sets and the readable evaluator."""
    rules = rules_for(policy)
    model, sent = FragmentModel(rules), set()
    rows: Counter[tuple[int, Outcome]] = Counter()
    for way, packet in capture:
        facts = parse(packet)
        if isinstance(facts, Reason):
            rows[len(rules), Outcome[facts.name]] += 1
            continue
        if way == OUT:
            facts = replace(
                facts, direction=Direction.OUT, iface_out=Interface.OTHER, mark=SENDER.mark, uid=0, app=SENDER.app
            )
        else:
            answered = (facts.proto, facts.dst, facts.dport, facts.src, facts.sport) in sent
            facts = replace(facts, direction=Direction.IN, iface_in=Interface.OTHER, reply=answered)
        verdict = model.filter(facts, 0)
        if way == OUT and verdict.accept:
            sent.add(end(facts))
        rows[verdict.rule, outcome_of(verdict)] += 1
    return rows


@settings(max_examples=60)
@given(
    policies.policies(),
    st.lists(st.tuples(st.sampled_from([IN, OUT]), packets() | damaged_packets()), max_size=12),
    st.booleans(),
)
def test_the_audit_counts_as_a_slow_reading_does(policy: Policy, capture, answered: bool) -> None:
    # Nothing but IP has an IP version, and nothing is cut off here.
    capture = [(way, packet) for way, packet in capture if packet and packet[0] >> 4 in (4, 6)]
    capture = [(way, packet) for way, packet in capture if packet[0] >> 4 == 6 or packet[2:4] != b"\0\0"]
    capture += [(OUT, to_hop(hop)) for hop in (policy.first_hop, policy.api) if hop is not None]
    if answered:
        capture += [(IN, swapped(packet)) for way, packet in capture if way == OUT]
    data = SECTION + RAW_INTERFACE + b"".join(enhanced(packet, flags=way) for way, packet in capture)
    audit = Audit(compile_rules(rules_for(policy)), [], sender=SENDER)
    audit.collect({})
    used, leaks, _ = audit.feed(memoryview(data))
    expected = slowly(policy, capture)
    assert used == len(data)
    assert {key: count for key, (count, _) in audit.rows().items()} == expected
    leaked = sum(struct.unpack_from("<I", leaks, at)[0] == 6 for at in block_starts(leaks))
    assert audit.totals().leaks == leaked


def to_hop(hop: Hop) -> bytes:
    """A packet from one of our addresses to an endpoint of the policy."""
    source = "192.168.1.5" if hop.ip.version == 4 else "2001:db8::5"
    layer = IP if hop.ip.version == 4 else IPv6
    transport = (UDP if hop.protocol is Protocol.UDP else TCP)(sport=4000, dport=hop.port)
    return bytes(layer(src=source, dst=str(hop.ip)) / transport)


def swapped(packet: bytes) -> bytes:
    """The same packet from its destination to its source, ports swapped where they are plain to see."""
    first, size = (12, 4) if packet[0] >> 4 == 4 else (8, 16)
    end_of_addresses = first + 2 * size
    addresses = packet[first + size : end_of_addresses] + packet[first : first + size]
    packet = packet[:first] + addresses + packet[end_of_addresses:]
    ports = 20 if size == 4 else 40
    plain = packet[9 if size == 4 else 6 : 10 if size == 4 else 7] in (b"\x06", b"\x11") and packet[0] in (0x45, 0x60)
    if plain and len(packet) >= ports + 4:
        packet = packet[:ports] + packet[ports + 2 : ports + 4] + packet[ports : ports + 2] + packet[ports + 4 :]
    return packet


def block_starts(data: bytes) -> list[int]:
    starts, at = [], 0
    while at < len(data):
        starts.append(at)
        at += struct.unpack_from("<I", data, at + 4)[0]
    assert at == len(data)
    return starts
