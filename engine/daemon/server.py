"""The management socket: JSON-RPC 2.0, one message a line, by the schema of engine/management/schema.py.

Any local process may ask (IPC-1), or a group's members only; who asked for a change is in the log. Nobody can hold
up anybody else:

* Each client has a task of its own, which answers its requests one after the other.
* There are MAX_CLIENTS; one more, and the user with the most connections loses the one that has been silent longest.
  So a flood pushes out itself, and whoever comes is served.
* Who does not read what was sent to it is cut off when MAX_BACKLOG bytes wait. Events are written, never waited for.
* What has come in and is no whole line yet is bounded for each client (MAX_LINE) and for all together (MAX_HELD).
* What is not JSON ends the connection: a browser's request, for one.

The socket is made ready (mode, group, listening) in a folder that only root can enter and then renamed into its
place, so it never exists with other rights than it should have. If somebody removes it, `check` makes it anew.
"""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import shutil
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from engine.daemon import rpc
from engine.daemon.rpc import Refused
from engine.management.schema import MAX_LINE, ErrorCode, Event, LogEvent, Subscribe

log = logging.getLogger(__name__)

MAX_CLIENTS = 128
MAX_BACKLOG = 4 << 20  # bytes: a few of the largest messages
MAX_HELD = 8 << 20  # bytes of unfinished lines of all clients
_CHUNK = 1 << 16
_BACKLOG = 1024  # connections that wait for our accept


