"""systemd, where it runs us: readiness, status, watchdog, kept descriptors (sd_notify(3)), and why we are stopped.

A message is one datagram to $NOTIFY_SOCKET. Without that nothing here does anything.
"""

from __future__ import annotations

import array
import asyncio
import logging
import operator
import os
import re
import socket
from collections.abc import Callable
from contextlib import suppress

from engine.host.dns import DnsError
from engine.host.dns.bus import Bus

log = logging.getLogger(__name__)

_FIRST_FD = 3  # SD_LISTEN_FDS_START
_BUS_SECONDS = 3.0
_MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")


class Notify:
    """The way to the service manager."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    def say(self, *words: str, fd: int = -1) -> None:
        """Send assignments such as READY=1, with a descriptor if there is one. What cannot be sent is only logged."""
        if not self._address:
            return
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd >= 0 else []
        try:
            self._socket.sendmsg(["\n".join(words).encode()], rights, 0, self._address)
        except OSError as error:
            log.warning("the service manager did not hear %s: %s", " ".join(words), error)

    def keep(self, fd: int, name: str) -> None:
        """Let the service manager keep a descriptor over our death; -1: no more."""
        if fd >= 0:
            self.say("FDSTORE=1", f"FDNAME={_fd_name(name)}", fd=fd)
        else:
            self.say("FDSTOREREMOVE=1", f"FDNAME={_fd_name(name)}")

    def close(self) -> None:
        """Say no more."""
        self._socket.close()


def _fd_name(name: str) -> str:
    """A name as systemd takes it: no control characters, no colon; ours has fewer still."""
    return "tun-" + re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def kept(name: str) -> int | None:
    """The descriptor that the service manager kept under this name; all others that it hands over are closed."""
    count = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()) or not count.isdecimal():
        return None
    found = None
    for fd in range(_FIRST_FD, _FIRST_FD + int(count)):
        at = fd - _FIRST_FD
        if found is None and at < len(names) and names[at] == _fd_name(name):
            os.set_inheritable(fd, False)
            found = fd
        else:
            with suppress(OSError):
                os.close(fd)
    return found


def watchdog_seconds() -> float | None:
    """How often the service manager wants to hear of us at least; None: it does not watch."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or pid not in ("", str(os.getpid())):
        return None
    return int(usec) / 1e6


class Watchdog:
    """Feeds the service manager's watchdog for as long as the datapath makes progress; the caller is the event loop.

    It is fed four times an interval, so that one late look is no harm; `look` is to be called often.
    """

    def __init__(self, notify: Notify, turns: Callable[[], tuple[int, ...] | None], now: Callable[[], float]) -> None:
        self._notify, self._turns, self._now = notify, turns, now
        interval = watchdog_seconds()
        self._every = None if interval is None else interval / 4
        self._next = now()
        self._seen: tuple[int, ...] = ()

    def look(self) -> None:
        """Feed it, if it is time and every thread of the datapath has moved since the last time."""
        if self._every is None or self._now() < self._next:
            return
        self._next = self._now() + self._every
        turns, seen = self._turns() or (), self._seen
        self._seen = turns
        # Another number of threads is another datapath.
        if len(turns) == len(seen) and any(map(operator.eq, turns, seen)):
            log.error("a thread of the datapath has not moved for %g s, so the watchdog is not fed", self._every)
        else:
            self._notify.say("WATCHDOG=1")


async def machine_runs() -> bool:
    """Whether the machine is up and not going down. Who cannot be asked is presumed to go down."""
    try:
        async with asyncio.timeout(_BUS_SECONDS):
            bus = await Bus.connect(None)
            if bus is None:
                return False
            try:
                state = await bus.get(*_MANAGER, "SystemState")
            finally:
                await bus.close()
    except (DnsError, OSError, TimeoutError, ValueError) as error:
        log.warning("systemd does not say whether the machine shuts down, so it is presumed to: %s", error)
        return False
    log.info("the machine's state, by systemd: %s", state)
    return state in ("initializing", "starting", "running", "degraded", "maintenance")
