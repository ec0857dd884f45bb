"""The datapath on real TUN devices: what the kernel makes of our super-packets, answers and outer packets.

Two namespaces joined by a veth; in each a TUN and a datapath of this process, with a made-up session between them.
"""

from __future__ import annotations

import errno
import hashlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

import pytest

from engine.filter import PASS_ALL, compile_rules
from engine.policy.rules import P0
from native.datapath import Datapath
from native.endpoint import Endpoint
from native.ring import EventKind
from native.session import Session
from tests.netns.lab import Lab, Namespace, pair, wait_until
from tun.linux import LinuxTun

pytestmark = pytest.mark.netns

IP_RECVERR = 11
DATA = random.Random(4).randbytes(4 << 20)


class End:
    """One namespace's TUN (10.9.0.x, fd99::x), outer socket and datapath."""

    def __init__(self, lab: Lab, ns: Namespace, number: int, *, offload: bool = True, outer: str = "172.16.9.") -> None:
        self.ns = ns
        self.name = f"mh{lab.tag}{number}"
        self.inner = f"10.9.0.{number}"
        family = socket.AF_INET6 if ":" in outer else socket.AF_INET
        with ns.entered():
            self.tun = LinuxTun(self.name, mtu=1420, offload=offload)
            self.udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self.udp.bind(("", 51820))
        ns.ip(f"addr add {self.inner}/24 dev {self.name}")
        ns.ip(f"addr add fd99::{number}/64 dev {self.name} nodad")
        ns.ip(f"link set {self.name} up")
        self.path = Datapath(self.tun.fileno(), vnet_hdr=self.tun.vnet_hdr, tun_offloads=self.tun.offloads, mtu=1420)
        fd = self.udp.fileno()
        self.path.set_sockets((-1, fd) if ":" in outer else (fd, -1), offload=offload)
        self.peer = self.path.add_peer()
        self.peer.endpoint = Endpoint(ip_address(f"{outer}{3 - number}"), 51820)
        self.peer.install(
            Session(
                b"k" * 32, initiator=number == 1, local_index=number, remote_index=3 - number,
                birth_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            )
        )  # fmt: skip
        self.publish(PASS_ALL)
        self.path.start()

    def publish(self, program: bytes) -> None:
        self.path.publish(program, [(ip_network("10.9.0.0/25"), self.peer), (ip_network("::/0"), self.peer)])

    def socket(self, kind: socket.SocketKind, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        with self.ns.entered():
            made = socket.socket(family, kind)
        made.settimeout(10)
        return made

    def close(self) -> None:
        self.path.close()
        self.udp.close()
        self.tun.close()


@contextmanager
def ends(**options: object) -> Iterator[tuple[End, End]]:
    with pair() as lab:
        made: list[End] = []
        try:
            for number, role in enumerate("ab", 1):
                made.append(End(lab, lab[role], number, **options))  # type: ignore[arg-type]
            assert made[0].peer.keepalive()  # confirms the responder's session
            wait_until(lambda: bool(made[1].peer.traffic().rx_packets), 5, "the first keepalive")
            yield made[0], made[1]
        finally:
            for end in made:
                end.close()


def transfer(sender: End, receiver: End, address: str, data: bytes = DATA) -> None:
    """Send data over one TCP connection and compare the hashes."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with receiver.socket(socket.SOCK_STREAM, family) as listener:
        listener.bind((address, 0))
        listener.listen()
        got = hashlib.sha256()

        def sink() -> None:
            connection, _ = listener.accept()
            connection.settimeout(10)
            with connection:
                while chunk := connection.recv(1 << 16):
                    got.update(chunk)

        thread = threading.Thread(target=sink)
        thread.start()
        with sender.socket(socket.SOCK_STREAM, family) as client:
            client.connect((address, listener.getsockname()[1]))
            client.sendall(data)
        thread.join(15)
        assert got.digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("outer", ["172.16.9.", "fd09::"], ids=["outer v4", "outer v6"])
@pytest.mark.parametrize("inner", ["10.9.0.", "fd99::"], ids=["inner v4", "inner v6"])
def test_a_tcp_stream_arrives_whole_in_large_bursts(inner: str, outer: str) -> None:
    with ends(outer=outer) as (a, b):
        transfer(a, b, f"{inner}2")
        transfer(b, a, f"{inner}1")
        work = b.path.statistics()
        assert all(a.path.offloads()[name] for name in ("vnet_hdr", "tso4", "tso6", "udp_segment", "udp_gro"))
        assert work["packets_out"] > 4 * work["udp_sends"]


def test_without_offloads_the_same_stream_arrives() -> None:
    with ends(offload=False) as (a, b):
        assert not any(a.path.offloads().values())
        transfer(a, b, "10.9.0.2", DATA[: 1 << 20])


def test_udp_datagrams_are_joined_and_split_without_a_change() -> None:
    with ends() as (a, b), b.socket(socket.SOCK_DGRAM) as receiver, a.socket(socket.SOCK_DGRAM) as sender:
        receiver.bind(("10.9.0.2", 0))
        datagrams = [bytes([number]) * (1000 if number % 10 else 700) for number in range(60)]
        for datagram in datagrams:
            sender.sendto(datagram, receiver.getsockname())
        assert [receiver.recv(2048) for _ in datagrams] == datagrams


def test_a_path_too_small_for_our_messages_gets_no_bursts_until_it_grows_again() -> None:
    with ends() as (a, b):
        for mtu in (1300, 1500):
            for end in (a, b):
                end.ns.ip(f"link set eth0 mtu {mtu}")
            before = a.path.statistics()
            transfer(a, b, "10.9.0.2")
            after = a.path.statistics()
            sends, packets = (after[name] - before[name] for name in ("udp_sends", "packets_out"))
            assert packets > 2000
            if mtu == 1500:
                assert packets > 4 * sends


def test_the_outer_source_falls_over_when_its_address_disappears() -> None:
    with ends() as (a, b):
        transfer(b, a, "10.9.0.1", b"x")  # now a answers from the address that b addressed
        assert a.peer.endpoint is not None
        assert str(a.peer.endpoint.local) == "172.16.9.1"
        a.ns.ip("addr add 172.16.9.11/24 dev eth0")
        a.ns.ip("addr del 172.16.9.1/24 dev eth0")
        a.ns.ip("addr replace 172.16.9.11/24 dev eth0")
        transfer(a, b, "10.9.0.2")
        assert str(b.peer.endpoint) == "172.16.9.11:51820"


def test_the_kernel_takes_our_answers() -> None:
    with ends() as (a, _), a.socket(socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)  # without it the kernel keeps a soft error to itself
        udp.connect(("10.9.0.200", 9))  # no peer's
        udp.send(b"x")
        with pytest.raises(OSError) as unreachable:  # noqa: PT011 - the errno is checked below
            udp.recv(1)
        assert unreachable.value.errno == errno.EHOSTUNREACH

        a.publish(compile_rules((P0,)))
        with a.socket(socket.SOCK_STREAM) as tcp, pytest.raises(ConnectionRefusedError):
            tcp.connect(("10.9.0.2", 9))
        with a.socket(socket.SOCK_STREAM, socket.AF_INET6) as tcp, pytest.raises(ConnectionRefusedError):
            tcp.connect(("fd99::2", 9))
        with a.socket(socket.SOCK_DGRAM, socket.AF_INET6) as refused:
            refused.connect(("fd99::2", 9))
            refused.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                refused.recv(1)


def test_an_interface_that_goes_down_and_up_carries_on_and_a_deleted_one_ends_the_thread() -> None:
    with ends() as (a, b):
        a.ns.ip(f"link set {a.name} down")
        b.peer.probe(b"\x45\x00\x00\x14" + bytes(16))  # arrives while the interface is down
        a.ns.ip(f"link set {a.name} up")
        transfer(a, b, "10.9.0.2", DATA[:1000])
        a.path.events(1000)
        a.ns.ip(f"link del {a.name}")
        stopped: list[int] = []

        def ended() -> bool:
            stopped.extend(event.error for event in a.path.events() if event.kind == EventKind.STOPPED)
            return bool(stopped)

        wait_until(ended, 5, "the STOPPED event")
        assert stopped == [errno.EBADFD]
