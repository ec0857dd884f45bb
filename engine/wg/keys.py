"""Keys as text: base64 in files and on command lines, hex in the UAPI text.

A key is 32 bytes. Decoding is strict (exact length, canonical padding bits), so that every key has one
spelling and a mistyped one is refused; no error text ever repeats what it was given, for it may be most of a
private key.
"""

import base64
import binascii
from typing import Final

from nacl import bindings

KEY_LEN: Final = 32
ZERO_KEY: Final = bytes(KEY_LEN)  # in the UAPI and in `wg set`: "no key"


def key_from_base64(text: str) -> bytes:
    """Decode the 44 characters that `wg genkey` prints; ValueError (without the text) for all else."""
    try:
        key = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("a key is 44 characters of base64, as `wg genkey` prints it") from None
    if len(key) != KEY_LEN or base64.b64encode(key).decode() != text:
        raise ValueError("a key is 44 characters of base64, as `wg genkey` prints it")
    return key


def key_to_base64(key: bytes) -> str:
    """The text of a key in files: 44 characters of base64."""
    return base64.b64encode(key).decode()


def key_from_hex(text: str) -> bytes:
    """Decode the 64 hexadecimal digits of the UAPI text; ValueError (without the text) for all else."""
    try:
        key = binascii.unhexlify(text)
    except ValueError:  # binascii.Error is one; so is a character outside ASCII
        raise ValueError("a key is 64 hexadecimal digits") from None
    if len(key) != KEY_LEN:
        raise ValueError("a key is 64 hexadecimal digits")
    return key


def clamp(key: bytes) -> bytes:
    """The scalar that X25519 really uses for these 32 bytes (RFC 7748, section 5), and that `wg` shows."""
    return bytes([key[0] & 248]) + key[1:31] + bytes([key[31] & 127 | 64])


def public_key(private_key: bytes) -> bytes:
    """The public key (32 bytes) of a private key."""
    return bindings.crypto_scalarmult_base(private_key)
