"""Every kind of probe in every state: one attempt each, and what must become of it.

The expectation is the policy document's, written down here once more and independent of the engine's own rules. A row
is void where the control (Disconnected, nothing enforced) did not see it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from engine.leaklab import servers, world
from engine.leaklab.arena import API, Arena, Condition
from engine.leaklab.capture import Frame
from engine.leaklab.namespaces import Namespace
from engine.leaklab.probes import (
    BIG,
    Attempt,
    How,
    Probe,
    Run,
    bound_as_nobody,
    cast,
    dns,
    fragments,
    frame,
    new_token,
    ping,
    raw,
    tcp,
    udp,
)
from engine.leaklab.result import Cell
from engine.leaklab.servers import Heard

GROUP, NAME = "probes", "every kind of probe"
_IP_NODEFRAG = 22
_ETH0 = How(device="eth0")
_MARKED = How(mark=world.MARK)
_USER = How(user=True)
_OWN = (world.TUNNEL4, world.TUNNEL6, world.TUNNEL2_4, world.TUNNEL2_6, "")
_ROUTER_SOLICITATION, _NEIGHBOUR_SOLICITATION, _NEIGHBOUR_ADVERTISEMENT = 133, 135, 136


class Expect(StrEnum):
    """What must become of a probe."""

    CLEAR = "seen outside the tunnel"
    TUNNEL = "answered through the tunnel"
    BLOCKED = "neither seen nor answered"


@dataclass(frozen=True)
class Row:
    """A probe as a row. `gap`: the known issue that explains it in the VPN-service mode; `known`: in every mode;
    `lost`: what explains that it does not arrive. `first_hop`: it is explained where the relay is the first hop only.
    """

    probe: Probe
    gap: str = ""
    known: str = ""
    lost: str = ""
    first_hop: bool = False


def rows(arena: Arena) -> list[Row]:
    """All rows."""
    return [*_internet(), *_dns(arena), *_lan(), *_bypass(), *_relay(), *_link(), *_inbound(), *_forwarded(), *_root()]


def _internet() -> Iterator[Row]:
    padded = (socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
    few_hops = (socket.IPPROTO_IP, socket.IP_TTL, 3)
    four, six = world.WEB4, world.WEB6
    yield Row(Probe("TCP to the internet", "internet", tcp(four)))
    yield Row(Probe("TCP to the internet, IPv6", "internet", tcp(six)))
    yield Row(Probe("UDP to the internet", "internet", udp(four)))
    yield Row(Probe("UDP to the internet, IPv6", "internet", udp(six)))
    yield Row(Probe("UDP to the internet, by an ordinary user", "internet", udp(four, how=_USER)))
    yield Row(Probe("UDP to the internet, in fragments", "internet", udp(four, size=BIG)))
    yield Row(Probe("UDP to the internet, in fragments, IPv6", "internet", udp(six, size=BIG)))
    yield Row(Probe("UDP to the internet, few hops", "internet", udp(four, how=How(options=(few_hops,)))))
    yield Row(Probe("UDP to the internet, destination options, IPv6", "internet", udp(six, how=How(options=(padded,)))))
    yield Row(Probe("ping to the internet", "internet", ping(four)))
    yield Row(Probe("ping to the internet, IPv6", "internet", ping(six)))
    yield Row(Probe("ping to the relay", "internet", ping(world.RELAY4)))
    yield Row(Probe("TCP to the API's endpoint, by root", "API", tcp(*API)))
    yield Row(Probe("TCP to the API's endpoint, by an ordinary user", "API, user", tcp(*API, how=_USER)))


def _dns(arena: Arena) -> Iterator[Row]:
    port = servers.DNS_PORT
    yield Row(Probe("the system's resolver", "system", _system_resolver(arena)))
    yield Row(Probe("DNS to the relay's resolver", "gateway", dns(world.GATEWAY4)))
    yield Row(Probe("DNS to the relay's resolver, TCP", "gateway", tcp(world.GATEWAY4, port)))
    yield Row(Probe("DNS to a public resolver", "public resolver", dns(world.RESOLVER4)))
    yield Row(Probe("DNS to a public resolver, TCP", "public resolver", tcp(world.RESOLVER4, port)))
    yield Row(Probe("DNS to a public resolver, IPv6", "other DNS", dns(world.RESOLVER6)))
    yield Row(Probe("DNS to the provider's resolver", "other DNS", dns(world.ISP4)))
    yield Row(Probe("DNS to the provider's resolver, TCP", "other DNS", tcp(world.ISP4, port)))
    yield Row(Probe("DNS to the provider's resolver, IPv6", "other DNS", dns(world.ISP6)))
    yield Row(Probe("DNS to the provider's resolver, bound to eth0", "other DNS", dns(world.ISP4, _ETH0)), gap="LNX-1")
    yield Row(Probe("DNS to a LAN host", "local resolver", dns(world.LAN_HOST4)))
    yield Row(Probe("DNS to a LAN host, TCP", "local resolver", tcp(world.LAN_HOST4, port)))
    yield Row(Probe("DNS to a LAN host, IPv6", "other DNS", dns(world.LAN_HOST6)))


def _system_resolver(arena: Arena) -> Run:
    """A name looked up as every program does it; its answer is the address from which the resolver was asked."""

    def run(ns: Namespace, attempt: Attempt) -> None:
        attempt.tokens.append(token := new_token())
        try:
            found = arena.home.sh("timeout", "3", "getent", "ahostsv4", f"{token}.test")
        except RuntimeError:
            raise TimeoutError from None
        attempt.source = found.split()[0]

    return run


def _lan() -> Iterator[Row]:
    yield Row(Probe("TCP to a LAN host", "LAN", tcp(world.LAN_HOST4)))
    yield Row(Probe("UDP to a LAN host", "LAN", udp(world.LAN_HOST4)))
    yield Row(Probe("UDP to a LAN host, IPv6", "LAN", udp(world.LAN_HOST6)))
    yield Row(Probe("ping to a LAN host", "LAN", ping(world.LAN_HOST4)))
    yield Row(Probe("ping to a LAN host, IPv6", "LAN", ping(world.LAN_HOST6)))
    yield Row(Probe("UDP to a LAN host, in fragments", "LAN", udp(world.LAN_HOST4, size=BIG)))
    dontroute = (socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
    yield Row(Probe("UDP to a LAN host, not routed", "LAN", udp(world.LAN_HOST4, how=How(options=(dontroute,)))))
    yield Row(Probe("UDP to a LAN host, bound to eth0", "LAN", udp(world.LAN_HOST4, how=_ETH0)), gap="LNX-1")
    for name, address, port in (
        ("multicast 239.1.2.3", "239.1.2.3", servers.ECHO_PORT),
        ("mDNS", "224.0.0.251", 5353),
        ("SSDP", "239.255.255.250", 1900),
        ("broadcast", "255.255.255.255", servers.ECHO_PORT),
        ("multicast ff05::1234", "ff05::1234", servers.ECHO_PORT),
        ("mDNS, IPv6", "ff02::fb", 5353),
    ):
        yield Row(Probe(f"{name}, by eth0", "LAN", cast(address, port, _ETH0), one_way=True), gap="LNX-3")
    subnet = cast(world.LAN4 + "255")
    yield Row(Probe("broadcast of the LAN's subnet", "LAN", subnet, one_way=True), gap="LNX-3")
    beyond = cast("ff0e::1234", how=_ETH0)
    yield Row(Probe("multicast beyond the LAN, IPv6", "bypass", beyond, one_way=True), gap="LNX-3")


def _bypass() -> Iterator[Row]:
    yield Row(Probe("UDP bound to eth0", "bypass", udp(world.WEB4, how=_ETH0)), gap="LNX-1")
    yield Row(Probe("UDP bound to eth0, IPv6", "bypass", udp(world.WEB6, how=_ETH0)), gap="LNX-1")
    yield Row(Probe("UDP bound to eth0, by a user's process", "bypass", bound_as_nobody(world.WEB4), one_way=True),
              gap="LNX-1")  # fmt: skip
    yield Row(Probe("TCP bound to eth0", "bypass", tcp(world.WEB4, how=_ETH0)), gap="LNX-1")
    yield Row(Probe("ping bound to eth0", "bypass", ping(world.WEB4, _ETH0)), gap="LNX-1")
    yield Row(Probe("UDP from the physical address", "bypass", udp(world.WEB4, how=How(source=world.DEVICE4))))
    yield Row(Probe("TCP from the physical address, IPv6", "bypass", tcp(world.WEB6, how=How(source=world.DEVICE6))))
    yield Row(Probe("another protocol (253), bound to eth0", "bypass", raw(world.WEB4, 253, _ETH0), one_way=True),
              gap="LNX-1")  # fmt: skip
    yield Row(Probe("another protocol (253), IPv6", "bypass", raw(world.WEB6, 253), one_way=True))
    yield Row(Probe("UDP marked as the engine's own", "bypass", udp(world.WEB4, how=_MARKED)), gap="LNX-2")
    yield Row(Probe("UDP marked as the engine's own, IPv6", "bypass", udp(world.WEB6, how=_MARKED)), gap="LNX-2")
    yield Row(Probe("UDP with another mark", "internet", udp(world.WEB4, how=How(mark=0x1234))))
    whole = How(device="eth0", options=((socket.IPPROTO_IP, _IP_NODEFRAG, 1),))
    by_hand = fragments(world.DEVICE4, world.WEB4, how=_ETH0)
    yield Row(Probe("fragments made by hand, bound to eth0", "bypass", by_hand, one_way=True), gap="LNX-1")
    in_pieces = fragments(world.DEVICE4, world.WEB4, how=whole)
    yield Row(Probe("fragments that conntrack may not join", "bypass", in_pieces, one_way=True), gap="LNX-1")
    alone = fragments(world.DEVICE4, world.WEB4, how=whole, alone=True)
    yield Row(Probe("a later fragment alone, bound to eth0", "bypass", alone, one_way=True), gap="LNX-1")


def _relay() -> Iterator[Row]:
    relay = world.RELAY4, world.RELAY_PORT
    yield Row(Probe("a user's UDP to the relay's endpoint", "bypass", cast(*relay, how=_USER), one_way=True))
    yield Row(Probe("root's UDP to the relay's endpoint", "bypass", cast(*relay), one_way=True))
    yield Row(Probe("TCP to the relay's endpoint", "bypass", tcp(*relay), one_way=True))
    marked_tcp = tcp(*relay, how=_MARKED)
    yield Row(Probe("TCP to the relay's endpoint, marked as the engine's own", "bypass", marked_tcp, one_way=True),
              gap="LNX-2")  # fmt: skip
    other_port = cast(world.RELAY4, 51821, _MARKED)
    yield Row(Probe("another port of the relay, marked as the engine's own", "bypass", other_port, one_way=True),
              gap="LNX-2")  # fmt: skip


def _link() -> Iterator[Row]:
    hops = (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    near = How(device="eth0", options=(hops,))
    far = How(device="eth0", options=((socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255),))
    icmp6 = socket.IPPROTO_ICMPV6
    solicit = bytes([_ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0])
    neighbour = bytes([_NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0])
    advertise = bytes([_NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0])
    yield Row(Probe("DHCP request", "always", cast("255.255.255.255", 67, _ETH0, sport=68), one_way=True))
    yield Row(Probe("DHCPv6 request", "always", _dhcpv6(), one_way=True))
    yield Row(Probe("router solicitation", "always", raw("ff02::2", icmp6, near, solicit), one_way=True))
    node = raw("ff02::1:ff00:1234", icmp6, near, neighbour)
    yield Row(Probe("neighbour solicitation", "always", node, one_way=True))
    disguised = cast(world.WEB4, 67, How(device="eth0"), sport=68)
    yield Row(Probe("UDP from DHCP's port to the internet", "bypass", disguised, one_way=True), gap="LNX-1")
    wide = raw(world.WEB6, icmp6, far, advertise)
    yield Row(Probe("neighbour advertisement to the internet", "bypass", wide, one_way=True), gap="LNX-1")
    stray = raw("ff02::1:ff00:1234", icmp6, near, bytes([_NEIGHBOUR_SOLICITATION, 1, 0, 0, 0, 0, 0, 0]))
    yield Row(Probe("neighbour solicitation of another code", "LAN", stray, one_way=True), gap="LNX-3")


def _dhcpv6() -> Run:
    """A request to all DHCPv6 servers from the link-local address of eth0."""
    reuse = (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return cast("ff02::1:2", 547, How(device="eth0", options=(reuse,)), sport=546)


def _inbound() -> Iterator[Row]:
    yield Row(Probe("TCP from a LAN host", "LAN inbound", tcp(world.DEVICE4), role="lan"), gap="LNX-4")
    yield Row(Probe("UDP from a LAN host", "LAN inbound", udp(world.DEVICE4), role="lan"), gap="LNX-4")
    yield Row(Probe("UDP from a LAN host, IPv6", "LAN inbound", udp("fd77::2"), role="lan"), gap="LNX-4")
    yield Row(Probe("ping from a LAN host", "LAN inbound", ping(world.DEVICE4), role="lan"), gap="LNX-4")
    yield Row(Probe("TCP from the internet", "inbound", tcp(world.DEVICE4), role="internet"), gap="LNX-4")
    yield Row(Probe("TCP from the internet, IPv6", "inbound", tcp(world.DEVICE6), role="internet"), gap="LNX-4")
    yield Row(Probe("UDP from the internet", "inbound", udp(world.DEVICE4), role="internet"), gap="LNX-4")
    yield Row(Probe("UDP from the internet, IPv6", "inbound", udp(world.DEVICE6), role="internet"), gap="LNX-4")
    yield Row(Probe("UDP from the internet, in fragments", "inbound", udp(world.DEVICE4, size=BIG), role="internet"),
              gap="LNX-4")  # fmt: skip
    yield Row(Probe("ping from the internet", "inbound", ping(world.DEVICE4), role="internet"), gap="LNX-4")
    yield Row(Probe("ping from the internet, IPv6", "inbound", ping(world.DEVICE6), role="internet"), gap="LNX-4")


def _forwarded() -> Iterator[Row]:
    guest = "guest"
    yield Row(Probe("a guest's TCP", "internet", tcp(world.WEB4), role=guest))
    yield Row(Probe("a guest's TCP, IPv6", "internet", tcp(world.WEB6), role=guest), lost="LNX-7")
    yield Row(Probe("a guest's UDP", "internet", udp(world.WEB4), role=guest))
    yield Row(Probe("a guest's UDP, in fragments", "internet", udp(world.WEB4, size=BIG), role=guest))
    yield Row(Probe("a guest's ping", "internet", ping(world.WEB4), role=guest))
    yield Row(Probe("a guest's DNS to the relay's resolver", "gateway", dns(world.GATEWAY4), role=guest))
    yield Row(Probe("a guest's DNS to the provider's resolver", "other DNS", dns(world.ISP4), role=guest))
    yield Row(Probe("a guest's DNS to a LAN host", "local resolver", dns(world.LAN_HOST4), role=guest))
    yield Row(Probe("a guest's UDP to a LAN host", "LAN", udp(world.LAN_HOST4), role=guest))
    relay = cast(world.RELAY4, world.RELAY_PORT)
    yield Row(Probe("a guest's UDP to the relay's endpoint", "bypass", relay, one_way=True, role=guest))


def _root() -> Iterator[Row]:
    own = cast(world.RELAY4, world.RELAY_PORT, _MARKED)
    yield Row(Probe("root's UDP to the relay's endpoint, marked as the engine's own", "as the engine", own,
                    one_way=True), known="LNX-2", first_hop=True)  # fmt: skip
    yield Row(Probe("a frame by a packet socket (root)", "bypass", frame(world.WEB4), one_way=True), known="NFT-1")


def expected(group: str, condition: Condition) -> Expect:
    """What must become of a probe of this group (policy.md's ids: DIS-1, CON-1 to CON-3, CTD-1 to CTD-3, LAN-1...)."""
    state = condition.state
    connected = state == "connected"
    if state == "disconnected":
        return Expect.CLEAR
    inside = {
        "internet": connected,
        "gateway": connected and not condition.dns,
        "public resolver": connected and condition.dns == "public",
        "system": connected and condition.dns != "private",
        "API": connected,
        "API, user": connected,
    }
    outside = {
        "LAN": condition.lan,
        "LAN inbound": condition.lan,
        "local resolver": connected and condition.dns == "private",
        "system": connected and condition.dns == "private",
        "API": condition.api and state in ("connecting", "error", "lockdown"),
        "always": True,
    }
    if inside.get(group, False):
        return Expect.TUNNEL
    return Expect.CLEAR if outside.get(group, False) else Expect.BLOCKED


class Matrix:
    """The rounds; the first one is the control."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.rows = rows(arena)
        self._unseen: set[str] = set()

    def control(self) -> list[Cell]:
        """Disconnected: every probe must be seen."""
        cells = self._round(Condition("disconnected"))
        self._unseen |= {cell.test for cell in cells if cell.lost}
        return [
            Cell(
                GROUP, cell.test, cell.state, sent=1, control=True,
                void="not seen where nothing is enforced" if cell.lost else "", evidence=cell.evidence,
            )
            for cell in cells
        ]  # fmt: skip

    def round(self, condition: Condition) -> list[Cell]:
        """All probes under this condition, which must have been reached; and whatever else was seen."""
        cells = self._round(condition)
        tokens = [token for attempt in self._attempts for token in attempt.tokens]
        strays = [s for s in self.arena.judge()[0] if not any(s.frame.carries(token) for token in tokens)]
        rest = Cell(
            GROUP, "anything else", condition.name, out=len(strays), evidence=tuple(s.line() for s in strays[:5])
        )
        return [*cells, rest]

    def _round(self, condition: Condition) -> list[Cell]:
        self._attempts, frames, heard = self.arena.probe([row.probe for row in self.rows])
        return [
            self._cell(row, attempt, frames, heard, condition)
            for row, attempt in zip(self.rows, self._attempts, strict=True)
        ]

    def _cell(
        self, row: Row, attempt: Attempt, frames: Sequence[Frame], heard: Sequence[Heard], condition: Condition
    ) -> Cell:
        probe = row.probe
        want = expected(probe.group, condition)
        clear = [frame for frame in frames if any(frame.carries(token) for token in attempt.tokens)]
        knocks = [h for h in heard if _is_knock(probe, h, attempt)]
        out = lost = 0
        match want:
            case Expect.CLEAR:
                lost = not (clear or knocks)
            case Expect.TUNNEL:
                out, lost = len(clear), not (attempt.source is not None and attempt.source in _OWN)
            case Expect.BLOCKED:
                out = len(clear) + len(knocks)
        evidence = [frame.line for frame in clear] + [f"heard from {h.source}" for h in knocks]
        if lost:
            evidence.append(f"{want} it should be; answered: {attempt.source!r}; {attempt.error or 'no error'}")
        void = "not seen where nothing is enforced" if probe.name in self._unseen else ""
        known = row.known or ("" if self.arena.firewall else row.gap)
        if row.first_hop and self.arena.firewall and condition.bridge:
            known = ""
        if lost and not out:
            known = row.lost
        return Cell(
            GROUP, probe.name, condition.name, out=out, lost=int(lost), sent=1, known=known, void=void,
            evidence=tuple(evidence[:5]),
        )  # fmt: skip


def _is_knock(probe: Probe, heard: Heard, attempt: Attempt) -> bool:
    """Whether a server of the device heard this probe, which came from elsewhere."""
    if probe.role in ("device", "guest"):
        return False
    words = [token.encode() for token in attempt.tokens if token.startswith("mh")]
    ports = [f"from port {token.rsplit(' ', 1)[1]}".encode() for token in attempt.tokens if token.startswith("ports")]
    return any(word in heard.data for word in words) or any(heard.data.endswith(port) for port in ports)
