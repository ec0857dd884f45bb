"""Edges of the path between us and wireguard-go: narrow outer links, super-packets of UDP, scopes, floods, silence."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import time
from base64 import b64decode

import pytest

from tests.interop.link import INNER, MIB, OUTER, PORT, ROLES, Link, Sent
from tests.netns.lab import Namespace, wait_until

pytestmark = pytest.mark.netns
roles = pytest.mark.parametrize("commands", ROLES.values(), ids=ROLES.keys())
UDP_SEGMENT = 103


@roles
@pytest.mark.parametrize("outer", [4, 6])
def test_an_outer_link_too_narrow_for_the_tunnels_mtu_costs_fragments_not_packets(
    commands: tuple[str, str], outer: int
) -> None:
    with Link(commands, outer=outer) as link:
        assert link.ping()
        for role in "ab":
            link.lab[role].ip("link set eth0 mtu 1300")
        assert link.ping(4, size=1420 - 28)
        assert link.send(4 * MIB, ends="ab") == Sent(4 * MIB, True)
        assert link.send(4 * MIB, ends="ba") == Sent(4 * MIB, True)


def _datagrams(source: Namespace, target: Namespace, address: str, size: int, count: int) -> list[bytes]:
    """Send numbered datagrams of `size` bytes by UDP_SEGMENT, up to 40 in one call; return what arrived."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with target.entered():
        sink = socket.socket(family, socket.SOCK_DGRAM)
    with source.entered():
        spring = socket.socket(family, socket.SOCK_DGRAM)
    with sink, spring:
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sink.bind((address, 0))
        sink.settimeout(5.0)
        spring.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        spring.connect(sink.getsockname()[:2])
        arrived: list[bytes] = []
        for begin in range(0, count, 40):
            burst = range(begin, min(begin + 40, count))
            spring.send(b"".join(number.to_bytes(4, "big") * (size // 4) for number in burst))
            try:
                for _ in burst:
                    arrived.append(sink.recv(65535))
            except TimeoutError:
                break
        return arrived


@roles
@pytest.mark.parametrize("inner", [4, 6])
@pytest.mark.parametrize("ends", ["ab", "ba"])
def test_a_super_packet_of_udp_arrives_as_the_datagrams_it_was_made_of(
    commands: tuple[str, str], inner: int, ends: str
) -> None:
    with Link(commands) as link:
        assert link.ping(inner)
        for size in (64, 1200):
            sent = [number.to_bytes(4, "big") * (size // 4) for number in range(200)]
            arrived = _datagrams(link.lab[ends[0]], link.lab[ends[1]], INNER[ends[1]][inner], size, 200)
            assert sorted(arrived) == sent


@roles
def test_a_link_local_endpoint_with_its_scope_is_reached(commands: tuple[str, str]) -> None:
    with Link(commands) as link:
        link.lab["a"].ip("addr add fe80::a/64 dev eth0 nodad")
        link.lab["b"].ip("addr add fe80::b/64 dev eth0 nodad")
        link.a.wg("set", link.a.iface, "peer", link.keys["b"].public, "endpoint", f"[fe80::b%eth0]:{PORT}")
        assert link.ping()
        assert link.b.endpoint().startswith("[fe80::")


def test_a_persistent_keepalive_of_a_second_is_sent_every_second_and_stops_when_switched_off() -> None:
    with Link(ROLES["we initiate"]) as link:
        assert link.ping()
        link.a.wg("set", link.a.iface, "peer", link.keys["b"].public, "persistent-keepalive", "1")
        time.sleep(0.5)
        begin, before = time.monotonic(), link.b.transfer()[0]
        time.sleep(3)
        after, seconds = link.b.transfer()[0], time.monotonic() - begin
        assert seconds - 1.5 < (after - before) / 32 < seconds + 1.5
        link.a.wg("set", link.a.iface, "peer", link.keys["b"].public, "persistent-keepalive", "off")
        time.sleep(0.2)
        before = link.b.transfer()[0]
        time.sleep(2)
        assert link.b.transfer()[0] == before


@roles
def test_a_packet_for_nobody_is_refused_at_once(commands: tuple[str, str]) -> None:
    with Link(commands) as link:
        ours = link.a if "wireguard" not in commands[0] else link.b
        ours.ns.ip(f"route add 10.77.0.0/16 dev {ours.iface}")
        with ours.ns.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.settimeout(3)
        with sock, pytest.raises(OSError, match=r"(?i)no route to host|unreachable|refused") as refused:
            sock.connect(("10.77.1.1", 9))
        assert not isinstance(refused.value, TimeoutError)


def _initiation_to(public_key: bytes) -> bytes:
    """An initiation of random bytes with a right mac1 (paper section 5.4.4): all a stranger needs to cause work."""
    body = b"\1\0\0\0" + os.urandom(112)
    key = hashlib.blake2s(b"mac1----" + public_key).digest()
    return body + hashlib.blake2s(body, key=key, digest_size=16).digest() + bytes(16)


def test_under_a_flood_of_initiations_strangers_get_cookies_and_a_peer_still_gets_in() -> None:
    with Link(ROLES["we respond"]) as link:
        link.lab["a"].ip("addr add 172.16.9.77/24 dev eth0")
        public_key = b64decode(link.keys["b"].public)
        with link.lab["a"].entered():
            flood = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with flood:
            flood.bind(("172.16.9.77", 0))
            flood.setblocking(False)
            answers: list[bytes] = []
            begin, shaken_after = time.monotonic(), 0.0
            asked = False
            while time.monotonic() - begin < 40 and not (shaken_after and answers):  # it asks again every 5 s only
                for _ in range(200):
                    try:
                        flood.sendto(_initiation_to(public_key), (OUTER["b"][4], PORT))
                    except BlockingIOError:
                        pass
                try:
                    while True:
                        answers.append(flood.recv(2048))
                except BlockingIOError:
                    pass
                if not asked and time.monotonic() - begin > 0.5:
                    asked = True
                    link.a.wg("set", link.a.iface, "peer", link.keys["b"].public, "persistent-keepalive", "25")
                if asked and link.a.last_handshake():
                    shaken_after = time.monotonic() - begin
        assert shaken_after, "no handshake in 40 s"
        assert answers, "no cookie reply"
        assert {(answer[:4], len(answer)) for answer in answers} == {(struct.pack("<I", 3), 64)}
        assert link.ping()
        wait_until(lambda: link.b.last_handshake() > 0, 2, "the handshake at our end")
