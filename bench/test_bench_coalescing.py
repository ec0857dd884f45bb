"""ns per wire packet of splitting a super-packet and of joining packets to one ("ns" in the extra info).

Both compute every checksum: of TCP and UDP when splitting, to verify them when joining.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.loops import loops, measure

SHAPES = {"TCP, 44 x 1368 B": (1, 1368, 44), "UDP, 44 x 1392 B": (0, 1392, 44), "UDP, 64 x 64 B": (0, 64, 64)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("loop", ["split_all", "join_all"])
def test_coalescing(benchmark: Any, loop: str, shape: str) -> None:
    benchmark.group = shape
    assert loops().coalescing_setup(*SHAPES[shape])
    measure(benchmark, loops()[loop], SHAPES[shape][2])
