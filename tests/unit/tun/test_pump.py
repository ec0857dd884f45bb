import os
import select
from collections.abc import Sequence

import pytest

from tun.fd import FdTun
from tun.pair import pair
from tun.pump import PumpedTun


class Upper(PumpedTun):
    """Changes what comes from the device, doubles what goes there, swallows the word `drop`."""

    def carry(self, packet: bytes, outward: bool) -> Sequence[bytes]:
        if packet == b"drop":
            return ()
        return (packet.upper(),) if outward else (packet, packet)


def read(device: FdTun | PumpedTun, timeout: float = 5) -> bytes:
    """The next packet, or AssertionError when none comes."""
    assert select.select([device.fileno()], [], [], timeout)[0], "no packet came"
    return os.read(device.fileno(), 70_000)


def test_each_packet_goes_through_carry_in_its_direction() -> None:
    outside, inside = pair()
    device = Upper(inside)
    for packet in (b"one", b"drop", b"two"):
        os.write(outside.fileno(), packet)
    assert [read(device), read(device)] == [b"ONE", b"TWO"]
    os.write(device.fileno(), b"back")
    assert [read(outside), read(outside)] == [b"back", b"back"]
    device.close()
    outside.close()


def test_it_looks_like_the_device_it_wraps() -> None:
    outside, inside = pair(mtu=1300, vnet_hdr=True)
    device = Upper(inside)
    assert (device.name, device.mtu, device.vnet_hdr, device.offloads) == (inside.name, 1300, True, 0)
    assert device.header_len == 10
    device.close()
    outside.close()


def test_closing_it_closes_what_it_wraps_and_twice_is_once() -> None:
    outside, inside = pair()
    device = Upper(inside)
    device.close()
    device.close()
    assert inside.fileno() == device.fileno() == -1
    assert read(outside) == b""
    outside.close()


def test_the_engine_reads_the_end_when_the_device_goes_away() -> None:
    outside, inside = pair()
    device = Upper(inside)
    outside.close()
    assert read(device) == b""
    device.close()


def test_a_slow_reader_loses_nothing() -> None:
    outside, inside = pair()
    device = Upper(inside)
    count, sent, received = 2000, 0, []
    while len(received) < count:
        while sent < count:
            try:
                os.write(outside.fileno(), b"%08d" % sent + bytes(1000))
            except BlockingIOError:
                break
            sent += 1
        received.append(int(read(device)[:8]))
    assert received == list(range(count))
    device.close()
    outside.close()


def test_wrappers_stack() -> None:
    outside, inside = pair()
    device = Upper(Upper(inside))
    os.write(outside.fileno(), b"one")
    assert read(device) == b"ONE"
    os.write(device.fileno(), b"x")
    assert [read(outside) for _ in range(4)] == [b"x"] * 4
    device.close()
    outside.close()


def test_the_bare_pump_does_not_know_what_to_do() -> None:
    with pytest.raises(NotImplementedError):
        PumpedTun.carry(object.__new__(PumpedTun), b"", True)
