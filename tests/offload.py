"""A Device whose data packets are carried by a native datapath, without that datapath: for virtual time.

NativeDouble does what the native peer does with sessions, staged packets and the TIMERS, HANDSHAKE, CONFIRMED events;
OffloadNode is the glue between it and the Device, written as the Device's docstrings say.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.wg.events import (
    Datagram,
    EndpointChanged,
    HandshakeGivenUp,
    KeepaliveWanted,
    KeysErased,
    SessionReady,
    TrafficWanted,
)
from engine.wg.messages import MessageType, classify, receiver_of
from engine.wg.peer import Peer
from native.endpoint import Endpoint
from native.reasons import Reason
from native.session import Session
from tests.virtual import Node


@dataclass
class Report:
    last_data_sent_ns: int = 0
    last_data_received_ns: int = 0
    last_sent_ns: int = 0
    last_received_ns: int = 0
    unanswered_sent_ns: int = 0
    unacknowledged_received_ns: int = 0


class NativeDouble:
    """One native peer."""

    def __init__(self, endpoint: Endpoint | None, send: Callable[[Endpoint, bytes], None]) -> None:
        self.endpoint = endpoint
        self.transmit = send
        self.current: Session | None = None
        self.previous: Session | None = None
        self.next: Session | None = None
        self.staged: list[bytes] = []
        self.report = Report()
        self.armed = False
        self.handshake = False
        self.events: list[str] = []
        self.timer_events = 0

    def send(self, message: bytes) -> None:
        assert self.endpoint is not None
        self.transmit(self.endpoint, message)

    def install(self, session: Session, now: int) -> None:
        if session.initiator:
            self.previous, self.current, self.next = self.next or self.current, session, None
            self.flush(now)
        else:
            self.next = session
        self.handshake = False

    def flush(self, now: int) -> None:
        staged, self.staged = self.staged, []
        for packet in staged:
            self.outward(packet, now)

    def want(self) -> None:
        if not self.handshake:
            self.handshake = True
            self.events.append("HANDSHAKE")

    def arm(self) -> None:
        if not self.armed:
            self.armed = True
            self.timer_events += 1
            self.events.append("TIMERS")

    def outward(self, packet: bytes, now: int) -> None:
        if self.current is None or not self.current.alive(now):
            self.staged.append(packet)
            return self.want()
        message = self.current.seal(packet + bytes(-len(packet) % 16), now)
        assert message is not None
        self.send(message)
        report = self.report
        report.last_data_sent_ns = report.last_sent_ns = now
        report.unacknowledged_received_ns = 0
        report.unanswered_sent_ns = report.unanswered_sent_ns or now
        self.arm()
        if self.current.initiator and now - self.current.birth_ns >= 120e9:
            self.want()

    def keepalive(self, now: int) -> bool:
        message = self.current.seal(b"", now) if self.current else None
        if message is None:
            return False
        self.send(message)
        self.report.last_sent_ns = now
        self.report.unacknowledged_received_ns = 0
        return True

    def inward(self, message: bytes, source: Endpoint, now: int) -> bytes | None:
        for session in (self.current, self.previous, self.next):
            if session is not None and session.local_index == receiver_of(message):
                packet = session.open(message, now)
                break
        else:
            return None
        if isinstance(packet, Reason):
            return None
        self.endpoint = source
        if session is self.next:
            self.previous, self.current, self.next = self.current, self.next, None
            self.events.append("CONFIRMED")
            self.flush(now)
        self.report.last_received_ns = now
        self.report.unanswered_sent_ns = 0
        if not packet:
            return None
        self.report.last_data_received_ns = now
        self.report.unacknowledged_received_ns = self.report.unacknowledged_received_ns or now
        self.arm()
        if self.current and self.current.initiator and now - self.current.birth_ns >= 165e9:
            self.want()
        return packet


class OffloadNode(Node):
    """A Node whose data goes through NativeDoubles; knows one other node."""

    def __init__(self, number: int) -> None:
        super().__init__(number, offload=True)
        self.out: list[Datagram] = []
        self.peer: Peer
        self.native: NativeDouble

    def knows(self, other: Node, **options: Any) -> Peer:  # type: ignore[override]
        self.peer = super().knows(other, **options)
        self.native = NativeDouble(
            self.peer.endpoint, lambda endpoint, message: self.out.append(Datagram(endpoint, message, self.peer))
        )
        return self.peer

    def send(self, packet: bytes, now: float) -> None:
        self.native.outward(packet, int(now * 1e9))
        self.native_events(now)

    def receive(self, data: bytes, source: Endpoint, now: float, under_load: bool) -> None:
        if classify(data) is not MessageType.DATA:
            return super().receive(data, source, now, under_load)
        packet = self.native.inward(data, source, int(now * 1e9))
        if packet is not None:
            self.received.append(packet[: int.from_bytes(packet[2:4], "big")])
        self.native_events(now)

    def native_events(self, now: float) -> None:
        events, self.native.events = self.native.events, []
        for event in events:
            self.sync()
            if event == "HANDSHAKE":
                if not self.device.handshake_wanted(self.peer, now):
                    self.native.handshake = False
            elif event == "CONFIRMED":
                self.device.session_confirmed(self.peer, now)
            else:
                self.look(now)

    def sync(self) -> None:
        if self.native.endpoint is not None:
            self.device.set_endpoint(self.peer, self.native.endpoint)

    def look(self, now: float) -> None:
        self.sync()
        if not self.device.traffic(self.peer, self.native.report, now):
            self.native.armed = False
            self.device.traffic(self.peer, self.native.report, now)

    def pump(self, now: float, wall: float) -> list[Datagram]:
        while (event := self.device.next_event()) is not None:
            self.events.append(event)
            if isinstance(event, SessionReady):
                self.native.install(event.session, int(now * 1e9))
            elif isinstance(event, KeepaliveWanted):
                if event.confirms is None or not event.confirms.sent:
                    self.native.keepalive(int(now * 1e9))
            elif isinstance(event, TrafficWanted):
                self.look(now)
            elif isinstance(event, EndpointChanged):
                self.native.endpoint = event.endpoint
            elif isinstance(event, KeysErased):
                self.native.current = self.native.previous = self.native.next = None
            elif isinstance(event, HandshakeGivenUp):
                self.native.staged.clear()
                self.native.handshake = False
            self.native_events(now)
        datagrams = self.device.datagrams_to_send(now, wall) + self.out
        self.out = []
        return datagrams
