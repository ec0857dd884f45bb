"""The witness itself: what it calls a leak, what it lets be, and that a probe is found again in its frames."""

from __future__ import annotations

import ipaddress
import struct

import dpkt  # type: ignore[import-untyped]
import pytest

from engine.leaklab.capture import Frame
from engine.leaklab.frames import is_wireguard, judge
from engine.leaklab.probes import Attempt, Probe
from tests.netns.scenario import PROBES, Seen, expected
from tests.netns.scenario import judge as outcome

RELAYS = [("198.51.100.10", 51820), ("2001:db8:100::10", 51820)]
INITIATION = b"\1\0\0\0" + bytes(144)


def frame(target: str, payload: bytes, protocol: int = 17, hop_limit: int = 64, source: str = "") -> bytes:
    """An Ethernet frame with an IPv4 or IPv6 packet."""
    dst = ipaddress.ip_address(target)
    src = ipaddress.ip_address(source or ("192.168.77.2" if dst.version == 4 else "fe80::2"))
    if dst.version == 4:
        packet = dpkt.ip.IP(src=src.packed, dst=dst.packed, p=protocol, ttl=hop_limit, data=payload)
        packet.len = 20 + len(payload)
        kind = 0x0800
    else:
        packet = dpkt.ip6.IP6(src=src.packed, dst=dst.packed, nxt=protocol, hlim=hop_limit, plen=len(payload))
        packet.data = payload
        kind = 0x86DD
    return bytes(12) + struct.pack("!H", kind) + bytes(packet)


def udp(port: int, payload: bytes = b"x", source_port: int = 40000) -> bytes:
    return struct.pack("!HHHH", source_port, port, 8 + len(payload), 0) + payload


def tcp(port: int) -> bytes:
    return struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 0x50, 2, 65535, 0, 0)


def icmp6(kind: int) -> bytes:
    return struct.pack("!BBHI", kind, 0, 0, 0) + bytes(16)


def test_a_wireguard_message_to_the_relay_is_wireguard() -> None:
    assert judge(frame("198.51.100.10", udp(51820, INITIATION)), RELAYS)[0] == "wireguard"
    assert judge(frame("2001:db8:100::10", udp(51820, INITIATION)), RELAYS)[0] == "wireguard"


def test_what_goes_to_the_bridge_by_its_protocol_is_the_bridges_and_by_another_or_elsewhere_in_clear() -> None:
    bridge = ("tcp", "203.0.113.90", 443)
    assert judge(frame("203.0.113.90", tcp(443), protocol=6), [], bridge)[0] == "bridge"
    for packet in (
        frame("203.0.113.90", udp(443)),
        frame("203.0.113.90", tcp(444), protocol=6),
        frame("203.0.113.91", tcp(443), protocol=6),
        frame("198.51.100.10", udp(51820, INITIATION)),
    ):  # fmt: skip
        assert judge(packet, [], bridge)[0] == "clear"


@pytest.mark.parametrize(
    ("target", "payload"),
    [
        ("198.51.100.11", udp(51820, INITIATION)),
        ("198.51.100.10", udp(51821, INITIATION)),
        ("198.51.100.10", udp(51820, b"hello relay")),
        ("198.51.100.10", udp(51820, INITIATION[:-1])),
        ("198.51.100.10", udp(51820, b"\5\0\0\0" + bytes(144))),
    ],
    ids=["other host", "other port", "other payload", "wrong length", "unknown type"],
)
def test_anything_else_towards_the_relay_is_in_clear(target: str, payload: bytes) -> None:
    assert judge(frame(target, payload), RELAYS)[0] == "clear"


def test_the_form_of_each_wireguard_message_is_known() -> None:
    assert all(is_wireguard(bytes([kind, 0, 0, 0]) + bytes(size - 4)) for kind, size in ((1, 148), (2, 92), (3, 64)))
    assert is_wireguard(b"\4\0\0\0" + bytes(28))
    assert not is_wireguard(b"\4\0\0\0" + bytes(27))
    assert not is_wireguard(b"\4\0\0\1" + bytes(28))


