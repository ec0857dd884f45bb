"""The tunnel's MTU on real paths: from the route to the relay, and lowered where a hop further on takes less."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from engine.policy import State
from engine.service import Session
from tests.netns import lab
from tests.netns.scenario import Walk
from tests.netns.test_disturbed import configuration

pytestmark = pytest.mark.netns


@pytest.fixture
def walk() -> Iterator[Walk]:
    with Walk() as walk:
        yield walk


def mtu_of(walk: Walk) -> int:
    words = walk.lab["device"].ip("link show mht").split()
    return int(words[words.index("mtu") + 1])


def with_connected(walk: Walk, expected: range) -> None:
    async def main() -> None:
        session = Session(configuration(walk, firewall=False))
        await session.start(connecting=False)
        try:
            session.connect()
            async with asyncio.timeout(20):
                await session.until(State.CONNECTED)
            async with asyncio.timeout(20):
                while await asyncio.to_thread(mtu_of, walk) not in expected:
                    await asyncio.sleep(0.1)
            most = mtu_of(walk) - 28
            ping = await asyncio.to_thread(
                walk.lab["device"].sh, "ping", "-c", "1", "-W", "3", "-M", "do", "-s", str(most), lab.GATEWAY4
            )
            assert "1 received" in ping
            assert session.status.state is State.CONNECTED
        finally:
            await session.leave(keep=False)

    with walk.lab["device"].entered():
        asyncio.run(main())


def test_the_route_to_the_relay_decides(walk: Walk) -> None:
    walk.lab["device"].ip("link set eth0 mtu 1450")
    walk.lab["isp"].ip("link set dev0 mtu 1450")
    with_connected(walk, range(1370, 1371))


def test_a_hop_that_silently_drops_what_is_large_lowers_it(walk: Walk) -> None:
    """As the reference app's test: packets longer than a limit vanish, fragments too, without a word."""
    drop = "add rule inet narrow forward meta length > 1400 drop"
    chain = "add chain inet narrow forward { type filter hook forward priority -500 ; }"
    walk.lab["internet"].sh("nft", "-f", "-", stdin=f"add table inet narrow\n{chain}\n{drop}\n")
    with_connected(walk, range(1300, 1341))


def test_a_hop_that_would_have_to_fragment_lowers_it(walk: Walk) -> None:
    walk.lab["isp"].ip("link set up0 mtu 1400")
    walk.lab["internet"].ip("link set isp0 mtu 1400")
    with_connected(walk, range(1300, 1341))
