"""A WireGuard session: a handle to the two transport keys, the counter and the replay window in native memory.

The keys are derived natively from the handshake's chaining key (paper 5.4.5) and never exist in Python. The handshake
makes a Session and hands it to the data path, or uses seal() and open() itself where no data path runs.
"""

from typing import Any

from native._native import ffi, lib
from native.reasons import Reason

CHAINING_KEY_LEN = 32
MESSAGE_OVERHEAD: int = lib.MH_DATA_OVERHEAD
"""A data message is this much longer than its packet: 16 bytes of header, 16 of tag."""

_HEADER_LEN: int = lib.MH_DATA_HEADER_LEN
_TAG_LEN: int = lib.MH_TAG_LEN
_MAX_PACKET: int = lib.MH_MAX_PACKET


class Session:
    """One keypair of the paper. Times are nanoseconds of the boot-time clock. Any thread may call it."""

    def __init__(
        self,
        chaining_key: bytes | bytearray | memoryview,
        *,
        initiator: bool,
        local_index: int,
        remote_index: int,
        birth_ns: int,
    ) -> None:
        """Derive the transport keys; the caller still owns, and should forget, the chaining key (32 bytes).

        ValueError: a wrong length or range. MemoryError: no memory, or libcrypto without the algorithms.
        """
        if len(chaining_key) != CHAINING_KEY_LEN:
            raise ValueError(f"a chaining key has {CHAINING_KEY_LEN} bytes, not {len(chaining_key)}")
        for name, value, bits in (
            ("local_index", local_index, 32),
            ("remote_index", remote_index, 32),
            ("birth_ns", birth_ns, 64),
        ):
            if not 0 <= value < 1 << bits:
                raise ValueError(f"{name} is an unsigned number of {bits} bits, not {value}")
        handle = lib.mh_session_new(
            ffi.from_buffer("uint8_t[]", chaining_key), initiator, local_index, remote_index, birth_ns
        )
        if handle == ffi.NULL:
            raise MemoryError("no memory for a session, or libcrypto lacks ChaCha20-Poly1305 or BLAKE2s")
        self._handle = ffi.gc(handle, lib.mh_session_free)

    @property
    def handle(self) -> Any:
        """The `mh_session *`, for other native calls; valid while this object is open. ValueError: closed."""
        if self._handle is None:
            raise ValueError("this session is closed")
        return self._handle

    @property
    def local_index(self) -> int:
        """The index by which the peer addresses us."""
        return int(lib.mh_session_local_index(self.handle))

    @property
    def remote_index(self) -> int:
        """The index by which we address the peer."""
        return int(lib.mh_session_remote_index(self.handle))

    @property
    def initiator(self) -> bool:
        """Whether we started the handshake."""
        return bool(lib.mh_session_initiator(self.handle))

    @property
    def birth_ns(self) -> int:
        """When the session was derived."""
        return int(lib.mh_session_birth_ns(self.handle))

    @property
    def sent(self) -> int:
        """How many messages were sealed, by whomever: the next counter."""
        return int(lib.mh_session_sent(self.handle))

    def alive(self, now_ns: int) -> bool:
        """Whether it may still be used (REJECT_AFTER_TIME, REJECT_AFTER_MESSAGES)."""
        return bool(lib.mh_session_alive(self.handle, now_ns))

    def seal(self, packet: bytes, now_ns: int) -> bytes | None:
        """Return the whole data message for a packet that the caller has padded; None: past the limits.

        ValueError: longer than an IP packet can be (65535 bytes).
        """
        if len(packet) > _MAX_PACKET:
            raise ValueError(f"a packet has at most {_MAX_PACKET} bytes, not {len(packet)}")
        message = ffi.new("uint8_t[]", len(packet) + MESSAGE_OVERHEAD)
        body = message + _HEADER_LEN
        ffi.memmove(body, packet, len(packet))
        job = ffi.new("mh_aead_job *", {"data": body, "len": len(packet)})
        if lib.mh_session_seal(self.handle, job, 1, now_ns) != 1:
            return None
        return bytes(ffi.buffer(message))

    def open(self, message: bytes, now_ns: int) -> bytes | Reason:
        """Return the packet (with its padding; empty: a keepalive) of a data message, or why it has none.

        Reasons: UNKNOWN_TYPE (no data message), UNKNOWN_INDEX, SESSION_EXPIRED, AUTH, REPLAY.
        """
        index, counter = ffi.new("uint32_t *"), ffi.new("uint64_t *")
        if not lib.mh_data_header_get(ffi.from_buffer("uint8_t[]", message), len(message), index, counter):
            return Reason.UNKNOWN_TYPE
        if index[0] != self.local_index:
            return Reason.UNKNOWN_INDEX
        body = ffi.new("uint8_t[]", message[_HEADER_LEN:])
        length = len(message) - MESSAGE_OVERHEAD
        job = ffi.new("mh_aead_job *", {"data": body, "len": length, "counter": counter[0]})
        reason = ffi.new("uint8_t *")
        if lib.mh_session_open(self.handle, job, reason, 1, now_ns) != 1:
            return Reason(reason[0])
        return bytes(ffi.buffer(body, length))

    def close(self) -> None:
        """Let go of the keys: wiped now, or when the data path lets go of them too. Later calls: ValueError."""
        self._handle = None
