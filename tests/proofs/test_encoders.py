"""The formulas mean what the enforcers do: random policies and packets, judged by both."""

from __future__ import annotations

import random

import pytest
import z3

from engine.policy import Platform
from native.facts import Direction
from tests.proofs.policies import CONCRETE, NAMES, Case
from tests.proofs.prove import ENFORCERS, PACKET, Enforcer, encoded
from tests.samples import random_facts, random_policy

DESKTOPS = (Platform.LINUX, Platform.MACOS, Platform.WINDOWS)


@pytest.mark.parametrize(
    ("platform", "enforcer"),
    [(platform, enforcer) for platform in DESKTOPS for enforcer in ENFORCERS[platform]],
    ids=lambda it: it.name.lower(),
)
def test_an_encoder_says_of_a_packet_what_the_enforcer_does_with_it(platform: Platform, enforcer: Enforcer) -> None:
    rng = random.Random(f"{platform} {enforcer.name}")
    tunnel = NAMES.get(platform, "molehill0")
    for _ in range(6):
        case = Case(random_policy(rng, platform, tunnel), CONCRETE)
        artefact = enforcer.make(case.policy)
        verdict = encoded(case, enforcer, artefact)
        solver = z3.SolverFor("QF_BV")
        accept, reject = z3.Bools("accept reject")
        solver.add(accept == verdict.accept, reject == verdict.reject)
        for _ in range(12):
            facts = random_facts(rng, case.policy)
            if enforcer.name == "pf" and facts.direction is Direction.FORWARD and facts.uid is not None:
                continue
            assert solver.check(PACKET.equals(facts)) == z3.sat
            model = solver.model()
            said = tuple(z3.is_true(model.eval(term, model_completion=True)) for term in (accept, reject))
            name = case.policy.tunnel.name if case.policy.tunnel else None
            assert said == enforcer.run(artefact, facts, name), facts
