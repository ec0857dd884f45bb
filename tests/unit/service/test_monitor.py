"""The monitor's rule in virtual time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.service.monitor import LOST_SECONDS, SILENT_SECONDS, Action, Monitor


def test_an_idle_tunnel_is_left_alone_for_two_minutes_and_then_pinged() -> None:
    monitor = Monitor(1000.0, 0)
    assert monitor.next_look == 1000.0 + SILENT_SECONDS
    assert monitor.look(1120.0, 0, 0.0) is Action.PING


def test_something_sent_and_not_answered_for_five_seconds_is_followed_by_pings_and_after_15_s_it_is_lost() -> None:
    monitor = Monitor(0.0, 10)
    monitor.sent(50.0)
    looks = []
    while True:
        now = monitor.next_look
        action = monitor.look(now, 10, 50.0)
        looks.append((now, action))
        if action is Action.LOST:
            break
    assert looks[0] == (55.0, Action.PING)
    assert looks[1] == (58.0, Action.PING)
    assert looks[-1] == (55.0 + LOST_SECONDS, Action.LOST)


def test_any_answer_ends_the_alarm() -> None:
    monitor = Monitor(0.0, 10)
    monitor.sent(1.0)
    assert monitor.look(6.0, 10, 1.0) is Action.PING
    assert monitor.look(9.0, 42, 0.0) is Action.NOTHING
    assert monitor.next_look == 9.0 + SILENT_SECONDS


def test_a_packet_answered_in_time_needs_no_ping() -> None:
    monitor = Monitor(0.0, 10)
    monitor.sent(1.0)
    assert monitor.look(6.0, 11, 0.0) is Action.NOTHING


def test_a_packet_sent_between_two_looks_gets_its_full_five_seconds() -> None:
    monitor = Monitor(0.0, 10)
    monitor.sent(1.0)
    assert monitor.look(6.0, 11, 4.0) is Action.NOTHING
    assert monitor.next_look == 9.0


def test_after_sleep_the_tunnel_gets_a_fresh_chance() -> None:
    monitor = Monitor(0.0, 10)
    monitor.sent(1.0)
    assert monitor.look(6.0, 10, 1.0) is Action.PING
    assert monitor.look(3600.0, 10, 1.0) is Action.NOTHING
    assert monitor.look(3605.0, 10, 3600.0) is Action.PING


def test_what_was_received_before_the_sleep_is_no_sign_of_life_after_it() -> None:
    monitor = Monitor(0.0, 10)
    monitor.resumed(500.0)
    assert monitor.look(500.0, 4242, 0.0) is Action.PING


def test_a_look_that_is_due_is_no_look_too_early_however_sums_are_rounded() -> None:
    start = 8.346961714244756
    assert start + 120.0 - start < 120.0
    monitor = Monitor(start, 0)
    assert monitor.look(monitor.next_look, 0, 0.0) is Action.PING


def test_a_machine_that_has_slept_pings_at_once_and_then_has_its_full_time() -> None:
    monitor = Monitor(0.0, 10)
    monitor.resumed(3600.0)
    assert monitor.next_look == 3600.0
    looks = [monitor.look(3600.0 + seconds, 10, 0.0) for seconds in range(0, 16, 3)]
    assert looks == [Action.PING] * 5 + [Action.LOST]


@given(st.lists(st.tuples(st.floats(0.0, 200.0), st.booleans(), st.booleans()), max_size=60))
def test_it_is_never_lost_before_20_s_without_an_answer(steps: list[tuple[float, bool, bool]]) -> None:
    now, rx, unanswered, heard = 0.0, 0, 0.0, 0.0
    monitor = Monitor(now, rx)
    for gap, answered, sends in steps:
        now += gap
        if answered:
            rx, unanswered, heard = rx + 1, 0.0, now
        if sends and not unanswered:
            unanswered = now
            monitor.sent(now)
        action = monitor.look(now, rx, unanswered)
        assert action is not Action.LOST or now - heard >= LOST_SECONDS
        if action is Action.LOST:
            return
        assert monitor.next_look > now
