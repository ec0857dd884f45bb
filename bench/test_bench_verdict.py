"""What a verdict costs: 4096 distinct flows, every tenth a DNS query, under the longest list of rules there is:
Connected with a bridge, the local network, public and local DNS servers.

    python -m pytest bench/test_bench_verdict.py --benchmark-only

One round judges all flows (the loop is C, see verdict_loop.c): divide by FLOWS, or read `ns per packet` in the
extra info. Compiling and loading a policy is measured from Python, as the service does it.
"""

import ctypes
import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.connected import CONNECTED
from engine.filter import PASS_ALL, compile_policy, compile_rules
from engine.policy import rules_for
from native._build_native import CFLAGS
from native.verdict import Program

ROOT = Path(__file__).resolve().parents[1]
FLOWS = 4096
ROUNDS = 20


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The loop with parser and judge, built as the shipped module is."""
    target = tmp_path_factory.mktemp("bench") / "verdict_loop.so"
    sources = [ROOT / "bench/verdict_loop.c", *(ROOT / "native/src" / name for name in ("parse.c", "verdict.c"))]
    flags = [flag for flag in CFLAGS if "visibility" not in flag]
    subprocess.run(
        ["cc", *flags, "-fPIC", "-shared", f"-I{ROOT / 'native/src'}", *map(str, sources), "-o", str(target)],
        check=True,
    )
    loaded = ctypes.CDLL(str(target))
    loaded.mh_program_load.restype = ctypes.c_void_p
    loaded.bench_loop.restype = ctypes.c_uint64
    return loaded


def flows(version: int, seed: int = 1) -> list[bytes]:
    """TCP and UDP packets between random addresses and ports."""
    random.seed(seed)
    packets = []
    for number in range(FLOWS):
        port = 53 if number % 10 == 0 else random.choice([443, 80, random.randrange(65536)])
        tcp = number % 2
        body = struct.pack(">HH", random.randrange(1024, 65536), port)
        body += bytes(8) + b"\x50" + bytes(7) if tcp else b"\0\x10" + bytes(10)
        proto = 6 if tcp else 17
        if version == 4:
            head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, proto, 0)
            packets.append(head + random.randbytes(8) + body)
        else:
            head = struct.pack(">IHBB", 6 << 28, len(body), proto, 64)
            packets.append(head + random.randbytes(32) + body)
    random.shuffle(packets)
    return packets


@pytest.mark.parametrize("what", ["parse", "parse and judge", "judge"])
@pytest.mark.parametrize("ip", ["v4", "v6", "mixed"])
def test_verdicts(benchmark: BenchmarkFixture, library: ctypes.CDLL, ip: str, what: str) -> None:
    packets = {
        "v4": lambda: flows(4),
        "v6": lambda: flows(6),
        "mixed": lambda: [a if i % 3 else b for i, (a, b) in enumerate(zip(flows(4), flows(6), strict=True))],
    }[ip]()
    offsets = [0]
    for packet in packets:
        offsets.append(offsets[-1] + len(packet))
    code = compile_policy(CONNECTED).code
    arguments = (
        ctypes.c_void_p(library.mh_program_load(code, len(code))),
        b"".join(packets),
        (ctypes.c_uint32 * len(offsets))(*offsets),
        ctypes.create_string_buffer(library.bench_facts_size() * FLOWS),
        FLOWS,
    )
    assert library.bench_loop(*arguments, 1, 1) != 2**64 - 1
    number = ["parse", "parse and judge", "judge"].index(what)
    benchmark.pedantic(library.bench_loop, args=(*arguments, ROUNDS, number), rounds=20, warmup_rounds=2)
    if benchmark.stats is not None:  # None under --benchmark-disable
        benchmark.extra_info["ns per packet, best"] = round(benchmark.stats.stats.min / FLOWS / ROUNDS * 1e9, 1)
        benchmark.extra_info["ns per packet, median"] = round(benchmark.stats.stats.median / FLOWS / ROUNDS * 1e9, 1)


@pytest.mark.parametrize(
    "make", [lambda: compile_rules(rules_for(CONNECTED)), lambda: PASS_ALL], ids=["compile", "cached"]
)
def test_from_policy_to_loaded_program(benchmark: BenchmarkFixture, make: Callable[[], bytes]) -> None:
    assert benchmark(lambda: Program(make())).rules > 0
