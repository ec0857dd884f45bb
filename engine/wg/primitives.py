"""The functions of paper section 5.4, under their names there: DH, AEAD, XAEAD, HASH, MAC, HMAC, KDF.

Keyed BLAKE2s (`mac`: mac1, mac2, cookies) and HMAC over BLAKE2s (`hmac`: key derivation) are different functions and
are never exchanged for one another. X25519 and the AEADs are libsodium's through PyNaCl, the hashes CPython's.

What is wiped: secrets that outlive one call are kept in bytearrays and overwritten by `wipe`. What Python cannot wipe:
these libraries take and return immutable bytes, so each call leaves short-lived copies that are freed, not overwritten.
Transport keys are never among them: they are derived from the final chaining key in native memory.
"""

from hashlib import blake2s
from hmac import compare_digest
from hmac import digest as _hmac_digest

from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
)
from nacl.exceptions import CryptoError

__all__ = [
    "CryptoError",
    "aead_open",
    "aead_seal",
    "compare_digest",
    "dh",
    "hash_",
    "hmac",
    "kdf1",
    "kdf2",
    "kdf3",
    "mac",
    "public_of",
    "wipe",
    "xaead_open",
    "xaead_seal",
]

# Every handshake key seals exactly one message, so the counter is always 0.
_NONCE = bytes(12)


def public_of(private: bytes) -> bytes:
    """Return the 32-byte X25519 public key of a private one (clamped inside; RFC 7748)."""
    return crypto_scalarmult_base(private)


def dh(private: bytes, public: bytes) -> bytes:
    """Return the X25519 shared secret, 32 bytes. CryptoError when it is all zero (null and low-order keys)."""
    return crypto_scalarmult(private, public)


def hash_(data: bytes) -> bytes:
    """Return BLAKE2s-256 of data (RFC 7693)."""
    return blake2s(data).digest()


def mac(key: bytes, data: bytes) -> bytes:
    """Return keyed BLAKE2s with 16 bytes of output: mac1, mac2 and the cookie itself."""
    return blake2s(data, key=key, digest_size=16).digest()


def hmac(key: bytes | bytearray, data: bytes) -> bytes:
    """Return HMAC-BLAKE2s, 32 bytes (RFC 2104 over RFC 7693)."""
    return _hmac_digest(key, data, blake2s)


def kdf1(key: bytes | bytearray, data: bytes) -> bytes:
    """Return the first output of the paper's KDF (HKDF, RFC 5869)."""
    return hmac(hmac(key, data), b"\x01")


def kdf2(key: bytes | bytearray, data: bytes) -> tuple[bytes, bytes]:
    """Return two outputs of the paper's KDF."""
    secret = hmac(key, data)
    first = hmac(secret, b"\x01")
    return first, hmac(secret, first + b"\x02")


def kdf3(key: bytes | bytearray, data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return three outputs of the paper's KDF."""
    secret = hmac(key, data)
    first = hmac(secret, b"\x01")
    second = hmac(secret, first + b"\x02")
    return first, second, hmac(secret, second + b"\x03")


def aead_seal(key: bytes, plaintext: bytes, ad: bytes) -> bytes:
    """Seal with ChaCha20-Poly1305 under counter 0 (RFC 8439); 16 bytes longer than the plaintext."""
    return crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, ad, _NONCE, key)


def aead_open(key: bytes, ciphertext: bytes, ad: bytes) -> bytes:
    """Open what aead_seal made. CryptoError when it is not authentic."""
    return crypto_aead_chacha20poly1305_ietf_decrypt(ciphertext, ad, _NONCE, key)


def xaead_seal(key: bytes, nonce: bytes, plaintext: bytes, ad: bytes) -> bytes:
    """Seal with XChaCha20-Poly1305 (24-byte random nonce): cookie replies."""
    return crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, ad, nonce, key)


def xaead_open(key: bytes, nonce: bytes, ciphertext: bytes, ad: bytes) -> bytes:
    """Open what xaead_seal made. CryptoError when it is not authentic."""
    return crypto_aead_xchacha20poly1305_ietf_decrypt(ciphertext, ad, nonce, key)


def wipe(*secrets: bytearray) -> None:
    """Overwrite the buffers with zeros, in place."""
    for secret in secrets:
        secret[:] = bytes(len(secret))
