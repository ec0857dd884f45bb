"""Every state of the screen as a scene: what the fake daemon says, and what is pressed then."""

from __future__ import annotations

import math
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from textual.pilot import Pilot

from engine.management import schema
from engine.tui.app import MolehillApp
from tests import management_fake as fake
from tests.management_fake import NOW, FakeDaemon, Refused

LATER = NOW + 7523  # two hours and some into the state

BUSY = msgspec.structs.replace(
    fake.CONNECTED,
    peers=(schema.PeerInfo(fake.KEY, "192.0.2.7:51820", LATER - 51, 1_288_490_188, 84_108_800),),
    verdicts={
        "CTD-1": schema.Count(1_204_118, 1_372_598_988),
        "P-0": schema.Count(4, 336),
        "CTD-2": schema.Count(128, 9_344),
    },
    drops={"policy": 132, "fragment-unknown": 7, "source-not-allowed": 2, "replay": 1},
    firewall_drops=(schema.FirewallDrop("P-0", "in", 1_044, 87_910), schema.FirewallDrop("P-0", "out", 3, 252)),
)
BRIDGED = msgspec.structs.replace(
    BUSY,
    connecting_to="se-got-2",
    endpoint="192.0.2.12:51820",
    bridge="udp-over-tcp 203.0.113.9:443",
    allow_lan=True,
    mode="vpn-service",
    firewall_drops=(),
    notices=("The network's MTU is 1320 bytes: the tunnel has 1240.",),
    cannot_block=(
        schema.Gap("LNX-1", "sockets bound to a device"),
        schema.Gap("LNX-2", "link-local multicast"),
        schema.Gap("LNX-3", "inbound packets on other interfaces"),
        schema.Gap("LNX-4", "what root sends by raw sockets"),
    ),
)
TRYING = msgspec.structs.replace(
    fake.CONNECTING,
    attempt=2,
    problem="no answer from 192.0.2.7:51820 to a handshake in 15 s",
    verdicts={"P-0": schema.Count(88, 5_120), "DNS-3": schema.Count(2_041, 140_829)},
    drops={"policy": 2_129, "stage-full": 12},
)
OFFLINE = msgspec.structs.replace(
    fake.ERROR, cause="the device is offline", cause_kind="offline", online=False, verdicts=TRYING.verdicts
)
LEAKING = msgspec.structs.replace(
    fake.ERROR,
    enforced=False,
    cause="the security policy could not be applied: nft: Operation not permitted",
    cause_kind="apply-policy",
    failure="the security policy could not be applied: nft: Operation not permitted",
)
LOCKED = msgspec.structs.replace(
    fake.DISCONNECTED,
    blocks=True,
    always_require_vpn=True,
    policy="disconnected on linux, VPN always required, so blocking, DNS blocked, LAN blocked",
    verdicts={"P-0": schema.Count(310, 18_600)},
    drops={"policy": 310},
)

LOG = (
    (-7531.0, "info", "molehill 0.1.0 serves /run/molehill/management.socket"),
    (-7530.4, "info", "disconnected: nothing is enforced"),
    (-7523.2, "info", "connecting to home, 192.0.2.7:51820"),
    (-7523.0, "info", "connected to home in 96 ms, verified by a ping to 10.64.0.1"),
    (-4120.0, "warning", "somebody flushed the nftables table: it is in force again after 41 ms"),
    (-1214.0, "info", "the local network is blocked"),
    (-61.0, "error", "the resolver's file was overwritten by another program; lookups to 192.168.1.1 are blocked"),
)


HOME = schema.Settings(choice=schema.TunnelChoice("home"))


@dataclass(frozen=True)
class Scene:
    """`status` None: the daemon is stopped after it was seen. `keys` are pressed, until `sees` is seen."""

    status: schema.Status | None
    settings: schema.Settings = HOME
    keys: tuple[str, ...] = ()
    sees: str = ""  # then
    light: bool = False
    speaks: bool = True  # whether there is a daemon at all
    refused: str = ""  # with what sentence it refuses to connect


RELAY = schema.Settings(
    choice=schema.RelayChoice("home", "se", "gothenburg"),
    allow_lan=True,
    auto_connect=True,
    dns=("9.9.9.9", "2620:fe::fe"),
    mtu=1240,
)
STRICT = schema.Settings(choice=schema.TunnelChoice("home"), always_require_vpn=True)

