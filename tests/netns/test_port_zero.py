"""Whoever sends from UDP port 0 cannot be answered: nothing of it is looked at, and nobody is disturbed by it."""

from __future__ import annotations

import socket
import struct
import subprocess

import pytest

from native.reasons import Reason
from native.ring import EventKind
from tests.unit.native.pair import Side, unconnected

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("namespace")]


@pytest.mark.parametrize(("kind", "length"), [(1, 148), (2, 92), (3, 64), (4, 64)])
def test_what_comes_from_port_0_is_dropped_before_anybody_looks_at_it(kind: int, length: int) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with unconnected() as (a, _):
        send_from_port_0(a, bytes([kind, 0, 0, 0]) + bytes(length - 4))
        a.path.turn()
        assert a.path.drops() == {Reason.MALFORMED: 1}
        assert a.events(EventKind.MESSAGE) == []


def send_from_port_0(to: Side, message: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
        header = struct.pack("!HHHH", 0, to.endpoint4.port, 8 + len(message), 0)  # no checksum
        raw.sendto(header + message, ("127.0.0.1", 0))
