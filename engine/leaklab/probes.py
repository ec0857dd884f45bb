"""Probes: one attempt each to get something out of the device, of every kind, told apart by a token.

A token is a unique word that goes out with the probe: as payload, as a DNS label, or (a SYN has none) as
the exact words that `frames.judge` prints for its addresses and ports. A probe ends in one of four ways:

    tunnel     answered, nothing of it seen in clear, and the server saw a tunnel address as the source
    clear      seen in clear at the provider's end
    blocked    neither seen nor answered
    odd        anything else (answered without being seen or coming by the tunnel): never expected

All probes of a round run at once, a thread each, and wait `WINDOW` seconds at most.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from engine.leaklab import servers, world
from engine.leaklab.namespaces import Lab, Namespace

WINDOW = 2.0  # seconds that a probe waits for its answer; a SYN or an NS is sent twice within
BIG = 3000  # bytes: three fragments at any MTU in use here
NOBODY = 65534
_SO_BINDTODEVICE, _SO_MARK = 25, 36
_libc = ctypes.CDLL(None, use_errno=True)

Option = tuple[int, int, int | bytes]
"""Level, name and value of a socket option."""


@dataclass
class Attempt:
    """One probe's run: tokens to look for in the capture, and the source the server saw (None: no answer)."""

    tokens: list[str] = field(default_factory=list)
    source: str | None = None
    error: str = ""


Run = Callable[[Namespace, Attempt], None]


@dataclass(frozen=True)
class Probe:
    """What is tried: a name for the table, a group (whose expectation is the table's maker's), the function that tries.

    `one_way`: nobody answers this one; seen in clear is all that it can be. `role`: the namespace it is sent from;
    from any but the device it knocks at the device, and its tokens are of the answer that the device would send.
    """

    name: str
    group: str
    run: Run
    one_way: bool = False
    role: str = "device"


@dataclass(frozen=True)
class How:
    """How a probe's socket is made: bound to a device or an address, marked, by an ordinary user, with options."""

    device: str = ""
    source: str = ""
    mark: int = 0
    user: bool = False
    options: tuple[Option, ...] = ()


PLAIN = How()


def new_token() -> str:
    """16 characters: a DNS label, and a repeating unit of every fragment."""
    return "mh" + secrets.token_hex(7)


def _token(attempt: Attempt) -> str:
    token = new_token()
    attempt.tokens.append(token)
    return token


@contextmanager
def as_nobody() -> Iterator[None]:
    """This thread makes files and sockets as an ordinary user; the kernel's filesystem uid is a thread's own."""
    _libc.setfsuid(NOBODY)
    try:
        yield
    finally:
        _libc.setfsuid(os.geteuid())


