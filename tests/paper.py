"""A second WireGuard handshake, written from the paper alone (sections 5.4.1-5.4.7), to check the engine's against.

Shares nothing with it: BLAKE2s is written out from RFC 7693, HMAC from RFC 2104, X25519 and ChaCha20-Poly1305 are
OpenSSL's through `cryptography` (the engine uses libsodium and hashlib). Slow, straight, and named as in the paper.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

_IV = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
_SIGMA = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
    [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
    [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
    [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
    [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
    [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
    [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
    [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
]
_MIX = [
    (0, 4, 8, 12),
    (1, 5, 9, 13),
    (2, 6, 10, 14),
    (3, 7, 11, 15),
    (0, 5, 10, 15),
    (1, 6, 11, 12),
    (2, 7, 8, 13),
    (3, 4, 9, 14),
]


def blake2s(data: bytes, key: bytes = b"", size: int = 32) -> bytes:
    h = list(_IV)
    h[0] ^= 0x01010000 ^ (len(key) << 8) ^ size
    if key:
        data = key.ljust(64, b"\0") + data
    blocks = [data[i : i + 64] for i in range(0, len(data), 64)] or [b""]
    counted = 0
    for block in blocks:
        counted += len(block)
        m = struct.unpack("<16I", block.ljust(64, b"\0"))
        v = h + _IV
        v[12] ^= counted & 0xFFFFFFFF
        v[13] ^= counted >> 32
        if block is blocks[-1]:
            v[14] ^= 0xFFFFFFFF
        for row in _SIGMA:
            for i, (a, b, c, d) in enumerate(_MIX):
                for word, turn_d, turn_b in ((m[row[2 * i]], 16, 12), (m[row[2 * i + 1]], 8, 7)):
                    v[a] = (v[a] + v[b] + word) & 0xFFFFFFFF
                    v[d] = _rotate(v[d] ^ v[a], turn_d)
                    v[c] = (v[c] + v[d]) & 0xFFFFFFFF
                    v[b] = _rotate(v[b] ^ v[c], turn_b)
        h = [x ^ v[i] ^ v[i + 8] for i, x in enumerate(h)]
    return struct.pack("<8I", *h)[:size]


def _rotate(x: int, n: int) -> int:
    return (x >> n | x << (32 - n)) & 0xFFFFFFFF


def HASH(data: bytes) -> bytes:
    return blake2s(data)


def MAC(key: bytes, data: bytes) -> bytes:
    return blake2s(data, key, 16)


def HMAC(key: bytes, data: bytes) -> bytes:
    key = (blake2s(key) if len(key) > 64 else key).ljust(64, b"\0")
    return blake2s(bytes(x ^ 0x5C for x in key) + blake2s(bytes(x ^ 0x36 for x in key) + data))


def KDF(n: int, key: bytes, data: bytes) -> list[bytes]:
    secret, out, last = HMAC(key, data), [], b""
    for i in range(1, n + 1):
        last = HMAC(secret, last + bytes([i]))
        out.append(last)
    return out


def AEAD(key: bytes, counter: int, plaintext: bytes, ad: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(struct.pack("<IQ", 0, counter), plaintext, ad)


def AEAD_open(key: bytes, counter: int, sealed: bytes, ad: bytes) -> bytes:
    return ChaCha20Poly1305(key).decrypt(struct.pack("<IQ", 0, counter), sealed, ad)


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def DH(private: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


C0 = HASH(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
H0 = HASH(C0 + b"WireGuard v1 zx2c4 Jason@zx2c4.com")


def with_macs(message: bytes, receiver_public: bytes, cookie: bytes = b"") -> bytes:
    message += MAC(HASH(b"mac1----" + receiver_public), message)
    return message + (MAC(cookie, message) if cookie else bytes(16))


@dataclass
class Handshake:
    """Both roles at once: everything that must be known to make both messages, and what comes out."""

    initiator_static: bytes
    responder_static: bytes
    initiator_ephemeral: bytes
    responder_ephemeral: bytes
    preshared_key: bytes
    timestamp: bytes
    initiator_index: int
    responder_index: int

    def initiation(self) -> bytes:
        S_i, S_r, E_i = (
            public(key) for key in (self.initiator_static, self.responder_static, self.initiator_ephemeral)
        )
        C, H = C0, HASH(H0 + S_r)
        C = KDF(1, C, E_i)[0]
        H = HASH(H + E_i)
        C, k = KDF(2, C, DH(self.initiator_ephemeral, S_r))
        static = AEAD(k, 0, S_i, H)
        H = HASH(H + static)
        C, k = KDF(2, C, DH(self.initiator_static, S_r))
        timestamp = AEAD(k, 0, self.timestamp, H)
        self.H = HASH(H + timestamp)
        self.C = C
        head = b"\x01\0\0\0" + struct.pack("<I", self.initiator_index)
        return with_macs(head + E_i + static + timestamp, S_r)

    def response(self) -> bytes:
        """Call initiation() first."""
        S_i, E_i, E_r = (
            public(key) for key in (self.initiator_static, self.initiator_ephemeral, self.responder_ephemeral)
        )
        C = KDF(1, self.C, E_r)[0]
        H = HASH(self.H + E_r)
        C = KDF(1, C, DH(self.responder_ephemeral, E_i))[0]
        C = KDF(1, C, DH(self.responder_ephemeral, S_i))[0]
        C, tau, k = KDF(3, C, self.preshared_key)
        H = HASH(H + tau)
        self.final = C
        head = b"\x02\0\0\0" + struct.pack("<II", self.responder_index, self.initiator_index)
        return with_macs(head + E_r + AEAD(k, 0, b"", H), S_i)

    def transport_keys(self) -> tuple[bytes, bytes]:
        """Initiator to responder, responder to initiator."""
        first, second = KDF(2, self.final, b"")
        return first, second


def data_message(key: bytes, receiver: int, counter: int, packet: bytes) -> bytes:
    return struct.pack("<IIQ", 4, receiver, counter) + AEAD(key, counter, packet, b"")


def open_data(key: bytes, message: bytes) -> bytes:
    counter = struct.unpack_from("<Q", message, 8)[0]
    return AEAD_open(key, counter, message[16:], b"")
