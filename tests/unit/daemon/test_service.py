"""The service over a session with doubles beneath: what clients ask for, what is on disk, what is in force."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest

from engine.daemon import lifecycle, names, settings, store
from engine.daemon.lifecycle import Stop, Target
from engine.daemon.logs import Ring
from engine.daemon.methods import Methods, status_of
from engine.daemon.rpc import Refused
from engine.daemon.server import Client
from engine.daemon.service import Service
from engine.management.schema import (
    METHODS,
    Bridge,
    BridgeKind,
    ErrorCode,
    Event,
    Lines,
    Log,
    RelayChoice,
    RelayList,
    Settings,
    SettingsEvent,
    SettingsPatch,
    TunnelChoice,
    TunnelsEvent,
)
from engine.policy import IPAddress, State
from engine.service import Configuration, Session
from engine.wg.keys import key_from_base64
from tests.unit.daemon.test_relays import relay
from tests.unit.daemon.test_tunnels import CONF, PRIVATE, PSK
from tests.unit.service.fake import FakeDns, FakeFirewall, FakeHost, World
from tests.unit.service.test_session import own_place

BY_ADDRESS = CONF.replace("vpn.example", "198.51.100.10")


__all__ = ["own_place"]  # a fixture, used by its name


@dataclass
class Running:
    """A service, the world beneath it, and what it has published."""

    service: Service
    world: World
    events: list[Event] = field(default_factory=list)

    @property
    def state(self) -> State:
        return self.service.session.status.state

    async def until(self, *states: State) -> None:
        async with asyncio.timeout(10):
            await self.service.session.until(*states)


def with_service(
    folder: Path,
    work: Callable[[Running], Awaitable[None]],
    world: World | None = None,
    end: Stop | None = Stop.USER,
) -> World:
    """Run `work` with a started service; `end` None: the process is killed afterwards."""
    world = world or World()

    async def main() -> None:
        def make_session(configurations: tuple[Configuration, ...]) -> Session:
            return Session(
                *configurations,
                host=FakeHost(world),
                dns=FakeDns(world),
                firewall=FakeFirewall(world),
                open_tun=world.open_tun,
                open_tunnel=world.open_tunnel,
            )

        events: list[Event] = []
        base = Configuration(interface="mh0", firewall=True)
        service = Service(folder, base, make_session, events.append, folder / "spare")
        await service.start()
        running = Running(service, world, events)
        try:
            async with asyncio.timeout(30):
                await work(running)
        finally:
            if end is None:
                await service.session.close()
            else:
                await service.stop(end)

    asyncio.run(main())
    return world


async def with_tunnel(running: Running) -> None:
    await running.service.import_tunnel("se1", BY_ADDRESS, False)


async def connected(running: Running) -> None:
    await with_tunnel(running)
    await running.service.connect()
    await running.until(State.CONNECTED)


async def nothing(running: Running) -> None:
    """The service as it starts."""


def refusal(code: ErrorCode, words: str) -> pytest.RaisesExc[Refused]:
    return pytest.raises(Refused, match=words, check=lambda refused: refused.code is code)


# Connecting


def test_the_first_tunnel_is_chosen_and_connect_and_disconnect_do_that(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        await with_tunnel(running)
        assert running.service.settings.choice == TunnelChoice("se1")
        await running.service.connect()
        assert running.state in (State.CONNECTING, State.CONNECTED)
        assert lifecycle.load(tmp_path) is Target.SECURED
        await running.until(State.CONNECTED)
        assert status_of(running.service).connecting_to == "se1"
        await running.service.disconnect()
        await running.until(State.DISCONNECTED)
        assert lifecycle.load(tmp_path) is Target.UNSECURED

    with_service(tmp_path, work)


def test_to_connect_again_changes_nothing_and_to_reconnect_does(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        await connected(running)
        since = running.service.session.status.since
        await running.service.connect()
        assert running.service.session.status.since == since
        await running.service.reconnect()
        assert running.state is not State.CONNECTED
        await running.until(State.CONNECTED)

    with_service(tmp_path, work)


def test_to_reconnect_while_disconnected_is_refused(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        with refusal(ErrorCode.WRONG_STATE, "molehill connect"):
            await running.service.reconnect()
        await connected(running)
        await running.service.disconnect()
        with refusal(ErrorCode.WRONG_STATE, "molehill connect"):
            await running.service.reconnect()
        assert running.state in (State.DISCONNECTING, State.DISCONNECTED)

    with_service(tmp_path, work)


def test_without_a_tunnel_to_connect_is_an_error_that_blocks_and_says_what_to_do(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        await running.service.connect()
        await running.until(State.ERROR)
        status = status_of(running.service)
        assert "molehill tunnel import" in (status.cause or "")
        assert (status.blocks, status.enforced, status.connecting_to) == (True, True, None)
        await with_tunnel(running)
        await running.service.connect()
        await running.until(State.CONNECTED)

    with_service(tmp_path, work)


class Forever:
    """A look-up of names that does not end; `asked` has what it was asked."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[object] = asyncio.Queue()

    async def __call__(self, wanted: object) -> dict[str, IPAddress]:
        self.asked.put_nowait(wanted)
        await asyncio.sleep(100)
        return {}


