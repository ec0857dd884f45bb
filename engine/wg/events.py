"""What a Device hands out: datagrams for the UDP socket, and events for the glue. Plain values.

What the glue does on each event (`native` is the native datapath's peer; offload mode only, where marked *):

    SessionReady*       native.install(session); KeepaliveWanted follows when the session must be confirmed
    KeepaliveWanted*    native.keepalive(); with `confirms`, only if confirms.sent is still 0
    TrafficWanted*      look at native.traffic(), see Device.traffic
    KeysErased          native.erase_keys()*; otherwise for information
    HandshakeGivenUp    native.flush_staged(); native.handshake_done()*
    EndpointChanged     native.endpoint = endpoint*
    PacketReceived      write the packet into the TUN (sans-IO mode only)
    PacketDropped       count it
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from native.reasons import Reason

if TYPE_CHECKING:
    from engine.wg.peer import Peer
    from native.endpoint import Endpoint
    from native.session import Session


@dataclass(frozen=True, slots=True)
class Datagram:
    """One UDP payload to send. peer is None for a cookie reply, which is no peer's (and not counted on any)."""

    endpoint: "Endpoint"
    data: bytes
    peer: "Peer | None"


@dataclass(frozen=True, slots=True)
class SessionReady:
    """A handshake gave a session. Initiator's: current at once. Responder's: next, until something arrives under it."""

    peer: "Peer"
    session: "Session"


@dataclass(frozen=True, slots=True)
class KeepaliveWanted:
    """Send an empty packet under the current session."""

    peer: "Peer"
    confirms: "Session | None" = None
    """Only to confirm this new session to its responder; needless if staged packets were just sent under it."""


@dataclass(frozen=True, slots=True)
class TrafficWanted:
    """A deadline may be due: report the traffic of this peer."""

    peer: "Peer"


@dataclass(frozen=True, slots=True)
class KeysErased:
    """All sessions of the peer are gone (three times REJECT_AFTER_TIME old, peer removed, or our key changed)."""

    peer: "Peer"


@dataclass(frozen=True, slots=True)
class HandshakeGivenUp:
    """No answer for REKEY_ATTEMPT_TIME: what waited for the session is to be dropped."""

    peer: "Peer"


@dataclass(frozen=True, slots=True)
class EndpointChanged:
    """The peer proved to be at another address (or its sticky source was cleared because it does not answer)."""

    peer: "Peer"
    endpoint: "Endpoint"


@dataclass(frozen=True, slots=True)
class PacketReceived:
    """An authenticated inner packet whose source address is the peer's; source is where it came from outside."""

    peer: "Peer"
    packet: bytes
    source: "Endpoint"


@dataclass(frozen=True, slots=True)
class PacketDropped:
    """Something was dropped, silently towards the outside. Device.drops counts them all."""

    reason: Reason


Event = (
    SessionReady
    | KeepaliveWanted
    | TrafficWanted
    | KeysErased
    | HandshakeGivenUp
    | EndpointChanged
    | PacketReceived
    | PacketDropped
)


class Traffic(Protocol):
    """What the native datapath reports about a peer's data packets: times in ns of the same clock as now, 0 = never."""

    @property
    def last_data_sent_ns(self) -> int:
        """Last packet that was no keepalive."""

    @property
    def last_data_received_ns(self) -> int:
        """Last authenticated packet that was no keepalive."""

    @property
    def last_sent_ns(self) -> int:
        """Last packet, keepalives included."""

    @property
    def last_received_ns(self) -> int:
        """Last authenticated packet, keepalives included."""

    @property
    def unanswered_sent_ns(self) -> int:
        """First data packet sent since anything authenticated was received, or 0."""

    @property
    def unacknowledged_received_ns(self) -> int:
        """First data packet received since anything was sent, or 0."""
