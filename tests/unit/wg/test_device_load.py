"""Under load: cookies, limits, bounded memory; and ten thousand peers."""

from ipaddress import IPv4Address, ip_network
from random import Random

from engine.wg.constants import MAX_INITIATIONS_PER_CALL, MAX_QUEUED_DATAGRAMS, MAX_QUEUED_DROP_EVENTS
from engine.wg.device import Device
from engine.wg.events import TrafficWanted
from native.endpoint import Endpoint
from native.reasons import Reason
from tests import paper
from tests.virtual import Node, endpoint, ipv4, pair


def test_a_loaded_responder_asks_for_a_cookie_and_then_answers() -> None:
    network, a, b = pair()
    network.under_load = {b}
    network.send(a, a.packet(b))
    network.run(6)
    assert network.kinds() == [1, 3, 1, 2, 4]
    assert len(b.received) == 1
    assert b.drops == [Reason.NO_COOKIE]
    first, second = (seen.data for seen in network.wire if seen.kind == 1)
    assert first[-16:] == bytes(16)
    assert second[-16:] != bytes(16)


def test_a_loaded_initiator_asks_the_responder_for_a_cookie() -> None:
    network, a, b = pair()
    network.under_load = {a}
    network.send(a, a.packet(b))
    network.run(12)
    assert network.kinds()[:6] == [1, 2, 3, 1, 2, 4]
    assert len(b.received) == 1


def test_a_cookie_is_good_for_one_source_only() -> None:
    network, a, b = pair()
    network.under_load = {b}
    network.send(a, a.packet(b))
    network.run(3)
    a.address = endpoint("192.0.2.99")
    network.run(5)
    assert network.kinds() == [1, 3, 1, 3]


def test_a_cookie_reply_never_is_longer_than_its_question() -> None:
    network, a, b = pair()
    network.under_load = {b}
    network.send(a, a.packet(b))
    network.run(3)
    question, reply = network.wire
    assert len(reply.data) < len(question.data)


def test_the_guard_stays_up_for_a_second_after_the_load() -> None:
    network, a, b = pair()
    first = paper.Handshake(a.private, b.private, b"e" * 32, b"", bytes(32), bytes(11) + b"\1", 1, 0)
    b.device.datagram_received(first.initiation(), a.address, 10.0, under_load=True)
    b.device.datagram_received(first.initiation(), a.address, 10.9)
    assert b.device.drops == {Reason.NO_COOKIE: 2}
    b.device.datagram_received(first.initiation(), a.address, 11.0)
    network.settle(b)
    assert network.kinds(b) == [3, 3, 2]


def test_a_source_with_a_cookie_is_still_limited() -> None:
    network, a, b = pair()
    network.under_load = {b}
    network.send(a, a.packet(b))
    network.run(3)
    cookie = a.device.peers[b.public].cookies._cookie
    for i in range(8):
        handshake = paper.Handshake(
            a.private, b.private, bytes([i + 1]) * 32, b"", bytes(32), b"\xff" * 11 + bytes([i]), i, 0
        )
        message = paper.with_macs(handshake.initiation()[:-32], b.public, cookie)
        b.device.datagram_received(message, a.address, network.now + i / 10000, under_load=True)
    # Five are let through by the source's limit, of which the peer's own limit takes the first.
    assert b.device.drops == {Reason.NO_COOKIE: 1, Reason.RATE_LIMIT: 7}
    assert len(b.device._limiter) == 1


def test_a_flood_leaves_bounded_memory() -> None:
    a, b = Node(1), Node(2)
    b.knows(a)
    random = Random(5)
    spoofed = [Endpoint(IPv4Address(random.getrandbits(32)), 1 + random.randrange(65535)) for _ in range(6000)]
    body = b"\x01\0\0\0" + random.randbytes(112)
    message = paper.with_macs(body, b.public)
    for i, source in enumerate(spoofed):
        b.device.datagram_received(message, source, 100 + i / 1000, under_load=True)
        b.device.datagram_received(random.randbytes(148), source, 100 + i / 1000, under_load=True)
    assert len(b.device._datagrams) == MAX_QUEUED_DATAGRAMS
    assert len(b.device._events) == MAX_QUEUED_DROP_EVENTS
    assert sum(b.device.drops.values()) == 12000
    assert len(b.device._limiter) == 0  # nobody showed a cookie
    assert not b.device._sessions


