"""The wire formats: layout, and strictness about type, reserved bytes and length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.wg.messages import CookieReply, Initiation, MessageType, Response, classify, receiver_of

LENGTHS = {1: 148, 2: 92, 3: 64}


@pytest.mark.parametrize("kind", LENGTHS)
def test_only_the_exact_length_is_taken(kind: int) -> None:
    for length in range(200):
        taken = classify(bytes([kind, 0, 0, 0]).ljust(length, b"x")[:length])
        assert taken == (MessageType(kind) if length == LENGTHS[kind] else None)


def test_data_messages_have_at_least_a_header_and_a_tag() -> None:
    for length in range(200):
        taken = classify(b"\x04\0\0\0".ljust(length, b"x")[:length])
        assert taken == (MessageType.DATA if length >= 32 else None)


@pytest.mark.parametrize("place", [1, 2, 3])
@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_a_reserved_byte_that_is_not_zero_makes_it_no_message(kind: int, place: int) -> None:
    message = bytearray(LENGTHS.get(kind, 32))
    message[0] = kind
    assert classify(bytes(message)) is not None
    message[place] = 1
    assert classify(bytes(message)) is None


@given(st.binary(max_size=160))
def test_whatever_is_classified_can_be_parsed_and_built_again(data: bytes) -> None:
    for message in (data, *(bytes([kind, 0, 0, 0]) + data.ljust(160, b"\0")[: LENGTHS[kind] - 4] for kind in LENGTHS)):
        match classify(message):
            case MessageType.INITIATION:
                assert Initiation.parse(message).build() == message[:-32]
            case MessageType.RESPONSE:
                assert Response.parse(message).build() == message[:-32]
            case MessageType.COOKIE_REPLY:
                assert CookieReply.parse(message).build() == message
                assert CookieReply.parse(message).receiver == receiver_of(message)


def test_fields_are_where_the_paper_puts_them() -> None:
    initiation = bytes([1, 0, 0, 0]) + bytes([0x78, 0x56, 0x34, 0x12]) + b"e" * 32 + b"s" * 48 + b"t" * 28 + b"m" * 32
    assert Initiation.parse(initiation) == Initiation(0x12345678, b"e" * 32, b"s" * 48, b"t" * 28)
    response = bytes([2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]) + b"e" * 32 + b"n" * 16 + b"m" * 32
    assert Response.parse(response) == Response(1, 2, b"e" * 32, b"n" * 16)
    reply = bytes([3, 0, 0, 0, 7, 0, 0, 0]) + b"n" * 24 + b"c" * 32
    assert CookieReply.parse(reply) == CookieReply(7, b"n" * 24, b"c" * 32)
    assert receiver_of(bytes([4, 0, 0, 0, 9, 1, 0, 0]) + bytes(24)) == 0x109
