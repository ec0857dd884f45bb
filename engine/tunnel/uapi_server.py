"""The configuration socket that the unmodified `wg` talks to: /var/run/wireguard/<interface>.sock, mode 0600.

The text protocol is engine/wg/uapi.py's; here are only the socket, its patience, and the watch that notices when
somebody deletes it (which, as with other userspace implementations, is the way to end the process).
"""

import asyncio
import contextlib
import ctypes
import errno
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from engine.wg.uapi import Connection, Get, UapiError, Update

SOCKET_DIRECTORY = Path("/var/run/wireguard")
MAX_CLIENTS = 64
CLIENT_SECONDS = 30.0  # a client that neither asks nor reads for so long is hung up on

_IN_DELETE = 0x200
_IN_MOVED_FROM = 0x40
_EVENT = struct.Struct("iIII")


class UapiServer:
    """Serves one interface's socket. `answer` gets a parsed request and returns the whole reply text."""

    def __init__(
        self, interface: str, answer: Callable[[Get | Update | UapiError], str], on_deleted: Callable[[], None]
    ) -> None:
        self.path = SOCKET_DIRECTORY / f"{interface}.sock"
        self._answer = answer
        self._on_deleted = on_deleted
        self._server: asyncio.AbstractServer | None = None
        self._inotify = -1
        self._clients = 0

    async def start(self) -> None:
        """Listen. Raises OSError(EADDRINUSE) when another living process serves this interface."""
        hidden = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        listener = _listen(self.path, hidden)
        try:
            self._inotify = _watch_deletions(self.path.parent)
            hidden.replace(self.path)
        except BaseException:
            listener.close()
            hidden.unlink(missing_ok=True)
            raise
        asyncio.get_running_loop().add_reader(self._inotify, self._directory_changed)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener)

    async def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._server is None:
            return
        asyncio.get_running_loop().remove_reader(self._inotify)
        os.close(self._inotify)
        self._server.close()
        self._server = None
        self.path.unlink(missing_ok=True)

    def _directory_changed(self) -> None:
        data = os.read(self._inotify, 65536)
        offset = 0
        while offset + _EVENT.size <= len(data):
            _, _, _, length = _EVENT.unpack_from(data, offset)
            name = data[offset + _EVENT.size : offset + _EVENT.size + length].rstrip(b"\0").decode(errors="replace")
            offset += _EVENT.size + length
            if name == self.path.name and not self.path.exists():
                self._on_deleted()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        connection = Connection()
        try:
            while not connection.closed and self._clients <= MAX_CLIENTS:
                data = await asyncio.wait_for(reader.read(1 << 16), CLIENT_SECONDS)
                for request in connection.receive(data):
                    writer.write(self._answer(request).encode())
                await asyncio.wait_for(writer.drain(), CLIENT_SECONDS)
        except (TimeoutError, ConnectionError):
            pass  # a client that stalls or vanishes is its own problem
        finally:
            self._clients -= 1
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def _listen(path: Path, hidden: Path) -> socket.socket:
    """A socket that listens at `hidden`, to be renamed to `path`; EADDRINUSE if somebody is alive at `path`.

    `wg` removes a socket that refuses it, so the name that it looks for (*.sock) must not exist before the socket
    listens and its deletion is watched for.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode) or _answers(path):
                raise OSError(errno.EADDRINUSE, f"{path} is in use")
        hidden.unlink(missing_ok=True)
        # The mode must be right from the first moment: whoever can connect can read the private key.
        umask = os.umask(0o177)
        try:
            listener.bind(str(hidden))
        finally:
            os.umask(umask)
        listener.listen(16)
    except BaseException:
        listener.close()
        raise
    return listener


def _answers(path: Path) -> bool:
    """Is a living process behind the socket?"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        return client.connect_ex(str(path)) == 0


def _watch_deletions(directory: Path) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if fd < 0 or libc.inotify_add_watch(fd, os.fsencode(directory), _IN_DELETE | _IN_MOVED_FROM) < 0:
        error = ctypes.get_errno()
        if fd >= 0:
            os.close(fd)
        raise OSError(error, f"cannot watch {directory}: {os.strerror(error)}")
    return fd
