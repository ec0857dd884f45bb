"""The datapath, two of them face to face over loopback."""

from __future__ import annotations

from scapy.layers.inet import IP, UDP  # type: ignore[import-untyped]
from scapy.packet import Raw  # type: ignore[import-untyped]

from tests.unit.native.pair import carry, connected


def udp(payload: bytes = b"hello", **fields: object) -> bytes:
    return bytes(IP(src="10.0.0.1", dst="10.0.0.2", **fields) / UDP(sport=1000, dport=2000) / Raw(payload))


def test_a_packet_written_into_one_tun_comes_out_of_the_other() -> None:
    with connected() as (a, b):
        a.write(udp())
        carry(a, b)
        assert b.read() == udp()
