"""Making and taking handshakes: the initiations we repeat until answered, and what comes in reply or on its own.

Outward: `_want_handshake` (at most one attempt a peer at a time, REKEY_TIMEOUT apart) queues an initiation,
datagrams_to_send builds it by `_send_initiation`, the retransmit timer queues the next one, `_give_up` ends it.
Inward: `_admit` judges by the MACs, then `_initiation_received`, `_response_received` or `_cookie_received`.
Both directions at once are fine: our own initiation stays valid while we answer the peer's.
"""

from math import inf
from typing import TYPE_CHECKING

from engine.wg import tai64n
from engine.wg.constants import (
    INITIATIONS_PER_SECOND,
    REKEY_ATTEMPT_TIME,
    REKEY_TIMEOUT,
    UNDER_LOAD_TIME,
)
from engine.wg.core import Core
from engine.wg.events import Datagram, HandshakeGivenUp
from engine.wg.messages import CookieReply, Initiation, MessageType, Response
from engine.wg.noise import Initiator, Responder, transcript_to
from engine.wg.peer import Peer
from engine.wg.primitives import CryptoError
from native.reasons import Reason

if TYPE_CHECKING:
    from native.endpoint import Endpoint


class Handshakes(Core):
    """The handshake layer of a Device."""

    # ---- making --------------------------------------------------------------------------------------------------

    def _want_handshake(self, peer: Peer, now: float) -> None:
        if peer.wanted:
            return
        peer.wanted = True
        peer.attempt_until = now + REKEY_ATTEMPT_TIME
        # Also right after our own response: the other side is about to confirm, or will be asked again in time.
        not_before = peer.last_handshake_sent + REKEY_TIMEOUT
        if now < not_before:
            peer.deadlines.retransmit = not_before + self._jitter()
        else:
            self._queue_initiation(peer)

    def _queue_initiation(self, peer: Peer) -> None:
        """Have an initiation built by the next datagrams_to_send, unless its time has not come or it cannot be sent."""
        if not peer.wanted or peer.queued or peer.deadlines.retransmit < inf:
            return
        if peer.endpoint is not None and self._identity is not None:
            peer.queued = True
            self._initiations.append(peer)

    def _send_initiation(self, peer: Peer, now: float, wall: float) -> None:
        if self._identity is None or peer.endpoint is None:
            return
        try:
            static_static = peer.static_static(self._identity)
        except CryptoError:
            return self._give_up(peer, now)
        if peer.initiator is None:
            peer.attempt_until = now + REKEY_ATTEMPT_TIME
        self._forget_initiation(peer)
        peer.timestamp_sent = tai64n.after(wall, peer.timestamp_sent)
        index = self._new_index(peer)
        peer.initiator, message = Initiator.start(
            self._identity,
            peer.public_key,
            static_static,
            transcript=transcript_to(peer.public_key),
            ephemeral=self._random(32),
            index=index,
            timestamp=peer.timestamp_sent,
        )
        self._initiators[index] = peer
        self._send_control(peer, message, now)
        peer.deadlines.retransmit = now + REKEY_TIMEOUT + self._jitter()
        self._schedule.update(peer)

    def _send_control(self, peer: Peer, message: bytes, now: float) -> None:
        assert peer.endpoint is not None
        data = peer.cookies.add_macs(message, now)
        self._datagrams.append(Datagram(peer.endpoint, data, peer))
        peer.tx_bytes += len(data)
        peer.last_handshake_sent = peer.control_sent = now
        self._any_sent(peer, now)

    def _give_up(self, peer: Peer, now: float) -> None:
        peer.wanted = False
        if self._offload:  # deadlines.keepalive stays: until the next look the native peer is armed
            peer.keepalive_due = inf
            peer.control_sent = now  # the keepalive is as good as sent: what comes from now on is owed another
        else:
            peer.deadlines.keepalive = inf
        self._forget_initiation(peer)
        self._drop_staged(peer, Reason.STAGE_EXPIRED)
        self._events.append(HandshakeGivenUp(peer))

    # ---- taking --------------------------------------------------------------------------------------------------

    def _admit(
        self, kind: MessageType, data: bytes, endpoint: "Endpoint", now: float, under_load: bool, proven: bool
    ) -> bool:
        """Whether an initiation or a response is worth its X25519 (paper 5.3)."""
        if self._identity is None or not self._checker.check_mac1(data):
            self._drop(Reason.AUTH)
            return False
        if under_load:
            self._guard_until = now + UNDER_LOAD_TIME
        if proven:
            return self._within_limit(endpoint, now)
        if now >= self._guard_until:
            return True
        source = endpoint.host.packed + endpoint.port.to_bytes(2, "big")
        if not self._checker.check_mac2(data, source, now):
            sender = int.from_bytes(data[4:8], "little")
            self._datagrams.append(Datagram(endpoint, self._checker.reply(data, sender, source, now), None))
            self._drop(Reason.NO_COOKIE)
            return False
        return self._within_limit(endpoint, now)

    def _within_limit(self, endpoint: "Endpoint", now: float) -> bool:
        allowed = self._limiter.allow(endpoint.host, now)
        if not allowed:
            self._drop(Reason.RATE_LIMIT)
        return allowed

    def _initiation_received(self, data: bytes, endpoint: "Endpoint", now: float) -> None:
        assert self._identity is not None
        initiation = Initiation.parse(data)
        try:
            responder = Responder(self._identity, initiation)
            peer = self.peers.get(responder.remote_public)
            if peer is None:
                return self._drop(Reason.UNKNOWN_PEER)
            timestamp = responder.read_timestamp(peer.static_static(self._identity))
        except CryptoError:
            return self._drop(Reason.AUTH)
        if timestamp <= peer.timestamp_received:
            return self._drop(Reason.REPLAY)
        if now < peer.last_initiation_taken + 1 / INITIATIONS_PER_SECOND:
            return self._drop(Reason.RATE_LIMIT)
        peer.timestamp_received = timestamp
        peer.last_initiation_taken = now
        index = self._new_index(peer)
        chaining_key, message = responder.respond(self._random(32), index, peer.preshared_key)
        self._authentic(peer, data, endpoint, now)
        self._send_control(peer, message, now)
        self._begin_session(peer, chaining_key, False, index, initiation.sender, now)
        self._schedule.update(peer)

    def _response_received(self, data: bytes, endpoint: "Endpoint", now: float) -> Peer | None:
        """Take a response; returns the peer that has a new session, to which something must be sent at once."""
        assert self._identity is not None
        response = Response.parse(data)
        peer = self._initiators.get(response.receiver)
        if peer is None:
            self._drop(Reason.UNKNOWN_INDEX)
            return None
        assert peer.initiator is not None
        try:
            chaining_key = peer.initiator.finish(self._identity, response, peer.preshared_key)
        except CryptoError:
            self._drop(Reason.AUTH)
            return None
        self._forget_initiation(peer)
        self._authentic(peer, data, endpoint, now)
        self._begin_session(peer, chaining_key, True, response.receiver, response.sender, now)
        self._complete(peer, now)
        return peer

    def _cookie_received(self, data: bytes, now: float) -> None:
        reply = CookieReply.parse(data)
        peer = self._initiators.get(reply.receiver) or self._sessions.get(reply.receiver)
        if peer is None:
            self._drop(Reason.UNKNOWN_INDEX)
        elif not peer.cookies.consume(reply, now):
            self._drop(Reason.AUTH)
        # The cookie serves the next retransmission; answering at once would help whoever forges the load.

    def _authentic(self, peer: Peer, data: bytes, endpoint: "Endpoint", now: float) -> None:
        """A handshake message is proven to be the peer's: so its source is where the peer is."""
        peer.rx_bytes += len(data)
        peer.control_received = now
        self._moved(peer, endpoint)
        self._any_received(peer, now)
