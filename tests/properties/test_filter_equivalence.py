"""The compiled program gives every packet the verdict that the readable evaluator gives, with its rule and reason."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from engine.filter import FragmentModel, compile_rules, evaluate
from engine.policy import P0, Policy, rules_for
from native._native import lib
from native.facts import Facts, Fragment, to_native
from native.verdict import FragmentTable, Program
from tests.properties import policies

_LOOKED_AT = ("version", "proto", "src", "dst", "sport", "dport", "icmp_type", "icmp_code")


def _with(packet: Facts, other: Facts, name: str) -> Facts:
    """The packet with one thing of the other's, and what must go with it."""
    together = {"sport": ("sport", "dport"), "dport": ("sport", "dport"), "version": ("version", "src", "dst")}
    together |= dict.fromkeys(("icmp_type", "icmp_code"), ("icmp_type", "icmp_code"))
    fields = together.get(name, (name,))
    if name in ("src", "dst") and packet.version != other.version:
        return packet
    return replace(packet, **{field: getattr(other, field) for field in fields})


@given(policies.policies(), st.lists(policies.facts(), min_size=1, max_size=8))
def test_for_every_policy_the_program_and_the_evaluator_agree(policy: Policy, packets: list[Facts]) -> None:
    rules = rules_for(policy)
    program = Program(compile_rules(rules))
    for facts in packets:
        assert program.judge(facts) == evaluate(rules, facts)


@given(policies.rule_lists(), st.lists(policies.facts(), min_size=1, max_size=8))
def test_for_rules_that_no_document_asked_for_they_agree_as_well(rules, packets) -> None:
    program = Program(compile_rules(rules))
    for facts in packets:
        assert program.judge(facts) == evaluate(rules, facts)


@given(
    st.lists(policies.rules(), min_size=1, max_size=6),
    st.integers(60, 400),
    st.lists(policies.facts(), min_size=1, max_size=8),
)
def test_a_program_of_several_words_agrees(some, count, packets) -> None:
    # Copies that no packet matches (its mark is none of theirs) push the real rules into the later words.
    rules = (*(replace(some[index % len(some)], mark=1) for index in range(count)), *some, P0)
    program = Program(compile_rules(rules))
    for facts in packets:
        assert program.judge(facts) == evaluate(rules, facts)


@given(
    policies.policies(),
    policies.facts(),
    policies.facts(),
    st.sampled_from(["tos", "total_len", "frag_id", *_LOOKED_AT]),
)
def test_packets_that_look_alike_get_the_same_verdict(policy: Policy, packet: Facts, other: Facts, name: str) -> None:
    second = _with(packet, other, name)
    alike = lib.mh_facts_alike(to_native(packet), to_native(second))
    if alike:
        assert evaluate(policy, packet) == evaluate(policy, second)
    looked_at = [(each.fragment, *(getattr(each, field) for field in _LOOKED_AT)) for each in (packet, second)]
    assert alike == (looked_at[0] == looked_at[1] and packet.fragment is Fragment.WHOLE)


_lists = policies.rule_lists(max_size=4) | policies.policies().map(rules_for)


@given(
    st.lists(_lists, min_size=1, max_size=2),
    st.lists(st.tuples(policies.facts(few_datagrams=True), st.integers(0, 12)), min_size=8, max_size=24),
)
def test_with_memory_of_fragments_they_agree_also_while_the_rules_change(lists, packets) -> None:
    programs = [Program(compile_rules(rules)) for rules in lists]
    table, model = FragmentTable(), FragmentModel(lists[0])
    now_ns = 10**9
    for number, (facts, passed) in enumerate(packets):
        now_ns += passed * 10**9
        turn = number // 3 % len(lists)
        model.rules = lists[turn]
        assert programs[turn].filter(table, facts, now_ns) == model.filter(facts, now_ns / 1e9)
