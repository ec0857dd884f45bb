"""The session against doubles of tunnel, TUN and host: what is done, in which order, and what is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from engine.host import Endpoint
from engine.policy import Hop, Protocol, State
from engine.service import Builder, Configuration, Session, Unavailable
from engine.tunnel.clock import now
from engine.tunnel.events import HandshakeCompleted, HandshakeGivenUp, Stopped, Unanswered
from engine.wg.config import DeviceConfig, HostPort, PeerConfig
from tests.unit.service.fake import FakeFirewall, FakeHost, World

PEER = PeerConfig(bytes([7]) * 32, endpoint=HostPort("192.0.2.7", 51820))
WIREGUARD = DeviceConfig(private_key=bytes([1]) * 31 + b"\x40", peers=(PEER,))


def configuration(**change: Any) -> Configuration:
    builder = Builder().set_wireguard(WIREGUARD).add_address("10.64.0.2/32").add_gateway("10.64.0.1")
    return replace(builder.configuration(), **change)


def with_session(work: Callable[[Session, World], Awaitable[None]], world: World | None = None, **change: Any) -> World:
    """Run `work` on a started session, end it, and return what was done to the world."""
    world = world or World()

    async def main() -> None:
        session = Session(
            configuration(**change),
            host=FakeHost(world),
            firewall=FakeFirewall(world),
            open_tun=world.open_tun,
            open_tunnel=world.open_tunnel,
        )
        await session.start()
        try:
            async with asyncio.timeout(20):
                await work(session, world)
        finally:
            await session.close()

    asyncio.run(main())
    return world


async def connected(session: Session) -> None:
    session.connect()
    await session.until(State.CONNECTED)


async def soon(ready: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not ready():
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def own_place(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Do not collide with other test processes in this namespace."""
    monkeypatch.setenv("MOLEHILL_RUN_DIR", str(tmp_path_factory.mktemp("run")))


def test_connecting_applies_the_policy_before_anything_is_captured() -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        assert world.log[:4] == ["open", "apply DIS-1", "apply DNS-3", "capture"]
        assert session.status.machine.enforced

    with_session(work)


def test_the_same_tun_lives_through_reconnects_and_every_change() -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        other = PeerConfig(bytes([8]) * 32, endpoint=HostPort("192.0.2.8", 51820))
        for change in (
            {"wireguard": replace(WIREGUARD, peers=(other,))},
            {"wireguard": replace(WIREGUARD, private_key=bytes([2]) * 31 + b"\x40")},
            {"mtu": 1300},
            {"addresses": (ip_interface("10.64.0.3/32"),)},
            {"allow_lan": True},
            {"dns": (ip_address("9.9.9.9"),)},
        ):
            session.change(replace(session.configuration, **change))
            await soon(lambda: not session.pending)
            await session.until(State.CONNECTED)
            assert session.status.machine.policy.tunnel == session.configuration.tunnel
            if "wireguard" in change:
                expected = session.configuration.wireguard
                await soon(lambda expected=expected: world.config == expected)
            if "mtu" in change:
                await soon(lambda: world.captured is not None and world.captured.mtu == 1300)
        session.connect()
        await session.until(State.DISCONNECTING, State.CONNECTING)
        await session.until(State.CONNECTED)
        assert len(world.tuns) == 1
        assert world.tuns[0].closed == 0

    world = with_session(work)
    assert world.tuns[0].closed == 1


def test_an_attempt_that_is_not_answered_is_repeated_with_the_block_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(session: Session, world: World) -> None:
        world.answers = False
        session.connect()
        await soon(lambda: session.status.machine.attempt >= 2)
        assert session.status.state is State.CONNECTING
        assert "no answer from 192.0.2.7:51820" in session.status.line()
        assert world.captured is not None
        world.answers = True
        await session.until(State.CONNECTED)

    monkeypatch.setattr("engine.state.machine.establish_timeout", lambda attempt: 0.02)
    with_session(work)


