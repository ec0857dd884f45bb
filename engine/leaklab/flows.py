"""Connections that were open before a tightening: neither end may reach the other any more where nothing permits it.

Both ends send every 10 ms: the device's packets are looked for on its wires, those of the far end in what the device's
socket still receives. The control is the flow itself, which must run in both directions before.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from engine.leaklab import world
from engine.leaklab.arena import Arena, Condition
from engine.leaklab.cells import Do, Findings, Test, Void
from engine.leaklab.namespaces import wait_until
from engine.leaklab.probes import PLAIN, How, new_token, open_socket

GROUP = "flows"
_API_ENDPOINT = (world.WEB4, 8444)
_EVERY = 0.01  # seconds
_SETTLED = 0.3  # seconds after a tightening in which what lay in a socket's buffer is still read
_WATCHED = 1.0


@dataclass(frozen=True)
class Way:
    """A flow to be: from a namespace to an address and port of another."""

    name: str
    role: str
    to: str
    target: str
    port: int
    kind: int = socket.SOCK_STREAM
    how: How = PLAIN
    lan: bool = False


_STREAM, _DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
_ETH0 = How(device="eth0")
INTERNET = (
    Way("TCP", "device", "internet", world.WEB4, 7101),
    Way("TCP, IPv6", "device", "internet", world.WEB6, 7102),
    Way("UDP", "device", "internet", world.WEB4, 7103, _DATAGRAM),
    Way("UDP, IPv6", "device", "internet", world.WEB6, 7104, _DATAGRAM),
    Way("TCP bound to eth0", "device", "internet", world.WEB4, 7105, how=_ETH0),
    Way("UDP bound to eth0", "device", "internet", world.WEB4, 7106, _DATAGRAM, _ETH0),
    Way("UDP marked as the engine's own", "device", "internet", world.WEB4, 7107, _DATAGRAM, How(mark=world.MARK)),
    Way("a guest's TCP", "guest", "internet", world.WEB4, 7108),
    Way("a guest's UDP", "guest", "internet", world.WEB4, 7109, _DATAGRAM),
)
LAN = (
    Way("TCP to a LAN host", "device", "lan", world.LAN_HOST4, 7111, lan=True),
    Way("UDP to a LAN host, IPv6", "device", "lan", world.LAN_HOST6, 7112, _DATAGRAM, lan=True),
    Way("UDP to a LAN host, bound to eth0", "device", "lan", world.LAN_HOST4, 7113, _DATAGRAM, _ETH0, lan=True),
    Way("TCP from a LAN host", "lan", "device", world.DEVICE4, 7114, lan=True),
    Way("a guest's UDP to a LAN host", "guest", "lan", world.LAN_HOST4, 7115, _DATAGRAM, lan=True),
)


class Flow:
    """An open flow, both ends sending; `heard` are the times at which the device's (or its guest's) end received."""

    def __init__(self, arena: Arena, way: Way) -> None:
        self.way = way
        self.token = new_token() + "Y"
        with arena.lab[way.to].entered():
            server = socket.socket(socket.AF_INET6 if ":" in way.target else socket.AF_INET, way.kind)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((way.target, way.port))
        client = open_socket(arena.lab[way.role], way.target, way.kind, how=way.how)
        if way.kind == _STREAM:
            server.listen(1)
            client.connect((way.target, way.port))
            server.settimeout(3)
            listener, (server, _) = server, server.accept()
            listener.close()
        else:
            client.connect((way.target, way.port))
            client.send(b"hello")
            server.settimeout(3)
            server.connect(server.recvfrom(64)[1])
        self._ends = (client, server)
        for end in self._ends:
            end.setblocking(False)
        self.heard: tuple[list[float], list[float]] = ([], [])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flow", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(_EVERY):
            for end, heard in zip(self._ends, self.heard, strict=True):
                with suppress(OSError):
                    end.send(self.token.encode())
                with suppress(OSError):
                    if end.recv(1 << 16):
                        heard.append(time.monotonic())

    @property
    def ours(self) -> list[float]:
        """When our side received something."""
        return self.heard[0] if self.way.role != "lan" else self.heard[1]

    def runs(self) -> bool:
        """Whether both ends have heard of each other lately."""
        lately = time.monotonic() - 0.2
        return all(heard and heard[-1] > lately for heard in self.heard)

    def close(self) -> None:
        """End it, abruptly."""
        self._stop.set()
        self._thread.join(2)
        for end in self._ends:
            end.close()


@contextmanager
def running(arena: Arena, ways: Sequence[Way]) -> Iterator[list[Flow]]:
    """Open flows, which must run. Void if one does not."""
    flows: list[Flow] = []
    try:
        for way in ways:
            try:
                flows.append(Flow(arena, way))
            except OSError as error:
                raise Void(f"{way.name}: the flow cannot be opened: {error}") from None
        try:
            wait_until(lambda: all(flow.runs() for flow in flows), 4, "flows")
        except TimeoutError:
            raise Void(f"does not flow before: {', '.join(f.way.name for f in flows if not f.runs())}") from None
        yield flows
    finally:
        for flow in flows:
            flow.close()


def _judge(arena: Arena, flows: Sequence[Flow], findings: Findings) -> None:
    """Wait, and count what our ends still hear; what they send the witnesses see."""
    begin = time.monotonic()
    time.sleep(_WATCHED)
    for flow in flows:
        late = [at for at in flow.ours if at > begin + _SETTLED]
        findings.leaked(len(late), f"{flow.way.name}: still hears the other end")
        findings.sent += int(2 * _WATCHED / _EVERY)


def _opened_before(arena: Arena, condition: Condition, findings: Findings) -> None:
    """Flows of the time in Disconnected, as it connects and goes on to its state."""
    with running(arena, (*INTERNET, *LAN)) as flows:
        arena.reach(condition)
        _judge(arena, [flow for flow in flows if not (flow.way.lan and condition.lan)], findings)


def _tightened(ways: Sequence[Way], start: Callable[[Condition], Condition], tighten: Do) -> Do:
    """Reach the looser condition, open the flows, tighten, judge."""

    def do(arena: Arena, condition: Condition, findings: Findings) -> None:
        arena.api, arena.resolver = _API_ENDPOINT, world.LAN_RESOLVER4  # where the lab's own servers do not listen
        arena.reach(start(condition))
        with running(arena, ways) as flows:
            tighten(arena, condition, findings)
            _judge(arena, flows, findings)

    return do


def _block_lan(arena: Arena, condition: Condition, findings: Findings) -> None:
    arena.driver.settings(allow_lan=False)
    arena.watch(condition)


def _default_dns(arena: Arena, condition: Condition, findings: Findings) -> None:
    arena.driver.settings(dns=())
    arena.watch(condition)


def _no_api(arena: Arena, condition: Condition, findings: Findings) -> None:
    arena.driver.settings(api=None)
    arena.watch(replace(condition, api=False))


def _connected(arena: Arena, condition: Condition, findings: Findings) -> None:
    arena.cut_relays(False)
    arena.driver.wait_for("connected")
    arena.watch(condition)


def _to_error(arena: Arena, condition: Condition, findings: Findings) -> None:
    arena.driver.block()
    arena.watch(Condition("error"))
    arena.driver.wait_for("error")


_RESOLVER = (
    Way("DNS over TCP to the LAN's resolver", "device", "lan", world.LAN_RESOLVER4, 53),
    Way("DNS to the LAN's resolver", "device", "lan", world.LAN_RESOLVER4, 53, _DATAGRAM),
)
_API = (Way("TCP to the API", "device", "internet", *_API_ENDPOINT),)
_INSIDE = (INTERNET[0], INTERNET[2])
_ENDS = tuple(Condition(state) for state in ("connecting", "connected", "error", "lockdown"))
TESTS = (
    Test(GROUP, "flows of before the connect", _opened_before, (*_ENDS, Condition("connected", lan=True)), itself=True,
         gap="LNX-1"),
    Test(GROUP, "LAN flows, as the LAN is blocked", _tightened(LAN, lambda c: replace(c, lan=True), _block_lan), _ENDS,
         itself=True, needs_daemon=True, gap="LNX-1"),
    Test(GROUP, "flows to a custom resolver, as it is given up",
         _tightened(_RESOLVER, lambda c: replace(c, dns="private"), _default_dns), (Condition("connected"),),
         itself=True, needs_daemon=True, gap="LNX-1"),
    Test(GROUP, "a flow to the API, as it connects",
         _tightened(_API, lambda c: replace(c, state="connecting"), _connected), (Condition("connected", api=True),),
         itself=True, needs_daemon=True, gap="LNX-4"),
    Test(GROUP, "a flow to the API, as its endpoint is given up",
         _tightened(_API, lambda c: replace(c, api=True), _no_api),
         (Condition("connecting"), Condition("error"), Condition("lockdown")), itself=True, needs_daemon=True,
         gap="LNX-4"),
    Test(GROUP, "flows inside the tunnel, as it goes to Error", _tightened(_INSIDE, lambda c: c, _to_error),
         (Condition("connected"),), itself=True),
)  # fmt: skip
