"""The datapath, two of them face to face over loopback: each packet's way, and each reason for which it ends."""

from __future__ import annotations

import socket
import time
from ipaddress import IPv4Address, ip_network

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP  # type: ignore[import-untyped]
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6  # type: ignore[import-untyped]
from scapy.packet import Raw  # type: ignore[import-untyped]

from engine.filter import PASS_ALL, compile_rules
from engine.policy import Rule
from engine.policy.rules import P0
from native._native import ffi, lib
from native.datapath import Datapath
from native.endpoint import Endpoint
from native.reasons import Reason
from native.ring import EventKind
from tests.offload_twin import gso_header, split, unfinished, with_checksums
from tests.unit.native.pair import (
    BLOCK_ALL,
    SECOND,
    TSO,
    USO,
    VNET_HDR,
    carry,
    connected,
    sessions,
    udp,
    udp6,
    unconnected,
)

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
                a.write(unfinished(packet), VNET_HDR.pack(*vars(gso_header(packet, size)).values()))
                carry(a, b)
                got = b.tun.recv(1 << 17)
                assert VNET_HDR.unpack(got[:10]) == tuple(vars(gso_header(packet, size)).values())
                assert with_checksums(got[10:]) == packet
                assert not b.readable()


def test_a_device_without_offloads_gets_the_segments_of_a_super_packet() -> None:
    with connected(vnet_hdr=True) as (a, b):
        packet = with_checksums(bytes(IP(src="10.0.0.1", dst="10.0.0.2") / TCP(flags="A") / Raw(b"x" * 5000)))
        header = gso_header(packet, 1380)
        pieces = split(unfinished(packet), header)
        assert isinstance(pieces, list)
        a.write(unfinished(packet), VNET_HDR.pack(*vars(header).values()))
        carry(a, b)
        assert [b.read() for _ in pieces] == pieces


def test_a_small_packet_goes_before_super_packets_that_wait_but_never_before_those_of_its_own_flow() -> None:
    def bulk(sport: int, letter: bytes) -> tuple[bytes, bytes]:
        packet = with_checksums(
            bytes(IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=sport, flags="A") / Raw(letter * 2760))
        )
        return unfinished(packet), VNET_HDR.pack(*vars(gso_header(packet, 1380)).values())

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
        a.write(unfinished(packet), VNET_HDR.pack(*vars(gso_header(packet, 1380)).values()))
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
            made = split(unfinished(packet), header)
            assert isinstance(made, list)
            pieces += made
            a.write(unfinished(packet), VNET_HDR.pack(*vars(header).values()))
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
