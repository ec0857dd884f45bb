"""What an Ethernet frame is, read by a parser of its own: none of the enforcers' is asked about itself.

`judge` names a frame after the few things that a blocking device may still send (policy ids in brackets):

    arp         not IP at all
    ndp         neighbour discovery as NDP-1, NDP-4 and NDP-6 have it
    dhcp        a DHCP client's requests [DHCP4-1, DHCP6-1]
    wireguard   a well-formed WireGuard message to a relay's endpoint [CON-1, CTD-3]
    bridge      anything to the bridge's endpoint, by its protocol [CON-1]
    lan         private and multicast destinations but DNS [LAN-1, LAN-2]: fine with "allow LAN" on
    nd, mld     other neighbour discovery, and membership reports, of the kernel's own: a firewall stops them, a TUN
                does not see them [LNX-3 in docs/known-issues.md]
    clear       everything else, and whatever cannot be read
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

ICMP, IGMP, TCP, UDP, ICMPV6 = 1, 2, 6, 17, 58
DNS_PORT = 53
_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_FRAGMENT = 44
_EXTENSIONS = (0, 43, 60, 135)  # hop-by-hop, routing, destination options, mobility: a next header, then a length

Bridge = tuple[str, str, int]
"""The first hop in front of the relay: protocol (tcp, udp), address, port."""

LAN = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fe80::/10", "fc00::/7",
        "224.0.0.0/24", "239.0.0.0/8", "255.255.255.255/32",
        "ff01::/16", "ff02::/16", "ff03::/16", "ff04::/16", "ff05::/16",
    )
)  # fmt: skip
_LINK_LOCAL = ipaddress.ip_network("fe80::/10")
_SOLICITED_NODE = ipaddress.ip_network("ff02::1:ff00:0/104")


@dataclass(frozen=True)
class Packet:
    """The facts of an IP packet. Without a transport header (a later fragment) there are no ports and no type."""

    source: IPv4Address | IPv6Address
    target: IPv4Address | IPv6Address
    protocol: int
    hop_limit: int
    later_fragment: bool
    sport: int | None
    dport: int | None
    icmp: tuple[int, int] | None  # type and code
    payload: bytes  # behind the transport header; of UDP no more than its length says

    @property
    def to_lan(self) -> bool:
        """Whether its destination is the local network's."""
        return any(self.target in network for network in LAN if network.version == self.target.version)

    @property
    def way(self) -> str:
        """From where to where."""
        return f"{self.source} -> {self.target}"


def parse(frame: bytes) -> Packet | None:
    """The IP packet in an Ethernet frame; None: there is none. ValueError: it cannot be read."""
    try:
        (kind,) = struct.unpack_from("!H", frame, 12)
        if kind == _IPV4:
            return _ipv4(frame[14:])
        return _ipv6(frame[14:]) if kind == _IPV6 else None
    except (struct.error, IndexError):
        raise ValueError(f"unreadable frame of {len(frame)} bytes") from None


def _ipv4(data: bytes) -> Packet:
    length, field = struct.unpack_from("!H2xH", data, 2)
    head = (data[0] & 15) * 4
    if data[0] >> 4 != 4 or head < 20:
        raise ValueError("no IPv4 header")
    source, target = IPv4Address(data[12:16]), IPv4Address(data[16:20])
    end = length if length else len(data)  # a super-packet may have no length
    return _transport(source, target, data[9], data[8], data[head:end], later=bool(field & 0x1FFF))


def _ipv6(data: bytes) -> Packet:
    length, protocol, hop_limit = struct.unpack_from("!HBB", data, 4)
    if data[0] >> 4 != 6:
        raise ValueError("no IPv6 header")
    source, target = IPv6Address(data[8:24]), IPv6Address(data[24:40])
    body, later = data[40 : 40 + length] if length else data[40:], False
    while protocol in (*_EXTENSIONS, _FRAGMENT) and not later:
        if protocol == _FRAGMENT:
            protocol, field = struct.unpack_from("!BxH", body)
            body, later = body[8:], bool(field & 0xFFF8)
        else:
            protocol, more = struct.unpack_from("!BB", body)
            body = body[8 + more * 8 :]
    return _transport(source, target, protocol, hop_limit, body, later=later)


