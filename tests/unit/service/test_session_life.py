"""A session's life as a daemon has it: begun in Disconnected, with several relays, and ended open or blocked."""

from __future__ import annotations

import asyncio
import errno
import threading
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest

from engine.host import Capture, Host, InterfaceGone, SystemDns
from engine.policy import Policy, State
from engine.service import Configuration, Session
from engine.service.enforcement import Enforcement
from engine.service.ports import TunPort
from engine.service.watches import Watches
from engine.state import Cause, CauseKind
from engine.wg.config import HostPort, PeerConfig
from tests.unit.service.fake import FakeFirewall, FakeHost, World
from tests.unit.service.test_session import WIREGUARD, configuration, connected, own_place, soon, with_session

__all__ = ["own_place"]  # a fixture, used by its name


def relay(number: int, **change: Any) -> Configuration:
    peer = PeerConfig(bytes([number]) * 32, endpoint=HostPort(f"192.0.2.{number}", 51820))
    return configuration(wireguard=replace(WIREGUARD, peers=(peer,)), **change)


def relay_of(session: Session) -> str:
    hop = session.status.machine.policy.first_hop
    assert hop is not None
    return str(hop.ip)


def begun_disconnected(world: World, **change: Any) -> Session:
    return Session(
        configuration(**change),
        host=FakeHost(world),
        firewall=FakeFirewall(world),
        open_tun=world.open_tun,
        open_tunnel=world.open_tunnel,
    )


def test_a_session_that_begins_disconnected_removes_what_a_killed_run_left_and_opens_no_tun() -> None:
    world = World()

    async def main() -> None:
        session = begun_disconnected(world)
        await session.start(connecting=False)
        assert (session.status.state, session.status.blocks) == (State.DISCONNECTED, False)
        assert world.log == ["release"]
        await session.leave(keep=False)

    asyncio.run(main())
    assert world.tuns == []


def test_with_always_require_vpn_the_block_is_in_force_when_the_start_returns() -> None:
    world = World()

    async def main() -> None:
        session = begun_disconnected(world, always_require_vpn=True)
        await session.start(connecting=False)
        assert world.captured is not None
        assert session.status.blocks
        assert session.status.machine.enforced
        await session.close()

    asyncio.run(main())


def test_a_block_that_cannot_be_had_at_the_start_is_told() -> None:
    world = World(breaks_capture=True)

    async def main() -> None:
        session = begun_disconnected(world, always_require_vpn=True)
        await session.start(connecting=False)
        assert "MAY BE LEAKING" in session.status.line()
        await session.close()

    asyncio.run(main())


def test_it_can_be_connected_and_disconnected_again_and_again() -> None:
    async def work(session: Session, world: World) -> None:
        for count in (1, 2, 3):
            await connected(session)
            session.disconnect()
            await session.until(State.DISCONNECTED)
            await soon(lambda: not session.pending)
            assert world.captured is None
            assert [tun.closed for tun in world.tuns] == [1] * count

    with_session(work)


def test_without_a_peer_a_connect_is_an_error_and_the_next_configuration_can_be_connected() -> None:
    async def work(session: Session, world: World) -> None:
        session.change(Configuration(no_peer=Cause(CauseKind.NO_RELAY, "country xx")))
        session.connect()
        status = await session.until(State.ERROR)
        assert str(status.machine.cause) == "no relay matches the constraints: country xx"
        assert status.machine.enforced
        session.disconnect()
        await session.until(State.DISCONNECTED)
        session.change(configuration())
        await connected(session)

    with_session(work)


def test_turning_always_require_vpn_on_and_off_while_disconnected_closes_and_opens() -> None:
    async def work(session: Session, world: World) -> None:
        for always in (True, False, True, False):
            session.change(configuration(always_require_vpn=always))
            await soon(lambda: not session.pending)
            assert session.status.blocks is always
            assert (world.captured is not None) is always

    with_session(work)