def test_a_gateway_that_is_none_is_told_apart_from_a_peer_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(session: Session, world: World) -> None:
        world.answers = False
        session.connect()
        await soon(lambda: world.tunnel is not None and session.status.state is State.CONNECTING)
        while "10.64.0.1 does not answer a ping" not in session.status.line():
            assert world.tunnel is not None
            world.tunnel.on_event(HandshakeCompleted(PEER.public_key))
            await asyncio.sleep(0.002)

    monkeypatch.setattr("engine.state.machine.establish_timeout", lambda attempt: 0.03)
    with_session(work)


def test_a_disconnect_releases_everything_and_closes_the_tun() -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        session.disconnect()
        await session.until(State.DISCONNECTED)
        assert world.captured is None
        assert world.tuns[0].closed == 1
        assert "release" in world.log

    with_session(work)


def test_always_require_vpn_keeps_tun_and_capture_after_stop() -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        await session.stop()
        assert world.captured is not None
        assert "release" not in world.log

    with_session(work, always_require_vpn=True)


def test_stopping_a_session_that_never_connected_removes_the_tun() -> None:
    async def work(session: Session, world: World) -> None:
        await session.stop()
        assert world.log[-4:] == ["release", "tunnel closed", "host closed", "firewall closed"]

    with_session(work)


def test_a_policy_that_cannot_be_applied_is_told_and_everything_is_dropped_instead() -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        world.breaks_apply = True
        session.change(replace(session.configuration, allow_lan=True))
        status = await session.until(State.ERROR)
        await soon(lambda: not session.status.machine.enforced)
        status = session.status
        assert world.program is None
        assert "MAY BE LEAKING" in status.line()
        assert "everything in the tunnel is dropped instead" in status.line()

    with_session(work)


def test_a_capture_that_fails_is_an_error_that_says_that_nothing_is_enforced() -> None:
    async def work(session: Session, world: World) -> None:
        world.breaks_capture = True
        session.connect()
        await session.until(State.ERROR)
        await soon(lambda: not session.status.machine.enforced)
        world.breaks_capture = False
        session.connect()
        await session.until(State.CONNECTED)
        assert session.status.machine.enforced

    with_session(work)


def test_a_deleted_interface_is_opened_anew_with_the_block_in_place_and_connected_again() -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        assert world.tunnel is not None
        world.tunnel.on_event(Stopped(77))
        await session.until(State.CONNECTING)
        assert (world.tuns[0].closed, world.tuns[1].closed) == (1, 0)
        assert world.captured is not None
        await session.until(State.CONNECTED)
        assert world.config == session.configuration.wireguard

    with_session(work)


def test_a_deleted_interface_is_opened_again_in_error_too() -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        session.block()
        await session.until(State.ERROR)
        for count in (2, 3):
            assert world.tunnel is not None
            world.tunnel.on_event(Stopped(77))
            await soon(lambda count=count: len(world.tuns) == count)
            await soon(lambda: not session.pending)
            assert session.status.state is State.ERROR
            assert session.status.machine.enforced

    with_session(work)


def test_handshakes_given_up_lead_back_to_connecting() -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        world.answers = False
        assert world.tunnel is not None
        world.tunnel.on_event(HandshakeGivenUp(PEER.public_key))
        await session.until(State.CONNECTING)

    with_session(work)


def test_a_silent_peer_is_pinged_and_then_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.service.monitor.UNANSWERED_SECONDS", 0.02)
    monkeypatch.setattr("engine.service.monitor.PING_SECONDS", 0.01)
    monkeypatch.setattr("engine.service.monitor.LOST_SECONDS", 0.05)

    async def work(session: Session, world: World) -> None:
        await connected(session)
        world.answers = False
        world.unanswered_since = now()
        assert world.tunnel is not None
        world.tunnel.on_event(Unanswered(PEER.public_key))
        await session.until(State.CONNECTING)

    with_session(work)


