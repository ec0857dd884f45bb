"""Data messages, sealed and opened here through native sessions when no native datapath carries them (sans-IO mode).

Outward: pad, seal under the current session, or stay staged while a handshake runs. Inward: session by receiver index,
open (which checks the replay window after the tag), confirm `next`, trim the padding, and deliver only what comes from
a source address of that peer.
"""

from math import inf
from typing import TYPE_CHECKING

from engine.wg.constants import KEEPALIVE_TIMEOUT, NEW_HANDSHAKE_TIME, PADDING, REKEY_BEFORE_REJECT_TIME
from engine.wg.events import Datagram, KeepaliveWanted, PacketReceived
from engine.wg.handshakes import Handshakes
from engine.wg.messages import receiver_of
from engine.wg.peer import Peer, to_ns
from native.reasons import Reason

if TYPE_CHECKING:
    from native.endpoint import Endpoint


class Transport(Handshakes):
    """The data layer of a Device. In offload mode only keepalives are asked for here."""

    def _send_staged(self, peer: Peer, now: float) -> None:
        session = peer.current
        while peer.staged and session is not None:
            packet = peer.staged[0]
            message = session.seal(packet + bytes(self._padding(len(packet))), to_ns(now))
            if message is None:
                break
            del peer.staged[0]
            self._send_data(peer, message, now)
            if peer.deadlines.new_handshake == inf:
                peer.deadlines.new_handshake = now + NEW_HANDSHAKE_TIME + self._jitter()
        if peer.needs_rekey(now):
            self._want_handshake(peer, now)

    def _confirm_to_responder(self, peer: Peer, now: float) -> None:
        """Send something under the new session at once: before that the responder may not use it."""
        if self._offload:
            self._events.append(KeepaliveWanted(peer, confirms=peer.current))
        else:
            self._send_keepalive(peer, now)

    def _send_keepalive(self, peer: Peer, now: float) -> None:
        session = peer.current
        if session is None or not session.alive(to_ns(now)):
            self._want_handshake(peer, now)
        elif self._offload:
            peer.control_sent = now  # as good as sent: a second look must not ask again
            self._events.append(KeepaliveWanted(peer))
        elif peer.staged:
            self._send_staged(peer, now)
        elif (message := session.seal(b"", to_ns(now))) is not None:
            self._send_data(peer, message, now)
            if peer.needs_rekey(now):
                self._want_handshake(peer, now)

    def _send_data(self, peer: Peer, message: bytes, now: float) -> None:
        assert peer.endpoint is not None
        self._datagrams.append(Datagram(peer.endpoint, message, peer))
        peer.tx_bytes += len(message)
        self._any_sent(peer, now)

    def _padding(self, length: int) -> int:
        """Return how many zero bytes to add: to a multiple of 16, never beyond the MTU (paper 5.4.6)."""
        last = length if length <= self.mtu else length % self.mtu
        return min(-last % PADDING, self.mtu - last)

    def _data_received(self, data: bytes, endpoint: "Endpoint", now: float) -> None:
        index = receiver_of(data)
        peer = self._sessions.get(index)
        session = peer.find(index) if peer else None
        if peer is None or session is None or self._offload:
            return self._drop(Reason.UNKNOWN_INDEX)
        packet = session.open(data, to_ns(now))
        if isinstance(packet, Reason):
            return self._drop(packet)
        self._moved(peer, endpoint)
        self._any_received(peer, now)
        if session is peer.next:
            self._confirm(peer, now)
            if peer.staged:
                self._send_staged(peer, now)
        current = peer.current
        if (
            current is not None
            and current.initiator
            and not peer.rekeyed_on_receive
            and to_ns(now) - current.birth_ns >= to_ns(REKEY_BEFORE_REJECT_TIME)
        ):
            peer.rekeyed_on_receive = True
            self._want_handshake(peer, now)
        if packet:
            if peer.deadlines.keepalive == inf:
                peer.deadlines.keepalive = now + KEEPALIVE_TIMEOUT
            self._deliver(peer, packet, endpoint, len(data))
        else:
            peer.rx_bytes += len(data)
        self._schedule.update(peer)

    def _deliver(self, peer: Peer, packet: bytes, endpoint: "Endpoint", size: int) -> None:
        version = packet[0] >> 4
        if version == 4 and len(packet) >= 20:
            length, source = int.from_bytes(packet[2:4], "big"), packet[12:16]
            complete = 20 <= length <= len(packet)
        elif version == 6 and len(packet) >= 40:
            length, source = 40 + int.from_bytes(packet[4:6], "big"), packet[8:24]
            complete = length <= len(packet)
        else:
            complete = False
        if not complete:
            self._drop(Reason.MALFORMED)
        elif self.allowed_ips.find(source) is not peer:
            self._drop(Reason.SOURCE)
        else:
            peer.rx_bytes += size
            self._events.append(PacketReceived(peer, packet[:length], endpoint))
