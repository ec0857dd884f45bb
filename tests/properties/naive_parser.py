"""A second packet parser, written for reading: the twin that native/src/parse.c is held against.

It cuts the packet into pieces and looks at whole pieces, where the C code walks with offsets. Bad raises Refused.
"""

from ipaddress import IPv4Address, IPv6Address

from native.facts import Facts, Fragment
from native.reasons import Reason


class Refused(Exception):
    """The packet contradicts itself; args[0] is the Reason."""


def parse(packet: bytes) -> Facts | Reason:
    """What `native.facts.parse` should say."""
    try:
        if packet[:1] and packet[0] >> 4 == 4:
            return _four(packet)
        if packet[:1] and packet[0] >> 4 == 6:
            return _six(packet)
        return Reason.MALFORMED
    except Refused as refused:
        return refused.args[0]


def _number(piece: bytes) -> int:
    return int.from_bytes(piece, "big")


def _require(holds: object, reason: Reason = Reason.MALFORMED) -> None:
    if not holds:
        raise Refused(reason)


def _four(packet: bytes) -> Facts:
    _require(len(packet) >= 20)
    words, total = packet[0] % 16, _number(packet[2:4])
    _require(words >= 5 and 4 * words <= total <= len(packet))
    payload = packet[4 * words : total]
    flags = _number(packet[6:8])
    return _finish(
        payload,
        offset=flags % 8192 * 8,
        more=bool(flags & 8192),
        fragmented=payload,
        before=4 * words,
        version=4,
        proto=packet[9],
        src=IPv4Address(packet[12:16]),
        dst=IPv4Address(packet[16:20]),
        tos=packet[1],
        frag_id=_number(packet[4:6]),
        header_len=4 * words,
        total_len=total,
    )


def _six(packet: bytes) -> Facts:
    _require(len(packet) >= 40)
    total = 40 + _number(packet[4:6])
    _require(total <= len(packet))
    rest, proto = packet[40:total], packet[6]
    frag_id, offset, more, fragmented, before, seen = 0, 0, False, b"", 0, []
    while proto in (0, 43, 44, 51, 60):
        inside = Reason.FRAGMENT_BAD if more else Reason.MALFORMED  # behind a fragment header that says "first"
        seen.append(proto)
        _require(len(seen) <= 8 and len(rest) >= 8 and (proto != 0 or len(seen) == 1), inside)
        length = {44: 8, 51: 4 * rest[1] + 8}.get(proto, 8 * rest[1] + 8)
        _require(length <= len(rest) and not (proto == 51 and length < 12), inside)
        header, rest = rest[:length], rest[length:]
        if proto == 44:
            _require(seen.count(44) == 1, Reason.FRAGMENT_BAD)
            frag_id = _number(header[4:8])
            offset, more = _number(header[2:4]) // 8 * 8, bool(header[3] & 1)
            fragmented, before = rest, total - 40 - len(rest) - 8
            _check_fragment(offset, more, fragmented, before)
        proto = header[0]
        if offset:
            break
    return _finish(
        rest,
        offset=offset,
        more=more,
        fragmented=fragmented,
        before=before,
        version=6,
        proto=proto,
        src=IPv6Address(packet[8:24]),
        dst=IPv6Address(packet[24:40]),
        tos=_number(packet[:2]) >> 4 & 255,
        frag_id=frag_id,
        header_len=total - len(rest),
        total_len=total,
    )


def _check_fragment(offset: int, more: bool, fragmented: bytes, before: int) -> None:
    if offset or more:
        whole_units = len(fragmented) % 8 == 0 or not more
        fits = before + offset + len(fragmented) <= 65535
        _require(fragmented and whole_units and fits, Reason.FRAGMENT_BAD)


def _finish(rest: bytes, *, offset: int, more: bool, fragmented: bytes, before: int, **known) -> Facts:
    _check_fragment(offset, more, fragmented, before)
    proto = known["proto"]
    if offset:
        _require(proto != 6 or offset >= 20, Reason.FRAGMENT_BAD)
        known |= {"fragment": Fragment.LATER}
    else:
        bad = Reason.FRAGMENT_BAD if more else Reason.MALFORMED
        known |= {"fragment": Fragment.FIRST if more else Fragment.WHOLE}
        if proto == 6:
            _require(len(rest) >= 20 and 20 <= rest[12] // 16 * 4 <= len(rest), bad)
        if proto == 17:
            _require(len(rest) >= 8 and _number(rest[4:6]) >= 8, bad)
            _require(more or _number(rest[4:6]) <= len(rest), bad)
        if proto in (6, 17):
            known |= {"sport": _number(rest[:2]), "dport": _number(rest[2:4])}
        if proto == {4: 1, 6: 58}[known["version"]]:
            _require(len(rest) >= 8, bad)
            known |= {"icmp_type": rest[0], "icmp_code": rest[1]}
    if offset or more:
        known |= {"frag_offset": offset, "frag_len": len(fragmented), "more_fragments": more}
    return Facts(**known)
