"""Any order of requests, crashes, restarts and stops: what is enforced is what the user asked for last (KS-1)."""

from __future__ import annotations

import asyncio
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from engine.daemon.lifecycle import Stop
from engine.daemon.rpc import Refused
from engine.daemon.service import Service
from engine.management.schema import RelayChoice, RelayList, SettingsPatch, TunnelChoice
from engine.policy import State
from engine.service import Configuration, Session
from tests.unit.daemon.test_relays import relay
from tests.unit.daemon.test_service import BY_ADDRESS
from tests.unit.service.fake import FakeDns, FakeFirewall, FakeHost, World

STEPS = (
    "connect", "disconnect", "reconnect", "block", "lan", "always", "not always", "auto", "not auto", "other tunnel",
    "by relay", "relays", "replace", "remove", "reset", "silent", "answering", "wait", "crash",
    *(stop.name for stop in Stop),
)  # fmt: skip


@dataclass
class Model:
    """What the user has asked for, in the words of the document."""

    wanted: bool = False
    always: bool = False
    auto: bool = False

    def stop(self, stop: Stop) -> bool:
        """Whether the block stays."""
        return self.always or (stop is not Stop.USER and (self.wanted or self.auto))


class Walk:
    """A service that is started, used, ended and started again over the same disk and the same world."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.world, self.model = folder, World(), Model()
        self.service: Service

    async def start(self) -> None:
        def make_session(configurations: tuple[Configuration, ...]) -> Session:
            world = self.world
            return Session(
                *configurations,
                host=FakeHost(world),
                dns=FakeDns(world),
                firewall=FakeFirewall(world),
                open_tun=world.open_tun,
                open_tunnel=world.open_tunnel,
            )

        base = Configuration(interface="mh0", firewall=True)
        self.service = Service(self.folder, base, make_session, lambda event: None, self.folder)
        await self.service.start()
        self.model.wanted |= self.model.auto

    async def step(self, step: str) -> None:
        service, model = self.service, self.model
        match step:
            case "connect":
                await service.connect()
                model.wanted = True
            case "disconnect":
                await service.disconnect()
                model.wanted = False
            case "reconnect":
                try:
                    await service.reconnect()
                    assert model.wanted
                except Refused:
                    assert not model.wanted
            case "block":
                await service.block("a test")
            case "lan":
                await service.set_settings(SettingsPatch(allow_lan=not service.settings.allow_lan))
            case "always" | "not always":
                model.always = step == "always"
                await service.set_settings(SettingsPatch(always_require_vpn=model.always))
            case "auto" | "not auto":
                model.auto = step == "auto"
                await service.set_settings(SettingsPatch(auto_connect=model.auto))
            case "other tunnel":
                await service.import_tunnel("other", BY_ADDRESS.replace("100.10", "100.20"), True)
                await service.set_settings(SettingsPatch(choice=TunnelChoice("other")))
            case "by relay":
                await service.set_settings(SettingsPatch(choice=RelayChoice("se1")))
            case "relays":
                count = 1 - len(service.relays.relays)
                await service.load_relays(RelayList(relays=tuple(relay(f"r{n}") for n in range(count))))
            case "replace":
                await service.import_tunnel("se1", BY_ADDRESS, True)
            case "remove":
                try:
                    await service.remove_tunnel("other")
                except Refused:
                    pass
            case "reset":
                await service.reset_settings()
                model.always = model.auto = False
            case "silent" | "answering":
                self.world.answers = step == "answering"
            case "wait":
                await asyncio.sleep(0.02)
            case "crash":
                await service.session.close()
                self.check(self.model.wanted or self.model.always, "after a crash")
                await self.start()
            case _:
                await self.end(Stop[step])
                await self.start()

    async def end(self, stop: Stop) -> None:
        keeps = self.model.stop(stop)
        await self.service.stop(stop)
        self.check(keeps, f"after {stop}")
        if stop is not Stop.RESTART:
            self.model.wanted = False

    def check(self, blocked: bool, when: str) -> None:
        assert (self.world.table is not None) == blocked, when
        assert (self.world.captured is not None) == blocked, when

    async def judge(self, step: str) -> None:
        await self.service.session.settled()
        if not self.model.wanted:
            await self.service.session.until(State.DISCONNECTED)
        status = self.service.session.status
        self.check(self.model.wanted or self.model.always, step)
        assert status.machine.enforced
        assert (status.state is State.DISCONNECTED) == (not self.model.wanted)


@given(st.lists(st.sampled_from(STEPS), max_size=12))
@hypothesis_settings(max_examples=60, deadline=None)
def test_ks1_exit1_start1_whatever_happens_what_was_asked_for_last_is_enforced(steps: list[str]) -> None:
    async def main(folder: Path) -> None:
        walk = Walk(folder)
        await walk.start()
        await walk.service.import_tunnel("se1", BY_ADDRESS, False)
        for number, step in enumerate(steps):
            async with asyncio.timeout(20):
                await walk.step(step)
                await walk.judge(f"step {number}: {step}")
        await walk.end(Stop.USER)

    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, MOLEHILL_RUN_DIR=f"{folder}/run"):
        asyncio.run(main(Path(folder)))
