"""The outer sockets: one port for both families, marked before anything can be sent, nothing left open on failure."""

import errno
import os
import socket

import pytest

from engine.tunnel.sockets import SO_MARK, open_sockets

ROOT = os.geteuid() == 0


def test_both_families_share_the_port_the_kernel_chose() -> None:
    sockets = open_sockets(0, 0)
    try:
        assert sockets.v4 is not None
        assert sockets.v6 is not None
        assert sockets.v4.getsockname()[1] == sockets.v6.getsockname()[1] == sockets.port != 0
    finally:
        sockets.close()


def test_a_taken_port_is_an_error_and_leaves_nothing_open() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("::", 0))
        port = other.getsockname()[1]
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="in use") as caught:
            open_sockets(port, 0)
        assert caught.value.errno == errno.EADDRINUSE
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(not ROOT, reason="setting a mark needs CAP_NET_ADMIN")
def test_both_sockets_carry_the_mark() -> None:
    sockets = open_sockets(0, 0x6D6F6C65)
    try:
        for sock in (sockets.v4, sockets.v6):
            assert sock is not None
            assert sock.getsockopt(socket.SOL_SOCKET, SO_MARK) == 0x6D6F6C65
    finally:
        sockets.close()


def test_sockets_do_not_block_and_are_not_inherited() -> None:
    sockets = open_sockets(0, 0)
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            assert not os.get_blocking(sockets.fd(family))
            assert not os.get_inheritable(sockets.fd(family))
    finally:
        sockets.close()
