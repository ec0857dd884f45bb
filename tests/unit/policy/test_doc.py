"""docs/policy.md lists every claim that a rule carries, and every claim it lists is tested by name."""

import re
from itertools import product
from pathlib import Path

from engine.policy import Platform, Policy, Protocol, State, rules_for
from tests.judging import API, BRIDGE, RELAY, TUNNEL
from tests.properties.policies import RESOLVER
from tests.unit.policy import test_rules, test_states

DOC = Path(__file__).resolve().parents[3] / "docs" / "policy.md"
CLAIMS = re.findall(r"^\| ([A-Z0-9]+-\d) \|", DOC.read_text(), re.MULTILINE)


def every_rule_id() -> set[str]:
    """Of all states, platforms and settings."""
    assert RELAY.protocol is Protocol.UDP
    ids = set()
    for state, platform, flag, dns in product(State, Platform, (False, True), ((), RESOLVER)):
        kept = State.CONNECTING if state is State.DISCONNECTING else None
        policy = Policy(
            state, platform, flag, peer=RELAY, bridge=BRIDGE, api=API, tunnel=TUNNEL, dns=dns, kept=kept
        )  # fmt: skip
        ids |= {rule.id for rule in rules_for(policy)}
    return ids


def test_every_rule_carries_a_claim_of_the_document() -> None:
    assert len(CLAIMS) == len(set(CLAIMS)) >= 35
    assert every_rule_id() <= set(CLAIMS)


def test_every_claim_in_the_document_is_tested_by_name() -> None:
    tests = [*vars(test_rules), *vars(test_states)]
    names = " ".join(name for name in tests if name.startswith("test_"))
    for claim in CLAIMS:
        family, number = claim.lower().split("-")
        word = f"{family}_{number}" if family[-1].isdigit() else f"{family}{number}"
        assert re.search(rf"_{word}_", names), f"no test of {claim}"
