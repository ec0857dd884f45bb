"""The Linux TUN device against the real kernel, in a network namespace of its own."""

import fcntl
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP

from tests.netns.lab import CLONE_NEWNET, libc
from tun.device import TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6, TUNGETIFF, TunError
from tun.fd import FdTun
from tun.linux import LinuxTun
from tun.pcap import PcapTun
from tun.queues import attached_queues

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("namespace")]

ALL_OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_USO4 | TUN_F_USO6


def ip(*args: str) -> str:
    return subprocess.run(["ip", *args], capture_output=True, text=True, check=True).stdout


def links() -> str:
    return ip("-o", "link", "show")


def test_a_device_is_ready_for_the_datapath() -> None:
    device = LinuxTun("mh0", mtu=1380)
    assert (device.name, device.mtu, device.vnet_hdr) == ("mh0", 1380, True)
    assert device.offloads in (ALL_OFFLOADS, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
    assert not os.get_inheritable(device.fileno())
    with pytest.raises(BlockingIOError):
        os.read(device.fileno(), 1)
    assert "mh0" in links()
    device.close()
    assert device.fileno() == -1
    assert "mh0" not in links()


def test_the_mtu_is_what_the_kernel_has_now() -> None:
    device = LinuxTun("mh0")
    ip("link", "set", "mh0", "mtu", "1300")
    assert device.mtu == 1300
    device.set_mtu(1400)
    assert "mtu 1400" in links()
    with pytest.raises(TunError, match="1 is no MTU"):
        device.set_mtu(1)
    device.close()


def test_an_mtu_that_cannot_be_set_for_lack_of_descriptors_is_not_blamed() -> None:
    device = LinuxTun("mh0", mtu=1380)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(TunError) as caught:
            device.set_mtu(1400)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert str(caught.value) == "the MTU of mh0 cannot be set: Too many open files"
    assert device.mtu == 1380
    device.close()


def test_a_device_moved_to_another_namespace_keeps_its_last_mtu() -> None:
    device, handed_in = LinuxTun("mh0", mtu=1300), FdTun(tun_queue("mh1", 0x1001), mtu=1234)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNET) == 0
    assert (device.mtu, handed_in.mtu) == (1300, 1234)
    assert libc.setns(home, CLONE_NEWNET) == 0
    os.close(home)
    device.close()
    handed_in.close()


def udp_out() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"payload", ("10.9.9.2", 9))


@pytest.mark.parametrize("offload", [True, False])
def test_a_routed_packet_comes_out_with_a_virtio_header_only_if_offloads_are_on(offload: bool) -> None:
    device = LinuxTun("mh0", offload=offload)
    ip("address", "add", "10.9.9.1/24", "dev", "mh0")
    device.up()
    udp_out()
    header = 10 if offload else 0
    while True:
        assert select.select([device.fileno()], [], [], 5)[0]
        packet = os.read(device.fileno(), 70_000)[header:]
        if packet[0] >> 4 == 4 and packet[9] == 17:  # past the kernel's own IPv6 router solicitations
            break
    assert packet[28:] == b"payload"
    assert (device.vnet_hdr, device.offloads != 0) == (offload, offload)
    device.close()


def test_a_persistent_device_stays_and_is_taken_over() -> None:
    device = LinuxTun("mh0", persist=True)
    device.close()
    assert "mh0" in links()
    again = LinuxTun("mh0", persist=True)
    assert again.offloads
    again.close()
    assert "mh0" in links()
    last = LinuxTun("mh0", offload=False)
    assert not last.vnet_hdr
    last.close()
    assert "mh0" not in links()


def test_several_queues_share_one_interface_and_end_together() -> None:
    device = LinuxTun("mh0", queues=4)
    assert len(set(device.queues())) == 4
    assert device.queues()[0] == device.fileno()
    assert not any(os.get_blocking(fd) or os.get_inheritable(fd) for fd in device.queues())
    assert links().count("mh0") == 1
    assert attached_queues("mh0") == (True, 4)
    device.close()
    assert "mh0" not in links()


@pytest.mark.parametrize(("before", "after", "then"), [(4, 1, 1), (4, 2, 2), (1, 4, 1)])
def test_a_persistent_device_is_taken_over_as_what_it_was_made(before: int, after: int, then: int) -> None:
    LinuxTun("mh0", queues=before, persist=True).close()
    assert attached_queues("mh0") == (before > 1, 0)
    again = LinuxTun("mh0", queues=after)
    assert len(again.queues()) == then
    again.close()
    assert "mh0" not in links()


@pytest.mark.parametrize("queues", [1, 4])
def test_nobody_takes_a_queue_beside_those_of_a_living_owner(queues: int) -> None:
    device = LinuxTun("mh0", queues=4)
    with pytest.raises(TunError, match="mh0 is in use by another process"):
        LinuxTun("mh0", queues=queues)
    assert attached_queues("mh0") == (True, 4)
    device.close()


