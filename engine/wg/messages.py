"""The four messages on the wire (paper 5.4.1-5.4.7): strict about type, reserved bytes and length.

    initiation    148 = type 4 | sender 4 | ephemeral 32 | static 32+16 | timestamp 12+16 | mac1 16 | mac2 16
    response       92 = type 4 | sender 4 | receiver 4 | ephemeral 32 | empty 0+16 | mac1 16 | mac2 16
    cookie reply   64 = type 4 | receiver 4 | nonce 24 | cookie 16+16
    data          32+ = type 4 | receiver 4 | counter 8 | packet n+16

All integers are little-endian. The type byte with its three reserved zero bytes is read as one 32-bit number, so a
reserved byte that is not zero makes it an unknown type. The two MACs are handled by `cookie`, not here: what is built
here ends before them.
"""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct


class MessageType(IntEnum):
    """The first four bytes of a message."""

    INITIATION = 1
    RESPONSE = 2
    COOKIE_REPLY = 3
    DATA = 4


INITIATION_LENGTH = 148
RESPONSE_LENGTH = 92
COOKIE_REPLY_LENGTH = 64
DATA_HEADER_LENGTH = 16
DATA_MIN_LENGTH = 32
MAC_LENGTH = 16
MACS_LENGTH = 2 * MAC_LENGTH

_INITIATION = Struct("<II32s48s28s")
_RESPONSE = Struct("<III32s16s")
_COOKIE_REPLY = Struct("<II24s32s")
_RECEIVER = Struct("<4xI")

_LENGTHS = {
    INITIATION_LENGTH: MessageType.INITIATION,
    RESPONSE_LENGTH: MessageType.RESPONSE,
    COOKIE_REPLY_LENGTH: MessageType.COOKIE_REPLY,
}


def classify(datagram: bytes) -> MessageType | None:
    """Return what a datagram claims to be, if its length fits that claim; else None."""
    head = datagram[:4]
    if head == b"\x04\x00\x00\x00":
        return MessageType.DATA if len(datagram) >= DATA_MIN_LENGTH else None
    kind = _LENGTHS.get(len(datagram))
    if kind is None or head != kind.to_bytes(4, "little"):
        return None
    return kind


def receiver_of(message: bytes) -> int:
    """Return the receiver index of a classified cookie reply or data message."""
    index: int = _RECEIVER.unpack_from(message)[0]
    return index


@dataclass(frozen=True, slots=True)
class Initiation:
    """First message, initiator to responder, without its MACs."""

    sender: int
    ephemeral: bytes
    static: bytes
    timestamp: bytes

    @classmethod
    def parse(cls, message: bytes) -> "Initiation":
        """Read a message that was classified as an initiation."""
        return cls(*_INITIATION.unpack_from(message)[1:])

    def build(self) -> bytes:
        """Return the 116 bytes that mac1 covers."""
        return _INITIATION.pack(MessageType.INITIATION, self.sender, self.ephemeral, self.static, self.timestamp)


@dataclass(frozen=True, slots=True)
class Response:
    """Second message, responder to initiator, without its MACs."""

    sender: int
    receiver: int
    ephemeral: bytes
    empty: bytes

    @classmethod
    def parse(cls, message: bytes) -> "Response":
        """Read a message that was classified as a response."""
        return cls(*_RESPONSE.unpack_from(message)[1:])

    def build(self) -> bytes:
        """Return the 60 bytes that mac1 covers."""
        return _RESPONSE.pack(MessageType.RESPONSE, self.sender, self.receiver, self.ephemeral, self.empty)


@dataclass(frozen=True, slots=True)
class CookieReply:
    """A loaded responder's answer: come again with this cookie as the key of mac2."""

    receiver: int
    nonce: bytes
    cookie: bytes

    @classmethod
    def parse(cls, message: bytes) -> "CookieReply":
        """Read a message that was classified as a cookie reply."""
        return cls(*_COOKIE_REPLY.unpack_from(message)[1:])

    def build(self) -> bytes:
        """Return the whole 64-byte message."""
        return _COOKIE_REPLY.pack(MessageType.COOKIE_REPLY, self.receiver, self.nonce, self.cookie)
