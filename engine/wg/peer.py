"""One peer: its configuration and public facts, its handshake, its three sessions, its waiting packets.

Sessions (the paper's keypairs, section 6) live in three slots:

    next      made as responder; becomes current when the first packet under it proves that the initiator has it
    current   what we send under
    previous  what was current before: late packets may still be opened under it

A Peer only holds state; `device.Device` is what changes it.
"""

from math import inf
from typing import TYPE_CHECKING

from engine.wg import tai64n
from engine.wg.constants import MAX_STAGED_PACKETS, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME
from engine.wg.cookie import CookieGenerator
from engine.wg.noise import Identity, Initiator
from engine.wg.primitives import dh
from engine.wg.timers import Deadlines

if TYPE_CHECKING:
    from native.endpoint import Endpoint
    from native.session import Session

NO_PRESHARED_KEY = bytes(32)


def to_ns(now: float) -> int:
    """Return seconds as whole nanoseconds, the unit of the native side."""
    return int(now * 1e9)


class Peer:
    """A peer of a Device. Read the public facts at will; change them through the Device."""

    __slots__ = (
        "_static_static", "attempt_until", "control_received", "control_sent", "cookies", "current", "deadlines",
        "endpoint", "handshake_due", "initiator", "keepalive_due", "lane", "last_handshake", "last_handshake_sent",
        "last_initiation_taken", "next", "persistent_keepalive", "preshared_key", "previous", "public_key", "queued",
        "rekeyed_on_receive", "rx_bytes", "silence_noted", "staged", "timestamp_received", "timestamp_sent", "tx_bytes",
        "unacknowledged_received", "unanswered_sent", "wanted",
    )  # fmt: skip

    def __init__(self, public_key: bytes) -> None:
        # Public facts.
        self.public_key = public_key
        self.preshared_key = NO_PRESHARED_KEY
        """32 bytes; all zero = none."""
        self.endpoint: Endpoint | None = None
        self.persistent_keepalive = 0
        """Seconds; 0 = off."""
        self.last_handshake: tuple[int, int] | None = None
        """Wall time (s, ns) at which the last session was confirmed; set by the datagrams_to_send() that follows."""
        self.rx_bytes = 0
        self.tx_bytes = 0
        """UDP payload bytes that passed the Device as authentic: in offload mode those of handshake messages only."""

        # Handshake.
        self.cookies = CookieGenerator(public_key)
        self.initiator: Initiator | None = None
        self.wanted = False
        """A handshake is to be made: from the first wish until a session is usable or we give up."""
        self.queued = False
        """In the Device's queue of initiations to build."""
        self.attempt_until = 0.0
        self.last_handshake_sent = -inf
        self.last_initiation_taken = -inf
        self.timestamp_received = tai64n.ZERO
        self.timestamp_sent = tai64n.ZERO
        self.lane: int | None = None
        """What its receiver indices have in common, where several receive."""
        self._static_static: bytes | None = None

        # Sessions and packets.
        self.current: Session | None = None
        self.previous: Session | None = None
        self.next: Session | None = None
        self.staged: list[bytes] = []  # short, and there are many peers: not a deque
        self.rekeyed_on_receive = False

        # Timers. When the Device itself sent and received last (handshakes; offload: keepalives it asked for), and
        # (offload only) what the last Traffic report came to.
        self.deadlines = Deadlines()
        self.control_sent = 0.0
        self.control_received = 0.0
        self.unanswered_sent = 0.0
        self.handshake_due = inf
        self.silence_noted = 0.0
        self.unacknowledged_received = 0.0
        self.keepalive_due = inf

    def __repr__(self) -> str:
        return f"Peer({self.public_key.hex()[:8]})"

    def static_static(self, identity: Identity) -> bytes:
        """Return DH(our static, theirs), computed once. CryptoError for a null or low-order key: no handshake ever."""
        if self._static_static is None:
            self._static_static = dh(identity.private, self.public_key)
        return self._static_static

    def forget_identity(self) -> None:
        """Our static key changed."""
        self._static_static = None

    def sessions(self) -> "list[Session]":
        """Return the sessions in use."""
        return [session for session in (self.current, self.previous, self.next) if session is not None]

    def find(self, local_index: int) -> "Session | None":
        """Return the session that has this receiver index."""
        for session in (self.current, self.previous, self.next):
            if session is not None and session.local_index == local_index:
                return session
        return None

    def put(self, session: "Session") -> "list[Session]":
        """Put a new session into its slot; returns those that lose theirs."""
        if session.initiator:
            # An unconfirmed session goes on to previous, so that packets already on their way under it can be opened.
            lost = [self.previous, self.current if self.next else None]
            self.previous = self.next or self.current
            self.next = None
            self.current = session
        else:
            lost = [self.previous, self.next]
            self.previous = None
            self.next = session
        self.rekeyed_on_receive = False
        return [old for old in lost if old is not None]

    def confirm(self) -> "list[Session]":
        """Something authentic arrived under next: it becomes current. Returns the sessions that lose their slot."""
        lost = [] if self.previous is None else [self.previous]
        self.previous = self.current
        self.current = self.next
        self.next = None
        self.rekeyed_on_receive = False
        return lost

    def needs_rekey(self, now: float) -> bool:
        """Whether sending at now needs a new session: none, dead, or (paper 6.2) past its rekey limits."""
        session = self.current
        if session is None or not session.alive(to_ns(now)):
            return True
        aged = session.initiator and to_ns(now) - session.birth_ns >= to_ns(REKEY_AFTER_TIME)
        return aged or session.sent >= REKEY_AFTER_MESSAGES

    def stage(self, packet: bytes) -> bool:
        """Keep a packet until there is a session; False: the oldest one was pushed out for it."""
        self.staged.append(packet)
        if len(self.staged) <= MAX_STAGED_PACKETS:
            return True
        del self.staged[0]
        return False
