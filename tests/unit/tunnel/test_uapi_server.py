"""The configuration socket: who may connect, who is answered, and how its deletion is noticed."""

import asyncio
import errno
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from engine.tunnel import uapi_server
from engine.tunnel.uapi_server import UapiServer
from engine.wg.uapi import Get, UapiError, Update, reply


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sockets go here instead of /var/run/wireguard."""
    monkeypatch.setattr(uapi_server, "SOCKET_DIRECTORY", tmp_path)
    return tmp_path


def answer(request: Get | Update | UapiError) -> str:
    if isinstance(request, UapiError):
        return reply(request.errno)
    return reply(0, "listen_port=1\n") if isinstance(request, Get) else reply()


def serve(scenario: Callable[[UapiServer, asyncio.Event], Awaitable[None]]) -> None:
    async def main() -> None:
        deleted = asyncio.Event()
        server = UapiServer("wgx", answer, deleted.set)
        await server.start()
        try:
            await scenario(server, deleted)
        finally:
            await server.close()

    uvloop.run(main())


async def ask(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request)
    writer.write_eof()
    data = await reader.read()
    writer.close()
    return data


def test_only_the_owner_may_connect(directory: Path) -> None:
    async def scenario(server: UapiServer, deleted: asyncio.Event) -> None:
        assert stat.S_IMODE(server.path.stat().st_mode) == 0o600

    serve(scenario)
    assert list(directory.iterdir()) == []


def test_one_connection_may_ask_several_times(directory: Path) -> None:
    async def scenario(server: UapiServer, deleted: asyncio.Event) -> None:
        data = await ask(server.path, b"get=1\n\nset=1\nlisten_port=5\n\nget=1\n\n")
        assert data == b"listen_port=1\nerrno=0\n\nerrno=0\n\nlisten_port=1\nerrno=0\n\n"

    serve(scenario)


def test_garbage_gets_an_errno_and_the_next_client_is_served(directory: Path) -> None:
    async def scenario(server: UapiServer, deleted: asyncio.Event) -> None:
        assert await ask(server.path, b"\xff\xfe\n\n") == f"errno={-errno.EPROTO}\n\n".encode()
        assert await ask(server.path, b"set=1\nno_such_key=1\n\n") == f"errno={-errno.EINVAL}\n\n".encode()
        assert (await ask(server.path, b"get=1\n\n")).endswith(b"errno=0\n\n")

    serve(scenario)


def test_a_client_that_stalls_is_hung_up_on(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uapi_server, "CLIENT_SECONDS", 0.05)

    async def scenario(server: UapiServer, deleted: asyncio.Event) -> None:
        reader, writer = await asyncio.open_unix_connection(str(server.path))
        writer.write(b"get")
        assert await asyncio.wait_for(reader.read(), 2) == b""
        writer.close()

    serve(scenario)


def test_the_socket_of_a_dead_process_is_replaced(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / "wgx.sock"))

    async def scenario(server: UapiServer, deleted: asyncio.Event) -> None:
        assert (await ask(server.path, b"get=1\n\n")).endswith(b"errno=0\n\n")

    serve(scenario)


def test_the_socket_of_a_living_process_is_not_taken(directory: Path) -> None:
    async def scenario(server: UapiServer, deleted: asyncio.Event) -> None:
        with pytest.raises(OSError, match="in use") as caught:
            await UapiServer("wgx", answer, deleted.set).start()
        assert caught.value.errno == errno.EADDRINUSE
        assert (await ask(server.path, b"get=1\n\n")).endswith(b"errno=0\n\n")

    serve(scenario)


def test_deleting_the_socket_is_noticed_and_deleting_another_is_not(directory: Path) -> None:
    async def scenario(server: UapiServer, deleted: asyncio.Event) -> None:
        (directory / "other.sock").touch()
        (directory / "other.sock").unlink()
        await asyncio.sleep(0.05)
        assert not deleted.is_set()
        server.path.unlink()
        await asyncio.wait_for(deleted.wait(), 10)

    serve(scenario)
