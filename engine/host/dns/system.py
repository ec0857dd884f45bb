"""`SystemDns`: find out who decides which servers this machine asks, and let it ask ours while Connected.

Asked in this order, and the first that really is in use takes it: systemd-resolved, if resolv.conf points to its
stub; NetworkManager, if resolv.conf is its own; resolvconf, likewise; else the file /etc/resolv.conf itself.
MOLEHILL_DNS=resolved|networkmanager|resolvconf|file|none decides by hand.

`set` at entering Connected, `reset` at leaving it. In the states that block nothing is touched: wherever the
resolvers point, lookups are blocked by the policy (DNS-3). `recover` at a start puts back what a killed run left.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from engine.host.dns import networkmanager, resolvconf, resolved
from engine.host.dns.bus import Bus
from engine.host.dns.file import ResolvConf
from engine.host.dns.manager import DnsError, IPAddress, Manager
from engine.host.dns.networkmanager import NetworkManager
from engine.host.dns.resolved import Resolved

log = logging.getLogger(__name__)

CHOICES = ("resolved", "networkmanager", "resolvconf", "file", "none")
VARIABLE = "MOLEHILL_DNS"
SECONDS = 5.0  # for one change
RESTART_SECONDS, RETRY_SECONDS = 4.0, 0.25  # for a service that is restarted: how long, and how often it is asked


class SystemDns:
    """The machine's resolvers. `root` and `bus_address` are the machine's own but in tests.

    ValueError for a `choice` (default: MOLEHILL_DNS) that is none of `CHOICES`.
    """

    def __init__(self, root: Path = Path("/"), bus_address: str | None = None, choice: str | None = None) -> None:
        self._root, self._bus_address = root, bus_address
        self.resolv_conf = root / "etc/resolv.conf"
        self._choice = os.environ.get(VARIABLE, "") if choice is None else choice
        if self._choice not in ("", *CHOICES):
            raise ValueError(f"{VARIABLE}={self._choice} is none of {', '.join(CHOICES)}")
        self._file = ResolvConf(root)
        self._bus: Bus | None = None
        self._manager: Manager | None = None
        self._set_on = ""
        self.servers: tuple[IPAddress, ...] = ()
        self.forgotten = False
        """The manager has begun anew since it was told our servers."""
        self.on_forgotten: Callable[[], None] = lambda: None

    def describe(self) -> str:
        """Who asks which servers, in a few words; empty: nothing is set by us."""
        if self._manager is None or not self.servers:
            return ""
        text = f"{', '.join(map(str, self.servers))} by {self._manager.name}"
        if self.disturbed():
            text += f", but {self.disturbance()} since"
        return text

    def disturbed(self) -> bool:
        """Whether what is set is no longer there: somebody has changed the file, or the manager has begun anew."""
        return self.forgotten or (self._manager is self._file and self._file.disturbed())

    def disturbance(self) -> str:
        """What has happened, if it is disturbed."""
        if self.forgotten and self._manager is not None:
            return f"{self._manager.name} has been restarted"
        return f"{self.resolv_conf} has been changed"

    async def set(
        self, interface: str, servers: tuple[IPAddress, ...], outside: frozenset[IPAddress] = frozenset()
    ) -> None:
        """Let the machine ask `servers`, by the tunnel's `interface`; `outside`: those past the tunnel (DNS-2).

        Without servers, or with MOLEHILL_DNS=none, nothing is changed. DnsError: it could not be done.
        """
        if self._choice == "none" or not servers:
            await self.reset()
            return
        await self._within("set", self._set(interface, servers, outside))
        log.info("DNS: %s", self.describe())

    async def reset(self) -> None:
        """Give the machine its own servers back; idempotent. DnsError: it could not be done."""
        manager, interface = self._manager, self._set_on
        self._manager, self._set_on, self.servers, self.forgotten = None, "", (), False
        if manager is not None:
            await self._within("restored", manager.reset(interface))

    async def recover(self) -> None:
        """Put back what a killed run left; what a living one has set is left alone. DnsError."""
        if self._choice == "none":
            return
        self._file.recover()
        program = resolvconf.program()
        if program is not None and resolvconf.in_use(self.resolv_conf):
            await self._within("restored", resolvconf.Resolvconf(program, self._root).reset(""))

    async def close(self) -> None:
        """End the connections. What is set stays set, as after a crash."""
        self._file.close()
        if self._bus is not None:
            await self._bus.close()
            self._bus = None

    async def _set(self, interface: str, servers: tuple[IPAddress, ...], outside: frozenset[IPAddress]) -> None:
        # A service that did it before may be restarting, or has not looked at every device yet.
        patience = RESTART_SECONDS if isinstance(self._manager, Resolved | NetworkManager) else 0.0
        deadline = asyncio.get_running_loop().time() + patience
        if self._manager is None:
            self._manager = await self._find()
        self._set_on, self.servers, self.forgotten = interface, servers, False
        while True:
            try:
                return await self._manager.set(interface, servers, outside)
            except DnsError:
                if asyncio.get_running_loop().time() >= deadline:
                    raise
            await asyncio.sleep(RETRY_SECONDS)

    async def _find(self) -> Manager:
        """The manager in use, or the one chosen by hand."""
        choice = self._choice
        if choice in ("", "resolved") and (choice or resolved.in_use(self.resolv_conf)):
            bus = await self._connected()
            if bus is not None and (choice or await bus.has(resolved.SERVICE)):
                await bus.follow(resolved.SERVICE, self._begun_anew)
                return Resolved(bus)
        if choice in ("", "networkmanager"):
            bus = await self._connected()
            if bus is not None and (choice or await networkmanager.in_use(bus, self.resolv_conf)):
                await bus.follow(networkmanager.SERVICE, self._begun_anew)
                return NetworkManager(bus)
        if choice in ("resolved", "networkmanager"):
            raise DnsError(f"{VARIABLE}={choice} needs the system bus, and there is none")
        if choice in ("", "resolvconf"):
            program = resolvconf.program()
            if program is not None and (choice or resolvconf.in_use(self.resolv_conf)):
                return resolvconf.Resolvconf(program, self._root)
            if choice:
                raise DnsError(f"{VARIABLE}=resolvconf needs the program resolvconf, and there is none")
        return self._file

    def _begun_anew(self) -> None:
        if self._manager is not None and self.servers:
            self.forgotten = True
            self.on_forgotten()

    async def _connected(self) -> Bus | None:
        if self._bus is None or not self._bus.alive:
            self._bus = await Bus.connect(self._bus_address)
        return self._bus

    async def _within(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                await work
        except TimeoutError:
            name = self._manager.name if self._manager is not None else "the system"
            raise DnsError(f"the resolvers could not be {what}: {name} gave no answer in {SECONDS:.0f} s") from None
