"""When a session changes the system's resolvers, and what becomes of it when that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any

import pytest

from engine.policy import State
from engine.service import PROFILES, Session
from tests.unit.service.fake import FakeDns, FakeHost, World
from tests.unit.service.test_session import configuration, own_place, soon

__all__ = ["own_place"]  # a fixture, used by its name


def with_dns(work: Callable[[Session, FakeDns, World], Awaitable[None]], *broken: str, **change: Any) -> World:
    world = World()
    dns = FakeDns(world)
    for name in broken:
        setattr(dns, name, True)

    async def main() -> None:
        session = Session(
            configuration(**change),
            host=FakeHost(world),
            dns=dns,
            open_tun=world.open_tun,
            open_tunnel=world.open_tunnel,
        )
        await session.start()
        try:
            async with asyncio.timeout(20):
                await work(session, dns, world)
        finally:
            await session.close()

    asyncio.run(main())
    return world


def dns_log(world: World) -> list[str]:
    return [line for line in world.log if line.startswith("dns ")]


async def connect(session: Session) -> None:
    session.connect()
    await session.until(State.CONNECTED, State.ERROR)


def test_the_gateway_is_set_when_connected_and_what_was_there_comes_back_at_leaving() -> None:
    async def work(session: Session, dns: FakeDns, world: World) -> None:
        assert dns_log(world) == ["dns recover"]
        await connect(session)
        assert session.details()["dns"] == "10.64.0.1"
        await session.stop()

    assert dns_log(with_dns(work))[:3] == ["dns recover", "dns 10.64.0.1", "dns reset"]


def test_custom_servers_take_the_gateways_place_and_the_local_ones_are_outside() -> None:
    servers = (ip_address("9.9.9.9"), ip_address("192.168.1.53"))

    async def work(session: Session, dns: FakeDns, world: World) -> None:
        await connect(session)
        assert dns.servers == servers
        assert dns.outside == {servers[1]}

    with_dns(work, dns=servers)


def test_a_gateway_in_a_private_range_is_inside_all_the_same() -> None:
    async def work(session: Session, dns: FakeDns, world: World) -> None:
        await connect(session)
        assert dns.outside == frozenset()

    with_dns(work)


def test_a_lost_tunnel_changes_no_resolver() -> None:
    async def work(session: Session, dns: FakeDns, world: World) -> None:
        await connect(session)
        assert world.tunnel is not None
        from engine.state import TunnelDown

        world.answers = False
        session.post(TunnelDown("lost"))
        await session.until(State.CONNECTING)
        assert dns_log(world) == ["dns recover", "dns 10.64.0.1"]

    with_dns(work)


def test_servers_that_cannot_be_set_are_an_error_that_blocks_and_names_the_cause() -> None:
    async def work(session: Session, dns: FakeDns, world: World) -> None:
        session.connect()
        status = await session.until(State.ERROR)
        assert str(status.machine.cause) == (
            "the DNS servers could not be set: /etc/resolv.conf cannot be written (Read-only file system)"
        )
        assert session.details()["cause_kind"] == "set-dns"
        assert status.machine.enforced
        assert world.captured is not None
        dns.breaks_set = False
        session.connect()
        await session.until(State.CONNECTED)

    assert "dns reset" in dns_log(with_dns(work, "breaks_set"))


def test_servers_that_cannot_be_restored_are_told_and_hold_up_no_disconnect(caplog: pytest.LogCaptureFixture) -> None:
    async def work(session: Session, dns: FakeDns, world: World) -> None:
        await connect(session)
        session.disconnect()
        await session.until(State.DISCONNECTED)
        assert world.captured is None

    with_dns(work, "breaks_reset")
    assert "cannot be restored" in caplog.text


def test_a_leftover_that_cannot_be_restored_is_told_and_holds_up_no_start(caplog: pytest.LogCaptureFixture) -> None:
    async def work(session: Session, dns: FakeDns, world: World) -> None:
        await connect(session)
        assert session.status.state is State.CONNECTED

    with_dns(work, "breaks_recover")
    assert "a record cannot be read" in caplog.text


def test_android_asks_a_resolver_that_nobody_is_while_it_blocks() -> None:
    async def work(session: Session, dns: FakeDns, world: World) -> None:
        world.answers = False
        session.connect()
        await soon(lambda: dns.servers == (ip_address("192.0.2.1"),))
        world.answers = True
        await session.until(State.CONNECTED)
        assert dns.servers == (ip_address("10.64.0.1"),)
        await session.stop()
        assert dns.servers == ()

    with_dns(work, profile=PROFILES["android"])


def test_android_that_cannot_set_it_stays_blocked_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def work(session: Session, dns: FakeDns, world: World) -> None:
        session.connect()
        status = await session.until(State.ERROR)
        assert status.machine.enforced
        session.disconnect()
        await session.until(State.DISCONNECTED)

    with_dns(work, "breaks_set", profile=PROFILES["android"])


def test_a_session_without_a_hand_on_the_resolvers_leaves_them_alone() -> None:
    world = World()

    async def main() -> None:
        session = Session(configuration(), host=FakeHost(world), open_tun=world.open_tun, open_tunnel=world.open_tunnel)
        await session.start()
        await connect(session)
        assert session.details()["dns"] == ""
        await session.stop()

    asyncio.run(main())
    assert dns_log(world) == []


def test_resolvers_that_fail_in_an_unexpected_way_do_not_keep_a_disconnect_from_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(session: Session, dns: FakeDns, world: World) -> None:
        await connect(session)

        async def gone() -> None:
            raise FileNotFoundError(2, "No such file or directory", "/sbin/resolvconf")

        monkeypatch.setattr(dns, "reset", gone)
        session.disconnect()
        await session.until(State.DISCONNECTED)
        assert world.captured is None
        assert world.config is not None
        assert world.config.private_key is None

    with_dns(work)
