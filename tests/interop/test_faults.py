"""A bad network between us and wireguard-go: loss, reordering, duplication, a NAT that forgets, a cut.

The faults come from a UDP relay between the two (tun.fault), seeded, so that a failure comes again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.interop.link import INNER, MIB, PORT, ROLES, Link, Sent, Transfer
from tests.netns.lab import wait_until
from tun.fault import FaultPlan, FaultRelay

pytestmark = pytest.mark.netns
roles = pytest.mark.parametrize("commands", ROLES.values(), ids=ROLES.keys())
BAD = FaultPlan(seed=7, loss=0.02, reorder=0.02, duplicate=0.02)


@contextmanager
def through(commands: tuple[str, str], plan: FaultPlan) -> Iterator[tuple[Link, FaultRelay]]:
    """A link whose outer packets pass a fault relay in b's namespace, on port 40000."""
    with Link(commands, endpoint="172.16.9.2:40000") as link:
        with link.b.ns.entered():
            relay = FaultRelay(("172.16.9.2", 40000), ("172.16.9.2", PORT), plan)
        try:
            yield link, relay
        finally:
            relay.close()


@roles
def test_two_percent_of_loss_reordering_and_duplication_harm_no_byte(commands: tuple[str, str]) -> None:
    with through(commands, BAD) as (link, _):
        assert link.send(8 * MIB, ends="ab") == Sent(8 * MIB, True)
        assert link.send(8 * MIB, ends="ba", inner=6) == Sent(8 * MIB, True)


@roles
def test_a_corrupted_datagram_is_dropped_and_harms_no_byte(commands: tuple[str, str]) -> None:
    with through(commands, FaultPlan(seed=8, corrupt=0.02)) as (link, _):
        assert link.send(4 * MIB, ends="ab") == Sent(4 * MIB, True)
        assert link.send(4 * MIB, ends="ba") == Sent(4 * MIB, True)


@roles
def test_a_nat_that_forgets_its_mapping_is_followed_to_the_new_port(commands: tuple[str, str]) -> None:
    with through(commands, FaultPlan(seed=9)) as (link, relay):
        assert link.ping()
        before = link.b.endpoint()
        transfer = Transfer(link.lab["a"], link.lab["b"], INNER["b"][4], 6 * MIB, rate=6 * MIB)
        wait_until(lambda: transfer.moved > MIB, 20, "the transfer under way")
        with link.b.ns.entered():
            relay.rebind()
        assert transfer.result() == Sent(6 * MIB, True)
        assert link.b.endpoint() not in ("", before)


@roles
def test_a_cut_of_a_second_is_only_a_pause(commands: tuple[str, str]) -> None:
    with through(commands, FaultPlan(seed=10)) as (link, relay):
        assert link.ping()
        transfer = Transfer(link.lab["a"], link.lab["b"], INNER["b"][4], 6 * MIB, rate=6 * MIB)
        wait_until(lambda: transfer.moved > MIB, 20, "the transfer under way")
        relay.cut = True
        assert not link.ping(wait=1)
        relay.cut = False
        assert transfer.result() == Sent(6 * MIB, True)


@roles
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_128_mib_pass_a_bad_network_whole_both_ways_at_once(commands: tuple[str, str]) -> None:
    with through(commands, BAD) as (link, _):
        assert link.ping()
        assert link.both_ways(128 * MIB) == (Sent(128 * MIB, True), Sent(128 * MIB, True))
