"""The far end of a UDP-over-TCP bridge: each connection gets a UDP socket of its own towards one fixed target.

Order of events: `start()` listens -> a connection comes; beyond `max_connections`, or beyond `max_per_address` of its
address (IPv6: of its /64, which is what one customer has), it is closed at once -> it has
`FIRST_SECONDS` for its first whole datagram and `idle_seconds` between two, in whichever direction; bytes that complete
nothing do not count -> it ends, and its UDP socket with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from engine.bridge.datagrams import Datagrams
from engine.bridge.settings import BridgeError, IPAddress, endpoint_text
from engine.bridge.stream import Stream

log = logging.getLogger(__name__)

FIRST_SECONDS = 10.0
_ACCEPTS_PER_WAKEUP = 16
_BACKLOG = 128


@dataclass
class _Client:
    """A connection, and what it had carried when it was looked at: `carried` datagrams by the time `since`."""

    stream: Stream
    whose: str
    since: float
    carried: int = 0


class Relay:
    """See the head of this module. `close()` ends every connection."""

    def __init__(
        self, target: tuple[IPAddress, int], *, max_connections: int, max_per_address: int, idle_seconds: float
    ) -> None:
        self._target = target
        self._max, self._max_per_address = max_connections, max_per_address
        self._idle = idle_seconds
        self._clients: dict[str, _Client] = {}
        self._loop = asyncio.get_running_loop()
        self._listener: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._clients)

    def start(self, ip: IPAddress, port: int) -> int:
        """Listen; the port (also if 0 was asked for). BridgeError: it cannot."""
        family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if ip.version == 6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((str(ip), port))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise BridgeError(f"cannot listen on {endpoint_text(ip, port)}: {os.strerror(error.errno or 0)}") from None
        self._listener = listener
        self._look()
        bound: int = listener.getsockname()[1]
        return bound

    def close(self) -> None:
        """Stop listening and end every connection."""
        if self._listener is not None:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        if self._timer is not None:
            self._timer.cancel()
        for client in self._clients.values():
            client.stream.close()
        self._clients.clear()

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(_ACCEPTS_PER_WAKEUP):
            try:
                connection, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # too many open files, mostly: the others wait until the next look
                log.warning("a connection could not be taken: %s", error)
                self._loop.remove_reader(self._listener.fileno())
                return
            ip = ip_address(address[0])
            name, whose = endpoint_text(ip, address[1]), _whose(ip)
            if refusal := self._refusal(whose):
                log.warning("%s refused: %s", name, refusal)
                connection.close()
                continue
            try:
                self._add(connection, name, whose)
            except OSError as error:
                log.warning("%s refused: %s", name, error)
                connection.close()

    def _refusal(self, whose: str) -> str:
        if len(self._clients) >= self._max:
            return f"there are {self._max} connections already"
        if sum(client.whose == whose for client in self._clients.values()) >= self._max_per_address:
            return f"there are {self._max_per_address} connections of {whose} already"
        return ""

    def _add(self, connection: socket.socket, name: str, whose: str) -> None:
        connection.setblocking(False)
        ip, port = self._target
        family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.connect((str(ip), port))
            stream = Stream(connection, Datagrams(sock), self._forget(name))
        except OSError:
            sock.close()
            raise
        stream.start()
        self._clients[name] = _Client(stream, whose, self._loop.time())
        log.info("%s connected (%d of %d)", name, len(self._clients), self._max)

    def _forget(self, name: str) -> Callable[[str], None]:
        def ended(why: str) -> None:
            self._clients.pop(name, None)
            log.info("%s ended: %s", name, why)

        return ended

    def _look(self) -> None:
        """Once a second: end who has been silent for too long, and see who waits at the door."""
        assert self._listener is not None
        self._loop.add_reader(self._listener.fileno(), self._accept)
        time = self._loop.time()
        for name, client in list(self._clients.items()):
            if client.stream.carried != client.carried:
                client.carried, client.since = client.stream.carried, time
            elif time - client.since > (self._idle if client.carried else min(FIRST_SECONDS, self._idle)):
                log.info("%s ended: it was silent for too long", name)
                client.stream.close()
                del self._clients[name]
        self._timer = self._loop.call_later(1.0, self._look)


def _whose(ip: IPAddress) -> str:
    return str(ip) if ip.version == 4 else str(ip_network((ip, 64), strict=False))
