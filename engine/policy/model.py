"""`Policy`: everything the verdicts depend on, as one frozen value.

The state machine makes one for every change, `rules_for` turns it into rules, and each enforcer (the native
program, the desktop firewalls) is derived from those. A policy that makes no sense cannot be constructed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from engine.policy.nets import IPAddress


class State(StrEnum):
    """The states of the tunnel state machine."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    DISCONNECTING = "disconnecting"
    ERROR = "error"


class Platform(StrEnum):
    """Whose way of enforcing is meant; on Android and iOS packets are judged at the TUN alone."""

    LINUX = "linux"
    MACOS = "macos"
    WINDOWS = "windows"
    ANDROID = "android"
    IOS = "ios"

    @property
    def mobile(self) -> bool:
        """No firewall: the operating system routes everything into the TUN (MOB-1)."""
        return self in (Platform.ANDROID, Platform.IOS)


class Protocol(StrEnum):
    """The transport of an endpoint."""

    UDP = "udp"
    TCP = "tcp"


# The states whose rules Disconnecting may keep: from Disconnected there is nothing to close, and keeping its
# rules would be an open door (KS-1).
_KEEPABLE = (State.CONNECTING, State.CONNECTED, State.ERROR)


@dataclass(frozen=True)
class Hop:
    """An outer endpoint: the VPN server, the bridge, or the API. Raises ValueError."""

    ip: IPAddress
    port: int
    protocol: Protocol

    def __post_init__(self) -> None:
        _check_address(self.ip, "an endpoint's address")
        if not isinstance(self.port, int) or not 1 <= self.port <= 65535:
            raise ValueError(f"an endpoint's port must be 1 to 65535, not {self.port!r}")
        if not isinstance(self.protocol, Protocol):
            raise ValueError(f"an endpoint's protocol must be udp or tcp, not {self.protocol!r}")

    def __str__(self) -> str:
        address = f"[{self.ip}]" if self.ip.version == 6 else str(self.ip)
        return f"{address}:{self.port}/{self.protocol}"


@dataclass(frozen=True)
class Tunnel:
    """The tunnel device: name, its own addresses, the relay's addresses inside it. Raises ValueError."""

    name: str
    addresses: tuple[IPAddress, ...]
    gateways: tuple[IPAddress, ...]

    def __post_init__(self) -> None:
        # The kernel's own limits on interface names (IFNAMSIZ, dev_valid_name).
        if not 1 <= len(self.name.encode()) <= 15 or any(c in "/:" or c.isspace() for c in self.name):
            raise ValueError(f"a tunnel's name must be 1 to 15 bytes without spaces, / or :, not {self.name!r}")
        if self.name in (".", ".."):
            raise ValueError(f"a tunnel cannot be named {self.name!r}")
        _check_addresses(self.addresses, "a tunnel's addresses")
        _check_addresses(self.gateways, "a tunnel's gateways")


