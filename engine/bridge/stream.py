"""`Stream`: datagrams between one UDP socket and one TCP connection, in either end of a UDP-over-TCP bridge.

Order of events: both sockets are connected -> `start()` -> whatever one has is carried to the other, a burst a
wake-up, so that a flood leaves the event loop time for others -> the connection ends, `on_end` is told why, once.

Outward, what the connection does not take waits in a `FrameQueue`, and little in the kernel (TCP_NOTSENT_LOWAT): what
the kernel has cannot make room any more. Inward, the connection is read as fast as the peer sends, and what the UDP
socket does not take is lost. So neither side can make this one hold more than some hundred kilobytes.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable

from engine.bridge.datagrams import Datagrams
from engine.bridge.frames import FrameQueue, FrameReader

QUEUE_BYTES = 512 << 10
NOT_SENT_BYTES = 128 << 10
_READ_BYTES = 256 << 10
_FRAMES_PER_SEND = 512  # two buffers each would be the kernel's limit (IOV_MAX 1024)


class Stream:
    """See the head of this module. The sockets belong to it."""

    def __init__(self, connection: socket.socket, datagrams: Datagrams, on_end: Callable[[str], None]) -> None:
        self._connection = connection
        self._datagrams = datagrams
        self._on_end = on_end
        self._reader = FrameReader()
        self._queue = FrameQueue(QUEUE_BYTES)
        self._waiting = False  # for the connection to take more
        self._ended = False
        self.carried = 0  # datagrams, both ways
        self._unsent = 0
        self._loop = asyncio.get_running_loop()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT_BYTES)

    def start(self) -> None:
        """Begin to carry."""
        self._loop.add_reader(self._connection.fileno(), self._connection_ready)
        self._loop.add_reader(self._datagrams.fileno(), self._datagrams_ready)

    @property
    def drops(self) -> dict[str, int]:
        """Datagrams lost here, by reason: the queue was full, a frame was none, the kernel did not take it."""
        return {
            "bridge-full": self._queue.dropped,
            "malformed": self._reader.malformed,
            "udp-send": self._unsent,
        }

    def close(self) -> None:
        """Stop, and close both sockets; the connection by a reset, so that nothing of it is sent from here on."""
        if self._ended:
            return
        self._ended = True
        self._loop.remove_reader(self._connection.fileno())
        self._loop.remove_writer(self._connection.fileno())
        self._loop.remove_reader(self._datagrams.fileno())
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.close()
        self._datagrams.close()

    def _end(self, why: str) -> None:
        if not self._ended:
            self.close()
            self._on_end(why)

    def _datagrams_ready(self) -> None:
        burst = self._datagrams.receive()
        self._queue.put(burst)
        self.carried += len(burst)
        if not self._waiting:
            self._flush()

    def _flush(self) -> None:
        """Give the connection all that it takes; wait for it if something is left."""
        try:
            while self._queue:
                self._queue.sent(self._connection.sendmsg(self._queue.pending(_FRAMES_PER_SEND)))
        except BlockingIOError:
            pass
        except OSError as error:
            self._end(_words(error))
            return
        if bool(self._queue) != self._waiting:
            self._waiting = not self._waiting
            if self._waiting:
                self._loop.add_writer(self._connection.fileno(), self._flush)
            else:
                self._loop.remove_writer(self._connection.fileno())

    def _connection_ready(self) -> None:
        try:
            data = self._connection.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(_words(error))
            return
        if not data:
            self._end("it closed the connection")
            return
        found = self._reader.feed(data)
        self.carried += len(found)
        self._unsent += self._datagrams.send(found)


def _words(error: OSError) -> str:
    return f"the connection broke ({os.strerror(error.errno) if error.errno else error})"
