"""What a change of policy costs at the host firewall: rendering, and loading into a real kernel with verification.

    sudo python -m pytest bench/test_bench_firewall.py --benchmark-only

Loading happens in a namespace of its own, from a different policy every time, prepared as in a session.
"""

from collections.abc import Iterator
from itertools import cycle

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from engine.firewall import nftables, pf, wfp
from engine.firewall.nftables import apply
from engine.firewall.nftables.encode import encode
from engine.firewall.nftables.kernel import Access
from engine.leaklab.rights import why_not
from engine.policy import Platform
from tests.netns.lab import Lab
from tests.unit.firewall.golden import POLICIES, for_platform

BLOCKING = [name for name, policy in POLICIES.items() if policy.blocks]
REASON = why_not("wg")


@pytest.fixture(scope="module")
def namespace() -> Iterator[None]:
    with Lab() as lab, lab.namespace("nft").entered():
        yield


@pytest.mark.parametrize("name", BLOCKING)
def test_bench_render_nftables(benchmark: BenchmarkFixture, name: str) -> None:
    benchmark(nftables.render, POLICIES[name])


def test_bench_render_pf(benchmark: BenchmarkFixture) -> None:
    benchmark(pf.render, for_platform("connected-custom-dns", Platform.MACOS))


def test_bench_render_wfp(benchmark: BenchmarkFixture) -> None:
    benchmark(wfp.filters, for_platform("connected-custom-dns", Platform.WINDOWS))


@pytest.mark.parametrize("name", BLOCKING)
def test_bench_encode_nftables(benchmark: BenchmarkFixture, name: str) -> None:
    benchmark(encode, nftables.render(POLICIES[name]))


@pytest.mark.skipif(bool(REASON), reason=f"namespaces are needed, and {REASON}")
@pytest.mark.parametrize("name", BLOCKING)
def test_bench_apply_nftables(benchmark: BenchmarkFixture, namespace: None, name: str) -> None:
    policies = cycle([POLICIES["error"], POLICIES[name]])
    with Access() as access:
        benchmark.pedantic(lambda: apply.apply(next(policies), access=access), rounds=20, warmup_rounds=2)
