"""A send buffer that stays full costs one bounded wait, not one a message: who changes the policy has to wait, too."""

from __future__ import annotations

import resource
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_network

import pytest

from engine.filter import PASS_ALL
from native.reasons import Reason
from tests.unit.native.pair import Side, sessions, udp, unconnected

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("namespace")]
STAGED = 128


@pytest.fixture
def stuck() -> Iterator[tuple[Side, Side]]:
    """Two datapaths, and the first one's IPv4 socket has no room: what it has sent waits at a very slow device."""
    run("ip link set lo up")
    run("tc qdisc add dev lo root tbf rate 800bit burst 2000 limit 100000000")
    try:
        with unconnected() as (a, b), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
            sink.bind(("127.0.0.1", 0))  # somebody there: no ICMP, whose sockets all namespaces share
            with suppress(BlockingIOError):
                while True:
                    a.udp4.sendto(bytes(1400), sink.getsockname())
            yield a, b
    finally:
        run("tc qdisc del dev lo root")  # what waits there keeps its socket, and that the namespace: for hours


def run(command: str) -> None:
    subprocess.run(command.split(), check=True)


def test_what_was_staged_for_a_new_session_waits_once(stuck: tuple[Side, Side]) -> None:
    a, _ = stuck
    for number in range(STAGED):
        a.write(udp(bytes([number])))
        a.path.turn()
    session, _ = sessions()
    slept = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    a.peer.install(session)
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - slept < STAGED / 8
    assert a.path.drops()[Reason.UDP_SEND] == STAGED


def test_a_turn_waits_once_however_many_bursts_it_has(stuck: tuple[Side, Side]) -> None:
    a, b = stuck
    session, _ = sessions()
    a.peer.install(session)
    a.peer.endpoint = b.endpoint4
    other = a.path.add_peer()
    other.endpoint = b.endpoint4
    second, _ = sessions(2)
    other.install(second)
    a.path.publish(PASS_ALL, [(ip_network("10.0.0.2/32"), a.peer), (ip_network("10.0.0.3/32"), other)])
    for number in range(32):
        a.write(udp(bytes([number]), to=f"10.0.0.{2 + number % 2}"))
    a.path.turn()
    assert a.path.drops()[Reason.UDP_SEND] == 32
    assert a.path.statistics()["udp_sends"] <= 2  # tried, waited, tried again
