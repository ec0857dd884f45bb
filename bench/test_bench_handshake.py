"""How fast are handshakes? As responder (the side that can be flooded), as initiator, and what a refusal costs.

pytest bench/test_bench_handshake.py --benchmark-only
"""

from __future__ import annotations

from ipaddress import IPv4Address
from itertools import count
from random import Random
from typing import Any

from engine.wg import tai64n
from engine.wg.constants import REKEY_TIMEOUT
from engine.wg.cookie import CookieGenerator
from engine.wg.device import Device
from engine.wg.noise import Identity, Initiator, transcript_to
from engine.wg.peer import Peer
from engine.wg.primitives import dh
from native.endpoint import Endpoint

HERE = Endpoint(IPv4Address("192.0.2.1"), 51820)
THERE = Endpoint(IPv4Address("192.0.2.2"), 51820)
random = Random(1)


def device(**options: Any) -> Device:
    made = Device(random=random.randbytes, **options)
    made.set_private_key(random.randbytes(32))
    return made


def known(to: Device, other: Device, endpoint: Endpoint) -> Peer:
    assert other.public_key is not None
    peer = to.add_peer(other.public_key, endpoint=endpoint)
    assert peer is not None
    return peer


def drain(device: Device) -> None:
    while device.next_event() is not None:
        pass


def test_handshakes_per_second_as_responder(benchmark: Any) -> None:
    responder, initiator = device(offload=True), Identity(random.randbytes(32))
    assert responder.public_key is not None
    responder.add_peer(initiator.public)
    shared, transcript = dh(initiator.private, responder.public_key), transcript_to(responder.public_key)
    macs = CookieGenerator(responder.public_key)
    clock = count(1)

    def fresh() -> tuple[tuple[bytes, float], dict[str, Any]]:
        now = float(next(clock))
        _, message = Initiator.start(
            initiator,
            responder.public_key or b"",
            shared,
            transcript=transcript,
            ephemeral=random.randbytes(32),
            index=random.getrandbits(32),
            timestamp=tai64n.encode(now),
        )
        return (macs.add_macs(message, now), now), {}

    def respond(message: bytes, now: float) -> int:
        responder.datagram_received(message, THERE, now)
        sent = len(responder.datagrams_to_send(now, now))
        drain(responder)
        return sent

    sent = benchmark.pedantic(respond, setup=fresh, rounds=1000)
    assert sent == 1
    assert not responder.drops


def test_whole_handshakes_per_second_between_two_devices(benchmark: Any) -> None:
    a, b = device(offload=True), device(offload=True)
    to_b = known(a, b, THERE)
    known(b, a, HERE)
    clock = count(1)

    def handshake() -> None:
        now = next(clock) * (REKEY_TIMEOUT + 200)
        assert a.handshake_wanted(to_b, now)
        for sender, receiver, origin in ((a, b, HERE), (b, a, THERE)):
            for datagram in sender.datagrams_to_send(now, now):
                receiver.datagram_received(datagram.data, origin, now)
        assert to_b.current is not None
        drain(a)
        drain(b)

    benchmark.pedantic(handshake, rounds=500)


def test_refusing_a_message_without_mac1(benchmark: Any) -> None:
    responder, message = device(), b"\x01\0\0\0" + random.randbytes(144)
    benchmark(responder.datagram_received, message, THERE, 1.0)
    drain(responder)
    assert sum(responder.drops.values()) > 0


def test_asking_for_a_cookie_under_load(benchmark: Any) -> None:
    responder = device()
    assert responder.public_key is not None
    message = CookieGenerator(responder.public_key).add_macs(b"\x01\0\0\0" + random.randbytes(112), 1.0)

    def ask() -> None:
        responder.datagram_received(message, THERE, 1.0, under_load=True)
        responder.datagrams_to_send(1.0, 1.0)
        drain(responder)

    benchmark(ask)