def test_a_disconnect_overtakes_a_connect_that_still_looks_names_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(running: Running) -> None:
        await with_tunnel(running)
        monkeypatch.setattr(names, "look_up", forever := Forever())
        connect = asyncio.create_task(running.service.connect())
        second = asyncio.create_task(running.service.connect())
        await forever.asked.get()
        await running.service.disconnect()
        await asyncio.gather(connect, second)
        assert running.state is State.DISCONNECTED
        assert lifecycle.load(tmp_path) is Target.UNSECURED

    with_service(tmp_path, work)


def test_a_connect_right_behind_the_disconnect_that_ended_another_one_is_carried_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(running: Running) -> None:
        await with_tunnel(running)
        with monkeypatch.context() as patched:
            patched.setattr(names, "look_up", forever := Forever())
            first = asyncio.create_task(running.service.connect())
            await forever.asked.get()
        # Both clients' requests have come before the cancelled one has its turn.
        disconnect = asyncio.create_task(running.service.disconnect())
        second = asyncio.create_task(running.service.connect())
        await asyncio.gather(first, disconnect, second)
        assert running.state in (State.CONNECTING, State.CONNECTED)
        await running.until(State.CONNECTED)
        assert lifecycle.load(tmp_path) is Target.SECURED

    with_service(tmp_path, work)


def test_a_connect_behind_a_disconnect_is_ended_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(running: Running) -> None:
        await with_tunnel(running)
        monkeypatch.setattr(names, "look_up", forever := Forever())
        first = asyncio.create_task(running.service.connect())
        await forever.asked.get()
        disconnect = asyncio.create_task(running.service.disconnect())
        second = asyncio.create_task(running.service.connect())
        await asyncio.gather(first, disconnect)
        await forever.asked.get()
        await running.service.disconnect()
        await second
        assert running.state is State.DISCONNECTED
        assert lifecycle.load(tmp_path) is Target.UNSECURED

    with_service(tmp_path, work)


