"""ns per packet of sealing and opening, beside the bare libcrypto calls and beside the session around it.

The table of `pytest bench/test_bench_native_aead.py` is of bursts; "ns" in its extra info is of one packet.
Run as a module (`python -m bench.test_bench_native_aead`) it prints the kernels side by side, with libsodium and
`cryptography`, in ns a packet and cycles a byte: each number the best of many short bursts, all in turn, so that what
else the machine does meets them alike.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import nacl._sodium
import nacl.bindings
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

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


KERNELS = ("libcrypto", "avx2", "avx512")
TABLE_LENGTHS = (64, 256, 512, 1024, 1420, 8192)
TABLE_BURSTS = (1, 4, 8, 16, 42)


@pytest.mark.parametrize("n", TABLE_BURSTS)
@pytest.mark.parametrize("length", TABLE_LENGTHS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel(benchmark: Any, kernel: str, length: int, n: int) -> None:
    benchmark.group = f"{n} x {length} B"
    if not loops().kernel_setup(kernel.encode(), length):
        pytest.skip(f"this CPU has no {kernel}")
    measure(benchmark, partial(loops().kernel_seal, n), n, rounds=200)


def _encrypt_into(length: int, n: int) -> int:
    """`cryptography` as fast as Python can call it: one buffer, a new nonce each packet. ns of n packets."""
    aead, plain, out = ChaCha20Poly1305(bytes(32)), bytes(length), bytearray(length + 16)
    nonces = [bytes(4) + i.to_bytes(8, "little") for i in range(n)]
    begin = time.perf_counter_ns()
    for nonce in nonces:
        aead.encrypt_into(nonce, plain, None, out)
    return time.perf_counter_ns() - begin


def table(rounds: int = 100) -> None:
    """Print the table. The clock of the cycles is taken from a chain of dependent additions, in the same run."""
    native = loops()
    native.burst_ns.restype = ctypes.c_uint64
    assert native.sodium_setup(nacl._sodium.__file__.encode())
    clock_ns = min(_timed(native.million_cycles) for _ in range(50)) / 1e6
    print(f"ns a packet (cycles a byte at {1 / clock_ns:.2f} GHz)")
    seal, open_, sodium = range(3)
    subjects = {
        **{kernel: (kernel, seal) for kernel in KERNELS},
        **{f"{kernel} open": (kernel, open_) for kernel in KERNELS[1:]},
        "libsodium": ("libcrypto", sodium),
    }
    for length in TABLE_LENGTHS:
        for n in TABLE_BURSTS:
            best: dict[str, float] = {}
            for _ in range(rounds):
                for name, (kernel, what) in subjects.items():
                    if native.kernel_setup(kernel.encode(), length):
                        native.burst_ns(what, n)
                        best[name] = min([native.burst_ns(what, n) / n for _ in range(3)] + [best.get(name, 1e18)])
                best["cryptography"] = min(best.get("cryptography", 1e18), _encrypt_into(length, n) / n)
            assert all(best.values())
            cells = (f"{name} {ns:.0f} ({ns / clock_ns / length:.2f})" for name, ns in best.items())
            print(f"{length:5} B x {n:2}:  " + "  ".join(cells), flush=True)


def _timed(call: Callable[[], object]) -> int:
    begin = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - begin


if __name__ == "__main__":
    table()
