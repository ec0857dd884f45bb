"""The kernel's notes of changes, as a hint to ask anew: what they say is not read.

A note, or that notes were lost, starts a short wait, for a change of network is a burst of them; then the question is
asked, once. Meanwhile nothing is received, and there are only so many questions a second: all that a flood can cost.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1  # linux/netlink.h
AGAIN_SECONDS = 1.0
_DRAIN = 1000  # messages at most: a flood must not hold up the loop


class Notes:
    """Asks `question` after each burst of notes of the netlink groups; on the event loop's thread.

    `settle`: seconds from the first note of a burst to the question; `most`: questions in a second.
    OSError: there are no such notes here.
    """

    def __init__(
        self,
        protocol: int,
        groups: tuple[int, ...],
        question: Callable[[], Awaitable[None]],
        settle: float,
        most: int,
    ) -> None:
        self._question, self._settle = question, settle
        self._asked: deque[float] = deque(maxlen=most)  # when, by the loop's clock
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        try:
            self._socket.bind((0, 0))  # one without an address hears nothing
            for group in groups:
                self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket.fileno(), self.ask_soon)

    def ask_soon(self) -> None:
        """Ask once the present burst is over."""
        self._loop.remove_reader(self._socket.fileno())
        if self._timer is None:
            at = self._loop.time() + self._settle
            if len(self._asked) == self._asked.maxlen:
                at = max(at, self._asked[0] + 1.0)
            self._timer = self._loop.call_at(at, self._ask)

    def close(self) -> None:
        """Stop."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()

    def _ask(self) -> None:
        self._timer = None
        if self._asking is not None and not self._asking.done():
            self.ask_soon()  # what has changed since that question was asked
            return
        self._asked.append(self._loop.time())
        self._drain()
        self._loop.add_reader(self._socket.fileno(), self.ask_soon)
        self._asking = self._loop.create_task(self._answer())

    def _drain(self) -> None:
        for _ in range(_DRAIN):
            try:
                self._socket.recv(1)
            except BlockingIOError:
                return
            except OSError as error:  # ENOBUFS: notes were lost, and that is a note too
                log.debug("netlink notes were lost: %s", error)

    async def _answer(self) -> None:
        try:
            await self._question()
        except asyncio.CancelledError:
            return
        except Exception as error:  # the note that asked for it does not come again
            log.warning("what has changed cannot be found out, and is asked again: %s", error)
            if self._timer is None:
                self._timer = self._loop.call_later(max(self._settle, AGAIN_SECONDS), self._ask)