class Client:
    """One connection: who is behind it, and what it has subscribed to."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        peer: socket.socket = writer.get_extra_info("socket")
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        self.pid, self.uid, self.gid = struct.unpack("3i", credentials)
        self.heard = 0  # the server's count of requests when this client's last one came
        self.held = 0  # bytes of an unfinished line
        self.subscribed: Subscribe | None = None
        self.leaving = False  # cut off, and its task has not ended yet

    def __str__(self) -> str:
        return f"user {self.uid} (process {self.pid})"

    def send(self, line: bytes) -> None:
        """Write a line; who has not read the former ones is cut off."""
        if self._writer.is_closing():
            return
        self._writer.write(line)
        if self._writer.transport.get_write_buffer_size() > MAX_BACKLOG:
            log.info("%s does not read its answers and is cut off", self)
            self.cut()

    async def sent(self) -> None:
        """Wait until it has read so much that more may be written."""
        await self._writer.drain()

    def cut(self) -> None:
        """Hang up, whatever it has not read yet."""
        self.leaving = True
        self._writer.transport.abort()

    def close(self) -> None:
        """Hang up when it has read the rest."""
        self._writer.close()


Handler = Callable[[Client, str, Any], Awaitable[msgspec.Struct]]
"""Carries out a method with its parameters for a client. Refused."""


class Server:
    """See the head of this module. `group`: only its members may connect; None: any local user."""

    def __init__(self, path: Path, handler: Handler, group: str | None = None) -> None:
        self.path = path
        self._handler = handler
        self._mode = 0o666 if group is None else 0o660
        self._gid = -1 if group is None else _gid(group)
        self._server: asyncio.AbstractServer | None = None
        self._inode = 0
        self._clients: dict[asyncio.Task[Any], Client] = {}
        self._requests = 0
        self._missing = False  # the socket, and that has been said

    async def start(self) -> None:
        """Listen. OSError: it cannot be, or another daemon listens there."""
        if _answers(self.path):
            raise OSError(f"another molehill daemon listens on {self.path}")
        listener = self._listener()
        self._inode = self.path.stat().st_ino
        former, self._server = (
            self._server,
            await asyncio.start_unix_server(self._serve, sock=listener, limit=_CHUNK, backlog=_BACKLOG),
        )
        if former is not None:
            former.close()

    def _listener(self) -> socket.socket:
        """A listening socket at our path, there as a whole or not at all."""
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        room = self.path.parent / f".{os.getpid()}"
        shutil.rmtree(room, ignore_errors=True)
        room.mkdir(mode=0o700)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            new = room / "s"
            listener.bind(str(new))
            if self._gid >= 0:
                os.chown(new, -1, self._gid)
            new.chmod(self._mode)
            listener.listen(_BACKLOG)
            os.replace(new, self.path)
        except BaseException:
            listener.close()
            raise
        finally:
            shutil.rmtree(room, ignore_errors=True)
        return listener

    async def check(self) -> None:
        """See to it that the socket is there and ours; connections stay. To be called now and then."""
        with suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                return
        try:
            await self.start()
            log.warning("%s was removed by somebody, and is made anew", self.path)
            self._missing = False
        except OSError as error:
            if not self._missing:
                log.error("there is no management socket: %s", error)
            self._missing = True

    def publish(self, happened: Event) -> None:
        """Tell all who have subscribed."""
        line = rpc.event(happened)
        for client in list(self._clients.values()):
            if client.subscribed is not None and (client.subscribed.log or not isinstance(happened, LogEvent)):
                client.send(line)

    async def close(self) -> None:
        """Stop listening, hang up, remove the socket."""
        if self._server is not None:
            self._server.close()
        for task, client in list(self._clients.items()):
            client.close()
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        with suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()

    # One client

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        client = Client(writer)
        client.heard = self._requests
        self._clients[task] = client
        self._make_room()
        try:
            await self._converse(client, reader)
        except OSError as error:  # it is gone
            log.debug("%s: %s", client, error)
        except asyncio.CancelledError:  # by `close`, and by nobody else
            log.debug("%s: the server ends", client)
        finally:
            del self._clients[task]
            writer.close()

    def _make_room(self) -> None:
        staying = [client for client in self._clients.values() if not client.leaving]
        if len(staying) <= MAX_CLIENTS:
            return
        (greediest, count), *_ = Counter(client.uid for client in staying).most_common(1)
        theirs = [client for client in staying if client.uid == greediest]
        victim = min(theirs, key=lambda client: client.heard)
        log.debug("user %d has %d connections; the most silent one is cut off", greediest, count)
        victim.cut()

    async def _converse(self, client: Client, reader: asyncio.StreamReader) -> None:
        buffer = bytearray()
        while chunk := await reader.read(_CHUNK):
            buffer += chunk
            if b"\n" in chunk:
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    if not await self._answer(client, bytes(line)):
                        return
            client.held = len(buffer)
            if len(buffer) >= MAX_LINE:
                client.send(rpc.refusal(Refused(ErrorCode.INVALID_REQUEST, f"a line has at most {MAX_LINE} bytes")))
                return
            if client.held > _CHUNK and sum(each.held for each in self._clients.values()) > MAX_HELD:
                client.send(rpc.refusal(Refused(ErrorCode.BUSY, "too much is being sent at once: try again")))
                return

    async def _answer(self, client: Client, line: bytes) -> bool:
        """Answer a line; whether to go on."""
        self._requests += 1
        client.heard = self._requests
        try:
            request = rpc.parse(line)
        except Refused as refused:
            client.send(rpc.refusal(refused))
            return not refused.fatal
        try:
            reply = rpc.answer(request.number, await self._handler(client, request.method, request.params))
        except Refused as refused:
            refused.number = request.number
            reply = rpc.refusal(refused)
        except Exception:  # a fault of ours: this request fails, and nothing else
            log.exception("%s failed", request.method)
            sentence = "an internal error: the daemon's log has more"
            reply = rpc.refusal(Refused(ErrorCode.INTERNAL, sentence, number=request.number))
        if len(reply) > MAX_LINE:
            log.error("the answer to %s has %d bytes", request.method, len(reply))
            reply = rpc.refusal(Refused(ErrorCode.FAILED, "the answer is too long to be sent", number=request.number))
        client.send(reply)
        await client.sent()
        await asyncio.sleep(0)  # the others' turn, however much this one has asked at once
        return True


def _gid(group: str) -> int:
    """The group's number. ValueError."""
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ValueError(f"there is no group {group!r}") from None


def _answers(path: Path) -> bool:
    """Is a living process behind the socket?"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        return client.connect_ex(str(path)) == 0
