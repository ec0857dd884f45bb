"""Splitting and joining super-packets: what must not be split, and what must not be joined."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_LSRR  # type: ignore[import-untyped]
from scapy.layers.inet6 import IPv6, IPv6ExtHdrRouting  # type: ignore[import-untyped]
from scapy.layers.l2 import GRE  # type: ignore[import-untyped]
from scapy.packet import Packet, Raw  # type: ignore[import-untyped]
from scapy.utils import checksum  # type: ignore[import-untyped]

from native.reasons import Reason
from tests.offload_twin import (
    EVERY_KIND,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    NEEDS_CSUM,
    TCP4,
    UDP4,
    Header,
    gso_header,
    join,
    naive_split,
    parsed,
    split,
    unfinished,
    with_checksums,
)


def tcp(seq: int, payload: bytes = b"x" * 100, *, ip: Packet | None = None, **fields: object) -> bytes:
    ip = ip or IP(src="10.0.0.1", dst="10.0.0.2", flags="DF")
    defaults: dict[str, object] = {"sport": 1, "dport": 2, "ack": 5, "window": 100, "flags": "A"}
    return bytes(ip / TCP(**(defaults | {"seq": seq} | fields)) / Raw(payload))


def counts(packets: list[bytes], kinds: int = EVERY_KIND) -> list[int]:
    """How many wire packets each write carries."""
    result = []
    for header, data in join(packets, kinds):
        pieces = split(data, header) if header.flags else [data]
        assert isinstance(pieces, list)
        result.append(len(pieces))
    return result


def test_an_unfinished_checksum_is_finished() -> None:
    whole = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / Raw(b"odd"))
    tree = parsed(whole)
    pseudo = 0x0A00 * 2 + 1 + 2 + 17 + (8 + 3)
    tree[UDP].chksum = pseudo
    assert split(bytes(tree), Header(NEEDS_CSUM, csum_start=20, csum_offset=6)) == [whole]


def test_a_packet_without_offloads_passes_as_it_is() -> None:
    assert split(tcp(1), Header()) == [tcp(1)]


@pytest.mark.parametrize(
    "header",
    [
        Header(NEEDS_CSUM, GSO_TCPV4, 40, 0, 20, 16),
        Header(NEEDS_CSUM, 4, 40, 50, 20, 16),
        Header(NEEDS_CSUM, 5, 40, 50, 20, 6),
        Header(NEEDS_CSUM, 77, 40, 50, 20, 16),
        Header(NEEDS_CSUM, csum_start=0, csum_offset=10),
        Header(NEEDS_CSUM, csum_start=20, csum_offset=0),
        Header(NEEDS_CSUM, csum_start=139, csum_offset=0),
        Header(NEEDS_CSUM, csum_start=65535, csum_offset=65535),
    ],
    ids=[
        "no segment size", "IPv6 for an IPv4 packet", "UDP for a TCP packet", "no such type", "into the addresses",
        "over the ports", "half behind the end", "far behind the end",
    ],
)  # fmt: skip
def test_a_virtio_header_that_does_not_fit_its_packet_is_malformed(header: Header) -> None:
    assert split(tcp(1), header) == Reason.MALFORMED


@pytest.mark.parametrize(
    ("packet", "start", "offset"),
    [
        (UDP(sport=1, dport=2) / Raw(bytes(40)), 22, 0),
        (UDP(sport=1, dport=2) / Raw(bytes(40)), 21, 1),
        (UDP(sport=1, dport=2) / Raw(bytes(40)), 20, 8),
        (TCP(sport=1, dport=2) / Raw(bytes(40)), 21, 1),
        (TCP(sport=1, dport=2) / Raw(bytes(40)), 32, 0),
        (ICMP() / Raw(bytes(40)), 20, 0),
        (ICMP() / Raw(bytes(40)), 20, 1),
    ],
    ids=["UDP port", "UDP port, odd", "UDP payload", "TCP ports", "TCP flags", "ICMP type", "ICMP code"],
)
def test_a_checksum_is_never_finished_over_what_was_judged(packet: Packet, start: int, offset: int) -> None:
    whole = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / packet)
    assert split(whole, Header(NEEDS_CSUM, csum_start=start, csum_offset=offset)) == Reason.MALFORMED


@pytest.mark.parametrize(
    ("packet", "start", "offset"),
    [
        (UDP(sport=1, dport=4789) / Raw(bytes(60)), 50, 6),
        (ICMP(chksum=0) / Raw(bytes(40)), 20, 2),
        (GRE() / Raw(bytes(60)), 44, 16),
    ],
    ids=["of a packet in a UDP tunnel", "ICMP", "of a packet in GRE"],
)
def test_a_checksum_behind_what_was_judged_is_finished(packet: Packet, start: int, offset: int) -> None:
    whole = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / packet)
    (finished,) = split(whole, Header(NEEDS_CSUM, csum_start=start, csum_offset=offset))
    at = start + offset
    assert finished[:at] + finished[at + 2 :] == whole[:at] + whole[at + 2 :]
    assert checksum(finished[start:]) == 0


def test_a_super_packet_whose_tcp_header_is_cut_is_malformed() -> None:
    packet = tcp(1, b"")
    assert split(packet, gso_header(packet, 100)) == Reason.MALFORMED


@pytest.mark.parametrize("l4", [TCP(flags="A"), UDP(sport=1, dport=2)], ids=["TSO", "USO"])
@pytest.mark.parametrize(
    ("routed", "last"),
    [
        (
            IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrRouting(type=2, segleft=1, addresses=["fd00::99"]),
            IPv6(src="fd00::1", dst="fd00::99"),
        ),
        (
            IP(src="10.0.0.1", dst="10.0.0.2", options=[IPOption_LSRR(routers=["10.0.0.99"])]),
            IP(src="10.0.0.1", dst="10.0.0.99"),
        ),
    ],
    ids=["routing header", "source route"],
)
def test_segments_on_a_detour_are_summed_for_their_last_destination(routed: Packet, last: Packet, l4: Packet) -> None:
    """The addresses of the pseudo-header (RFC 8200 8.1) are in the unfinished checksum alone."""
    at, field = len(bytes(routed)), 16 if TCP in l4 else 6
    header = 20 if TCP in l4 else 8
    straight = bytes(last / l4 / Raw(b"x" * 2500))
    summed = unfinished(straight)[-2500 - header :]
    kind = GSO_UDP_L4 if UDP in l4 else GSO_TCPV6 if IPv6 in routed else GSO_TCPV4
    packet = bytes(routed / l4 / Raw(b"x" * 2500))[:at] + summed
    pieces = split(packet, Header(NEEDS_CSUM, kind, at + header, 1000, at, field))
    assert isinstance(pieces, list)
    expected = naive_split(with_checksums(straight), 1000)
    assert [piece[at:] for piece in pieces] == [piece[-len(piece) + len(bytes(last)) :] for piece in expected]


def test_a_fragment_is_no_super_packet() -> None:
    packet = tcp(1, ip=IP(src="10.0.0.1", dst="10.0.0.2", flags="MF"))
    assert split(packet, gso_header(packet, 50)) == Reason.MALFORMED


def test_consecutive_segments_are_joined_up_to_a_push() -> None:
    packets = [tcp(1), tcp(101), tcp(201, flags="PA"), tcp(301), tcp(401)]
    assert counts(packets) == [3, 2]
    header, data = join(packets)[0]
    assert header == gso_header(data, 100)
    assert parsed(data)[TCP].flags == "PA"


def test_two_connections_are_joined_each_by_itself() -> None:
    packets = [tcp(1), tcp(1, sport=9), tcp(101), tcp(101, sport=9)]
    assert counts(packets) == [2, 2]


def test_a_shorter_segment_ends_its_super_packet_and_a_longer_one_starts_another() -> None:
    assert counts([tcp(1), tcp(101, b"y"), tcp(102)]) == [2, 1]
    assert counts([tcp(1), tcp(101, b"y" * 101)]) == [1, 1]


@pytest.mark.parametrize(
    "second",
    [
        tcp(102), tcp(1), tcp(101, ack=6), tcp(101, window=99), tcp(101, flags="FA"), tcp(101, flags="A", urgptr=1),
        tcp(101, flags="EA"), tcp(101, options=[("NOP", None)] * 4), tcp(101, b""),
        tcp(101, ip=IP(src="10.0.0.1", dst="10.0.0.2", flags="DF", ttl=9)),
        tcp(101, ip=IP(src="10.0.0.1", dst="10.0.0.2", flags="DF", tos=2)),
        tcp(101, ip=IP(src="10.0.0.1", dst="10.0.0.2")),
        tcp(101, ip=IP(src="10.0.0.1", dst="10.0.0.2", flags="DF", options=[b"\x01\x01\x01\x00"])),
        tcp(101)[:-1] + b"y",
    ],
    ids=[
        "a gap", "a repeat", "other ack", "other window", "FIN", "urgent", "ECE", "other options", "empty",
        "other TTL", "other TOS", "other DF", "IP options", "wrong checksum",
    ],
)  # fmt: skip
def test_a_segment_that_differs_is_not_joined_and_comes_second(second: bytes) -> None:
    written = join([tcp(1), second])
    assert [data for _, data in written] == [tcp(1), second]
    assert all(header == Header() for header, _ in written)


def test_without_df_the_id_must_count_on() -> None:
    def at(number: int) -> Packet:
        return IP(src="10.0.0.1", dst="10.0.0.2", id=number)

    assert counts([tcp(1, ip=at(7)), tcp(101, ip=at(8))]) == [2]
    assert counts([tcp(1, ip=at(7)), tcp(101, ip=at(9))]) == [1, 1]


def test_with_df_the_id_means_nothing() -> None:
    ip = IP(src="10.0.0.1", dst="10.0.0.2", flags="DF", id=0)
    assert counts([tcp(1, ip=ip), tcp(101, ip=ip)]) == [2]


def test_nothing_overtakes_a_packet_of_another_protocol_or_a_fragment() -> None:
    ping = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / ICMP())
    assert [data for _, data in join([tcp(1), ping, tcp(101)])] == [tcp(1), ping, tcp(101)]


def test_a_device_that_takes_no_such_super_packets_gets_single_ones() -> None:
    datagram = bytes(IP(src="10.0.0.1", dst="10.0.0.2", flags="DF") / UDP(sport=1, dport=2) / Raw(b"x" * 10))
    assert counts([tcp(1), tcp(101)], UDP4) == [1, 1]
    assert counts([datagram, datagram], TCP4) == [1, 1]
    assert counts([datagram, datagram], UDP4) == [2]


def test_udp_without_a_checksum_is_not_joined() -> None:
    datagram = bytes(IP(src="10.0.0.1", dst="10.0.0.2", flags="DF") / UDP(sport=1, dport=2, chksum=0) / Raw(b"x"))
    assert counts([datagram, datagram]) == [1, 1]


def test_at_most_64_datagrams_and_65535_bytes_are_joined() -> None:
    ip = IPv6(src="fd00::1", dst="fd00::2")
    assert counts([bytes(ip / UDP(sport=1, dport=2) / Raw(b"x"))] * 100) == [64, 36]
    segments = [tcp(1 + 1400 * i, b"z" * 1400) for i in range(60)]
    assert counts(segments) == [46, 14]


def test_checksums_of_a_joined_packet_are_what_the_kernel_expects_to_complete() -> None:
    header, data = join([tcp(1), tcp(101)])[0]
    (finished,) = split(data, Header(header.flags, 0, 0, 0, header.csum_start, header.csum_offset)) or [b""]
    assert finished == with_checksums(finished)
