"""Framing: any cutting of the stream gives the same datagrams; what is too much makes room without losing step."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.bridge.frames import MAX_DATAGRAM, FrameQueue, FrameReader, frame

datagrams = st.lists(st.binary(min_size=1, max_size=300), max_size=30)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """The stream in pieces; places beyond its end are its end."""
    edges = sorted({0, len(stream), *(place for place in places if place < len(stream))})
    return [stream[a:b] for a, b in pairwise(edges)]


def read(reader: FrameReader, pieces: list[bytes]) -> list[bytes]:
    return [bytes(found) for piece in pieces for found in reader.feed(piece)]


@given(datagrams, st.lists(st.integers(1, 3000)))
def test_however_the_stream_is_cut_the_datagrams_are_the_same(sent: list[bytes], places: list[int]) -> None:
    reader = FrameReader()
    assert read(reader, cut(b"".join(map(frame, sent)), places)) == sent
    assert reader.malformed == 0


def test_a_stream_of_single_bytes_is_read_too() -> None:
    sent = [bytes(MAX_DATAGRAM), b"a", b"bc" * 700]
    assert read(FrameReader(), [bytes([byte]) for byte in b"".join(map(frame, sent))]) == sent


@pytest.mark.parametrize("length", [0, MAX_DATAGRAM + 1, 65535])
def test_a_frame_that_can_be_no_datagram_is_skipped_counted_and_the_next_one_read(length: int) -> None:
    reader = FrameReader()
    assert read(reader, [frame(bytes(length)) + frame(b"next")]) == [b"next"]
    assert reader.malformed == 1


@given(st.binary(max_size=2000), st.lists(st.integers(1, 2000)))
def test_garbage_is_read_the_same_in_one_piece_or_in_many(stream: bytes, places: list[int]) -> None:
    whole, pieces = FrameReader(), FrameReader()
    assert read(whole, [stream]) == read(pieces, cut(stream, places))
    assert whole.malformed == pieces.malformed


@given(datagrams, st.integers(2, 3000), st.data())
def test_a_full_queue_drops_the_oldest_and_never_half_a_frame(
    sent: list[bytes], limit: int, data: st.DataObject
) -> None:
    queue, stream = FrameQueue(limit), bytearray()
    for datagram in sent:
        queue.put([datagram])
        offered = b"".join(queue.pending(4))
        taken = data.draw(st.integers(0, len(offered)))
        stream += offered[:taken]
        queue.sent(taken)
    while queue:
        offered = b"".join(queue.pending(4))
        assert len(offered) <= limit + 302  # the newest is always kept
        stream += offered
        queue.sent(len(offered))
    arrived = read(FrameReader(), [bytes(stream)])
    assert len(arrived) + queue.dropped == len(sent)
    rest = iter(sent)
    assert all(any(datagram == one for one in rest) for datagram in arrived)  # in order
    assert arrived[-1:] == sent[-1:]


def test_a_queue_that_is_not_full_drops_nothing() -> None:
    queue = FrameQueue(20)
    queue.put([b"12345678", b"87654321"])
    assert (queue.dropped, b"".join(queue.pending(9))) == (0, frame(b"12345678") + frame(b"87654321"))
    queue.put([b"new"])
    assert (queue.dropped, b"".join(queue.pending(9))) == (1, frame(b"87654321") + frame(b"new"))
