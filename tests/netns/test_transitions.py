"""Changes of every kind, one upon the other, on one living session: the TUN stays, and nothing gets out in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from engine.leaklab.probes import Drizzle
from engine.service import Builder, Configuration, Session, State
from engine.wg.conf import parse_conf
from engine.wg.config import DeviceConfig
from tests.netns import lab
from tests.netns.scenario import Walk

pytestmark = pytest.mark.netns

SEED = 20240817
CHANGES = 150


@pytest.fixture
def walk() -> Iterator[Walk]:
    with Walk(progress=lambda text: None) as walk:
        yield walk


def configuration(walk: Walk, firewall: bool) -> Configuration:
    conf = parse_conf(walk.write_conf().read_text())
    builder = Builder().set_wireguard(conf.device).set_interface("mht").add_gateway(lab.GATEWAY4).set_firewall(firewall)
    for address in conf.addresses:
        builder.add_address(address)
    return builder.configuration()


def changes(session: Session, good: DeviceConfig) -> dict[str, Callable[[], None]]:
    """What may happen to a session, except the disconnect."""

    def change(**what: object) -> Callable[[], None]:
        return lambda: session.change(replace(session.configuration, **what))  # type: ignore[arg-type]

    nobody = replace(good, private_key=bytes([9]) * 31 + b"\x40")
    return {
        "reconnect": session.connect,
        "mtu": change(mtu=1280),
        "mtu back": change(mtu=1420),
        "dns": change(dns=(ip_address(lab.RESOLVER4),)),
        "dns back": change(dns=()),
        "another address": change(addresses=(ip_interface("10.64.0.9/32"),)),
        "the address back": change(addresses=(ip_interface("10.64.0.2/32"), ip_interface("fc00:64::2/128"))),
        "another key": change(wireguard=nobody),
        "the key back": change(wireguard=good),
        "always": change(always_require_vpn=True),
        "not always": change(always_require_vpn=False),
    }


async def flip(session: Session, configuration: Configuration, walk: Walk) -> None:
    rng = random.Random(SEED)
    device = walk.lab["device"]
    await session.start()
    session.connect()
    await session.until(State.CONNECTED)
    index = (await asyncio.to_thread(device.ip, "-o link show mht")).split(":")[0]
    walk.guard()
    assert walk.drizzle is not None
    walk.drizzle.start()
    doing = changes(session, configuration.wireguard)
    for _ in range(CHANGES):
        doing[rng.choice(list(doing))]()
        await asyncio.sleep(rng.choice((0.0, 0.001, 0.02)))
        assert session.status.machine.enforced
        assert session.status.blocks
    session.change(configuration)
    async with asyncio.timeout(30):
        while not (session.status.state is State.CONNECTED and not session.pending):
            await asyncio.sleep(0.02)
    ping = await asyncio.to_thread(device.sh, "ping", "-c", "1", "-W", "2", lab.GATEWAY4)
    assert "1 received" in ping
    assert (await asyncio.to_thread(device.ip, "-o link show mht")).split(":")[0] == index, "the same TUN"
    walk.unguard()
    await session.stop()


@pytest.mark.parametrize("firewall", [False, True], ids=["vpn-service", "firewall"])
def test_a_hundred_changes_in_a_row_leak_nothing_and_keep_the_tun(walk: Walk, firewall: bool) -> None:
    walk.drizzle = Drizzle(walk.lab["device"])
    made = configuration(walk, firewall)
    with walk.lab["device"].entered():
        asyncio.run(flip(Session(made), made, walk))
    assert not walk.leaks(), "\n".join(frame.line for frame in walk.leaks())
    assert not walk.lab["device"].has_interface("mht")
