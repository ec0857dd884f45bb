"""The datapath, two of them face to face over loopback: each packet's way, and each reason for which it ends."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from ipaddress import IPv4Address, ip_network

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP  # type: ignore[import-untyped]
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, IPv6  # type: ignore[import-untyped]
from scapy.packet import Raw  # type: ignore[import-untyped]

from engine.filter import PASS_ALL, compile_rules
from engine.policy import Rule
from engine.policy.rules import P0
from engine.wg.cookie import CookieGenerator, mac1_key
from engine.wg.messages import CookieReply
from engine.wg.primitives import mac
from native._native import ffi, lib
from native.datapath import Datapath
from native.endpoint import Endpoint
from native.reasons import Reason
from native.ring import EventKind
from tests.offload_twin import gso_header, split, with_checksums
from tests.unit.native.pair import VNET_HDR, Side, carry, connected, now_ns, sessions, unconnected

BLOCK_ALL = compile_rules((P0,))
TSO = 0x01 | 0x02 | 0x04
USO = TSO | 0x20 | 0x40
SECOND = 1_000_000_000


def udp(payload: bytes = b"hello", **fields: object) -> bytes:
    return bytes(IP(src="10.0.0.1", dst="10.0.0.2", **fields) / UDP(sport=1000, dport=2000) / Raw(payload))


def udp6(payload: bytes = b"hello", **fields: object) -> bytes:
    return bytes(IPv6(src="fd00::1", dst="fd00::2", **fields) / UDP(sport=1000, dport=2000) / Raw(payload))


# --- the way through


@pytest.mark.parametrize("packet", [udp(), udp6(), udp(b""), udp(b"x" * 1392)], ids=["v4", "v6", "empty", "full MTU"])
def test_a_packet_written_into_one_tun_comes_out_of_the_other(packet: bytes) -> None:
    with connected() as (a, b):
        a.write(packet)
        carry(a, b)
        assert b.read() == packet
        assert not a.path.drops()
        assert not b.path.drops()


def test_the_thread_carries_packets_both_ways_and_stops() -> None:
    with connected() as (a, b):
        a.path.start()
        b.path.start()
        for number in range(50):
            a.write(udp(b"%d" % number))
            assert b.read() == udp(b"%d" % number)
            b.write(udp6(b"%d" % number))
            assert a.read() == udp6(b"%d" % number)
        with pytest.raises(OSError, match="busy"):
            a.path.start()
        a.path.stop()
        a.path.stop()
        a.path.start()
        b.write(udp())
        assert a.read() == udp()


def test_the_outer_family_may_change_on_a_live_session() -> None:
    with connected() as (a, b):
        a.peer.endpoint = b.endpoint6
        a.write(udp(b"six"))
        carry(a, b)
        assert b.read() == udp(b"six")
        assert b.peer.endpoint == a.endpoint6
        a.peer.endpoint = b.endpoint4
        b.write(udp(b"back by six"))
        carry(b, a)
        assert a.read() == udp(b"back by six")


def test_messages_are_padded_to_16_bytes_but_never_beyond_the_mtu() -> None:
    with connected(mtu=1420) as (a, _b):
        for length, padded in ((28, 32), (48, 48), (1409, 1420), (1420, 1420)):
            before = a.peer.traffic().tx_bytes
            a.write(udp(b"x" * (length - 28)))
            a.path.turn()
            assert a.peer.traffic().tx_bytes - before == padded + 32


def test_a_burst_leaves_with_one_call_in_order() -> None:
    with connected() as (a, b):
        packets = [udp(bytes([number]) * 500) for number in range(40)]
        for packet in packets:
            a.write(packet)
        carry(a, b)
        assert [b.read() for _ in packets] == packets
        if a.path.offloads()["udp_segment"]:
            assert a.path.statistics()["udp_sends"] == 1
        assert a.path.statistics()["packets_out"] == b.path.statistics()["packets_in"] == 40


def test_without_udp_offloads_the_same_packets_arrive() -> None:
    with connected(offload=False) as (a, b):
        assert not a.path.offloads()["udp_segment"]
        assert not a.path.offloads()["udp_gro"]
        packets = [udp(bytes([number]) * (500 if number % 7 else 300)) for number in range(40)]
        for packet in packets:
            a.write(packet)
        carry(a, b)
        assert [b.read() for _ in packets] == packets


@pytest.mark.parametrize("outer", ["v4", "v6"])
def test_a_super_packet_is_split_sealed_opened_and_joined_again(outer: str) -> None:
    with connected(vnet_hdr=True, tun_offloads=USO) as (a, b):
        if outer == "v6":
            a.peer.endpoint = b.endpoint6
        payload = bytes(range(256)) * 100
        for l4, size in ((TCP(sport=1, dport=2, seq=9, flags="PA"), 1380), (UDP(sport=1, dport=2), 1000)):
            for ip in (IP(src="10.0.0.1", dst="10.0.0.2", flags="DF"), IPv6(src="fd00::1", dst="fd00::2")):
                packet = with_checksums(bytes(ip / l4 / Raw(payload)))
                a.write(packet, VNET_HDR.pack(*vars(gso_header(packet, size)).values()))
                carry(a, b)
                got = b.tun.recv(1 << 17)
                assert VNET_HDR.unpack(got[:10]) == tuple(vars(gso_header(packet, size)).values())
                assert with_checksums(got[10:]) == packet
                assert not b.readable()


def test_a_device_without_offloads_gets_the_segments_of_a_super_packet() -> None:
    with connected(vnet_hdr=True) as (a, b):
        packet = with_checksums(bytes(IP(src="10.0.0.1", dst="10.0.0.2") / TCP(flags="A") / Raw(b"x" * 5000)))
        header = gso_header(packet, 1380)
        pieces = split(packet, header)
        assert isinstance(pieces, list)
        a.write(packet, VNET_HDR.pack(*vars(header).values()))
        carry(a, b)
        assert [b.read() for _ in pieces] == pieces


def test_a_small_packet_goes_before_super_packets_that_wait_but_never_before_those_of_its_own_flow() -> None:
    def bulk(sport: int, letter: bytes) -> tuple[bytes, bytes]:
        packet = with_checksums(
            bytes(IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=sport, flags="A") / Raw(letter * 2760))
        )
        return packet, VNET_HDR.pack(*vars(gso_header(packet, 1380)).values())

    def small(sport: int, letter: bytes) -> tuple[bytes, bytes]:
        return bytes(IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=sport, flags="A") / Raw(letter * 10)), bytes(10)

    with connected(vnet_hdr=True) as (a, b):
        for packet, header in (
            bulk(7, b"a"),
            bulk(7, b"b"),
            small(7, b"c"),
            small(8, b"d"),
            bulk(8, b"e"),
            small(8, b"f"),
        ):
            a.write(packet, header)
        carry(a, b)
        assert [b.read()[-1:] for _ in range(9)] == [b"d", b"a", b"a", b"b", b"b", b"c", b"e", b"e", b"f"]


def test_a_flood_of_small_packets_does_not_starve_super_packets() -> None:
    with connected(vnet_hdr=True) as (a, b):
        packet = with_checksums(bytes(IP(src="10.0.0.1", dst="10.0.0.2") / TCP(flags="A") / Raw(b"x" * 2760)))
        a.write(packet, VNET_HDR.pack(*vars(gso_header(packet, 1380)).values()))
        for number in range(50):
            a.write(udp(bytes([number])))
        a.path.turn()
        b.path.turn()
        arrived = [b.read() for _ in range(52)]
        assert [len(each) > 1000 for each in arrived].index(True) == 32  # behind as many as may go before


def test_more_than_the_backlog_holds_arrives_whole_and_in_order() -> None:
    pieces: list[bytes] = []
    arrived: list[bytes] = []
    with connected(vnet_hdr=True) as (a, b):

        def turn() -> None:
            carry(a, b, turns=1)
            while b.readable():
                arrived.append(b.read())

        for number in range(88):
            l4 = TCP(seq=number, flags="A") / Raw(b"x" * 800)
            packet = with_checksums(bytes(IP(src="10.0.0.1", dst="10.0.0.2", id=100 * number) / l4))
            header = gso_header(packet, 20)
            made = split(packet, header)
            assert isinstance(made, list)
            pieces += made
            a.write(packet, VNET_HDR.pack(*vars(header).values()))
            if number % 10 == 9:  # it reads all that is there, and is through with two of them
                turn()
        assert a.path.statistics()["tun_reads"] < 80  # no room for what has been written last
        while a.path.statistics()["packets_out"] < len(pieces):
            turn()
    assert arrived == pieces


def test_where_there_is_no_gro_many_datagrams_are_received_with_one_call() -> None:
    with connected(offload=False) as (a, b):
        packets = [udp(bytes([number]) * (500 + number % 3 * 20)) for number in range(40)]
        for packet in packets:
            a.write(packet)
        carry(a, b)
        assert [b.read() for _ in packets] == packets
        before = b.path.statistics()["udp_receives"]
        for packet in packets:
            a.write(packet)
        carry(a, b)
        assert [b.read() for _ in packets] == packets
        assert b.path.statistics()["udp_receives"] - before < 8  # of them three in vain, by the empty socket and turn


# --- the policy


def test_without_a_policy_nothing_leaves_and_nothing_arrives() -> None:
    with connected() as (a, b):
        b.publish(None)
        a.write(udp())
        b.write(udp())
        carry(a, b)
        assert not a.readable()
        assert not b.readable()
        assert b.path.drops() == {Reason.NO_POLICY: 2}


def test_a_policy_in_force_on_one_side_drops_in_either_direction_and_counts_by_rule() -> None:
    with connected() as (a, b):
        b.publish(BLOCK_ALL)
        a.write(udp())
        b.write(udp6(b"longer"))
        carry(a, b)
        assert b.path.drops() == {Reason.POLICY: 2}
        assert b.path.verdicts() == [(2, len(udp()) + len(udp6(b"longer")))]
        assert b.publish(PASS_ALL) == [(2, len(udp()) + len(udp6(b"longer")))]
        assert b.path.verdicts() == [(0, 0), (0, 0)]


def test_each_packet_gets_its_own_verdict_however_alike_they_are() -> None:
    to_2000 = compile_rules((Rule("T-1", "to port 2000", accept=True, destination_port=2000), P0))
    ports = [2000, 2000, 2001, 2001, 2000, 2001, 2000, 2000]
    packets = [
        bytes(ip / UDP(sport=1000, dport=port) / Raw(b"%d" % number))
        for number, port in enumerate(ports)
        for ip in (IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="fd00::1", dst="fd00::2"))
    ]
    passing = [packet for number, packet in enumerate(packets) if ports[number // 2] == 2000]
    for judging in (0, 1):
        with connected() as sides:
            sides[judging].publish(to_2000)
            for packet in packets:
                sides[0].write(packet)
            carry(*sides)
            assert [sides[1].read() for _ in passing] == passing
            assert not sides[1].readable()
            assert [packets for packets, _ in sides[judging].path.verdicts()] == [10, 6]
            assert sides[judging].path.drops() == {Reason.POLICY: 6}


def test_a_broken_program_is_refused_and_the_former_one_stays() -> None:
    with connected() as (a, b):
        with pytest.raises(ValueError, match="verdict program"):
            a.publish(b"nonsense")
        a.write(udp())
        carry(a, b)
        assert b.read() == udp()


def test_a_rejected_packet_is_answered_to_the_local_sender() -> None:
    with connected() as (a, _):
        a.publish(BLOCK_ALL)
        a.write(udp())
        a.path.turn()
        answer = IP(a.read())
        assert (answer.src, answer.dst, answer[ICMP].type, answer[ICMP].code) == ("10.0.0.2", "10.0.0.1", 3, 3)
        assert bytes(answer[ICMP].payload) == udp()
        assert bytes(answer) == with_checksums(bytes(answer))

        a.write(udp6())
        a.path.turn()
        answer6 = IPv6(a.read())
        assert (answer6.src, answer6[ICMPv6DestUnreach].code) == ("fd00::2", 4)
        recomputed = IPv6(bytes(answer6))
        del recomputed[ICMPv6DestUnreach].cksum
        assert bytes(recomputed) == bytes(answer6)

        a.write(bytes(IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=7, dport=8, seq=41, flags="S")))
        a.path.turn()
        reset = IP(a.read())
        assert (reset.sport, reset.dport, str(reset[TCP].flags), reset[TCP].ack) == (8, 7, "RA", 42)
        assert bytes(reset) == with_checksums(bytes(reset))


@pytest.mark.parametrize(
    "packet",
    [
        bytes(IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(type=3, code=1) / Raw(b"x" * 28)),
        bytes(IP(src="10.0.0.1", dst="224.0.0.1") / UDP()),
        bytes(IP(src="10.0.0.1", dst="255.255.255.255") / UDP()),
        bytes(IPv6(src="fd00::1", dst="ff02::1") / UDP()),
        bytes(IPv6(src="::", dst="fd00::1") / UDP()),
        bytes(IP(src="10.0.0.1", dst="10.0.0.2") / TCP(flags="R")),
        bytes(IP(src="10.0.0.1", dst="10.0.0.2", frag=100, proto=17) / Raw(b"x" * 64)),
    ],
    ids=["an error", "multicast", "broadcast", "IPv6 multicast", "unspecified source", "a reset", "a later fragment"],
)
def test_what_must_not_be_answered_is_dropped_in_silence(packet: bytes) -> None:
    with connected() as (a, _):
        a.publish(BLOCK_ALL)
        a.write(packet)
        a.path.turn()
        assert sum(a.path.drops().values()) == 1
        assert not a.readable()


def test_answers_are_rate_limited() -> None:
    with connected() as (a, _):
        a.publish(BLOCK_ALL)
        answers, started = 0, time.monotonic()
        for _ in range(8):
            for _ in range(40):
                a.write(udp())
            a.path.turn()
            while a.readable():
                a.read()
                answers += 1
        assert a.path.drops() == {Reason.POLICY: 320}
        assert 50 <= answers <= 51 + 1000 * (time.monotonic() - started)


def test_the_rate_limit_lets_50_answers_go_at_once_and_1000_a_second() -> None:
    bucket = ffi.new("mh_bucket *")
    taken = [
        sum(lib.mh_bucket_take(bucket, SECOND + at, 1000, 50) for _ in range(100)) for at in (0, 0, 10_000_000, SECOND)
    ]
    assert taken == [50, 0, 10, 50]


# --- where to


def test_a_packet_for_no_peer_is_answered_host_unreachable() -> None:
    with connected() as (a, _):
        a.path.publish(PASS_ALL, [(ip_network("192.168.0.0/16"), a.peer)])
        a.write(udp())
        a.write(udp6())
        a.path.turn()
        assert (IP(a.read())[ICMP].type, IPv6(a.read())[ICMPv6DestUnreach].code) == (3, 3)
        assert a.path.drops() == {Reason.NO_PEER: 2}


def test_a_packet_for_a_peer_without_endpoint_is_answered_and_asks_for_no_handshake() -> None:
    with connected() as (a, _):
        a.peer.endpoint = None
        a.write(udp())
        a.path.turn()
        assert IP(a.read())[ICMP].code == 1
        assert a.path.drops() == {Reason.NO_ENDPOINT: 1}
        assert not a.path.events()


def test_our_own_outer_packet_that_comes_back_is_cut_off() -> None:
    with connected() as (a, b):
        loop = IP(src="10.0.0.1", dst="127.0.0.1") / UDP(sport=a.endpoint4.port, dport=b.endpoint4.port) / Raw(b"x")
        a.write(bytes(loop))
        a.path.turn()
        assert a.path.drops() == {Reason.LOOP: 1}
        loop[UDP].sport += 1
        a.write(with_checksums(bytes(loop)))
        a.path.turn()
        assert a.path.drops() == {Reason.LOOP: 1}


def test_packets_to_several_peers_go_each_to_its_own() -> None:
    with unconnected() as (a, b), unconnected() as (c, _):
        second = a.path.add_peer()
        routes = [(ip_network("10.0.0.0/24"), a.peer), (ip_network("10.0.0.128/25"), second)]
        a.path.publish(PASS_ALL, routes)
        second.endpoint = c.endpoint4
        for number, (peer, other) in enumerate(((a.peer, b), (second, c)), 1):
            mine, theirs = sessions(number)
            peer.install(mine)
            other.peer.install(theirs)
        near, far = (bytes(IP(src="10.0.0.1", dst=dst) / UDP()) for dst in ("10.0.0.2", "10.0.0.200"))
        for packet in (near, far, near):
            a.write(packet)
        carry(a, b, c)
        assert (b.read(), b.read(), c.read()) == (near, near, far)

        a.path.remove_peer(second)
        a.write(far)
        a.path.turn()
        assert a.path.drops() == {Reason.NO_PEER: 1}
        with pytest.raises(ValueError, match="removed"):
            second.traffic()
        with pytest.raises(ValueError, match="not of this datapath"):
            a.path.publish(PASS_ALL, [(ip_network("::/0"), second)])
        a.path.publish(PASS_ALL, routes[:1])


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
        time.sleep(0.05)
        turns = a.path.statistics()["turns"]
        time.sleep(0.3)
        assert a.path.statistics()["turns"] == turns


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


# --- errors


def test_a_tun_that_is_gone_ends_the_thread_with_an_event() -> None:
    with connected() as (a, _):
        a.path.start()
        a.tun.close()
        deadline = time.monotonic() + 5
        stopped: list[int] = []
        while not stopped and time.monotonic() < deadline:
            stopped = [event.error for event in a.events(EventKind.STOPPED)]
            time.sleep(0.01)
        assert len(stopped) == 1
        assert stopped[0] != 0
        assert a.publish(BLOCK_ALL) == [(0, 0), (0, 0)]
        a.path.stop()


def test_a_failing_send_is_counted_and_harms_nothing() -> None:
    with connected() as (a, b):
        a.peer.endpoint = Endpoint(IPv4Address("255.255.255.255"), 9)
        a.write(udp())
        a.path.turn()
        assert a.path.drops() == {Reason.UDP_SEND: 1}
        assert a.peer.traffic().tx_bytes == 0
        assert a.path.send(Endpoint(IPv4Address("255.255.255.255"), 9), b"x") != 0
        a.peer.endpoint = b.endpoint4
        a.write(udp())
        carry(a, b)
        assert b.read() == udp()


def test_without_sockets_packets_are_lost_but_counted() -> None:
    with connected() as (a, _):
        a.path.set_sockets((-1, -1))
        a.write(udp())
        a.path.turn()
        assert a.path.drops() == {Reason.UDP_SEND: 1}


def test_replaced_sockets_are_used_from_then_on_while_the_thread_runs() -> None:
    with connected() as (a, b):
        a.path.start()
        b.path.start()
        for number in range(20):
            old = a.udp4
            a.udp4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            a.udp4.bind(("127.0.0.1", 0))
            a.path.set_sockets((a.udp4.fileno(), -1))
            old.close()
            a.write(udp(b"%d" % number))
            assert b.read() == udp(b"%d" % number)
            assert b.peer.endpoint == a.endpoint4
            b.write(udp(b"%d" % number))
            assert a.read() == udp(b"%d" % number)


def test_bad_arguments_are_refused_in_words() -> None:
    with unconnected() as (a, _):
        for wrong in (lambda: a.path.set_mtu(-1), lambda: a.path.set_mtu(65536), lambda: a.path.expect_probe(65536)):
            with pytest.raises(ValueError, match="not"):
                wrong()
        with pytest.raises(OSError, match="UDP sockets"):
            a.path.set_sockets((a.udp6.fileno(), -1))
        a.path.close()
        with pytest.raises(ValueError, match="closed"):
            a.path.start()
    with pytest.raises(OSError, match="cannot make a datapath"):
        Datapath(-1, vnet_hdr=False, tun_offloads=0, mtu=1420)


def test_a_packet_that_no_datagram_can_hold_is_too_big() -> None:
    with connected(mtu=65535) as (a, b):
        for length in (65535, 65472):
            a.write(with_checksums(udp(bytes(length - 28))))
            carry(a, b)
        assert a.path.drops() == {Reason.TOO_BIG: 1}
        assert len(b.read()) == 65472


def test_malformed_packets_from_the_tun_are_dropped() -> None:
    with connected(vnet_hdr=True, tun_offloads=TSO) as (a, _):
        for packet in (b"\x45", b"\x00" * 40, udp()[:-1], b""):
            a.write(packet)
        a.write(udp(), VNET_HDR.pack(1, 1, 40, 10, 20, 16))
        a.path.turn()
        assert a.path.drops() == {Reason.MALFORMED: 5}
