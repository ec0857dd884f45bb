"""The client's side of the management socket: one blocking client for commands, one on asyncio for what stays open.

Order of a call: a line out, lines in until the answer with our id comes; events that come in between wait for
`events()`. Whatever goes wrong is a `ManagementError` with one sentence.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from engine.management.schema import MAX_LINE, METHODS, ErrorCode, Event

if TYPE_CHECKING:
    import asyncio

ANSWER_SECONDS = 15.0
"""For an answer: longer than any single change may take in the daemon."""

_AGAIN_SECONDS = 0.05

R = TypeVar("R", bound=msgspec.Struct)


def default_path() -> Path:
    """Where the daemon listens."""
    return Path(os.environ.get("MOLEHILL_RUN_DIR", "/run/molehill")) / "management.socket"


class ManagementError(Exception):
    """What the daemon refused, or why it could not be asked (`code` None)."""

    def __init__(self, message: str, code: ErrorCode | None = None) -> None:
        super().__init__(message)
        self.code = code


class NotRunning(ManagementError):
    """Nobody listens."""


class NotPermitted(ManagementError):
    """The socket is not for this user."""


class _Message(msgspec.Struct, frozen=True):
    """Anything that comes in."""

    id: int | None = None
    method: str = ""
    params: msgspec.Raw = msgspec.Raw(b"null")
    result: msgspec.Raw = msgspec.Raw(b"")
    error: dict[str, Any] | None = None


class _Protocol:
    """What both clients share: numbering requests, telling answers from events."""

    def __init__(self) -> None:
        self._number = 0
        self.events: deque[Event] = deque()

    def request(self, method: str, params: msgspec.Struct | None) -> bytes:
        """The next request as a line."""
        self._number += 1
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": self._number, "method": method}
        if params is not None:
            message["params"] = params
        return msgspec.json.encode(message) + b"\n"

    def take(self, line: bytes) -> _Message | None:
        """Our answer, or None for anything else; events are kept in `events`. ManagementError for a refusal."""
        try:
            message = msgspec.json.decode(line, type=_Message)
            if message.method == "event":
                self.events.append(msgspec.json.decode(message.params, type=Event))
                return None
        except msgspec.MsgspecError as error:
            raise ManagementError(f"the daemon's answer cannot be read: {error}") from None
        if message.error is not None and message.id in (self._number, None):
            raise ManagementError(str(message.error.get("message")), _code(message.error.get("code")))
        return message if message.id == self._number else None


def _code(number: object) -> ErrorCode | None:
    try:
        return ErrorCode(number)  # type: ignore[arg-type]  # whatever came: ValueError if it is none
    except ValueError:
        return None


def _result(method: str, message: _Message, expected: type[R]) -> R:
    assert METHODS[method].result is expected, f"{method} gives {METHODS[method].result.__name__}"
    try:
        return msgspec.json.decode(message.result, type=expected)
    except msgspec.MsgspecError as error:
        raise ManagementError(f"the daemon's answer to {method} cannot be read: {error}") from None


def _no_daemon(path: Path, error: OSError) -> ManagementError:
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return NotRunning("the molehill daemon is not running: sudo systemctl start molehill")
    if isinstance(error, PermissionError):
        return NotPermitted(f"{path} may not be opened by this user: use sudo, or join the socket's group")
    return ManagementError(f"{path}: {error.strerror or error}")


def _connected(path: Path) -> socket.socket:
    """A connection; while others fill the queue it waits, as long as for an answer. ManagementError."""
    until = time.monotonic() + ANSWER_SECONDS
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(ANSWER_SECONDS)
        try:
            sock.connect(str(path))
            return sock
        except BlockingIOError as error:
            sock.close()
            if time.monotonic() > until:
                raise _no_daemon(path, error) from None
            time.sleep(_AGAIN_SECONDS)
        except OSError as error:
            sock.close()
            raise _no_daemon(path, error) from None


_GONE = "the daemon has closed the connection"


class Client:
    """A blocking client; a context manager. ManagementError when nobody answers."""

    def __init__(self, path: Path | None = None) -> None:
        self._protocol = _Protocol()
        self._socket = _connected(path or default_path())
        self._lines = self._socket.makefile("rb")

    def call(self, method: str, params: msgspec.Struct | None, result: type[R]) -> R:
        """Ask, and wait for the answer."""
        try:
            self._socket.sendall(self._protocol.request(method, params))
            while True:
                message = self._protocol.take(self._line())
                if message is not None:
                    return _result(method, message, result)
        except TimeoutError:
            raise ManagementError(f"the daemon gave no answer to {method} in {ANSWER_SECONDS:.0f} s") from None
        except OSError:
            raise ManagementError(_GONE) from None

    def events(self, timeout: float | None = None) -> Iterator[Event]:
        """What happens, after `subscribe`; ends when nothing has happened for `timeout` seconds."""
        self._socket.settimeout(timeout)
        try:
            while True:
                while self._protocol.events:
                    yield self._protocol.events.popleft()
                self._protocol.take(self._line())
        except TimeoutError:
            return
        except OSError:
            raise ManagementError(_GONE) from None

    def _line(self) -> bytes:
        line = self._lines.readline(MAX_LINE + 1)
        if not line.endswith(b"\n"):
            raise ManagementError(_GONE)
        return line

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """A client on the running event loop: calls one at a time, events by their own connection.

    asyncio is imported when it is needed: commands, which do without, start twice as fast.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import asyncio

        self._reader, self._writer = reader, writer
        self._protocol = _Protocol()
        self._turn = asyncio.Lock()

    @classmethod
    async def connect(cls, path: Path | None = None) -> AsyncClient:
        """Connect. ManagementError when nobody answers."""
        import asyncio

        sock = await asyncio.to_thread(_connected, path or default_path())
        return cls(*await asyncio.open_unix_connection(sock=sock, limit=MAX_LINE))

    async def call(self, method: str, params: msgspec.Struct | None, result: type[R]) -> R:
        """Ask, and wait for the answer."""
        import asyncio

        async with self._turn:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    self._writer.write(self._protocol.request(method, params))
                    await self._writer.drain()
                    while True:
                        message = self._protocol.take(await self._line())
                        if message is not None:
                            return _result(method, message, result)
            except TimeoutError:
                raise ManagementError(f"the daemon gave no answer to {method} in {ANSWER_SECONDS:.0f} s") from None
            except OSError:
                raise ManagementError(_GONE) from None

    async def events(self) -> AsyncIterator[Event]:
        """What happens, after `subscribe`; not together with calls."""
        while True:
            while self._protocol.events:
                yield self._protocol.events.popleft()
            try:
                self._protocol.take(await self._line())
            except OSError:
                raise ManagementError(_GONE) from None

    async def _line(self) -> bytes:
        try:
            line = await self._reader.readline()
        except ValueError:
            raise ManagementError("the daemon sent a line without end") from None
        if not line:
            raise ManagementError(_GONE)
        return line

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
