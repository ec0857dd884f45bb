"""When two programs undo each other's work, and when somebody only does something now and then."""

from __future__ import annotations

from engine.service.repairs import MANY, SECONDS, Repairs


def test_many_disturbances_within_a_short_time_are_a_dispute_once() -> None:
    repairs = Repairs()
    told = [repairs.another(0.2 * n) for n in range(MANY + 2)]
    assert told == [False] * MANY + [True, False]


def test_disturbances_now_and_then_are_none_however_many() -> None:
    repairs = Repairs()
    assert not any(repairs.another((SECONDS / MANY + 0.01) * n) for n in range(10 * MANY))


def test_a_dispute_that_goes_on_is_told_again() -> None:
    repairs = Repairs()
    assert sum(repairs.another(0.2 * n) for n in range(3 * (MANY + 1))) == 3
