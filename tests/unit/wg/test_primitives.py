"""Known answers for every primitive, and agreement with an implementation that shares nothing with ours."""

import json
from pathlib import Path
from random import Random

import pytest

from engine.wg import primitives
from tests import paper

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "primitives.json").read_text())
h = bytes.fromhex


@pytest.mark.parametrize("case", VECTORS["blake2s"]["cases"])
def test_blake2s_gives_the_rfc_7693_digest(case: dict[str, str]) -> None:
    assert primitives.hash_(h(case["data"])) == h(case["digest"])
    assert paper.HASH(h(case["data"])) == h(case["digest"])


def test_the_second_blake2s_passes_the_self_test_of_rfc_7693() -> None:
    def sequence(length: int, seed: int) -> bytes:
        a, b, out = 0xDEAD4BAD * seed & 0xFFFFFFFF, 1, bytearray()
        for _ in range(length):
            a, b = b, (a + b) & 0xFFFFFFFF
            out.append(b >> 24)
        return bytes(out)

    whole = b""
    for size in (16, 20, 28, 32):
        for length in (0, 3, 64, 65, 255, 1024):
            data = sequence(length, length)
            whole += paper.blake2s(data, size=size)
            whole += paper.blake2s(data, sequence(size, size), size)
    assert paper.HASH(whole) == h(VECTORS["blake2s"]["selftest"])


def test_mac_hmac_and_kdf_agree_with_the_second_implementation() -> None:
    random = Random(1)
    for _ in range(20):
        key, data = random.randbytes(32), random.randbytes(random.randrange(200))
        assert primitives.hash_(data) == paper.HASH(data)
        assert primitives.mac(key, data) == paper.MAC(key, data)
        assert primitives.hmac(key, data) == paper.HMAC(key, data)
        assert primitives.hmac(bytearray(key), data) == paper.HMAC(key, data)
        assert [primitives.kdf1(key, data)] == paper.KDF(1, key, data)
        assert list(primitives.kdf2(key, data)) == paper.KDF(2, key, data)
        assert list(primitives.kdf3(key, data)) == paper.KDF(3, key, data)


@pytest.mark.parametrize("case", VECTORS["x25519"]["cases"])
def test_x25519_gives_the_rfc_7748_secret(case: dict[str, str]) -> None:
    assert primitives.dh(h(case["scalar"]), h(case["u"])) == h(case["shared"])


@pytest.mark.parametrize("public", VECTORS["x25519"]["low_order"])
def test_x25519_refuses_null_and_low_order_keys(public: str) -> None:
    with pytest.raises(primitives.CryptoError):
        primitives.dh(Random(2).randbytes(32), h(public))


def test_public_keys_agree_with_openssl() -> None:
    random = Random(3)
    for _ in range(10):
        private = random.randbytes(32)
        assert primitives.public_of(private) == paper.public(private)


def test_aead_gives_the_rfc_8439_ciphertext(monkeypatch: pytest.MonkeyPatch) -> None:
    vector = {name: h(text) for name, text in VECTORS["chacha20poly1305"].items() if name != "source"}
    monkeypatch.setattr(primitives, "_NONCE", vector["nonce"])
    sealed = primitives.aead_seal(vector["key"], vector["plaintext"], vector["ad"])
    assert sealed == vector["sealed"]
    assert primitives.aead_open(vector["key"], sealed, vector["ad"]) == vector["plaintext"]


def test_aead_uses_counter_zero() -> None:
    random = Random(4)
    for length in (0, 12, 32, 100):
        key, plaintext, ad = random.randbytes(32), random.randbytes(length), random.randbytes(32)
        assert primitives.aead_seal(key, plaintext, ad) == paper.AEAD(key, 0, plaintext, ad)


def test_xaead_gives_the_drafts_ciphertext() -> None:
    vector = {name: h(text) for name, text in VECTORS["xchacha20poly1305"].items() if name != "source"}
    sealed = primitives.xaead_seal(vector["key"], vector["nonce"], vector["plaintext"], vector["ad"])
    assert sealed == vector["sealed"]
    assert primitives.xaead_open(vector["key"], vector["nonce"], sealed, vector["ad"]) == vector["plaintext"]


@pytest.mark.parametrize("spoil", range(17))
def test_a_changed_ciphertext_does_not_open(spoil: int) -> None:
    sealed = bytearray(primitives.aead_seal(bytes(32), b"x", b"ad"))
    sealed[spoil] ^= 1
    with pytest.raises(primitives.CryptoError):
        primitives.aead_open(bytes(32), bytes(sealed), b"ad")


def test_wiping_leaves_zeros_in_place() -> None:
    secret = bytearray(b"secret")
    primitives.wipe(secret)
    assert secret == bytes(6)