def test_a_client_that_leaves_does_not_take_its_connect_along(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        await with_tunnel(running)
        asking = asyncio.create_task(running.service.connect())
        await asyncio.sleep(0)
        asking.cancel()
        await running.until(State.CONNECTED)

    with_service(tmp_path, work)


def test_to_block_on_purpose_is_an_error_and_means_nothing_while_disconnected(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        await running.service.block("a test")
        assert running.state is State.DISCONNECTED
        await connected(running)
        await running.service.block("a test")
        await running.until(State.ERROR)
        assert "a test" in (status_of(running.service).cause or "")

    with_service(tmp_path, work)


# Names


def test_a_name_is_looked_up_while_open_and_remembered_while_blocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[frozenset[str]] = []

    async def look_up(wanted: frozenset[str]) -> dict[str, IPAddress]:
        if wanted:
            asked.append(wanted)
        return {name: ip_address(f"198.51.100.{len(asked)}") for name in wanted}

    monkeypatch.setattr(names, "look_up", look_up)

    def endpoint(running: Running) -> str | None:
        return status_of(running.service).endpoint

    async def work(running: Running) -> None:
        await running.service.import_tunnel("named", CONF, False)
        assert len(asked) == 1
        await running.service.connect()
        assert (len(asked), endpoint(running)) == (2, "198.51.100.2:51820")
        await running.until(State.CONNECTED)
        await running.service.reconnect()
        await running.until(State.CONNECTED)
        assert (len(asked), endpoint(running)) == (2, "198.51.100.2:51820")

    async def after_a_crash(running: Running) -> None:
        await running.until(State.CONNECTED)
        assert (len(asked), endpoint(running)) == (2, "198.51.100.2:51820")

    world = with_service(tmp_path, work, end=None)
    with_service(tmp_path, after_a_crash, world)


# Settings


def test_settings_are_on_disk_and_in_force_before_the_answer(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        await connected(running)
        since = running.service.session.status.since
        await running.service.set_settings(SettingsPatch(allow_lan=True))
        assert settings.load(tmp_path).settings.allow_lan
        assert running.world.table is not None
        assert running.world.table.allow_lan
        assert running.service.session.status.since == since  # the tunnel has not noticed
        assert running.events[-1] == SettingsEvent(running.service.settings)

    with_service(tmp_path, work)


def test_settings_that_cannot_be_change_nothing(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        with refusal(ErrorCode.BAD_INPUT, "MTU"):
            await running.service.set_settings(SettingsPatch(allow_lan=True, mtu=5))
        with refusal(ErrorCode.NOT_FOUND, "no tunnel 'gone'"):
            await running.service.set_settings(SettingsPatch(allow_lan=True, choice=TunnelChoice("gone")))
        assert running.service.settings == Settings()
        assert running.events == []

    with_service(tmp_path, work)


def test_a_disk_that_takes_nothing_changes_nothing_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async def work(running: Running) -> None:
        await with_tunnel(running)
        monkeypatch.setattr(store, "write", full)
        with refusal(ErrorCode.FAILED, "No space left on device"):
            await running.service.set_settings(SettingsPatch(always_require_vpn=True))
        with refusal(ErrorCode.FAILED, "No space left on device"):
            await running.service.import_tunnel("se2", BY_ADDRESS, False)
        assert running.service.settings == Settings(choice=TunnelChoice("se1"))
        await running.service.connect()  # what protects goes on, and the missing safety net is told
        await running.until(State.CONNECTED)
        assert "after a crash it will not connect again" in running.service.notices[0]
        monkeypatch.undo()
        await running.service.disconnect()
        assert running.service.notices == ()

    with_service(tmp_path, work)


def test_a_reset_gives_the_defaults_and_keeps_the_tunnels(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        await with_tunnel(running)
        bridge = Bridge(BridgeKind.SHADOWSOCKS, "203.0.113.9:443", "aes-256-gcm")
        await running.service.set_bridge(bridge, "open sesame")
        assert (tmp_path / "bridge-password").read_text() == "open sesame"
        assert (tmp_path / "bridge-password").stat().st_mode & 0o777 == 0o600
        assert await running.service.reset_settings() == Settings()
        assert not (tmp_path / "bridge-password").exists()
        assert [tunnel.name for tunnel in await running.service.tunnels()] == ["se1"]

    with_service(tmp_path, work)


def test_a_bridge_without_its_password_is_refused(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        with refusal(ErrorCode.BAD_INPUT, "needs a password"):
            await running.service.set_bridge(Bridge(BridgeKind.SHADOWSOCKS, "203.0.113.9:443", "aes-256-gcm"), None)
        await running.service.set_bridge(Bridge(BridgeKind.UDP_OVER_TCP, "203.0.113.9:443"), None)
        assert await running.service.set_bridge(None, None) == Settings()

    with_service(tmp_path, work)


# Tunnels and relays


def test_a_tunnel_in_use_stays_and_one_that_is_not_goes(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        await connected(running)
        await running.service.import_tunnel("se2", BY_ADDRESS, False)
        assert running.events[-1] == TunnelsEvent(await running.service.tunnels())
        assert [tunnel.name for tunnel in await running.service.remove_tunnel("se2")] == ["se1"]
        with refusal(ErrorCode.WRONG_STATE, "in use"):
            await running.service.remove_tunnel("se1")
        await running.service.disconnect()
        assert await running.service.remove_tunnel("se1") == ()
        assert running.service.settings.choice is None
        with refusal(ErrorCode.NOT_FOUND, "no tunnel 'se1'"):
            await running.service.remove_tunnel("se1")

    with_service(tmp_path, work)


def test_the_tunnel_in_use_replaced_is_gone_over_to(tmp_path: Path) -> None:
    async def work(running: Running) -> None:
        await connected(running)
        await running.service.import_tunnel("se1", BY_ADDRESS.replace("198.51.100.10", "198.51.100.20"), True)
        await running.until(State.CONNECTED)
        assert status_of(running.service).endpoint == "198.51.100.20:51820"

    with_service(tmp_path, work)


def test_of_several_relays_the_next_one_is_tried(tmp_path: Path) -> None:
    keys = ["HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=", "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="]

    async def work(running: Running) -> None:
        await running.service.import_tunnel("me", CONF.partition("[Peer]")[0], False)
        found = RelayList(relays=tuple(relay(f"r{n}", ipv4=f"198.51.100.{n}", public_key=keys[n]) for n in (0, 1)))
        await running.service.load_relays(found)
        await running.service.set_settings(SettingsPatch(choice=RelayChoice("me")))
        running.world.answers_only = key_from_base64(keys[1])
        await running.service.connect()
        await running.until(State.CONNECTED)
        assert status_of(running.service).connecting_to == "r1"
        since = running.service.session.status.since
        await running.service.set_settings(SettingsPatch(allow_lan=True))  # not a reason to go over to r0
        assert running.service.session.status.since == since

    with_service(tmp_path, work)


# Secrets


def test_no_secret_is_in_any_log_line_answer_or_event(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ring = Ring()
    ring.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger().addHandler(ring)
    caplog.set_level(logging.DEBUG)
    told: list[object] = []

    async def work(running: Running) -> None:
        methods, client = Methods(running.service, ring), Client.__new__(Client)
        client.pid = client.uid = client.gid = 1
        bridge = {"kind": "shadowsocks", "endpoint": "203.0.113.9:443", "cipher": "aes-256-gcm"}
        for method, params in (
            ("tunnel.import", {"name": "se1", "conf": BY_ADDRESS}),
            ("bridge.set", {"bridge": bridge, "password": "open sesame"}),
            ("connect", {}),
            ("status", {}),
            ("settings.set", {"allow_lan": True}),
            ("debug.block", {"detail": "on purpose"}),
            ("reconnect", {}),
            ("tunnel.list", {}),
            ("settings.get", {}),
            ("disconnect", {}),
        ):
            told.append(await methods(client, method, msgspec.convert(params, METHODS[method].params)))
        told.extend(running.events)
        log = await methods(client, "log", Lines(1000))
        assert isinstance(log, Log)
        assert len(log.lines) > 20
        told.append(log)

    with_service(tmp_path, work)
    logging.getLogger().removeHandler(ring)
    everything = caplog.text + repr(told) + json.dumps([line.text for line in ring.lines])
    raw = repr(base64.b64decode(PRIVATE))[2:22]
    for secret in (PRIVATE, PSK, "sesame", raw):
        assert secret not in everything
