"""The status socket against friends, strangers and the hostile."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from engine.service import Session, control
from engine.service.control import MAX_CLIENTS, StatusServer, remove_stale
from tests.unit.service.fake import FakeFirewall, FakeHost, World
from tests.unit.service.test_session import configuration, own_place

__all__ = ["own_place"]  # a fixture, used by its name


def with_server(folder: Path, work: Callable[[Session, StatusServer], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        session = Session(
            configuration(),
            host=FakeHost(world),
            firewall=FakeFirewall(world),
            open_tun=world.open_tun,
            open_tunnel=world.open_tunnel,
        )
        await session.start()
        server = StatusServer(session, folder)
        await server.start()
        try:
            async with asyncio.timeout(20):
                await work(session, server)
        finally:
            await server.close()
            await session.close()
        assert not server.path.exists()

    asyncio.run(main())


async def ask(server: StatusServer, line: bytes) -> Any:
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    writer.write(line + b"\n")
    try:
        return json.loads(await reader.readline() or "null")
    except ConnectionError:
        return None  # cut off
    finally:
        await leave(writer)


async def leave(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


STATUS = b'{"jsonrpc": "2.0", "id": 5, "method": "status"}'


def test_status_is_one_answer_with_everything(tmp_path: Path) -> None:
    async def work(session: Session, server: StatusServer) -> None:
        answer = await ask(server, STATUS)
        assert answer["id"] == 5
        assert answer["result"]["state"] == "disconnected"
        assert answer["result"]["enforced"] is True
        assert {"pid", "netns", "policy", "verdicts", "drops", "offloads", "peers"} <= answer["result"].keys()

    with_server(tmp_path, work)


def test_watch_tells_every_change(tmp_path: Path) -> None:
    async def work(session: Session, server: StatusServer) -> None:
        reader, writer = await asyncio.open_unix_connection(str(server.path))
        writer.write(b'{"jsonrpc": "2.0", "id": 1, "method": "watch"}\n')
        assert json.loads(await reader.readline())["result"]["state"] == "disconnected"
        session.connect()
        states = []
        while "connected" not in states:
            states.append(json.loads(await reader.readline())["params"]["state"])
        await leave(writer)

    with_server(tmp_path, work)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"garbage", "not a line of JSON"),
        (b"[" * 4000, "not a line of JSON"),
        (b"17", "not a request"),
        (b'{"id": 1}', "not a request"),
        (b'{"id": 1, "method": 7}', "not a request"),
        (b'{"id": 1, "method": "disconnect"}', "no such method"),
        (b"\xff\xfe", "not a line of JSON"),
    ],
)
def test_nonsense_is_answered_by_an_error_and_harms_nobody(tmp_path: Path, line: bytes, words: str) -> None:
    async def work(session: Session, server: StatusServer) -> None:
        assert words in (await ask(server, line))["error"]["message"]
        assert (await ask(server, STATUS))["result"]

    with_server(tmp_path, work)


def test_a_watcher_that_leaves_frees_its_place_at_once(tmp_path: Path) -> None:
    async def work(session: Session, server: StatusServer) -> None:
        for _ in range(MAX_CLIENTS * 2):
            reader, writer = await asyncio.open_unix_connection(str(server.path))
            writer.write(b'{"jsonrpc": "2.0", "id": 1, "method": "watch"}\n')
            assert await reader.readline()
            await leave(writer)
        await asyncio.sleep(0.05)
        assert (await ask(server, STATUS))["result"]

    with_server(tmp_path, work)


def test_a_huge_line_and_too_many_clients_are_cut_off(tmp_path: Path) -> None:
    async def work(session: Session, server: StatusServer) -> None:
        assert await ask(server, b"x" * 100_000) is None
        idle = [await asyncio.open_unix_connection(str(server.path)) for _ in range(MAX_CLIENTS + 5)]
        await asyncio.sleep(0.05)
        assert await ask(server, STATUS) is None
        for _, writer in idle:
            await leave(writer)
        await asyncio.sleep(0.05)
        assert (await ask(server, STATUS))["result"]

    with_server(tmp_path, work)


def test_silent_clients_make_room_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "READ_SECONDS", 0.05)

    async def work(session: Session, server: StatusServer) -> None:
        silent = [await asyncio.open_unix_connection(str(server.path)) for _ in range(MAX_CLIENTS)]
        for reader, writer in silent:
            assert await reader.read() == b""
            await leave(writer)
        assert (await ask(server, b'{"id": 1, "method": "status"}'))["id"] == 1

    with_server(tmp_path, work)


def test_a_living_session_keeps_its_socket_when_another_of_the_same_name_wants_it(tmp_path: Path) -> None:
    async def work(session: Session, server: StatusServer) -> None:
        second = StatusServer(session, tmp_path)
        with pytest.raises(OSError, match="another molehill"):
            await second.start()
        await second.close()
        assert (await ask(server, b'{"id": 1, "method": "status"}'))["id"] == 1

    with_server(tmp_path, work)


def test_only_the_sockets_of_the_dead_are_removed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead, socket.socket(socket.AF_UNIX) as living:
        dead.bind(str(tmp_path / "dead.sock"))
        living.bind(str(tmp_path / "living.sock"))
        living.listen()
        (tmp_path / "no.sock").touch()
        remove_stale(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["living.sock", "no.sock"]
