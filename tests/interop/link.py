"""Two engines joined by a veth, tunnel addresses of both families, and transfers whose digests must agree.

`OURS` is molehill-wg; the environment variable LAB_ENGINE puts another command in its place (with wireguard-go
there, the tests must pass as well: that shows a failure to be ours). End `a` initiates, end `b` has the fixed port.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from dataclasses import dataclass
from types import TracebackType

from tests.netns.engines import MOLEHILL, WIREGUARD_GO, Engine, Keys, config
from tests.netns.lab import Namespace, pair, sh

OURS = os.environ.get("LAB_ENGINE", MOLEHILL)
MIB = 1 << 20
PORT = 51820
INNER = {"a": {4: "10.9.0.1", 6: "fd0a::1"}, "b": {4: "10.9.0.2", 6: "fd0a::2"}}
OUTER = {"a": {4: "172.16.9.1", 6: "fd09::1"}, "b": {4: "172.16.9.2", 6: "fd09::2"}}
# The roles that every test of the protocol is run in: (command of a, command of b).
ROLES = {"we initiate": (OURS, WIREGUARD_GO), "we respond": (WIREGUARD_GO, OURS)}


@dataclass(frozen=True)
class Sent:
    """One finished transfer: bytes received, and whether their SHA-256 is that of what was sent."""

    received: int
    equal: bool


def at(address: str, port: int = PORT) -> str:
    """`host:port` as wg wants it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Link:
    """Two engines with a tunnel between them; a context manager."""

    def __init__(
        self, commands: tuple[str, str], *, outer: int = 4, psk: bool = False, mtu: int = 1420, endpoint: str = ""
    ) -> None:
        self.outer = outer
        self.lab = pair()
        try:
            self.keys = {role: Keys.new() for role in "ab"}
            shared = sh("wg", "genpsk").strip() if psk else ""
            self.a, self.b = (
                Engine(self.lab, self.lab[role], f"mh{self.lab.tag}{role}", command)
                for role, command in zip("ab", commands, strict=True)
            )
            endpoint = endpoint or at(OUTER["b"][outer])
            self.a.setconf(
                config(self.keys["a"], self.keys["b"].public, "10.9.0.2/32,fd0a::2/128", endpoint=endpoint, psk=shared)
            )
            self.b.setconf(
                config(self.keys["b"], self.keys["a"].public, "10.9.0.1/32,fd0a::1/128", port=PORT, psk=shared)
            )
            for role, end in (("a", self.a), ("b", self.b)):
                end.up([INNER[role][4] + "/24", INNER[role][6] + "/64"], mtu=mtu)
        except BaseException:
            self.lab.close()
            raise

    def ping(self, inner: int = 4, size: int = 56, ends: str = "ab", wait: int = 5) -> bool:
        """Whether one echo of `size` bytes comes back, asked at ends[0] of ends[1]; it must not be fragmented."""
        try:
            command = ["ping", "-M", "do", "-c", "1", "-W", str(wait), "-s", str(size), INNER[ends[1]][inner]]
            self.lab[ends[0]].sh(*command)
        except RuntimeError:
            return False
        return True

    def send(self, size: int, inner: int = 4, ends: str = "ab") -> Sent:
        """Send `size` random bytes over TCP from ends[0] to ends[1]."""
        transfer = Transfer(self.lab[ends[0]], self.lab[ends[1]], INNER[ends[1]][inner], size)
        return transfer.result()

    def both_ways(self, size: int, inner: int = 4) -> tuple[Sent, Sent]:
        """`send` in both directions at once."""
        ways = [Transfer(self.lab[x], self.lab[y], INNER[y][inner], size) for x, y in ("ab", "ba")]
        return ways[0].result(), ways[1].result()

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # pytest shows what the engines said beside the failure
            for end in (self.a, self.b):
                print(f"--- {end.process.command}\n{end.process.output()}")
        self.lab.close()


class Transfer:
    """A TCP transfer in two threads, running from its construction to `result()`."""

    def __init__(self, source: Namespace, target: Namespace, address: str, size: int, rate: float = 0) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.size, self.moved, self._rate = size, 0, rate
        self._digests: dict[str, str] = {}
        self._error: OSError | None = None
        with target.entered():
            self._listener = socket.create_server((address, 0), family=family)
        with source.entered():
            self._client = socket.socket(family)
        for sock in (self._listener, self._client):
            sock.settimeout(60)
        to = (address, self._listener.getsockname()[1])
        self._threads = [
            threading.Thread(target=self._guarded, args=work, daemon=True)
            for work in ((self._receive,), (self._send, to))
        ]
        for thread in self._threads:
            thread.start()

    def _guarded(self, work, *arguments) -> None:  # type: ignore[no-untyped-def]
        try:
            work(*arguments)
        except OSError as error:
            self._error = self._error or error  # the first one is the cause

    def _send(self, to: tuple[str, int]) -> None:
        digest, left = hashlib.sha256(), self.size
        with self._client as sock:
            sock.connect(to)
            while left:
                block = os.urandom(min(left, 1 << 18))
                digest.update(block)
                sock.sendall(block)
                left -= len(block)
                if self._rate:  # bytes/s: to be still under way when something else happens
                    self._pause.wait(len(block) / self._rate)
            sock.shutdown(socket.SHUT_WR)
        self._digests["sent"] = digest.hexdigest()

    _pause = threading.Event()

    def _receive(self) -> None:
        digest = hashlib.sha256()
        with self._listener:
            connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(60)
            while block := connection.recv(1 << 18):
                digest.update(block)
                self.moved += len(block)
        self._digests["received"] = digest.hexdigest()

    def result(self, timeout: float = 600) -> Sent:
        """Wait for the end of it; OSError of the side that failed."""
        for thread in self._threads:
            thread.join(timeout)
        if self._error is not None:
            raise self._error
        return Sent(self.moved, self._digests.get("sent", "unfinished") == self._digests.get("received"))
