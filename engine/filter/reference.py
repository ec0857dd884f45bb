"""The readable evaluator: the meaning of rules, one packet at a time. The compiled program must agree with it.

Written to be read beside the policy, not to be fast, and without anything of the compiler: it knows no intervals,
no bitmaps, no native code beyond the value types.

A condition has three outcomes. A later fragment does not show ports or ICMP types (nor, in IPv6, a protocol that
counts), so a condition on them is MAYBE for it: it depends on a first fragment that we have not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from engine.policy import Direction, Interface, IPNetwork, Policy, Rule, rules_for
from native.facts import Direction as FactDirection
from native.facts import Facts, Fragment
from native.reasons import Reason
from native.verdict import Answer, Verdict

FRAGMENT_LIFETIME = 30.0


class Match(Enum):
    """Whether a packet fulfils a condition."""

    NO = 0
    MAYBE = 1
    YES = 2


def evaluate(policy: Policy | Sequence[Rule], facts: Facts) -> Verdict:
    """The stateless verdict: first match wins. A later fragment is judged by what it shows (a port matches nothing)."""
    rules = rules_for(policy) if isinstance(policy, Policy) else policy
    for index, rule in enumerate(rules):
        if all(match is Match.YES for match in _conditions(rule, facts, shown_only=True)):
            return _verdict(index, rule, facts)
    raise AssertionError("the last rule of every list matches everything")


def evaluate_later(policy: Policy | Sequence[Rule], facts: Facts) -> Verdict:
    """A later fragment by itself: its first one's verdict where that is certain, else FRAGMENT_UNKNOWN."""
    rules = rules_for(policy) if isinstance(policy, Policy) else policy
    possible: set[bool] = set()
    for index, rule in enumerate(rules):
        matches = set(_conditions(rule, facts, shown_only=False))
        if Match.NO in matches:
            continue
        possible.add(rule.accept)
        if len(possible) > 1:
            break
        if Match.MAYBE not in matches:
            verdict = _verdict(index, rule, facts)
            return Verdict(verdict.accept, verdict.rule, verdict.reason, Answer.NONE)
    return Verdict(False, len(rules) - 1, Reason.FRAGMENT_UNKNOWN, Answer.NONE)


@dataclass
class FragmentModel:
    """The fragment table as it would be without bounds: first fragments, for 30 seconds. `rules` may be replaced."""

    rules: Sequence[Rule]
    _firsts: dict[tuple[object, ...], tuple[float, Facts]] = field(default_factory=dict)

    def filter(self, facts: Facts, now: float) -> Verdict:
        """The verdict with memory. `now`: seconds, never going back."""
        if facts.fragment is Fragment.WHOLE:
            return evaluate(self.rules, facts)
        key = self._key(facts)
        if facts.fragment is Fragment.FIRST:
            self._firsts[key] = (now, facts)
            return evaluate(self.rules, facts)
        since, first = self._firsts.get(key, (now - FRAGMENT_LIFETIME, facts))
        if now - since >= FRAGMENT_LIFETIME:
            return evaluate_later(self.rules, facts)
        verdict = evaluate(self.rules, first)
        if facts.frag_offset < first.frag_len:
            return Verdict(False, verdict.rule, Reason.FRAGMENT_BAD, Answer.NONE)
        reason = Reason.NONE if verdict.accept else Reason.FRAGMENT_UNKNOWN
        return Verdict(verdict.accept, verdict.rule, reason, Answer.NONE)

    @staticmethod
    def _key(facts: Facts) -> tuple[object, ...]:
        datagram = (facts.src, facts.dst, facts.proto if facts.version == 4 else None, facts.frag_id)
        ways = {
            FactDirection.OUT: (facts.iface_out,),
            FactDirection.IN: (facts.iface_in,),
            FactDirection.FORWARD: (facts.iface_in, facts.iface_out),
        }
        return (*datagram, facts.direction, ways[facts.direction], facts.mark, facts.uid, facts.app)


def _verdict(index: int, rule: Rule, facts: Facts) -> Verdict:
    if rule.accept:
        return Verdict(True, index, Reason.NONE, Answer.NONE)
    answer = Answer.REJECT if rule.reject and facts.direction is not FactDirection.IN else Answer.NONE
    return Verdict(False, index, Reason.POLICY, answer)


def _conditions(rule: Rule, facts: Facts, *, shown_only: bool) -> Iterator[Match]:
    hidden = Match.MAYBE if facts.fragment is Fragment.LATER and not shown_only else Match.NO
    yield _yes(_passes(rule, facts))
    if rule.version is not None:
        yield _yes(facts.version == rule.version)
    if rule.protocols:
        claimed = facts.fragment is Fragment.LATER and facts.version == 6 and not shown_only
        yield hidden if claimed else _yes(facts.proto in rule.protocols)
    if rule.sources:
        yield _yes(_within(facts.src, rule.sources))
    if rule.destinations:
        yield _yes(_within(facts.dst, rule.destinations))
    if rule.source_port is not None:
        yield hidden if facts.sport is None else _yes(facts.sport == rule.source_port)
    if rule.destination_port is not None:
        yield hidden if facts.dport is None else _yes(facts.dport == rule.destination_port)
    if rule.icmp is not None:
        yield hidden if facts.icmp_type is None else _yes((facts.icmp_type, facts.icmp_code) == rule.icmp)
    if rule.mark is not None:
        yield _yes(facts.mark == rule.mark)
    if rule.uid is not None:
        yield _yes(facts.uid == rule.uid)
    if rule.apps:
        yield _yes(any(facts.app.name == app.name for app in rule.apps))
    if rule.reply:
        yield _yes(facts.reply)


def _yes(holds: bool) -> Match:
    return Match.YES if holds else Match.NO


def _passes(rule: Rule, facts: Facts) -> bool:
    """Direction and interface; a forwarded packet may match as incoming or as outgoing (FWD-1)."""

    def through(name: str) -> bool:
        return not rule.interfaces or Interface[name] in rule.interfaces

    as_out = Direction.OUT in rule.directions and through(facts.iface_out.name)
    as_in = Direction.IN in rule.directions and through(facts.iface_in.name)
    match facts.direction:
        case FactDirection.OUT:
            return as_out
        case FactDirection.IN:
            return as_in
        case FactDirection.FORWARD:
            return rule.forward and (as_out or as_in)


def _within(address: object, networks: Sequence[IPNetwork]) -> bool:
    return any(address in network for network in networks)
