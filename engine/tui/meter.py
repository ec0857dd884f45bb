"""Throughput: from the peers' byte counters, read about once a second, to rates and their last minutes."""

from __future__ import annotations

from collections import deque

from engine.management.schema import Status

HISTORY = 240
"""Samples kept: as many seconds as the widest sparkline has columns."""

_BARS = " ▁▂▃▄▅▆▇█"


class Meter:
    """Rates in bytes a second, the newest last. Counters that fall, or come after a pause, start anew."""

    def __init__(self) -> None:
        self.received: deque[float] = deque(maxlen=HISTORY)
        self.sent: deque[float] = deque(maxlen=HISTORY)
        self._last: tuple[float, int, int] | None = None

    def feed(self, at: float, status: Status) -> None:
        """The counters at a time of a clock that never jumps. Within half a second of the last time it does nothing."""
        rx = sum(peer.rx_bytes for peer in status.peers)
        tx = sum(peer.tx_bytes for peer in status.peers)
        if self._last is not None:
            passed, more_rx, more_tx = at - self._last[0], rx - self._last[1], tx - self._last[2]
            if 0 <= passed < 0.5:
                return
            known = passed < 5 and more_rx >= 0 and more_tx >= 0
            self.received.append(more_rx / passed if known else 0.0)
            self.sent.append(more_tx / passed if known else 0.0)
        self._last = (at, rx, tx)


def sparkline(values: deque[float], width: int, height: int = 1) -> str:
    """The last `width` values as columns of `height` cells, the newest at the right, the highest nearly full.

    Anything above nothing shows at least an eighth of a cell; columns without a sample are empty.
    """
    shown = list(values)[-width:]
    top = max(shown, default=0.0)
    eighths = [max(1, round(value / top * (8 * height - 1))) if value > 0 else 0 for value in shown]
    lines = []
    for row in reversed(range(height)):
        bars = "".join(_BARS[min(8, max(0, level - 8 * row))] for level in eighths)
        lines.append(bars.rjust(width))
    return "\n".join(lines)
