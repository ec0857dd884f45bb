"""Random packets, whole and broken, built with scapy: options, extension headers, fragments, damage."""

from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6Unknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH, ESP
from scapy.packet import Packet, Raw

from tests.properties.policies import addresses, ports

_bytes = st.binary(max_size=40)


def _transports(version: int) -> st.SearchStrategy[Packet]:
    icmp = (
        st.builds(lambda type, code: ICMP(type=type, code=code), st.integers(0, 255), st.integers(0, 255))
        if version == 4
        else st.one_of(
            st.builds(ICMPv6ND_NS),
            st.builds(ICMPv6EchoRequest),
            st.builds(lambda type, code: ICMPv6Unknown(type=type, code=code), st.integers(0, 255), st.integers(0, 255)),
        )
    )
    return st.one_of(
        st.builds(lambda s, d: UDP(sport=s, dport=d), ports, ports),
        st.builds(lambda s, d, o: TCP(sport=s, dport=d, options=o), ports, ports, st.sampled_from([[], [("MSS", 1)]])),
        icmp,
        st.builds(ESP),
        st.builds(Raw, _bytes),
    )


_extensions = st.one_of(
    st.builds(IPv6ExtHdrHopByHop),
    st.builds(IPv6ExtHdrDestOpt),
    st.builds(IPv6ExtHdrRouting, addresses=st.lists(addresses(6).map(str), max_size=2)),
    st.builds(
        lambda size, next: AH(nh=next, payloadlen=size // 4 + 1, icv=bytes(size)),
        st.sampled_from([0, 4, 12]),
        st.sampled_from([6, 17, 58, 60, 44]),
    ),
    st.builds(
        lambda offset, more, id: IPv6ExtHdrFragment(offset=offset, m=more, id=id),
        st.sampled_from([0, 0, 1, 2, 3, 100, 8191]),
        st.integers(0, 1),
        st.integers(0, 2**32 - 1),
    ),
)


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """A packet as a sane or insane sender makes it, lengths and checksums right."""
    version = draw(st.sampled_from([4, 6]))
    source, destination = str(draw(addresses(version))), str(draw(addresses(version)))
    transport = draw(_transports(version)) / Raw(draw(_bytes))
    if version == 4:
        fragment = draw(st.sampled_from([(0, 0), (0, 0), (0, 1), (1, 0), (2, 1), (3, 0), (8191, 0), (8191, 1)]))
        head = IP(
            src=source,
            dst=destination,
            tos=draw(st.integers(0, 255)),
            id=draw(st.integers(0, 65535)),
            frag=fragment[0],
            flags="MF" if fragment[1] else draw(st.sampled_from(["", "DF"])),
            options=draw(st.lists(st.sampled_from([IPOption_NOP(), IPOption_RR()]), max_size=3)),
        )
        if isinstance(transport, Raw):
            head.proto = draw(st.integers(0, 255))
        return bytes(head / transport)
    packet: Packet = IPv6(src=source, dst=destination, tc=draw(st.integers(0, 255)))
    for extension in draw(st.lists(_extensions, max_size=draw(st.sampled_from([1, 3, 10])))):
        packet = packet / extension
    if isinstance(transport, Raw):
        packet.lastlayer().nh = draw(st.sampled_from([59, 135, 0, 44, 60, 6, 17, 58]) | st.integers(0, 255))
    return bytes(packet / transport)


@st.composite
def damaged_packets(draw: st.DrawFn) -> bytes:
    """A packet cut short, lengthened, or with bytes changed, mostly in its headers."""
    packet = bytearray(draw(packets()))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, min(len(packet), 80) - 1))
        packet[place] = draw(st.integers(0, 255))
    packet += draw(st.sampled_from([b"", b"", bytes(7), bytes(100)]))
    if draw(st.booleans()):
        del packet[draw(st.integers(0, len(packet))) :]
    return bytes(packet)
