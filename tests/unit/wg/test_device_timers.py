"""The timer rules of paper section 6, in virtual time."""

from ipaddress import ip_network
from itertools import pairwise

import pytest

from engine.wg.constants import REKEY_AFTER_MESSAGES, REKEY_TIMEOUT_JITTER
from native.reasons import Reason
from native.session import Session
from tests.virtual import Network, Node, Seen, deliver, lose, pair


def times(network: Network, kind: int, source: Node) -> list[float]:
    """When source sent messages of this kind, counted from the network's start."""
    return [seen.time - 1000.0 for seen in network.wire if seen.kind == kind and seen.source is source]


def talk(network: Network, a: Node, b: Node, seconds: int) -> None:
    """Both sides send a packet every second, a first."""
    for _ in range(seconds):
        network.send(a, a.packet(b))
        network.run(0.5)
        network.send(b, b.packet(a))
        network.run(0.5)


def test_an_idle_device_wants_no_timer() -> None:
    network, a, b = pair()
    assert a.device.next_timer() is None
    network.run(1000)
    assert network.wire == []
    assert b.device.next_timer() is None


def test_an_initiation_is_repeated_every_5_seconds_with_jitter_for_90_seconds() -> None:
    network, a, b = pair()
    network.tamper = lose
    network.send(a, a.packet(b))
    network.run(300)
    sent = times(network, 1, a)
    gaps = [later - earlier for earlier, later in pairwise(sent)]
    assert all(5.0 <= gap <= 5.0 + REKEY_TIMEOUT_JITTER for gap in gaps)
    assert len(set(gaps)) > 5
    assert 85 <= sent[-1] <= 90.4
    assert a.given_up == 1
    assert a.drops == [Reason.STAGE_EXPIRED]
    assert a.device.next_timer() is None


def test_every_initiation_is_a_new_one() -> None:
    network, a, b = pair()
    network.tamper = lose
    network.send(a, a.packet(b))
    network.run(60)
    ephemerals = {seen.data[8:40] for seen in network.wire}
    assert len(ephemerals) == len(network.wire) > 10


def test_a_new_packet_gives_the_handshake_another_90_seconds() -> None:
    network, a, b = pair()
    network.tamper = lose
    network.send(a, a.packet(b))
    network.run(60)
    network.send(a, a.packet(b))
    network.run(80)
    assert a.given_up == 0
    network.run(20)
    assert a.given_up == 1


def test_after_giving_up_the_next_packet_tries_again() -> None:
    network, a, b = pair()
    network.tamper = lose
    network.send(a, a.packet(b))
    network.run(120)
    network.tamper = deliver
    network.send(a, a.packet(b, b"again"))
    network.run(1)
    assert b.received == [a.packet(b, b"again")]


def test_received_data_is_acknowledged_by_one_keepalive_after_10_seconds_of_silence() -> None:
    network, a, b = pair()
    network.send(a, a.packet(b))
    network.run(100)
    assert [seen.kind for seen in network.wire] == [1, 2, 4, 4]
    assert network.wire[-1].source is b
    assert len(network.wire[-1].data) == 32
    assert times(network, 4, b)[0] == pytest.approx(10.03, abs=0.01)


def test_an_answer_in_time_makes_the_keepalive_needless() -> None:
    network, a, b = pair()
    network.send(a, a.packet(b))
    network.run(9)
    network.send(b, b.packet(a))
    network.run(9)
    network.send(a, a.packet(b))
    network.run(5)
    assert [len(seen.data) for seen in network.wire if seen.kind == 4] == [64, 64, 64]


def test_silence_after_data_starts_a_new_handshake_after_15_seconds() -> None:
    network, a, b = pair()
    talk(network, a, b, 2)
    network.tamper = lose
    network.send(a, a.packet(b))
    network.run(16)
    assert len(times(network, 1, a)) == 2
    assert 17.0 <= times(network, 1, a)[-1] <= 17.0 + REKEY_TIMEOUT_JITTER


def test_the_initiator_rekeys_after_120_seconds_when_it_sends() -> None:
    network, a, b = pair()
    talk(network, a, b, 119)
    assert network.kinds().count(1) == 1
    talk(network, a, b, 3)
    assert times(network, 1, a) == [0.0, pytest.approx(121, abs=1)]
    assert times(network, 1, b) == []
    talk(network, a, b, 240)
    assert len(times(network, 1, a)) == 3
    assert len(a.received) == len(b.received) == 362


def test_an_initiator_that_only_receives_rekeys_once_at_165_seconds() -> None:
    network, a, b = pair()
    talk(network, a, b, 1)
    network.run(164)
    initiations = len(times(network, 1, a))
    network.send(b, b.packet(a))
    network.run(1)
    network.send(b, b.packet(a))
    network.run(3)
    assert len(times(network, 1, a)) == initiations + 1
    assert times(network, 1, a)[-1] == pytest.approx(165.5, abs=0.6)


def test_the_responder_starts_a_handshake_only_when_the_session_is_dead() -> None:
    network, a, b = pair()
    talk(network, a, b, 1)
    network.nodes.remove(a)  # a is gone, without a word
    for _ in range(13):
        network.send(b, b.packet(a))
        network.run(1)
    assert times(network, 1, b) == []


