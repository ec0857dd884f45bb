"""The far ends of the probes: echo and DNS over UDP and TCP, IPv4 and IPv6, in any namespace, on one thread.

Every answer tells the source address that the server saw, so the prober knows whether its packet came by the
tunnel or in clear: an echo answers `address newline payload`, a resolver an A or AAAA record holding it.
"""

from __future__ import annotations

import ipaddress
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.leaklab.namespaces import Namespace

ECHO_PORT, DNS_PORT = 7007, 53
SO_TIMESTAMPNS = 35
_TOLD_BYTES = 256  # of what was heard
Reply = Callable[[bytes, str], bytes]


def echo(data: bytes, source: str) -> bytes:
    """The source address, then what was sent."""
    return source.encode() + b"\n" + data


def dns_query(name: str, ident: int) -> bytes:
    """A query of type A (RFC 1035 section 4.1) for a name of short labels."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", ident, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)


def dns(query: bytes, source: str) -> bytes:
    """The query answered by one record: the address it came from (type AAAA for an IPv6 source)."""
    if len(query) < 12:
        return b""
    address = ipaddress.ip_address(source)
    head = query[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0)
    record = struct.pack("!HHHIH", 0xC00C, 1 if address.version == 4 else 28, 1, 0, len(address.packed))
    return head + query[12:] + record + address.packed


def dns_source(answer: bytes) -> str:
    """The address in an answer of `dns`."""
    length = 4 if answer[-6:-4] == b"\0\4" else 16
    return str(ipaddress.ip_address(answer[-length:]))


def _plain(address: str) -> str:
    return address.partition("%")[0].removeprefix("::ffff:")


def arrival(extra: list[tuple[int, int, bytes]], clock: float) -> float:
    """The kernel's own time of an arrival, in monotonic seconds; now, if it tells none. `clock`: the wall's lead."""
    for level, kind, value in extra:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = struct.unpack("ll", value[:16])
            return float(seconds + nanoseconds / 1e9 - clock)
    return time.monotonic()


@dataclass(frozen=True)
class Heard:
    """What reached a server: when (monotonic s), at which of its addresses, from where, the first bytes."""

    at: float
    address: str
    source: str
    data: bytes


class Servers:
    """All servers of a lab, answering from one daemon thread until `close()`. `heard` is the log of what came in."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self._clock = time.time() - time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._wake_out, self._wake_in = socket.socketpair()
        self._selector.register(self._wake_out, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="servers", daemon=True)

    def add(self, ns: Namespace, *addresses: str) -> None:
        """Serve echo (UDP and TCP port 7007) and DNS (UDP and TCP port 53) on these addresses."""
        for address in addresses:
            for port, reply in ((ECHO_PORT, echo), (DNS_PORT, dns)):
                self._listen(ns, address, port, reply)

    def add_port(self, ns: Namespace, address: str, port: int) -> None:
        """Serve echo on this port too."""
        self._listen(ns, address, port, echo)

    def _listen(self, ns: Namespace, address: str, port: int, reply: Reply) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with ns.entered():
                sock = socket.socket(family, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            sock.setblocking(False)
            sock.bind((address, port))
            if kind == socket.SOCK_STREAM:
                sock.listen(64)
            serve = self._datagram if kind == socket.SOCK_DGRAM else self._accept
            self._selector.register(sock, selectors.EVENT_READ, (serve, reply))

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                serve, reply = key.data
                try:
                    serve(key.fileobj, reply)
                except OSError:  # a client that went away, or has no route back: no answer is the answer
                    pass

    def _datagram(self, sock: socket.socket, reply: Reply) -> None:
        data, extra, _, peer = sock.recvmsg(65535, 64)
        self._note(sock, peer[0], data, arrival(extra, self._clock))
        sock.sendto(reply(data, _plain(peer[0])), peer)

    def _note(self, sock: socket.socket, source: str, data: bytes, at: float) -> None:
        address = _plain(sock.getsockname()[0])
        self.heard.append(Heard(at, address, _plain(source), data[:_TOLD_BYTES]))

    def _accept(self, sock: socket.socket, reply: Reply) -> None:
        connection, peer = sock.accept()
        self._note(connection, peer[0], f"connected from port {peer[1]}".encode(), time.monotonic())
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, (self._stream, reply))

    def _stream(self, sock: socket.socket, reply: Reply) -> None:
        try:
            data = sock.recv(65535)
            if data and reply is dns:  # RFC 1035 section 4.2.2: two bytes of length first
                answer = dns(data[2:], _plain(sock.getpeername()[0]))
                sock.sendall(struct.pack("!H", len(answer)) + answer)
            elif data:
                sock.sendall(reply(data, _plain(sock.getpeername()[0])))
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(sock)
            sock.close()

    def close(self) -> None:
        """Stop answering and close every socket."""
        self._wake_in.send(b"x")
        if self._thread.is_alive():
            self._thread.join(5)
        for key in list(self._selector.get_map().values()):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            sock.close()
        self._selector.close()
        self._wake_in.close()
