"""The datapath's way in: where datagrams come from, what is no data, floods, and congestion marks."""

from __future__ import annotations

import os
import select
import socket
import struct
from ipaddress import IPv4Address, ip_network

import pytest
from scapy.layers.inet import IP, TCP, UDP  # type: ignore[import-untyped]
from scapy.packet import Raw  # type: ignore[import-untyped]

from engine.filter import PASS_ALL
from engine.wg.cookie import CookieGenerator, mac1_key
from engine.wg.messages import CookieReply
from engine.wg.primitives import mac
from native.endpoint import Endpoint
from native.reasons import Reason
from native.ring import EventKind
from tests.unit.native.pair import (
    TSO,
    Side,
    carry,
    connected,
    now_ns,
    sessions,
    udp,
    udp6,
)

# --- from where


def outer(a: Side, b: Side, packet: bytes) -> bytes:
    """The datagram in which `a` would send a packet to `b`, taken before it gets there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tap:
        tap.bind(("127.0.0.1", 0))
        tap.settimeout(5)
        a.peer.endpoint = Endpoint(IPv4Address("127.0.0.1"), tap.getsockname()[1])
        a.write(packet)
        a.path.turn()
        a.peer.endpoint = b.endpoint4
        return tap.recv(65536)


def test_a_datagram_that_comes_twice_is_carried_once() -> None:
    with connected() as (a, b):
        datagram = outer(a, b, udp())
        a.udp4.sendto(datagram, b.udp4.getsockname())
        a.udp4.sendto(datagram, b.udp4.getsockname())
        b.path.turn()
        assert b.read() == udp()
        assert not b.readable()
        assert b.path.drops() == {Reason.REPLAY: 1}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda d: d[:-1] + bytes([d[-1] ^ 1]), Reason.AUTH),
        (lambda d: d[:20] + bytes([d[20] ^ 1]) + d[21:], Reason.AUTH),
        (lambda d: d[:8] + bytes([d[8] ^ 1]) + d[9:], Reason.AUTH),
        (lambda d: d[:4] + bytes([d[4] ^ 0x80]) + d[5:], Reason.UNKNOWN_INDEX),
        (lambda d: b"\x05" + d[1:], Reason.UNKNOWN_TYPE),
        (lambda d: d[:1] + b"\x01" + d[2:], Reason.UNKNOWN_TYPE),
        (lambda d: d[:31], Reason.UNKNOWN_TYPE),
        (lambda d: b"", Reason.UNKNOWN_TYPE),
        (lambda d: d[:3], Reason.UNKNOWN_TYPE),
        (lambda d: b"\x01\0\0\0" + bytes(143), Reason.UNKNOWN_TYPE),
    ],
    ids=["tag", "text", "counter", "index", "type", "reserved bytes", "short", "empty", "three bytes", "short init"],
)
def test_a_damaged_datagram_is_dropped_for_its_reason(damage: object, reason: Reason) -> None:
    with connected() as (a, b):
        datagram = outer(a, b, udp())
        a.udp4.sendto(damage(datagram), b.udp4.getsockname())  # type: ignore[operator]
        b.path.turn()
        assert b.path.drops() == {reason: 1}
        assert not b.readable()
        assert b.peer.traffic().rx_bytes == 0
        a.udp4.sendto(datagram, b.udp4.getsockname())
        b.path.turn()
        assert b.read() == udp()


def test_handshake_messages_go_up_with_their_source() -> None:
    with connected() as (a, b):
        messages = [struct.pack("<I", kind) + bytes(size - 4) for kind, size in ((1, 148), (2, 92), (3, 64))]
        for message in messages:
            a.udp4.sendto(message, b.udp4.getsockname())
        b.path.turn()
        events = b.events(EventKind.MESSAGE)
        assert [event.data for event in events] == messages
        assert [event.depth for event in events] == [2, 1, 0]
        for event in events:
            assert event.endpoint == a.endpoint4
            assert event.endpoint is not None
            assert event.endpoint.local == IPv4Address("127.0.0.1")


def test_a_flood_of_handshake_messages_is_bounded_and_loses_no_other_event() -> None:
    with connected() as (a, b):
        for _ in range(6):
            for _ in range(100):
                a.udp4.sendto(struct.pack("<I", 1) + bytes(144), b.udp4.getsockname())
            carry(b)
        lost = b.path.drops()[Reason.RING_FULL]
        a.peer.keepalive()
        b.path.turn()
        events = b.path.events(limit=10_000)
        assert len([event for event in events if event.kind == EventKind.MESSAGE]) + lost == 600
        assert [event.peer_id for event in events if event.kind == EventKind.CONFIRMED] == [b.peer.id]


PUBLIC = bytes(range(32))


def with_mac1(kind: int, size: int, filler: int = 0) -> bytes:
    """A handshake message of that type and size that says nothing, but whose sender knew PUBLIC; its mac2 is zero."""
    body = struct.pack("<II", kind, filler) + bytes(size - 40)
    return body + mac(mac1_key(PUBLIC), body) + bytes(16)


def test_a_handshake_message_without_our_mac1_never_takes_a_place_in_the_ring() -> None:
    with connected() as (a, b):
        b.path.set_public_key(PUBLIC)
        right = []
        for kind, size in ((1, 148), (2, 92)):
            message = with_mac1(kind, size)
            body, mac1 = message[:-32], message[-32:-16]
            right.append(message)
            for wrong in (body + bytes(32), body[:-1] + b"\xff" + mac1 + bytes(16), body + bytes(16) + mac1):
                a.udp4.sendto(wrong, b.udp4.getsockname())
            a.udp4.sendto(message, b.udp4.getsockname())
        cookie = struct.pack("<I", 3) + bytes(60)
        a.udp4.sendto(cookie, b.udp4.getsockname())  # has no mac1
        b.path.turn()
        events = b.events(EventKind.MESSAGE)
        assert [event.data for event in events] == [*right, cookie]
        assert not any(event.proven for event in events)
        assert b.path.drops() == {Reason.AUTH: 6}
        b.path.set_public_key(None)
        a.udp4.sendto(body + bytes(32), b.udp4.getsockname())
        b.path.turn()
        assert len(b.events(EventKind.MESSAGE)) == 1
        with pytest.raises(ValueError, match="32 bytes"):
            b.path.set_public_key(b"short")


def test_under_load_a_handshake_message_must_bring_the_cookie_that_its_source_is_sent() -> None:
    with connected() as (a, b):
        b.path.set_public_key(PUBLIC)
        for number in range(200):
            a.udp4.sendto(with_mac1(1, 148, number), b.udp4.getsockname())
            b.path.turn()
        asked = 200 - 128  # from an eighth of kernel WireGuard's queue on
        assert b.path.drops() == {Reason.NO_COOKIE: asked}
        generator = CookieGenerator(PUBLIC)
        bare = with_mac1(1, 148, 1000)[:-32]
        a.udp4.sendto(generator.add_macs(bare, 0.0), b.udp4.getsockname())
        b.path.turn()
        replies = []
        while select.select([a.udp4], [], [], 0)[0]:
            replies.append(a.udp4.recv(100))
        assert len(replies) == asked + 1
        reply = CookieReply.parse(replies[-1])
        assert reply.receiver == 1000
        assert generator.consume(reply, 0.0)
        b.path.events(limit=1000)
        a.udp4.sendto(generator.add_macs(bare, 1.0), b.udp4.getsockname())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
            elsewhere.bind(("127.0.0.1", 0))
            elsewhere.sendto(generator.add_macs(bare, 1.0), b.udp4.getsockname())  # a cookie is for one source
            b.path.turn()
            (event,) = b.events(EventKind.MESSAGE)
            assert event.proven
            assert event.endpoint is not None
            assert event.endpoint.port == a.udp4.getsockname()[1]
            elsewhere.settimeout(5)
            assert len(elsewhere.recv(100)) == 64
        assert b.path.drops() == {Reason.NO_COOKIE: asked + 2}


def test_a_flood_of_cookie_replies_leaves_room_for_handshakes() -> None:
    with connected() as (a, b):
        for _ in range(6):
            for _ in range(100):
                a.udp4.sendto(struct.pack("<I", 3) + bytes(60), b.udp4.getsockname())
            carry(b)
        initiation = struct.pack("<I", 1) + bytes(144)
        a.udp4.sendto(initiation, b.udp4.getsockname())
        b.path.turn()
        events = [event for event in b.path.events(limit=10_000) if event.kind == EventKind.MESSAGE]
        assert events[-1].data == initiation
        assert len(events) - 1 + b.path.drops()[Reason.RING_FULL] == 600


def test_an_event_for_which_the_ring_had_no_room_wakes_the_reader() -> None:
    with connected() as (a, b):
        for _ in range(6):
            for _ in range(100):
                a.udp4.sendto(struct.pack("<I", 1) + bytes(144), b.udp4.getsockname())
            carry(b)
        assert Reason.RING_FULL in b.path.drops()
        os.eventfd_read(b.path.event_fd)  # as a reader does that has just emptied the ring
        a.peer.keepalive()
        b.path.turn()
        assert select.select([b.path.event_fd], [], [], 0)[0]
        assert [event.peer_id for event in b.path.events(limit=1)] == [b.peer.id]


def test_an_inner_source_that_is_not_the_peers_is_dropped() -> None:
    with connected() as (a, b):
        b.path.publish(PASS_ALL, [(ip_network("10.0.0.7/32"), b.peer)])
        a.write(udp())
        a.write(bytes(IP(src="10.0.0.7", dst="10.0.0.2") / UDP()))
        carry(a, b)
        assert IP(b.read()).src == "10.0.0.7"
        assert not b.readable()
        assert b.path.drops() == {Reason.SOURCE: 1}


def test_what_is_authentic_but_no_ip_packet_is_malformed() -> None:
    with connected() as (a, b):
        mine, theirs = sessions(3)
        b.peer.install(theirs)
        for inner in (b"\x45", bytes(64), udp()[:2] + b"\xff\xff" + udp()[4:], b"\x60" + bytes(20)):
            message = mine.seal(inner, now_ns())
            assert message is not None
            a.udp4.sendto(message, b.udp4.getsockname())
        b.path.turn()
        assert b.path.drops() == {Reason.MALFORMED: 4}


def test_only_the_newest_authentic_packet_moves_the_endpoint() -> None:
    with connected() as (a, b), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as roamer:
        roamer.bind(("127.0.0.1", 0))
        older, newer = outer(a, b, udp(b"older")), outer(a, b, udp(b"newer"))
        roamer.sendto(newer, b.udp4.getsockname())
        b.path.turn()
        moved = b.peer.endpoint
        assert moved is not None
        assert moved.port == roamer.getsockname()[1]
        a.udp4.sendto(older, b.udp4.getsockname())
        a.udp4.sendto(newer, b.udp4.getsockname())
        a.udp4.sendto(outer(a, b, udp())[:-1] + b"!", b.udp4.getsockname())
        b.path.turn()
        assert b.read() == udp(b"newer")
        assert b.read() == udp(b"older")
        assert b.peer.endpoint == moved
        a.write(udp(b"home"))
        carry(a, b)
        assert b.peer.endpoint == a.endpoint4


def test_the_answer_leaves_from_the_address_that_was_addressed() -> None:
    with connected() as (a, b):
        b.udp4.close()
        b.udp4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        b.udp4.bind(("0.0.0.0", 0))
        b.path.set_sockets((b.udp4.fileno(), -1))
        a.peer.endpoint = Endpoint(IPv4Address("127.0.0.9"), b.udp4.getsockname()[1])
        a.write(udp())
        carry(a, b)
        assert b.peer.endpoint is not None
        assert b.peer.endpoint.local == IPv4Address("127.0.0.9")
        b.write(udp())
        carry(b, a)
        assert a.peer.endpoint is not None
        assert a.peer.endpoint.host == IPv4Address("127.0.0.9")


def test_a_sticky_source_that_has_disappeared_is_let_go() -> None:
    with connected() as (a, b):
        gone = Endpoint(b.endpoint4.host, b.endpoint4.port, local=IPv4Address("192.0.2.77"), ifindex=1)
        a.peer.endpoint = gone
        a.write(udp())
        carry(a, b)
        assert b.read() == udp()
        assert a.peer.endpoint == gone
        assert a.peer.endpoint.local is None


# --- congestion marks (RFC 6040)


@pytest.mark.parametrize("ecn", range(4))
def test_the_inner_congestion_mark_is_copied_out(ecn: int) -> None:
    with connected() as (a, _b), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tap:
        tap.bind(("127.0.0.1", 0))
        tap.settimeout(5)
        tap.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        a.peer.endpoint = Endpoint(IPv4Address("127.0.0.1"), tap.getsockname()[1])
        a.write(udp(tos=0xB8 | ecn))
        a.path.turn()
        _, ancillary, _, _ = tap.recvmsg(2048, 64)
        assert [data[0] for _, kind, data in ancillary if kind == socket.IP_TOS] == [ecn]


NOT_ECT, ECT1, ECT0, CE = range(4)
DECAPSULATED = {
    (NOT_ECT, NOT_ECT): NOT_ECT, (NOT_ECT, ECT1): NOT_ECT, (NOT_ECT, ECT0): NOT_ECT, (NOT_ECT, CE): None,
    (ECT0, NOT_ECT): ECT0, (ECT0, ECT1): ECT1, (ECT0, ECT0): ECT0, (ECT0, CE): CE,
    (ECT1, NOT_ECT): ECT1, (ECT1, ECT1): ECT1, (ECT1, ECT0): ECT1, (ECT1, CE): CE,
    (CE, NOT_ECT): CE, (CE, ECT1): CE, (CE, ECT0): CE, (CE, CE): CE,
}  # fmt: skip


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("marks", "expected"), DECAPSULATED.items())
def test_the_outer_congestion_mark_is_carried_in(marks: tuple[int, int], expected: int | None, version: int) -> None:
    inner, outside = marks
    packet = (lambda mark: udp(tos=0xB8 | mark)) if version == 4 else (lambda mark: udp6(tc=0xB8 | mark))
    with connected() as (a, b):
        datagram = outer(a, b, packet(inner))
        a.udp4.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, outside)
        a.udp4.sendto(datagram, b.udp4.getsockname())
        b.path.turn()
        if expected is None:
            assert b.path.drops() == {Reason.ECN: 1}
        else:
            assert b.read() == packet(expected)


# --- several queues


def stream(number: int, size: int = 100) -> bytes:
    """The number-th segment from a to b."""
    header = TCP(sport=1000, dport=2000, seq=size * number, ack=1, flags="A")
    return bytes(IP(src="10.0.0.1", dst="10.0.0.2", flags="DF") / header / Raw(bytes(size)))


@pytest.mark.parametrize("segments", [1, 4], ids=["one packet", "packets joined to one"])
def test_packets_are_written_into_the_queue_that_their_flow_comes_by(segments: int) -> None:
    with connected(vnet_hdr=True, tun_offloads=TSO, queues=2) as (a, b):
        back = IP(src="10.0.0.2", dst="10.0.0.1") / TCP(sport=2000, dport=1000, seq=1, ack=0, flags="A")
        b.queues[1].send(bytes(10) + bytes(back))
        b.path.turn()
        for number in range(segments):
            a.write(stream(number))
        carry(a, b, turns=1)
        readable, _, _ = select.select(b.queues, [], [], 0)
        assert readable == [b.queues[1]]
        assert len(b.queues[1].recv(1 << 17)) == 10 + 40 + 100 * segments
