import os
import select
from pathlib import Path

import dpkt
import pytest

from tun.pair import pair
from tun.pcap import PcapTun, PcapWriter


@pytest.mark.parametrize("header", [b"", bytes(10)], ids=["plain", "virtio header"])
def test_packets_of_both_ways_are_in_the_file(tmp_path: Path, header: bytes) -> None:
    outside, inside = pair(vnet_hdr=bool(header))
    device = PcapTun(inside, tmp_path / "tun.pcap")
    out, back = b"\x45outward", b"\x60inward"
    os.write(outside.fileno(), header + out)
    select.select([device.fileno()], [], [], 5)
    assert os.read(device.fileno(), 100) == header + out
    os.write(device.fileno(), header + back)
    select.select([outside.fileno()], [], [], 5)
    assert os.read(outside.fileno(), 100) == header + back
    device.close()
    outside.close()
    with open(tmp_path / "tun.pcap", "rb") as file:
        reader = dpkt.pcap.Reader(file)
        assert reader.datalink() == dpkt.pcap.DLT_RAW or reader.datalink() == 101
        assert [packet for _, packet in reader] == [out, back]


def test_times_are_kept_to_the_nanosecond(tmp_path: Path) -> None:
    writer = PcapWriter(tmp_path / "one.pcap")
    writer.write(b"\x45", 1_700_000_000_123_456_789)
    writer.close()
    with open(tmp_path / "one.pcap", "rb") as file:
        ((time, packet),) = dpkt.pcap.Reader(file)
    assert packet == b"\x45"
    assert int(time * 10**9) == 1_700_000_000_123_456_789
