"""What a change opens and closes: every example is one, and nothing is left out."""

import random

import pytest

from engine.explain.difference import difference
from engine.explain.packet import packet_text, parse_packet
from engine.explain.settings import parse_settings
from engine.filter import evaluate
from engine.policy import Platform, rules_for
from native.facts import Fragment, Interface
from tests.samples import random_facts, random_policy
from tests.unit.explain.support import EVERYTHING


def changes(a: str, b: str):
    return difference(parse_settings(a, EVERYTHING), parse_settings(b, EVERYTHING))


def test_nothing_changes_between_equal_policies() -> None:
    assert changes("disconnected always-require-vpn", "error") == []  # DIS-2
    assert changes("connected", "disconnecting kept=connected") == []  # DSC-1


def test_connecting_to_connected_opens_the_gateways_dns_and_nothing_outside_the_tunnel() -> None:
    opened = [change for change in changes("connecting", "connected") if change.opens]
    assert [change.after.id for change in opened] == ["DNS-1"]
    assert opened[0].example.iface_out is Interface.TUNNEL
    closed = {change.before.id for change in changes("connecting", "connected") if not change.opens}
    assert closed == {"API-1"}


def test_leaving_disconnected_opens_nothing() -> None:
    for state in ("connecting", "connected", "error", "disconnecting"):
        assert not any(change.opens for change in changes("disconnected", state))


@pytest.mark.parametrize("seed", range(6))
def test_every_example_is_judged_as_the_change_says(seed: int) -> None:
    rng = random.Random(seed)
    platform = rng.choice(list(Platform))
    a, b = random_policy(rng, platform, "wg0"), random_policy(rng, platform, "wg0")
    for change in difference(a, b):
        before, after = evaluate(a, change.example), evaluate(b, change.example)
        assert (rules_for(a)[before.rule], rules_for(b)[after.rule]) == (change.before, change.after)
        assert after.accept is change.opens is not before.accept
        assert parse_packet(packet_text(change.example)) == change.example


@pytest.mark.parametrize("seed", range(6))
def test_every_packet_whose_verdict_changes_is_covered(seed: int) -> None:
    rng = random.Random(100 + seed)
    a = random_policy(rng, Platform.LINUX, "wg0")
    b = random_policy(rng, Platform.LINUX, "wg0")
    covered = {(c.before.id, c.before.what, c.after.id, c.after.what) for c in difference(a, b)}
    for _ in range(400):
        facts = random_facts(rng, a if rng.random() < 0.5 else b)
        if facts.fragment is Fragment.LATER:
            continue
        before, after = evaluate(a, facts), evaluate(b, facts)
        if before.accept != after.accept:
            x, y = rules_for(a)[before.rule], rules_for(b)[after.rule]
            assert (x.id, x.what, y.id, y.what) in covered, packet_text(facts)
