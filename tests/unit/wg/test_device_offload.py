"""Devices whose data packets are carried by a native datapath: the same timer rules, from Traffic reports."""

from typing import Any

import pytest

from native.reasons import Reason
from tests.offload import OffloadNode
from tests.virtual import Network, Node, deliver, endpoint, lose


def pair(**options: Any) -> tuple[Network, OffloadNode, OffloadNode]:
    a, b = OffloadNode(1), OffloadNode(2)
    a.knows(b, **options)
    b.knows(a)
    return Network(a, b), a, b


def times(network: Network, kind: int, source: Node) -> list[float]:
    return [seen.time - 1000.0 for seen in network.wire if seen.kind == kind and seen.source is source]


def talk(network: Network, a: Node, b: Node, seconds: int) -> None:
    for _ in range(seconds):
        network.send(a, a.packet(b))
        network.run(0.5)
        network.send(b, b.packet(a))
        network.run(0.5)


def test_the_datapath_gets_the_session_and_the_packet_arrives() -> None:
    network, a, b = pair()
    network.send(a, a.packet(b, b"hello"))
    network.run(1)
    assert b.received == [a.packet(b, b"hello")]
    assert network.kinds() == [1, 2, 4]
    assert b.peer.last_handshake is not None
    assert b.peer.current is b.native.current


def test_without_staged_packets_the_session_is_confirmed_by_a_keepalive() -> None:
    network, a, b = pair()
    assert a.device.handshake_wanted(a.peer, network.now)
    network.run(1)
    assert network.kinds() == [1, 2, 4]
    assert b.native.current is not None


def test_data_messages_that_come_here_after_all_are_dropped() -> None:
    network, a, b = pair()
    network.send(a, a.packet(b))
    network.run(1)
    b.device.datagram_received(network.wire[-1].data, a.address, network.now)
    assert b.device.drops == {Reason.UNKNOWN_INDEX: 1}


def test_received_data_is_acknowledged_by_one_keepalive_after_10_seconds() -> None:
    network, a, b = pair()
    network.send(a, a.packet(b))
    network.run(100)
    assert network.kinds() == [1, 2, 4, 4]
    assert times(network, 4, b) == [pytest.approx(10.03, abs=0.02)]


def test_the_keepalive_for_an_answer_comes_in_time_for_its_sender() -> None:
    network, a, b = pair()
    network.send(a, a.packet(b))
    network.run(0.1)
    network.send(b, b.packet(a))  # a's first deadline was for an answer; now it owes one itself
    network.run(100)
    assert network.kinds() == [1, 2, 4, 4, 4]
    assert times(network, 4, a)[-1] == pytest.approx(10.11, abs=0.02)


def test_silence_after_data_starts_a_new_handshake_after_15_seconds() -> None:
    network, a, b = pair()
    talk(network, a, b, 2)
    network.tamper = lose
    network.send(a, a.packet(b))
    network.run(18)
    assert len(times(network, 1, a)) == 2
    assert times(network, 1, a)[-1] == pytest.approx(17.17, abs=0.17)


def test_a_one_way_flow_is_no_reason_for_further_handshakes() -> None:
    network, a, b = pair()
    for _ in range(100):
        network.send(a, a.packet(b))
        network.run(1)
    assert network.kinds().count(1) == 1
    assert len(times(network, 4, b)) == 9
    assert all(len(seen.data) == 32 for seen in network.wire if seen.source is b and seen.kind == 4)


def test_an_answered_handshake_also_answers_the_data_before_it() -> None:
    network, a, b = pair()
    talk(network, a, b, 2)
    network.tamper = lambda seen: lose(seen) if seen.kind == 4 else deliver(seen)
    network.send(a, a.packet(b))
    network.run(60)
    # One handshake for the silence; its confirmation is lost too, but nobody sent data that would ask for another.
    assert network.kinds().count(1) == 2


def test_the_initiator_rekeys_after_120_seconds() -> None:
    network, a, b = pair()
    talk(network, a, b, 250)
    assert times(network, 1, a) == [0.0, pytest.approx(121, abs=1), pytest.approx(242, abs=1)]
    assert times(network, 1, b) == []
    assert len(a.received) == len(b.received) == 250


def test_a_wish_that_crossed_with_a_new_session_is_no_need() -> None:
    network, a, b = pair()
    talk(network, a, b, 1)
    assert not a.device.handshake_wanted(a.peer, network.now)
    assert network.kinds().count(1) == 1


