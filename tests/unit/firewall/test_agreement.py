"""PF's text and WFP's filters, judged by their platforms' semantics, against the reference evaluator.

Differences are those that engine.firewall.assumptions names, and no others.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from engine.explain.judge import packet_of
from engine.filter import evaluate
from engine.firewall import pf, wfp
from engine.firewall.assumptions import DIFFERENCES
from engine.firewall.pf import evaluate as pf_model
from engine.firewall.wfp import evaluate as wfp_model
from engine.firewall.wfp.constants import Action
from engine.policy import Platform, Policy, rules_for
from native.facts import Direction, Facts
from native.verdict import Answer
from tests.samples import random_facts, random_policy

SEEDS = range(30)
PACKETS = 80


def samples(seed: int, platform: Platform) -> tuple[Policy, list[Facts]]:
    rng = random.Random(seed)
    policy = random_policy(rng, platform, "utun4")
    return policy, [random_facts(rng, policy) for _ in range(PACKETS)]


def answer_to(policy: Policy, facts: Facts) -> Facts | None:
    """The packet that answers an outgoing one, if it is one the policy lets out (assumption `flows`)."""
    if facts.direction is not Direction.OUT or facts.sport is None or not evaluate(policy, facts).accept:
        return None
    return replace(
        facts, direction=Direction.IN, src=facts.dst, dst=facts.src, sport=facts.dport, dport=facts.sport,
        iface_in=facts.iface_out, uid=None, reply=True,
    )  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_pf_lets_through_what_the_policy_lets_through_and_answers_what_it_rejects(seed: int) -> None:
    policy, packets = samples(seed, Platform.MACOS)
    rules = pf_model.parse(pf.render(policy))
    for facts in packets:
        if facts.direction is Direction.FORWARD:  # assumption forward-twice
            continue
        verdict = evaluate(policy, facts)
        outcome, label = pf_model.judge(rules, packet_of(facts), "utun4")
        assert verdict.accept == (outcome is pf_model.Outcome.PASS), facts
        assert (verdict.answer is Answer.REJECT) == (outcome is pf_model.Outcome.RETURN), facts
        if label is not None:
            assert label == rules_for(policy)[verdict.rule].id, facts
        reply = answer_to(policy, facts)
        if reply is not None:
            outcome, _ = pf_model.judge(rules, packet_of(reply), "utun4")
            assert evaluate(policy, reply).accept == (outcome is pf_model.Outcome.PASS), reply


@pytest.mark.parametrize("seed", SEEDS)
def test_a_forwarded_packet_passes_pf_if_it_may_come_in_and_may_go_out(seed: int) -> None:
    policy, packets = samples(seed, Platform.MACOS)
    rules = pf_model.parse(pf.render(policy))
    for facts in packets:
        if facts.direction is not Direction.FORWARD:
            continue
        both = evaluate(policy, replace(facts, direction=Direction.IN)).accept
        both = both and evaluate(policy, replace(facts, direction=Direction.OUT)).accept
        outcome, _ = pf_model.judge(rules, packet_of(facts), "utun4")
        assert both == (outcome is pf_model.Outcome.PASS), facts


@pytest.mark.parametrize("seed", SEEDS)
def test_wfp_permits_what_the_policy_permits(seed: int) -> None:
    policy, packets = samples(seed, Platform.WINDOWS)
    filters = wfp.filters(policy)
    for facts in packets:
        verdict = evaluate(policy, facts)
        action, rule = wfp_model.judge(filters, packet_of(facts), "utun4")
        assert verdict.accept == (action is Action.PERMIT), facts
        if rule is not None:
            assert rule == rules_for(policy)[verdict.rule].id, facts


def test_the_documentation_lists_every_difference_as_it_is() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "firewall.md").read_text()
    rows = [line for line in text.split("## Differences")[1].split("## Tests")[0].splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        f"| {d.name} | {', '.join(d.backends)} | {'on the safe side' if d.stricter else 'either way'} | {d.what} |"
        for d in DIFFERENCES
    ]


def test_differences_have_names_that_can_be_cited() -> None:
    assert len({difference.name for difference in DIFFERENCES}) == len(DIFFERENCES)
    assert {backend for difference in DIFFERENCES for backend in difference.backends} == {"nftables", "pf", "wfp"}
