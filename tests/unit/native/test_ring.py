"""The event ring: bounded, in order, and readable exactly while there is something to read."""

import select

import pytest

from native.ring import DATA_MAX, ENDPOINT_LEN, EventKind, Ring, RingEvent


def readable(ring: Ring) -> bool:
    return bool(select.select([ring.fd], [], [], 0)[0])


def test_events_come_out_as_they_went_in_and_know_what_waits_behind_them() -> None:
    ring = Ring(8)
    endpoint = bytes(range(ENDPOINT_LEN))
    assert ring.push(RingEvent(EventKind.MESSAGE, peer=3, error=-5, endpoint=endpoint, data=b"hello"))
    assert ring.push(RingEvent(EventKind.STOPPED, error=19))
    assert ring.pop() == RingEvent(EventKind.MESSAGE, 3, -5, 1, endpoint, b"hello")
    assert ring.pop() == RingEvent(EventKind.STOPPED, error=19)
    assert ring.pop() is None


def test_a_full_ring_refuses_the_new_event() -> None:
    ring = Ring(4)
    assert [ring.push(RingEvent(EventKind.TIMERS, peer=i)) for i in range(6)] == [True] * 4 + [False] * 2
    events = [ring.pop() for _ in range(4)]
    assert [event.peer for event in events if event] == [0, 1, 2, 3]
    assert ring.push(RingEvent(EventKind.TIMERS, peer=9))


def test_the_eventfd_is_readable_from_the_first_push_until_the_ring_was_seen_empty() -> None:
    ring = Ring(4)
    assert not readable(ring)
    for _ in range(3):
        ring.push(RingEvent(EventKind.TIMERS))
        assert readable(ring)
        ring.push(RingEvent(EventKind.TIMERS))
        ring.pop()
        assert readable(ring)
        ring.pop()
        assert ring.pop() is None
        assert not readable(ring)


def test_data_of_any_length_up_to_the_limit_is_kept() -> None:
    ring = Ring(2)
    for length in (0, 1, 148, DATA_MAX):
        data = bytes(i % 251 for i in range(length))
        assert ring.push(RingEvent(EventKind.PROBE, data=data))
        event = ring.pop()
        assert event is not None
        assert event.data == data


def test_wrong_lengths_are_errors() -> None:
    ring = Ring(2)
    with pytest.raises(ValueError, match="at most 1500 bytes"):
        ring.push(RingEvent(EventKind.MESSAGE, data=bytes(DATA_MAX + 1)))
    with pytest.raises(ValueError, match="48 of endpoint"):
        ring.push(RingEvent(EventKind.MESSAGE, endpoint=b"short"))
    for slots in (0, 3, -4, 1 << 40):
        with pytest.raises(ValueError, match="power of two"):
            Ring(slots)


def test_a_closed_ring_refuses() -> None:
    ring = Ring(2)
    ring.close()
    with pytest.raises(ValueError, match="closed"):
        ring.pop()
