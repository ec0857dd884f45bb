"""A part below the session that never answers: the runner goes on, what blocks stays, and the user is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from engine.policy import State
from engine.service import Session, Unavailable
from engine.state import CauseKind
from tests.unit.service.fake import FakeDns, FakeFirewall, FakeHost, World
from tests.unit.service.test_session import configuration, connected, own_place, soon

__all__ = ["own_place"]  # a fixture, used by its name


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.service.enforcement.STEP_SECONDS", 0.3)
    monkeypatch.setattr("engine.service.session.RETRY_SECONDS", (0.02,))
    monkeypatch.setattr("engine.state.machine.establish_timeout", lambda attempt: 0.1)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.over.set()


def run(world: World, work: Callable[[Session], Awaitable[None]]) -> None:
    async def main() -> None:
        session = Session(
            configuration(firewall=True),
            host=FakeHost(world),
            dns=FakeDns(world),
            firewall=FakeFirewall(world),
            open_tun=world.open_tun,
            open_tunnel=world.open_tunnel,
        )
        async with asyncio.timeout(10):
            await session.start(connecting=False)
            await work(session)
            world.hangs = ""
            world.over.set()
            await session.leave(keep=False)

    asyncio.run(main())


@pytest.mark.parametrize("part", ["open tun", "start", "capture", "firewall apply"])
def test_what_hangs_while_blocking_is_an_error_that_is_not_enforced_until_it_answers(world: World, part: str) -> None:
    async def work(session: Session) -> None:
        world.hangs = part
        session.connect()
        status = await session.until(State.ERROR)
        await soon(lambda: not session.status.machine.enforced)
        assert "did not answer within" in session.status.line()
        assert status.machine.cause is not None
        assert status.machine.cause.kind in (CauseKind.APPLY_POLICY, CauseKind.TUN_DEVICE)
        if part != "firewall apply":
            assert world.table is not None, "what can block does"
        world.hangs = ""
        world.over.set()
        await soon(lambda: session.status.machine.enforced)
        await connected(session)

    run(world, work)


def test_a_tun_that_comes_too_late_is_closed(world: World) -> None:
    async def work(session: Session) -> None:
        world.hangs = "open tun"
        session.connect()
        await session.until(State.ERROR)
        session.disconnect()
        await session.until(State.DISCONNECTED)
        world.over.set()
        await soon(lambda: world.tuns and all(tun.closed for tun in world.tuns))

    run(world, work)


def test_a_firewall_that_hangs_at_a_change_leaves_an_error_and_the_tun_blocking(world: World) -> None:
    async def work(session: Session) -> None:
        await connected(session)
        world.hangs = "firewall apply"
        session.connect()
        await session.until(State.ERROR)
        await soon(lambda: not session.status.machine.enforced)
        assert world.program is not None
        assert world.captured is not None

    run(world, work)


@pytest.mark.parametrize("part", ["silence", "close"])
def test_a_tunnel_that_does_not_stop_is_left_behind_and_another_takes_its_place(world: World, part: str) -> None:
    async def work(session: Session) -> None:
        await connected(session)
        world.hangs = part
        if part == "close":
            session.disconnect()
            await session.until(State.DISCONNECTED)
            assert world.captured is None
            world.hangs = ""
        else:
            session.block()
            await session.until(State.ERROR)
            assert session.status.machine.enforced
            world.hangs = ""
        await connected(session)
        assert [tun.closed for tun in world.tuns[:-1]] == [1] * (len(world.tuns) - 1)
        assert not world.tuns[-1].closed

    run(world, work)


def test_keys_that_are_never_taken_are_an_attempt_that_failed(world: World) -> None:
    async def work(session: Session) -> None:
        world.hangs = "configure"
        session.connect()
        await soon(lambda: session.status.machine.attempt >= 1)
        assert session.status.state is State.CONNECTING
        world.hangs = ""
        await session.until(State.CONNECTED)

    run(world, work)


def test_resolvers_that_cannot_be_set_in_time_are_an_error_that_blocks(world: World) -> None:
    async def work(session: Session) -> None:
        world.hangs = "set dns"
        session.connect()
        status = await session.until(State.ERROR)
        assert (
            str(status.machine.cause) == "the DNS servers could not be set: the resolvers did not answer within 0.3 s"
        )
        assert status.machine.enforced

    run(world, work)


@pytest.mark.parametrize("part", ["reset dns", "route mtu"])
def test_what_only_helps_holds_nothing_up(world: World, part: str) -> None:
    async def work(session: Session) -> None:
        world.hangs = part
        await connected(session)
        session.disconnect()
        await session.until(State.DISCONNECTED)
        assert world.captured is None
        assert session.status.machine.enforced

    run(world, work)


@pytest.mark.parametrize("part", ["release", "firewall remove"])
def test_what_cannot_be_removed_in_time_is_told_and_removed_later(world: World, part: str) -> None:
    async def work(session: Session) -> None:
        await connected(session)
        world.hangs = part
        session.disconnect()
        await session.until(State.DISCONNECTED)
        await soon(lambda: not session.status.machine.enforced)
        world.hangs = ""
        await soon(lambda: session.status.machine.enforced)
        assert world.captured is None
        assert world.table is None

    run(world, work)


@pytest.mark.parametrize("part", ["recover dns", "firewall missing", "open tun", "start"])
def test_a_start_does_not_hang(world: World, part: str) -> None:
    async def main() -> None:
        session = Session(
            configuration(firewall=True),
            host=FakeHost(world),
            dns=FakeDns(world),
            firewall=FakeFirewall(world),
            open_tun=world.open_tun,
            open_tunnel=world.open_tunnel,
        )
        async with asyncio.timeout(5):
            if part == "recover dns":
                await session.start()
            else:
                with pytest.raises(Unavailable, match="did not answer"):
                    await session.start()
            await session.close()

    world.hangs = part
    asyncio.run(main())


def test_an_attempt_that_does_not_end_is_left_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.service.connection.END_SECONDS", 0.05)
    release = asyncio.Event()

    async def stubborn(*args: object) -> bool:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        raise TimeoutError

    async def work(session: Session) -> None:
        monkeypatch.setattr("engine.service.connection._ping", stubborn)
        session.connect()
        await session.until(State.CONNECTING)
        await session.settled()
        session.disconnect()
        await session.until(State.DISCONNECTED)
        assert world.captured is None
        release.set()

    run(world, work)
