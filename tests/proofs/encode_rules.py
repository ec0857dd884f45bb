"""The reference rules (`rules_for`) and the native program's bytes as formulas.

`reference` reads `Rule` values with the meaning that engine/policy/rule.py gives them. `native` reads nothing but the
bytes: it has its own decoder of the layout in native/src/verdict.h, and says what mh_judge() and mh_judge_later() do
with each rule's bit.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import z3

from engine.policy import Rule
from native.facts import Direction, Interface
from tests.proofs.packet import Packet, Symbols, Verdict, first_match

_APPS = {"unknown": 0, "service": 1, "problem-report": 2}
_FACES = {"loopback": Interface.LOOPBACK, "tunnel": Interface.TUNNEL, "other": Interface.OTHER}


# ---- the rules ----


def reference(rules: Sequence[Rule], packet: Packet, symbols: Symbols) -> Verdict:
    """First match wins; a later fragment is judged by what it shows."""
    verdict = first_match(
        [(_matches(rule, packet, symbols), rule.accept, rule.reject) for rule in rules], default=(False, False)
    )
    return Verdict(verdict.accept, z3.And(verdict.reject, z3.Not(packet.goes(Direction.IN))))


@cache
def _matches(rule: Rule, p: Packet, s: Symbols) -> Any:
    def through(face: Any) -> Any:
        return z3.Or([face == int(_FACES[i.value]) for i in rule.interfaces]) if rule.interfaces else z3.BoolVal(True)

    as_out = z3.And(z3.BoolVal("out" in rule.directions), through(p.iface_out))
    as_in = z3.And(z3.BoolVal("in" in rule.directions), through(p.iface_in))
    terms = [
        z3.Or(
            z3.And(p.goes(Direction.OUT), as_out),
            z3.And(p.goes(Direction.IN), as_in),
            z3.And(p.goes(Direction.FORWARD), z3.BoolVal(rule.forward), z3.Or(as_out, as_in)),
        )
    ]
    if rule.version is not None:
        terms.append(p.version(rule.version))
    if rule.protocols:
        terms.append(z3.Or([p.proto == number for number in rule.protocols]))
    if rule.sources:
        terms.append(s.any_of(p, True, rule.sources))
    if rule.destinations:
        terms.append(s.any_of(p, False, rule.destinations))
    if rule.source_port is not None:
        terms.append(z3.And(p.has_ports, p.sport == s.port(rule.source_port)))
    if rule.destination_port is not None:
        terms.append(z3.And(p.has_ports, p.dport == s.port(rule.destination_port)))
    if rule.icmp is not None:
        terms.append(z3.And(p.has_icmp, p.icmp_type == rule.icmp[0], p.icmp_code == rule.icmp[1]))
    if rule.mark is not None:
        terms.append(p.sent_by(p.mark == rule.mark))
    if rule.uid is not None:
        terms.append(p.sent_by(z3.And(p.has_uid, p.uid == rule.uid)))
    if rule.apps:
        terms.append(p.sent_by(z3.Or([p.app == _APPS[app.value] for app in rule.apps])))
    if rule.reply:
        terms.append(p.reply)
    return z3.And(terms)


# ---- the native program ----

_CONTEXT, _PROTOCOL, _ORIGIN, _SPORT, _DPORT, _ICMP, _MARK, _UID, _SRC4, _DST4, _SRC6, _DST6 = range(12)
_WIDTH = (8,) * 10 + (16,) * 2
_END = (15, 512, 6, 65537, 65537, 65537, 1 << 32, (1 << 32) + 1, 1 << 32, 1 << 32, 1 << 128, 1 << 128)
_ABSENT = {_SPORT: 65536, _DPORT: 65536, _ICMP: 65536, _UID: 1 << 32}

Ranges = tuple[tuple[int, int], ...]  # [first, end)


@dataclass(frozen=True)
class Decoded:
    """A program, read: each rule's flags, and for each dimension the values where its bit is set."""

    flags: tuple[int, ...]
    ranges: tuple[tuple[Ranges, ...], ...]  # by dimension, by rule