def test_of_two_that_begin_at_the_same_moment_none_shares_the_others_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    first = LinuxTun("mh0", queues=2, persist=True)
    looks = iter([None])  # the second one's first look was before the first one had come
    monkeypatch.setattr("tun.linux.attached_queues", lambda name: next(looks, attached_queues(name)))
    with pytest.raises(TunError, match="mh0 is in use by another process"):
        LinuxTun("mh0", queues=2, mtu=1300)
    monkeypatch.undo()
    assert first.mtu == 1420
    assert attached_queues("mh0") == (True, 2)
    first.discard()


def test_what_is_no_tun_has_no_queues() -> None:
    assert attached_queues("lo") is None
    assert attached_queues("mh7") is None


def why_not(name: str) -> str:
    with pytest.raises(TunError) as caught:
        LinuxTun(name)
    return str(caught.value)


def test_each_reason_why_a_device_cannot_be_had_is_told_in_a_sentence() -> None:
    assert why_not("a" * 16).startswith("'aaaaaaaaaaaaaaaa' is no interface name: use 1 to 15 letters")
    assert why_not("").startswith("'' is no interface name")
    assert why_not("a b").startswith("'a b' is no interface name")
    assert why_not("..").startswith("'..' is no interface name")
    assert why_not("lo") == "the name lo is taken by an interface of another kind: choose another name"
    device = LinuxTun("mh0")
    assert why_not("mh0") == "the interface mh0 is in use by another process: choose another name or stop it"
    device.close()


def test_an_ordinary_user_is_told_to_be_root() -> None:
    code = "import os; from tun.linux import LinuxTun; os.setuid(65534); LinuxTun('mh0')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert "run as root" in result.stderr.splitlines()[-1]


def tun_queue(name: str, flags: int) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), flags))
    return fd


def test_a_handed_in_queue_tells_what_it_is() -> None:
    device = FdTun(tun_queue("mh0", 0x5001))  # TUN, no protocol information, virtio header
    assert (device.name, device.vnet_hdr, device.mtu) == ("mh0", True, 1500)
    assert device.offloads & TUN_F_CSUM
    ip("link", "set", "mh0", "mtu", "1300")
    assert device.mtu == 1300
    device.close()
    plain = FdTun(tun_queue("mh0", 0x1001))
    assert (plain.vnet_hdr, plain.offloads) == (False, 0)
    plain.close()


def test_a_tap_queue_is_refused() -> None:
    fd = tun_queue("mh0", 0x1002)
    with pytest.raises(TunError) as caught:
        FdTun(fd)
    assert str(caught.value) == "the interface mh0 is a TAP device: the engine carries IP packets, not frames"
    os.close(fd)


def test_a_wrapped_device_carries_real_packets_and_ends_when_the_interface_is_deleted(
    tmp_path: Path,
) -> None:
    inner = LinuxTun("mh0")
    device = PcapTun(inner, tmp_path / "mh0.pcap")
    ip("address", "add", "10.9.9.1/24", "dev", "mh0")
    inner.up()
    udp_out()
    packet = b""
    while not packet.endswith(b"payload"):
        assert select.select([device.fileno()], [], [], 5)[0]
        packet = os.read(device.fileno(), 70_000)
    ip("link", "delete", "mh0")
    while packet:
        assert select.select([device.fileno()], [], [], 5)[0]
        packet = os.read(device.fileno(), 70_000)
    device.close()


def test_what_an_interface_refuses_while_it_is_down_is_lost_and_later_packets_are_not(
    tmp_path: Path,
) -> None:
    inner = LinuxTun("mh0", offload=False)
    device = PcapTun(inner, tmp_path / "mh0.pcap")
    ip("address", "add", "10.9.9.1/24", "dev", "mh0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("0.0.0.0", 9))
        receiver.settimeout(5)
        for word in (b"lost", b"behind it"):
            os.write(device.fileno(), bytes(IP(src="10.9.9.2", dst="10.9.9.1") / UDP(dport=9) / word))
        while b"behind it" not in (tmp_path / "mh0.pcap").read_bytes():
            time.sleep(0.01)  # it is recorded once the first one was refused
        inner.up()
        os.write(device.fileno(), bytes(IP(src="10.9.9.2", dst="10.9.9.1") / UDP(dport=9) / b"delivered"))
        assert receiver.recv(100) in (b"behind it", b"delivered")
    device.close()


def test_ifreq_flags_are_those_the_kernel_reports() -> None:
    device = LinuxTun("mh0")
    flags = struct.unpack_from("16sH", fcntl.ioctl(device.fileno(), TUNGETIFF, bytes(40)))[1]
    assert flags & 0x5001 == 0x5001
    device.close()
