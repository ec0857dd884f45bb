"""The management socket against friends, strangers and the hostile, over a real socket."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from engine.daemon import server as server_module
from engine.daemon.rpc import Refused
from engine.daemon.server import MAX_CLIENTS, Client, Server
from engine.management.schema import (
    MAX_LINE,
    Detail,
    ErrorCode,
    LogEvent,
    RelaysEvent,
    Settings,
    TunnelsEvent,
)

HELLO = b'{"jsonrpc": "2.0", "id": 1, "method": "settings.get"}\n'
SUBSCRIBE = b'{"jsonrpc": "2.0", "id": 1, "method": "subscribe"}\n'
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Handler:
    """Answers settings.get with settings; the other methods do what the tests need."""

    def __init__(self) -> None:
        self.seen: list[tuple[Client, str]] = []
        self.hang = asyncio.Event()

    async def __call__(self, client: Client, method: str, params: Any) -> msgspec.Struct:
        self.seen.append((client, method))
        match method:
            case "subscribe":
                client.subscribed = params
            case "connect":
                await self.hang.wait()
            case "disconnect":
                raise RuntimeError("a fault")
            case "tunnel.remove":
                raise Refused(ErrorCode.NOT_FOUND, f"there is no tunnel {params.name!r}")
            case "debug.block":
                return Detail("x" * 100_000)
        return Settings()


Work = Callable[[Server, Handler], Awaitable[None]]


def with_server(folder: Path, work: Work, group: str | None = None) -> None:
    async def main() -> None:
        handler = Handler()
        server = Server(folder / "run" / "s", handler, group)
        await server.start()
        try:
            async with asyncio.timeout(60):
                await work(server, handler)
        finally:
            await server.close()
        assert not server.path.exists()

    uvloop.run(main())


async def open_to(server: Server) -> Stream:
    return await asyncio.open_unix_connection(str(server.path), limit=MAX_LINE * 2)


async def ask(stream: Stream, line: bytes = HELLO) -> Any:
    reader, writer = stream
    writer.write(line)
    return json.loads(await reader.readline())


async def is_cut(stream: Stream) -> bool:
    """Whether the server hangs up without a word, or after its last one."""
    try:
        while await stream[0].read(1 << 16):
            pass
    except ConnectionError:
        pass
    return True


async def leave(*streams: Stream) -> None:
    for _, writer in streams:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def serves(server: Server) -> None:
    stream = await open_to(server)
    assert (await ask(stream))["result"]["allow_lan"] is False
    await leave(stream)


def test_ipc1_any_local_user_may_ask_and_is_known(tmp_path: Path) -> None:
    async def work(server: Server, handler: Handler) -> None:
        assert stat.S_IMODE(server.path.stat().st_mode) == 0o666
        assert [entry.name for entry in server.path.parent.iterdir()] == ["s"]
        await serves(server)
        client = handler.seen[0][0]
        assert (client.pid, client.uid, client.gid) == (os.getpid(), os.getuid(), os.getgid())
        assert str(client) == f"user {os.getuid()} (process {os.getpid()})"

    with_server(tmp_path, work)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file to a group needs root")
def test_a_group_may_have_the_socket_for_itself(tmp_path: Path) -> None:
    async def work(server: Server, handler: Handler) -> None:
        facts = server.path.stat()
        assert (stat.S_IMODE(facts.st_mode), facts.st_gid) == (0o660, grp.getgrnam("nogroup").gr_gid)

    with_server(tmp_path, work, group="nogroup")


def test_a_group_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no group 'wheel-of-time'"):
        Server(tmp_path / "s", lambda client, method, params: asyncio.sleep(0), "wheel-of-time")  # type: ignore[arg-type]


def test_refusals_and_faults_end_their_request_and_nothing_else(tmp_path: Path) -> None:
    async def work(server: Server, handler: Handler) -> None:
        stream = await open_to(server)
        gone = await ask(stream, b'{"jsonrpc":"2.0","id":5,"method":"tunnel.remove","params":{"name":"x"}}\n')
        assert (gone["id"], gone["error"]["code"], gone["error"]["data"]["kind"]) == (5, 2, "not-found")
        fault = await ask(stream, b'{"jsonrpc":"2.0","id":6,"method":"disconnect"}\n')
        assert (fault["id"], fault["error"]["code"]) == (6, -32603)
        assert "a fault" not in fault["error"]["message"]
        assert (await ask(stream))["result"]
        await leave(stream)

    with_server(tmp_path, work)


def test_no_method_blocks_another_clients(tmp_path: Path) -> None:
    async def work(server: Server, handler: Handler) -> None:
        waiting = await open_to(server)
        waiting[1].write(b'{"jsonrpc":"2.0","id":1,"method":"connect"}\n')
        await serves(server)
        handler.hang.set()
        assert json.loads(await waiting[0].readline())["result"]
        await leave(waiting)

    with_server(tmp_path, work)


def test_requests_sent_at_once_are_answered_in_order(tmp_path: Path) -> None:
    async def work(server: Server, handler: Handler) -> None:
        reader, writer = await open_to(server)
        writer.writelines(b'{"jsonrpc":"2.0","id":%d,"method":"settings.get"}\n' % number for number in range(500))
        assert [json.loads(await reader.readline())["id"] for _ in range(500)] == list(range(500))
        await leave((reader, writer))

    with_server(tmp_path, work)


def test_ipc1_who_speaks_http_is_cut_off_and_nothing_of_it_is_done(tmp_path: Path) -> None:
    async def work(server: Server, handler: Handler) -> None:
        stream = await open_to(server)
        stream[1].write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\r\n" + HELLO)
        assert json.loads(await stream[0].readline())["error"]["code"] == -32700
        assert await is_cut(stream)
        assert handler.seen == []
        await leave(stream)

    with_server(tmp_path, work)


def test_a_line_without_end_is_cut_off_and_a_long_one_is_not(tmp_path: Path) -> None:
    async def work(server: Server, handler: Handler) -> None:
        stream = await open_to(server)
        padding = b" " * (MAX_LINE - 1000)
        assert (await ask(stream, padding + HELLO))["result"]
        stream[1].write(b"x" * (MAX_LINE + 100_000))
        assert await is_cut(stream)
        await leave(stream)
        await serves(server)

    with_server(tmp_path, work)


def test_many_unfinished_lines_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_HELD", 1 << 20)

    async def work(server: Server, handler: Handler) -> None:
        streams = [await open_to(server) for _ in range(8)]
        for stream in streams:
            stream[1].write(b"x" * 300_000)
        for _ in range(500):
            if len(server._clients) <= 4:
                break
            await asyncio.sleep(0.01)
        assert 1 <= len(server._clients) <= 4  # of 1 MiB they may have, a fourth of it each
        await serves(server)  # small requests go on
        await leave(*streams)

    with_server(tmp_path, work)


def test_a_thousand_connections_push_out_each_other_and_not_who_talks(tmp_path: Path) -> None:
    async def work(server: Server, handler: Handler) -> None:
        talking = await open_to(server)
        crowd = []
        for number in range(1000):
            crowd.append(await open_to(server))
            if number % 50 == 0:
                assert (await ask(talking))["result"]
        assert (await ask(talking))["result"]
        await serves(server)
        assert all([await is_cut(stream) for stream in crowd[:800]])
        await leave(talking, *crowd)

    with_server(tmp_path, work)


async def settled(server: Server) -> None:
    """All who were cut off are gone."""
    async with asyncio.timeout(20):
        while any(client.leaving for client in server._clients.values()):
            await asyncio.sleep(0.01)


def burst(server: Server, count: int) -> list[socket.socket]:
    """So many connections before the server has its next turn; BlockingIOError: no more may wait for it."""
    crowd = [socket.socket(socket.AF_UNIX) for _ in range(count)]
    for each in crowd:
        each.setblocking(False)
        each.connect(str(server.path))
    return crowd


def test_a_burst_of_connections_leaves_no_more_than_there_may_be_and_their_descriptors_go(tmp_path: Path) -> None:
    async def work(server: Server, handler: Handler) -> None:
        before, crowd = len(os.listdir("/proc/self/fd")), list[socket.socket]()
        for _ in range(6):
            crowd += burst(server, 90)
            await serves(server)  # it has come behind them, so they have been accepted
            assert sum(not client.leaving for client in server._clients.values()) <= MAX_CLIENTS
            await settled(server)
            assert len(server._clients) <= MAX_CLIENTS
            assert len(os.listdir("/proc/self/fd")) <= before + len(crowd) + MAX_CLIENTS
        for each in crowd:
            each.close()

    with_server(tmp_path, work)


def test_more_than_asyncio_s_hundred_connections_may_wait_for_the_server(tmp_path: Path) -> None:
    async def work(server: Server, handler: Handler) -> None:
        crowd = burst(server, 120)  # 128 is the least that kernels have allowed
        await serves(server)
        for each in crowd:
            each.close()

    with_server(tmp_path, work)


def test_a_crowd_of_one_user_costs_no_other_user_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(server: Server, handler: Handler) -> None:
        quiet = await open_to(server)
        assert (await ask(quiet))["result"]
        handler.seen[0][0].uid = 4711  # as if another user's; it is the most silent one of all
        crowd = [await open_to(server) for _ in range(MAX_CLIENTS + 50)]
        await serves(server)
        assert (await ask(quiet))["result"]
        await leave(quiet, *crowd)

    with_server(tmp_path, work)


def test_who_leaves_in_the_middle_of_anything_leaves_no_trace(tmp_path: Path) -> None:
    async def work(server: Server, handler: Handler) -> None:
        for sent in (b"", b"{", HELLO, HELLO * 100, b'{"jsonrpc":"2.0","id":1,"method":"connect"}\n'):
            stream = await open_to(server)
            stream[1].write(sent)
            await stream[1].drain()
            stream[1].transport.abort()
        handler.hang.set()
        for _ in range(200):
            if not server._clients:
                break
            await asyncio.sleep(0.01)
        assert server._clients == {}
        await serves(server)

    with_server(tmp_path, work)


def test_subscribers_are_told_and_the_log_only_on_request(tmp_path: Path) -> None:
    async def work(server: Server, handler: Handler) -> None:
        plain, curious, mute = [await open_to(server) for _ in range(3)]
        await ask(plain, SUBSCRIBE)
        await ask(curious, SUBSCRIBE.replace(b'"subscribe"', b'"subscribe", "params": {"log": true}'))
        await ask(mute)
        server.publish(LogEvent(1.0, "info", "a line"))
        server.publish(RelaysEvent(3))
        assert json.loads(await plain[0].readline())["params"] == {"type": "relays", "count": 3}
        assert json.loads(await curious[0].readline())["params"]["type"] == "log"
        assert json.loads(await curious[0].readline())["params"]["type"] == "relays"
        assert (await ask(mute))["result"]  # nothing came in between
        await leave(plain, curious, mute)

    with_server(tmp_path, work)


def test_a_subscriber_that_does_not_read_is_cut_off_and_the_others_hear_everything(tmp_path: Path) -> None:
    async def work(server: Server, handler: Handler) -> None:
        with socket.socket(socket.AF_UNIX) as stuck:
            stuck.connect(str(server.path))
            stuck.sendall(SUBSCRIBE)
            reading = await open_to(server)
            await ask(reading, SUBSCRIBE)
            heard = 0
            for _ in range(100):
                server.publish(LogEvent(1.0, "info", "not for them"))
                server.publish(TunnelsEvent(()))
                for client in list(server._clients.values()):  # a lot of news
                    client.send(b"x" * 100_000 + b"\n")
                heard += len(await reading[0].readline()) + len(await reading[0].readline())
            assert heard > 100 * 100_000
            assert len(server._clients) == 1
        await leave(reading)

    with_server(tmp_path, work)


def test_a_client_that_asks_and_does_not_read_waits_for_itself_alone(tmp_path: Path) -> None:
    async def work(server: Server, handler: Handler) -> None:
        greedy = await open_to(server)
        greedy[1].writelines([b'{"jsonrpc":"2.0","id":1,"method":"debug.block"}\n'] * 1000)
        for _ in range(20):
            await serves(server)
        assert len([method for _, method in handler.seen if method == "debug.block"]) < 100
        await leave(greedy)

    with_server(tmp_path, work)


def test_a_removed_socket_comes_back_and_connections_stay(tmp_path: Path) -> None:
    async def work(server: Server, handler: Handler) -> None:
        stream = await open_to(server)
        await server.check()
        server.path.unlink()
        await server.check()
        await serves(server)
        assert (await ask(stream))["result"]
        server.path.unlink()
        server.path.parent.rmdir()
        await server.check()
        await serves(server)
        await leave(stream)

    with_server(tmp_path, work)


def test_a_living_daemons_socket_is_left_alone_and_a_dead_ones_replaced(tmp_path: Path) -> None:
    async def work(server: Server, handler: Handler) -> None:
        second = Server(server.path, handler)
        with pytest.raises(OSError, match="another molehill daemon"):
            await second.start()
        await serves(server)

    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "run" / "s"))
    with_server(tmp_path, work)


def test_without_descriptors_it_waits_and_goes_on(tmp_path: Path) -> None:
    async def work(server: Server, handler: Handler) -> None:
        import resource

        await serves(server)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
        try:
            for each in waiting:
                each.connect(str(server.path))
            await asyncio.sleep(0.2)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for each in waiting:
                each.close()
        await serves(server)

    with_server(tmp_path, work)