def test_a_relay_that_does_not_answer_gives_way_to_the_next_and_the_one_that_works_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(session: Session, world: World) -> None:
        session.change(relay(1), relay(2), relay(3))
        world.answers_only = bytes([2]) * 32
        await connected(session)
        assert relay_of(session) == "192.0.2.2"
        assert session.configuration == relay(2)
        assert world.config == relay(2).wireguard
        session.change(relay(3), relay(2, allow_lan=False))
        await soon(lambda: not session.pending)
        assert (session.status.state, relay_of(session)) == (State.CONNECTED, "192.0.2.2")
        session.change(relay(3))
        world.answers_only = bytes([3]) * 32
        await soon(lambda: session.status.state is State.CONNECTED and session.configuration == relay(3))

    monkeypatch.setattr("engine.state.machine.establish_timeout", lambda attempt: 0.02)
    monkeypatch.setattr("engine.state.machine.MIN_LIFETIME", 0.0)
    with_session(work)


def test_alternatives_that_differ_in_more_than_the_relay_are_refused() -> None:
    async def work(session: Session, world: World) -> None:
        with pytest.raises(ValueError, match="in the relay only"):
            session.change(relay(1), relay(2, allow_lan=True))

    with_session(work)


@pytest.mark.parametrize("connect_first", [True, False])
@pytest.mark.parametrize("firewall", [True, False])
def test_leaving_with_the_block_kept_puts_the_strictest_policy_in_force(connect_first: bool, firewall: bool) -> None:
    async def work(session: Session, world: World) -> None:
        if connect_first:
            await connected(session)
        status = await session.leave(keep=True)
        assert status.machine.policy.enforced is State.ERROR
        assert status.machine.enforced
        assert world.captured is not None
        assert (world.table is not None) is firewall

    with_session(work, firewall=firewall)


def test_leaving_open_removes_everything_although_vpn_is_always_required() -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        status = await session.leave(keep=False)
        assert not status.blocks
        assert world.captured is None
        assert world.table is None

    with_session(work, firewall=True, always_require_vpn=True)


def test_leaving_out_of_an_error_keeps_the_block_without_a_gap() -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        session.block("by the test")
        await session.until(State.ERROR)
        began = len(world.log)
        await session.leave(keep=True)
        assert "release" not in world.log[began:]
        assert world.captured is not None

    with_session(work)


def test_blocking_on_request_is_told_with_its_reason() -> None:
    async def work(session: Session, world: World) -> None:
        session.block("ignored")
        await connected(session)
        session.block("by the test")
        status = await session.until(State.ERROR)
        assert str(status.machine.cause) == "blocked on request: by the test"
        await connected(session)

    with_session(work)


def test_the_tuns_descriptor_is_told_when_it_is_opened_and_before_it_is_closed() -> None:
    world, told = World(), []

    async def main() -> None:
        session = Session(
            configuration(),
            host=FakeHost(world),
            firewall=FakeFirewall(world),
            open_tun=world.open_tun,
            open_tunnel=world.open_tunnel,
            on_tun=lambda fd, name: told.append((fd, name)),
        )
        await session.start(connecting=False)
        assert told == []
        await connected(session)
        assert told == [(7, "mh0")]
        await session.stop()

    asyncio.run(main())
    assert told == [(7, "mh0"), (-1, "mh0")]


def test_without_a_configured_mtu_the_route_decides() -> None:
    async def work(session: Session, world: World) -> None:
        world.route_mtu = 1492
        await connected(session)
        assert world.captured is not None
        assert world.captured.mtu == 1412
        session.change(replace(session.configuration, mtu=1300))
        await soon(lambda: world.captured is not None and world.captured.mtu == 1300)

    with_session(work)


def test_a_policy_that_is_not_in_force_is_tried_again_until_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(session: Session, world: World) -> None:
        await connected(session)
        world.breaks_firewall = "busy"
        session.connect()
        await session.until(State.ERROR)
        await soon(lambda: not session.status.machine.enforced)
        world.breaks_firewall = ""
        await soon(lambda: session.status.machine.enforced)
        assert world.table == session.status.machine.policy

    monkeypatch.setattr("engine.service.session.RETRY_SECONDS", (0.01, 0.02))
    with_session(work, firewall=True)


def test_a_tunnel_of_ipv6_alone_is_an_error_where_ipv6_is_off() -> None:
    async def work(session: Session, world: World) -> None:
        world.has_ipv6 = False
        session.connect()
        status = await session.until(State.ERROR)
        assert status.machine.cause == Cause(CauseKind.IPV6_UNAVAILABLE)
        world.has_ipv6 = True
        await connected(session)

    with_session(work, addresses=(ip_interface("fd00::2/128"),), gateways=(ip_address("fd00::1"),))