def test_a_session_older_than_180_seconds_is_used_by_nobody() -> None:
    network, a, b = pair()
    talk(network, a, b, 1)
    network.run(179.5)
    session = a.device.peers[b.public].current
    assert session is not None
    assert session.seal(b"", int(network.now * 1e9)) is None
    network.tamper = lambda seen: deliver(seen) if seen.kind == 4 else lose(seen)
    network.send(a, a.packet(b))
    network.run(4)
    assert network.wire[-1].kind == 1
    assert len(b.received) == 1


def test_all_keys_are_erased_after_540_seconds() -> None:
    network, a, b = pair()
    talk(network, a, b, 1)
    network.run(538)
    assert a.erased == b.erased == 0
    network.run(3)
    assert a.erased == b.erased == 1
    assert a.device.peers[b.public].sessions() == []
    assert not a.device._sessions
    assert a.device.next_timer() is None


def test_a_session_of_the_former_handshake_still_opens_late_packets() -> None:
    network, a, b = pair()
    late: list[Seen] = []

    def hold_back(seen: Seen) -> list[tuple[float, bytes]]:
        if seen.kind == 4 and not late:
            late.append(seen)
            return [(130.0, seen.data)]
        return deliver(seen)

    talk(network, a, b, 1)
    network.tamper = hold_back
    network.send(a, a.packet(b, b"late"))
    talk(network, a, b, 135)
    assert network.kinds().count(1) == 2
    assert a.packet(b, b"late") in b.received


def test_persistent_keepalive_starts_at_once_and_keeps_its_interval() -> None:
    a, b = Node(1), Node(2)
    a.knows(b, persistent_keepalive=25)
    b.knows(a)
    network = Network(a, b)
    network.run(110)
    assert times(network, 1, a) == [0.0]
    assert times(network, 4, a) == [pytest.approx(0.02 + 25 * i, abs=0.01 * (i + 1)) for i in range(5)]
    assert b.received == []


def test_traffic_puts_the_persistent_keepalive_off() -> None:
    a, b = Node(1), Node(2)
    a.knows(b, persistent_keepalive=25)
    b.knows(a)
    network = Network(a, b)
    talk(network, a, b, 60)
    lengths = [len(seen.data) for seen in network.wire if seen.kind == 4 and seen.source is a]
    assert lengths.count(32) <= 1


def test_persistent_keepalive_never_gives_up_for_long() -> None:
    a, b = Node(1), Node(2)
    a.knows(b, persistent_keepalive=25)
    b.knows(a)
    network = Network(a, b)
    network.tamper = lose
    network.run(600)
    assert a.given_up >= 4
    network.tamper = deliver
    network.run(60)
    assert b.device.peers[a.public].current is not None


def test_switching_the_persistent_keepalive_off_lets_the_device_rest() -> None:
    a, b = Node(1), Node(2)
    peer = a.knows(b, persistent_keepalive=25)
    b.knows(a)
    network = Network(a, b)
    network.run(30)
    a.device.set_persistent_keepalive(peer, 0)
    sent = len(network.wire)
    network.run(1000)
    assert len(network.wire) == sent
    assert a.device.next_timer() is None


def test_a_wall_clock_that_jumps_back_does_not_lock_us_out() -> None:
    network, a, b = pair()
    talk(network, a, b, 1)
    network.wall_offset -= 86400
    network.run(600)
    network.send(a, a.packet(b, b"yesterday"))
    network.run(1)
    assert b.received[-1] == a.packet(b, b"yesterday")


def test_a_lost_response_is_made_good_by_the_next_initiation() -> None:
    network, a, b = pair()
    lost: list[Seen] = []

    def lose_the_first_response(seen: Seen) -> list[tuple[float, bytes]]:
        if seen.kind == 2 and not lost:
            lost.append(seen)
            return []
        return deliver(seen)

    network.tamper = lose_the_first_response
    network.send(a, a.packet(b))
    network.run(6)
    assert len(b.received) == 1
    assert network.kinds() == [1, 2, 1, 2, 4]


class Worn(Session):
    """A session that was told to have sent almost as many messages as it may."""

    sealed = REKEY_AFTER_MESSAGES - 3

    @property
    def sent(self) -> int:
        return super().sent + self.sealed


def test_the_sender_rekeys_after_so_many_messages_also_as_responder() -> None:
    network, a, b = pair()
    b.device._new_session = Worn
    talk(network, a, b, 2)
    assert network.kinds().count(1) == 1
    talk(network, a, b, 10)
    assert len(times(network, 1, b)) >= 1
    assert len(a.received) == len(b.received) == 12


def test_a_removed_peer_gets_no_prefixes_and_no_timers() -> None:
    _network, a, b = pair()
    peer = a.device.peers[b.public]
    a.device.remove_peer(peer)
    a.device.set_allowed_ips(peer, [ip_network("10.0.0.0/8")])
    a.device.set_persistent_keepalive(peer, 25)
    assert len(a.device.allowed_ips) == 0
    assert a.device.next_timer() is None
