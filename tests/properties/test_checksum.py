"""The internet checksum against the words of RFC 1071, and its incremental update."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from native._native import ffi, lib


def naive(data: bytes) -> int:
    """Sum 16-bit words, carry round."""
    total = sum((data[at] << 8) | (data[at + 1] if at + 1 < len(data) else 0) for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(st.binary(max_size=700) | st.integers(0, 65535).map(lambda n: b"\xff" * n), st.integers(0, 7))
def test_the_sum_is_the_naive_one_at_any_length_and_alignment(data: bytes, offset: int) -> None:
    buffer = ffi.new("uint8_t[]", bytes(offset) + data)
    assert lib.mh_sum_fold(lib.mh_sum(0, buffer + offset, len(data))) == naive(data)


@given(st.binary(max_size=700), st.integers(0, 7))
def test_summing_while_copying_does_both(data: bytes, offset: int) -> None:
    source, target = ffi.new("uint8_t[]", bytes(offset) + data), ffi.new("uint8_t[]", len(data) + 1)
    target[len(data)] = 0xA5
    assert lib.mh_sum_fold(lib.mh_sum_copy(0, target, source + offset, len(data))) == naive(data)
    assert bytes(ffi.buffer(target)) == data + b"\xa5"


@given(st.binary(min_size=40, max_size=40), st.integers(0, 3), st.sampled_from([4, 6]))
def test_setting_the_congestion_mark_keeps_the_ipv4_checksum_right(header: bytes, mark: int, version: int) -> None:
    header = bytes([version << 4 | 5]) + header[1:]
    if version == 4:
        blank = header[:10] + bytes(2) + header[12:20]
        header = blank[:10] + (0xFFFF ^ naive(blank)).to_bytes(2, "big") + blank[12:] + header[20:]
    packet = ffi.new("uint8_t[]", header)
    lib.mh_set_ecn(packet, mark)
    after = bytes(ffi.buffer(packet, len(header)))
    tos = after[1] if version == 4 else (after[0] << 4 | after[1] >> 4) & 0xFF
    before = header[1] if version == 4 else (header[0] << 4 | header[1] >> 4) & 0xFF
    assert tos == before & 0xFC | mark
    if version == 4:
        assert naive(after[:20]) == 0xFFFF
        assert after[2:10] + after[12:] == header[2:10] + header[12:]
    else:
        assert (after[0], after[1] & 15, after[2:]) == (header[0], header[1] & 15, header[2:])
