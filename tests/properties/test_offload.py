"""Splitting and joining super-packets against their slow twins, under random packets."""

from __future__ import annotations

import dpkt  # type: ignore[import-untyped]
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP  # type: ignore[import-untyped]
from scapy.layers.inet6 import IPv6  # type: ignore[import-untyped]
from scapy.packet import Raw  # type: ignore[import-untyped]

from tests.offload_twin import gso_header, join, naive_split, split, unfinished, with_checksums

OPTIONS: list[list[tuple[str, object]]] = [
    [],
    [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))],
    [("MSS", 1400), ("WScale", 7), ("EOL", None)],
]

ANY_FLAGS = st.integers(0, 511)
relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def super_packets(draw: st.DrawFn, flags: st.SearchStrategy[int] = ANY_FLAGS) -> tuple[bytes, int]:
    """A TCP or UDP packet with up to 8 KiB of payload, and a segment size that makes at most 64 of it."""
    if draw(st.booleans()):
        ip = IP(
            src="10.0.0.1", dst="10.0.0.2", id=draw(st.integers(0, 0xFFFF)), tos=draw(st.integers(0, 255)),
            ttl=draw(st.integers(1, 255)), flags=draw(st.sampled_from(["DF", 0])),
        )  # fmt: skip
    else:
        ip = IPv6(
            src="fd00::1", dst="fd00::2", fl=draw(st.integers(0, 0xFFFFF)), tc=draw(st.integers(0, 255)),
            hlim=draw(st.integers(1, 255)),
        )  # fmt: skip
    ports = {"sport": draw(st.integers(0, 65535)), "dport": draw(st.integers(0, 65535))}
    if draw(st.booleans()):
        l4 = TCP(
            **ports, seq=draw(st.integers(0, 2**32 - 1)), ack=draw(st.integers(0, 2**32 - 1)),
            window=draw(st.integers(0, 65535)), flags=draw(flags),
            options=draw(st.sampled_from(OPTIONS)),
        )  # fmt: skip
    else:
        l4 = UDP(**ports)
    length = draw(st.integers(1, 8192))
    payload = draw(st.randoms(use_true_random=False)).randbytes(length)
    size = draw(st.integers(max(1, -(-length // 20)), 2000))
    return with_checksums(bytes(ip / l4 / Raw(payload))), size


@relaxed
@given(super_packets())
def test_a_super_packet_splits_into_what_the_twin_makes_of_it(drawn: tuple[bytes, int]) -> None:
    packet, size = drawn
    assert split(unfinished(packet), gso_header(packet, size)) == naive_split(packet, size)


@relaxed
@given(super_packets(flags=st.sampled_from([0x10, 0x18, 0x50])))
def test_what_was_split_joins_into_the_same_bytes(drawn: tuple[bytes, int]) -> None:
    packet, size = drawn
    pieces = split(unfinished(packet), gso_header(packet, size))
    assert isinstance(pieces, list)
    (written,) = join(pieces)
    header, joined = written
    if len(pieces) > 1:
        assert header == gso_header(packet, size)
    assert with_checksums(joined) == packet
    assert split(joined, header) == pieces


Spec = tuple[int, int, str, int, int, bool]


def build(specs: list[Spec]) -> list[bytes]:
    """Wire packets of a few flows, mixed, with losses, odd sizes, damage and flags in between."""
    packets = []
    next_seq: dict[int, int] = {}
    sent = [0] * 4
    for flow, length, flags, window, gap, damaged in specs:
        sent[flow] += 1
        seq = next_seq.get(flow, 1)
        next_seq[flow] = seq + length + gap
        payload = bytes([flow]) * length
        if flow < 2:
            l4 = dpkt.tcp.TCP(sport=flow, dport=80, seq=seq, ack=7, flags=FLAGS[flags], win=window, data=payload)
        else:
            l4 = dpkt.udp.UDP(sport=flow, dport=53, ulen=8 + length, data=payload)
        proto = 6 if flow < 2 else 17
        if flow % 2:
            ip = dpkt.ip.IP(src=b"\n\0\0\1", dst=b"\n\0\0\2", id=sent[flow], df=1, p=proto, data=l4)
            ip.len = 20 + len(l4)
        else:
            ip = dpkt.ip6.IP6(src=b"\xfd" * 16, dst=b"\xfe" * 16, nxt=proto, p=proto, data=l4, plen=len(l4), hlim=9)
            ip.extension_hdrs = {}
        packet = bytes(ip)
        packets.append(packet[:-1] + bytes([packet[-1] ^ 1]) if damaged and payload else packet)
    return packets


FLAGS = {"A": 0x10, "PA": 0x18, "FA": 0x11, "S": 0x02}
specs = st.tuples(
    st.integers(0, 3), st.sampled_from([100] * 4 + [99, 1, 0]), st.sampled_from(["A"] * 3 + ["PA", "FA", "S"]),
    st.sampled_from([500, 500, 500, 9]), st.sampled_from([0, 0, 0, 0, 5]), st.sampled_from([False] * 9 + [True]),
)  # fmt: skip


@relaxed
@given(st.lists(specs, min_size=1, max_size=40))
def test_joining_keeps_every_packet_and_the_order_within_each_flow(drawn: list[Spec]) -> None:
    def by_flow(all_packets: list[bytes]) -> dict[tuple[int, bytes], list[bytes]]:
        flows: dict[tuple[int, bytes], list[bytes]] = {}
        for packet in all_packets:
            at = 20 if packet[0] >> 4 == 4 else 40
            flows.setdefault((at, packet[at : at + 2]), []).append(packet)
        return flows

    packets = build(drawn)
    back: list[bytes] = []
    for header, data in join(packets):
        pieces = split(data, header) if header.flags else [data]
        assert isinstance(pieces, list)
        back += pieces
    assert by_flow(back) == by_flow(packets)


def test_some_random_bursts_are_indeed_joined() -> None:
    packets = build([(flow, 100, "A", 500, 0, False) for flow in (0, 1, 2, 3)] * 3)
    assert [header.gso_size for header, _ in join(packets)] == [100] * 4
