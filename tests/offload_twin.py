"""Split and join, called natively, and their slow twins in scapy."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from scapy.layers.inet import IP, TCP, UDP  # type: ignore[import-untyped]
from scapy.layers.inet6 import IPv6  # type: ignore[import-untyped]
from scapy.packet import Packet, Raw  # type: ignore[import-untyped]

from native._native import ffi, lib
from native.reasons import Reason

TCP4, TCP6, UDP4, UDP6 = lib.MH_JOIN_TCP4, lib.MH_JOIN_TCP6, lib.MH_JOIN_UDP4, lib.MH_JOIN_UDP6
EVERY_KIND = TCP4 | TCP6 | UDP4 | UDP6
GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 = 1, 4, 5
NEEDS_CSUM = 1


@dataclass(frozen=True)
class Header:
    """A virtio header."""

    flags: int = 0
    gso_type: int = 0
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0


def split(packet: bytes, header: Header) -> list[bytes] | Reason:
    """Wire packets of a super-packet, or why there are none."""
    facts, state = ffi.new("mh_facts *"), ffi.new("mh_split *")
    data = ffi.new("uint8_t[]", packet)
    reason = lib.mh_parse(data, len(packet), facts)
    native = ffi.new("mh_vnet_hdr *", vars(header))
    reason = reason or lib.mh_split_begin(state, native, data, len(packet), facts)
    if reason:
        return Reason(reason)
    out = ffi.new("uint8_t[]", state.max_len)
    packets = []
    while length := lib.mh_split_next(state, out):
        packets.append(bytes(ffi.buffer(out, length)))
    assert len(packets) == state.count
    assert max(map(len, packets)) == state.max_len
    return packets


def join(packets: list[bytes], kinds: int = EVERY_KIND) -> list[tuple[Header, bytes]]:
    """What would be written into the TUN, in order."""
    state = ffi.new("mh_join *")
    lib.mh_join_reset(state, kinds)
    kept = [ffi.new("uint8_t[]", packet) for packet in packets]
    facts = ffi.new("mh_facts *")
    for packet, data in zip(packets, kept, strict=True):
        assert lib.mh_parse(data, len(packet), facts) == 0
        assert lib.mh_join_add(state, data, len(packet), facts)
    written = []
    native, iov = ffi.new("mh_vnet_hdr *"), ffi.new("struct iovec[]", lib.MH_JOIN_PACKETS)
    for unit in range(state.units):
        count = lib.mh_join_emit(state, unit, native, iov)
        data = b"".join(bytes(ffi.buffer(iov[i].iov_base, iov[i].iov_len)) for i in range(count))
        fields = (native.flags, native.gso_type, native.hdr_len, native.gso_size)
        written.append((Header(*fields, native.csum_start, native.csum_offset), data))
    return written


def parsed(packet: bytes) -> Packet:
    """By scapy."""
    return IPv6(packet) if packet[0] >> 4 == 6 else IP(packet)


def with_checksums(packet: bytes) -> bytes:
    """The packet with lengths and checksums as scapy computes them."""
    tree = parsed(packet)
    for layer, fields in ((IP, ("len", "chksum")), (IPv6, ("plen",)), (TCP, ("chksum",)), (UDP, ("len", "chksum"))):
        if layer in tree:
            for name in fields:
                delattr(tree[layer], name)
    return bytes(tree)


def unfinished(packet: bytes) -> bytes:
    """The packet as a kernel hands over a super-packet: the checksum field holds the pseudo-header's sum alone."""
    tree = parsed(packet)
    layer, field = (TCP, 16) if TCP in tree else (UDP, 6)
    at = len(packet) - len(bytes(tree[layer]))
    addresses = packet[8:40] if IPv6 in tree else packet[12:20]
    head = addresses + struct.pack(">IHH", len(packet) - at, 0, 6 if layer is TCP else 17)
    total = sum(struct.unpack(f">{len(head) // 2}H", head))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return packet[: at + field] + struct.pack(">H", total) + packet[at + field + 2 :]


def naive_split(packet: bytes, size: int) -> list[bytes]:
    """One scapy packet per segment: addresses, options and the rest as in the super-packet."""
    tree = parsed(packet)
    layer = TCP if TCP in tree else UDP
    payload = bytes(tree[layer].payload)
    cuts = [payload[at : at + size] for at in range(0, len(payload), size)]
    packets = []
    for number, cut in enumerate(cuts):
        piece = parsed(packet)
        piece[layer].remove_payload()
        piece = piece / Raw(cut)
        if IP in piece:
            piece[IP].id = (piece[IP].id + number) & 0xFFFF
        if layer is TCP:
            piece[TCP].seq = (piece[TCP].seq + number * size) & 0xFFFFFFFF
            flags = int(piece[TCP].flags)
            if number < len(cuts) - 1:
                flags &= ~0x09
            if number:
                flags &= ~0x80
            piece[TCP].flags = flags
        packets.append(with_checksums(bytes(piece)))
    return packets


def gso_header(packet: bytes, size: int) -> Header:
    """The virtio header a kernel would give with this super-packet."""
    tree = parsed(packet)
    start = 40 if IPv6 in tree else 4 * int(tree[IP].ihl)
    if TCP in tree:
        header, kind, field = 4 * tree[TCP].dataofs, GSO_TCPV6 if IPv6 in tree else GSO_TCPV4, 16
    else:
        header, kind, field = 8, GSO_UDP_L4, 6
    return Header(NEEDS_CSUM, kind, start + header, size, start, field)
