"""What the policy may know of a packet: `parse` reads its headers, the caller adds where it was seen and by whom.

The Python mirror of native/src/facts.h. A value that a packet does not show is None here, and a flag there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from native._native import ffi, lib
from native.reasons import Reason


class Direction(IntEnum):
    """Which way a packet passes this machine."""

    OUT = 0
    IN = 1
    FORWARD = 2


class Interface(IntEnum):
    """What a packet's interface is to the policy."""

    LOOPBACK = 0
    TUNNEL = 1
    OTHER = 2


class Fragment(IntEnum):
    """Which part of a datagram a packet is; an atomic fragment (RFC 6946) is WHOLE."""

    WHOLE = 0
    FIRST = 1
    LATER = 2


class App(IntEnum):
    """Which of our executables owns a packet, where the platform knows it."""

    UNKNOWN = 0
    SERVICE = 1
    PROBLEM_REPORT = 2


@dataclass(frozen=True)
class Facts:
    """One packet, as it is judged.

    * `proto`: the upper-layer protocol after extension headers; `sport` and `dport` of TCP and UDP, `icmp_type` and
      `icmp_code` of ICMP and ICMPv6: of whole packets and first fragments only.
    * `header_len`, `total_len`, `frag_offset`, `frag_len`: bytes. `tos`: the TOS or traffic class byte.
    * `iface_out` counts for `out` packets, `iface_in` for `in` packets, both for forwarded ones.
    * `reply`: answers a flow that was allowed. `uid`: the owner, None: unknown.
    """

    version: int
    proto: int
    src: IPv4Address | IPv6Address
    dst: IPv4Address | IPv6Address
    sport: int | None = None
    dport: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    fragment: Fragment = Fragment.WHOLE
    frag_id: int = 0
    frag_offset: int = 0
    frag_len: int = 0
    more_fragments: bool = False
    tos: int = 0
    header_len: int = 0
    total_len: int = 0
    direction: Direction = Direction.OUT
    iface_in: Interface = Interface.OTHER
    iface_out: Interface = Interface.OTHER
    reply: bool = False
    uid: int | None = None
    mark: int = 0
    app: App = App.UNKNOWN

    def __post_init__(self) -> None:
        if self.version not in (4, 6) or self.src.version != self.version or self.dst.version != self.version:
            raise ValueError(f"an IPv{self.version} packet cannot go from {self.src} to {self.dst}")
        if (self.sport is None) != (self.dport is None):
            raise ValueError("a packet shows both ports or none")
        if (self.icmp_type is None) != (self.icmp_code is None):
            raise ValueError("a packet shows both ICMP type and code or none")


def parse(packet: bytes) -> Facts | Reason:
    """Read an IP packet without trusting any length in it: its facts, or Reason.MALFORMED or FRAGMENT_BAD."""
    facts = ffi.new("mh_facts *")
    reason = lib.mh_parse(packet, len(packet), facts)
    return Reason(reason) if reason else from_native(facts)


def from_native(facts: Any) -> Facts:
    """Read what the parser fills in of an `mh_facts *`, for the wrappers of this package."""
    src, dst = bytes(facts.src), bytes(facts.dst)
    four = facts.version == 4
    return Facts(
        version=facts.version,
        proto=facts.proto,
        src=IPv4Address(src[:4]) if four else IPv6Address(src),
        dst=IPv4Address(dst[:4]) if four else IPv6Address(dst),
        sport=facts.sport if facts.has_ports else None,
        dport=facts.dport if facts.has_ports else None,
        icmp_type=facts.icmp_type if facts.has_icmp else None,
        icmp_code=facts.icmp_code if facts.has_icmp else None,
        fragment=Fragment(facts.fragment),
        frag_id=facts.frag_id,
        frag_offset=facts.frag_offset,
        frag_len=facts.frag_len,
        more_fragments=facts.more_fragments,
        tos=facts.tos,
        header_len=facts.header_len,
        total_len=facts.total_len,
    )


def to_native(facts: Facts) -> Any:
    """Return the facts as `mh_facts *`, for the wrappers of this package. OverflowError: a number is too great."""
    return ffi.new(
        "mh_facts *",
        {
            "version": facts.version,
            "proto": facts.proto,
            "fragment": facts.fragment,
            "has_ports": facts.sport is not None,
            "has_icmp": facts.icmp_type is not None,
            "icmp_type": facts.icmp_type or 0,
            "icmp_code": facts.icmp_code or 0,
            "tos": facts.tos,
            "sport": facts.sport or 0,
            "dport": facts.dport or 0,
            "header_len": facts.header_len,
            "total_len": facts.total_len,
            "frag_id": facts.frag_id,
            "frag_offset": facts.frag_offset,
            "frag_len": facts.frag_len,
            "more_fragments": facts.more_fragments,
            "src": list(facts.src.packed.ljust(16, b"\0")),
            "dst": list(facts.dst.packed.ljust(16, b"\0")),
            "direction": facts.direction,
            "iface_in": facts.iface_in,
            "iface_out": facts.iface_out,
            "reply": facts.reply,
            "has_uid": facts.uid is not None,
            "uid": facts.uid or 0,
            "mark": facts.mark,
            "app": facts.app,
        },
    )
