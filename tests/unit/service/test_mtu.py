"""What fits through the tunnel, found by pings of a double that answers up to a size."""

from __future__ import annotations

import asyncio
from ipaddress import ip_interface

import pytest

from engine.policy import State
from engine.service import Session
from engine.service.mtu import STEP, largest_answered, least_mtu
from tests.unit.service.fake import World
from tests.unit.service.test_session import configuration, connected, own_place, soon, with_session

__all__ = ["own_place"]  # a fixture, used by its name


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.service.mtu.FULL_SECONDS", 0.01)
    monkeypatch.setattr("engine.service.mtu.SWEEP_SECONDS", 0.2)
    monkeypatch.setattr("engine.service.mtu.MORE_SECONDS", 0.02)


class Gateway:
    """Answers pings up to a size, after a while; the first `lost` ones are lost."""

    def __init__(self, fits: int, lost: int = 0) -> None:
        self.fits, self.lost, self.asked = fits, lost, list[int]()

    async def ping(self, size: int, seconds: float) -> bool:
        self.asked.append(size)
        if size <= self.fits and len(self.asked) > self.lost:
            await asyncio.sleep(0.001)
            return True
        await asyncio.sleep(seconds)
        return False


def test_a_path_that_takes_the_full_size_is_asked_once() -> None:
    gateway = Gateway(1500)
    assert asyncio.run(largest_answered(gateway.ping, 1420, 1280)) == 1420
    assert gateway.asked == [1420]


def test_two_lost_pings_are_no_proof_of_a_narrow_path() -> None:
    gateway = Gateway(1500, lost=2)
    assert asyncio.run(largest_answered(gateway.ping, 1420, 1280)) == 1420


@pytest.mark.parametrize("fits", [576, 801, 1279, 1400, 1419])
def test_the_largest_size_that_fits_is_found_to_within_a_step(fits: int) -> None:
    found = asyncio.run(largest_answered(Gateway(fits).ping, 1420, 576))
    assert found is not None
    assert fits - STEP < found <= fits


def test_where_nothing_is_answered_nothing_is_known() -> None:
    assert asyncio.run(largest_answered(Gateway(100).ping, 1420, 1280)) is None


def test_a_tunnel_with_ipv6_stays_at_what_ipv6_needs() -> None:
    assert least_mtu(configuration()) == 576
    assert least_mtu(configuration(addresses=(ip_interface("10.64.0.2/32"), ip_interface("fd00::2/128")))) == 1280


def test_a_narrow_path_lowers_the_mtu_of_the_tun_and_fragments_are_allowed_again() -> None:
    async def work(session: Session, world: World) -> None:
        world.path_mtu = 1300
        await connected(session)
        await soon(lambda: world.captured is not None and world.captured.mtu < 1420)
        assert world.captured is not None
        assert 1300 - STEP < world.captured.mtu <= 1300
        assert world.fragments
        assert session.status.state is State.CONNECTED

    with_session(work)


def test_an_mtu_that_was_configured_is_left_alone() -> None:
    async def work(session: Session, world: World) -> None:
        world.path_mtu = 1300
        await connected(session)
        await asyncio.sleep(0.1)
        assert world.captured is not None
        assert world.captured.mtu == 1400

    with_session(work, mtu=1400)


def test_where_the_least_is_the_most_nothing_more_is_asked() -> None:
    gateway = Gateway(0)
    assert asyncio.run(largest_answered(gateway.ping, 1280, 1280)) is None
    assert set(gateway.asked) == {1280}
