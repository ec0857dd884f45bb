"""A witness on a wire: every frame that comes out of the device there, with the kernel's own time of its arrival.

It sees what an observer would see, not what the device believes. Frames that this end sends itself are not looked at.
`ignore` names relays whose WireGuard data messages a filter in the kernel leaves out: at full rate they would be all
there is, and they are what may be seen.

Order of events: `Capture(...)` binds the packet socket -> a daemon thread collects frames -> `flush()` waits
until what is on the wire has been read -> `frames` is read -> `close()`.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from engine.leaklab.frames import Bridge, judge
from engine.leaklab.namespaces import Namespace
from engine.leaklab.servers import SO_TIMESTAMPNS, arrival

_ETH_P_ALL = 3
_OUTGOING = 4  # PACKET_OUTGOING: sent by this end, so not by the device
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_PACKET_STATISTICS, _PACKET_IGNORE_OUTGOING = 6, 23
_SOL_PACKET = 263
_WAIT = 0.02  # seconds
_PATIENCE = 20.0  # seconds
_ROOM = 512 << 20  # bytes: a frame lost by the witness would be a leak unseen, and at full rate 40,000 a second come


@dataclass(frozen=True)
class Frame:
    """One frame the device sent: when (monotonic s), what `judge` calls it, a readable line, the bytes."""

    at: float
    kind: str
    line: str
    data: bytes

    def carries(self, token: str) -> bool:
        """Whether this frame is the work of the probe with this token (see engine/leaklab/probes.py)."""
        return token.encode() in self.data or token in self.line


class Capture:
    """Collects what arrives at `interface` of `ns`."""

    def __init__(
        self,
        ns: Namespace,
        interface: str,
        relays: Iterable[tuple[str, int]],
        bridge: Bridge | None = None,
        ignore: Sequence[tuple[str, int]] = (),
    ) -> None:
        self.frames: list[Frame] = []
        self._relays = set(relays)
        self._bridge = bridge
        with ns.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)  # up to the kernel's limit
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        except PermissionError:
            pass  # root of a user namespace only; `lost` tells if it was too little
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        try:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        except OSError:
            pass  # Linux before 4.20: they are left out below
        if ignore:
            _attach(self._socket, _without_data_messages(ignore))
        self._socket.bind((interface, _ETH_P_ALL))
        self._socket.settimeout(_WAIT)
        self._clock = time.time() - time.monotonic()
        self._read_until = 0.0  # monotonic: all that arrived before is in `frames`
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed:
            try:
                data, extra, _, address = self._socket.recvmsg(1 << 16, 64)
            except TimeoutError:
                self._read_until = time.monotonic() - _WAIT
                continue
            except OSError:
                return
            self._read_until = at = arrival(extra, self._clock)
            if address[2] == _OUTGOING:
                continue
            self.frames.append(Frame(at, *judge(data, self._relays, self._bridge), data))

    def flush(self) -> None:
        """Wait until all that has arrived by now is read. TimeoutError: it does not go on reading."""
        now = since = time.monotonic()
        read = self._read_until
        while self._read_until < now:
            if self._read_until != read:
                read, since = self._read_until, time.monotonic()
            elif time.monotonic() > since + _PATIENCE:
                raise TimeoutError(f"a witness has read nothing for {_PATIENCE:g} s")
            time.sleep(0.005)

    def lost(self) -> int:
        """Frames that the kernel could not give us, since the last call (PACKET_STATISTICS): must be 0."""
        drops = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        return int.from_bytes(drops[4:8], "little")

    def write_pcap(self, path: Path) -> None:
        """Write all frames to a pcap file, to be looked at with other tools."""
        with path.open("wb") as file:
            file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 16, 1))
            for frame in self.frames:
                seconds, part = divmod(frame.at + self._clock, 1)
                length = len(frame.data)
                file.write(struct.pack("<IIII", int(seconds), int(part * 1e6), length, length) + frame.data)

    def close(self) -> None:
        """Stop collecting."""
        self._closed = True
        self._thread.join(2)
        self._socket.close()


# Classic BPF (linux/filter.h): code, jump if true, jump if false, operand.
_Step = tuple[int, int, int, int]
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x15, 0x45, 0x06


def _without_data_messages(relays: Sequence[tuple[str, int]]) -> list[_Step]:
    """A program that takes every frame but WireGuard's data messages, in one piece, to one of these (IPv4)."""
    steps: list[_Step] = []
    for address, port in relays:
        conditions = [
            (_LOAD_HALF, 12, _IF_EQUAL, 0x0800),
            (_LOAD_BYTE, 14, _IF_EQUAL, 0x45),
            (_LOAD_BYTE, 23, _IF_EQUAL, 17),
            (_LOAD_WORD, 30, _IF_EQUAL, int(IPv4Address(address))),
            (_LOAD_HALF, 36, _IF_EQUAL, port),
            (_LOAD_WORD, 42, _IF_EQUAL, 0x04000000),
        ]
        count = len(conditions)
        for number, (load, offset, test, operand) in enumerate(conditions):
            past_this_relay = 2 * (count - number - 1) + 3  # the fragment test and the return that follow
            steps += [(load, 0, 0, offset), (test, 0, past_this_relay, operand)]
        steps += [(_LOAD_HALF, 0, 0, 20), (_IF_ANY_BIT, 1, 0, 0x3FFF), (_RETURN, 0, 0, 0)]
    return [*steps, (_RETURN, 0, 0, 1 << 18)]


def _attach(sock: socket.socket, program: Sequence[_Step]) -> None:
    code = b"".join(struct.pack("HBBI", *step) for step in program)
    held = ctypes.create_string_buffer(code)
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HxxxxxxP", len(program), ctypes.addressof(held)))
