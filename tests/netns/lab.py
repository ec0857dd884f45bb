"""The lab's bricks (engine/leaklab) under the names that the tests use, and the smallest lab of all: a pair.

`world()` is the demo's: a device on a LAN, its provider, the internet, a relay. `pair()` is two namespaces joined by
one veth, for interop tests and throughput.
"""

from __future__ import annotations

import ctypes

from engine.leaklab.namespaces import NETNS, ROOT, Lab, Namespace, Process, remove_left_behind, sh, wait_until
from engine.leaklab.world import (
    BRIDGE4,
    DEVICE4,
    DEVICE6,
    GATEWAY4,
    GATEWAY6,
    ISP4,
    ISP6,
    LAN4,
    LAN6,
    LAN_HOST4,
    LAN_HOST6,
    RELAY4,
    RELAY6,
    RELAY_PORT,
    RESOLVER4,
    RESOLVER6,
    TUNNEL4,
    TUNNEL6,
    WEB4,
    WEB6,
    world,
)

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
"""For unshare and setns, which Python 3.11 does not have."""

__all__ = [
    "BRIDGE4",
    "DEVICE4",
    "DEVICE6",
    "GATEWAY4",
    "GATEWAY6",
    "ISP4",
    "ISP6",
    "LAN4",
    "LAN6",
    "LAN_HOST4",
    "LAN_HOST6",
    "NETNS",
    "RELAY4",
    "RELAY6",
    "RELAY_PORT",
    "RESOLVER4",
    "RESOLVER6",
    "ROOT",
    "TUNNEL4",
    "TUNNEL6",
    "WEB4",
    "WEB6",
    "Lab",
    "Namespace",
    "Process",
    "pair",
    "remove_left_behind",
    "sh",
    "wait_until",
    "world",
]


def pair() -> Lab:
    """Namespaces `a` (172.16.9.1, fd09::1) and `b` (172.16.9.2, fd09::2), joined by one veth of MTU 1500."""
    lab = Lab()
    try:
        for role in "ab":
            lab.namespace(role)
        lab.wire("a", "eth0", "b", "eth0")
        for number, role in enumerate("ab", 1):
            lab[role].ip(f"addr add 172.16.9.{number}/24 dev eth0")
            lab[role].ip(f"addr add fd09::{number}/64 dev eth0 nodad")
    except BaseException:
        lab.close()
        raise
    return lab
