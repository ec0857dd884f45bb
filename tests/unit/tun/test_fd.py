import os
import socket

import pytest

from tun.device import TunError
from tun.fd import FdTun


def test_a_packet_socket_is_taken_over_non_blocking_and_close_on_exec() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    left.set_inheritable(True)
    device = FdTun(left.detach(), mtu=1280, vnet_hdr=True)
    assert (device.mtu, device.vnet_hdr, device.offloads) == (1280, True, 0)
    assert device.name == f"fd{device.fileno()}"
    assert not os.get_inheritable(device.fileno())
    with pytest.raises(BlockingIOError):
        os.read(device.fileno(), 1)
    device.close()
    device.close()
    assert device.fileno() == -1
    assert right.recv(1) == b""
    right.close()


def test_a_descriptor_from_another_process_is_used_like_an_own_one() -> None:
    ours, theirs = socket.socketpair()
    outer, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, outer, inner:
        socket.send_fds(theirs, [b"x"], [inner.fileno()])
        _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
        device = FdTun(fd)
        outer.send(b"packet")
        assert os.read(device.fileno(), 100) == b"packet"
        device.close()


def refused(fd: int) -> str:
    with pytest.raises(TunError) as caught:
        FdTun(fd)
    return str(caught.value)


def test_a_stream_socket_is_refused_and_stays_the_callers() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert refused(left.fileno()).endswith("is a stream socket: packets need SEQPACKET or DGRAM")
        left.send(b"still open")
        assert right.recv(100) == b"still open"


def test_a_pipe_a_file_and_a_closed_descriptor_are_refused() -> None:
    reader, writer = os.pipe()
    assert refused(reader).endswith("is neither a TUN device nor a packet socket")
    os.close(reader)
    os.close(writer)
    with open("/dev/null") as null:
        assert refused(null.fileno()).endswith("is neither a TUN device nor a packet socket")
    assert refused(reader) == f"the descriptor {reader} is not open"


@pytest.mark.skipif(not os.access("/dev/net/tun", os.R_OK | os.W_OK), reason="/dev/net/tun cannot be opened here")
def test_a_tun_descriptor_without_an_interface_is_refused() -> None:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    assert refused(fd).endswith("is /dev/net/tun without an interface attached")
    os.close(fd)
