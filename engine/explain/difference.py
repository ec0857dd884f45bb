"""What a change of policy opens and closes: exact, by arithmetic on sets of packets, with an example of each.

A packet is a point; a rule's conditions are a box of it: on each dimension (the ones of the native program) a set of
intervals. The packets that rule i of A and rule j of B both decide are: the box of i and of j, less the boxes of all
rules before them. Where that is not empty and the two rules disagree, the change opens or closes something. The boxes
come from the compiler's conditions, so what is compared is what is enforced. Whole packets are compared; a later
fragment follows its first one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from engine.filter.compile import rule_box
from engine.policy import MARK, Policy, Rule, rules_for
from native.facts import App, Direction, Facts, Interface

# A half-open interval, and a set of packets: on each dimension of the native program a sorted tuple of intervals.
_Set = tuple[tuple[int, int], ...]
_Box = tuple[_Set, ...]

CONTEXT, PROTOCOL, ORIGIN, SPORT, DPORT, ICMP, MARKS, UID, SRC4, DST4, SRC6, DST6 = range(12)
_ABSENT = 1 << 16
_NO_UID = 1 << 32


@dataclass(frozen=True)
class Change:
    """Packets that `before` decides in the one policy and `after`, to the contrary, in the other."""

    opens: bool
    before: Rule
    after: Rule
    example: Facts


def difference(a: Policy, b: Policy) -> list[Change]:
    """Everything that the change from `a` to `b` opens and closes, each pair of rules once, in the policies' order."""
    boxes_a, boxes_b = ([(rule, rule_box(rule)) for rule in rules_for(policy)] for policy in (a, b))
    changes: dict[tuple[str, str, str, str], Change] = {}
    for space in _spaces():
        left_a = list(_decided(boxes_a, space))
        left_b = list(_decided(boxes_b, space))
        for rule_a, parts_a in left_a:
            for rule_b, parts_b in left_b:
                key = (rule_a.id, rule_a.what, rule_b.id, rule_b.what)
                if rule_a.accept == rule_b.accept or key in changes:
                    continue
                both = _first_common(parts_a, parts_b)
                if both is not None:
                    changes[key] = Change(rule_b.accept, rule_a, rule_b, _example(both))
    return sorted(changes.values(), key=lambda change: not change.opens)


def _spaces() -> Iterator[_Box]:
    """Every packet there is, in boxes of packets that show the same fields."""
    ports: _Set = ((0, 1 << 16),)
    absent: _Set = ((_ABSENT, _ABSENT + 1),)
    senders = (((0, 1 << 32),), ((0, _NO_UID + 1),))
    for base, icmp in ((0, 1), (256, 58)):
        four: _Set = ((0, 1 << 32),) if base == 0 else ((0, 1),)
        six: _Set = ((0, 1 << 128),) if base else ((0, 1),)
        addresses = (four, four, six, six)
        protocols: tuple[tuple[_Set, _Set, _Set], ...] = (
            (((base + 6, base + 7), (base + 17, base + 18)), ports, absent),
            (((base + icmp, base + icmp + 1),), absent, ports),
            (_less(((base, base + 256),), _sorted((6, 17, icmp), base)), absent, absent),
        )
        for protocol, port, type_code in protocols:
            for forwarded in (False, True):
                context: _Set = ((6, 15),) if forwarded else ((0, 6),)
                yield (context, protocol, ((0, 6),), port, port, type_code, *senders, *addresses)


def _sorted(numbers: tuple[int, ...], base: int) -> _Set:
    return tuple((base + number, base + number + 1) for number in sorted(numbers))


def _decided(rules: list[tuple[Rule, list[_Set | None]]], space: _Box) -> Iterator[tuple[Rule, list[_Box]]]:
    """Each rule with the packets of the space that it decides: those that no rule before it takes."""
    left = [space]
    for rule, conditions in rules:
        taken = [part for box in left if (part := _intersection(box, conditions, space)) is not None]
        if taken:
            yield rule, taken
            left = [piece for box in left for piece in _subtract(box, conditions, space)]


