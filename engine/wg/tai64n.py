"""TAI64N timestamps: 12 bytes whose order as bytes is their order in time (paper 5.1; cr.yp.to/libtai/tai64.html).

The responder remembers each peer's greatest timestamp and takes only greater ones, so an old initiation cannot be
replayed. The initiator rounds down to TIMESTAMP_GRAIN, and never goes backwards for a peer when the clock does.
"""

from struct import Struct

from engine.wg.constants import TIMESTAMP_GRAIN

LENGTH = 12
ZERO = bytes(LENGTH)
"""Before every timestamp."""

_FORMAT = Struct(">QI")
# TAI64 counts from 2^62; it was 10 s ahead of UTC in 1970. Leap seconds are ignored, as the kernel does.
_EPOCH = 0x400000000000000A
_SECOND = 10**9


def encode(wall: float) -> bytes:
    """Return the label of a Unix time in seconds, rounded down to the grain."""
    seconds, nanoseconds = divmod(max(int(wall * _SECOND), 0), _SECOND)
    return _FORMAT.pack(_EPOCH + seconds, nanoseconds - nanoseconds % TIMESTAMP_GRAIN)


def after(wall: float, last: bytes) -> bytes:
    """Return the label of wall, or, when that is not greater than last, the next label after last."""
    label = encode(wall)
    if label > last:
        return label
    seconds, nanoseconds = _FORMAT.unpack(last)
    nanoseconds += TIMESTAMP_GRAIN
    if nanoseconds >= _SECOND:
        return _FORMAT.pack(seconds + 1, 0)
    return _FORMAT.pack(seconds, nanoseconds)