@dataclass(frozen=True)
class Policy:
    """What is in force. Raises ValueError with one sentence when the parts contradict each other.

    * `peer`: the VPN server; `bridge`: the first hop instead of it, if one is used (CON-1).
    * `api`: the endpoint of API-1; `tunnel`: the device, as soon as it exists (CON-3).
    * `dns`: custom DNS servers, public or local (DNS-2); empty: the tunnel's gateways answer (DNS-1).
    * `kept`: in Disconnecting, the state whose rules stay in force (DSC-1).
    * `tun_only`: the TUN alone judges (VPN-service mode on Linux): no firewall tells answers from unasked packets, so
      what comes in by the tunnel has to be for the tunnel's own addresses (FWD-1).
    * `ios_blocking`: the blocking variant that we offer on iOS; without it Error does not block (MOB-4).
    """

    state: State
    platform: Platform = Platform.LINUX
    allow_lan: bool = False
    always_require_vpn: bool = False
    peer: Hop | None = None
    bridge: Hop | None = None
    api: Hop | None = None
    tunnel: Tunnel | None = None
    dns: tuple[IPAddress, ...] = ()
    kept: State | None = None
    ios_blocking: bool = False
    tun_only: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.state, State):
            raise ValueError(f"state must be a State, not {self.state!r}")
        if not isinstance(self.platform, Platform):
            raise ValueError(f"platform must be a Platform, not {self.platform!r}")
        for field in ("allow_lan", "always_require_vpn", "ios_blocking", "tun_only"):
            if not isinstance(getattr(self, field), bool):
                raise ValueError(f"{field} must be true or false, not {getattr(self, field)!r}")
        for field in ("peer", "bridge", "api"):
            if not isinstance(getattr(self, field), Hop | None):
                raise ValueError(f"{field} must be a Hop or None, not {getattr(self, field)!r}")
        if not isinstance(self.tunnel, Tunnel | None):
            raise ValueError(f"tunnel must be a Tunnel or None, not {self.tunnel!r}")
        _check_addresses(self.dns, "custom DNS servers")
        if self.state is State.DISCONNECTING:
            if self.kept not in _KEEPABLE:
                raise ValueError(
                    "Disconnecting keeps the rules of the state before it: "
                    f"kept must be connecting, connected or error, not {self.kept!r}"
                )
        elif self.kept is not None:
            raise ValueError(f"kept belongs to Disconnecting alone, not to {self.state}")
        if self.enforced is State.CONNECTED and self.tunnel is None:
            raise ValueError("Connected needs a tunnel")
        if self.ios_blocking and self.platform is not Platform.IOS:
            raise ValueError(f"ios_blocking belongs to iOS alone, not to {self.platform}")
        if self.tun_only and self.platform is not Platform.LINUX:
            raise ValueError(f"tun_only belongs to Linux alone, not to {self.platform}")

    @property
    def enforced(self) -> State:
        """The state whose rules are in force: DSC-1 and DIS-2 resolved. Disconnected: nothing is enforced."""
        if self.state is State.DISCONNECTING:
            assert self.kept is not None  # checked at construction
            return self.kept
        if self.state is State.DISCONNECTED and self.always_require_vpn:
            return State.ERROR
        return self.state

    @property
    def blocks(self) -> bool:
        """Whether anything is enforced at all (KS-1)."""
        return self.enforced is not State.DISCONNECTED

    @property
    def first_hop(self) -> Hop | None:
        """The bridge if one is used, else the VPN server (CON-1)."""
        return self.bridge or self.peer

    def describe(self) -> str:
        """One line for the log and the status; no secrets are in a policy."""
        parts = [f"{self.state} on {self.platform}"]
        if self.state is State.DISCONNECTING:
            parts.append(f"keeping {self.kept}'s rules")
        if not self.blocks:
            return f"{parts[0]}: nothing is enforced"
        if self.state is State.DISCONNECTED:
            parts.append("VPN always required, so blocking")
        if self.first_hop and self.enforced in (State.CONNECTING, State.CONNECTED):
            parts.append(f"{'bridge' if self.bridge else 'peer'} {self.first_hop}")
        if self.api and self.enforced is not State.CONNECTED:
            parts.append(f"API {self.api}")
        if self.tunnel and self.enforced in (State.CONNECTING, State.CONNECTED):
            parts.append(f"tunnel {self.tunnel.name}")
        if self.enforced is State.CONNECTED and self.tunnel:
            servers = ", ".join(str(server) for server in self.dns or self.tunnel.gateways)
            parts.append(f"DNS {'custom ' if self.dns else ''}{servers or 'blocked'}")
        else:
            parts.append("DNS blocked")
        parts.append("LAN allowed" if self.allow_lan else "LAN blocked")
        if self.platform is Platform.IOS and self.enforced is State.ERROR:
            parts.append("blocking variant" if self.ios_blocking else "the tunnel does NOT block (documented iOS)")
        return ", ".join(parts)


def _check_address(address: object, what: str) -> None:
    if not isinstance(address, IPv4Address | IPv6Address):
        raise ValueError(f"{what} must be an IPv4Address or IPv6Address, not {address!r}")
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"{what} must name one host, not {address}")
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        raise ValueError(f"{what} must be written as IPv4: {address.ipv4_mapped}, not {address}")


def _check_addresses(addresses: object, what: str) -> None:
    if not isinstance(addresses, tuple):
        raise ValueError(f"{what} must be a tuple, not {type(addresses).__name__}")
    for address in addresses:
        _check_address(address, what)
