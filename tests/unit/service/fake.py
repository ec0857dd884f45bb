"""In-memory doubles of what a session stands on: the TUN, the tunnel, the host. They keep what was asked of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.firewall import FirewallError
from engine.host import Capture, DnsError, HostError
from engine.policy import Direction, IPAddress, Policy
from engine.service.firewall import Blocked
from engine.service.ports import TunPort
from engine.tunnel.events import HandshakeCompleted, PeerStatus, TunnelEvent, TunnelStatus
from engine.wg.config import DeviceConfig
from tun import TunError


@dataclass
class FakeTun:
    """Counts how often it is closed."""

    name: str
    mtu: int
    closed: int = 0

    def set_mtu(self, mtu: int) -> None:
        self.mtu = mtu

    def fileno(self) -> int:
        return 7

    def close(self) -> None:
        self.closed += 1

    def discard(self) -> None:
        self.close()


@dataclass
class World:
    """The doubles' common memory. `log` has every change in order; the switches make things fail."""

    log: list[str] = field(default_factory=list)
    tuns: list[FakeTun] = field(default_factory=list)
    captured: Capture | None = None
    program: bytes | None = None
    config: DeviceConfig | None = None
    answers: bool = True
    answers_only: bytes = b""  # the only peer that does, by its key
    breaks_apply: bool = False
    breaks_capture: bool = False
    breaks_tun: bool = False
    breaks_firewall: str = ""
    table: Policy | None = None
    has_ipv6: bool = True
    route_mtu: int = 1500
    path_mtu: int = 1420  # through the tunnel
    fragments: bool = True
    rx_bytes: int = 0
    pings: int = 0
    unanswered_since: float = 0.0
    turns: int = 0
    hangs: bool = False
    tunnel: FakeTunnel | None = None
    hangs: str = ""  # the part that never answers
    over: threading.Event = field(default_factory=threading.Event)  # lets threads that hang go

    async def hang(self, part: str) -> None:
        """Never come back, if that part is the one that hangs."""
        if self.hangs == part:
            await asyncio.Event().wait()

    def open_tun(self, name: str, mtu: int) -> TunPort:
        if self.hangs == "open tun":
            self.over.wait(10)
        if self.breaks_tun:
            raise TunError(f"the interface {name} is in use by another process: choose another name or stop it")
        self.log.append("open")
        self.tuns.append(FakeTun(name, mtu))
        return self.tuns[-1]

    def open_tunnel(self, tun: TunPort, on_event: Callable[[TunnelEvent], None]) -> FakeTunnel:
        self.tunnel = FakeTunnel(self, on_event)
        return self.tunnel


class FakeTunnel:
    """Answers pings while the world answers."""

    def __init__(self, world: World, on_event: Callable[[TunnelEvent], None]) -> None:
        self.world = world
        self.on_event = on_event

    async def start(self) -> None:
        await self.world.hang("start")
        self.world.program = None

    async def close(self) -> None:
        await self.world.hang("close")
        self.world.log.append("tunnel closed")

    def apply(self, code: bytes | None, rules: tuple[str, ...] = ()) -> None:
        if self.world.breaks_apply and code is not None:
            raise MemoryError("no memory")
        self.world.program = code
        telling = [id for id in rules if id not in ("P-0", "FWD-1")]
        self.world.log.append(f"apply {telling[-1] if telling else None}")

    async def configure(self, config: DeviceConfig) -> None:
        await self.world.hang("configure" if config.private_key else "silence")
        self.world.config = config

    def bind_to(self, interface: str) -> None:
        self.world.log.append(f"bind {interface}")

    def allow_fragments(self, allow: bool) -> None:
        self.world.fragments = allow

    async def probe(
        self, peer: bytes, source: IPAddress, gateway: IPAddress, timeout: float, size: int = 0
    ) -> float | None:
        self.world.pings += 1
        await asyncio.sleep(0.001)
        if size > self.world.path_mtu:
            await asyncio.sleep(timeout)
            return None
        if not self.world.answers or self.world.answers_only not in (b"", peer):
            return None
        self.on_event(HandshakeCompleted(peer))
        return 0.001

    def turns(self) -> tuple[int, ...]:
        self.world.turns += 0 if self.world.hangs else 1
        return (self.world.turns,)

    def status(self) -> TunnelStatus:
        peers = self.world.config.peers if self.world.config is not None else ()
        return TunnelStatus(
            interface="mh0",
            mtu=1420,
            listen_port=1,
            fwmark=0,
            peers=tuple(
                PeerStatus(peer.public_key, None, 0, self.world.rx_bytes, 0, self.world.unanswered_since)
                for peer in peers
            ),
            verdicts=(),
            drops={},
            offloads={},
            statistics={},
        )