def test_a_machine_that_has_slept_pings_at_once() -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        await asyncio.sleep(0.02)
        before = world.pings
        session._connection.resumed()
        await soon(lambda: world.pings > before)
        assert session.status.state is State.CONNECTED

    with_session(work, mtu=1420)


def test_without_a_gateway_the_handshake_alone_verifies_and_the_status_says_so() -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        assert session.details()["verified_by"] == "the handshake alone: no gateway is known"

    with_session(work, gateways=())


def test_a_local_custom_dns_server_is_let_past_only_while_connected() -> None:
    server = ip_address("192.168.1.53")

    async def work(session: Session, world: World) -> None:
        await connected(session)
        assert world.captured is not None
        assert world.captured.local_dns == (server,)
        world.answers = False
        session.connect()
        await session.until(State.CONNECTING)
        assert world.captured.local_dns == ()

    with_session(work, dns=(server,))


def test_the_apis_endpoint_is_let_past_only_outside_connected() -> None:
    api = Hop(ip_address("203.0.113.7"), 443, Protocol.TCP)

    async def work(session: Session, world: World) -> None:
        await connected(session)
        assert world.captured is not None
        assert world.captured.api is None
        world.answers = False
        session.connect()
        await session.until(State.CONNECTING)
        assert world.captured.api == Endpoint(api.ip, 443, 6)

    with_session(work, api=api)


def test_a_second_session_in_the_same_namespace_is_refused() -> None:
    async def work(session: Session, world: World) -> None:
        other = World()
        second = Session(configuration(), host=FakeHost(other), firewall=FakeFirewall(other), open_tun=world.open_tun)
        with pytest.raises(Unavailable, match="stop it first"):
            await second.start()

    with_session(work)


def test_a_tun_that_cannot_be_had_is_told_at_the_start() -> None:
    async def work(session: Session, world: World) -> None:
        raise AssertionError("the session must not start")

    with pytest.raises(Unavailable, match="is in use by another process"):
        with_session(work, World(breaks_tun=True))


def test_a_fault_of_our_own_is_an_error_that_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        assert world.captured is not None
        monkeypatch.setattr("engine.service.connection.Connection.begin", None)
        session.connect()
        status = await session.until(State.ERROR)
        assert "an internal error" in status.line()
        assert world.captured is not None

    with_session(work)


def test_a_change_to_another_interface_is_refused() -> None:
    async def work(session: Session, world: World) -> None:
        with pytest.raises(ValueError, match="stays on its interface mh0"):
            session.change(replace(session.configuration, interface="mh1"))

    with_session(work)


def test_a_slow_watcher_misses_the_oldest_and_stops_nobody() -> None:
    async def work(session: Session, world: World) -> None:
        slow = session.watch()
        await anext(slow)
        for _ in range(60):
            session.change(replace(session.configuration, allow_lan=not session.configuration.allow_lan))
            await asyncio.sleep(0)
        await connected(session)
        assert (await anext(slow)).state in State
        await slow.aclose()

    with_session(work)


def test_the_outer_packets_are_bound_to_the_underlying_network() -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        assert "bind eth7" in world.log

    with_session(work, underlying_network="eth7")


def test_a_protected_socket_carries_the_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[tuple[int, int, Any]] = []

    class Fake(socket.socket):
        def setsockopt(self, *args: Any) -> None:
            options.append(args)

    async def work(session: Session, world: World) -> None:
        with Fake(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            session.protect(sock)

    with_session(work, underlying_network="eth7")
    assert (socket.SOL_SOCKET, socket.SO_MARK, 0x6D6F6C65) in options
    assert (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth7") in options


def test_details_are_plain_data_without_secrets() -> None:
    import json

    async def work(session: Session, world: World) -> None:
        await connected(session)
        text = json.dumps(session.details())
        assert WIREGUARD.private_key is not None
        assert WIREGUARD.private_key.hex() not in text
        assert '"state": "connected"' in text

    with_session(work)
