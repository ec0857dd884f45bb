"""Two whole Devices on a virtual network: handshakes, data, roaming, and everything that is refused."""

from ipaddress import IPv4Address, ip_network
from random import Random

import pytest

from engine.wg.constants import MAX_STAGED_PACKETS
from engine.wg.device import Device
from engine.wg.events import KeysErased, PacketReceived, SessionReady
from engine.wg.primitives import public_of
from native.endpoint import Endpoint
from native.reasons import Reason
from tests import paper
from tests.virtual import WALL, Network, Node, deliver, endpoint, ipv4, ipv6, lose, pair


def test_a_packet_makes_a_handshake_and_arrives() -> None:
    network, a, b = pair()
    packet = a.packet(b, b"hello")
    network.send(a, packet)
    network.run(1)
    assert b.received == [packet]
    assert network.kinds() == [1, 2, 4]


def test_both_directions_share_one_session() -> None:
    network, a, b = pair(preshared_key=b"p" * 32)
    network.send(a, a.packet(b, b"there"))
    network.run(1)
    network.send(b, b.packet(a, b"and back"))
    network.run(1)
    assert a.received == [b.packet(a, b"and back")]
    assert network.kinds() == [1, 2, 4, 4]
    assert a.sessions == b.sessions == 1


def test_ipv6_packets_travel_inside_and_outside() -> None:
    a, b = Node(1, address="2001:db8::1"), Node(2, address="2001:db8::2")
    a.knows(b)
    b.knows(a)
    network = Network(a, b)
    packet = ipv6(a.inside6, b.inside6, b"six")
    network.send(a, packet)
    network.run(1)
    assert b.received == [packet]


def test_different_preshared_keys_give_no_session() -> None:
    a, b = Node(1), Node(2)
    a.knows(b, preshared_key=b"p" * 32)
    b.knows(a, preshared_key=b"q" * 32)
    network = Network(a, b)
    network.send(a, a.packet(b))
    network.run(4)
    assert a.sessions == 0
    assert a.drops == [Reason.AUTH]
    assert not b.received


def test_staged_packets_leave_in_order_and_the_oldest_are_pushed_out() -> None:
    network, a, b = pair()
    packets = [a.packet(b, bytes([i])) for i in range(MAX_STAGED_PACKETS + 3)]
    for packet in packets:
        network.send(a, packet)
    network.run(1)
    assert b.received == packets[3:]
    assert a.drops == [Reason.STAGE_FULL] * 3


def test_a_session_with_nothing_to_say_is_confirmed_by_a_keepalive() -> None:
    network, a, b = pair()
    peer = a.device.peers[b.public]
    assert a.device.handshake_wanted(peer, network.now)
    network.run(1)
    assert network.kinds() == [1, 2, 4]
    assert len(network.wire[-1].data) == 32
    assert b.device.peers[a.public].current is not None
    network.send(b, b.packet(a))
    network.run(1)
    assert a.received


def test_a_responder_does_not_send_before_the_confirmation() -> None:
    network, a, b = pair()
    network.tamper = lambda seen: lose(seen) if seen.kind == 2 else deliver(seen)
    network.send(a, a.packet(b))
    network.run(0.5)
    network.send(b, b.packet(a))
    network.run(3)
    assert network.kinds(b) == [2]
    assert b.device.peers[a.public].current is None


def test_simultaneous_initiations_end_in_working_sessions() -> None:
    network, a, b = pair()
    network.send(a, a.packet(b, b"1"))
    network.send(b, b.packet(a, b"2"))
    network.run(1)
    assert (a.received, b.received) == ([b.packet(a, b"2")], [a.packet(b, b"1")])
    for i in range(5):
        network.send(a, a.packet(b, bytes([i])))
        network.send(b, b.packet(a, bytes([i])))
        network.run(1)
    assert len(a.received) == len(b.received) == 6
    assert network.kinds().count(1) == 2


def test_the_latest_handshake_is_a_wall_time() -> None:
    network, a, b = pair()
    network.send(a, a.packet(b))
    network.run(1)
    for node, other in ((a, b), (b, a)):
        at = node.device.peers[other.public].last_handshake
        assert at is not None
        assert abs(at[0] + at[1] / 1e9 - WALL) < 0.1


