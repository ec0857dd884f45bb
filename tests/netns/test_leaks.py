"""The demo's scenario as a test, and the same with other settings.

The walk itself is described in `scenario`. Each case takes most of a minute, most of it waiting for the device to
notice a relay that is silent.
"""

from __future__ import annotations

import pytest

from tests.netns.demo import table
from tests.netns.scenario import Round, Walk

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]


def _walk_and_judge(walk: Walk) -> list[Round]:
    rounds = list(walk.rounds())
    assert walk.capture is not None
    assert not walk.leaks(), "\n".join(frame.line for frame in walk.leaks())
    assert walk.capture.lost() == 0
    assert all(round_.ok for round_ in rounds), "\n" + table(rounds)
    return rounds


def test_no_state_and_no_change_of_state_lets_anything_out() -> None:
    with Walk() as walk:
        rounds = _walk_and_judge(walk)
    assert [round_.state for round_ in rounds] == [
        "disconnected", "connecting", "connected", "connecting", "error", "disconnected"
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["android", "ios"])
def test_the_mobile_profiles_leak_nothing_either(profile: str) -> None:
    with Walk(profile=profile) as walk:
        _walk_and_judge(walk)


@pytest.mark.slow
def test_with_a_foreign_relay_and_lan_allowed_the_lan_is_open_and_nothing_else() -> None:
    with Walk(relay="wireguard-go", allow_lan=True) as walk:
        _walk_and_judge(walk)
