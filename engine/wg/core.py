"""What all of a Device's parts share: its peers, its receiver indices, its sessions, and what waits to be fetched.

A Device is built up in four files, each one layer on the one before:

    core        state, sessions and their slots
    handshakes  making and taking handshakes
    transport   data messages, when no native datapath carries them
    device      configuration, the verbs, the timers
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from engine.wg.allowedips import AllowedIPs
from engine.wg.constants import (
    ERASE_AFTER_TIME,
    MAX_QUEUED_DATAGRAMS,
    MAX_QUEUED_DROP_EVENTS,
    REKEY_TIMEOUT_JITTER,
)
from engine.wg.cookie import CookieChecker, RateLimiter
from engine.wg.events import Datagram, EndpointChanged, Event, KeysErased, PacketDropped, SessionReady
from engine.wg.noise import Identity
from engine.wg.peer import Peer, to_ns
from engine.wg.timers import Schedule
from native.reasons import Reason
from native.session import Session

if TYPE_CHECKING:
    from native.endpoint import Endpoint


class Core:
    """The state of a Device."""

    def __init__(
        self,
        *,
        random: Callable[[int], bytes],
        offload: bool = False,
        mtu: int = 1420,
        lanes: int = 1,
        new_session: Callable[..., Session] = Session,
    ) -> None:
        """Make a device without a key and without peers: it answers nothing.

        random(n) gives n unpredictable bytes. mtu bounds the padding of data messages (without offload only).
        lanes: who receives for us may be several; the low byte of a receiver index, modulo lanes, is the same for all
        sessions of a peer, so that they can share the work and keep the order.
        """
        self.peers: dict[bytes, Peer] = {}
        """Public key -> peer. Change it through add_peer and remove_peer."""
        self.allowed_ips: AllowedIPs[Peer] = AllowedIPs()
        """Read it (iterate for (network, peer)); change it through the methods here."""
        self.drops: dict[Reason, int] = {}
        """How often what was dropped here, since the start."""
        self.mtu = mtu
        self._lanes = lanes
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

    # ---- sessions ------------------------------------------------------------------------------------------------

    def _begin_session(
        self, peer: Peer, chaining_key: bytes, initiator: bool, local: int, remote: int, now: float
    ) -> None:
        session = self._new_session(
            chaining_key, initiator=initiator, local_index=local, remote_index=remote, birth_ns=to_ns(now)
        )
        self._sessions[local] = peer
        self._retire(peer.put(session))
        peer.deadlines.erase = now + ERASE_AFTER_TIME
        self._events.append(SessionReady(peer, session))

    def _confirm(self, peer: Peer, now: float) -> None:
        self._retire(peer.confirm())
        self._complete(peer, now)

    def _complete(self, peer: Peer, now: float) -> None:
        """Both sides have the session now."""
        peer.wanted = False
        self._forget_initiation(peer)
        self._handshaken.append((peer, now))

    def _forget_initiation(self, peer: Peer) -> None:
        peer.deadlines.retransmit = inf
        if peer.initiator is not None:
            del self._initiators[peer.initiator.index]
            peer.initiator.wipe()
            peer.initiator = None

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

    def _new_index(self, peer: Peer) -> int:
        while True:
            index = int.from_bytes(self._random(4), "little")
            if self._lanes > 1:
                if peer.lane is None:
                    peer.lane = index % 256 % self._lanes
                elif index % 256 % self._lanes != peer.lane:
                    continue
            if index not in self._initiators and index not in self._sessions:
                return index

    # ---- traffic and drops ---------------------------------------------------------------------------------------

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