def test_a_flood_of_good_initiations_of_one_peer_keeps_one_pending_session() -> None:
    a, b = Node(1), Node(2)
    b.knows(a)
    for i in range(200):
        handshake = paper.Handshake(
            a.private, b.private, bytes([i + 1]) * 32, b"", bytes(32), bytes(11) + bytes([i + 1]), i, 0
        )
        b.device.datagram_received(handshake.initiation(), a.address, 100 + i / 40)
    assert len(b.device._sessions) == 1
    assert b.device.drops == {}


def many(count: int, *, offload: bool = True) -> tuple[Device, list[bytes]]:
    random = Random(6)
    device = Device(random=random.randbytes, offload=offload)
    device.set_private_key(random.randbytes(32))
    keys = []
    for i in range(count):
        key = random.randbytes(32)
        keys.append(key)
        address = IPv4Address(0x0A000000 + i)
        device.add_peer(
            key, endpoint=Endpoint(IPv4Address(0xC6120000 + i), 51820), allowed_ips=[ip_network(f"{address}/32")]
        )
    return device, keys


def test_ten_thousand_peers_start_their_handshakes_in_portions() -> None:
    device, keys = many(10_000)
    for key in keys:
        assert device.handshake_wanted(device.peers[key], 50.0)
    sent = []
    while True:
        portion = device.datagrams_to_send(50.0, 1.7e9)
        sent += portion
        assert len(portion) <= MAX_INITIATIONS_PER_CALL
        timer = device.next_timer()
        assert timer is not None
        if timer > 50.0:
            break
    assert len({datagram.peer for datagram in sent}) == 10_000
    assert 55.0 <= timer <= 55.4
    device.handle_timer(55.0001)
    assert len(device.datagrams_to_send(55.0001, 1.7e9)) <= MAX_INITIATIONS_PER_CALL


def test_the_work_for_one_packet_does_not_grow_with_the_peers() -> None:
    """Counts function calls, not time: the same for ten peers and for ten thousand, up to the depth of the heap."""
    import sys

    def calls(count: int) -> int:
        device, _ = many(count, offload=False)
        for i in range(count):
            device.packet_to_send(ipv4("10.9.9.9", str(IPv4Address(0x0A000000 + i))), 50.0)
        while device.next_timer() == float("-inf"):
            device.datagrams_to_send(50.0, 1.7e9)
        counted = 0

        def count_call(frame: object, event: str, arg: object) -> None:
            nonlocal counted
            counted += event in ("call", "c_call")

        sys.setprofile(count_call)
        try:
            device.packet_to_send(ipv4("10.9.9.9", "10.0.0.7"), 50.1)
            device.datagram_received(b"\x04\0\0\0" + bytes(60), endpoint("198.51.100.1"), 50.1)
            device.next_timer()
        finally:
            sys.setprofile(None)
        return counted

    assert calls(2000) <= calls(10) + 5


def test_timers_that_come_and_go_leave_no_heap_behind() -> None:
    device, keys = many(10, offload=False)
    peer = device.peers[keys[0]]
    for i in range(10_000):
        peer.deadlines.keepalive = 10.0 + i
        peer.deadlines.erase = 1e9
        device._schedule.update(peer)
        device.next_timer()
        peer.deadlines.keepalive = float("inf")
        device.next_timer()
    assert len(device._schedule._heap) < 200


def test_persistent_keepalives_of_many_peers_all_come() -> None:
    device, keys = many(500)
    for key in keys:
        device.set_persistent_keepalive(device.peers[key], 25)
    device.handle_timer(10.0)
    wanted = 0
    while device.next_timer() == float("-inf"):
        wanted += len(device.datagrams_to_send(10.0, 1.7e9))
    assert wanted == 500
    device.handle_timer(200.0)
    looks = set()
    while (event := device.next_event()) is not None:
        if isinstance(event, TrafficWanted):
            looks.add(event.peer)
    assert len(looks) == 500
