"""Tell when the machine has slept: its timers stood still then, and every peer may have forgotten it.

A timer on the wall clock that is to be cancelled when that clock is set (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET) is
the hint, for a resume sets it; nothing is polled. What counts is how far CLOCK_BOOTTIME, which goes on while the
machine sleeps, has moved ahead of CLOCK_MONOTONIC, which does not.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress

log = logging.getLogger(__name__)

SLEPT_SECONDS = 1.0
_CLOCK_REALTIME = 0
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK, TFD_CLOEXEC
_ABSOLUTE_CANCEL_ON_SET = 1 | 2  # TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET
_NEVER = 2**62  # seconds since 1970


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", ctypes.c_long * 2), ("value", ctypes.c_long * 2))


def slept() -> float:
    """Seconds that the machine has slept since it was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class ResumeWatch:
    """Calls `on_resume` on the event loop's thread. OSError: the kernel has no such timers."""

    def __init__(self, on_resume: Callable[[], None]) -> None:
        self._on_resume = on_resume
        self._slept = slept()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(_CLOCK_REALTIME, _FLAGS)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._arm()
        asyncio.get_running_loop().add_reader(self._fd, self._clock_set)

    def close(self) -> None:
        """Stop."""
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def _arm(self) -> None:
        spec = _Itimerspec((0, 0), (_NEVER, 0))
        if self._libc.timerfd_settime(self._fd, _ABSOLUTE_CANCEL_ON_SET, ctypes.byref(spec), None) < 0:
            log.warning("the clock cannot be watched: %s", os.strerror(ctypes.get_errno()))

    def _clock_set(self) -> None:
        with suppress(OSError):  # ECANCELED: it was set
            os.read(self._fd, 8)
        self._arm()
        before, self._slept = self._slept, slept()
        if self._slept - before >= SLEPT_SECONDS:
            log.info("the machine has slept for %.0f s", self._slept - before)
            self._on_resume()
