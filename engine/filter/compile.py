"""Compiles rules to the flat program that the datapath runs (native/src/verdict.h has its layout).

A rule is a conjunction of conditions on independent dimensions. For each dimension, every rule's condition becomes
a set of intervals; their edges cut the line into pieces, and each piece lists the rules that hold there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from engine.policy import App, Direction, Interface, IPNetwork, Policy, Rule, rules_for

_MAGIC = b"MHVP"
_VERSION = 1
MAX_RULES = 1024

# The values that stand for what a packet does not show.
_NO_PORT = _NO_ICMP = 1 << 16
_NO_UID = 1 << 32

# A set of values: half-open intervals [first, end).
_Intervals = Iterable[tuple[int, int]]


@dataclass(frozen=True)
class Compiled:
    """A program and the rules it was made of: verdicts and counters of the program speak of them by index."""

    code: bytes
    rules: tuple[Rule, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """The claim id of each rule, by index."""
        return tuple(rule.id for rule in self.rules)


@lru_cache(maxsize=32)
def compile_policy(policy: Policy) -> Compiled:
    """Compile what `rules_for(policy)` says; of policies and rules that were asked for lately it is remembered."""
    return compiled(rules_for(policy))


@lru_cache(maxsize=32)
def compiled(rules: tuple[Rule, ...]) -> Compiled:
    """The program with its rules, kept: a machine goes to and fro between few policies, and waits for each."""
    return Compiled(compile_rules(rules), rules)


def compile_rules(rules: Sequence[Rule]) -> bytes:
    """Return the program of these rules. ValueError: too many rules, or the last one is no catch-all that blocks."""
    if not 1 <= len(rules) <= MAX_RULES:
        raise ValueError(f"a program has 1 to {MAX_RULES} rules, not {len(rules)}")
    words = -(-len(rules) // 64)
    flags = bytes(rule.accept | rule.reject << 1 for rule in rules)
    body = [flags + bytes(-len(flags) % 8)]
    everything = 1 << (len(rules) - 1)
    for width, end, condition in _DIMENSIONS:
        pieces = _cut(end, [condition(rule) for rule in rules])
        if rules[-1].accept or any(not held & everything for _, held in pieces):
            raise ValueError(f"the last rule must block everything, and {rules[-1].id} does not")
        body.append(struct.pack("<Q", len(pieces)))
        for first, _ in pieces:
            body.append(struct.pack("<Q", first) if width == 8 else struct.pack("<QQ", first >> 64, first % (1 << 64)))
        for _, held in pieces:
            body.append(held.to_bytes(words * 8, "little"))
    size = 16 + sum(map(len, body))
    head = struct.pack("<4sHHHHI", _MAGIC, _VERSION, len(rules), words, len(_DIMENSIONS), size)
    return head + b"".join(body)


def rule_box(rule: Rule) -> list[tuple[tuple[int, int], ...] | None]:
    """A rule's condition on each dimension, as disjoint half-open intervals in order; None: it has none there."""
    conditions = [condition(rule) for _, _, condition in _DIMENSIONS]
    return [None if condition is None else tuple(_merged(condition)) for condition in conditions]


def _cut(end: int, conditions: Sequence[_Intervals | None]) -> list[tuple[int, int]]:
    """Return [0, end) in pieces: (first value, bitmap of the rules whose condition holds). None: holds everywhere."""
    always = sum(1 << rule for rule, condition in enumerate(conditions) if condition is None)
    changes: dict[int, int] = {0: 0}  # at a value: the bits that change there
    for rule, condition in enumerate(conditions):
        held = _merged(condition) if condition is not None else ()
        for first, after in held:
            changes[first] = changes.get(first, 0) ^ 1 << rule
            if after < end:
                changes[after] = changes.get(after, 0) ^ 1 << rule
    pieces: list[tuple[int, int]] = []
    held_now = always
    for value in sorted(changes):
        held_now ^= changes[value]
        if not pieces or pieces[-1][1] != held_now:
            pieces.append((value, held_now))
    return pieces


def _merged(intervals: _Intervals) -> list[tuple[int, int]]:
    """The same set without overlaps."""
    merged: list[tuple[int, int]] = []
    for first, after in sorted(intervals):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], after))
        else:
            merged.append((first, after))
    return merged


# ---- one rule's condition on each dimension; None: it has none there ----


def _contexts(rule: Rule) -> _Intervals | None:
    def fits(interface: Interface) -> bool:
        return not rule.interfaces or interface in rule.interfaces

    out = Direction.OUT in rule.directions
    into = Direction.IN in rule.directions
    faces = tuple(Interface)  # loopback, tunnel, other: in the native order
    held = [out and fits(face) for face in faces]
    held += [into and fits(face) for face in faces]
    held += [
        rule.forward and ((into and fits(face_in)) or (out and fits(face_out)))
        for face_in, face_out in product(faces, faces)
    ]
    return [(context, context + 1) for context, holds in enumerate(held) if holds]


def _protocols(rule: Rule) -> _Intervals | None:
    if rule.version is None and not rule.protocols:
        return None
    bases = [256 * (version == 6) for version in (4, 6) if rule.version in (None, version)]
    if not rule.protocols:
        return [(base, base + 256) for base in bases]
    return [(base + protocol, base + protocol + 1) for base in bases for protocol in rule.protocols]


def _origins(rule: Rule) -> _Intervals | None:
    return [
        (2 * number + reply, 2 * number + reply + 1)
        for number, app in enumerate(App)
        for reply in (False, True)
        if (not rule.apps or app in rule.apps) and (reply or not rule.reply)
    ]


def _value(value: int | None) -> _Intervals | None:
    return None if value is None else [(value, value + 1)]


def _networks(networks: Sequence[IPNetwork], version: int) -> _Intervals | None:
    """Of a rule that names networks, those of one IP version: none of them means that no address fits."""
    if not networks:
        return None
    return [
        (int(network.network_address), int(network.broadcast_address) + 1)
        for network in networks
        if network.version == version
    ]


# In the order of enum mh_dimension: bytes of a value in the program, end of the values, a rule's condition.
_DIMENSIONS: tuple[tuple[int, int, Callable[[Rule], _Intervals | None]], ...] = (
    (8, 15, _contexts),
    (8, 512, _protocols),
    (8, 2 * len(App), _origins),
    (8, _NO_PORT + 1, lambda rule: _value(rule.source_port)),
    (8, _NO_PORT + 1, lambda rule: _value(rule.destination_port)),
    (8, _NO_ICMP + 1, lambda rule: None if rule.icmp is None else _value(rule.icmp[0] << 8 | rule.icmp[1])),
    (8, 1 << 32, lambda rule: _value(rule.mark)),
    (8, _NO_UID + 1, lambda rule: _value(rule.uid)),
    (8, 1 << 32, lambda rule: _networks(rule.sources, 4)),
    (8, 1 << 32, lambda rule: _networks(rule.destinations, 4)),
    (16, 1 << 128, lambda rule: _networks(rule.sources, 6)),
    (16, 1 << 128, lambda rule: _networks(rule.destinations, 6)),
)

# No policy at all: the drop-in WireGuard command and the benchmarks. P-0 stands behind it as behind every list.
PASS_ALL_RULES: tuple[Rule, ...] = (
    Rule("PASS", "everything passes: no policy is applied", accept=True, forward=True),
    Rule("P-0", "whatever no rule permits is blocked", accept=False, reject=True, forward=True),
)
PASS_ALL: bytes = compile_rules(PASS_ALL_RULES)
