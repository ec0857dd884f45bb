"""The packet format, held to an independent implementation of its parts; the whole meets ss-server in tests/netns."""

from __future__ import annotations

import hashlib
from ipaddress import ip_address

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from engine.bridge.settings import BridgeSettings, Cipher
from engine.bridge.shadowsocks import Packets, address_header, key_of

SERVER4, SERVER6 = (ip_address("198.51.100.10"), 51820), (ip_address("2001:db8:100::10"), 51820)
SALT = bytes(range(32))


def theirs(cipher: Cipher, password: str, salt: bytes) -> AESGCM | ChaCha20Poly1305:
    """The AEAD of one packet, by OpenSSL."""
    key = b""
    block = b""
    while len(key) < 32:
        block = hashlib.md5(block + password.encode()).digest()
        key += block
    subkey = HKDF(hashes.SHA1(), 32, salt, b"ss-subkey").derive(key[:32])  # the format's own hash
    return ChaCha20Poly1305(subkey) if cipher is Cipher.CHACHA20_POLY1305 else AESGCM(subkey)


@pytest.mark.parametrize("cipher", Cipher)
@pytest.mark.parametrize("server", [SERVER4, SERVER6])
@given(st.text(min_size=1, max_size=40), st.binary(max_size=1500), st.binary(min_size=32, max_size=32))
def test_sealed_here_is_opened_there_and_back(
    cipher: Cipher, server: tuple[object, int], password: str, datagram: bytes, salt: bytes
) -> None:
    ip, port = ip_address(str(server[0])), server[1]
    packets, aead = Packets(cipher, password, ip, port), theirs(cipher, password, salt)
    packet = packets.seal(datagram, salt)
    head = address_header(ip, port)
    assert (packet[:32], aead.decrypt(bytes(12), packet[32:], None)) == (salt, head + datagram)
    assert packets.open(salt + aead.encrypt(bytes(12), head + datagram, None)) == datagram
    settings = BridgeSettings.parse("shadowsocks:203.0.113.9:8388", "secret")
    assert len(packet) - len(datagram) == settings.overhead(ip)


def test_the_key_of_a_password_is_openssls() -> None:
    """openssl enc -aes-256-cfb -md md5 -nosalt -P -k foobar"""
    assert key_of("foobar").hex() == "3858f62230ac3c915f300c664312c63f568378529614d22ddb49237d2f60bfdf"


def test_the_address_is_written_as_socks5_has_it() -> None:
    assert address_header(*SERVER4).hex() == "01c633640aca6c"
    assert address_header(*SERVER6).hex() == "0420010db8010000000000000000000010ca6c"


@pytest.mark.parametrize("cipher", Cipher)
def test_what_was_changed_cut_sealed_by_another_password_or_comes_from_another_server_is_refused(
    cipher: Cipher,
) -> None:
    packets = Packets(cipher, "secret", *SERVER4)
    packet = packets.seal(b"datagram", SALT)
    assert packets.open(packet) == b"datagram"
    assert [packets.open(packet[:n]) for n in range(len(packet))] == [None] * len(packet)
    assert all(packets.open(packet[:n] + bytes([packet[n] ^ 1]) + packet[n + 1 :]) is None for n in range(len(packet)))
    assert packets.open(Packets(cipher, "other", *SERVER4).seal(b"datagram", SALT)) is None
    assert packets.open(Packets(cipher, "secret", SERVER4[0], 51821).seal(b"datagram", SALT)) is None
    assert packets.open(Packets(cipher, "secret", *SERVER6).seal(b"datagram", SALT)) is None


@given(st.binary(max_size=200))
def test_garbage_is_refused(packet: bytes) -> None:
    assert Packets(Cipher.CHACHA20_POLY1305, "secret", *SERVER4).open(packet) is None
