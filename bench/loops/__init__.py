"""Native loops for the benchmarks: bench/loops/*.c and the sources they measure, as one library for ctypes.

Built into build/bench when a source has changed, with the flags of the shipped module.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from native._build_native import CFLAGS

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "build" / "bench" / "loops.so"
MODULES = (
    *("aead", "aead_libcrypto", "aead_wide", "chacha20_avx512", "poly1305_avx512", "chacha20_avx2", "poly1305_avx2"),
    *("allowedips", "kdf", "replay", "session"),
    *("checksum", "offload", "parse"),
)

BURST, COUNTERS, ADDRESSES = 64, 100_000, 65_536
"""How many packets, counters or addresses one round of a loop handles (as in loops.c)."""


@cache
def loops() -> ctypes.CDLL:
    """The library, built when it is missing or older than its sources."""
    source = ROOT / "native" / "src"
    sources = [*Path(__file__).parent.glob("*.c"), *(source / f"{module}.c" for module in MODULES)]
    newest = max(path.stat().st_mtime for path in [*sources, *source.glob("*.h")])
    if not LIBRARY.exists() or LIBRARY.stat().st_mtime < newest:
        LIBRARY.parent.mkdir(parents=True, exist_ok=True)
        flags = [flag for flag in CFLAGS if flag != "-fvisibility=hidden"]
        subprocess.run(
            ["gcc", *flags, "-shared", "-fPIC", f"-I{source}", *sources, "-lcrypto", "-ldl", "-o", LIBRARY], check=True
        )
    return ctypes.CDLL(str(LIBRARY))


def measure(
    benchmark: Any, loop: Callable[[], int], each: int, setup: Callable[[], int] | None = None, rounds: int = 400
) -> None:
    """Measure a loop that handles `each` items a round; the table's "ns" is of the best round, for one item."""

    def prepare() -> None:
        if setup is not None:
            assert setup()

    assert benchmark.pedantic(loop, setup=prepare, rounds=rounds, warmup_rounds=2)
    if benchmark.stats is not None:  # None under --benchmark-disable
        benchmark.extra_info["ns"] = round(benchmark.stats.stats.min * 1e9 / each, 1)
