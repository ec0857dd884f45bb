"""The burst AEAD against RFC 8439, a readable twin, `cryptography` and PyNaCl."""

import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_decrypt, crypto_aead_chacha20poly1305_ietf_encrypt

from native.aead import KEY_LEN, TAG_LEN, Key, kernel

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "rfc8439_aead.json").read_text())
SECRET = bytes(range(KEY_LEN))
LENGTHS = [*range(2049), 4095, 4096, 4097, 8191, 9001, 16383, 16384, 16385, 65519, 65535]


EXPLAIN = ["molehill", "explain", "--state", "connected", "out udp 10.0.0.1:1 > 1.1.1.1:53"]
KERNELS = ["libcrypto", "avx2", "avx512"]


def key_of(name: str, secret: bytes = SECRET) -> Key:
    """A key for the kernel of that name; skips where the CPU has it not (libcrypto it is then, tested anyway)."""
    try:
        return Key(secret, kernel=name)
    except ValueError:
        pytest.skip(f"this CPU has no {name}")


def nonce_of(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "little")


def chacha20_block(key: bytes, block: int, nonce: bytes) -> bytes:
    """RFC 8439 section 2.3, word by word."""
    start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), block]
    start += struct.unpack("<3I", nonce)
    state = list(start)

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for to, other, turned, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[to] = (state[to] + state[other]) & 0xFFFFFFFF
            mixed = state[turned] ^ state[to]
            state[turned] = (mixed << turn | mixed >> (32 - turn)) & 0xFFFFFFFF

    for _ in range(10):
        for column in range(4):
            quarter(column, 4 + column, 8 + column, 12 + column)
        for column in range(4):
            quarter(column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    return struct.pack("<16I", *((now + then) & 0xFFFFFFFF for now, then in zip(state, start, strict=True)))


def poly1305(key: bytes, message: bytes) -> bytes:
    """RFC 8439 section 2.5."""
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for at in range(0, len(message), 16):
        total = (total + int.from_bytes(message[at : at + 16] + b"\x01", "little")) * r % (2**130 - 5)
    return ((total + int.from_bytes(key[16:], "little")) % 2**128).to_bytes(16, "little")


def twin_seal(key: bytes, nonce: bytes, aad: bytes, plaintext: bytes) -> bytes:
    """RFC 8439 section 2.8."""
    stream = b"".join(chacha20_block(key, 1 + i, nonce) for i in range((len(plaintext) + 63) // 64))
    text = bytes(a ^ b for a, b in zip(plaintext, stream, strict=False))
    padded = b"".join(part + bytes(-len(part) % 16) for part in (aad, text))
    return text + poly1305(chacha20_block(key, 0, nonce)[:32], padded + struct.pack("<QQ", len(aad), len(text)))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_readable_twin_and_cryptography_give_the_answers_of_the_rfc(vector: dict[str, str]) -> None:
    key, nonce, aad, plaintext, text, tag = (bytes.fromhex(hex_) for hex_ in list(vector.values())[1:])
    assert twin_seal(key, nonce, aad, plaintext) == text + tag
    assert ChaCha20Poly1305(key).encrypt(nonce, plaintext, aad) == text + tag


@pytest.mark.parametrize("name", KERNELS)
def test_the_native_cipher_text_is_that_of_the_rfc_where_the_nonce_fits_a_counter(name: str) -> None:
    vector = next(vector for vector in VECTORS if vector["nonce"].startswith("00000000"))
    key, nonce, _, plaintext, text, _ = (bytes.fromhex(hex_) for hex_ in list(vector.values())[1:])
    # The RFC's tag covers associated data, which WireGuard has not; the text does not depend on it.
    counter = int.from_bytes(nonce[4:], "little")
    for sealed in key_of(name, key).seal_burst([(counter, plaintext)] * 16):
        assert sealed[:-TAG_LEN] == text
        assert sealed == twin_seal(key, nonce, b"", plaintext)


@pytest.mark.parametrize("name", KERNELS)
def test_bursts_are_sealed_as_cryptography_seals_and_open_again(name: str) -> None:
    key, reference, rng = key_of(name), ChaCha20Poly1305(SECRET), random.Random(5)
    for n in range(1, 65):
        same = rng.choice([None, 64, 512, 1420])
        plain = [(rng.getrandbits(64), rng.randbytes(same or rng.randrange(2000))) for _ in range(n)]
        sealed = key.seal_burst(plain)
        assert sealed == [reference.encrypt(nonce_of(counter), data, None) for counter, data in plain]
        bad = rng.randrange(n)
        arrived = [(counter, packet) for (counter, _), packet in zip(plain, sealed, strict=True)]
        arrived[bad] = (arrived[bad][0], bytes([sealed[bad][0] ^ 1]) + sealed[bad][1:])
        assert key.open_burst(arrived) == [None if i == bad else data for i, (_, data) in enumerate(plain)]


def run(code: str, asked: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MOLEHILL_AEAD"}
    if asked is not None:
        environment["MOLEHILL_AEAD"] = asked
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True
    )


def test_the_environment_chooses_the_kernel() -> None:
    code = "import native.aead; print(native.aead.kernel())"
    names = []
    for name in KERNELS:
        ran = run(code, name)
        if name == "libcrypto" or ran.returncode == 0:
            assert ran.stdout.strip() == name
            names.append(name)
        else:
            assert "does not support" in ran.stderr
    assert run(code, None).stdout.strip() == names[-1]
    assert kernel() == os.environ.get("MOLEHILL_AEAD", names[-1])


@pytest.mark.parametrize("asked", ["avx1024", "", "AVX2", "libcrypto "])
def test_an_unknown_kernel_is_an_error_and_never_another_one(asked: str) -> None:
    ran = run("import native.session", asked)
    assert ran.returncode == 1
    assert f'ImportError: MOLEHILL_AEAD asks for "{asked}", but this build knows libcrypto' in ran.stderr
    command = run(f"from engine.cli.main import main; import sys; sys.argv = {EXPLAIN}; main()", asked)
    assert command.returncode == 2
    assert command.stderr.startswith(f'molehill: MOLEHILL_AEAD asks for "{asked}"')
    with pytest.raises(ValueError, match="no AEAD kernel 'avx1024'"):
        Key(SECRET, kernel="avx1024")


def test_every_length_is_sealed_as_cryptography_and_pynacl_seal_it() -> None:
    key, reference, rng = Key(SECRET), ChaCha20Poly1305(SECRET), random.Random(1)
    for length in LENGTHS:
        counter, plaintext = rng.getrandbits(64), rng.randbytes(length)
        sealed = key.seal(counter, plaintext)
        assert sealed == reference.encrypt(nonce_of(counter), plaintext, None)
        assert sealed == crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, None, nonce_of(counter), SECRET)


def test_every_length_that_others_sealed_is_opened() -> None:
    key, reference, rng = Key(SECRET), ChaCha20Poly1305(SECRET), random.Random(2)
    for length in LENGTHS:
        counter, plaintext = rng.getrandbits(64), rng.randbytes(length)
        assert key.open(counter, reference.encrypt(nonce_of(counter), plaintext, None)) == plaintext
    sealed = key.seal(2**64 - 1, b"the last counter")
    opened = crypto_aead_chacha20poly1305_ietf_decrypt(sealed, None, nonce_of(2**64 - 1), SECRET)
    assert opened == b"the last counter"


@pytest.mark.parametrize("length", [0, 1, 45, 64, 130])
def test_no_flipped_bit_is_accepted(length: int) -> None:
    key = Key(SECRET)
    sealed = key.seal(7, bytes(length))
    for bit in range(8 * len(sealed)):
        forged = bytearray(sealed)
        forged[bit // 8] ^= 1 << bit % 8
        assert key.open(7, bytes(forged)) is None
    assert key.open(7, sealed) == bytes(length)


def test_another_counter_another_key_and_another_length_are_refused() -> None:
    key = Key(SECRET)
    sealed = key.seal(7, b"sixteen bytes!!!")
    assert key.open(8, sealed) is None
    assert key.open(7 << 32, sealed) is None
    assert Key(bytes(KEY_LEN)).open(7, sealed) is None
    assert key.open(7, sealed[:-1]) is None
    assert key.open(7, sealed + b"\0") is None


@pytest.mark.parametrize("bad", [0, 1, 15, 31])
def test_a_bad_packet_in_a_burst_harms_no_other(bad: int) -> None:
    key, rng = Key(SECRET), random.Random(3)
    plain = [rng.randbytes(rng.randrange(1500)) for _ in range(32)]
    sealed = key.seal_burst(list(enumerate(plain)))
    sealed[bad] = sealed[bad][:-1] + bytes([sealed[bad][-1] ^ 1])
    opened = key.open_burst(list(enumerate(sealed)))
    assert opened == [None if i == bad else packet for i, packet in enumerate(plain)]


def test_a_burst_is_sealed_as_its_packets_are_one_by_one() -> None:
    key, rng = Key(SECRET), random.Random(4)
    burst = [(rng.getrandbits(64), rng.randbytes(rng.randrange(3000))) for _ in range(64)]
    assert key.seal_burst(burst) == [key.seal(counter, packet) for counter, packet in burst]
    assert key.seal_burst([]) == []
    assert key.open_burst([]) == []


@pytest.mark.parametrize("call", [lambda key: key.seal(0, b""), lambda key: key.open(0, bytes(16))])
def test_a_closed_key_refuses(call: Any) -> None:
    key = Key(SECRET)
    key.close()
    key.close()
    with pytest.raises(ValueError, match="closed"):
        call(key)


def test_wrong_lengths_and_counters_are_errors_before_native_code_sees_them() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        Key(bytes(31))
    with pytest.raises(ValueError, match="at least 16 bytes, not 15"):
        Key(SECRET).open(0, bytes(15))
    with pytest.raises(OverflowError):
        Key(SECRET).seal(2**64, b"")
    with pytest.raises(OverflowError):
        Key(SECRET).seal(-1, b"")
