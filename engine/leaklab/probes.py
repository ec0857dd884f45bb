"""Probes: one attempt each to get something out of the device, of every kind, told apart by a token.

A token is a unique word that goes out with the probe: as payload, as a DNS label, or (a SYN has none) as
the exact words that `capture.judge` prints for its addresses and ports. A probe ends in one of four ways:

    tunnel     answered, nothing of it seen in clear, and the server saw a tunnel address as the source
    clear      seen in clear at the provider's end
    blocked    neither seen nor answered
    odd        anything else (answered without being seen or coming by the tunnel): never expected

All probes of a round run at once, a thread each, and wait `WINDOW` seconds at most.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.leaklab import servers, world
from engine.leaklab.namespaces import Lab, Namespace

WINDOW = 2.0  # seconds that a probe waits for its answer; a SYN or an NS is sent twice within
BIG = 3000  # bytes: three fragments at any MTU in use here
_SO_BINDTODEVICE = 25


@dataclass
class Attempt:
    """One probe's run: tokens to look for in the capture, and the source the server saw (None: no answer)."""

    tokens: list[str] = field(default_factory=list)
    source: str | None = None
    error: str = ""


@dataclass(frozen=True)
class Probe:
    """What is tried: a name for the table, a group (see `scenario`), the function that tries it.

    `one_way`: nobody answers this one; seen in clear is all that it can be. `role`: the namespace it is sent from;
    from any but the device it knocks at the device, and its tokens are of the answer that the device would send.
    """

    name: str
    group: str
    run: Callable[[Namespace, Attempt], None]
    one_way: bool = False
    role: str = "device"


def _token(attempt: Attempt) -> str:
    token = "mh" + secrets.token_hex(7)  # 16 characters: a DNS label, and a repeating unit of every fragment
    attempt.tokens.append(token)
    return token


def _socket(ns: Namespace, target: str, kind: int, protocol: int = 0, device: str = "") -> socket.socket:
    with ns.entered():
        sock = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, kind, protocol)
    sock.settimeout(WINDOW)
    if device:
        sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, device.encode())
    return sock


def tcp(target: str, port: int = servers.ECHO_PORT, device: str = "", source: str = "") -> Callable[..., None]:
    """Connect, send the token, read the echo (port 53: ask by DNS over TCP)."""

    def run(ns: Namespace, attempt: Attempt) -> None:
        with _socket(ns, target, socket.SOCK_STREAM, device=device) as sock:
            sock.bind((source, 0))
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


def udp(
    target: str, port: int = servers.ECHO_PORT, size: int = 16, device: str = "", source: str = ""
) -> Callable[..., None]:
    """Send a datagram of `size` bytes of token, read the echo; more than the MTU goes out in fragments."""

    def run(ns: Namespace, attempt: Attempt) -> None:
        with _socket(ns, target, socket.SOCK_DGRAM, device=device) as sock:
            if source:
                sock.bind((source, 0))
            token = _token(attempt)
            sock.sendto((token * (size // 16)).encode(), (target, port))
            head, _, body = sock.recv(65535).partition(b"\n")
            if len(body) == size // 16 * 16:
                attempt.source = head.decode()

    return run


def dns(target: str, device: str = "") -> Callable[..., None]:
    """Ask a resolver over UDP for a name that holds the token."""

    def run(ns: Namespace, attempt: Attempt) -> None:
        with _socket(ns, target, socket.SOCK_DGRAM, device=device) as sock:
            sock.sendto(servers.dns_query(f"{_token(attempt)}.test", 7), (target, servers.DNS_PORT))
            attempt.source = servers.dns_source(sock.recv(4096))

    return run


def ping(target: str, device: str = "") -> Callable[..., None]:
    """Send an ICMP or ICMPv6 echo request with the token as payload, wait for the reply."""

    def run(ns: Namespace, attempt: Attempt) -> None:
        v6 = ":" in target
        protocol = socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP
        with _socket(ns, target, socket.SOCK_RAW, protocol, device) as sock:
            token = _token(attempt).encode()
            ident = secrets.randbelow(0x10000)
            head = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, ident, 1)
            if not v6:  # the kernel sums ICMPv6, not ICMP
                head = head[:2] + struct.pack("!H", _checksum(head + token)) + head[4:]
            sock.sendto(head + token, (target, 0))
            deadline = time.monotonic() + WINDOW
            while time.monotonic() < deadline:  # a raw socket hears all ICMP there is, not only what answers it
                reply = sock.recv(4096)
                kind = reply[0] if v6 else reply[(reply[0] & 15) * 4]
                if token in reply and kind == (129 if v6 else 0):
                    attempt.source = ""  # who answered an echo cannot tell what it saw
                    return

    return run


def cast(target: str, port: int = servers.ECHO_PORT) -> Callable[..., None]:
    """Send one datagram to a group, a broadcast address, or anyone who will not answer."""

    def run(ns: Namespace, attempt: Attempt) -> None:
        with _socket(ns, target, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.sendto(_token(attempt).encode(), (target, port))

    return run


_AS_NOBODY = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 25, b"eth0")
s.sendto(sys.argv[1].encode(), (sys.argv[2], int(sys.argv[3])))
"""


def bound_as_nobody(target: str, port: int = servers.ECHO_PORT) -> Callable[..., None]:
    """A datagram bound to the physical interface, by an ordinary user where we can become one."""

    def run(ns: Namespace, attempt: Attempt) -> None:
        command = [sys.executable, "-c", _AS_NOBODY, _token(attempt), target, str(port)]
        if "4294967295" in Path("/proc/self/uid_map").read_text():  # not in a user namespace of our own
            command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
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


def _checksum(data: bytes) -> int:
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
        self.token = "mh" + secrets.token_hex(7)
        self._stop = threading.Event()
        self._sockets = [(_socket(ns, target, socket.SOCK_DGRAM), target) for target in (world.WEB4, world.WEB6)]
        self._old = _socket(ns, world.WEB4, socket.SOCK_STREAM)
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
