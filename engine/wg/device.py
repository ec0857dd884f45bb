"""A WireGuard device without I/O: five verbs in, datagrams and events out.

    datagram_received(data, endpoint, now)   a UDP payload came
    packet_to_send(packet, now)              an IP packet came out of the TUN
    datagrams_to_send(now, wall)             what to put on the wire; call after every other verb
    next_timer() / handle_timer(now)         one timer for the whole device: arm it after every other verb
    next_event()                             what happened; call until None after every other verb

`now` is seconds of a clock that never goes back and counts suspend (CLOCK_BOOTTIME); `wall` is Unix time, used for
TAI64N timestamps and "latest handshake" only. Randomness is an argument of the constructor. Nothing here blocks.

With offload=True data messages never come here: the native datapath carries them with the sessions it gets by
SessionReady, and tells us by three more verbs:

    handshake_wanted(peer, now)    native event HANDSHAKE: packets wait for a session, or the current one is aged
    session_confirmed(peer, now)   native event CONFIRMED: the first packet under `next` arrived
    traffic(peer, report, now)     native event TIMERS, and our event TrafficWanted

The native datapath follows a roaming peer by itself. So that handshakes go to the right place too, call
set_endpoint(peer, native.endpoint) before each of these three.

What is received is judged in the order of cost: type and length, mac1 (one hash), under load mac2 and the source's
rate, and only then X25519. Whoever does not know our public key, or is no peer of ours, hears nothing.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from math import inf
from typing import TYPE_CHECKING

from engine.wg.constants import (
    KEEPALIVE_TIMEOUT,
    MAX_INITIATIONS_PER_CALL,
    NEW_HANDSHAKE_TIME,
    REKEY_ATTEMPT_TIME,
)
from engine.wg.cookie import CookieChecker
from engine.wg.events import Datagram, Event, Traffic, TrafficWanted
from engine.wg.messages import MessageType, classify
from engine.wg.noise import Identity
from engine.wg.peer import NO_PRESHARED_KEY, Peer
from engine.wg.transport import Transport
from native.reasons import Reason

if TYPE_CHECKING:
    from native.endpoint import Endpoint


class Device(Transport):
    """See the head of this file. Not thread-safe: one owner."""

    # ---- configuration -------------------------------------------------------------------------------------------

    @property
    def private_key(self) -> bytes | None:
        """Our static private key, 32 bytes."""
        return self._identity.private if self._identity else None

    @property
    def public_key(self) -> bytes | None:
        """Our static public key, 32 bytes."""
        return self._identity.public if self._identity else None

    def set_private_key(self, key: bytes | None) -> None:
        """Set our static key (32 bytes; None or all zero = none). A new key ends all sessions.

        A peer with our own public key is removed, as the kernel does.
        """
        if key is not None and len(key) != 32:
            raise ValueError("a private key has 32 bytes")
        if key == bytes(32):
            key = None
        if key == self.private_key:
            return
        self._identity = Identity(key) if key else None
        self._checker = CookieChecker(self._identity.public if self._identity else bytes(32), self._random)
        for peer in list(self.peers.values()):
            peer.forget_identity()
            self._forget_initiation(peer)
            self._erase(peer)
            peer.last_handshake_sent = -inf
            self._queue_initiation(peer)
        if self._identity and self._identity.public in self.peers:
            self.remove_peer(self.peers[self._identity.public])

    def add_peer(
        self,
        public_key: bytes,
        *,
        preshared_key: bytes | None = None,
        endpoint: "Endpoint | None" = None,
        persistent_keepalive: int = 0,
        allowed_ips: Iterable[IPv4Network | IPv6Network] = (),
    ) -> Peer | None:
        """Add a peer, or give the one with this key these values (prefixes are added to those it has).

        None: it is our own key, which is ignored, as the kernel does.

        A null or low-order key is taken, as by the kernel, but no handshake with it ever starts or succeeds.
        """
        if len(public_key) != 32:
            raise ValueError("a public key has 32 bytes")
        if public_key == self.public_key:
            return None
        peer = self.peers.get(public_key)
        if peer is None:
            peer = self.peers[public_key] = Peer(public_key)
        self.set_preshared_key(peer, preshared_key)
        if endpoint is not None:
            self.set_endpoint(peer, endpoint)
        for network in allowed_ips:
            self.allowed_ips.add(network, peer)
        self.set_persistent_keepalive(peer, persistent_keepalive)
        return peer

    def remove_peer(self, peer: Peer) -> None:
        """Forget a peer, its sessions, its prefixes and what waits for it."""
        if self.peers.get(peer.public_key) is not peer:
            return
        del self.peers[peer.public_key]
        peer.wanted = False
        self.allowed_ips.remove_owner(peer)
        self._drop_staged(peer, Reason.NO_PEER)
        self._forget_initiation(peer)
        self._erase(peer)
        self._schedule.remove(peer)

    def set_preshared_key(self, peer: Peer, key: bytes | None) -> None:
        """Set the 32-byte key mixed into the next handshake; None or all zero = none."""
        if key is not None and len(key) != 32:
            raise ValueError("a preshared key has 32 bytes")
        peer.preshared_key = key or NO_PRESHARED_KEY

    def set_endpoint(self, peer: Peer, endpoint: "Endpoint") -> None:
        """Say where the peer is (configuration, or the native datapath saw it roam). A waiting handshake starts."""
        peer.endpoint = endpoint
        self._queue_initiation(peer)

    def set_persistent_keepalive(self, peer: Peer, seconds: int) -> None:
        """Set the interval (s, 0 = off). A new interval sends a keepalive at once."""
        if not 0 <= seconds <= 65535:
            raise ValueError("a persistent keepalive is 0 to 65535 seconds")
        if seconds == peer.persistent_keepalive or self.peers.get(peer.public_key) is not peer:
            return
        if not seconds:
            peer.deadlines.persistent = inf
        else:
            peer.deadlines.persistent = -inf
        peer.persistent_keepalive = seconds
        self._schedule.update(peer)

    def set_allowed_ips(self, peer: Peer, networks: Iterable[IPv4Network | IPv6Network]) -> None:
        """Replace the peer's prefixes. A prefix of another peer moves to this one."""
        if self.peers.get(peer.public_key) is not peer:
            return  # removed meanwhile: it must not get prefixes again
        self.allowed_ips.replace(peer, tuple(networks))

    # ---- the verbs -----------------------------------------------------------------------------------------------

    def datagram_received(
        self, data: bytes, endpoint: "Endpoint", now: float, *, under_load: bool = False, proven: bool = False
    ) -> None:
        """Take one UDP payload. under_load: more handshake messages wait than we can soon answer (paper 5.3).

        proven: the native datapath is under load and has found the cookie right: only the source's limit is left.
        """
        kind = classify(data)
        if kind is None:
            self._drop(Reason.UNKNOWN_TYPE)
        elif kind is MessageType.DATA:
            self._data_received(data, endpoint, now)
        elif kind is MessageType.COOKIE_REPLY:
            self._cookie_received(data, now)
        elif self._admit(kind, data, endpoint, now, under_load, proven):
            if kind is MessageType.INITIATION:
                self._initiation_received(data, endpoint, now)
            elif (peer := self._response_received(data, endpoint, now)) is not None:
                self._confirm_to_responder(peer, now)
                self._schedule.update(peer)

    def packet_to_send(self, packet: bytes, now: float) -> None:
        """Take one IP packet out of the TUN: sealed at once, or staged while a handshake runs."""
        version = packet[0] >> 4 if packet else 0
        if version == 4 and len(packet) >= 20:
            destination = packet[16:20]
        elif version == 6 and len(packet) >= 40:
            destination = packet[24:40]
        else:
            return self._drop(Reason.MALFORMED)
        peer = self.allowed_ips.find(destination)
        if peer is None:
            return self._drop(Reason.NO_PEER)
        if peer.endpoint is None:
            return self._drop(Reason.NO_ENDPOINT)
        if not peer.stage(packet):
            self._drop(Reason.STAGE_FULL)
        peer.attempt_until = now + REKEY_ATTEMPT_TIME
        self._send_staged(peer, now)
        self._schedule.update(peer)

    def datagrams_to_send(self, now: float, wall: float) -> list[Datagram]:
        """Return what is to be sent, in order. Initiations are built here, for here the wall clock is known.

        At most MAX_INITIATIONS_PER_CALL of them: when more wait, next_timer() is due at once.
        """
        for peer, at in self._handshaken:
            peer.last_handshake = divmod(int((wall - (now - at)) * 1e9), 10**9)
        self._handshaken.clear()
        for _ in range(min(len(self._initiations), MAX_INITIATIONS_PER_CALL)):
            peer = self._initiations.popleft()
            peer.queued = False
            if peer.wanted:
                self._send_initiation(peer, now, wall)
        datagrams = list(self._datagrams)
        self._datagrams.clear()
        return datagrams

    def next_timer(self) -> float | None:
        """Return when (in `now`) handle_timer is to be called; None: never, as things stand. May be in the past."""
        return -inf if self._initiations else self._schedule.next()

    def handle_timer(self, now: float) -> None:
        """Act on every deadline that is due."""
        while (peer := self._schedule.due(now)) is not None:
            self._act(peer, now)
            self._schedule.update(peer)

    def next_event(self) -> Event | None:
        """Return the oldest event that was not yet fetched, or None."""
        return self._events.popleft() if self._events else None

    # ---- the verbs of the native datapath (offload) --------------------------------------------------------------

    def handshake_wanted(self, peer: Peer, now: float) -> bool:
        """Packets wait for a session, or the current one is aged. False: no need (the news crossed with a new session).

        After True exactly one of SessionReady or HandshakeGivenUp follows (later, when there is no endpoint or no key
        of ours yet). After False call the native peer's handshake_done().
        """
        if self.peers.get(peer.public_key) is not peer or not peer.needs_rekey(now):
            return False
        self._want_handshake(peer, now)
        self._schedule.update(peer)
        return True

    def session_confirmed(self, peer: Peer, now: float) -> None:
        """The first packet under `next` arrived, so the native datapath made it current; keep in step."""
        if peer.next is not None:
            self._confirm(peer, now)
            self._schedule.update(peer)

    def traffic(self, peer: Peer, report: Traffic, now: float) -> bool:
        """Look at a peer's data traffic and act on what is due. The glue calls it so, on TIMERS and TrafficWanted:

            if not device.traffic(peer, native.traffic(), now):
                native.disarm()
                device.traffic(peer, native.traffic(), now)  # what passed in between

        True: deadlines are kept here, and TrafficWanted will come in time; leave the native peer armed, so that it does
        not wake us for each packet. False: all is answered; after disarm() the next packet brings TIMERS again.
        """
        # Handshake messages count as traffic too, but the native side does not know of them.
        unanswered = _since(
            report.unanswered_sent_ns / 1e9,
            report.last_data_sent_ns / 1e9,
            max(peer.control_received, peer.silence_noted),
            peer.unanswered_sent,
        )
        unacknowledged = _since(
            report.unacknowledged_received_ns / 1e9,
            report.last_data_received_ns / 1e9,
            peer.control_sent,
            peer.unacknowledged_received,
        )
        if unanswered != peer.unanswered_sent:
            peer.unanswered_sent = unanswered
            peer.handshake_due = unanswered + NEW_HANDSHAKE_TIME + self._jitter() if unanswered else inf
        if unacknowledged != peer.unacknowledged_received:
            peer.unacknowledged_received = unacknowledged
            peer.keepalive_due = unacknowledged + KEEPALIVE_TIMEOUT if unacknowledged else inf
        if peer.handshake_due <= now:
            peer.handshake_due = inf
            peer.silence_noted = now  # data sent from now on starts the timer again, as the kernel's
            self._clear_source(peer)
            self._want_handshake(peer, now)
        deadlines = peer.deadlines
        if peer.persistent_keepalive:
            last = max(report.last_sent_ns / 1e9, report.last_received_ns / 1e9)
            last = max(last, peer.control_sent, peer.control_received)
            deadlines.persistent = last + peer.persistent_keepalive
        if min(peer.keepalive_due, deadlines.persistent) <= now:
            peer.keepalive_due = inf
            if peer.persistent_keepalive:
                deadlines.persistent = now + peer.persistent_keepalive
            self._send_keepalive(peer, now)
        due = min(peer.handshake_due, peer.keepalive_due)
        # While the native peer is armed it does not tell of a change of the other kind: look again before that one can
        # have become due.
        deadlines.keepalive = min(due, now + KEEPALIVE_TIMEOUT) if due < inf else inf
        self._schedule.update(peer)
        return due < inf

    # ---- timers --------------------------------------------------------------------------------------------------

    def _act(self, peer: Peer, now: float) -> None:
        deadlines = peer.deadlines
        if deadlines.erase <= now:
            self._erase(peer)
        if deadlines.retransmit <= now:
            deadlines.retransmit = inf
            if now >= peer.attempt_until:
                self._give_up(peer, now)
            else:
                self._clear_source(peer)
                self._queue_initiation(peer)
        if deadlines.new_handshake <= now:
            deadlines.new_handshake = inf
            self._clear_source(peer)
            self._want_handshake(peer, now)
        if deadlines.persistent == -inf:
            deadlines.persistent = now + peer.persistent_keepalive
            self._send_keepalive(peer, now)
        elif min(deadlines.keepalive, deadlines.persistent) <= now:
            deadlines.keepalive = inf
            if peer.persistent_keepalive:
                deadlines.persistent = now + peer.persistent_keepalive
            if self._offload:
                self._events.append(TrafficWanted(peer))
            else:
                self._send_keepalive(peer, now)


def _since(first: float, last: float, cleared: float, kept: float) -> float:
    """Since when is traffic of one direction unanswered (0: it is not)?

    The native side says when the first and the last such packet passed; a handshake message of the other direction
    cleared it at `cleared`, which the native side does not know. kept is our former answer.
    """
    if first == 0 or first > cleared:
        return first
    if last <= cleared:
        return 0.0
    return kept if kept > cleared else last