def test_bytes_are_counted_as_they_pass() -> None:
    network, a, b = pair()
    network.send(a, a.packet(b, bytes(12)))
    network.run(1)
    mine, theirs = a.device.peers[b.public], b.device.peers[a.public]
    assert (mine.tx_bytes, mine.rx_bytes) == (148 + 32 + 32, 92)
    assert (theirs.tx_bytes, theirs.rx_bytes) == (92, 148 + 32 + 32)


def test_padding_goes_to_16_bytes_but_never_beyond_the_mtu() -> None:
    network, a, b = pair()
    a.device.mtu = 1415
    packets = [a.packet(b, bytes(n)) for n in (0, 1, 12, 13, 1415 - 20)]
    for packet in packets:
        network.send(a, packet)
    network.run(1)
    assert [len(seen.data) - 32 for seen in network.wire if seen.kind == 4] == [32, 32, 32, 48, 1415]
    assert b.received == packets


# ---- refusals ------------------------------------------------------------------------------------------


def test_a_replayed_initiation_is_refused_silently() -> None:
    network, a, b = pair()
    network.send(a, a.packet(b))
    network.run(1)
    network.inject(network.wire[0].data, a.address, b.address)
    network.run(1)
    assert network.kinds() == [1, 2, 4]
    assert b.drops == [Reason.REPLAY]


def test_a_replayed_response_and_replayed_data_are_refused() -> None:
    network, a, b = pair()
    network.send(a, a.packet(b))
    network.run(1)
    for seen in network.wire[1:]:
        network.inject(seen.data, seen.source.address, seen.destination)
    network.run(1)
    assert a.drops == [Reason.UNKNOWN_INDEX]
    assert b.drops == [Reason.REPLAY]
    assert len(b.received) == 1


def test_a_peer_may_initiate_fifty_times_a_second_at_most() -> None:
    a, b = Node(1), Node(2)
    peer = b.knows(a)
    for i, spacing in enumerate((0.0, 0.019, 0.021)):
        handshake = paper.Handshake(
            a.private, b.private, bytes([i + 1]) * 32, b"", bytes(32), bytes(11) + bytes([i + 1]), i, 0
        )
        b.device.datagram_received(handshake.initiation(), a.address, 100 + spacing)
    assert b.device.drops == {Reason.RATE_LIMIT: 1}
    assert peer.timestamp_received == bytes(11) + b"\x03"


def test_an_unknown_peer_hears_nothing() -> None:
    a, b = Node(1), Node(2)
    a.knows(b)
    network = Network(a, b)
    network.send(a, a.packet(b))
    network.run(60)
    assert network.kinds(b) == []
    assert set(b.drops) == {Reason.UNKNOWN_PEER}


def test_who_does_not_know_our_public_key_hears_nothing_even_under_load() -> None:
    a, b = Node(1), Node(2)
    b.knows(a)
    network = Network(a, b)
    network.under_load = {b}
    network.inject(b"\x01\0\0\0" + bytes(144), a.address, b.address)
    network.run(1)
    assert network.kinds(b) == []
    assert b.drops == [Reason.AUTH]


def test_a_spoiled_initiation_with_a_good_mac1_is_refused_and_the_true_one_still_taken() -> None:
    a, b = Node(1), Node(2)
    peer = b.knows(a)
    true = paper.Handshake(a.private, b.private, b"e" * 32, b"", bytes(32), bytes(11) + b"\1", 7, 0).initiation()
    for place in (40, 90):
        spoiled = bytearray(true[:-32])
        spoiled[place] ^= 1
        b.device.datagram_received(paper.with_macs(bytes(spoiled), b.public), a.address, 100.0)
    assert b.device.drops == {Reason.AUTH: 2}
    assert peer.next is None
    b.device.datagram_received(true, a.address, 100.0)
    assert peer.next is not None


def test_a_wish_right_after_our_response_waits_for_the_confirmation_first() -> None:
    network, a, b = pair()
    network.tamper = lambda seen: lose(seen) if seen.kind == 4 else deliver(seen)
    network.send(a, a.packet(b))
    network.run(1)
    network.send(b, b.packet(a))
    network.run(3.5)
    assert network.kinds(b) == [2]
    network.tamper = deliver
    network.run(2)
    assert network.kinds(b)[:2] == [2, 1]
    assert a.received


