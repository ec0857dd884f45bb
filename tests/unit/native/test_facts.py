"""The packet parser: extension headers, options, fragments, and every length that lies."""

import struct
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR, fragment
from scapy.layers.inet6 import (
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    fragment6,
)
from scapy.layers.ipsec import AH, ESP
from scapy.packet import Raw

from native.facts import Facts, Fragment, parse
from native.reasons import Reason

V4 = IP(src="192.0.2.1", dst="192.0.2.2", id=7)
V6 = IPv6(src="2001:db8::1", dst="2001:db8::2")
DNS = UDP(sport=4000, dport=53) / Raw(bytes(24))


def facts_of(packet: object) -> Facts:
    facts = parse(bytes(packet))  # type: ignore[call-overload]
    assert isinstance(facts, Facts), facts
    return facts


def changed(packet: object, place: int, format: str, value: int) -> bytes:
    raw = bytearray(bytes(packet))  # type: ignore[call-overload]
    struct.pack_into(format, raw, place, value)
    return bytes(raw)


def test_a_plain_packet_shows_addresses_and_ports() -> None:
    facts = facts_of(V4 / DNS)
    assert (facts.version, facts.proto, facts.sport, facts.dport) == (4, 17, 4000, 53)
    assert (facts.src, facts.dst) == (ip_address("192.0.2.1"), ip_address("192.0.2.2"))
    assert (facts.header_len, facts.total_len, facts.fragment) == (20, 52, Fragment.WHOLE)
    assert facts_of(IP(tos=0xB9) / DNS).tos == 0xB9
    assert facts_of(IPv6(tc=0xB9) / DNS).tos == 0xB9


def test_ipv4_options_move_the_ports() -> None:
    facts = facts_of(IP(src="192.0.2.1", dst="192.0.2.2", options=[IPOption_RR()]) / DNS)
    assert facts.header_len > 20
    assert facts.dport == 53


def test_extension_headers_in_any_order_do_not_hide_the_ports() -> None:
    ah = AH(nh=60, payloadlen=4, icv=bytes(12))
    chain = IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting() / ah / IPv6ExtHdrDestOpt()
    facts = facts_of(V6 / chain / DNS)
    assert (facts.proto, facts.dport) == (17, 53)


def test_too_many_extension_headers_are_refused() -> None:
    packet = V6
    for _ in range(8):
        packet = packet / IPv6ExtHdrDestOpt()
    assert facts_of(packet / DNS).dport == 53
    assert parse(bytes(packet / IPv6ExtHdrDestOpt() / DNS)) is Reason.MALFORMED


def test_hop_by_hop_options_anywhere_but_first_are_refused() -> None:
    assert parse(bytes(V6 / IPv6ExtHdrDestOpt() / IPv6ExtHdrHopByHop() / DNS)) is Reason.MALFORMED


def test_an_extension_header_longer_than_the_packet_is_refused() -> None:
    packet = V6 / IPv6ExtHdrDestOpt() / DNS
    assert facts_of(packet).dport == 53
    assert parse(changed(packet, 41, "B", 200)) is Reason.MALFORMED


def test_an_ah_that_claims_less_than_its_fixed_part_is_refused() -> None:
    packet = V6 / AH(nh=17, payloadlen=4, icv=bytes(12)) / DNS
    assert facts_of(packet).dport == 53
    assert parse(changed(packet, 41, "B", 0)) is Reason.MALFORMED


def test_esp_and_no_next_header_end_the_walk_without_ports() -> None:
    for version in (V4, V6):
        facts = facts_of(version / ESP(data=bytes(16)))
        assert (facts.proto, facts.sport) == (50, None)
    facts = facts_of(IPv6(nh=59) / Raw(bytes(DNS)))
    assert (facts.proto, facts.sport) == (59, None)


def test_icmp_counts_in_its_own_ip_version_alone() -> None:
    assert facts_of(V4 / ICMP(type=8, code=3)).icmp_code == 3
    assert facts_of(V6 / ICMPv6ND_NS()).icmp_type == 135
    assert facts_of(IP(proto=58) / Raw(bytes(ICMPv6ND_NS()))).icmp_type is None
    assert facts_of(IPv6(nh=1) / Raw(bytes(ICMP()))).icmp_type is None


@pytest.mark.parametrize(
    "packet", [V4 / DNS, V6 / IPv6ExtHdrDestOpt() / DNS, V6 / TCP(), V4 / TCP(), V6 / ICMPv6ND_NS()]
)
def test_a_truncated_packet_is_refused_wherever_it_is_cut(packet: object) -> None:
    raw = bytes(packet)  # type: ignore[call-overload]
    for length in range(len(raw)):
        assert parse(raw[:length]) is Reason.MALFORMED


