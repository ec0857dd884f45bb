"""A connected UDP socket that takes and gives many datagrams by one system call.

The kernel joins datagrams of one size that wait for us (UDP_GRO) and splits what we hand over (UDP_SEGMENT); the
engine's datapath does the same on its side, so over loopback a burst is one piece all the way. A socket without these
options works too, one datagram a call.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress

BUFFER_BYTES = 4 << 20
# linux/udp.h, linux/if.h, asm-generic/socket.h
_UDP_SEGMENT, _UDP_GRO = 103, 104
_SO_MARK = 36
_SO_FORCE = ((32, socket.SO_SNDBUF), (33, socket.SO_RCVBUF))  # SO_SNDBUFFORCE, SO_RCVBUFFORCE
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT = 10, 23, 0
_MAX_SEGMENTS, _MAX_SEND = 64, 65000
_CALLS_PER_BURST, _BURST_BYTES = 64, 128 << 10
_MAX_PACKET = 65536
_CANNOT_SEGMENT = (errno.EINVAL, errno.EIO, errno.EOPNOTSUPP)


def outward_socket(kind: socket.SocketKind, version: int, mark: int, device: str) -> socket.socket:
    """A socket of IP `version` whose packets go past the tunnel: marked before anything can be sent by it. OSError.

    Its packets may be fragmented on the way, as the engine's own: a smaller path is no reason to lose them.
    """
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
        if device:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        if version == 4:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT)
    except OSError:
        sock.close()
        raise
    return sock


def local_socket(engine_port: int) -> socket.socket:
    """A socket on 127.0.0.1, any port, that hears the engine's port and nobody else. OSError."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.bind(("127.0.0.1", 0))
        sock.connect(("127.0.0.1", engine_port))
        with suppress(BlockingIOError):  # what came from others between the two
            while True:
                sock.recv(1)
    except OSError:
        sock.close()
        raise
    return sock


class Datagrams:
    """The socket at work. It belongs to this object from now on."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        for force, plain in _SO_FORCE:
            try:
                sock.setsockopt(socket.SOL_SOCKET, force, BUFFER_BYTES)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
        with suppress(OSError):  # before Linux 5.0
            sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)

    def fileno(self) -> int:
        """The descriptor, to wait for."""
        return self._socket.fileno()

    @property
    def port(self) -> int:
        """The local port."""
        port: int = self._socket.getsockname()[1]
        return port

    def receive(self) -> list[bytes]:
        """What waits, up to a burst; the event loop calls again if more does."""
        found: list[bytes] = []
        octets = 0
        for _ in range(_CALLS_PER_BURST):
            try:
                data, options, _, _ = self._socket.recvmsg(_MAX_PACKET, socket.CMSG_SPACE(4))
            except BlockingIOError:
                break
            except OSError:  # an ICMP error that was waiting: nothing at all
                continue
            size = next((struct.unpack("i", value)[0] for _, kind, value in options if kind == _UDP_GRO), 0)
            size = size or len(data) or 1
            found += [data[at : at + size] for at in range(0, len(data), size)]
            octets += len(data)
            if octets >= _BURST_BYTES:
                break
        return found

    def send(self, datagrams: Sequence[bytes | memoryview]) -> int:
        """Send them, in order; how many the kernel did not take, which are lost."""
        return sum(self._send_run(run) for run in _runs(datagrams))

    def _send_run(self, run: Sequence[bytes | memoryview]) -> int:
        if len(run) > 1:
            segment = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("H", len(run[0])))]
            try:
                try:
                    self._socket.sendmsg(run, segment)
                except ConnectionRefusedError:  # about an earlier one: of these nothing was tried
                    self._socket.sendmsg(run, segment)
                return 0
            except OSError as error:  # datagrams larger than the link's MTU cannot be split off, only fragmented
                if error.errno not in _CANNOT_SEGMENT:
                    return len(run)
        lost = 0
        for datagram in run:
            try:
                self._socket.send(datagram)
            except OSError:
                lost += 1
        return lost

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _runs(datagrams: Sequence[bytes | memoryview]) -> Iterator[Sequence[bytes | memoryview]]:
    """Neighbours that UDP_SEGMENT can carry together: of one size, but the last may be smaller."""
    begin = 0
    while begin < len(datagrams):
        size = len(datagrams[begin])
        end, most = begin + 1, begin + max(1, min(_MAX_SEGMENTS, _MAX_SEND // max(1, size)))
        while end < min(most, len(datagrams)) and len(datagrams[end]) == size:
            end += 1
        if end < min(most, len(datagrams)) and 0 < len(datagrams[end]) < size:
            end += 1
        yield datagrams[begin:end]
        begin = end
