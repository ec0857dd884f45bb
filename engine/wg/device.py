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

What is received is judged in the order of cost: type and length, mac1 (one hash), under load mac2 and the source's
rate, and only then X25519. Whoever does not know our public key, or is no peer of ours, hears nothing.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from math import inf
from typing import TYPE_CHECKING

from engine.wg import tai64n
from engine.wg.allowedips import AllowedIPs
from engine.wg.constants import (
    ERASE_AFTER_TIME,
    INITIATIONS_PER_SECOND,
    KEEPALIVE_TIMEOUT,
    MAX_INITIATIONS_PER_CALL,
    MAX_QUEUED_DATAGRAMS,
    MAX_QUEUED_DROP_EVENTS,
    NEW_HANDSHAKE_TIME,
    PADDING,
    REKEY_ATTEMPT_TIME,
    REKEY_BEFORE_REJECT_TIME,
    REKEY_TIMEOUT,
    REKEY_TIMEOUT_JITTER,
    UNDER_LOAD_TIME,
)
from engine.wg.cookie import CookieChecker, RateLimiter
from engine.wg.events import (
    Datagram,
    EndpointChanged,
    Event,
    HandshakeGivenUp,
    KeepaliveWanted,
    KeysErased,
    PacketDropped,
    PacketReceived,
    SessionReady,
    Traffic,
    TrafficWanted,
)
from engine.wg.messages import CookieReply, Initiation, MessageType, Response, classify, receiver_of
from engine.wg.noise import Identity, Initiator, Responder
from engine.wg.peer import NO_PRESHARED_KEY, Peer, to_ns
from engine.wg.primitives import CryptoError
from engine.wg.timers import Schedule
from native.reasons import Reason
from native.session import Session

if TYPE_CHECKING:
    from native.endpoint import Endpoint


