"""IP packets as bytes, from facts: correct lengths and checksums, extension headers and fragments on demand."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

from native.facts import Facts

TCP, UDP, ICMPV6, FRAGMENT = 6, 17, 58, 44
SYN, SYN_ACK = 0x02, 0x12


def transport(facts: Facts, payload: bytes, *, tcp_flags: int = SYN) -> bytes:
    """The upper-layer part: TCP, UDP, ICMP or ICMPv6 header and payload, else the payload alone."""
    if facts.proto == TCP:
        acknowledged = 1001 if tcp_flags & 0x10 else 0
        sequence = 1000 if tcp_flags == SYN else 5000
        head = struct.pack(
            ">HHIIBBHHH", facts.sport, facts.dport, sequence, acknowledged, 5 << 4, tcp_flags, 64000, 0, 0
        )
        body = head + payload
        return body[:16] + struct.pack(">H", _checksum(_pseudo(facts, len(body)) + body)) + body[18:]
    if facts.proto == UDP:
        body = struct.pack(">HHHH", facts.sport, facts.dport, 8 + len(payload), 0) + payload
        return body[:6] + struct.pack(">H", _checksum(_pseudo(facts, len(body)) + body) or 0xFFFF) + body[8:]
    if facts.icmp_type is not None:
        body = struct.pack(">BBHHH", facts.icmp_type, facts.icmp_code, 0, 7, 7) + payload
        pseudo = _pseudo(facts, len(body)) if facts.proto == ICMPV6 else b""
        return body[:2] + struct.pack(">H", _checksum(pseudo + body)) + body[4:]
    return payload


def packet(facts: Facts, body: bytes, serial: int, *, hop_limit: int, tos: int = 0, fragment: int = 0) -> bytes:
    """An IPv4 packet (`fragment`: the field of flags and offset), or an IPv6 one whose next header is facts.proto."""
    if facts.version == 4:
        head = struct.pack(">BBHHHBBH", 0x45, tos, 20 + len(body), serial, fragment, hop_limit, facts.proto, 0)
        head += facts.src.packed + facts.dst.packed
        return head[:10] + struct.pack(">H", _checksum(head)) + head[12:] + body
    return ip6(facts.src, facts.dst, facts.proto, body, serial, hop_limit=hop_limit, tos=tos)


def ip6(
    src: IPv4Address | IPv6Address, dst: IPv4Address | IPv6Address, next_header: int, body: bytes, serial: int,
    *, hop_limit: int, tos: int = 0,
) -> bytes:  # fmt: skip
    """An IPv6 packet with this next header."""
    return (
        struct.pack(">IHBB", 6 << 28 | tos << 20 | serial, len(body), next_header, hop_limit)
        + src.packed
        + dst.packed
        + body
    )


def extended(headers: Sequence[int], proto: int, body: bytes) -> tuple[int, bytes]:
    """(next header, bytes): IPv6 extension headers of these kinds, filled with padding, before a body of `proto`."""
    for kind in reversed(headers):
        if kind == 43:  # routing, type 4 with no segments left
            body = struct.pack(">BBBBI", proto, 0, 253, 0, 0) + body
        else:  # hop-by-hop or destination options: PadN
            body = struct.pack(">BBBB4x", proto, 0, 1, 4) + body
        proto = kind
    return proto, body


def fragments(
    facts: Facts, body: bytes, serial: int, cuts: Sequence[int], *, hop_limit: int, tos: int = 0
) -> list[bytes]:
    """The datagram in pieces, cut at these offsets (multiples of 8)."""
    bounds = [0, *cuts, len(body)]
    pieces = []
    for start, end in pairwise(bounds):
        pieces.append(piece(facts, body[start:end], serial, start, more=end < len(body), hop_limit=hop_limit, tos=tos))
    return pieces


def piece(facts: Facts, part: bytes, serial: int, offset: int, *, more: bool, hop_limit: int, tos: int = 0) -> bytes:
    """One fragment: `part` at `offset` (a multiple of 8)."""
    if facts.version == 4:
        field = offset // 8 | (0x2000 if more else 0)
        return packet(facts, part, serial, hop_limit=hop_limit, tos=tos, fragment=field)
    head = struct.pack(">BBHI", facts.proto, 0, offset | more, serial)
    return ip6(facts.src, facts.dst, FRAGMENT, head + part, serial, hop_limit=hop_limit, tos=tos)


def _pseudo(facts: Facts, length: int) -> bytes:
    if facts.version == 4:
        return facts.src.packed + facts.dst.packed + struct.pack(">BBH", 0, facts.proto, length)
    return facts.src.packed + facts.dst.packed + struct.pack(">IxxxB", length, facts.proto)


def _checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
