"""How often somebody else has changed what enforces lately: a dispute with another program has to be told, not hidden.

Each change is answered, always: while the answer is late the machine may be open. But two programs that undo each
other's work for ever are no enforcement: after `MANY` disturbances within `SECONDS` the tunnel is given up, and
everything blocked until the user decides. What blocks is put right from then on as before.
"""

from __future__ import annotations

from collections import deque

MANY = 10
SECONDS = 10.0


class Repairs:
    """Counts; times are seconds that never go back."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def another(self, now: float) -> bool:
        """One more. Whether that makes it a dispute; then the count begins anew."""
        self._times.append(now)
        while now - self._times[0] > SECONDS:
            self._times.popleft()
        if len(self._times) <= MANY:
            return False
        self._times.clear()
        return True
