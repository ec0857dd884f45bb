"""A small capture for docs/explain.md: an evening on a laptop, `python -m tests.evening` writes it anew.

On eth0 a lease is asked for, the relay is reached, and three packets go past the tunnel; on wg0 a page and a lookup.
"""

from __future__ import annotations

import logging
from pathlib import Path

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
from scapy.all import BOOTP, DNS, DNSQR, IP, TCP, UDP, Ether, ICMPv6ND_NS, IPv6, Raw  # noqa: E402
from scapy.utils import PcapNgWriter  # noqa: E402

CAPTURE = Path(__file__).resolve().parent / "vectors" / "evening.pcapng"

_US, _ROUTER = "02:00:00:00:00:05", "02:00:00:00:00:01"


def write(path: Path) -> None:
    """Write the capture; the same bytes every time."""
    ours, theirs = Ether(src=_US, dst=_ROUTER), Ether(src=_ROUTER, dst=_US)
    outer = UDP(sport=51820, dport=51820) / Raw(bytes(148))
    packets = [
        ("eth0", Ether(src=_US, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255")
         / UDP(sport=68, dport=67) / BOOTP(chaddr=bytes(6))),
        ("eth0", Ether(src=_US, dst="33:33:ff:00:00:01") / IPv6(src="fe80::5", dst="ff02::1:ff00:1")
         / ICMPv6ND_NS(tgt="fe80::1")),
        *[("eth0", ours / IP(src="192.168.1.5", dst="198.51.100.7") / outer)] * 6,
        *[("eth0", theirs / IP(src="198.51.100.7", dst="192.168.1.5") / outer)] * 5,
        ("wg0", IP(src="10.64.0.2", dst="10.64.0.1") / UDP(sport=40000, dport=53) / DNS(qd=DNSQR(qname="example.org"))),
        *[("wg0", IP(src="10.64.0.2", dst="93.184.216.34") / TCP(sport=40001, dport=443))] * 3,
        ("wg0", IP(src="93.184.216.34", dst="10.64.0.2") / TCP(sport=443, dport=40001, flags="SA")),
        ("eth0", ours / IP(src="192.168.1.5", dst="192.168.1.1") / UDP(sport=40002, dport=53)
         / DNS(qd=DNSQR(qname="example.org"))),
        ("eth0", ours / IP(src="192.168.1.5", dst="17.57.146.20") / TCP(sport=40003, dport=5223)),
        ("eth0", ours / IPv6(src="2001:db8:5::5", dst="2001:db8:80::80") / TCP(sport=40004, dport=443)),
        ("eth0", Ether(src=_ROUTER, dst="ff:ff:ff:ff:ff:ff", type=0x806) / Raw(bytes(28))),
    ]  # fmt: skip
    path.unlink(missing_ok=True)
    with PcapNgWriter(str(path)) as writer:
        for number, (interface, packet) in enumerate(packets):
            packet = packet.copy()
            packet.sniffed_on, packet.time = interface, 1_700_000_000 + number
            writer.write(packet)


if __name__ == "__main__":
    write(CAPTURE)