def test_garbage_is_counted_as_what_it_is() -> None:
    network, a, b = pair()
    for data in (b"", b"\x01", b"\x05\0\0\0" + bytes(60), b"\x01\0\0\0" + bytes(145)):
        network.inject(data, a.address, b.address)
    network.inject(b"\x04\0\0\0" + bytes(28), a.address, b.address)
    network.inject(b"\x03\0\0\0" + bytes(60), a.address, b.address)
    network.run(1)
    assert b.drops == [Reason.UNKNOWN_TYPE] * 4 + [Reason.UNKNOWN_INDEX] * 2


def test_our_own_public_key_is_no_peer() -> None:
    a = Node(1)
    assert a.device.add_peer(a.public) is None
    assert not a.device.peers


def test_a_peer_whose_key_becomes_our_own_is_removed() -> None:
    a, b = Node(1), Node(2)
    a.knows(b)
    a.device.set_private_key(b.private)
    assert not a.device.peers
    assert not len(a.device.allowed_ips)


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31)])
def test_no_handshake_starts_with_a_null_or_low_order_key(key: bytes) -> None:
    a, b = Node(1), Node(2)
    peer = a.device.add_peer(key, endpoint=b.address, allowed_ips=[ip_network(b.inside)])
    assert peer is not None
    network = Network(a, b)
    network.send(a, a.packet(b))
    network.run(120)
    assert network.wire == []
    assert a.drops == [Reason.STAGE_EXPIRED]


def test_a_device_without_a_key_answers_nothing_and_starts_when_it_gets_one() -> None:
    a, b = Node(1), Node(2)
    b.knows(a)
    mute = a.device
    mute.set_private_key(None)
    a.knows(b)
    network = Network(a, b)
    network.send(a, a.packet(b))
    network.send(b, b.packet(a))
    network.run(3)
    assert network.kinds(a) == []
    assert network.kinds(b) == [1]
    mute.set_private_key(a.private)
    network.run(1)
    assert b.received == [a.packet(b)]


def test_a_packet_for_no_peer_or_for_a_peer_without_endpoint_is_dropped() -> None:
    a, b = Node(1), Node(2)
    a.knows(b, endpoint=False)
    network = Network(a, b)
    network.send(a, ipv4(a.inside, "198.51.100.1"))
    network.send(a, a.packet(b))
    network.send(a, b"")
    network.send(a, b"\x45short")
    assert a.drops == [Reason.NO_PEER, Reason.NO_ENDPOINT, Reason.MALFORMED, Reason.MALFORMED]
    assert network.wire == []


def test_an_inner_source_that_is_not_the_peers_is_refused() -> None:
    network, a, b = pair()
    network.send(a, ipv4("10.0.0.99", b.inside))
    network.run(1)
    assert b.received == []
    assert b.drops == [Reason.SOURCE]


@pytest.mark.parametrize(
    "packet",
    [
        b"\x45\0\0\x13" + bytes(8) + bytes([10, 0, 0, 1, 10, 0, 0, 2]),  # total length below the header
        b"\x45\0\x01\0" + bytes(8) + bytes([10, 0, 0, 1, 10, 0, 0, 2]),  # beyond the packet
        b"\x95\0\0\x14" + bytes(8) + bytes([10, 0, 0, 1, 10, 0, 0, 2]),  # no such version
    ],
)
def test_an_authentic_but_malformed_packet_is_refused(packet: bytes) -> None:
    network, a, b = pair()
    network.send(a, a.packet(b))
    network.run(1)
    session = a.device.peers[b.public].current
    assert session is not None
    message = session.seal(packet, int(network.now * 1e9))
    assert message is not None
    network.inject(message, a.address, b.address)
    network.run(1)
    assert b.drops == [Reason.MALFORMED]
    assert len(b.received) == 1


def test_keys_have_32_bytes() -> None:
    device = Device(random=Random(1).randbytes)
    with pytest.raises(ValueError, match="private key"):
        device.set_private_key(b"short")
    with pytest.raises(ValueError, match="public key"):
        device.add_peer(b"short")
    with pytest.raises(ValueError, match="preshared key"):
        device.add_peer(b"p" * 32, preshared_key=b"short")
    with pytest.raises(ValueError, match="persistent keepalive"):
        device.add_peer(b"p" * 32, persistent_keepalive=65536)


# ---- change ------------------------------------------------------------------------------------------


