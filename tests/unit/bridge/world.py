"""What the tests of both ends share: an engine's socket, a WireGuard server's, and bridges on loopback between them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import uvloop

from engine.bridge import Bridge, BridgeSettings, Kind, open_bridge
from engine.bridge.relay import Relay

LO = ip_address("127.0.0.1")
Say = Callable[[socket.socket], Awaitable[None]]


def udp() -> socket.socket:
    """A UDP socket on 127.0.0.1."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind(("127.0.0.1", 0))
    return sock


def port_of(sock: socket.socket) -> int:
    """Its port."""
    port: int = sock.getsockname()[1]
    return port


async def hear(sock: socket.socket) -> bytes:
    """The next datagram, within 5 s."""
    async with asyncio.timeout(5):
        return await asyncio.get_running_loop().sock_recv(sock, 70000)


async def hear_from(sock: socket.socket) -> tuple[bytes, tuple[str, int]]:
    """The next datagram and who sent it."""
    async with asyncio.timeout(5):
        while True:
            try:
                data, address = sock.recvfrom(70000)
                return data, address
            except BlockingIOError:
                await asyncio.sleep(0.005)  # uvloop has no sock_recvfrom


async def until(true: Callable[[], bool]) -> None:
    """Wait until it is true, at most 5 s."""
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.01)


class World:
    """See the head of this file. Everything opened here is closed with it."""

    def __init__(self) -> None:
        self.engine, self.server = udp(), udp()
        self.lost: list[str] = []
        self._close: list[Callable[[], object]] = [self.engine.close, self.server.close]

    def relay(
        self, max_connections: int = 8, idle_seconds: float = 60.0, max_per_address: int = 8
    ) -> tuple[Relay, int]:
        """Our relay in front of the server, and its port."""
        relay = Relay(
            (LO, port_of(self.server)),
            max_connections=max_connections,
            max_per_address=max_per_address,
            idle_seconds=idle_seconds,
        )
        port = relay.start(LO, 0)
        self._close.append(relay.close)
        return relay, port

    async def bridge(self, port: int) -> Bridge:
        """Our end of a bridge to that port."""
        settings = BridgeSettings(Kind.UDP_OVER_TCP, LO, port)
        bridge = await open_bridge(settings, (LO, 1), engine_port=port_of(self.engine), on_lost=self.lost.append)
        self._close.append(bridge.close)
        return bridge

    async def connect(self, port: int) -> socket.socket:
        """A bare TCP connection to the port."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._close.append(sock.close)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return sock

    def serve(self, say: Say) -> int:
        """A TCP server that does as it is told with the first who connects; its port."""
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)

        async def first() -> None:
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            self._close.append(connection.close)
            await say(connection)

        self._close += [listener.close, asyncio.create_task(first()).cancel]
        return port_of(listener)

    def close(self) -> None:
        """Close everything, the last first."""
        for each in reversed(self._close):
            each()


def run(scenario: Callable[[World], Awaitable[None]]) -> None:
    """Run it in a world of its own."""

    async def main() -> None:
        world = World()
        try:
            await scenario(world)
        finally:
            world.close()
            await asyncio.sleep(0)

    uvloop.run(main())