SCENES = {
    "disconnected": Scene(fake.DISCONNECTED),
    "disconnected-locked": Scene(LOCKED, STRICT),
    "connecting": Scene(TRYING),
    "connected": Scene(BUSY),
    "connected-bridge": Scene(BRIDGED, RELAY),
    "connected-light": Scene(BUSY, light=True),
    "disconnecting": Scene(
        msgspec.structs.replace(
            fake.DISCONNECTING, verdicts=BUSY.verdicts, drops=BUSY.drops, firewall_drops=BUSY.firewall_drops
        )
    ),
    "error": Scene(fake.ERROR),
    "error-offline": Scene(OFFLINE),
    "not-enforced": Scene(LEAKING),
    "not-enforced-light": Scene(LEAKING, light=True),
    "gone": Scene(None, sees="systemctl start molehill"),
    "no-daemon": Scene(None, speaks=False),
    "help": Scene(BUSY, keys=("question_mark",), sees="c tries again"),
    "details": Scene(BRIDGED, RELAY, keys=("i",), sees="10.64.0.1 by systemd-resolved"),
    "confirm-disconnect": Scene(BUSY, keys=("d",), sees="y Yes"),
    "confirm-lan": Scene(BUSY, keys=("l",), sees="y Yes"),
    "edit-mtu": Scene(BUSY, keys=("m", "9", "enter"), sees="not between"),
    "choose": Scene(BUSY, keys=("t",), sees="se-sto-1"),
    "refused": Scene(
        fake.DISCONNECTED,
        keys=("c",),
        sees="se1.example.net",
        refused="se1.example.net: the server's host name could not be resolved",
    ),
}


def waves(count: int) -> list[float]:
    """Throughput that looks like somebody's evening, bytes a second."""
    return [1.5e6 * (1 + math.sin(n / 5)) * (0.4 + 0.6 * ((n * 37) % 11) / 10) + 2e4 for n in range(count)]


async def until(pilot: Pilot[None], reached: Callable[[], bool]) -> None:
    """Wait for the screen; the test's own time limit ends what never comes."""
    while not reached():
        await pilot.pause(0.01)
    await pilot.pause()


def text_of(app: MolehillApp) -> list[str]:
    """The rows of what is on the screen now."""
    return [strip.text for strip in app.screen._compositor.render_strips()]


def hero(app: MolehillApp) -> set[str]:
    """The hero's look."""
    return set(app.screen_stack[0].query_one("#hero").classes)


@asynccontextmanager
async def playing(
    scene: Scene, where: Path, size: tuple[int, int]
) -> AsyncIterator[tuple[MolehillApp, Pilot[None], FakeDaemon]]:
    """The application before a fake daemon, the scene set."""
    os.environ["TZ"] = "UTC"
    time.tzset()
    path = where / "management.socket"
    app = MolehillApp(path, light=scene.light, wall=lambda: LATER, clock=lambda: 0.0)
    app.animation_level = "none"
    with FakeDaemon(path) as daemon:
        daemon.settings = scene.settings
        if scene.status is not None:
            daemon.status = scene.status
        elif scene.speaks:
            daemon.status = BUSY
        if scene.refused:
            daemon.refuses["connect"] = Refused(schema.ErrorCode.BAD_INPUT, scene.refused)
        for at, level, text in LOG:
            daemon.log(text, level, LATER + at)
        if not scene.speaks:
            daemon.stop()
        async with app.run_test(size=size, notifications=True) as pilot:
            if daemon.status.state == "connected":
                app.meter.received.extend(waves(120))
                app.meter.sent.extend(value / 14 for value in waves(120))
            if scene.speaks:
                await until(pilot, lambda: bool(hero(app) - {"unknown"}))
            if scene.status is None and scene.speaks:
                daemon.stop()
            if scene.status is None:
                await until(pilot, lambda: "unknown" in hero(app))
            for key in scene.keys:
                await pilot.press(key)
                await pilot.pause()
            await until(pilot, lambda: scene.sees in "\n".join(text_of(app)))
            yield app, pilot, daemon
