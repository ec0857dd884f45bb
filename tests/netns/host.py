"""A host under test: one namespace whose every interface is in our hands, for packets that the kernel really judges.

    molehill0  TUN, "the tunnel"
    oth0       TUN, "any other interface": packets come in by it, or leave by it
    oth1       TUN, where forwarded packets leave
    lo

A packet is sent by a raw socket with the header we want (out, and in on lo), or written to a TUN (in, forwarded).
Routing looks at nothing but the interface and the TOS byte, so any destination goes where the test says.

What the kernel decided is read from an observer table: chains just before and just after ours in each hook note the
packet's serial (the IPv4 identification, the IPv6 flow label) in sets. So "shown" means that the packet reached the
hook, "passed" that it left it. Only hop limits 75..81, which nobody else uses, are looked at. Besides, everything
that leaves by a TUN is read and noted: nothing that was blocked may be there.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from native.facts import Direction, Facts, Interface
from tests.netns import libnftables
from tests.netns.lab import Lab, Namespace
from tests.samples import edges

TUNNEL, OTHER, FAR = "molehill0", "oth0", "oth1"
_TUNS = (TUNNEL, OTHER, FAR)
_LOCAL = {name: 200 + number for number, name in enumerate(_TUNS)}  # tables that hold every destination for ours
_TOS = {FAR: 0x04, TUNNEL: 0x08, "lo": 0x10}  # where a forwarded packet shall leave
_MARKED = 79  # hop limit of a packet that the observer gives the mark; one less after forwarding
_PLAIN = 77
_HOOKS = ("output", "input", "forward")
_NETLINK_NETFILTER = 12
_libc = ctypes.CDLL(None, use_errno=True)
_NEXT4, _NEXT6 = "192.0.2.99", "2001:db8:ffff::99"


@dataclass
class Seen:
    """Serials by hook: shown to it, passed by it; and those that left by each TUN."""

    shown: dict[str, set[int]] = field(default_factory=dict)
    passed: dict[str, set[int]] = field(default_factory=dict)
    left: dict[str, set[int]] = field(default_factory=dict)


class Host:
    """The namespace, entered by the calling thread for as long as `host()` lasts."""

    def __init__(self, ns: Namespace) -> None:
        self.ns = ns
        self.tuns = {name: _make_tun(name) for name in _TUNS}
        self._configure()
        self._raw = {(version, uid): _raw_socket(version, uid) for version in (4, 6) for uid in (0, 1000)}
        self._memberships = _join_groups()

    def close(self) -> None:
        for fd in self.tuns.values():
            os.close(fd)
        for sock in (*self._raw.values(), *self._memberships):
            sock.close()

    def send(self, facts: Facts, packets: Sequence[bytes]) -> None:
        """Send the packet (or its fragments) the way the facts say. The kernel's refusal is not an error here."""
        for packet in packets:
            with suppress(OSError):
                if facts.direction is Direction.OUT or facts.iface_in is Interface.LOOPBACK:
                    self._send_raw(facts, packet)
                else:
                    os.write(self.tuns[TUNNEL if facts.iface_in is Interface.TUNNEL else OTHER], packet)

    def _send_raw(self, facts: Facts, packet: bytes) -> None:
        sock = self._raw[facts.version, 0 if facts.uid is None else facts.uid]
        way = facts.iface_out if facts.direction is Direction.OUT else Interface.LOOPBACK
        device = {Interface.LOOPBACK: "lo", Interface.TUNNEL: TUNNEL, Interface.OTHER: OTHER}[way]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, facts.mark)
        if facts.version == 4:
            sock.sendto(packet, ("127.0.0.1" if device == "lo" else _NEXT4, 0))
        else:
            sock.sendto(packet, ("::1" if device == "lo" else _NEXT6, 0))

    def observe(self) -> Seen:
        """What happened since the last time, and forget it."""
        seen = Seen(left={name: set() for name in _TUNS})
        for hook in _HOOKS:
            seen.shown[hook] = self._serials(f"before_{hook}")
            seen.passed[hook] = self._serials(f"after_{hook}")
        for name, fd in self.tuns.items():
            for packet in drain(fd):
                seen.left[name].add(serial_of(packet))
        libnftables.run("; ".join(f"flush set inet observer {a}_{h}{v}" for a, h, v in _sets()))
        return seen

    def _serials(self, name: str) -> set[int]:
        found: set[int] = set()
        for version in (4, 6):
            command = {"list": {"set": {"family": "inet", "table": "observer", "name": f"{name}{version}"}}}
            listed = json.loads(libnftables.run(json.dumps({"nftables": [command]})))["nftables"]
            for entry in listed:
                found.update(entry.get("set", {}).get("elem", ()))
        return found

    def forget_flows(self) -> None:
        """Empty the connection tracking table (CTNETLINK: delete without a tuple)."""
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
            netlink.bind((0, 0))
            netlink.send(struct.pack("=IHHIIBBH", 20, 1 << 8 | 2, 1 | 4, 1, 0, socket.AF_UNSPEC, 0, 0))
            error = struct.unpack_from("=i", netlink.recv(4096), 16)[0]
            if error:
                raise OSError(-error, os.strerror(-error))

    def _configure(self) -> None:
        lines = []
        for name in _TUNS:
            lines += [f"link set {name} addrgenmode none", f"link set {name} up mtu 1500"]
        for version in (4, 6):
            family = f"-{version}"
            everything = "0.0.0.0/0" if version == 4 else "::/0"
            lines += [f"{family} rule add pref 1000 lookup local", f"{family} rule del pref 0"]
            for name in _TUNS:
                lines.append(f"{family} route add local {everything} dev lo table {_LOCAL[name]}")
                if version == 6:  # looked up by interface as well
                    for scoped in ("fe80::/10", "ff00::/8"):
                        lines.append(f"{family} route add local {scoped} dev {name} table {_LOCAL[name]}")
            for number, name in enumerate((*_TUNS, "lo"), 101):
                lines.append(f"{family} route add default dev {name} table {number}")
                if name != "lo":
                    lines.append(f"{family} rule add pref 50 oif {name} lookup {number}")
                for source in _TUNS:
                    if name in _TOS:
                        lines.append(f"{family} rule add pref 10 iif {source} tos {_TOS[name]:#x} lookup {number}")
            for name in _TUNS:
                lines.append(f"{family} rule add pref 20 iif {name} lookup {_LOCAL[name]}")
        for line in lines:
            self.ns.ip(line)
        settings = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.igmp_max_memberships=200"]
        for name in ("all", *_TUNS):
            settings += [f"net.ipv4.conf.{name}.{key}" for key in ("rp_filter=0", "accept_local=1", "route_localnet=1")]
            settings.append(f"net.ipv6.conf.{name}.accept_ra=0")
        self.ns.sh("sysctl", "-qw", *settings)
        libnftables.run(_OBSERVER)


