"""The service's end and its next start: what stays enforced, and what connects again (EXIT-1, START-1)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.daemon.lifecycle import Stop
from engine.daemon.logs import Ring
from engine.daemon.methods import Methods, status_of
from engine.daemon.server import Client
from engine.management.schema import (
    Detail,
    ErrorCode,
    RelayChoice,
    RelayList,
    SettingsPatch,
)
from engine.policy import State
from tests.unit.daemon.test_relays import relay
from tests.unit.daemon.test_service import BY_ADDRESS, Running, connected, refusal, with_service, with_tunnel
from tests.unit.daemon.test_tunnels import CONF
from tests.unit.service.fake import World
from tests.unit.service.test_session import own_place

__all__ = ["own_place"]  # a fixture, used by its name


@pytest.mark.parametrize("stop", list(Stop))
def test_what_stays_at_the_end_and_what_the_next_start_does(tmp_path: Path, stop: Stop) -> None:
    world = with_service(tmp_path, connected, end=stop)
    assert (world.captured is not None) == (stop is not Stop.USER)
    assert (world.table is not None) == (stop is not Stop.USER)
    if world.table is not None:
        assert world.table.enforced is State.ERROR

    async def next_start(running: Running) -> None:
        if stop is Stop.RESTART:
            await running.until(State.CONNECTED)
        else:
            assert running.state is State.DISCONNECTED
            assert world.table is None

    with_service(tmp_path, next_start, world)


def test_after_a_crash_it_takes_the_block_over_without_a_gap_and_connects(tmp_path: Path) -> None:
    world = with_service(tmp_path, connected, end=None)
    assert world.table is not None
    before = len(world.log)

    async def next_start(running: Running) -> None:
        await running.until(State.CONNECTED)

    with_service(tmp_path, next_start, world, end=None)
    assert "firewall removed" not in world.log[before:]
    assert "release" not in world.log[before:]


def test_auto_connect_connects_at_the_start(tmp_path: Path) -> None:
    async def set_it(running: Running) -> None:
        await with_tunnel(running)
        await running.service.set_settings(SettingsPatch(auto_connect=True))
        assert running.state is State.DISCONNECTED

    async def next_start(running: Running) -> None:
        await running.until(State.CONNECTED)

    with_service(tmp_path, set_it)
    with_service(tmp_path, next_start)


def test_always_require_vpn_blocks_from_the_start_and_after_the_users_stop(tmp_path: Path) -> None:
    async def set_it(running: Running) -> None:
        await running.service.set_settings(SettingsPatch(always_require_vpn=True))

    world = with_service(tmp_path, set_it)
    assert world.table is not None

    async def next_start(running: Running) -> None:
        assert (running.state, running.service.session.status.blocks) == (State.DISCONNECTED, True)
        await running.service.set_settings(SettingsPatch(always_require_vpn=False))
        assert world.table is None

    with_service(tmp_path, next_start, world)


@pytest.mark.parametrize("content", [b"\0" * 100, b'{"version": 1, "settings": null}'])
def test_corrupt_settings_block_at_the_start_and_say_why_until_one_is_changed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "settings.json").write_bytes(content)

    async def work(running: Running) -> None:
        assert running.world.table is not None
        assert "settings.json" in running.service.notices[0]
        await running.service.set_settings(SettingsPatch(always_require_vpn=False))
        assert running.service.notices == ()
        assert running.world.table is None

    with_service(tmp_path, work)


@pytest.mark.parametrize("content", [b"?", b'{"version": 1, "target": null}'])
def test_a_corrupt_target_state_connects(tmp_path: Path, content: bytes) -> None:
    with_service(tmp_path, with_tunnel)
    (tmp_path / "target-state.json").write_bytes(content)

    async def work(running: Running) -> None:
        await running.until(State.CONNECTED)

    with_service(tmp_path, work)


@pytest.mark.parametrize("weight", [2**63, 10**400], ids=["2**63", "10**400"])
def test_a_relay_list_that_cannot_be_keeps_nothing_from_starting_and_is_told(tmp_path: Path, weight: int) -> None:
    async def choose_a_relay(running: Running) -> None:
        await running.service.import_tunnel("me", CONF.partition("[Peer]")[0], False)
        await running.service.load_relays(RelayList(relays=(relay("r", weight=12345),)))
        await running.service.set_settings(SettingsPatch(choice=RelayChoice("me"), auto_connect=True))

    async def next_start(running: Running) -> None:
        await running.until(State.ERROR)
        assert "weight must be 0 to 1,000,000: there are no relays" in running.service.notices[0]
        assert (running.service.relays, status_of(running.service).cause_kind) == (RelayList(), "no-relay")

    with_service(tmp_path, choose_a_relay)
    path = tmp_path / "relays.json"
    path.write_text(path.read_text().replace("12345", str(weight)))
    with_service(tmp_path, next_start)


def test_what_cannot_be_enforced_at_the_start_is_told_and_tried_again(tmp_path: Path) -> None:
    with_service(tmp_path, connected, end=Stop.RESTART)
    world = World(breaks_firewall="no memory")

    async def work(running: Running) -> None:
        status = status_of(running.service)
        assert (status.enforced, "no memory" in (status.failure or "")) == (False, True)
        world.breaks_firewall = ""
        async with asyncio.timeout(10):
            while not status_of(running.service).enforced:
                await asyncio.sleep(0.05)

    with_service(tmp_path, work, world)


def test_no_change_is_taken_while_it_leaves(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        await connected(running)
        leaving = asyncio.create_task(running.service.stop(Stop.SHUTDOWN))
        await asyncio.sleep(0)
        methods = Methods(running.service, Ring())
        with refusal(ErrorCode.WRONG_STATE, "about to end"):
            await methods(None, "settings.set", SettingsPatch(always_require_vpn=False))  # type: ignore[arg-type]
        await leaving
        assert running.world.table is not None

    with_service(tmp_path, work, end=None)


def test_what_a_client_says_for_others_to_read_is_short_and_visible(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        methods, client = Methods(running.service, Ring()), Client.__new__(Client)
        client.pid = client.uid = client.gid = 1
        for detail in ("\x1b[31m", "a\nb", "x" * 300):
            with refusal(ErrorCode.BAD_INPUT, "detail: at most 253 characters"):
                await methods(client, "debug.block", Detail(detail))

    with_service(tmp_path, work)


def test_exit1_a_restart_while_the_first_policy_is_put_in_force_keeps_the_block(tmp_path: Path) -> None:
    world = World()

    async def work(running: Running) -> None:
        await running.service.import_tunnel("home", BY_ADDRESS, False)
        world.hangs = "route mtu"
        connecting = asyncio.create_task(running.service.connect())
        async with asyncio.timeout(5):
            while running.service.session.machine_state is State.DISCONNECTED:
                await asyncio.sleep(0.001)
        assert running.state is State.DISCONNECTED  # as it was told last
        stopping = asyncio.create_task(running.service.stop(Stop.RESTART))
        await asyncio.sleep(0)
        world.hangs = ""
        assert (await stopping).machine.policy.blocks
        connecting.cancel()

    with_service(tmp_path, work, world, end=None)
    assert world.captured is not None
