"""ns per packet of sealing and opening, beside the bare libcrypto calls and beside the session around it.

The table of `pytest bench/test_bench_native_aead.py` is of bursts; "ns" in its extra info is of one packet.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.loops import BURST, loops, measure

LENGTHS = [64, 512, 1420, 16384]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("loop", ["raw_seal", "aead_seal", "session_seal"])
def test_seal(benchmark: Any, loop: str, length: int) -> None:
    benchmark.group = f"seal {length} B"
    assert loops().burst_setup(length)
    measure(benchmark, loops()[loop], BURST)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("layer", ["aead", "session"])
def test_open(benchmark: Any, layer: str, length: int) -> None:
    benchmark.group = f"open {length} B"
    assert loops().burst_setup(length)
    measure(benchmark, loops()[f"{layer}_open"], BURST, setup=loops()[f"{layer}_seal"])