def test_a_peer_that_moves_is_followed_after_its_first_authentic_packet() -> None:
    network, a, b = pair()
    network.send(a, a.packet(b))
    network.run(1)
    a.address = endpoint("2001:db8::77", 7)
    network.inject(b"\x04\0\0\0" + bytes(28), a.address, b.address)
    network.run(1)
    assert b.moves == []
    network.send(a, a.packet(b))
    network.run(1)
    assert b.moves == [a.address]
    network.send(b, b.packet(a))
    network.run(1)
    assert a.received == [b.packet(a)]


def test_a_peer_without_endpoint_is_answered_where_it_came_from() -> None:
    a, b = Node(1), Node(2)
    a.knows(b)
    b.knows(a, endpoint=False)
    network = Network(a, b)
    network.send(a, a.packet(b))
    network.run(1)
    assert b.device.peers[a.public].endpoint == a.address
    assert b.received


def test_the_sticky_source_is_cleared_when_the_peer_does_not_answer() -> None:
    a, b = Node(1), Node(2)
    peer = a.knows(b, endpoint=False)
    a.device.set_endpoint(peer, Endpoint(b.address.host, b.address.port, local=IPv4Address("192.0.2.1"), ifindex=3))
    network = Network(a)
    network.send(a, a.packet(b))
    network.run(7)
    assert [(where, where.local, where.ifindex) for where in a.moves] == [(b.address, None, 0)]


def test_a_prefix_moves_to_the_peer_it_is_given_to() -> None:
    a, b, c = Node(1), Node(2), Node(3)
    a.knows(b)
    peer = a.knows(c)
    a.device.set_allowed_ips(peer, [ip_network(b.inside)])
    c.knows(a)
    network = Network(a, b, c)
    network.send(a, a.packet(b))
    network.run(1)
    assert c.received
    assert not b.received
    assert a.device.allowed_ips.of(a.device.peers[b.public]) == (ip_network(b.inside6),)


def test_a_new_private_key_ends_all_sessions() -> None:
    network, a, b = pair()
    network.send(a, a.packet(b))
    network.run(1)
    key = Random("new").randbytes(32)
    a.device.set_private_key(key)
    network.settle(a)
    assert a.erased == 1
    network.send(b, b.packet(a))
    network.run(1)
    assert not a.received
    assert a.drops == [Reason.UNKNOWN_INDEX]
    assert a.device.public_key == public_of(key)


def test_the_same_private_key_again_changes_nothing() -> None:
    network, a, b = pair()
    network.send(a, a.packet(b))
    network.run(1)
    a.device.set_private_key(a.private)
    network.send(a, a.packet(b))
    network.run(1)
    assert len(b.received) == 2
    assert network.kinds().count(1) == 1


def test_a_removed_peer_leaves_nothing_behind() -> None:
    network, a, b = pair(persistent_keepalive=25)
    network.run(1)
    network.send(a, a.packet(b))
    peer = a.device.peers[b.public]
    a.device.remove_peer(peer)
    a.device.remove_peer(peer)
    network.run(300)
    assert a.device.next_timer() is None
    assert not a.device._sessions
    assert not a.device._initiators
    assert a.erased == 1
    assert not a.device.handshake_wanted(peer, network.now)


def test_a_removed_peer_may_come_back() -> None:
    network, a, b = pair()
    network.send(a, a.packet(b))
    network.run(1)
    a.device.remove_peer(a.device.peers[b.public])
    a.knows(b)
    network.run(6)
    network.send(a, a.packet(b))
    network.run(1)
    assert len(b.received) == 2


def test_a_preshared_key_counts_from_the_next_handshake_on() -> None:
    network, a, b = pair()
    network.send(a, a.packet(b))
    network.run(1)
    for node, other in ((a, b), (b, a)):
        node.device.set_preshared_key(node.device.peers[other.public], b"n" * 32)
    network.send(a, a.packet(b))
    network.run(1)
    assert len(b.received) == 2
    network.run(200)
    network.send(a, a.packet(b))
    network.run(1)
    assert len(b.received) == 3
    assert a.sessions >= 2


def test_events_come_in_order() -> None:
    network, a, b = pair()
    network.send(a, a.packet(b))
    network.run(1)
    assert [type(event) for event in b.events] == [SessionReady, PacketReceived]
    b.device.remove_peer(b.device.peers[a.public])
    assert isinstance(b.device.next_event(), KeysErased)
    assert b.device.next_event() is None
