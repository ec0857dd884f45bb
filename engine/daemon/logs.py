"""The daemon's log: the newest lines in memory, for `log` and the problem report, and all of it on standard error.

Nothing secret is ever logged, so nothing is redacted here; a test drives the daemon and looks for its keys. Under
systemd each line begins with its priority, as sd-daemon(3) has it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Callable
from itertools import islice

import msgspec

from engine.management.schema import MAX_LINE, LogEvent

KEPT = 1000
_ANSWER = MAX_LINE - 1024  # bytes
_LONGEST = 2000  # characters of a line
_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class Ring(logging.Handler):
    """Keeps the newest lines. `on_line` hears each one, in whatever thread it was written."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[LogEvent] = deque(maxlen=KEPT)
        self.on_line: Callable[[LogEvent], None] = lambda line: None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        line = LogEvent(record.created, record.levelname.lower(), self.format(record)[:_LONGEST])
        self.lines.append(line)
        self.on_line(line)

    def newest(self, count: int) -> tuple[LogEvent, ...]:
        """The newest lines, oldest first; as many as go into one answer."""
        found: list[LogEvent] = []
        room = _ANSWER
        for line in islice(reversed(self.lines), min(max(0, count), KEPT)):
            room -= len(msgspec.json.encode(line)) + 1
            if room < 0:
                break
            found.append(line)
        return tuple(reversed(found))


class _Journal(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return "\n".join(f"<{_PRIORITIES.get(record.levelno, 6)}>{line}" for line in text.splitlines())


def begin(verbose: bool) -> Ring:
    """Send the log to standard error and to the ring that is returned."""
    stream = logging.StreamHandler(sys.stderr)
    plain = "%(levelname)s: %(message)s"
    stream.setFormatter(_Journal("%(message)s") if "JOURNAL_STREAM" in os.environ else logging.Formatter(plain))
    ring = Ring()
    ring.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[stream, ring], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    return ring
