"""The datapath and its sessions: what waits for one, what a newer one replaces, what is counted and when it is told."""

from __future__ import annotations

import struct
import time
from ipaddress import ip_network

import pytest
from scapy.layers.inet import ICMP, IP  # type: ignore[import-untyped]
from scapy.layers.inet6 import ICMPv6EchoReply, IPv6  # type: ignore[import-untyped]

from engine.filter import PASS_ALL
from native.reasons import Reason
from native.ring import EventKind
from tests.unit.native.pair import (
    BLOCK_ALL,
    SECOND,
    carry,
    connected,
    now_ns,
    sessions,
    udp,
    unconnected,
)

# --- before and between sessions


def test_packets_wait_for_a_handshake_and_leave_in_order_when_it_is_done() -> None:
    with unconnected() as (a, b):
        packets = [udp(b"%d" % number) for number in range(20)]
        for packet in packets:
            a.write(packet)
        a.path.turn()
        assert [event.peer_id for event in a.path.events()] == [a.peer.id]
        mine, theirs = sessions()
        b.peer.install(theirs)
        a.peer.install(mine)
        b.path.turn()
        assert [b.read() for _ in packets] == packets
        assert not a.path.drops()


def test_a_handshake_is_asked_for_once_until_it_is_answered() -> None:
    with unconnected() as (a, _):
        asked = []
        for done in (False, False, True, False):
            if done:
                a.peer.handshake_done()
            a.write(udp())
            a.path.turn()
            asked.append(len(a.events(EventKind.HANDSHAKE)))
        assert asked == [1, 0, 1, 0]


def test_the_stage_queue_drops_the_oldest() -> None:
    with unconnected() as (a, b):
        packets = [udp(b"%d" % number) for number in range(200)]
        for packet in packets:
            a.write(packet)
            a.path.turn()
        assert a.path.drops() == {Reason.STAGE_FULL: 200 - 128}
        mine, theirs = sessions()
        b.peer.install(theirs)
        a.peer.install(mine)
        carry(b)
        assert [b.read() for _ in range(128)] == packets[-128:]


@pytest.mark.parametrize(
    ("program", "prefix", "reason"),
    [
        (PASS_ALL, "10.0.0.0/24", None),
        (BLOCK_ALL, "10.0.0.0/24", Reason.POLICY),
        (None, "10.0.0.0/24", Reason.NO_POLICY),
        (PASS_ALL, "10.0.1.0/24", Reason.NO_PEER),
    ],
    ids=["still allowed", "blocked", "no policy", "routed elsewhere"],
)
def test_a_staged_packet_leaves_only_if_the_policy_in_force_then_lets_it(
    program: bytes | None, prefix: str, reason: Reason | None
) -> None:
    with unconnected() as (a, b):
        a.write(udp(b"staged"))
        a.path.turn()
        probe = udp(b"the engine's own")
        assert a.peer.probe(probe)
        a.path.publish(program, [(ip_network(prefix), a.peer)])
        mine, theirs = sessions()
        b.peer.install(theirs)
        a.peer.install(mine)
        b.path.turn()
        assert a.path.drops() == ({reason: 1} if reason else {})
        if not reason:
            assert b.read() == udp(b"staged")
        assert b.read() == probe
        assert not b.readable()


def test_staged_packets_can_be_given_up() -> None:
    with unconnected() as (a, _):
        a.write(udp())
        a.path.turn()
        assert a.peer.flush_staged() == 1
        assert a.path.drops() == {Reason.STAGE_EXPIRED: 1}
        assert a.peer.flush_staged() == 0


def test_the_responder_sends_only_after_the_initiators_first_packet() -> None:
    with connected() as (a, b):
        b.write(udp(b"early"))
        b.path.turn()
        assert len(b.events(EventKind.HANDSHAKE)) == 1
        assert a.peer.keepalive()
        b.path.turn()
        assert [event.peer_id for event in b.events(EventKind.CONFIRMED)] == [b.peer.id]
        a.path.turn()
        assert a.read() == udp(b"early")


def test_a_newer_session_takes_over_and_the_former_one_still_opens() -> None:
    with connected() as (a, b):
        a.peer.keepalive()
        b.path.turn()
        a.write(udp(b"first"))
        a.path.turn()
        mine, theirs = sessions(2)
        b.peer.install(theirs)
        b.path.turn()
        assert b.read() == udp(b"first")
        a.peer.install(mine)
        a.write(udp(b"second"))
        carry(a, b)
        assert b.read() == udp(b"second")
        b.write(udp(b"answer"))
        carry(b, a)
        assert a.read() == udp(b"answer")
        assert mine.sent == 1
        assert theirs.sent == 1


def test_two_sessions_of_one_index_are_refused() -> None:
    with connected() as (a, _), pytest.raises(FileExistsError):
        a.peer.install(sessions()[0])


def test_erased_keys_open_and_seal_nothing() -> None:
    with connected() as (a, b):
        a.write(udp())
        a.path.turn()
        b.peer.erase_keys()
        b.path.turn()
        assert b.path.drops() == {Reason.UNKNOWN_INDEX: 1}
        assert not b.peer.keepalive()
        for _ in range(2):
            b.write(udp())
            b.path.turn()
            assert len(b.events(EventKind.HANDSHAKE)) == 1
            b.peer.erase_keys()


