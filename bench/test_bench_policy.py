"""What a change of policy costs in the datapath: compile, and publish while a thread judges packets; and an audit.

    python -m pytest bench/test_bench_policy.py --benchmark-only

`publish` returns when no packet is judged by the former policy any more, so its time is the swap. The nftables side is
in test_bench_firewall.py, the verdict itself in test_bench_verdict.py.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.connected import CONNECTED
from bench.test_bench_verdict import FLOWS, flows
from engine.explain.capture import audit
from engine.filter import compile_policy, compile_rules
from engine.policy import Policy, State, rules_for
from tests.unit.native.pair import Side, connected

STATES: dict[str, Policy] = {
    "disconnected": replace(CONNECTED, state=State.DISCONNECTED),
    "disconnected, VPN required": replace(CONNECTED, state=State.DISCONNECTED, always_require_vpn=True),
    "connecting": replace(CONNECTED, state=State.CONNECTING),
    "connected": CONNECTED,
    "disconnecting": replace(CONNECTED, state=State.DISCONNECTING, kept=State.CONNECTED),
    "error": replace(CONNECTED, state=State.ERROR),
}
PACKETS = 200_000


@pytest.fixture(scope="module")
def side() -> Iterator[Side]:
    """A datapath whose thread runs."""
    with connected() as (a, _):
        a.path.start()
        yield a


@pytest.mark.parametrize("name", STATES)
def test_bench_compile(benchmark: BenchmarkFixture, name: str) -> None:
    assert benchmark(lambda: compile_rules(rules_for(STATES[name])))


@pytest.mark.parametrize("name", STATES)
def test_bench_publish(benchmark: BenchmarkFixture, side: Side, name: str) -> None:
    codes = cycle([compile_policy(STATES[name]).code, compile_policy(STATES["error"]).code])
    benchmark(lambda: side.publish(next(codes)))


@pytest.mark.parametrize("name", STATES)
def test_bench_compile_and_publish(benchmark: BenchmarkFixture, side: Side, name: str) -> None:
    benchmark(lambda: side.publish(compile_rules(rules_for(STATES[name]))))


def test_bench_audit(benchmark: BenchmarkFixture) -> None:
    """A capture in memory: link layer, parse, verdict, flow table."""
    assert CONNECTED.tunnel is not None
    local = CONNECTED.tunnel.addresses
    ethernet = b"\2\0\0\0\0\1\2\0\0\0\0\5\x08\0"
    frames = [ethernet + packet[:12] + local[0].packed + packet[16:] for packet in flows(4)]
    records = b"".join(struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame for frame in frames)
    data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1) + records * (PACKETS // FLOWS)

    def judged() -> int:
        return sum(row.packets for row in audit(io.BytesIO(data), CONNECTED, local, None).rows)

    assert benchmark.pedantic(judged, rounds=5) == PACKETS // FLOWS * FLOWS
    if benchmark.stats is not None:  # None under --benchmark-disable
        seconds = benchmark.stats.stats.min
        benchmark.extra_info["packets per second, best"] = round(PACKETS // FLOWS * FLOWS / seconds)
