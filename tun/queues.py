"""What the kernel says of a TUN interface's queues: is it made for several, and how many have an owner now?

One question by rtnetlink (linux/if_link.h: IFLA_LINKINFO of the kind "tun"), since the device's own ioctls answer
only who has a queue already, and opening one of several would be taking it.
"""

import errno
import os
import socket
import struct
import sys
from typing import NamedTuple

_GETLINK, _NEWLINK, _ERROR = 18, 16, 2
_REQUEST = 1
_IFLA_IFNAME, _IFLA_LINKINFO = 3, 18
_INFO_KIND, _INFO_DATA = 1, 2
_MULTI_QUEUE, _NUM_QUEUES = 7, 8  # IFLA_TUN_*
_HEADER = 16
_NESTED = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER


class Queues(NamedTuple):
    """Of an interface: whether it is made for several queues, and how many are attached to a descriptor."""

    several: bool
    attached: int


def attached_queues(name: str) -> Queues | None:
    """Ask the kernel; None: there is no TUN of that name. OSError: it does not answer."""
    attribute = name.encode() + b"\0"
    length = 4 + len(attribute)
    body = bytes(16) + struct.pack("=HH", length, _IFLA_IFNAME) + attribute + bytes(-length % 4)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
        sock.settimeout(5)
        sock.send(struct.pack("=IHHII", _HEADER + len(body), _GETLINK, _REQUEST, 1, 0) + body)
        answer = sock.recv(1 << 16)
    kind = struct.unpack_from("=H", answer, 4)[0]
    if kind == _ERROR:
        error = -struct.unpack_from("=i", answer, _HEADER)[0]
        if error == errno.ENODEV:
            return None
        raise OSError(error, os.strerror(error))
    if kind != _NEWLINK:
        raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
    info = _attributes(_attributes(answer[_HEADER + 16 :]).get(_IFLA_LINKINFO, b""))
    if info.get(_INFO_KIND, b"").rstrip(b"\0") != b"tun":
        return None
    data = _attributes(info.get(_INFO_DATA, b""))
    attached = int.from_bytes(data.get(_NUM_QUEUES, bytes(4)), sys.byteorder)
    return Queues(data.get(_MULTI_QUEUE, b"\0") != b"\0", attached)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind & _NESTED] = data[4:length]
        data = data[length + -length % 4 :]
    return found
