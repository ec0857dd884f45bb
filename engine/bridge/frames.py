"""Datagrams in a byte stream, sans-IO: each one after its length, 16 bits, big endian (as udp2tcp has it).

`FrameReader` takes the stream in pieces of any size and gives whole datagrams. `FrameQueue` holds frames that wait for
the stream to take them: bounded, and the oldest make room, for a late datagram is worth less than a new one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

HEADER_BYTES = 2
MAX_DATAGRAM = 65507  # what UDP over IPv4 can carry (RFC 768): a longer frame cannot have been a datagram


def frame(datagram: bytes) -> bytes:
    """The datagram with its length before it."""
    return len(datagram).to_bytes(HEADER_BYTES, "big") + datagram


class FrameReader:
    """Cuts a stream into datagrams. It never holds more than one incomplete frame, at most 65,537 bytes.

    Frames that can be no datagram (empty, or longer than any) are skipped and counted in `malformed`: the stream
    itself is still in step.
    """

    def __init__(self) -> None:
        self._rest = b""
        self.malformed = 0

    def feed(self, data: bytes) -> list[memoryview]:
        """The datagrams that `data` completes, as views of it."""
        if self._rest:
            data = self._rest + data
        view = memoryview(data)
        found = []
        at, end = 0, len(data)
        while at + HEADER_BYTES <= end:
            length = data[at] << 8 | data[at + 1]
            after = at + HEADER_BYTES + length
            if after > end:
                break
            if 0 < length <= MAX_DATAGRAM:
                found.append(view[at + HEADER_BYTES : after])
            else:
                self.malformed += 1
            at = after
        self._rest = data[at:]
        return found


class FrameQueue:
    """Frames on their way into a stream, at most `limit` bytes of them.

    `put` -> `pending` (what to send next) -> `sent` (how much the stream took). A frame of which the stream has taken
    a part is never dropped: the stream would be out of step.
    """

    def __init__(self, limit: int) -> None:
        self._frames: deque[bytes] = deque()
        self._limit = limit
        self._size = 0  # bytes still to be sent
        self._taken = 0  # bytes of the first frame that the stream has already
        self.dropped = 0

    def __bool__(self) -> bool:
        return bool(self._frames)

    def put(self, datagrams: Sequence[bytes]) -> None:
        """Queue them; the oldest make room."""
        for datagram in datagrams:
            self._frames.append(frame(datagram))
            self._size += len(self._frames[-1])
        oldest = 1 if self._taken else 0
        while self._size > self._limit and len(self._frames) > oldest + 1:
            self._size -= len(self._frames[oldest])
            del self._frames[oldest]
            self.dropped += 1

    def pending(self, count: int) -> list[bytes | memoryview]:
        """The first `count` frames, the first without what has been taken of it."""
        chunks: list[bytes | memoryview] = list(islice(self._frames, count))
        if self._taken:
            chunks[0] = memoryview(chunks[0])[self._taken :]
        return chunks

    def sent(self, size: int) -> None:
        """The stream has taken `size` bytes of what was pending."""
        self._size -= size
        size += self._taken
        while self._frames and size >= len(self._frames[0]):
            size -= len(self._frames.popleft())
        self._taken = size
