"""Tell when the machine goes offline and comes back.

The kernel's rtnetlink notes are a hint only: what they say is not read. After each burst the kernel is asked
"is there a route for a marked packet to any of the relays?" and a change of the answer is told. An answer that
cannot be had counts as online: a wrong "offline" would end a working tunnel.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from engine.host.capture import IPAddress
from engine.host.netlink import Host, HostError

log = logging.getLogger(__name__)

SETTLE_SECONDS = 0.1  # a change of network is a burst of notes
# linux/rtnetlink.h: RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE, RTNLGRP_IPV6_RULE
_GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18


class OfflineMonitor:
    """Calls `on_change(online)` on the event loop's thread. Online is what it assumes at first."""

    def __init__(self, host: Host, mark: int, on_change: Callable[[bool], None]) -> None:
        self._host = host
        self._mark = mark
        self._on_change = on_change
        self._targets: tuple[IPAddress, ...] = ()
        self._online = True
        self._timer: asyncio.TimerHandle | None = None
        self._question: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        self._socket.bind((0, _GROUPS))
        self._loop.add_reader(self._socket.fileno(), self._noted)

    def watch(self, *targets: IPAddress) -> None:
        """Ask for the ways to these addresses from now on, and once at once if they are others; none: ask nothing."""
        wanted = tuple(dict.fromkeys(targets))
        if wanted != self._targets:
            self._targets = wanted
            self._ask_soon(0)

    def close(self) -> None:
        """Stop."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._question is not None:
            self._question.cancel()

    def _noted(self) -> None:
        try:
            while self._socket.recv(65536):
                pass
        except BlockingIOError:
            pass
        except OSError as error:  # ENOBUFS: notes were lost, and that is a note too
            log.debug("netlink notes were lost: %s", error)
        self._ask_soon(SETTLE_SECONDS)

    def _ask_soon(self, delay: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(delay, self._ask)

    def _ask(self) -> None:
        self._timer = None
        if self._question is not None and not self._question.done():
            self._ask_soon(SETTLE_SECONDS)
            return
        self._question = self._loop.create_task(self._answer())

    async def _answer(self) -> None:
        online = not self._targets
        try:
            for target in self._targets:
                online = online or await self._host.reachable(target, self._mark)
        except HostError as error:
            log.warning("whether the machine is online cannot be found out: %s", error)
            online = True
        if online != self._online:
            self._online = online
            self._on_change(online)
