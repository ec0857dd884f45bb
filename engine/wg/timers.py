"""When must a peer act next: five deadlines a peer (paper section 6), and one heap over all peers.

Deadlines move at nearly every packet, mostly to later. The heap therefore holds at most one *live* entry a peer, at or
before its true deadline: moving to later costs nothing, and the entry is corrected when it comes to the top.
"""

import heapq
from itertools import count
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.wg.peer import Peer


class Deadlines:
    """The deadlines of one peer, in seconds of `now`; inf = not set."""

    __slots__ = ("erase", "keepalive", "new_handshake", "persistent", "retransmit", "scheduled")

    def __init__(self) -> None:
        self.retransmit = inf
        """Our initiation was not answered (or may not be sent yet): send (another) one."""
        self.keepalive = inf
        """Data was received and nothing sent back: passive keepalive."""
        self.new_handshake = inf
        """Data was sent and nothing came back: start over."""
        self.persistent = inf
        """Nothing was sent or received for the persistent keepalive's interval."""
        self.erase = inf
        """The newest session was born three times REJECT_AFTER_TIME ago: forget all keys."""
        self.scheduled = inf
        """Time of this peer's live entry in the heap (kept by Schedule)."""

    def next(self) -> float:
        """Return the earliest deadline."""
        return min(self.retransmit, self.keepalive, self.new_handshake, self.persistent, self.erase)


class Schedule:
    """Which peer's deadline comes first. Every operation is O(log peers), amortised."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Peer]] = []
        self._number = count()  # breaks ties: peers have no order
        self._live = 0

    def update(self, peer: "Peer") -> None:
        """Take note that the deadlines of peer changed. Cheap when the earliest did not get earlier."""
        deadlines = peer.deadlines
        due = deadlines.next()
        if due < deadlines.scheduled:
            self._live += deadlines.scheduled == inf
            deadlines.scheduled = due
            heapq.heappush(self._heap, (due, next(self._number), peer))
            if len(self._heap) > 64 + 4 * self._live:
                self._drop_stale()

    def remove(self, peer: "Peer") -> None:
        """Forget a peer; its entry in the heap becomes stale."""
        self._live -= peer.deadlines.scheduled != inf
        peer.deadlines = Deadlines()

    def next(self) -> float | None:
        """Return the earliest true deadline of all peers, or None."""
        heap = self._heap
        while heap:
            due, _, peer = heap[0]
            if due == peer.deadlines.scheduled and due == peer.deadlines.next():
                return due
            heapq.heappop(heap)
            self._correct(due, peer)
        return None

    def due(self, now: float) -> "Peer | None":
        """Return a peer with a deadline at or before now, or None. The caller acts on it, then calls update."""
        first = self.next()
        if first is None or first > now:
            return None
        peer = heapq.heappop(self._heap)[2]
        peer.deadlines.scheduled = inf
        self._live -= 1
        return peer

    def _correct(self, due: float, peer: "Peer") -> None:
        """An entry was taken off the heap: if it was the peer's live one, put the peer back at its true deadline."""
        if due == peer.deadlines.scheduled:
            peer.deadlines.scheduled = inf
            self._live -= 1
            self.update(peer)

    def _drop_stale(self) -> None:
        kept = {id(entry[2]): entry for entry in self._heap if entry[0] == entry[2].deadlines.scheduled}
        self._heap = list(kept.values())
        heapq.heapify(self._heap)
