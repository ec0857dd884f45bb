"""Is the tunnel still alive? A sans-IO watcher: times and counters in, "ping" or "lost" out.

The rule (reference app, section 3.4): ping the gateway when something was sent and nothing came back for 5 s, or
nothing came at all for 120 s; every 3 s; lost after 15 s of pings without anything received. Whatever arrives
authenticated is a sign of life. A look that comes much too late means that the machine slept: start afresh.

Nothing is polled: the datapath says when the first unanswered packet was sent, and until then the next look is the
one after 120 s.
"""

from __future__ import annotations

from enum import Enum

UNANSWERED_SECONDS = 5.0
SILENT_SECONDS = 120.0
PING_SECONDS = 3.0
LOST_SECONDS = 15.0
SLEPT_SECONDS = 6.0


class Action(Enum):
    """What to do after a look."""

    NOTHING = "nothing"
    PING = "ping"
    LOST = "lost"


class Monitor:
    """Watches one peer from the moment it is connected. `next_look` says when to call `look`."""

    def __init__(self, now: float, rx_bytes: int) -> None:
        self._rx_bytes = rx_bytes
        self._rx_at = now
        self._pinging_since: float | None = None
        self._resumed = False
        self.next_look = now + SILENT_SECONDS

    def sent(self, now: float) -> None:
        """The first packet since the last sign of life was sent."""
        if self._pinging_since is None:
            self.next_look = min(self.next_look, now + UNANSWERED_SECONDS)

    def resumed(self, now: float) -> None:
        """The machine has slept: ping at once, and give the peer the full time to answer."""
        self._rx_at = self._pinging_since = self.next_look = now
        self._resumed = True  # what was received before the sleep is no sign of life

    def look(self, now: float, rx_bytes: int, unanswered_since: float) -> Action:
        """Judge by the bytes received so far and by when the first unanswered packet was sent (0: there is none)."""
        if self._resumed:
            self._resumed, self._rx_bytes = False, rx_bytes
        slept = now - self.next_look >= SLEPT_SECONDS
        if slept or rx_bytes != self._rx_bytes:
            self._rx_bytes, self._rx_at, self._pinging_since = rx_bytes, now, None
        if slept:
            unanswered_since = now if unanswered_since else 0.0
        if self._pinging_since is not None:
            if now - self._pinging_since >= LOST_SECONDS:
                return Action.LOST
        elif (unanswered_since and now >= unanswered_since + UNANSWERED_SECONDS) or now >= self._rx_at + SILENT_SECONDS:
            self._pinging_since = now  # by the sums of `next_look`: a difference may be rounded below the limit
        if self._pinging_since is not None:
            self.next_look = now + PING_SECONDS
            return Action.PING
        due = self._rx_at + SILENT_SECONDS
        self.next_look = min(due, unanswered_since + UNANSWERED_SECONDS) if unanswered_since else due
        return Action.NOTHING