@pytest.mark.parametrize("watch", ["ResolversWatch", "ResumeWatch"])
def test_a_watch_that_the_kernel_has_no_room_for_does_not_keep_the_block_away(
    watch: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    class Idle:
        def __init__(self, *arguments: object) -> None: ...

        def watch(self, *arguments: object) -> None: ...

        def close(self) -> None: ...

    for other in ("OfflineMonitor", "CaptureWatch", "ResumeWatch", "ResolversWatch"):
        monkeypatch.setattr(f"engine.service.watches.{other}", full if other == watch else Idle)
    (tmp_path / "etc").mkdir()

    async def main() -> None:
        watches = Watches(
            Host(),
            None,
            SystemDns(tmp_path, "unix:path=/nowhere", "file"),
            lambda event: None,
            lambda: None,
            lambda: None,
        )
        watches.ways_out(())
        watches.close()

    asyncio.run(main())


def test_news_of_a_lost_interface_while_another_one_is_being_opened_is_of_the_former() -> None:
    async def main() -> None:
        world = World()

        def open_tun(name: str, mtu: int) -> TunPort:
            enforcement.lost()  # the watch looks once more while it takes its time
            return world.open_tun(name, mtu)

        enforcement = Enforcement(
            host=FakeHost(world), firewall=FakeFirewall(world), open_tun=open_tun, open_tunnel=world.open_tunnel,
            on_event=lambda event: None, on_tun=lambda fd, name: None,
        )  # fmt: skip
        await enforcement.prepare(Policy(State.ERROR), configuration())
        enforcement.lost()
        for _ in range(3):
            await enforcement.prepare(Policy(State.ERROR), configuration())
        assert len(world.tuns) == 2
        await enforcement.close_tunnel()

    asyncio.run(main())


def test_without_a_tun_the_host_blocks_and_the_next_connect_opens_one() -> None:
    world = World(breaks_tun=True)

    async def main() -> None:
        session = begun_disconnected(world)
        await session.start(connecting=False)
        session.connect()
        status = await session.until(State.ERROR)
        await soon(lambda: not session.status.machine.enforced)
        assert "in use by another process" in status.line()
        assert "block" in world.log
        assert "capture" not in world.log
        world.breaks_tun = False
        await connected(session)
        assert session.status.machine.enforced
        await session.leave(keep=False)

    asyncio.run(main())


def test_where_no_thread_can_be_had_to_open_the_tun_the_host_blocks_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    async def main() -> None:
        session = begun_disconnected(world)
        await session.start(connecting=False)
        with monkeypatch.context() as patch:
            patch.setattr("engine.service.enforcement.threading.Thread.start", no_thread)
            session.connect()
            await session.until(State.ERROR)
            assert "block" in world.log
        await session.leave(keep=False)

    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    asyncio.run(main())


def test_leaving_twice_is_leaving_once() -> None:
    async def main() -> None:
        session = begun_disconnected(World())
        await session.start(connecting=False)
        first = await session.leave(keep=False)
        async with asyncio.timeout(10):
            assert await session.leave(keep=False) == first
            await session.settled()

    asyncio.run(main())


def test_a_tun_that_is_deleted_while_it_is_captured_with_is_replaced_and_the_tunnel_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    gone = True

    async def capture(host: FakeHost, wanted: Capture) -> None:
        nonlocal gone
        if gone:
            gone = False
            raise InterfaceGone("the interface mht does not exist")
        await real(host, wanted)

    real = FakeHost.capture
    monkeypatch.setattr(FakeHost, "capture", capture)

    async def main() -> None:
        session = begun_disconnected(world)
        await session.start(connecting=False)
        session.connect()
        async with asyncio.timeout(10):
            status = await session.until(State.CONNECTED)
        assert status.machine.enforced
        await session.leave(keep=False)

    asyncio.run(main())


def test_a_fault_of_ours_is_told_as_one_and_not_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(session: Session, world: World) -> None:
        async def broken(config: object) -> None:
            raise KeyError(bytes(32))

        monkeypatch.setattr(world.tunnel, "configure", broken)
        session.connect()
        status = await session.until(State.ERROR)
        assert status.machine.cause is not None
        assert status.machine.cause.detail == "a fault of molehill's, KeyError"

    with_session(work)