def open_socket(ns: Namespace, target: str, kind: int, protocol: int = 0, how: How = PLAIN) -> socket.socket:
    """A socket in a namespace, of the target's family, made as `how` says."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with ns.entered():
        if how.user:
            with as_nobody():
                sock = socket.socket(family, kind, protocol)
        else:
            sock = socket.socket(family, kind, protocol)
    sock.settimeout(WINDOW)
    if how.device:
        sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, how.device.encode())
    if how.mark:
        sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, how.mark)
    for level, name, value in how.options:
        sock.setsockopt(level, name, value)
    if how.source:
        sock.bind((how.source, 0))
    return sock


def tcp(target: str, port: int = servers.ECHO_PORT, how: How = PLAIN) -> Run:
    """Connect, send the token, read the echo (port 53: ask by DNS over TCP)."""

    def run(ns: Namespace, attempt: Attempt) -> None:
        with open_socket(ns, target, socket.SOCK_STREAM, how=how) as sock:
            if not how.source:
                sock.bind(("", 0))
            attempt.tokens.append(f"-> {target} ports {sock.getsockname()[1]} -> {port}")
            attempt.tokens.append(f"ports {port} -> {sock.getsockname()[1]}")  # what an asked device answers
            token = _token(attempt)
            sock.connect((target, port))
            if port == servers.DNS_PORT:
                query = servers.dns_query(f"{token}.test", 1)
                sock.sendall(struct.pack("!H", len(query)) + query)
                attempt.source = servers.dns_source(sock.recv(4096))
            else:
                sock.sendall(token.encode())
                attempt.source = sock.recv(4096).split(b"\n")[0].decode()

    return run


def udp(target: str, port: int = servers.ECHO_PORT, size: int = 16, how: How = PLAIN) -> Run:
    """Send a datagram of `size` bytes of token, read the echo; more than the MTU goes out in fragments."""

    def run(ns: Namespace, attempt: Attempt) -> None:
        with open_socket(ns, target, socket.SOCK_DGRAM, how=how) as sock:
            token = _token(attempt)
            sock.sendto((token * (size // 16)).encode(), (target, port))
            head, _, body = sock.recv(65535).partition(b"\n")
            if len(body) == size // 16 * 16:
                attempt.source = head.decode()

    return run


def dns(target: str, how: How = PLAIN) -> Run:
    """Ask a resolver over UDP for a name that holds the token."""

    def run(ns: Namespace, attempt: Attempt) -> None:
        with open_socket(ns, target, socket.SOCK_DGRAM, how=how) as sock:
            sock.sendto(servers.dns_query(f"{_token(attempt)}.test", 7), (target, servers.DNS_PORT))
            attempt.source = servers.dns_source(sock.recv(4096))

    return run


def ping(target: str, how: How = PLAIN) -> Run:
    """Send an ICMP or ICMPv6 echo request with the token as payload, wait for the reply."""

    def run(ns: Namespace, attempt: Attempt) -> None:
        v6 = ":" in target
        protocol = socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP
        with open_socket(ns, target, socket.SOCK_RAW, protocol, how) as sock:
            token = _token(attempt).encode()
            sock.sendto(icmp(128 if v6 else 8, token, v6), (target, 0))
            deadline = time.monotonic() + WINDOW
            while time.monotonic() < deadline:  # a raw socket hears all ICMP there is, not only what answers it
                reply = sock.recv(4096)
                kind = reply[0] if v6 else reply[(reply[0] & 15) * 4]
                if token in reply and kind == (129 if v6 else 0):
                    attempt.source = ""  # who answered an echo cannot tell what it saw
                    return

    return run


def icmp(kind: int, payload: bytes, v6: bool) -> bytes:
    """An ICMP or ICMPv6 message of code 0; the kernel itself sums ICMPv6."""
    head = struct.pack("!BBHHH", kind, 0, 0, secrets.randbelow(0x10000), 1)
    if v6:
        return head + payload
    return head[:2] + struct.pack("!H", checksum(head + payload)) + head[4:] + payload


def raw(target: str, protocol: int, how: How = PLAIN, before: bytes = b"") -> Run:
    """Send the token, behind the bytes `before`, as the payload of an IP packet of this protocol; nobody answers."""

    def run(ns: Namespace, attempt: Attempt) -> None:
        with open_socket(ns, target, socket.SOCK_RAW, protocol, how) as sock:
            payload = before + _token(attempt).encode()
            sock.sendto(icmp(payload[0], payload[1:], False) if protocol == 1 else payload, (target, 0))

    return run


def cast(target: str, port: int = servers.ECHO_PORT, how: How = PLAIN, sport: int = 0) -> Run:
    """Send one datagram to a group, a broadcast address, or anyone who will not answer."""

    def run(ns: Namespace, attempt: Attempt) -> None:
        with open_socket(ns, target, socket.SOCK_DGRAM, how=how) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            if sport:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("", sport))
            scope = socket.if_nametoindex(how.device) if how.device and target.startswith(("ff", "fe8")) else 0
            sock.sendto(_token(attempt).encode(), (target, port, 0, scope) if scope else (target, port))

    def inside(ns: Namespace, attempt: Attempt) -> None:
        with ns.entered():  # an interface's index is a namespace's own
            run(ns, attempt)

    return inside


def fragments(source: str, target: str, port: int = servers.ECHO_PORT, how: How = PLAIN, alone: bool = False) -> Run:
    """A datagram in two IPv4 fragments made by hand, as no socket would cut it; `alone`: the second one only."""

    def run(ns: Namespace, attempt: Attempt) -> None:
        token = _token(attempt).encode()
        body = struct.pack("!HHHH", 40001, port, 8 + len(token) * 3, 0) + token * 3
        number = secrets.randbelow(0x10000)
        with open_socket(ns, target, socket.SOCK_RAW, socket.IPPROTO_RAW, how) as sock:
            for start, end in ((0, 24), (24, len(body)))[alone:]:
                more = 0x2000 if end < len(body) else 0
                head = struct.pack(
                    "!BBHHHBBH4s4s", 0x45, 0, 20 + end - start, number, start // 8 | more, 64, socket.IPPROTO_UDP, 0,
                    ip_address(source).packed, ip_address(target).packed,
                )  # fmt: skip
                sock.sendto(head + body[start:end], (target, 0))

    return run


def frame(target: str, device: str = "eth0", gateway: str = "") -> Run:
    """A datagram as a frame on the wire, past the whole IP stack, as DHCP clients send theirs."""

    def run(ns: Namespace, attempt: Attempt) -> None:
        token = _token(attempt).encode()
        body = struct.pack("!HHHH", 40002, servers.ECHO_PORT, 8 + len(token), 0) + token
        head = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 7, 0, 64, socket.IPPROTO_UDP, 0,
            ip_address(world.DEVICE4).packed, ip_address(target).packed,
        )  # fmt: skip
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        with ns.entered():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with sock:
            sock.bind((device, 0))
            sock.send(b"\xff" * 6 + sock.getsockname()[4] + b"\x08\x00" + head + body)

    return run


_AS_NOBODY = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 25, b"eth0")
s.sendto(sys.argv[1].encode(), (sys.argv[2], int(sys.argv[3])))
"""