class Device:
    """See the head of this file. Not thread-safe: one owner."""

    def __init__(
        self,
        *,
        random: Callable[[int], bytes],
        offload: bool = False,
        mtu: int = 1420,
        new_session: Callable[..., Session] = Session,
    ) -> None:
        """Make a device without a key and without peers: it answers nothing.

        random(n) gives n unpredictable bytes. mtu bounds the padding of data messages (without offload only).
        """
        self.peers: dict[bytes, Peer] = {}
        """Public key -> peer. Change it through add_peer and remove_peer."""
        self.allowed_ips: AllowedIPs[Peer] = AllowedIPs()
        """Read it (iterate for (network, peer)); change it through the methods here."""
        self.drops: dict[Reason, int] = {}
        """How often what was dropped here, since the start."""
        self.mtu = mtu
        self._random = random
        self._offload = offload
        self._new_session = new_session
        self._identity: Identity | None = None
        self._checker = CookieChecker(bytes(32), random)
        self._limiter = RateLimiter()
        self._guard_until = -inf
        # Receiver indices in use: by an initiation in flight, or by a session (ours to choose, so unique over both).
        self._initiators: dict[int, Peer] = {}
        self._sessions: dict[int, Peer] = {}
        self._schedule = Schedule()
        self._initiations: deque[Peer] = deque()
        self._datagrams: deque[Datagram] = deque(maxlen=MAX_QUEUED_DATAGRAMS)
        self._events: deque[Event] = deque()
        self._handshaken: list[tuple[Peer, float]] = []

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
        """Add a peer, or change the one with this key. None: it is our own key, which is ignored, as the kernel does.

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
        if seconds == peer.persistent_keepalive:
            return
        if not seconds:
            peer.deadlines.persistent = inf
        else:
            peer.deadlines.persistent = -inf
        peer.persistent_keepalive = seconds
        self._schedule.update(peer)

    def set_allowed_ips(self, peer: Peer, networks: Iterable[IPv4Network | IPv6Network]) -> None:
        """Replace the peer's prefixes. A prefix of another peer moves to this one."""
        self.allowed_ips.remove_owner(peer)
        for network in networks:
            self.allowed_ips.add(network, peer)

    # ---- the verbs -----------------------------------------------------------------------------------------------

    def datagram_received(self, data: bytes, endpoint: "Endpoint", now: float, *, under_load: bool = False) -> None:
        """Take one UDP payload. under_load: more handshake messages wait than we can soon answer (paper 5.3)."""
        kind = classify(data)
        if kind is None:
            self._drop(Reason.UNKNOWN_TYPE)
        elif kind is MessageType.DATA:
            self._data_received(data, endpoint, now)
        elif kind is MessageType.COOKIE_REPLY:
            self._cookie_received(data, now)
        elif self._admit(kind, data, endpoint, now, under_load):
            if kind is MessageType.INITIATION:
                self._initiation_received(data, endpoint, now)
            else:
                self._response_received(data, endpoint, now)

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

    # ---- the verbs of the native datapath (offload) -----------------------------------------------------------------

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
            peer.control_received,
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

    def _jitter(self) -> float:
        return int.from_bytes(self._random(4), "little") / 2**32 * REKEY_TIMEOUT_JITTER

    def _any_sent(self, peer: Peer, now: float) -> None:
        if peer.persistent_keepalive:
            peer.deadlines.persistent = now + peer.persistent_keepalive
        if not self._offload:
            peer.deadlines.keepalive = inf

    def _any_received(self, peer: Peer, now: float) -> None:
        if peer.persistent_keepalive:
            peer.deadlines.persistent = now + peer.persistent_keepalive
        if not self._offload:
            peer.deadlines.new_handshake = inf

    # ---- making handshakes ---------------------------------------------------------------------------------------

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
        index = self._new_index()
        peer.initiator, message = Initiator.start(
            self._identity,
            peer.public_key,
            static_static,
            transcript=peer.transcript,
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
        peer.deadlines.keepalive = inf
        self._forget_initiation(peer)
        self._drop_staged(peer, Reason.STAGE_EXPIRED)
        if peer.sessions() and peer.deadlines.erase == inf:
            peer.deadlines.erase = now + ERASE_AFTER_TIME
        self._events.append(HandshakeGivenUp(peer))

    def _forget_initiation(self, peer: Peer) -> None:
        peer.deadlines.retransmit = inf
        if peer.initiator is not None:
            del self._initiators[peer.initiator.index]
            peer.initiator.wipe()
            peer.initiator = None

    # ---- taking handshakes ---------------------------------------------------------------------------------------

    def _admit(self, kind: MessageType, data: bytes, endpoint: "Endpoint", now: float, under_load: bool) -> bool:
        """Whether an initiation or a response is worth its X25519 (paper 5.3)."""
        if self._identity is None or not self._checker.check_mac1(data):
            self._drop(Reason.AUTH)
            return False
        if under_load:
            self._guard_until = now + UNDER_LOAD_TIME
        if now >= self._guard_until:
            return True
        source = endpoint.host.packed + endpoint.port.to_bytes(2, "big")
        if not self._checker.check_mac2(data, source, now):
            sender = int.from_bytes(data[4:8], "little")
            self._datagrams.append(Datagram(endpoint, self._checker.reply(data, sender, source, now), None))
            self._drop(Reason.NO_COOKIE)
            return False
        if not self._limiter.allow(endpoint.host, now):
            self._drop(Reason.RATE_LIMIT)
            return False
        return True

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
        index = self._new_index()
        chaining_key, message = responder.respond(self._random(32), index, peer.preshared_key)
        self._authentic(peer, data, endpoint, now)
        self._send_control(peer, message, now)
        self._begin_session(peer, chaining_key, False, index, initiation.sender, now)
        self._schedule.update(peer)

    def _response_received(self, data: bytes, endpoint: "Endpoint", now: float) -> None:
        assert self._identity is not None
        response = Response.parse(data)
        peer = self._initiators.get(response.receiver)
        if peer is None:
            return self._drop(Reason.UNKNOWN_INDEX)
        assert peer.initiator is not None
        try:
            chaining_key = peer.initiator.finish(self._identity, response, peer.preshared_key)
        except CryptoError:
            return self._drop(Reason.AUTH)
        self._forget_initiation(peer)
        self._authentic(peer, data, endpoint, now)
        session = self._begin_session(peer, chaining_key, True, response.receiver, response.sender, now)
        self._complete(peer, now)
        # Something must go out under the new session at once, or the responder may not use it.
        if self._offload:
            self._events.append(KeepaliveWanted(peer, confirms=session))
        else:
            self._send_keepalive(peer, now)
        self._schedule.update(peer)

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

    # ---- sessions ------------------------------------------------------------------------------------------------

    def _begin_session(
        self, peer: Peer, chaining_key: bytes, initiator: bool, local: int, remote: int, now: float
    ) -> Session:
        session = self._new_session(
            chaining_key, initiator=initiator, local_index=local, remote_index=remote, birth_ns=to_ns(now)
        )
        self._sessions[local] = peer
        self._retire(peer.put(session))
        peer.deadlines.erase = now + ERASE_AFTER_TIME
        self._events.append(SessionReady(peer, session))
        return session

    def _confirm(self, peer: Peer, now: float) -> None:
        self._retire(peer.confirm())
        self._complete(peer, now)

    def _complete(self, peer: Peer, now: float) -> None:
        """Both sides have the session now."""
        peer.wanted = False
        self._forget_initiation(peer)
        self._handshaken.append((peer, now))

    def _erase(self, peer: Peer) -> None:
        sessions = peer.sessions()
        peer.current = peer.previous = peer.next = None
        peer.deadlines.erase = inf
        self._retire(sessions)
        if sessions:
            self._events.append(KeysErased(peer))

    def _retire(self, sessions: list[Session]) -> None:
        for session in sessions:
            del self._sessions[session.local_index]
            if not self._offload:  # else the native peer may still use it, and lets go of it by itself
                session.close()

    def _new_index(self) -> int:
        while True:
            index = int.from_bytes(self._random(4), "little")
            if index not in self._initiators and index not in self._sessions:
                return index

    # ---- data packets (without offload) ----------------------------------------------------------------------------

    def _send_staged(self, peer: Peer, now: float) -> None:
        session = peer.current
        while peer.staged and session is not None:
            packet = peer.staged[0]
            message = session.seal(packet + bytes(self._padding(len(packet))), to_ns(now))
            if message is None:
                break
            peer.staged.popleft()
            self._send_data(peer, message, now)
            if peer.deadlines.new_handshake == inf:
                peer.deadlines.new_handshake = now + NEW_HANDSHAKE_TIME + self._jitter()
        if peer.needs_rekey(now):
            self._want_handshake(peer, now)

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

    # ---- small things ----------------------------------------------------------------------------------------------

    def _moved(self, peer: Peer, endpoint: "Endpoint") -> None:
        old = peer.endpoint
        # The sticky source counts here, though not in ==.
        if old != endpoint or (old.local, old.ifindex) != (endpoint.local, endpoint.ifindex):
            peer.endpoint = endpoint
            self._events.append(EndpointChanged(peer, endpoint))

    def _clear_source(self, peer: Peer) -> None:
        """The peer does not answer: perhaps because the source address we stick to is no longer good."""
        if peer.endpoint is not None and peer.endpoint.local is not None:
            peer.endpoint = replace(peer.endpoint, local=None, ifindex=0)
            self._events.append(EndpointChanged(peer, peer.endpoint))

    def _drop_staged(self, peer: Peer, reason: Reason) -> None:
        for _ in peer.staged:
            self._drop(reason)
        peer.staged.clear()

    def _drop(self, reason: Reason) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1
        if len(self._events) < MAX_QUEUED_DROP_EVENTS:
            self._events.append(PacketDropped(reason))


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
