"""The outer UDP sockets: one IPv4 and one IPv6 socket on the same port, marked, ready for the native datapath.

Python creates and owns them; the datapath reads and writes them. Order of events: create, mark (before anything can be
sent: an unmarked packet could be routed into our own TUN), buffers, packet info (the sticky source address), bind.
"""

import errno
import socket
from dataclasses import dataclass

SO_MARK = 36
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
IP_PKTINFO = 8
IP_RECVTOS = 13
IP_MTU_DISCOVER = 10
IP_PMTUDISC_DONT, IP_PMTUDISC_PROBE = 0, 3
IPV6_MTU_DISCOVER = 23
BUFFER_BYTES = 8 << 20
PORT_TRIES = 16


@dataclass(frozen=True)
class Sockets:
    """The sockets in use; a family the kernel does not have is None."""

    v4: socket.socket | None
    v6: socket.socket | None
    port: int
    fwmark: int

    def fd(self, family: socket.AddressFamily) -> int:
        """File descriptor of the family's socket, or -1."""
        sock = self.v4 if family == socket.AF_INET else self.v6
        return sock.fileno() if sock is not None else -1

    def bind_to(self, interface: str) -> None:
        """Use this interface only (empty: any), whatever the routes say. OSError: there is none of that name."""
        for sock in (self.v4, self.v6):
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())

    def allow_fragments(self, allow: bool) -> None:
        """Let outer packets be fragmented on their way, or have those that are too large lost."""
        how = IP_PMTUDISC_DONT if allow else IP_PMTUDISC_PROBE
        if self.v4 is not None:
            self.v4.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, how)
        if self.v6 is not None:
            self.v6.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, how)

    def close(self) -> None:
        """Close both."""
        for sock in (self.v4, self.v6):
            if sock is not None:
                sock.close()


def open_sockets(port: int, fwmark: int) -> Sockets:
    """Open both families on `port` (0: any free one, the same for both), packets marked with `fwmark` (0: none).

    Raises OSError (EADDRINUSE, EPERM for a mark without CAP_NET_ADMIN); nothing stays open then.
    """
    tries = PORT_TRIES if port == 0 else 1
    for attempt in range(tries):
        try:
            return _open_both(port, fwmark)
        except OSError as error:
            # The port the kernel picked for IPv4 may be taken on IPv6: pick another.
            if error.errno != errno.EADDRINUSE or attempt == tries - 1:
                raise
    raise AssertionError("unreachable")


def _open_both(port: int, fwmark: int) -> Sockets:
    v4 = _open(socket.AF_INET, port, fwmark)
    if v4 is not None:
        port = v4.getsockname()[1]
    try:
        v6 = _open(socket.AF_INET6, port, fwmark)
    except OSError:
        if v4 is not None:
            v4.close()
        raise
    if v4 is None and v6 is None:
        raise OSError(errno.EAFNOSUPPORT, "the kernel has neither IPv4 nor IPv6 sockets")
    if v6 is not None:
        port = v6.getsockname()[1]
    return Sockets(v4, v6, port, fwmark)


def _open(family: socket.AddressFamily, port: int, fwmark: int) -> socket.socket | None:
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None
        raise
    try:
        if fwmark:
            sock.setsockopt(socket.SOL_SOCKET, SO_MARK, fwmark)
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
