"""Our end of a bridge on loopback: what it carries, whom it hears, and servers that mean harm. No doubles."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

import pytest

from engine.bridge import BridgeError, BridgeSettings, Kind, open_bridge
from engine.bridge.frames import frame
from engine.bridge.shadowsocks import Packets
from engine.bridge.stream import QUEUE_BYTES
from tests.unit.bridge.world import LO, World, hear, hear_from, port_of, run, udp, until

SIZES = [1, 32, 148, 1452, 1452, 1452, 92, 9000, 65507, 1452]


def test_datagrams_of_any_size_go_both_ways_in_order() -> None:
    async def scenario(world: World) -> None:
        _, port = world.relay()
        bridge = await world.bridge(port)
        sent = [os.urandom(size) for size in SIZES]
        for datagram in sent:
            world.engine.sendto(datagram, ("127.0.0.1", bridge.port))
        heard = [await hear_from(world.server) for _ in sent]
        assert [data for data, _ in heard] == sent
        for datagram in sent:
            world.server.sendto(datagram, heard[0][1])
        assert [await hear_from(world.engine) for _ in sent] == [(each, ("127.0.0.1", bridge.port)) for each in sent]
        assert (set(bridge.drops.values()), world.lost) == ({0}, [])

    run(scenario)


def test_a_burst_that_the_kernel_carries_in_one_piece_arrives_as_the_same_datagrams() -> None:
    async def scenario(world: World) -> None:
        _, port = world.relay()
        bridge = await world.bridge(port)
        sent = [os.urandom(1452) for _ in range(40)] + [os.urandom(300)]
        segment = [(socket.IPPROTO_UDP, 103, struct.pack("H", 1452))]
        world.engine.sendmsg(sent, segment, 0, ("127.0.0.1", bridge.port))
        assert [await hear(world.server) for _ in sent] == sent

    run(scenario)


def test_who_is_not_the_engine_is_not_heard() -> None:
    async def scenario(world: World) -> None:
        _, port = world.relay()
        bridge = await world.bridge(port)
        with udp() as other:
            other.sendto(b"other", ("127.0.0.1", bridge.port))
        world.engine.sendto(b"engine", ("127.0.0.1", bridge.port))
        assert await hear(world.server) == b"engine"
        with pytest.raises(BlockingIOError):
            world.server.recv(100)

    run(scenario)


def test_where_nobody_listens_is_no_bridge_and_one_sentence_says_so() -> None:
    async def scenario(world: World) -> None:
        with udp() as free:  # its number is no TCP port
            port = port_of(free)
            with pytest.raises(BridgeError, match=f"the bridge udp-over-tcp 127.0.0.1:{port} cannot be reached: Conn"):
                await world.bridge(port)

    run(scenario)


def test_a_device_that_is_there_is_used() -> None:
    async def scenario(world: World) -> None:
        relay, port = world.relay()
        settings = BridgeSettings(Kind.UDP_OVER_TCP, LO, port)
        bridge = await open_bridge(
            settings, (LO, 1), engine_port=port_of(world.engine), device="lo", on_lost=world.lost.append
        )
        world.engine.sendto(b"by lo", ("127.0.0.1", bridge.port))
        assert await hear(world.server) == b"by lo"
        bridge.close()
        await until(lambda: relay.connections == 0)

    run(scenario)


def test_a_device_that_is_not_there_is_one_sentence_too() -> None:
    async def scenario(world: World) -> None:
        settings = BridgeSettings(Kind.SHADOWSOCKS, LO, 1, password="secret")
        with pytest.raises(BridgeError, match=r"^the bridge shadowsocks 127.0.0.1:1 cannot be reached: [A-Z]"):
            await open_bridge(settings, (LO, 1), engine_port=1, device="nowhere9", on_lost=world.lost.append)

    run(scenario)


def test_a_server_that_closes_within_a_frame_is_a_lost_bridge_told_once_and_the_rest_arrived() -> None:
    async def scenario(world: World) -> None:
        async def say(connection: socket.socket) -> None:
            await asyncio.get_running_loop().sock_sendall(connection, frame(b"whole") + frame(b"cut off")[:4])
            connection.close()

        port = world.serve(say)
        await world.bridge(port)
        assert await hear(world.engine) == b"whole"
        await until(lambda: bool(world.lost))
        assert world.lost == [f"the bridge udp-over-tcp 127.0.0.1:{port} is lost: it closed the connection"]

    run(scenario)


def test_a_server_that_resets_the_connection_is_a_lost_bridge() -> None:
    async def scenario(world: World) -> None:
        async def say(connection: socket.socket) -> None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

        await world.bridge(world.serve(say))
        await until(lambda: bool(world.lost))
        assert "the connection broke (Connection reset by peer)" in world.lost[0]

    run(scenario)


def test_a_bridge_closed_by_us_is_not_lost_and_ends_by_a_reset() -> None:
    async def scenario(world: World) -> None:
        ended: list[str] = []

        async def say(connection: socket.socket) -> None:
            try:
                await asyncio.get_running_loop().sock_recv(connection, 1)
            except ConnectionResetError:
                ended.append("reset")

        bridge = await world.bridge(world.serve(say))
        await asyncio.sleep(0.05)
        bridge.close()
        bridge.close()
        await until(lambda: bool(ended))
        assert world.lost == []

    run(scenario)


def test_empty_and_impossible_frames_are_counted_and_the_stream_goes_on() -> None:
    async def scenario(world: World) -> None:
        async def say(connection: socket.socket) -> None:
            stream = frame(b"") * 100 + frame(bytes(65535)) * 3 + frame(b"after")
            await asyncio.get_running_loop().sock_sendall(connection, stream)

        bridge = await world.bridge(world.serve(say))
        assert await hear(world.engine) == b"after"
        assert bridge.drops["malformed"] == 103

    run(scenario)


def test_a_server_that_trickles_single_bytes_blocks_nobody() -> None:
    async def scenario(world: World) -> None:
        async def say(connection: socket.socket) -> None:
            for byte in frame(b"slow"):
                await asyncio.get_running_loop().sock_sendall(connection, bytes([byte]))
                await asyncio.sleep(0.01)

        await world.bridge(world.serve(say))
        assert await hear(world.engine) == b"slow"

    run(scenario)


def test_megabytes_of_garbage_leave_the_event_loop_its_turn_and_the_bridge_open() -> None:
    async def scenario(world: World) -> None:
        done = asyncio.Event()

        async def say(connection: socket.socket) -> None:
            for _ in range(64):
                await asyncio.get_running_loop().sock_sendall(connection, os.urandom(1 << 18))
            done.set()

        await world.bridge(world.serve(say))
        turns = 0
        async with asyncio.timeout(20):
            while not done.is_set():
                await asyncio.sleep(0)
                turns += 1
        assert turns > 16
        assert world.lost == []

    run(scenario)


def test_a_server_that_never_reads_costs_the_oldest_datagrams_and_no_memory() -> None:
    async def scenario(world: World) -> None:
        async def say(connection: socket.socket) -> None:
            await asyncio.sleep(60)

        bridge = await world.bridge(world.serve(say))
        await until(lambda: _dropped_after_more(world, bridge.port) or bridge.drops["bridge-full"] > 1000)
        stream = bridge._stream  # type: ignore[attr-defined]
        assert stream._queue._size <= QUEUE_BYTES
        assert world.lost == []

    run(scenario)


def _dropped_after_more(world: World, port: int) -> bool:
    for _ in range(200):
        world.engine.sendto(bytes(1452), ("127.0.0.1", port))
    return False


def test_shadowsocks_packets_go_out_to_the_bridge_and_only_its_answers_come_back() -> None:
    async def scenario(world: World) -> None:
        server = (LO, 51820)
        settings = BridgeSettings(Kind.SHADOWSOCKS, LO, port_of(world.server), password="secret")
        bridge = await open_bridge(settings, server, engine_port=port_of(world.engine), on_lost=world.lost.append)
        try:
            theirs = Packets(settings.cipher, "secret", *server)
            sent = [os.urandom(size) for size in (1, 148, 1452, 1452, 300)]
            for datagram in sent:
                world.engine.sendto(datagram, ("127.0.0.1", bridge.port))
            heard = [await hear_from(world.server) for _ in sent]
            assert [theirs.open(data) for data, _ in heard] == sent
            assert len({data[:32] for data, _ in heard}) == len(sent)  # no salt twice
            for answer in (b"garbage" * 20, theirs.seal(b"", os.urandom(32)), theirs.seal(b"answer", os.urandom(32))):
                world.server.sendto(answer, heard[0][1])
            assert await hear(world.engine) == b"answer"
            with udp() as other:
                other.sendto(theirs.seal(b"not the bridge", os.urandom(32)), heard[0][1])
            await asyncio.sleep(0.05)
            with pytest.raises(BlockingIOError):
                world.engine.recv(100)
            assert bridge.drops == {"auth": 2, "udp-send": 0}
        finally:
            bridge.close()

    run(scenario)


def test_a_shadowsocks_bridge_that_is_not_there_loses_datagrams_and_is_not_lost() -> None:
    async def scenario(world: World) -> None:
        with udp() as free:
            port = port_of(free)
        settings = BridgeSettings(Kind.SHADOWSOCKS, LO, port, password="secret")
        bridge = await open_bridge(settings, (LO, 1), engine_port=port_of(world.engine), on_lost=world.lost.append)
        for _ in range(5):
            world.engine.sendto(b"anybody?", ("127.0.0.1", bridge.port))
            await asyncio.sleep(0.01)
        assert world.lost == []
        bridge.close()

    run(scenario)
