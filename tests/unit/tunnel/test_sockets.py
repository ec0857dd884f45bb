"""The outer sockets: one port for all, marked before anything can be sent, nothing left open on failure."""

import errno
import os
import socket
from collections import Counter

import pytest

from engine.tunnel.sockets import SO_MARK, open_sockets

ROOT = os.geteuid() == 0
THREADS = pytest.mark.parametrize("threads", [1, 3])


@THREADS
def test_both_families_share_the_port_the_kernel_chose(threads: int) -> None:
    sockets = open_sockets(0, 0, threads)
    try:
        assert (len(sockets.v4), len(sockets.v6), len(sockets.pairs())) == (threads, threads, threads)
        assert {sock.getsockname()[1] for sock in sockets.all()} == {sockets.port}
        assert sockets.port != 0
    finally:
        sockets.close()


@THREADS
def test_a_taken_port_is_an_error_and_leaves_nothing_open(threads: int) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # somebody who would share it
        other.bind(("::", 0))
        port = other.getsockname()[1]
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="in use") as caught:
            open_sockets(port, 0, threads)
        assert caught.value.errno == errno.EADDRINUSE
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(not ROOT, reason="setting a mark needs CAP_NET_ADMIN")
@pytest.mark.parametrize("mark", [0x6D6F6C65, 0x80000001, 0xFFFFFFFF])
def test_all_sockets_carry_the_mark(mark: int) -> None:
    sockets = open_sockets(0, mark, 2)
    try:
        for sock in sockets.all():
            assert sock.getsockopt(socket.SOL_SOCKET, SO_MARK) & 0xFFFFFFFF == mark
    finally:
        sockets.close()


def test_sockets_do_not_block_and_are_not_inherited() -> None:
    sockets = open_sockets(0, 0)
    try:
        for sock in sockets.all():
            assert not sock.getblocking()
            assert not sock.get_inheritable()
    finally:
        sockets.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_low_byte_of_the_receiver_index_says_which_socket_a_message_comes_by(address: str) -> None:
    sockets = open_sockets(0, 0, 3)
    group = sockets.v6 if ":" in address else sockets.v4
    try:
        for byte in range(9):  # from a port of its own each: what the kernel would choose by itself
            with socket.socket(group[0].family, socket.SOCK_DGRAM) as sender:
                sender.sendto(bytes([4, 0, 0, 0, byte]) + bytes(27), (address, sockets.port))
                sender.sendto(b"\4\0\0\0", (address, sockets.port))  # too short to say
        came: list[Counter[int]] = []
        for sock in group:
            came.append(Counter())
            while True:
                try:
                    data = sock.recv(100)
                except BlockingIOError:
                    break
                came[-1][data[4] if len(data) > 4 else -1] += 1
        assert came == [Counter({-1: 9, 0: 1, 3: 1, 6: 1}), Counter((1, 4, 7)), Counter((2, 5, 8))]
    finally:
        sockets.close()
