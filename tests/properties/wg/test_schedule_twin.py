"""The timer heap against a naive twin: the minimum over all peers, computed anew each time."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from engine.wg.peer import Peer
from engine.wg.timers import Schedule

deadlines = st.one_of(st.just(inf), st.floats(0, 100))
names = st.sampled_from(("retransmit", "keepalive", "new_handshake", "persistent", "erase"))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 3), names, deadlines),
        st.tuples(st.just("remove"), st.integers(0, 3), st.none(), st.none()),
        st.tuples(st.just("pass"), st.none(), st.none(), st.floats(0, 100)),
        st.tuples(st.just("ask"), st.none(), st.none(), st.none()),
    ),
    max_size=60,
)


@given(steps)
def test_the_schedule_names_the_earliest_deadline_and_misses_none(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    peers = [Peer(bytes([i]) * 32) for i in range(4)]
    schedule = Schedule()

    def earliest() -> float | None:
        due = min(peer.deadlines.next() for peer in peers)
        return None if due == inf else due

    for action, number, name, value in steps:
        if action == "set":
            setattr(peers[number].deadlines, name, value)
            schedule.update(peers[number])
        elif action == "remove":
            schedule.remove(peers[number])
        elif action == "pass":
            expected = {peer for peer in peers if peer.deadlines.next() <= value}
            seen = set()
            while (peer := schedule.due(value)) is not None:
                assert peer.deadlines.next() <= value
                seen.add(peer)
                for each in ("retransmit", "keepalive", "new_handshake", "persistent", "erase"):
                    if getattr(peer.deadlines, each) <= value:
                        setattr(peer.deadlines, each, inf)
                schedule.update(peer)
            assert seen == expected
        assert schedule.next() == earliest()