def _transport(
    source: IPv4Address | IPv6Address,
    target: IPv4Address | IPv6Address,
    protocol: int,
    hop_limit: int,
    body: bytes,
    *,
    later: bool,
) -> Packet:
    sport = dport = icmp = None
    payload = body
    if not later and protocol in (TCP, UDP):
        sport, dport = struct.unpack_from("!HH", body)
        payload = body[8:] if protocol == UDP else body[(body[12] >> 4) * 4 :]
    elif not later and protocol in (ICMP, ICMPV6):
        icmp, payload = struct.unpack_from("!BB", body), body[8:]
    return Packet(source, target, protocol, hop_limit, later, sport, dport, icmp, payload)


def is_wireguard(payload: bytes) -> bool:
    """Whether a UDP payload has the form of a WireGuard message: type, three zero bytes, its type's length.

    A data message has any length from 32: it is padded to 16 bytes, but not beyond the tunnel's MTU.
    """
    if len(payload) < 32 or payload[1:4] != b"\0\0\0":
        return False
    return payload[0] == 4 or {1: 148, 2: 92, 3: 64}.get(payload[0]) == len(payload)


def judge(frame: bytes, relays: Iterable[tuple[str, int]], bridge: Bridge | None = None) -> tuple[str, str]:
    """The name of a frame (see above) and one readable line about it."""
    try:
        packet = parse(frame)
    except ValueError as error:
        return "clear", str(error)
    if packet is None:
        return _without_ip(frame)
    lan = "lan" if packet.to_lan else "clear"
    if packet.later_fragment:
        return lan, f"fragment {packet.way}"
    if packet.protocol in (TCP, UDP):
        return _with_ports(packet, lan, set(relays), bridge)
    if packet.protocol == ICMPV6:
        return _icmpv6(packet, lan), f"ICMPv6 {packet.icmp[0] if packet.icmp else '?'} {packet.way}"
    return lan, f"protocol {packet.protocol} {packet.way}"


def _without_ip(frame: bytes) -> tuple[str, str]:
    if len(frame) >= 42 and frame[12:14] == _ARP.to_bytes(2, "big"):
        return "arp", f"ARP for {IPv4Address(frame[38:42])}"
    return "clear", f"ethertype {frame[12:14].hex()}"


def _with_ports(packet: Packet, lan: str, relays: set[tuple[str, int]], bridge: Bridge | None) -> tuple[str, str]:
    name = "TCP" if packet.protocol == TCP else "UDP"
    line = f"{name} {packet.way} ports {packet.sport} -> {packet.dport}, {len(packet.payload)} bytes"
    endpoint = (str(packet.target), packet.dport)
    if bridge is not None and (name.lower(), *endpoint) == bridge:
        return "bridge", line
    if packet.protocol == UDP:
        if endpoint in relays and is_wireguard(packet.payload):
            return "wireguard", line
        if _is_dhcp(packet):
            return "dhcp", line
    return (lan if packet.dport != DNS_PORT else "clear"), line


def _is_dhcp(packet: Packet) -> bool:
    if (packet.sport, packet.dport) == (68, 67):
        return str(packet.target) == "255.255.255.255"
    to_servers = str(packet.target) in ("ff02::1:2", "ff05::1:3")
    return (packet.sport, packet.dport) == (546, 547) and packet.source in _LINK_LOCAL and to_servers


def _icmpv6(packet: Packet, lan: str) -> str:
    kind, _ = packet.icmp or (0, 0)
    if packet.hop_limit == 255 and 133 <= kind <= 137:
        permitted = {
            133: str(packet.target) == "ff02::2",
            135: packet.target in _SOLICITED_NODE or packet.target in _LINK_LOCAL,
            136: packet.target in _LINK_LOCAL,
        }
        return "ndp" if permitted.get(kind, False) else "nd"
    if kind == 143 and str(packet.target) == "ff02::16" and packet.hop_limit == 1:
        return "mld"
    return lan
