"""Watches the TUN interface from outside: its MTU and whether it is up, as `ip link` and wg-quick change them.
Tells the kernel in turn how large a super-packet is worth handing over.

A netlink message is only the hint; what counts is asked anew from the kernel, so that a lost or reordered message
cannot leave us wrong for longer than until the next one.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

RTMGRP_LINK = 1
_RTM_NEWLINK = 16
_NLM_F_REQUEST_ACK = 5
_IFLA_GSO_MAX_SIZE = 41
_SIOCGIFFLAGS = 0x8913
_SIOCGIFMTU = 0x8921
_IFF_UP = 1


@dataclass(frozen=True)
class LinkState:
    """What the datapath has to follow: `mtu` in bytes, and `up`."""

    mtu: int
    up: bool


def link_state(interface: str) -> LinkState | None:
    """Ask the kernel; None when there is no such interface."""
    request = struct.pack("16sI12x", interface.encode(), 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            mtu = struct.unpack_from("i", fcntl.ioctl(sock, _SIOCGIFMTU, request), 16)[0]
            flags = struct.unpack_from("H", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), 16)[0]
        except OSError:
            return None
    return LinkState(mtu, bool(flags & _IFF_UP))


def gso_max_size(mtu: int) -> int:
    """The largest super-packet worth asking the kernel for, in bytes.

    As many full segments as one UDP_SEGMENT send can carry (65000 bytes of outer datagrams, each 32 bytes
    larger than its inner packet; at most 64), so that one read from the TUN becomes one send. The kernel's TCP counts
    up to 384 bytes of headers against the size (MAX_TCP_HEADER).
    """
    segments = min(65000 // (mtu + 32), 64)
    return max(mtu, segments * (mtu - 52) + 384)  # 20 bytes IPv4, 32 bytes TCP with timestamps


def set_gso_max_size(interface: str, size: int) -> None:
    """Ask the kernel for super-packets of at most so many bytes. OSError: no such interface, or it cannot."""
    index = socket.if_nametoindex(interface)
    attribute = struct.pack("=HHI", 8, _IFLA_GSO_MAX_SIZE, size)
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0) + attribute
    request = struct.pack("=IHHII", 16 + len(body), _RTM_NEWLINK, _NLM_F_REQUEST_ACK, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        sock.send(request)
        refused = -struct.unpack_from("=i", sock.recv(4096), 16)[0]
    if refused:
        raise OSError(refused, f"cannot set gso_max_size of {interface}: {os.strerror(refused)}")


class LinkWatch:
    """Calls `on_change(state)` when the interface's MTU or up flag changed; never polls."""

    def __init__(self, interface: str, on_change: Callable[[LinkState], None]) -> None:
        self._interface = interface
        self._on_change = on_change
        self._last: LinkState | None = None
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, RTMGRP_LINK))
        self._last = link_state(interface)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)

    @property
    def state(self) -> LinkState | None:
        """The last state seen; None when the interface was gone."""
        return self._last

    def close(self) -> None:
        """Stop watching."""
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    def _readable(self) -> None:
        # ENOBUFS (messages were lost) means the same as a message: look again.
        with contextlib.suppress(BlockingIOError, OSError):
            while os.read(self._socket.fileno(), 65536):
                pass
        state = link_state(self._interface)
        if state is not None and state != self._last:
            self._last = state
            self._on_change(state)