class FakeDns:
    """Keeps the servers, and which of them are outside the tunnel."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.servers: tuple[IPAddress, ...] = ()
        self.outside: frozenset[IPAddress] = frozenset()
        self.breaks_set = self.breaks_reset = self.breaks_recover = False

    async def set(
        self, interface: str, servers: tuple[IPAddress, ...], outside: frozenset[IPAddress] = frozenset()
    ) -> None:
        await self.world.hang("set dns")
        if self.breaks_set:
            raise DnsError("/etc/resolv.conf cannot be written (Read-only file system)")
        self.servers, self.outside = servers, outside
        self.world.log.append(f"dns {' '.join(map(str, servers))}")

    async def reset(self) -> None:
        await self.world.hang("reset dns")
        if self.breaks_reset:
            raise DnsError("/etc/resolv.conf cannot be restored (Read-only file system)")
        self.servers = ()
        self.world.log.append("dns reset")

    async def recover(self) -> None:
        await self.world.hang("recover dns")
        if self.breaks_recover:
            raise DnsError("a record cannot be read")
        self.world.log.append("dns recover")

    async def close(self) -> None:
        self.world.log.append("dns closed")

    def describe(self) -> str:
        return " ".join(map(str, self.servers))


class FakeHost:
    """Keeps the last capture."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def capture(self, capture: Capture) -> None:
        await self.world.hang("capture")
        if self.world.breaks_capture:
            raise HostError("the policy rule 190 could not be changed: Operation not supported")
        if self.world.captured != capture:
            self.world.log.append("capture")
        self.world.captured = capture

    async def block(self, capture: Capture) -> None:
        self.world.log.append("block")

    async def release(self, interface: str, mark: int) -> None:
        await self.world.hang("release")
        self.world.log.append("release")
        self.world.captured = None

    async def reachable(self, address: IPAddress, mark: int) -> bool:
        return True

    async def has_ipv6(self, interface: str) -> bool:
        return self.world.has_ipv6

    async def route_mtu(self, address: IPAddress, mark: int) -> int:
        await self.world.hang("route mtu")
        return self.world.route_mtu

    async def close(self) -> None:
        self.world.log.append("host closed")


class FakeFirewall:
    """One table of one policy. `breaks_firewall` of the world is what it says instead of doing its work."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def missing(self) -> list[str]:
        await self.world.hang("firewall missing")
        return ["the kernel has no netfilter"] if self.world.breaks_firewall == "missing" else []

    async def apply(self, policy: Policy) -> None:
        await self.world.hang("firewall apply")
        self._break()
        self.world.table = policy
        self.world.log.append(f"firewall {policy.state}")

    async def remove(self) -> None:
        await self.world.hang("firewall remove")
        self._break()
        if self.world.table is not None:
            self.world.log.append("firewall removed")
        self.world.table = None

    def blocked(self) -> tuple[Blocked, ...]:
        return (Blocked("P-0", Direction.OUT, 3, 252),) if self.world.table is not None else ()

    async def close(self) -> None:
        self.world.log.append("firewall closed")

    def _break(self) -> None:
        why = self.world.breaks_firewall
        if why == "once":
            self.world.breaks_firewall = ""
        if why:
            raise FirewallError(f"nftables refused: {why}", enforced=True)
