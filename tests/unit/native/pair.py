"""Two datapaths face to face: loopback sockets between them, one end of a SEQPACKET pair as each one's TUN."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_network

from scapy.layers.inet import IP, UDP  # type: ignore[import-untyped]
from scapy.layers.inet6 import IPv6  # type: ignore[import-untyped]
from scapy.packet import Raw  # type: ignore[import-untyped]

from engine.filter import PASS_ALL, compile_rules
from engine.policy.rules import P0
from native.datapath import Datapath, Event, Peer
from native.endpoint import Endpoint
from native.ring import EventKind
from native.session import Session

EVERYTHING = (ip_network("0.0.0.0/0"), ip_network("::/0"))
BLOCK_ALL = compile_rules((P0,))
TSO = 0x01 | 0x02 | 0x04
USO = TSO | 0x20 | 0x40
SECOND = 1_000_000_000
VNET_HDR = struct.Struct("=BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset


def udp(payload: bytes = b"hello", *, to: str = "10.0.0.2", **fields: object) -> bytes:
    return bytes(IP(src="10.0.0.1", dst=to, **fields) / UDP(sport=1000, dport=2000) / Raw(payload))


def udp6(payload: bytes = b"hello", **fields: object) -> bytes:
    return bytes(IPv6(src="fd00::1", dst="fd00::2", **fields) / UDP(sport=1000, dport=2000) / Raw(payload))


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def sessions(number: int = 1, age_ns: int = 0) -> tuple[Session, Session]:
    """The initiator's and the responder's end of one made-up session."""
    key, birth = bytes([number]) * 32, now_ns() - age_ns
    return (
        Session(key, initiator=True, local_index=2 * number, remote_index=2 * number + 1, birth_ns=birth),
        Session(key, initiator=False, local_index=2 * number + 1, remote_index=2 * number, birth_ns=birth),
    )


class Side:
    """A datapath with a TUN that the test reads and writes, and sockets of both families."""

    def __init__(
        self,
        *,
        vnet_hdr: bool = False,
        tun_offloads: int = 0,
        mtu: int = 1420,
        offload: bool = True,
        queues: int = 1,
    ) -> None:
        """Of several queues the first one's worker has the sockets."""
        self.vnet_hdr = vnet_hdr
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(queues)]
        self.queues = [outer for outer, _ in pairs]
        self.tun = self.queues[0]
        self.tun.settimeout(5)
        inner = [sock for _, sock in pairs]
        self.path = Datapath(*(sock.fileno() for sock in inner), vnet_hdr=vnet_hdr, tun_offloads=tun_offloads, mtu=mtu)
        for sock in inner:
            sock.close()
        self.udp4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.udp4.bind(("127.0.0.1", 0))
        self.udp6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.udp6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.udp6.bind(("::1", 0))
        sockets = (self.udp4.fileno(), self.udp6.fileno())
        self.path.set_sockets(sockets, *[(-1, -1)] * (queues - 1), offload=offload)
        self.peer: Peer = self.path.add_peer()

    @property
    def endpoint4(self) -> Endpoint:
        return Endpoint(IPv4Address("127.0.0.1"), self.udp4.getsockname()[1])

    @property
    def endpoint6(self) -> Endpoint:
        return Endpoint(IPv6Address("::1"), self.udp6.getsockname()[1])

    def publish(self, program: bytes | None = PASS_ALL) -> list[tuple[int, int]]:
        return self.path.publish(program, [(network, self.peer) for network in EVERYTHING])

    def write(self, packet: bytes, header: bytes = bytes(10)) -> None:
        self.tun.send((header if self.vnet_hdr else b"") + packet)

    def read(self) -> bytes:
        """The next packet the datapath writes, without its virtio header."""
        return self.tun.recv(1 << 17)[10 if self.vnet_hdr else 0 :]

    def readable(self) -> bool:
        return bool(select.select([self.tun], [], [], 0)[0])

    def events(self, kind: EventKind) -> list[Event]:
        return [event for event in self.path.events() if event.kind == kind]

    def close(self) -> None:
        self.path.close()
        for sock in (*self.queues, self.udp4, self.udp6):
            sock.close()


@contextmanager
def connected(**options: object) -> Iterator[tuple[Side, Side]]:
    """Both ends with pass-all policy, each other's endpoint, and a session; nothing runs: call carry()."""
    with unconnected(**options) as (a, b):
        mine, theirs = sessions()
        a.peer.install(mine)
        b.peer.install(theirs)
        yield a, b


@contextmanager
def unconnected(**options: object) -> Iterator[tuple[Side, Side]]:
    """As connected(), but without a session."""
    a, b = Side(**options), Side(**options)  # type: ignore[arg-type]
    try:
        a.publish()
        b.publish()
        a.peer.endpoint, b.peer.endpoint = b.endpoint4, a.endpoint4
        yield a, b
    finally:
        a.close()
        b.close()


def carry(*sides: Side, turns: int = 2) -> None:
    """Let each side do its turns, one after the other: loopback delivers at once."""
    for _ in range(turns):
        for side in sides:
            side.path.turn()
