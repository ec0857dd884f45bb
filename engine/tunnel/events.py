"""What a tunnel tells its owner, and what it shows when asked. Plain values, no behaviour."""

from dataclasses import dataclass

from native.endpoint import Endpoint
from native.reasons import Reason


@dataclass(frozen=True)
class HandshakeCompleted:
    """A session with the peer is ready (its public key, 32 bytes)."""

    peer: bytes


@dataclass(frozen=True)
class HandshakeGivenUp:
    """No answer from the peer for REKEY_ATTEMPT_TIME."""

    peer: bytes


@dataclass(frozen=True)
class Stopped:
    """The datapath ended by itself (`error` is an errno): the interface was deleted. Nothing passes any more."""

    error: int


@dataclass(frozen=True)
class Unanswered:
    """Data was sent to the peer, and nothing authenticated has been received since (`PeerStatus.unanswered_since`)."""

    peer: bytes


TunnelEvent = HandshakeCompleted | HandshakeGivenUp | Unanswered | Stopped


@dataclass(frozen=True)
class RuleCount:
    """How often a rule gave the verdict, in packets and bytes of inner traffic."""

    rule: str
    packets: int
    bytes: int


@dataclass(frozen=True)
class PeerStatus:
    """One peer as `wg show` would tell it; times in ns since 1970 (0: never), bytes as the kernel counts them.

    `unanswered_since`: when the first data packet was sent to which nothing has come back (`clock.now`; 0: none).
    """

    public_key: bytes
    endpoint: Endpoint | None
    last_handshake_ns: int
    rx_bytes: int
    tx_bytes: int
    unanswered_since: float


@dataclass(frozen=True)
class TunnelStatus:
    """A tunnel at one moment."""

    interface: str
    mtu: int
    listen_port: int
    fwmark: int
    peers: tuple[PeerStatus, ...]
    verdicts: tuple[RuleCount, ...]
    drops: dict[Reason, int]
    offloads: dict[str, bool]
    statistics: dict[str, int]
