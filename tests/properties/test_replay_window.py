"""The replay window against a naive set that forgets nothing."""

from hypothesis import given, settings
from hypothesis import strategies as st

from native.replay import WINDOW, ReplayWindow


class NaiveWindow:
    """Remembers every counter."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def accept(self, counter: int) -> bool:
        """As the paper says it."""
        if counter in self.seen or (self.seen and counter <= max(self.seen) - WINDOW):
            return False
        self.seen.add(counter)
        return True


# Steps from the greatest counter so far: mostly near, sometimes at the window's edge, sometimes a leap.
STEP = st.one_of(
    st.integers(-70, 70),
    st.integers(-WINDOW - 70, -WINDOW + 70),
    st.integers(-WINDOW, 0),
    st.integers(60, 3 * WINDOW),
    st.integers(0, 2**40),
)


@settings(max_examples=200, deadline=None)
@given(start=st.integers(0, 2**63), steps=st.lists(STEP, max_size=150))
def test_the_window_accepts_what_a_set_accepts(start: int, steps: list[int]) -> None:
    window, naive = ReplayWindow(), NaiveWindow()
    greatest = start
    for step in steps:
        counter = max(0, min(greatest + step, 2**64 - 1))
        greatest = max(greatest, counter)
        assert window.accept(counter) == naive.accept(counter)
