"""ns per counter shown to the replay window, in order and out of it ("ns" in the extra info)."""

from __future__ import annotations

from typing import Any

import pytest

from bench.loops import COUNTERS, loops, measure


@pytest.mark.parametrize("loop", ["replay_in_order", "replay_shuffled"])
def test_accept(benchmark: Any, loop: str) -> None:
    measure(benchmark, loops()[loop], COUNTERS, rounds=20)
