"""The engine's own ping, against scapy as independent builder and dissector."""

import warnings
from ipaddress import ip_address

import pytest

from engine.tunnel.echo import IPAddress, checksum, echo_reply, echo_request

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from scapy.layers.inet import ICMP, IP, UDP
    from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6


def test_a_v4_request_is_what_scapy_would_build() -> None:
    ours = echo_request(ip_address("10.0.0.1"), ip_address("10.0.0.2"), 7, 9)
    theirs = IP(src="10.0.0.1", dst="10.0.0.2", id=0, flags="DF", ttl=64) / ICMP(id=7, seq=9)
    assert ours == bytes(theirs)


def test_a_v6_request_is_what_scapy_would_build() -> None:
    ours = echo_request(ip_address("fd00::1"), ip_address("fd00::2"), 7, 9)
    theirs = IPv6(src="fd00::1", dst="fd00::2", hlim=64) / ICMPv6EchoRequest(id=7, seq=9)
    assert ours == bytes(theirs)


def test_a_ping_between_families_is_refused() -> None:
    with pytest.raises(ValueError, match="different families"):
        echo_request(ip_address("10.0.0.1"), ip_address("fd00::2"), 7, 9)


@pytest.mark.parametrize(
    ("packet", "answer"),
    [
        (bytes(IP(src="10.0.0.2", dst="10.0.0.1") / ICMP(type=0, id=7, seq=513)), (ip_address("10.0.0.2"), 513)),
        (bytes(IPv6(src="fd00::2", dst="fd00::1") / ICMPv6EchoReply(id=7, seq=513)), (ip_address("fd00::2"), 513)),
        (bytes(IP(src="10.0.0.2", dst="10.0.0.1") / ICMP(type=8, id=7, seq=513)), None),
        (bytes(IP(src="10.0.0.2", dst="10.0.0.1") / UDP()), None),
        (b"", None),
        (b"\x45" * 27, None),
        (b"\x60" * 47, None),
    ],
)
def test_only_echo_replies_answer(packet: bytes, answer: tuple[IPAddress, int] | None) -> None:
    assert echo_reply(packet) == answer


def test_the_checksum_of_an_odd_number_of_bytes_pads_with_zero() -> None:
    assert checksum(b"\x01\x02\x03") == checksum(b"\x01\x02\x03\x00")
