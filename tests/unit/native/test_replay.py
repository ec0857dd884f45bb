"""The replay window by example; tests/properties/test_replay_window.py has the random part."""

from native.replay import WINDOW, ReplayWindow


def test_the_window_has_8192_packets() -> None:
    assert WINDOW == 8192


def test_a_counter_is_accepted_once() -> None:
    window = ReplayWindow()
    assert [window.accept(counter) for counter in (0, 0, 5, 3, 5, 3, 4)] == [
        True,
        False,
        True,
        True,
        False,
        False,
        True,
    ]


def test_the_first_counter_may_be_any() -> None:
    window = ReplayWindow()
    assert window.accept(2**40)
    assert not window.accept(2**40 - WINDOW)
    assert window.accept(2**40 - WINDOW + 1)


def test_a_jump_forgets_everything_before_it_and_remembers_nothing_wrong() -> None:
    window = ReplayWindow()
    for counter in range(2 * WINDOW):
        assert window.accept(counter)
    assert window.accept(100 * WINDOW)
    for counter in range(99 * WINDOW + 1, 100 * WINDOW):
        assert window.accept(counter)
    assert not window.accept(2 * WINDOW - 1)