def test_giving_up_drops_what_waits_and_lets_the_next_packet_try_again() -> None:
    network, a, b = pair()
    network.tamper = lose
    network.send(a, a.packet(b))
    network.run(100)
    assert a.given_up == 1
    assert a.native.staged == []
    network.tamper = deliver
    network.send(a, a.packet(b, b"again"))
    network.run(1)
    assert b.received == [a.packet(b, b"again")]


def test_keys_are_erased_540_seconds_after_the_last_handshake() -> None:
    network, a, b = pair()
    talk(network, a, b, 1)
    network.run(541)
    assert a.erased == b.erased == 1
    assert a.native.current is None
    assert not a.device._sessions


def test_persistent_keepalive_starts_at_once_and_keeps_its_interval() -> None:
    network, a, b = pair(persistent_keepalive=25)
    network.run(110)
    assert times(network, 1, a) == [0.0]
    assert len(times(network, 4, a)) == 5
    assert b.received == []


def test_traffic_puts_the_persistent_keepalive_off() -> None:
    network, a, b = pair(persistent_keepalive=25)
    talk(network, a, b, 60)
    lengths = [len(seen.data) for seen in network.wire if seen.kind == 4 and seen.source is a]
    assert lengths.count(32) <= 1


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When Python looked at a peer's traffic."""
    seen: list[float] = []
    look = OffloadNode.look

    def noted(self: OffloadNode, now: float) -> None:
        seen.append(now)
        look(self, now)

    monkeypatch.setattr(OffloadNode, "look", noted)
    return seen


def test_idle_is_quiet_and_talk_wakes_python_rarely(looks: list[float]) -> None:
    network, a, b = pair()
    for _ in range(60):
        for _ in range(20):
            network.send(a, a.packet(b))
            network.send(b, b.packet(a))
        network.run(1)
    assert len(looks) <= 2 * 2 * (60 // 10 + 2)
    network.run(60)
    assert a.device.next_timer() == a.peer.deadlines.erase


def test_a_silent_peer_wakes_python_rarely_however_much_is_sent_to_it(looks: list[float]) -> None:
    network, a, b = pair()
    talk(network, a, b, 2)
    network.tamper = lose
    looks.clear()
    for _ in range(600):
        network.send(a, a.packet(b))
        network.run(0.1)
    assert len(looks) <= 2 * (60 // 10 + 2)


def test_data_that_goes_on_after_a_handshake_was_given_up_asks_for_another() -> None:
    network, a, b = pair()
    talk(network, a, b, 2)
    network.tamper = lose
    for _ in range(150):
        network.send(b, b.packet(a))  # the responder: its session is no reason to renew it
        network.run(1)
    assert b.given_up == 1
    given_up_at = max(time for time in times(network, 1, b) if time < 112)
    assert any(time > given_up_at + 5.5 for time in times(network, 1, b))


def test_what_comes_after_a_handshake_was_given_up_is_acknowledged() -> None:
    network, a, b = pair()
    talk(network, a, b, 2)
    network.tamper = lose
    network.send(a, a.packet(b))
    network.run(103)
    network.tamper = lambda seen: deliver(seen) if seen.kind == 4 else lose(seen)  # and still no handshake
    network.send(b, b.packet(a))
    network.run(8)
    assert a.given_up == 1
    network.send(b, b.packet(a))
    network.run(20)
    assert times(network, 4, a)[-1] == pytest.approx(123, abs=0.2)


def test_a_wish_without_an_endpoint_waits_for_one() -> None:
    a, b = OffloadNode(1), OffloadNode(2)
    a.knows(b, endpoint=False)
    b.knows(a)
    network = Network(a, b)
    network.send(a, a.packet(b))
    network.run(200)
    assert network.wire == []
    a.native.endpoint = b.address
    a.device.set_endpoint(a.peer, b.address)
    network.run(1)
    assert len(b.received) == 1


def test_handshakes_follow_a_peer_that_roamed_under_data() -> None:
    network, a, b = pair()
    talk(network, b, a, 2)  # b is the initiator, so the rekey is b's
    a.address = endpoint("203.0.113.5", 999)
    talk(network, b, a, 1)  # b still sends to the old address; a's packet tells it the new one
    assert b.native.endpoint == a.address
    talk(network, b, a, 125)
    initiations = [seen.destination for seen in network.wire if seen.kind == 1]
    assert len(initiations) == 2
    assert initiations[-1] == a.address
    assert b.device.peers[a.public].endpoint == a.address


def test_handshakes_tell_the_datapath_where_the_peer_is() -> None:
    network, a, b = pair()
    talk(network, a, b, 2)
    network.run(200)
    a.address = endpoint("203.0.113.5", 999)
    network.send(a, a.packet(b))
    network.run(1)
    assert b.native.endpoint == a.address
    assert len(b.received) == 3
