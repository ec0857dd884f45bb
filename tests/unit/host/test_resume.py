"""Sleep is told from a clock that was only set; the kernel's hint is real, how long the machine slept is not."""

from __future__ import annotations

import asyncio
import time

import pytest

from engine.host import resume
from engine.host.resume import ResumeWatch

pytestmark = pytest.mark.xdist_group("leaklab")  # it sets the clock by which the lab tells the time


def told(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[str]:
    """What is told after the wall clock was set (to what it was) and the machine seems to have slept so long."""
    slept, found = 0.0, list[str]()
    monkeypatch.setattr(resume, "slept", lambda: slept)

    async def main() -> None:
        nonlocal slept
        watch = ResumeWatch(lambda: found.append("resumed"))
        for _ in range(2):  # it goes on watching
            slept += seconds
            time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME))
            await asyncio.sleep(0.05)
        watch.close()

    try:
        asyncio.run(main())
    except PermissionError:
        pytest.skip("the clock may not be set here")
    return found


def test_a_machine_that_has_slept_is_told_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, 3600.0) == ["resumed", "resumed"]


def test_a_clock_that_was_only_set_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, 0.0) == []
