"""ChaCha20-Poly1305 (RFC 8439) with WireGuard's nonce and empty associated data, over bursts.

The nonce is 4 zero bytes and the 64-bit little-endian counter (paper 5.4.6). The data path calls the same C code
(native/src/aead.c) without Python; this wrapper is for tests, benchmarks and tools.

Bursts are sealed and opened by the best kernel that the CPU has: "avx512" or "avx2", which work on many packets at
once, or "libcrypto". The environment variable MOLEHILL_AEAD asks for one of them by name; if it cannot be had,
importing `native` fails.
"""

from collections.abc import Sequence
from typing import Any

from native._native import ffi, lib

KEY_LEN = 32
TAG_LEN = 16


def kernel() -> str:
    """Return the name of the kernel that new keys use ("none" in the benchmark's build without cryptography)."""
    name: bytes = ffi.string(lib.mh_aead_kernel())
    return name.decode()


class Key:
    """One key with its cipher contexts, in native memory; wiped by close() or with the last reference.

    Not for several threads at a time.
    """

    def __init__(self, key: bytes, *, kernel: str | None = None) -> None:
        """Take a key of 32 bytes, for the chosen kernel or for another one by name.

        ValueError: another length, or a kernel that is not there. MemoryError: libcrypto refused.
        """
        if len(key) != KEY_LEN:
            raise ValueError(f"a ChaCha20-Poly1305 key has {KEY_LEN} bytes, not {len(key)}")
        if kernel is None:
            handle = lib.mh_aead_key_new(ffi.from_buffer(key))
        else:
            handle = lib.mh_aead_key_new_with(kernel.encode(), ffi.from_buffer(key))
            if handle == ffi.NULL and kernel != "libcrypto":
                raise ValueError(f"there is no AEAD kernel {kernel!r} on this machine")
        if handle == ffi.NULL:
            raise MemoryError("libcrypto has no ChaCha20-Poly1305, or no memory")
        self._handle = ffi.gc(handle, lib.mh_aead_key_free)

    def close(self) -> None:
        """Wipe the key. Every later call is a ValueError."""
        self._handle = None

    def seal(self, counter: int, plaintext: bytes) -> bytes:
        """Return ciphertext and tag (16 bytes more than plaintext)."""
        (sealed,) = self.seal_burst([(counter, plaintext)])
        return sealed

    def open(self, counter: int, sealed: bytes) -> bytes | None:
        """Return the plaintext, or None if it is not authentic."""
        (plaintext,) = self.open_burst([(counter, sealed)])
        return plaintext

    def seal_burst(self, burst: Sequence[tuple[int, bytes]]) -> list[bytes]:
        """Seal (counter, plaintext) pairs by one native call. RuntimeError: libcrypto failed."""
        jobs, buffers = _jobs([(counter, data + bytes(TAG_LEN)) for counter, data in burst])
        if lib.mh_aead_seal(self._open_handle(), jobs, len(burst)) != len(burst):
            raise RuntimeError("libcrypto failed to seal")
        return [bytes(ffi.buffer(buffer)) for buffer in buffers]

    def open_burst(self, burst: Sequence[tuple[int, bytes]]) -> list[bytes | None]:
        """Open (counter, ciphertext and tag) pairs by one native call; None for each that is not authentic.

        ValueError: one is shorter than a tag.
        """
        jobs, buffers = _jobs(burst)
        lib.mh_aead_open(self._open_handle(), jobs, len(burst))
        return [
            bytes(ffi.buffer(buffer, job.len)) if job.ok else None for job, buffer in zip(jobs, buffers, strict=True)
        ]

    def _open_handle(self) -> Any:
        if self._handle is None:
            raise ValueError("this key is closed")
        return self._handle


def _jobs(burst: Sequence[tuple[int, bytes]]) -> tuple[Any, list[Any]]:
    """Native jobs over copies of (counter, data with room for or with a tag); the buffers must outlive the jobs."""
    jobs = ffi.new("mh_aead_job[]", len(burst))
    buffers = []
    for job, (counter, data) in zip(jobs, burst, strict=True):
        if len(data) < TAG_LEN:
            raise ValueError(f"a sealed packet has at least {TAG_LEN} bytes, not {len(data)}")
        buffer = ffi.new("uint8_t[]", len(data))
        ffi.memmove(buffer, data, len(data))
        buffers.append(buffer)
        job.data, job.len, job.counter = buffer, len(data) - TAG_LEN, counter
    return jobs, buffers
