"""Somebody else changes what enforces the policy, in a real kernel: it is noticed and repaired."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from engine import state
from engine.policy import State
from engine.service import Builder, Configuration, Session
from engine.wg.conf import parse_conf
from tests.netns import lab
from tests.netns.lab import Namespace
from tests.netns.scenario import Walk

pytestmark = pytest.mark.netns

PATIENCE = 10.0  # seconds; the promise is one, but the machine may be busy with other tests


@pytest.fixture(scope="module")
def walk() -> Iterator[Walk]:
    with Walk() as walk:
        yield walk


def configuration(walk: Walk, firewall: bool) -> Configuration:
    conf = parse_conf(walk.write_conf().read_text())
    builder = Builder().set_wireguard(conf.device).set_interface("mht").add_gateway(lab.GATEWAY4).set_firewall(firewall)
    for address in conf.addresses:
        builder.add_address(address)
    return builder.configuration()


class Seen:
    """A session in the device's namespace, and the events that reached its state machine."""

    def __init__(self, session: Session, device: Namespace) -> None:
        self.session, self.device = session, device
        self.events: list[state.Event] = []
        post = session.post

        def noted(event: state.Event) -> None:
            self.events.append(event)
            post(event)

        session.post = noted  # type: ignore[method-assign]

    def disturbances(self) -> list[str]:
        return [e.what for e in self.events if isinstance(e, state.Disturbed)]

    async def do(self, *command: str) -> str:
        return await asyncio.to_thread(self.device.sh, *command)

    async def quiet(self) -> None:
        """Until nothing has been noticed for a while."""
        count = -1
        while count != len(self.events) or self.session.pending:
            count = len(self.events)
            await asyncio.sleep(0.6)

    async def until(self, true: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not await true():
                await asyncio.sleep(0.02)


def with_session(walk: Walk, firewall: bool, work: Callable[[Seen], Awaitable[None]], connect: bool = True) -> None:
    async def main() -> None:
        session = Session(configuration(walk, firewall))
        seen = Seen(session, walk.lab["device"])
        await session.start(connecting=False)
        try:
            if connect:
                session.connect()
                async with asyncio.timeout(20):
                    await session.until(State.CONNECTED)
            await seen.quiet()
            seen.events.clear()
            await work(seen)
        finally:
            await session.leave(keep=False)

    with walk.lab["device"].entered():
        asyncio.run(main())


def test_our_own_changes_are_nobody_elses(walk: Walk) -> None:
    async def work(seen: Seen) -> None:
        for _ in range(3):
            seen.session.connect()
            await seen.session.settled()
            await seen.session.until(State.CONNECTED)
            await asyncio.sleep(0.3)
        await seen.quiet()
        assert seen.disturbances() == []
        assert not any(isinstance(event, state.DeviceLost | state.Offline) for event in seen.events)

    with_session(walk, True, work)


@pytest.mark.parametrize(
    "meddling",
    [
        "nft flush ruleset",
        "nft delete table inet molehill",
        "nft insert rule inet molehill output accept",
        "nft flush chain inet molehill output",
        "nft chain inet molehill output { policy accept ; }",
    ],
)
def test_a_firewall_table_that_was_changed_is_loaded_again(walk: Walk, meddling: str) -> None:
    async def work(seen: Seen) -> None:
        async def listing() -> str:
            return await seen.do("sh", "-c", "nft -s list table inet molehill || true")

        async def repaired() -> bool:
            return await listing() == before

        before = await listing()
        await seen.do(*meddling.split(" "))
        await seen.until(repaired)
        await seen.quiet()
        assert len(seen.disturbances()) == 1
        assert seen.session.status.machine.enforced
        assert seen.session.status.state is State.CONNECTED

    with_session(walk, True, work)


@pytest.mark.parametrize(
    "meddling",
    [
        "ip rule del pref 190",
        "ip -6 rule flush",
        "ip route flush table 0x6d6f6c65",
        "ip -6 route del unreachable default table 0x6d6f6c65",
        "ip route add 203.0.113.0/24 via 192.168.77.1 table 0x6d6f6c65",
        "ip addr flush dev mht",
        "ip link set mht down",
    ],
)
def test_what_captures_the_traffic_is_set_again(walk: Walk, meddling: str) -> None:
    async def work(seen: Seen) -> None:
        async def capture() -> str:
            tables = "ip rule; ip -6 rule; ip route show table 0x6d6f6c65; ip -6 route show table 0x6d6f6c65"
            shown = await seen.do("sh", "-c", f"{tables}; ip -o addr show dev mht up")
            return "\n".join(sorted(shown.split("\n")))

        async def repaired() -> bool:
            return await capture() == before

        before = await capture()
        await seen.do(*meddling.split(" "))
        assert await capture() != before
        if "-6 rule flush" in meddling:  # which took the kernel's own rules too
            await seen.do("ip", "-6", "rule", "add", "pref", "32766", "lookup", "main")
        await seen.until(repaired)
        await seen.quiet()
        assert seen.disturbances()
        assert seen.session.status.machine.enforced
        assert seen.session.status.state is State.CONNECTED

    with_session(walk, False, work)


@pytest.mark.parametrize("meddling", ["link del mht", "link set mht name elsewhere", "link set mht netns"])
def test_a_tun_that_was_taken_away_is_replaced_and_the_tunnel_made_anew(walk: Walk, meddling: str) -> None:
    async def work(seen: Seen) -> None:
        device = seen.device
        if "netns" in meddling:
            line = f"link set mht netns {walk.lab['lan'].name}"
        elif "name" in meddling:
            line = "link set mht down name elsewhere"
        else:
            line = meddling
        await asyncio.to_thread(device.ip, line)
        await seen.session.until(State.CONNECTING)
        async with asyncio.timeout(20):
            await seen.session.until(State.CONNECTED)
        assert device.has_interface("mht")
        assert not device.has_interface("elsewhere")
        ping = await seen.do("ping", "-c", "1", "-W", "2", lab.GATEWAY4)
        assert "1 received" in ping

    with_session(walk, False, work)


def test_in_error_and_with_vpn_always_required_the_block_is_repaired_too(walk: Walk) -> None:
    async def work(seen: Seen) -> None:
        async def repaired() -> bool:
            return await seen.do("ip", "rule") == before

        seen.session.connect()
        seen.session.block()
        await seen.session.until(State.ERROR)
        await seen.quiet()
        before = await seen.do("ip", "rule")
        await seen.do("ip", "rule", "del", "pref", "190")
        await seen.until(repaired)
        assert seen.session.status.state is State.ERROR

    with_session(walk, False, work, connect=False)


def test_while_disconnected_what_others_do_is_nobodys_business(walk: Walk) -> None:
    async def work(seen: Seen) -> None:
        await seen.do("nft", "add", "table", "inet", "molehill")
        await seen.do("ip", "rule", "add", "pref", "190", "lookup", "main")
        await seen.quiet()
        assert seen.events == []
        await seen.do("nft", "delete", "table", "inet", "molehill")
        await seen.do("ip", "rule", "del", "pref", "190")

    with_session(walk, True, work, connect=False)
