"""Every reason for which a packet is dropped, as an enum over the native list (native/src/reasons.h).

The same word stands in counters, `explain`, captures, metrics and the docs.
"""

import enum

from native._native import ffi, lib


class Reason(enum.IntEnum):
    """Why a packet was dropped; NONE: it was not."""

    NONE = 0
    NO_POLICY = 1
    POLICY = 2
    MALFORMED = 3
    FRAGMENT_UNKNOWN = 4
    FRAGMENT_BAD = 5
    NO_PEER = 6
    NO_ENDPOINT = 7
    STAGE_FULL = 8
    STAGE_EXPIRED = 9
    LOOP = 10
    TOO_BIG = 11
    UNKNOWN_TYPE = 12
    UNKNOWN_INDEX = 13
    SESSION_EXPIRED = 14
    AUTH = 15
    REPLAY = 16
    SOURCE = 17
    CHECKSUM = 18
    RING_FULL = 19
    UDP_SEND = 20
    TUN_WRITE = 21
    UNKNOWN_PEER = 22
    NO_COOKIE = 23
    RATE_LIMIT = 24
    ECN = 25

    @property
    def word(self) -> str:
        """The reason in one word, e.g. "source-not-allowed"."""
        return _text(lib.mh_reason_word(self.value))

    @property
    def meaning(self) -> str:
        """The reason in half a sentence."""
        return _text(lib.mh_reason_meaning(self.value))


def _text(chars: object) -> str:
    return bytes(ffi.string(chars)).decode("ascii")


_native = [_text(lib.mh_reason_name(number)) for number in range(lib.MH_REASON_COUNT)]
if _native != [reason.name for reason in Reason]:
    raise ImportError(f"native/reasons.py does not list the reasons of native/src/reasons.h: {_native}")
