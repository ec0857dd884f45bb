import os
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest

from tun.fault import Fault, FaultLine, FaultPlan, FaultRelay, FaultTun
from tun.pair import pair

PACKETS = [n.to_bytes(4, "big") * 10 for n in range(2000)]
ALL = FaultPlan(7, loss=0.1, reorder=0.1, duplicate=0.1, corrupt=0.1)


def through(plan: FaultPlan, line: str = "") -> list[bytes]:
    fault_line = FaultLine(plan, line)
    return [out for packet in PACKETS for out in fault_line.carry(packet)] + fault_line.flush()


def test_the_same_seed_gives_the_same_faults_and_another_seed_or_line_others() -> None:
    assert through(ALL) == through(ALL)
    assert through(ALL) != through(FaultPlan(8, 0.1, 0.1, 0.1, 0.1))
    assert through(ALL) != through(ALL, "other")


def test_a_plan_without_faults_changes_nothing() -> None:
    assert through(FaultPlan(1)) == PACKETS
    assert set(islice(FaultPlan(1).faults(), 100)) == {Fault()}


def test_loss_loses_its_share_and_keeps_the_order() -> None:
    out = through(FaultPlan(1, loss=0.1))
    assert 0.07 < 1 - len(out) / len(PACKETS) < 0.13
    assert out == sorted(out)


def test_reordering_loses_nothing_and_moves_packets_by_few_places() -> None:
    out = through(FaultPlan(1, reorder=0.1))
    assert out != PACKETS
    assert sorted(out) == PACKETS
    assert all(abs(out.index(packet) - place) <= 6 for place, packet in enumerate(PACKETS[:300]))


def test_duplication_repeats_its_share() -> None:
    counts = Counter(through(FaultPlan(1, duplicate=0.1)))
    assert set(counts) == set(PACKETS)
    assert 0.07 < sum(count == 2 for count in counts.values()) / len(PACKETS) < 0.13


def test_corruption_flips_one_bit_and_spares_the_header() -> None:
    line = FaultLine(FaultPlan(1, corrupt=1.0), "", header_len=36)
    for packet in PACKETS:
        (out,) = line.carry(packet)
        assert out[:36] == packet[:36]
        difference = int.from_bytes(out, "big") ^ int.from_bytes(packet, "big")
        assert difference.bit_count() == 1
    assert FaultLine(FaultPlan(1, corrupt=1.0), "", header_len=4).carry(b"tiny") == [b"tiny"]


def test_one_probability_does_not_disturb_the_faults_of_another() -> None:
    lost = [fault.lost for fault in islice(FaultPlan(3, loss=0.2).faults(), 500)]
    assert lost == [fault.lost for fault in islice(FaultPlan(3, loss=0.2, reorder=0.5, corrupt=0.5).faults(), 500)]


def test_a_device_behind_faults_lets_go_of_the_last_held_packet() -> None:
    outside, inside = pair()
    device = FaultTun(inside, FaultPlan(1, reorder=1.0))
    os.write(outside.fileno(), b"only")
    assert select.select([device.fileno()], [], [], 5)[0]
    assert os.read(device.fileno(), 100) == b"only"
    device.close()
    outside.close()


def test_a_held_packet_goes_on_although_the_other_direction_is_busy() -> None:
    outside, inside = pair()
    device = FaultTun(inside, FaultPlan(1, reorder=1.0))
    os.write(outside.fileno(), b"only")
    end = time.monotonic() + 5
    while not select.select([device.fileno()], [], [], 0.001)[0]:
        assert time.monotonic() < end
        os.write(device.fileno(), b"busy")
        os.read(outside.fileno(), 100) if select.select([outside.fileno()], [], [], 0)[0] else None
    assert os.read(device.fileno(), 100) == b"only"
    device.close()
    outside.close()


def test_a_device_behind_loss_gets_what_the_plan_lets_through() -> None:
    plan = FaultPlan(2, loss=0.5)
    expected = [packet for packet, fault in zip(PACKETS, plan.faults("inward"), strict=False) if not fault.lost][:50]
    outside, inside = pair()
    device = FaultTun(inside, plan)
    for packet in PACKETS[:150]:
        os.write(device.fileno(), packet)
    received = []
    while len(received) < 50:
        assert select.select([outside.fileno()], [], [], 5)[0]
        received.append(os.read(outside.fileno(), 100))
    assert received == expected
    device.close()
    outside.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        yield server


def test_a_relay_carries_both_ways_rebinds_and_can_be_cut(server: socket.socket) -> None:
    relay = FaultRelay(("127.0.0.1", 0), server.getsockname(), FaultPlan(1))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.sendto(b"hello", relay.address)
        data, seen = server.recvfrom(100)
        assert (data, seen) == (b"hello", relay.outer_address)
        server.sendto(b"answer", seen)
        assert client.recvfrom(100) == (b"answer", relay.address)

        relay.rebind()
        client.sendto(b"again", relay.address)
        data, moved = server.recvfrom(100)
        assert data == b"again"
        assert moved == relay.outer_address != seen
        server.sendto(b"there", moved)
        assert client.recvfrom(100)[0] == b"there"
        assert relay.carried == 4

        relay.cut = True
        client.sendto(b"lost", relay.address)
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.recvfrom(100)
    relay.close()
    relay.close()


def test_a_relay_holds_a_packet_back_only_while_others_may_come(server: socket.socket) -> None:
    relay = FaultRelay(("127.0.0.1", 0), server.getsockname(), FaultPlan(1, reorder=1.0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"only", relay.address)
        assert server.recvfrom(100)[0] == b"only"
    relay.close()