@pytest.mark.parametrize(
    "packet",
    [
        frame("203.0.113.80", tcp(443)),
        frame("203.0.113.80", udp(443)),
        frame("2001:db8:80::80", udp(443)),
        frame("203.0.113.80", b"\x08\0\0\0" + bytes(8), protocol=1),
        frame("203.0.113.80", bytes(40), protocol=47),
        frame("2001:db8:80::80", icmp6(128), protocol=58),
        frame("192.168.77.1", udp(53)),
        frame("192.168.77.1", tcp(53)),
        bytes(12) + b"\x88\xb5payload",
        bytes(12) + b"\x08\x00\x45\x00",
    ],
    ids=["TCP", "UDP", "UDP6", "ping", "GRE", "ping6", "LAN DNS", "LAN DNS TCP", "ethertype", "truncated"],
)
def test_traffic_to_the_internet_dns_and_what_cannot_be_read_are_in_clear(packet: bytes) -> None:
    assert judge(packet, RELAYS)[0] == "clear"


def test_later_fragments_count_as_what_their_destination_is() -> None:
    packet = bytearray(frame("203.0.113.80", bytes(64)))
    packet[14 + 6 : 14 + 8] = struct.pack("!H", 185)
    assert judge(bytes(packet), RELAYS) == ("clear", "fragment 192.168.77.2 -> 203.0.113.80")


@pytest.mark.parametrize(
    ("packet", "kind"),
    [
        (frame("255.255.255.255", udp(67, source_port=68), source="0.0.0.0"), "dhcp"),
        (frame("ff02::1:2", udp(547, source_port=546)), "dhcp"),
        (frame("ff02::2", icmp6(133), protocol=58, hop_limit=255), "ndp"),
        (frame("ff02::16", icmp6(143), protocol=58, hop_limit=1), "mld"),
        (frame("192.168.77.20", udp(7007)), "lan"),
        (frame("239.1.2.3", udp(7007)), "lan"),
        (frame("ff05::1234", udp(7007)), "lan"),
    ],
    ids=["DHCP", "DHCPv6", "NDP", "MLD", "LAN", "multicast", "multicast6"],
)
def test_the_links_own_traffic_is_told_apart(packet: bytes, kind: str) -> None:
    assert judge(packet, RELAYS)[0] == kind


def test_neighbour_discovery_from_beyond_the_link_is_no_neighbour_discovery() -> None:
    packet = frame("2001:db8:80::80", icmp6(135), protocol=58, hop_limit=64)
    assert judge(packet, RELAYS)[0] == "clear"


def test_a_probe_is_known_by_its_token_even_inside_a_wireguard_message() -> None:
    probe, token = PROBES[0], "mh0123456789abcd"
    data = frame("198.51.100.10", udp(51820, b"\4\0\0\0" + token.encode() * 2))
    kind, line = judge(data, RELAYS)
    assert kind == "wireguard"
    assert outcome(probe, Attempt([token]), [Frame(0, kind, line, data)]) is Seen.CLEAR


def test_a_syn_is_known_by_its_ports() -> None:
    data = frame("203.0.113.80", tcp(7007))
    seen = Frame(0, *judge(data, RELAYS), data)
    assert outcome(PROBES[0], Attempt(["-> 203.0.113.80 ports 40000 -> 7007"]), [seen]) is Seen.CLEAR
    assert outcome(PROBES[0], Attempt(["-> 203.0.113.80 ports 40001 -> 7007"]), [seen]) is Seen.BLOCKED


def test_an_answer_counts_as_tunnelled_only_if_the_server_saw_a_tunnel_address() -> None:
    assert outcome(PROBES[0], Attempt(["x"], source="10.64.0.2"), []) is Seen.TUNNEL
    assert outcome(PROBES[0], Attempt(["x"], source="192.168.77.2"), []) is Seen.ODD


def test_only_probes_that_no_tun_can_stop_are_free_of_a_promise_and_only_while_blocking() -> None:
    for probe in PROBES:
        assert expected(probe.group, "disconnected", False) is Seen.CLEAR
        for state in ("connecting", "connected", "error"):
            promised = expected(probe.group, state, False)
            assert (promised is None) == (probe.group == "limit")
            assert promised is not Seen.CLEAR
    assert {probe.group for probe in PROBES} == {"internet", "other DNS", "LAN", "bypass", "inbound", "limit"}
    assert isinstance(PROBES[0], Probe)