@pytest.mark.parametrize(("age", "asked", "carried"), [(100, 0, 1), (121, 1, 1), (181, 1, 0)])
def test_an_initiators_session_is_renewed_after_120_seconds_and_unusable_after_180(
    age: int, asked: int, carried: int
) -> None:
    with unconnected() as (a, b):
        mine, _ = sessions(1, age * SECOND)
        _, theirs = sessions(1)
        a.peer.install(mine)
        b.peer.install(theirs)
        a.write(udp())
        carry(a, b)
        assert len(a.events(EventKind.HANDSHAKE)) == asked
        assert b.readable() == bool(carried)


@pytest.mark.parametrize(("age", "asked"), [(160, 0), (166, 1)])
def test_receiving_renews_an_initiators_session_in_its_last_seconds(age: int, asked: int) -> None:
    with unconnected() as (a, b):
        mine, _ = sessions(1, age * SECOND)
        _, theirs = sessions(1)
        a.peer.install(mine)
        b.peer.install(theirs)
        a.peer.keepalive()
        a.path.events()
        a.peer.handshake_done()
        b.path.turn()
        b.peer.keepalive()
        a.path.turn()
        assert len(a.events(EventKind.HANDSHAKE)) == asked


# --- counting, timers


def test_bytes_are_counted_as_the_kernel_counts_them() -> None:
    with connected() as (a, b):
        assert a.path.send(b.endpoint4, struct.pack("<I", 1) + bytes(144), a.peer) == 0
        a.write(udp())
        a.path.turn()
        assert a.peer.keepalive()
        b.path.turn()
        data = (32 + 48) + 32
        assert (a.peer.traffic().tx_bytes, b.peer.traffic().rx_bytes) == (148 + data, data)
        assert (a.peer.traffic().tx_packets, b.peer.traffic().rx_packets) == (2, 2)


def test_times_tell_what_waits_for_an_answer() -> None:
    with connected() as (a, b):
        start = now_ns()
        a.write(udp())
        carry(a, b, turns=1)
        mine, theirs = a.peer.traffic(), b.peer.traffic()
        assert start < mine.unanswered_sent_ns == mine.last_data_sent_ns == mine.last_sent_ns < now_ns()
        assert start < theirs.unacknowledged_received_ns == theirs.last_data_received_ns == theirs.last_received_ns
        assert [event.kind for event in a.path.events()] == [EventKind.TIMERS]
        assert len(b.events(EventKind.TIMERS)) == 1
        b.peer.keepalive()
        a.path.turn()
        mine, theirs = a.peer.traffic(), b.peer.traffic()
        assert mine.unanswered_sent_ns == 0
        assert theirs.unacknowledged_received_ns == 0
        assert mine.last_received_ns
        assert not mine.last_data_received_ns
        assert theirs.last_sent_ns
        assert not theirs.last_data_sent_ns


def test_a_timers_event_comes_once_until_it_is_disarmed() -> None:
    with connected() as (a, _):
        asked = []
        for disarm in (False, False, True, False):
            if disarm:
                a.peer.disarm()
            a.write(udp())
            a.path.turn()
            asked.append(len(a.events(EventKind.TIMERS)))
        assert asked == [1, 0, 1, 0]


def test_an_idle_datapath_does_not_wake() -> None:
    with connected() as (a, _):
        a.path.start()
        turns, end = 0, time.monotonic() + 10
        while not turns or a.path.statistics()["turns"] != turns:  # the thread begins with some
            assert time.monotonic() < end, "it wakes again and again"
            turns = a.path.statistics()["turns"]
            time.sleep(0.3)


# --- the engine's own packets


def test_a_probe_passes_the_policy_and_its_reply_comes_as_an_event() -> None:
    with connected() as (a, b):
        a.publish(BLOCK_ALL)
        a.path.expect_probe(0x1234)
        request = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(type=8, id=0x1234, seq=7))
        assert a.peer.probe(request)
        b.path.turn()
        assert b.read() == request
        replies = [
            bytes(IP(src="10.0.0.2", dst="10.0.0.1") / ICMP(type=0, id=0x1234, seq=7)),
            bytes(IPv6(src="fd00::2", dst="fd00::1") / ICMPv6EchoReply(id=0x1234, seq=7)),
        ]
        for reply in [*replies, bytes(IP(src="10.0.0.2", dst="10.0.0.1") / ICMP(type=0, id=0x1235))]:
            b.write(reply)
        carry(b, a)
        assert [(event.peer_id, event.data) for event in a.events(EventKind.PROBE)] == [
            (a.peer.id, reply) for reply in replies
        ]
        assert a.path.drops() == {Reason.POLICY: 1}


def test_a_probe_without_a_session_waits_for_one() -> None:
    with unconnected() as (a, b):
        assert a.peer.probe(udp())
        assert len(a.events(EventKind.HANDSHAKE)) == 1
        assert not a.peer.keepalive()
        mine, theirs = sessions()
        b.peer.install(theirs)
        a.peer.install(mine)
        b.path.turn()
        assert b.read() == udp()
        a.peer.endpoint = None
        assert not a.peer.probe(udp())
        assert not a.peer.probe(bytes(5000))
