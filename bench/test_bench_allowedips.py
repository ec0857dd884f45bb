"""ns per lookup in the allowed IPs, by the number of prefixes ("ns" in the extra info), and building the table."""

from __future__ import annotations

from typing import Any

import pytest

from bench.loops import ADDRESSES, loops, measure


@pytest.mark.parametrize("prefixes", [1, 100, 10_000])
@pytest.mark.parametrize("family", [4, 6])
def test_find(benchmark: Any, family: int, prefixes: int) -> None:
    benchmark.group = f"find, IPv{family}"
    assert loops().allowedips_setup(prefixes, family)
    measure(benchmark, loops().allowedips_find, ADDRESSES, rounds=30)


@pytest.mark.parametrize("family", [4, 6])
def test_build_10k(benchmark: Any, family: int) -> None:
    measure(benchmark, lambda: loops().allowedips_setup(10_000, family), 10_000, rounds=5)