@cache
def decode(code: bytes) -> Decoded:
    """Read a program's bytes. AssertionError: not the layout."""
    magic, version, rules, words, dimensions, length = struct.unpack_from("<4sHHHHI", code)
    assert (magic, version, dimensions, length) == (b"MHVP", 1, 12, len(code)), "not a program"
    assert words == (rules + 63) // 64
    flags = tuple(code[16 : 16 + rules])
    at = 16 + (rules + 7) // 8 * 8
    found = []
    for width, end in zip(_WIDTH, _END, strict=True):
        (count,) = struct.unpack_from("<Q", code, at)
        at += 8
        starts = []
        for _ in range(count):
            parts = struct.unpack_from("<Q" if width == 8 else "<QQ", code, at)
            starts.append(parts[0] if width == 8 else parts[0] << 64 | parts[1])
            at += width
        ranges: list[list[tuple[int, int]]] = [[] for _ in range(rules)]
        for first, after in zip(starts, [*starts[1:], end], strict=True):
            row = int.from_bytes(code[at : at + words * 8], "little")
            at += words * 8
            for rule, held in enumerate(ranges):
                if row >> rule & 1:
                    if held and held[-1][1] == first:
                        held[-1] = (held[-1][0], after)
                    else:
                        held.append((first, after))
        found.append(tuple(map(tuple, ranges)))
    assert at == len(code), "bytes are left over"
    return Decoded(flags, tuple(found))


def native(code: bytes, packet: Packet, symbols: Symbols) -> Verdict:
    """mh_judge(): the lowest rule whose bit is set in every dimension."""
    program = decode(code)
    lines = [
        (z3.And(_shown(program, i, packet, symbols), *_hidden(program, i, packet, symbols)), bool(flag & 1), flag == 2)
        for i, flag in enumerate(program.flags)
    ]
    verdict = first_match(lines, default=(False, False))
    return Verdict(verdict.accept, z3.And(verdict.reject, z3.Not(packet.goes(Direction.IN))))


def native_later(code: bytes, packet: Packet, symbols: Symbols) -> Any:
    """mh_judge_later(): whether a later fragment passes whose first one is not known."""
    program = decode(code)
    unsure, may_accept, may_block = z3.BoolVal(True), [], []
    for i, flag in enumerate(program.flags):
        claimed = _protocol6(program, i, every=False), _protocol6(program, i, every=True)
        six = z3.If(packet.v6, z3.BoolVal(claimed[0]), _in(program, _PROTOCOL, i, _protocol(packet), symbols))
        sure6 = z3.If(packet.v6, z3.BoolVal(claimed[1]), z3.BoolVal(True))
        may = z3.And(_shown(program, i, packet, symbols, protocol=six), unsure)
        absent = all(any(a <= _ABSENT[d] < b for a, b in program.ranges[d][i]) for d in (_SPORT, _DPORT, _ICMP))
        (may_accept if flag & 1 else may_block).append(may)
        unsure = z3.And(unsure, z3.Not(z3.And(may, sure6, z3.BoolVal(absent))))
    return z3.And(z3.Or(may_accept), z3.Not(z3.Or(may_block)))


def _protocol6(program: Decoded, rule: int, *, every: bool) -> bool:
    """The rule's bit for some, or for every, IPv6 protocol."""
    held = sum(max(0, end - max(first, 256)) for first, end in program.ranges[_PROTOCOL][rule])
    return held == 256 if every else held > 0


@cache
def _protocol(p: Packet) -> Any:
    return z3.Concat(z3.If(p.v6, z3.BitVecVal(1, 1), z3.BitVecVal(0, 1)), p.proto)


