"""The far end of UDP-over-TCP on loopback, and clients that mean harm. Real sockets, no doubles."""

from __future__ import annotations

import asyncio
import os
import socket
from ipaddress import ip_address

import pytest

from engine.bridge import BridgeError
from engine.bridge import relay as relay_module
from engine.bridge.frames import frame
from tests.unit.bridge.world import LO, World, hear, hear_from, run, until


async def closed(sock: socket.socket) -> bool:
    """Whether the relay has closed the connection, within 5 s."""
    async with asyncio.timeout(5):
        try:
            return await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        except ConnectionResetError:
            return True


def test_each_connection_has_a_source_of_its_own_and_gets_its_own_answers() -> None:
    async def scenario(world: World) -> None:
        relay, port = world.relay()
        first, second = await world.connect(port), await world.connect(port)
        first.send(frame(b"one"))
        one = await hear_from(world.server)
        second.send(frame(b"two"))
        two = await hear_from(world.server)
        assert (one[0], two[0], one[1] != two[1], relay.connections) == (b"one", b"two", True, 2)
        world.server.sendto(b"to two", two[1])
        world.server.sendto(b"to one", one[1])
        assert [await hear(first), await hear(second)] == [frame(b"to one"), frame(b"to two")]

    run(scenario)


def test_beyond_the_limit_a_connection_is_closed_and_a_place_that_is_free_again_is_given() -> None:
    async def scenario(world: World) -> None:
        relay, port = world.relay(max_connections=2)
        kept = [await world.connect(port) for _ in range(2)]
        await until(lambda: relay.connections == 2)
        assert await closed(await world.connect(port))
        kept[1].close()
        await until(lambda: relay.connections == 1)
        again = await world.connect(port)
        again.send(frame(b"again"))
        assert await hear(world.server) == b"again"
        kept[0].send(frame(b"kept"))
        assert await hear(world.server) == b"kept"

    run(scenario)


def test_one_address_cannot_take_the_places_of_others() -> None:
    async def scenario(world: World) -> None:
        relay, port = world.relay(max_connections=8, max_per_address=2)
        kept = [await world.connect(port) for _ in range(2)]
        await until(lambda: relay.connections == 2)
        assert await closed(await world.connect(port))
        with socket.socket() as neighbour:
            neighbour.setblocking(False)
            neighbour.bind(("127.0.0.2", 0))
            await asyncio.get_running_loop().sock_connect(neighbour, ("127.0.0.1", port))
            neighbour.send(frame(b"of another address"))
            assert await hear(world.server) == b"of another address"
        kept[0].send(frame(b"kept"))
        assert await hear(world.server) == b"kept"

    run(scenario)


def test_an_ipv6_customers_addresses_count_as_one() -> None:
    one, same, other = (
        relay_module._whose(ip_address(text)) for text in ("2001:db8::1", "2001:db8::2:3", "2001:db8:0:1::1")
    )
    assert one == same == "2001:db8::/64" != other


def test_who_says_nothing_whole_is_put_out_however_many_bytes_trickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "FIRST_SECONDS", 0.5)

    async def scenario(world: World) -> None:
        relay, port = world.relay()
        silent, trickling, speaking = [await world.connect(port) for _ in range(3)]
        speaking.send(frame(b"hello"))
        trickling.send(b"\xff\xff")

        async def trickle() -> None:
            while True:
                trickling.send(b"x")
                await asyncio.sleep(0.1)

        task = asyncio.create_task(trickle())
        assert await closed(silent)
        assert await closed(trickling)
        task.cancel()
        assert relay.connections == 1
        speaking.send(frame(b"still here"))
        assert [await hear(world.server) for _ in range(2)] == [b"hello", b"still here"]

    run(scenario)


def test_a_connection_that_carries_nothing_any_more_is_put_out() -> None:
    async def scenario(world: World) -> None:
        relay, port = world.relay(idle_seconds=0.5)
        connection = await world.connect(port)
        connection.send(frame(b"last"))
        assert await closed(connection)
        assert relay.connections == 0

    run(scenario)


def test_a_bridge_put_out_by_the_relay_knows_that_it_is_lost() -> None:
    async def scenario(world: World) -> None:
        relay, port = world.relay()
        await world.bridge(port)
        relay.close()
        await until(lambda: bool(world.lost))
        assert "is lost: the connection broke" in world.lost[0]

    run(scenario)


def test_a_client_of_garbage_harms_no_other_client() -> None:
    async def scenario(world: World) -> None:
        _, port = world.relay()
        bad, good = await world.connect(port), await world.connect(port)
        for _ in range(50):
            try:
                await asyncio.get_running_loop().sock_sendall(bad, os.urandom(1 << 16))
            except ConnectionError:
                break
        while True:  # what the garbage happened to say
            good.send(frame(b"good"))
            if await hear(world.server) == b"good":
                break

    run(scenario)


def test_a_port_that_is_taken_is_one_sentence() -> None:
    async def scenario(world: World) -> None:
        relay, port = world.relay()
        with pytest.raises(BridgeError, match=f"^cannot listen on 127.0.0.1:{port}: Address already in use$"):
            relay.start(LO, port)

    run(scenario)
