"""The engine's own ping through the tunnel: ICMP (RFC 792) and ICMPv6 (RFC 4443) echo as whole IP packets.

The request is sealed by the datapath directly, past the policy: it is made by the engine, goes to the gateway only,
and must also work while everything that applications send is blocked (MOB-2).
"""

import struct
from ipaddress import IPv4Address, IPv6Address

IPAddress = IPv4Address | IPv6Address

_TTL = 64
_ICMP = 1
_ICMPV6 = 58


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_request(source: IPAddress, destination: IPAddress, ident: int, sequence: int, size: int = 0) -> bytes:
    """An echo request, filled with zeros to `size` bytes of IP packet; it may not be fragmented.

    ValueError when the two addresses are of different families.
    """
    if source.version != destination.version:
        raise ValueError(f"no ping from {source} to {destination}: different families")
    if source.version == 4:
        icmp = struct.pack("!BBHHH", 8, 0, 0, ident, sequence) + bytes(max(0, size - 28))
        icmp = icmp[:2] + struct.pack("!H", checksum(icmp)) + icmp[4:]
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(icmp), 0, 0x4000, _TTL, _ICMP, 0)
        header += source.packed + destination.packed
        return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + icmp
    icmp = struct.pack("!BBHHH", 128, 0, 0, ident, sequence) + bytes(max(0, size - 48))
    pseudo = source.packed + destination.packed + struct.pack("!II", len(icmp), _ICMPV6)
    icmp = icmp[:2] + struct.pack("!H", checksum(pseudo + icmp)) + icmp[4:]
    return struct.pack("!IHBB", 0x60000000, len(icmp), _ICMPV6, _TTL) + source.packed + destination.packed + icmp


def echo_reply(packet: bytes) -> tuple[IPAddress, int] | None:
    """Who answers, and the sequence number, of an echo reply without options or extension headers; else None."""
    if len(packet) >= 28 and packet[0] == 0x45 and packet[9] == _ICMP and packet[20] == 0:
        return IPv4Address(packet[12:16]), int.from_bytes(packet[26:28], "big")
    if len(packet) >= 48 and packet[0] >> 4 == 6 and packet[6] == _ICMPV6 and packet[40] == 129:
        return IPv6Address(packet[8:24]), int.from_bytes(packet[46:48], "big")
    return None
