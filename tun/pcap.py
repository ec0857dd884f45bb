"""A wrapper that writes every packet, both ways, into a pcap file that Wireshark, tcpdump and scapy read.

Packets are written as the engine and the device exchange them: without the virtio header, so with offloads on one
record may be a super-packet of 64 KiB with an open checksum.
"""

import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tun.device import Device
from tun.pump import PumpedTun

_MAGIC_NANOSECONDS = 0xA1B23C4D
_LINKTYPE_RAW = 101  # IPv4 or IPv6, told apart by the first nibble
_SNAPLEN = 262144


class PcapWriter:
    """A pcap file of IP packets with times in nanoseconds; unbuffered, so a crash loses no record."""

    def __init__(self, path: str | Path) -> None:
        self._lock = threading.Lock()
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115  # open as long as the writer is
        self._file.write(struct.pack("<IHHiIII", _MAGIC_NANOSECONDS, 2, 4, 0, 0, _SNAPLEN, _LINKTYPE_RAW))

    def write(self, packet: bytes, time_ns: int) -> None:
        """Append one IP packet, seen at this wall time; any thread."""
        seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
        with self._lock:
            self._file.write(struct.pack("<IIII", seconds, nanoseconds, len(packet), len(packet)) + packet)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class PcapTun(PumpedTun):
    """`device`, with all its packets written to the file `path` (created or overwritten)."""

    def __init__(self, device: Device, path: str | Path) -> None:
        self._writer = PcapWriter(path)
        super().__init__(device)

    def carry(self, packet: bytes, outward: bool) -> Sequence[bytes]:
        """Write the packet down and pass it on."""
        self._writer.write(packet[self.header_len :], time.time_ns())
        return (packet,)

    def close(self) -> None:
        """Stop, close the device and then the file."""
        super().close()
        self._writer.close()