def _sets() -> Iterator[tuple[str, str, int]]:
    for when in ("before", "after"):
        for hook in _HOOKS:
            for version in (4, 6):
                yield when, hook, version


def _observer() -> str:
    lines = ["table inet observer {"]
    for when, hook, version in _sets():
        key = "ip id" if version == 4 else "ip6 flowlabel"
        lines.append(f"set {when}_{hook}{version} {{ typeof {key}; size 65535; flags dynamic; }}")
    for when, priority in (("before", -1), ("after", 1)):
        for hook in _HOOKS:
            lines.append(f"chain {when}_{hook} {{ type filter hook {hook} priority {priority};")
            lines.append(f"ip ttl 75-81 add @{when}_{hook}4 {{ ip id }};")
            lines.append(f"ip6 hoplimit 75-81 add @{when}_{hook}6 {{ ip6 flowlabel }}; }}")
    lines.append("chain marks { type filter hook prerouting priority -150;")
    lines.append(f"iiftype != loopback ip ttl {_MARKED} meta mark set 0x6d6f6c65;")
    lines.append(f"iiftype != loopback ip6 hoplimit {_MARKED} meta mark set 0x6d6f6c65; }}")
    lines.append("}")
    return "\n".join(lines)


_OBSERVER = _observer()


@contextmanager
def host() -> Iterator[Host]:
    """A host under test; the calling thread is inside it meanwhile."""
    with Lab() as lab, lab.namespace("host").entered():
        made = Host(lab["host"])
        try:
            yield made
        finally:
            made.close()


def _make_tun(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1001))  # TUNSETIFF: IFF_TUN | IFF_NO_PI
    return fd


def _raw_socket(version: int, uid: int) -> socket.socket:
    """A raw socket that counts as `uid`'s: nftables asks for the credentials of who opened it."""
    _libc.setfsuid(uid)
    try:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    finally:
        _libc.setfsuid(0)
    if version == 4:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    return sock


def _join_groups() -> list[socket.socket]:
    """IPv4 shows a packet to a group to the input hook only where somebody listens to it."""
    sockets = []
    for name in (TUNNEL, OTHER):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for group in edges(4):
            if group.is_multicast:
                with suppress(OSError):  # 224.0.0.1 is joined by the kernel
                    request = group.packed + bytes(4) + struct.pack("=i", socket.if_nametoindex(name))
                    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        sockets.append(sock)
    return sockets


def drain(fd: int) -> Iterator[bytes]:
    """Every packet that waits in a TUN."""
    while True:
        try:
            yield os.read(fd, 65535)
        except BlockingIOError:
            return


def serial_of(packet: bytes) -> int:
    """The serial of one of our packets; -1: the kernel's own."""
    if packet[0] >> 4 == 4:
        return int.from_bytes(packet[4:6]) if 75 <= packet[8] <= 81 else -1
    return int.from_bytes(packet[1:4]) & 0xFFFFF if 75 <= packet[7] <= 81 else -1


def hop_limit(facts: Facts) -> int:
    """The hop limit that makes the observer set the mark of an incoming packet, or not."""
    return _MARKED if facts.mark and facts.direction is Direction.FORWARD else _PLAIN


def tos(facts: Facts) -> int:
    """The TOS byte that steers a forwarded packet."""
    if facts.direction is not Direction.FORWARD:
        return 0
    return _TOS[{Interface.LOOPBACK: "lo", Interface.TUNNEL: TUNNEL, Interface.OTHER: FAR}[facts.iface_out]]