@cache
def _context(p: Packet) -> tuple[Any, Any]:
    """mh_context() and the origin: direction and interfaces as one number, app and reply as another."""

    def wide(term: Any) -> Any:
        return z3.ZeroExt(2, term)

    context = z3.If(
        p.goes(Direction.OUT), wide(p.iface_out),
        z3.If(p.goes(Direction.IN), 3 + wide(p.iface_in), 6 + 3 * wide(p.iface_in) + wide(p.iface_out)),
    )  # fmt: skip
    return context, z3.Concat(p.app, z3.If(p.reply, z3.BitVecVal(1, 1), z3.BitVecVal(0, 1)))


def _shown(program: Decoded, rule: int, p: Packet, s: Symbols, protocol: Any = None) -> Any:
    """The rule's bit in the dimensions that every fragment shows."""

    context, origin = _context(p)
    uid = z3.If(
        p.has_uid, _in(program, _UID, rule, p.uid, s),
        z3.BoolVal(any(a <= _ABSENT[_UID] < b for a, b in program.ranges[_UID][rule])),
    )  # fmt: skip
    return z3.And(
        _in(program, _CONTEXT, rule, context, s),
        _in(program, _PROTOCOL, rule, _protocol(p), s) if protocol is None else protocol,
        _in(program, _ORIGIN, rule, origin, s), _in(program, _MARK, rule, p.mark, s), uid,
        z3.If(
            p.v6,
            z3.And(_in(program, _SRC6, rule, p.src6, s), _in(program, _DST6, rule, p.dst6, s)),
            z3.And(_in(program, _SRC4, rule, p.src4, s), _in(program, _DST4, rule, p.dst4, s)),
        ),
    )  # fmt: skip


@cache
def _icmp(p: Packet) -> Any:
    return z3.Concat(p.icmp_type, p.icmp_code)


def _hidden(program: Decoded, rule: int, p: Packet, s: Symbols) -> list[Any]:
    """The rule's bit in the dimensions that a packet may not show."""
    shown = ((_SPORT, p.has_ports, p.sport), (_DPORT, p.has_ports, p.dport), (_ICMP, p.has_icmp, _icmp(p)))
    terms = []
    for dimension, there, term in shown:
        held = program.ranges[dimension][rule]
        absent = z3.BoolVal(any(a <= _ABSENT[dimension] < b for a, b in held))
        terms.append(z3.If(there, _in(program, dimension, rule, term, s), absent))
    return terms


def _in(program: Decoded, dimension: int, rule: int, term: Any, symbols: Symbols) -> Any:
    """The term's value is one where the rule's bit is set. A single value may stand for a symbol."""
    return _within(program.ranges[dimension][rule], dimension, term, symbols)


@cache
def _within(ranges: Ranges, dimension: int, term: Any, symbols: Symbols) -> Any:
    bits = term.size()
    pieces = []
    for first, end in ranges:
        if first >= 1 << bits or first >= end:
            continue  # the absent value; nothing
        if first == 0 and end >= 1 << bits:
            return z3.BoolVal(True)
        if end == first + 1:
            value = z3.BitVecVal(first, bits)
            if dimension in (_SRC4, _DST4):
                value = symbols.number(4, first)
            elif dimension in (_SRC6, _DST6):
                value = symbols.number(6, first)
            elif dimension in (_SPORT, _DPORT):
                value = symbols.port(first)
            pieces.append(term == value)
            continue
        size = end - first
        if size & (size - 1) == 0 and first % size == 0:  # a prefix: the same set, in fewer gates
            low = size.bit_length() - 1
            pieces.append(z3.Extract(bits - 1, low, term) == first >> low)
            continue
        above = [z3.UGE(term, z3.BitVecVal(first, bits))] if first else []
        below = [z3.ULT(term, z3.BitVecVal(end, bits))] if end < 1 << bits else []
        pieces.append(z3.And(*above, *below))
    return z3.Or(pieces) if pieces else z3.BoolVal(False)
