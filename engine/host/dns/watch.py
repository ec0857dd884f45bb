"""Tell when somebody else changes /etc/resolv.conf while we have set it, or the manager that was told begins anew.

inotify(7) on the folder, for a file is mostly replaced, and on the file itself, for where it is a mount it can only be
overwritten. What is told there is a hint; after a short wait the file is looked at.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from contextlib import suppress

from engine.host.dns.system import SystemDns

SETTLE_SECONDS = 0.2
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # IN_NONBLOCK, IN_CLOEXEC
_CHANGES = 0x2 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200  # IN_MODIFY, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE


class ResolversWatch:
    """Calls `on_disturbance` on the event loop's thread. OSError: the kernel cannot watch files."""

    def __init__(self, dns: SystemDns, on_disturbance: Callable[[str], None]) -> None:
        self._dns, self._on_disturbance = dns, on_disturbance
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(_FLAGS)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._watch_files()
        self._loop.add_reader(self._fd, self._noted)
        dns.on_forgotten = self._look_soon

    def close(self) -> None:
        """Stop."""
        self._dns.on_forgotten = lambda: None
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        if self._timer is not None:
            self._timer.cancel()

    def _watch_files(self) -> None:
        """The file may be another one by now; what is watched already stays so."""
        for path in (self._dns.resolv_conf.parent, self._dns.resolv_conf):
            self._libc.inotify_add_watch(self._fd, os.fsencode(path), _CHANGES)

    def _noted(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._fd, 65536):
                pass
        self._look_soon()

    def _look_soon(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(SETTLE_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        self._watch_files()
        if self._dns.disturbed():
            self._on_disturbance(self._dns.disturbance())
