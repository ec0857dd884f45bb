"""What the service asks of the parts below it, so that tests can put doubles in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from engine.host import Capture
from engine.policy import IPAddress, Policy
from engine.service.firewall import Blocked
from engine.tunnel.events import TunnelEvent, TunnelStatus
from engine.wg.config import DeviceConfig


class TunnelPort(Protocol):
    """What a session asks of engine.tunnel's `Tunnel`."""

    async def start(self) -> None:
        """Begin; everything is dropped until the first `apply`."""

    async def close(self) -> None:
        """End, wiping all keys."""

    def apply(self, code: bytes | None, rules: tuple[str, ...] = ()) -> None:
        """Put a program in force; None drops everything."""

    async def configure(self, config: DeviceConfig) -> None:
        """Replace keys and peers."""

    def bind_to(self, interface: str) -> None:
        """Send outer packets by this interface only; empty: by whatever the routes say."""

    def allow_fragments(self, allow: bool) -> None:
        """Let outer packets be fragmented on their way, or be lost if they are too large."""

    async def probe(
        self, peer: bytes, source: IPAddress, gateway: IPAddress, timeout: float, size: int = 0
    ) -> float | None:
        """Ping through the tunnel with an IP packet of this size."""

    def turns(self) -> tuple[int, ...]:
        """How many turns each thread of the datapath has made, and another, please."""

    def status(self) -> TunnelStatus:
        """The tunnel now."""


class TunPort(Protocol):
    """What a session asks of a TUN device."""

    @property
    def name(self) -> str:
        """The interface's name."""

    def set_mtu(self, mtu: int) -> None:
        """Change the MTU."""

    def fileno(self) -> int:
        """The descriptor."""

    def close(self) -> None:
        """Close the descriptor; a persistent interface stays."""

    def discard(self) -> None:
        """Close the descriptor, and let the interface go."""


class FirewallPort(Protocol):
    """What a session asks of the host's firewall (engine.service.firewall)."""

    async def missing(self) -> list[str]:
        """What the machine lacks for it."""

    async def apply(self, policy: Policy) -> None:
        """Put a blocking policy in force."""

    async def remove(self) -> None:
        """Remove our rules, of whatever run."""

    def blocked(self) -> tuple[Blocked, ...]:
        """What the rules have blocked since they were removed last."""

    async def close(self) -> None:
        """End; the rules stay."""


class HostPort(Protocol):
    """What a session asks of engine.host's `Host`."""

    async def capture(self, capture: Capture) -> None:
        """Route everything into the TUN."""

    async def block(self, capture: Capture) -> None:
        """Where there is no TUN: let everything be unreachable."""

    async def release(self, interface: str, mark: int) -> None:
        """Undo that."""

    async def reachable(self, address: IPAddress, mark: int) -> bool:
        """Whether there is a way to the address outside the tunnel."""

    async def has_ipv6(self, interface: str) -> bool:
        """Whether the kernel speaks IPv6 on the interface."""

    async def route_mtu(self, address: IPAddress, mark: int) -> int:
        """The MTU of the way to the address outside the tunnel."""

    async def close(self) -> None:
        """End the worker."""


class DnsPort(Protocol):
    """What a session asks of engine.host's `SystemDns`."""

    async def set(
        self, interface: str, servers: tuple[IPAddress, ...], outside: frozenset[IPAddress] = frozenset()
    ) -> None:
        """Let the machine ask these servers."""

    async def reset(self) -> None:
        """Give it its own back."""

    async def recover(self) -> None:
        """Put back what a killed run left."""

    async def close(self) -> None:
        """End; what is set stays set."""

    def describe(self) -> str:
        """What is set, in a few words."""


OpenTun = Callable[[str, int], TunPort]
"""Opens the TUN of this name and MTU; called in a thread of its own. TunError, OSError."""

OpenTunnel = Callable[[TunPort, Callable[[TunnelEvent], None]], TunnelPort]
"""Makes the tunnel behind a TUN; it says what happens there to the callback, on the event loop's thread."""

OnTun = Callable[[int, str], None]
"""Is told the descriptor and the name of each TUN that has been opened, and -1 for one that is closed next."""
