"""Shadowsocks' UDP packets with an AEAD cipher (SIP004, SIP007), sans-IO:

    salt (32 bytes) || AEAD(subkey, nonce 0, type || address || port || datagram), with a tag of 16 bytes

The subkey is made anew for each packet, HKDF-SHA1 (RFC 5869) of the key with the packet's salt and the info
"ss-subkey"; so the nonce may stay zero. The key is made from the password by OpenSSL's EVP_BytesToKey (MD5, one round,
no salt): a weak password is a weak key, and only a random one hides what this carries. Nothing rests on that: what it
carries is WireGuard, which has its own secrecy and its own protection from replays (this has none).

Outward the address is where the bridge is to send the datagram, inward where it came from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import md5
from hmac import digest

from nacl.bindings import (
    crypto_aead_aes256gcm_decrypt,
    crypto_aead_aes256gcm_encrypt,
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError, UnavailableError

from engine.bridge.settings import BridgeError, Cipher, IPAddress

KEY_BYTES = SALT_BYTES = 32
TAG_BYTES = 16
_NONCE = bytes(12)
_INFO = b"ss-subkey"
_IPV4, _IPV6 = 1, 4

_Aead = Callable[[bytes, bytes | None, bytes, bytes], bytes]


@dataclass(frozen=True)
class _Functions:
    seal: _Aead
    open: _Aead


_CIPHERS = {
    Cipher.CHACHA20_POLY1305: _Functions(
        crypto_aead_chacha20poly1305_ietf_encrypt, crypto_aead_chacha20poly1305_ietf_decrypt
    ),
    Cipher.AES_256_GCM: _Functions(crypto_aead_aes256gcm_encrypt, crypto_aead_aes256gcm_decrypt),
}


def key_of(password: str) -> bytes:
    """EVP_BytesToKey: D1 = MD5(password), D2 = MD5(D1 || password), the key is D1 || D2."""
    secret = password.encode()
    first = md5(secret, usedforsecurity=False).digest()
    return first + md5(first + secret, usedforsecurity=False).digest()


def subkey(key: bytes, salt: bytes) -> bytes:
    """HKDF-SHA1 of 32 bytes: two blocks of 20, cut."""
    secret = digest(salt, key, "sha1")
    first = digest(secret, _INFO + b"\x01", "sha1")
    return (first + digest(secret, first + _INFO + b"\x02", "sha1"))[:KEY_BYTES]


def address_header(ip: IPAddress, port: int) -> bytes:
    """The address as SOCKS5 writes it (RFC 1928, section 5): type, address, port."""
    return bytes([_IPV4 if ip.version == 4 else _IPV6]) + ip.packed + port.to_bytes(2, "big")


class Packets:
    """Seals datagrams for `server` and opens the ones from it. BridgeError: the cipher cannot be had here."""

    def __init__(self, cipher: Cipher, password: str, server: IPAddress, port: int) -> None:
        self._aead = _CIPHERS[cipher]
        self._key = key_of(password)
        self._address = address_header(server, port)
        try:
            self.seal(b"", bytes(SALT_BYTES))
        except UnavailableError:
            raise BridgeError(f"this processor has no instructions for {cipher}: use another cipher") from None

    def seal(self, datagram: bytes, salt: bytes) -> bytes:
        """The packet; `salt` is 32 random bytes, used once."""
        return salt + self._aead.seal(self._address + datagram, None, _NONCE, subkey(self._key, salt))

    def open(self, packet: bytes) -> bytes | None:
        """The datagram; None if the packet is not authentic, or not from the server."""
        if len(packet) < SALT_BYTES + TAG_BYTES + len(self._address):
            return None
        salt = packet[:SALT_BYTES]
        try:
            content = self._aead.open(packet[SALT_BYTES:], None, _NONCE, subkey(self._key, salt))
        except CryptoError:
            return None
        return content[len(self._address) :] if content.startswith(self._address) else None
