"""systemd-resolved: the tunnel's link gets the servers and every domain (org.freedesktop.resolve1(5)).

`~.` as routing domain sends every name to the servers of the tunnel's link. The settings belong to the link and go
with it, so a crash leaves nothing to restore.
"""

from __future__ import annotations

import logging
import socket
from pathlib import Path

from engine.host.dns.bus import Bus
from engine.host.dns.manager import DnsError, IPAddress, link_target, nameservers

log = logging.getLogger(__name__)

SERVICE = "org.freedesktop.resolve1"
_PATH, _MANAGER = "/org/freedesktop/resolve1", "org.freedesktop.resolve1.Manager"
_STUB_FILES = ("/run/systemd/resolve/stub-resolv.conf", "/usr/lib/systemd/resolv.conf", "/lib/systemd/resolv.conf")
_STUBS = {"127.0.0.53", "127.0.0.54"}


def in_use(resolv_conf: Path) -> bool:
    """Whether the file really points to the stub; resolved may well run and nobody ask it."""
    servers = nameservers(resolv_conf)
    return link_target(resolv_conf) in _STUB_FILES or (bool(servers) and set(servers) <= _STUBS)


class Resolved:
    """Sets the servers of one link."""

    name = "systemd-resolved"

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def set(self, interface: str, servers: tuple[IPAddress, ...], outside: frozenset[IPAddress]) -> None:
        """Set the link's servers. resolved asks them by that link alone, so those outside the tunnel are left out."""
        index = _index(interface)
        if index is None:
            raise DnsError(f"the interface {interface} does not exist")
        inside = [server for server in servers if server not in outside]
        if len(inside) < len(servers):
            left = ", ".join(str(server) for server in servers if server in outside)
            log.warning("systemd-resolved asks %s only if another link of this machine names it", left)
        if not inside:
            await self.reset(interface)
            return
        families = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}
        addresses = [[families[server.version], server.packed] for server in inside]
        await self._call("SetLinkDNS", "ia(iay)", index, addresses)
        await self._call("SetLinkDomains", "ia(sb)", index, [[".", True]])
        await self._call("SetLinkDefaultRoute", "ib", index, True)
        await self._call("FlushCaches")

    async def reset(self, interface: str) -> None:
        """Give the link its former settings back: none."""
        index = _index(interface)
        if index is not None:
            await self._call("RevertLink", "i", index)
        await self._call("FlushCaches")

    async def _call(self, method: str, signature: str = "", *body: object) -> None:
        await self._bus.call(SERVICE, _PATH, _MANAGER, method, signature, *body)


def _index(interface: str) -> int | None:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return None
