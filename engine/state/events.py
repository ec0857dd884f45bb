"""What can happen to the tunnel state machine: one small frozen class an event.

Commands come from the user (`Connect`, `Disconnect`, `SettingsChanged`), the rest is what the runner saw.
No event carries a time: the machine has no clock, deadlines belong to the runner.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from engine.policy import Hop, IPAddress, Platform, Tunnel


class CauseKind(StrEnum):
    """Why the tunnel cannot be had; the value is the word shown to the user and used in `status --json`."""

    OFFLINE = "offline"
    APPLY_POLICY = "apply-policy"
    SET_DNS = "set-dns"
    TUN_DEVICE = "tun-device"
    START_TUNNEL = "start-tunnel"
    NO_PEER = "no-peer"
    NO_RELAY = "no-relay"
    RESOLVE_ENDPOINT = "resolve-endpoint"
    IPV6_UNAVAILABLE = "ipv6-unavailable"
    BLOCKED = "blocked"
    DISTURBED = "disturbed"
    INTERNAL = "internal"


_SENTENCES = {
    CauseKind.OFFLINE: "the device is offline",
    CauseKind.APPLY_POLICY: "the security policy could not be applied",
    CauseKind.SET_DNS: "the DNS servers could not be set",
    CauseKind.TUN_DEVICE: "the tunnel device could not be opened",
    CauseKind.START_TUNNEL: "the tunnel could not be started",
    CauseKind.NO_PEER: "no peer with an endpoint is configured",
    CauseKind.NO_RELAY: "no relay matches the constraints",
    CauseKind.RESOLVE_ENDPOINT: "the peer's host name could not be resolved",
    CauseKind.IPV6_UNAVAILABLE: "the tunnel has IPv6 addresses only, and this machine has IPv6 switched off",
    CauseKind.BLOCKED: "blocked on request",
    CauseKind.DISTURBED: "another program keeps changing what enforces the security policy",
    CauseKind.INTERNAL: "an internal error",
}


@dataclass(frozen=True)
class Cause:
    """Why the machine is in Error (ERR-2: the user is told)."""

    kind: CauseKind
    detail: str = ""

    def __str__(self) -> str:
        return f"{_SENTENCES[self.kind]}: {self.detail}" if self.detail else _SENTENCES[self.kind]


NO_PEER = Cause(CauseKind.NO_PEER)


@dataclass(frozen=True)
class Candidate:
    """One way to a tunnel: a relay, and what else differs from relay to relay.

    `peer` is the VPN server's endpoint, `bridge` the first hop in front of it if there is one; `tunnel` the device
    with the addresses and gateways that the configuration asks for. `generation` stands for what no policy shows but
    a running tunnel must follow, such as keys: another number is another tunnel.
    """

    peer: Hop | None = None
    bridge: Hop | None = None
    tunnel: Tunnel | None = None
    generation: int = 0


@dataclass(frozen=True)
class Settings:
    """All that the user decides, as one value; the machine turns it into a `Policy` for each state.

    `candidates` are tried in their order. `no_peer` says why there is none, for when there is none.
    """

    platform: Platform = Platform.LINUX
    ios_blocking: bool = False
    tun_only: bool = False
    allow_lan: bool = False
    always_require_vpn: bool = False
    api: Hop | None = None
    dns: tuple[IPAddress, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    no_peer: Cause = NO_PEER


@dataclass(frozen=True)
class Connect:
    """The user wants a tunnel; where there is one already, a new one."""


@dataclass(frozen=True)
class Disconnect:
    """The user's explicit disconnect: the only way out of blocking (KS-1)."""


@dataclass(frozen=True)
class SettingsChanged:
    """The settings are these from now on."""

    settings: Settings


@dataclass(frozen=True)
class InterfaceUp:
    """The tunnel device exists and captures all traffic (CON-3)."""


@dataclass(frozen=True)
class TunnelUp:
    """The tunnel carries traffic: the peer answered, and so did the gateway if there is one to ask."""


@dataclass(frozen=True)
class TunnelDown:
    """An attempt timed out, or an established tunnel went silent."""

    why: str = ""


@dataclass(frozen=True)
class HandshakeGivenUp:
    """No answer to handshake initiations for 90 s (WireGuard paper, section 6.1, REKEY_ATTEMPT_TIME)."""


@dataclass(frozen=True)
class TunnelClosed:
    """The tunnel asked to stop has stopped: nothing is sent, keys are erased."""


@dataclass(frozen=True)
class Fatal:
    """Something that trying again does not mend."""

    cause: Cause


@dataclass(frozen=True)
class ApplyFailed:
    """The last `ApplyPolicy`, or the capture of traffic that it relies on, was not put in force (ERR-3)."""

    cause: Cause


@dataclass(frozen=True)
class Block:
    """Block everything, as if the tunnel had failed for this cause. Means nothing in Disconnected."""

    cause: Cause


@dataclass(frozen=True)
class Disturbed:
    """Somebody else has changed what enforces the policy: the firewall's table, our routes or rules, the resolvers."""

    what: str


@dataclass(frozen=True)
class DeviceLost:
    """The tunnel device is gone, or is not ours any more; what captures traffic finds "unreachable" in its place."""

    why: str = ""


@dataclass(frozen=True)
class PathMtu:
    """The way through the tunnel takes packets of this many bytes and no larger ones."""

    mtu: int


@dataclass(frozen=True)
class Retry:
    """It is time to try again what could not be put in force."""


@dataclass(frozen=True)
class Offline:
    """There is no way to the internet outside the tunnel."""


@dataclass(frozen=True)
class Online:
    """There is one again."""


Event = (
    Connect
    | Disconnect
    | SettingsChanged
    | InterfaceUp
    | TunnelUp
    | TunnelDown
    | HandshakeGivenUp
    | TunnelClosed
    | Fatal
    | ApplyFailed
    | Block
    | Disturbed
    | DeviceLost
    | PathMtu
    | Retry
    | Offline
    | Online
)
