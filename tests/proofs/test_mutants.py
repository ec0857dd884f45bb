"""A sample of the mutants: each is caught, by a packet that the enforcer itself judges as its formula says."""

from __future__ import annotations

from collections import Counter

import pytest

from engine.explain.packet import packet_text, parse_packet
from native.facts import Fragment
from tests.proofs.mutants import MUTANTS, Mutant

SAMPLE = MUTANTS[::7]


@pytest.mark.parametrize("mutant", SAMPLE, ids=lambda mutant: f"{mutant.enforcer.name}: {mutant.what}")
def test_a_broken_enforcer_is_given_away_by_a_packet(mutant: Mutant) -> None:
    example = mutant.hunt()
    assert example is not None, "nobody would notice"
    # Some show only with an endpoint in the local network: the values are then told with the packet.
    if example.facts.fragment is Fragment.WHOLE:
        # The packet can be given to `molehill explain` as it is printed.
        assert packet_text(parse_packet(packet_text(example.facts))) == packet_text(example.facts)


def test_each_enforcer_is_broken_in_at_least_twenty_ways() -> None:
    counts = Counter(mutant.enforcer.name for mutant in MUTANTS)
    assert set(counts) == {"reference", "native", "nftables", "pf", "wfp"}
    assert min(counts.values()) >= 20
    assert len({(mutant.enforcer.name, mutant.what) for mutant in MUTANTS}) == len(MUTANTS)