def test_bytes_behind_the_ip_length_are_padding() -> None:
    assert facts_of(bytes(V4 / DNS) + bytes(12)).total_len == 52
    assert facts_of(bytes(V6 / DNS) + bytes(12)).total_len == 72


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00" * 40,
        b"\x55" + bytes(60),
        changed(V4 / DNS, 0, "B", 0x44),  # header length below 20
        changed(V4 / DNS, 0, "B", 0x4F),  # header length beyond the total length
        changed(V4 / DNS, 2, ">H", 19),  # total length below the header
        changed(V4 / DNS, 2, ">H", 53),  # total length beyond the packet
        changed(V6 / DNS, 4, ">H", 33),  # payload length beyond the packet
        changed(V4 / TCP(), 32, "B", 0x40),  # TCP header below 20 bytes
        changed(V4 / TCP(), 32, "B", 0x60),  # TCP header beyond the packet
        changed(V4 / DNS, 24, ">H", 7),  # UDP length below its header
        changed(V4 / DNS, 24, ">H", 33),  # UDP length beyond the packet
        bytes(IP(proto=17) / Raw(bytes(7))),
        bytes(IP(proto=1) / Raw(bytes(7))),
        bytes(IP(proto=6) / Raw(bytes(19))),
        bytes(IPv6(nh=58) / Raw(bytes(7))),
        bytes(IPv6(nh=0, plen=0)),  # a jumbogram says 0
    ],
)
def test_lengths_that_contradict_each_other_are_refused(raw: bytes) -> None:
    assert parse(raw) is Reason.MALFORMED


@pytest.mark.parametrize("version", [4, 6])
def test_fragments_say_which_part_they_are(version: int) -> None:
    body = UDP(sport=4000, dport=53) / Raw(bytes(3000))
    parts = fragment(V4 / body, 1000) if version == 4 else fragment6(V6 / IPv6ExtHdrFragment(id=7) / body, 1048)
    seen = [facts_of(part) for part in parts]
    assert [facts.fragment for facts in seen] == [Fragment.FIRST] + [Fragment.LATER] * (len(parts) - 1)
    assert [facts.dport for facts in seen] == [53] + [None] * (len(parts) - 1)
    assert {facts.frag_id for facts in seen} == {7}
    assert sum(facts.frag_len for facts in seen) == 3008
    end = 0
    for facts in seen:
        assert facts.frag_offset == end
        end += facts.frag_len


def test_an_atomic_fragment_is_a_whole_packet() -> None:
    facts = facts_of(V6 / IPv6ExtHdrFragment(id=9) / DNS)
    assert (facts.fragment, facts.dport, facts.frag_id) == (Fragment.WHOLE, 53, 9)


@pytest.mark.parametrize(
    "packet",
    [
        IP(flags="MF", proto=17) / Raw(b""),  # no byte of the datagram
        IP(flags="MF", proto=6) / Raw(bytes(16)),  # ports but not the TCP header
        IP(flags="MF", proto=6) / Raw(bytes(8)),
        IPv6() / IPv6ExtHdrFragment(m=1, nh=6) / Raw(bytes(8)),
        IPv6() / IPv6ExtHdrFragment(m=1, nh=60) / Raw(b"\x06\x00" + bytes(6)),  # the header chain is cut (RFC 7112)
        IP(flags="MF", proto=17) / Raw(bytes(4) + b"\0\x40" + bytes(3)),  # not a multiple of 8 bytes
        IP(frag=1, proto=6) / Raw(bytes(40)),  # lies over the TCP header (RFC 3128)
        IP(frag=2, proto=6) / Raw(bytes(40)),
        IPv6() / IPv6ExtHdrFragment(offset=1, nh=6) / Raw(bytes(40)),
        IP(frag=8191, proto=17) / Raw(bytes(40)),  # ends beyond 65535
        IPv6() / IPv6ExtHdrFragment(offset=8191, nh=17) / Raw(bytes(40)),
        IPv6() / IPv6ExtHdrFragment() / IPv6ExtHdrFragment(m=1) / UDP() / Raw(bytes(8)),  # one inside another
        IP(frag=100, proto=17) / Raw(b""),
    ],
)
def test_fragment_tricks_are_refused_as_such(packet: object) -> None:
    assert parse(bytes(packet)) is Reason.FRAGMENT_BAD  # type: ignore[call-overload]


def test_facts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot go from"):
        Facts(4, 6, ip_address("::1"), ip_address("::1"))
    with pytest.raises(ValueError, match="both ports or none"):
        Facts(6, 6, ip_address("::1"), ip_address("::1"), sport=1)
    with pytest.raises(ValueError, match="both ICMP type and code"):
        Facts(6, 58, ip_address("::1"), ip_address("::1"), icmp_code=1)


def test_the_middle_of_an_ipv6_datagram_is_not_read_as_headers() -> None:
    inside = Raw(b"\x11\x00" + bytes(6)) / UDP(sport=4000, dport=53) / Raw(bytes(24))
    facts = facts_of(V6 / IPv6ExtHdrFragment(offset=10, nh=60) / inside)
    assert (facts.fragment, facts.proto, facts.header_len, facts.sport) == (Fragment.LATER, 60, 48, None)
    assert (facts.frag_offset, facts.frag_len) == (80, len(inside))
