import os

import pytest

from tun.pair import pair


def test_packets_come_out_of_the_other_end_whole_and_in_order() -> None:
    left, right = pair(mtu=1280)
    packets = [bytes([n]) * size for n, size in enumerate((1, 1280, 65535))]
    for packet in packets:
        assert os.write(left.fileno(), packet) == len(packet)
    assert [os.read(right.fileno(), 65536) for _ in packets] == packets
    os.write(right.fileno(), b"back")
    assert os.read(left.fileno(), 65536) == b"back"
    assert left.mtu == right.mtu == 1280
    left.close()
    assert os.read(right.fileno(), 1) == b""
    right.close()


def test_both_ends_agree_on_the_virtio_header() -> None:
    left, right = pair(vnet_hdr=True)
    assert left.vnet_hdr
    assert right.vnet_hdr
    left.close()
    right.close()


def test_a_full_pair_says_so_instead_of_blocking() -> None:
    left, right = pair()

    def write_for_ever() -> None:
        while True:
            os.write(left.fileno(), bytes(1420))

    with pytest.raises(BlockingIOError):
        write_for_ever()
    left.close()
    right.close()
