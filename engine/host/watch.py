"""Tell when somebody else changes what captures the traffic: our rules, our table's routes, the interface.

After each burst of the kernel's notes, our own changes' among them, it is asked "is everything as we left it?". The
question waits behind changes of ours that are being made, so those are never taken for somebody else's.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from engine.host.netlink import Disturbance, Host
from engine.host.notes import Notes
from engine.host.rtnetlink import GROUPS

SETTLE_SECONDS, MOST = 0.02, 10


class CaptureWatch:
    """Calls `on_disturbance` on the event loop's thread."""

    def __init__(self, host: Host, on_disturbance: Callable[[Disturbance], None]) -> None:
        self._host, self._on_disturbance = host, on_disturbance
        self._notes = Notes(socket.NETLINK_ROUTE, GROUPS, self._ask, SETTLE_SECONDS, MOST)

    def close(self) -> None:
        """Stop."""
        self._notes.close()

    async def _ask(self) -> None:
        found = await self._host.disturbed()
        if found is not None:
            self._on_disturbance(found)
