"""The outer UDP sockets: IPv4 and IPv6 on the same port, one of each for every thread of the datapath, marked.

Python creates and owns them; the datapath reads and writes them. Order of events: create, mark (before anything can be
sent: an unmarked packet could be routed into our own TUN), buffers, packet info (the sticky source address), bind.
Several of a family share the port (SO_REUSEPORT), and the kernel gives each message to one of them by the low byte of
its receiver index, which says whose it is (engine/wg: lanes): a peer's data meets one thread and stays in order.
"""

import ctypes
import errno
import socket
import struct
from dataclasses import dataclass
from itertools import zip_longest

SO_MARK = 36
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
SO_ATTACH_REUSEPORT_CBPF = 51
IP_PKTINFO = 8
IP_RECVTOS = 13
IP_MTU_DISCOVER = 10
IP_PMTUDISC_DONT, IP_PMTUDISC_PROBE = 0, 3
IPV6_MTU_DISCOVER = 23
BUFFER_BYTES = 8 << 20
PORT_TRIES = 16
_LOAD_BYTE, _MODULO, _RETURN_A = 0x30, 0x94, 0x16  # classic BPF: ldb [k], mod #k, ret a


@dataclass(frozen=True)
class Sockets:
    """The sockets in use; of a family that the kernel does not have there are none."""

    v4: tuple[socket.socket, ...]
    v6: tuple[socket.socket, ...]
    port: int
    fwmark: int

    def pairs(self) -> list[tuple[int, int]]:
        """File descriptors, IPv4 and IPv6, for each thread; -1: none."""
        fds4, fds6 = ([sock.fileno() for sock in family] for family in (self.v4, self.v6))
        return list(zip_longest(fds4, fds6, fillvalue=-1))

    def all(self) -> tuple[socket.socket, ...]:
        """Every socket."""
        return self.v4 + self.v6

    def bind_to(self, interface: str) -> None:
        """Use this interface only (empty: any), whatever the routes say. OSError: there is none of that name."""
        for sock in self.all():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())

    def allow_fragments(self, allow: bool) -> None:
        """Let outer packets be fragmented on their way, or have those that are too large lost."""
        how = IP_PMTUDISC_DONT if allow else IP_PMTUDISC_PROBE
        for sock in self.v4:
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, how)
        for sock in self.v6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, how)

    def close(self) -> None:
        """Close all."""
        for sock in self.all():
            sock.close()


def open_sockets(port: int, fwmark: int, threads: int = 1) -> Sockets:
    """Open both families on `port` (0: any free one, the same for both), packets marked with `fwmark` (0: none).

    Raises OSError (EADDRINUSE, EPERM for a mark without CAP_NET_ADMIN); nothing stays open then.
    """
    tries = PORT_TRIES if port == 0 else 1
    for attempt in range(tries):
        try:
            return _open_both(port, fwmark, threads)
        except OSError as error:
            # The port the kernel picked for IPv4 may be taken on IPv6: pick another.
            if error.errno != errno.EADDRINUSE or attempt == tries - 1:
                raise
    raise AssertionError("unreachable")


def _open_both(port: int, fwmark: int, threads: int) -> Sockets:
    opened: dict[socket.AddressFamily, list[socket.socket]] = {socket.AF_INET: [], socket.AF_INET6: []}
    try:
        for family, group in opened.items():
            if threads > 1 and (alone := _open(family, port, fwmark, shared=False)) is not None:
                port = alone.getsockname()[1]  # nobody else has it: that would go unnoticed among those who share
                alone.close()
            while len(group) < threads:
                sock = _open(family, port, fwmark, shared=threads > 1)
                if sock is None:
                    break
                group.append(sock)
                port = sock.getsockname()[1]
            if len(group) > 1:
                _steer(group[0], len(group))
    except OSError:
        for sock in (*opened[socket.AF_INET], *opened[socket.AF_INET6]):
            sock.close()
        raise
    v4, v6 = (tuple(group) for group in opened.values())
    if not v4 and not v6:
        raise OSError(errno.EAFNOSUPPORT, "the kernel has neither IPv4 nor IPv6 sockets")
    return Sockets(v4, v6, port, fwmark)


def set_mark(sock: socket.socket, fwmark: int) -> None:
    """Mark what the socket sends (32 bits; setsockopt's own int has a sign)."""
    sock.setsockopt(socket.SOL_SOCKET, SO_MARK, struct.pack("=I", fwmark))


def _steer(sock: socket.socket, among: int) -> None:
    """Let the kernel choose one of the port's sockets by byte 4 of a message, modulo their number."""
    code = b"".join(
        struct.pack("=HBBI", instruction, 0, 0, operand)
        for instruction, operand in ((_LOAD_BYTE, 4), (_MODULO, among), (_RETURN_A, 0))
    )
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, program)


def _open(family: socket.AddressFamily, port: int, fwmark: int, *, shared: bool) -> socket.socket | None:
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None
        raise
    try:
        if fwmark:
            set_mark(sock, fwmark)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for force, plain in ((SO_SNDBUFFORCE, socket.SO_SNDBUF), (SO_RCVBUFFORCE, socket.SO_RCVBUF)):
            try:
                sock.setsockopt(socket.SOL_SOCKET, force, BUFFER_BYTES)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
            # The tunnel's MTU is chosen to fit; a smaller path must fragment the outer packet, not lose it.
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_DONT)
        sock.bind(("", port))
    except OSError as error:
        sock.close()
        # IPv6 compiled in but switched off on this machine: go on with IPv4.
        if family == socket.AF_INET6 and error.errno == errno.EADDRNOTAVAIL:
            return None
        raise
    return sock
