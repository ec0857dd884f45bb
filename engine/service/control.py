"""The session's status socket: /run/molehill/INTERFACE.sock, read-only, JSON-RPC 2.0, one message a line.

    {"jsonrpc": "2.0", "id": 1, "method": "status"}   one answer: everything there is to tell
    {"jsonrpc": "2.0", "id": 1, "method": "watch"}    the same, and then a notification "status" at every change

Any local process may ask (IPC-1); nobody can change anything here. Nobody can hold it up either: requests are short,
clients are few, and who asks nothing, or does not read what it asked for, is cut off.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.service.session import Session

log = logging.getLogger(__name__)

FOLDER = Path(os.environ.get("MOLEHILL_RUN_DIR", "/run/molehill"))
MAX_REQUEST = 4096  # bytes
MAX_CLIENTS = 32
READ_SECONDS = 5.0  # a client that asks nothing for so long makes room for others
WRITE_SECONDS = 5.0
_PARSE_ERROR, _INVALID_REQUEST, _METHOD_NOT_FOUND = -32700, -32600, -32601  # JSON-RPC 2.0, section 5.1


class StatusServer:
    """Serves one session. OSError from `start` when the socket cannot be had, or is a living process's."""

    def __init__(self, session: Session, folder: Path = FOLDER) -> None:
        self._session = session
        self.path = folder / f"{session.configuration.interface}.sock"
        self._server: asyncio.AbstractServer | None = None
        self._clients: set[asyncio.Task[Any]] = set()
        self._inode = 0  # of our socket: only that one is ours to remove

    async def start(self) -> None:
        """Listen; a socket left by a dead process is replaced."""
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if _answers(self.path):
            # The folder is shared by network namespaces, the interface's name is not.
            raise OSError(errno.EADDRINUSE, f"another molehill has an interface {self.path.stem} and serves its status")
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self.path), limit=MAX_REQUEST)
        self._inode = self.path.stat().st_ino
        self.path.chmod(0o666)

    async def close(self) -> None:
        """Stop, cut off the clients, remove the socket."""
        if self._server is not None:
            self._server.close()
        for client in list(self._clients):
            client.cancel()
        for client in list(self._clients):
            with suppress(asyncio.CancelledError):
                await client
        with suppress(FileNotFoundError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            if len(self._clients) >= MAX_CLIENTS:
                return
            self._clients.add(task)
            while line := await asyncio.wait_for(reader.readline(), READ_SECONDS):
                await self._answer(line, reader, writer)
        except (ValueError, ConnectionError, TimeoutError) as error:  # ValueError: a line beyond MAX_REQUEST
            log.debug("a status client was cut off: %s", error)
        finally:
            self._clients.discard(task)
            writer.close()

    async def _answer(self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            await _send(writer, _error(None, _PARSE_ERROR, "not a line of JSON"))
            return
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            await _send(writer, _error(None, _INVALID_REQUEST, "not a request: method is missing"))
            return
        number, method = request.get("id"), request["method"]
        if method not in ("status", "watch"):
            await _send(writer, _error(number, _METHOD_NOT_FOUND, "there is no such method: use status or watch"))
            return
        await _send(writer, {"jsonrpc": "2.0", "id": number, "result": self._details()})
        if method == "watch":
            await self._stream(reader, writer)

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A note at every change, until the client leaves or says another word."""
        statuses = self._session.watch()
        await anext(statuses)  # the present one has been told
        gone = asyncio.ensure_future(reader.read(1))
        change = asyncio.ensure_future(anext(statuses))
        try:
            while True:
                await asyncio.wait({gone, change}, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    return
                await _send(writer, {"jsonrpc": "2.0", "method": "status", "params": self._details()})
                change = asyncio.ensure_future(anext(statuses))
        finally:
            gone.cancel()
            change.cancel()
            await asyncio.wait({gone, change})
            await statuses.aclose()

    def _details(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "netns": os.stat("/proc/self/ns/net").st_ino, **self._session.details()}


def remove_stale(folder: Path = FOLDER) -> None:
    """Remove the sockets that killed sessions left behind; a living one's stays."""
    for path in folder.glob("*.sock"):
        if path.is_socket() and not _answers(path):
            path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    """Is a living process behind the socket?"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        return client.connect_ex(str(path)) == 0


def _error(number: object, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message}}


async def _send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(json.dumps(message).encode() + b"\n")
    async with asyncio.timeout(WRITE_SECONDS):
        await writer.drain()