def _intersection(box: _Box, conditions: list[_Set | None], space: _Box) -> _Box | None:
    result = []
    for dimension, (own, condition) in enumerate(zip(box, conditions, strict=True)):
        held = own if condition is None or _unused(dimension, space) else _common(own, condition)
        if not held:
            return None
        result.append(held)
    return tuple(result)


def _subtract(box: _Box, conditions: list[_Set | None], space: _Box) -> Iterator[_Box]:
    """The box without what fulfils the conditions, in pieces that do not overlap."""
    rest = list(box)
    for dimension, condition in enumerate(conditions):
        if condition is None or _unused(dimension, space):
            continue
        outside = _less(rest[dimension], condition)
        if outside:
            yield (*rest[:dimension], outside, *rest[dimension + 1 :])
        inside = _common(rest[dimension], condition)
        if not inside:
            return
        rest[dimension] = inside


def _unused(dimension: int, space: _Box) -> bool:
    """Addresses of the IP version that the packets of the space are not of."""
    return dimension >= SRC4 and space[dimension] == ((0, 1),)


def _first_common(parts_a: list[_Box], parts_b: list[_Box]) -> _Box | None:
    for a in parts_a:
        for b in parts_b:
            both = tuple(_common(x, y) for x, y in zip(a, b, strict=True))
            if all(both):
                return both
    return None


def _common(a: _Set, b: _Set) -> _Set:
    found = []
    for first, end in a:
        for other_first, other_end in b:
            low, high = max(first, other_first), min(end, other_end)
            if low < high:
                found.append((low, high))
    return tuple(sorted(found))


def _less(a: _Set, b: _Set) -> _Set:
    left = list(a)
    for first, end in b:
        left = [
            piece
            for low, high in left
            for piece in ((low, min(high, first)), (max(low, end), high))
            if piece[0] < piece[1]
        ]
    return tuple(left)


# By whether it is IPv4: this machine, a host out there, a host on the local network.
_ENDS = {
    True: tuple(int(IPv4Address(text)) for text in ("192.168.1.5", "203.0.113.80", "192.168.1.9")),
    False: tuple(int(IPv6Address(text)) for text in ("2001:db8::5", "2001:db8:80::80", "fe80::9")),
}


def _example(box: _Box) -> Facts:
    """A packet of the set that a person would believe."""
    context = _pick(box[CONTEXT], (2, 5, 1, 4, 13, 10))
    origin = _pick(box[ORIGIN], (0,))
    protocol = _pick(box[PROTOCOL], (6, 17, 256 + 6, 256 + 17))
    four = protocol < 256
    here, there, near = _ENDS[four]
    inward = 3 <= context < 6
    wishes = ((there, near), (here,)) if inward else ((here,), (there, near))
    numbers = (_pick(box[SRC4 if four else SRC6], wishes[0]), _pick(box[DST4 if four else DST6], wishes[1]))
    ends = tuple(IPv4Address(n) if four else IPv6Address(n) for n in numbers)
    ports = (443, 40000) if inward else (40000, 443)
    sport, dport = _pick(box[SPORT], ports[:1]), _pick(box[DPORT], ports[1:])
    icmp = _pick(box[ICMP], (8 << 8 if four else 128 << 8,))
    uid = _pick(box[UID], (_NO_UID, 1000, 0))
    direction, faces = Direction.FORWARD, divmod(context - 6, 3)
    if context < 6:
        direction = Direction.OUT if context < 3 else Direction.IN
        faces = (Interface.OTHER, context) if context < 3 else (context - 3, Interface.OTHER)
    return Facts(
        4 if four else 6, protocol % 256, ends[0], ends[1],
        sport if sport < _ABSENT else None, dport if dport < _ABSENT else None,
        icmp >> 8 if icmp < _ABSENT else None, icmp & 255 if icmp < _ABSENT else None,
        direction=direction, iface_in=Interface(faces[0]), iface_out=Interface(faces[1]),
        reply=bool(origin % 2), app=App(origin // 2), mark=_pick(box[MARKS], (0, MARK)),
        uid=None if uid == _NO_UID else uid,
    )  # fmt: skip


def _pick(values: _Set, wishes: tuple[int, ...]) -> int:
    for wish in wishes:
        if any(first <= wish < end for first, end in values):
            return wish
    return values[0][0] + (1 if values[0][1] - values[0][0] > 2 else 0)
