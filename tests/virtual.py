"""Two or more Devices on a virtual network, in virtual time: two minutes pass for free.

Node is a Device with its own seeded randomness and inbox; Network carries their datagrams with a fixed delay, through
an optional `tamper` (drop, delay, duplicate, change), and writes down everything on the wire, as an eavesdropper.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

from engine.wg.device import Device
from engine.wg.events import (
    Datagram,
    EndpointChanged,
    Event,
    HandshakeGivenUp,
    KeysErased,
    PacketDropped,
    PacketReceived,
    SessionReady,
)
from engine.wg.peer import Peer
from engine.wg.primitives import public_of
from native.endpoint import Endpoint
from native.reasons import Reason

WALL = 1_700_000_000.0
"""Unix time at virtual time 0."""


def endpoint(text: str, port: int = 51820) -> Endpoint:
    return Endpoint(ip_address(text), port)


def ipv4(source: str, destination: str, payload: bytes = b"") -> bytes:
    length = 20 + len(payload)
    head = bytes([0x45, 0, *length.to_bytes(2, "big"), 0, 0, 0, 0, 64, 17, 0, 0])
    return head + IPv4Address(source).packed + IPv4Address(destination).packed + payload


def ipv6(source: str, destination: str, payload: bytes = b"") -> bytes:
    head = bytes([0x60, 0, 0, 0, *len(payload).to_bytes(2, "big"), 17, 64])
    return head + IPv6Address(source).packed + IPv6Address(destination).packed + payload


class Node:
    """A Device with a key, an address outside and an address inside."""

    def __init__(self, number: int, *, address: str | None = None, offload: bool = False) -> None:
        self.number = number
        self.address = endpoint(address or f"192.0.2.{number}")
        self.inside = f"10.0.0.{number}"
        self.inside6 = f"fd00::{number}"
        self.randomness = random.Random(number)
        self.device = Device(random=self.randomness.randbytes, offload=offload)
        self.private = random.Random(f"key {number}").randbytes(32)
        self.device.set_private_key(self.private)
        self.public = public_of(self.private)
        self.events: list[Event] = []
        self.received: list[bytes] = []

    def knows(self, other: Node, *, endpoint: bool = True, **options: Any) -> Peer:
        peer = self.device.add_peer(
            other.public,
            endpoint=other.address if endpoint else None,
            allowed_ips=[ip_network(other.inside), ip_network(other.inside6)],
            **options,
        )
        assert peer is not None
        return peer

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def drops(self) -> list[Reason]:
        return [event.reason for event in self.of(PacketDropped)]

    @property
    def sessions(self) -> int:
        return len(self.of(SessionReady))

    @property
    def given_up(self) -> int:
        return len(self.of(HandshakeGivenUp))

    @property
    def erased(self) -> int:
        return len(self.of(KeysErased))

    @property
    def moves(self) -> list[Any]:
        return [event.endpoint for event in self.of(EndpointChanged)]

    def send(self, packet: bytes, now: float) -> None:
        self.device.packet_to_send(packet, now)

    def receive(self, data: bytes, source: Endpoint, now: float, under_load: bool) -> None:
        self.device.datagram_received(data, source, now, under_load=under_load)

    def pump(self, now: float, wall: float) -> list[Datagram]:
        """What the glue does after each verb: fetch the events and the datagrams."""
        while (event := self.device.next_event()) is not None:
            self.events.append(event)
            if isinstance(event, PacketReceived):
                self.received.append(event.packet)
        return self.device.datagrams_to_send(now, wall)

    def packet(self, other: Node, payload: bytes = b"") -> bytes:
        return ipv4(self.inside, other.inside, payload)


@dataclass(frozen=True)
class Seen:
    """One datagram on the wire."""

    time: float
    source: Node
    destination: Endpoint
    data: bytes

    @property
    def kind(self) -> int:
        return self.data[0]


Tamper = Callable[[Seen], Iterable[tuple[float, bytes]]]
"""What becomes of a datagram: (extra delay, data) for each copy that arrives."""


def deliver(seen: Seen) -> list[tuple[float, bytes]]:
    return [(0.0, seen.data)]


def lose(seen: Seen) -> list[tuple[float, bytes]]:
    return []


class Network:
    def __init__(self, *nodes: Node, delay: float = 0.01) -> None:
        self.nodes = list(nodes)
        self.delay = delay
        self.now = 1000.0
        self.wall_offset = WALL - self.now
        self.tamper: Tamper = deliver
        self.wire: list[Seen] = []
        self.under_load: set[Node] = set()
        self._flying: list[tuple[float, int, Endpoint, Endpoint, bytes]] = []
        self._number = 0

    def send(self, source: Node, packet: bytes) -> None:
        source.send(packet, self.now)
        self.settle(source)

    def settle(self, node: Node) -> None:
        for datagram in node.pump(self.now, self.now + self.wall_offset):
            seen = Seen(self.now, node, datagram.endpoint, datagram.data)
            self.wire.append(seen)
            for extra, data in self.tamper(seen):
                self.inject(data, node.address, datagram.endpoint, self.delay + extra)

    def inject(self, data: bytes, source: Endpoint, destination: Endpoint, delay: float = 0.0) -> None:
        self._number += 1
        heapq.heappush(self._flying, (self.now + delay, self._number, source, destination, data))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        for node in self.nodes:
            self.settle(node)
        for _ in range(200_000):
            timers = [(at, node) for node in self.nodes if (at := node.device.next_timer()) is not None]
            at, node = min(timers, key=lambda timer: timer[0], default=(end + 1, None))
            if self._flying and self._flying[0][0] <= at:
                if self._flying[0][0] > end:
                    break
                at, _, source, destination, data = heapq.heappop(self._flying)
                self.now = max(self.now, at)
                for receiver in self.nodes:
                    if receiver.address == destination:
                        receiver.receive(data, source, self.now, receiver in self.under_load)
                        self.settle(receiver)
            elif node is None or at > end:
                break
            else:
                self.now = max(self.now, at)
                node.device.handle_timer(self.now)
                self.settle(node)
        else:
            raise AssertionError("the network does not come to rest")
        self.now = end

    def kinds(self, source: Node | None = None) -> list[int]:
        return [seen.kind for seen in self.wire if source in (None, seen.source)]


def pair(**options: Any) -> tuple[Network, Node, Node]:
    """Two nodes that know each other."""
    a, b = Node(1), Node(2)
    a.knows(b, **options)
    b.knows(a, **options)
    return Network(a, b), a, b
