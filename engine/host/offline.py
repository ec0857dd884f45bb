"""Tell when the machine goes offline and comes back.

After each burst of the kernel's notes it is asked "is there a route for a marked packet to any of the relays?", and a
change of the answer is told. An answer that cannot be had changes nothing, for a wrong "offline" would end a working
tunnel; it is asked for again.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from engine.host.capture import IPAddress
from engine.host.netlink import Host
from engine.host.notes import Notes
from engine.host.rtnetlink import GROUPS

SETTLE_SECONDS, MOST = 0.1, 10  # a lease that is renewed takes the address away for a moment


class OfflineMonitor:
    """Calls `on_change(online)` on the event loop's thread. Online is what it assumes at first."""

    def __init__(self, host: Host, mark: int, on_change: Callable[[bool], None]) -> None:
        self._host = host
        self._mark = mark
        self._on_change = on_change
        self._targets: tuple[IPAddress, ...] = ()
        self._online = True
        self._notes = Notes(socket.NETLINK_ROUTE, GROUPS, self._ask, SETTLE_SECONDS, MOST)

    def watch(self, *targets: IPAddress) -> None:
        """Ask for the ways to these addresses from now on, and soon if they are others; none: ask nothing."""
        wanted = tuple(dict.fromkeys(targets))
        if wanted != self._targets:
            self._targets = wanted
            self._notes.ask_soon()

    def close(self) -> None:
        """Stop."""
        self._notes.close()

    async def _ask(self) -> None:
        online = not self._targets
        for target in self._targets:
            online = online or await self._host.reachable(target, self._mark)
        if online != self._online:
            self._online = online
            self._on_change(online)
