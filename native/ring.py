"""The bounded ring by which native threads tell Python about events (native/src/ring.c).

A pusher never waits: a full ring refuses. `fd` is an eventfd, readable while there may be events; the reader pops until
it gets None, which also makes the eventfd quiet again.
"""

import enum
from dataclasses import dataclass
from typing import Any

from native._native import ffi, lib

DATA_MAX: int = lib.MH_EVENT_DATA_MAX
"""The longest data of an event, in bytes."""

ENDPOINT_LEN: int = ffi.sizeof("mh_endpoint")


class EventKind(enum.IntEnum):
    """What an event tells; native/src/ring.h says what comes with each."""

    MESSAGE = lib.MH_EVENT_MESSAGE
    HANDSHAKE = lib.MH_EVENT_HANDSHAKE
    TIMERS = lib.MH_EVENT_TIMERS
    CONFIRMED = lib.MH_EVENT_CONFIRMED
    PROBE = lib.MH_EVENT_PROBE
    STOPPED = lib.MH_EVENT_STOPPED


@dataclass(frozen=True)
class RingEvent:
    """One event. endpoint is a packed `mh_endpoint` (48 bytes); depth counts the events still behind this one."""

    kind: EventKind
    peer: int = 0
    error: int = 0
    depth: int = 0
    endpoint: bytes = bytes(ENDPOINT_LEN)
    data: bytes = b""


class Ring:
    """A ring with room for `slots` events (a power of two). Any thread pushes, one pops."""

    def __init__(self, slots: int) -> None:
        """ValueError: slots is no power of two. MemoryError: no memory or no eventfd."""
        if not 0 < slots < 1 << 31 or slots & (slots - 1):
            raise ValueError(f"a ring has a power of two of slots, not {slots}")
        ring = lib.mh_ring_new(slots)
        if ring == ffi.NULL:
            raise MemoryError("no memory or no eventfd for a ring")
        self._ring = ffi.gc(ring, lib.mh_ring_free)

    @property
    def fd(self) -> int:
        """The eventfd; it belongs to the ring."""
        return int(lib.mh_ring_fd(self._open_ring()))

    def push(self, event: RingEvent) -> bool:
        """Append a copy (its depth is ignored); False: full. ValueError: data or endpoint of a wrong length."""
        if len(event.data) > DATA_MAX or len(event.endpoint) != ENDPOINT_LEN:
            raise ValueError(f"an event has at most {DATA_MAX} bytes of data and {ENDPOINT_LEN} of endpoint")
        native = ffi.new("mh_event *", {"kind": event.kind, "peer": event.peer, "error": event.error})
        ffi.memmove(ffi.addressof(native.endpoint), event.endpoint, ENDPOINT_LEN)
        native.len = len(event.data)
        ffi.memmove(native.data, event.data, len(event.data))
        return bool(lib.mh_ring_push(self._open_ring(), native))

    def pop(self) -> RingEvent | None:
        """Take the oldest event; None: empty."""
        native = ffi.new("mh_event *")
        return read_event(native) if lib.mh_ring_pop(self._open_ring(), native) else None

    def close(self) -> None:
        """Free the ring and its eventfd; remove the fd from the event loop first."""
        self._ring = None

    def _open_ring(self) -> Any:
        if self._ring is None:
            raise ValueError("this ring is closed")
        return self._ring


def read_event(native: Any) -> RingEvent:
    """Copy a native `mh_event *` into a value."""
    return RingEvent(
        EventKind(native.kind),
        native.peer,
        native.error,
        native.depth,
        bytes(ffi.buffer(ffi.addressof(native.endpoint))),
        bytes(ffi.buffer(native.data, native.len)),
    )
