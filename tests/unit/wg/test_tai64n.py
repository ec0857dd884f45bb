"""TAI64N labels: order, grain, and a clock that jumps back."""

from hypothesis import given
from hypothesis import strategies as st

from engine.wg import tai64n
from engine.wg.constants import INITIATIONS_PER_SECOND, TIMESTAMP_GRAIN

times = st.floats(0, 2**33)


def test_a_known_time_has_the_known_label() -> None:
    # 1970-01-01 00:00:00 UTC is 1970-01-01 00:00:10 TAI.
    assert tai64n.encode(0.0).hex() == "400000000000000a00000000"
    assert tai64n.encode(1_700_000_000.5).hex() == "400000006553f10a1d000000"


@given(times, times)
def test_the_order_of_labels_is_the_order_of_times(one: float, other: float) -> None:
    assert len(tai64n.encode(one)) == tai64n.LENGTH
    if one <= other:
        assert tai64n.encode(one) <= tai64n.encode(other)


@given(times, times)
def test_the_next_label_is_greater_even_when_the_clock_goes_back(wall: float, earlier: float) -> None:
    first = tai64n.after(wall, tai64n.ZERO)
    second = tai64n.after(min(wall, earlier), first)
    assert second > first
    assert tai64n.after(earlier, second) > second


@given(times)
def test_a_label_tells_no_more_than_the_grain(wall: float) -> None:
    nanoseconds = int.from_bytes(tai64n.encode(wall)[8:], "big")
    assert nanoseconds % TIMESTAMP_GRAIN == 0
    assert nanoseconds < 10**9


def test_the_grain_is_finer_than_the_initiations_a_peer_takes() -> None:
    assert TIMESTAMP_GRAIN < 10**9 / INITIATIONS_PER_SECOND
