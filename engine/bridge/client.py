"""Our end of a bridge: the engine sends its datagrams to `Bridge.port` on 127.0.0.1, the bridge carries them out.

Order of events: the outward socket is made, marked, and only then connected -> the local one, which hears the engine's
port alone -> the engine is told its peer is at 127.0.0.1 -> `close()`, or `on_lost` with one sentence, once. A bridge
is never repaired: who uses it opens another one.

Only a stream can be lost. Datagrams to a Shadowsocks bridge that is not there are lost like any others, and an ICMP
error is no proof of anything: that the tunnel falls silent is its monitor's to notice.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Protocol

from engine.bridge.datagrams import Datagrams, local_socket, outward_socket
from engine.bridge.settings import BridgeError, BridgeSettings, IPAddress, Kind
from engine.bridge.shadowsocks import SALT_BYTES, Packets
from engine.bridge.stream import Stream


class Bridge(Protocol):
    """An open bridge."""

    @property
    def port(self) -> int:
        """Where on 127.0.0.1 the engine has to send."""

    @property
    def drops(self) -> dict[str, int]:
        """Datagrams lost here, by reason."""

    def close(self) -> None:
        """Close it; `on_lost` is not called any more."""


async def open_bridge(
    settings: BridgeSettings,
    server: tuple[IPAddress, int],
    *,
    engine_port: int,
    mark: int = 0,
    device: str = "",
    on_lost: Callable[[str], None],
) -> Bridge:
    """Open a bridge to the WireGuard server for the engine, whose UDP port is `engine_port`.

    `mark` and `device` (SO_BINDTODEVICE) are for the outward socket. BridgeError: it cannot be had, with the reason.
    """
    try:
        if settings.kind is Kind.UDP_OVER_TCP:
            return await _StreamBridge.open(settings, engine_port, mark, device, on_lost)
        return _PacketBridge(settings, server, engine_port, mark, device)
    except OSError as error:
        words = os.strerror(error.errno) if error.errno else str(error)
        raise BridgeError(f"the bridge {settings} cannot be reached: {words}") from None


class _StreamBridge:
    """UDP-over-TCP. Which server is at the far end is the relay's to know."""

    def __init__(self, stream: Stream, port: int) -> None:
        self._stream = stream
        self.port = port

    @classmethod
    async def open(
        cls,
        settings: BridgeSettings,
        engine_port: int,
        mark: int,
        device: str,
        on_lost: Callable[[str], None],
    ) -> _StreamBridge:
        outward = outward_socket(socket.SOCK_STREAM, settings.ip.version, mark, device)
        try:
            await asyncio.get_running_loop().sock_connect(outward, (str(settings.ip), settings.port))
            local = Datagrams(local_socket(engine_port))
        except BaseException:
            outward.close()
            raise
        stream = Stream(outward, local, lambda why: on_lost(f"the bridge {settings} is lost: {why}"))
        stream.start()
        return cls(stream, local.port)

    @property
    def drops(self) -> dict[str, int]:
        return self._stream.drops

    def close(self) -> None:
        self._stream.close()


class _PacketBridge:
    """Shadowsocks: each datagram sealed into one packet, and back."""

    def __init__(
        self, settings: BridgeSettings, server: tuple[IPAddress, int], engine_port: int, mark: int, device: str
    ) -> None:
        self._packets = Packets(settings.cipher, settings.password, *server)
        self._unsent = self._refused = 0
        outward = outward_socket(socket.SOCK_DGRAM, settings.ip.version, mark, device)
        try:
            outward.connect((str(settings.ip), settings.port))
            self._local = Datagrams(local_socket(engine_port))
        except BaseException:
            outward.close()
            raise
        self._outward = Datagrams(outward)
        self.port = self._local.port
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._local.fileno(), self._outwards)
        self._loop.add_reader(self._outward.fileno(), self._inwards)

    @property
    def drops(self) -> dict[str, int]:
        return {"auth": self._refused, "udp-send": self._unsent}

    def close(self) -> None:
        for sock in (self._local, self._outward):
            self._loop.remove_reader(sock.fileno())
            sock.close()

    def _outwards(self) -> None:
        burst = self._local.receive()
        self._unsent += self._outward.send([self._packets.seal(each, os.urandom(SALT_BYTES)) for each in burst])

    def _inwards(self) -> None:
        burst = self._outward.receive()
        opened = [datagram for packet in burst if (datagram := self._packets.open(packet))]
        self._refused += len(burst) - len(opened)
        self._unsent += self._local.send(opened)