def bound_as_nobody(target: str, port: int = servers.ECHO_PORT) -> Run:
    """A datagram bound to the physical interface, by an ordinary user's process where we can become one."""

    def run(ns: Namespace, attempt: Attempt) -> None:
        command = [sys.executable, "-c", _AS_NOBODY, _token(attempt), target, str(port)]
        if "4294967295" in Path("/proc/self/uid_map").read_text():  # not in a user namespace of our own
            command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]
        done = subprocess.run(
            ["ip", "netns", "exec", ns.name, *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
        if done.returncode:
            attempt.error = done.stderr.strip().splitlines()[-1]

    return run


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def run_all(where: Lab, probes: Sequence[Probe]) -> list[Attempt]:
    """Run all probes at once; one Attempt each, in their order."""
    attempts = [Attempt() for _ in probes]

    def one(probe: Probe, attempt: Attempt) -> None:
        try:
            probe.run(where[probe.role], attempt)
        except OSError as error:  # timed out, refused, unreachable: no answer
            attempt.error = os.strerror(error.errno) if error.errno else "no answer"

    threads = [threading.Thread(target=one, args=pair, daemon=True) for pair in zip(probes, attempts, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WINDOW * 3 + 10)
    return attempts


class Drizzle:
    """What leaks in the moment of a change? A datagram of each IP version every 5 ms, and a TCP connection.

    The connection is opened in clear by the constructor, before there is a tunnel; from `start()` on it writes
    along with the datagrams: what was open before the block must not go on in clear either.
    """

    def __init__(self, ns: Namespace) -> None:
        self.token = new_token()
        self._stop = threading.Event()
        self._sockets = [(open_socket(ns, target, socket.SOCK_DGRAM), target) for target in (world.WEB4, world.WEB6)]
        self._old = open_socket(ns, world.WEB4, socket.SOCK_STREAM)
        self._old.connect((world.WEB4, servers.ECHO_PORT))
        self._old.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="drizzle", daemon=True)

    @property
    def running(self) -> bool:
        """Whether it sends."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def _run(self) -> None:
        token = self.token.encode()
        while not self._stop.wait(0.005):
            for sock, target in self._sockets:
                try:
                    sock.sendto(token, (target, servers.ECHO_PORT))
                except OSError:  # refused at once: fine
                    pass
            try:
                self._old.send(token)
            except OSError:  # the buffer is full of what could not go out: fine
                pass

    def close(self) -> None:
        """Stop."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2)
        for sock in (self._old, *(sock for sock, _ in self._sockets)):
            sock.close()
