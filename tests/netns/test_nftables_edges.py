"""Packets made to slip through, sent for real and judged by the native program as well: both must say the same.

Fragments and what hides in them, IPv6 extension headers, ICMPv6 codes, the first and last address of every network.
"""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from engine.filter import compile_policy, evaluate
from engine.firewall.nftables import apply
from engine.policy import MARK, Hop, IPAddress, Policy, Protocol, State
from engine.policy import Tunnel as PolicyTunnel
from engine.policy.nets import ICMPV6, LAN, LAN_MULTICAST, TCP, UDP
from native.facts import Direction, Facts, Interface, parse
from native.reasons import Reason
from native.verdict import FragmentTable, Program
from tests.netns import packets
from tests.netns.host import OTHER, TUNNEL, Host, hop_limit, host, tos

pytestmark = pytest.mark.netns

HERE4, HERE6 = ip_address("192.168.1.5"), ip_address("2001:db8:1::5")
LAN4, LAN6 = ip_address("192.168.1.1"), ip_address("fd00::1")
PEER = Hop(ip_address("198.51.100.7"), 51820, Protocol.UDP)
ERROR_LAN = Policy(State.ERROR, allow_lan=True)
ERROR = Policy(State.ERROR)
CONNECTED = Policy(
    State.CONNECTED, peer=PEER, allow_lan=True,
    tunnel=PolicyTunnel(TUNNEL, (ip_address("10.64.0.2"),), (ip_address("10.64.0.1"),)),
)  # fmt: skip
_HOOK = {Direction.OUT: "output", Direction.IN: "input", Direction.FORWARD: "forward"}
_serials = itertools.count(1)


@pytest.fixture(scope="module")
def machine() -> Iterator[Host]:
    with host() as made:
        yield made


def dns(proto: int, version: int) -> Facts:
    """A question to a resolver in the local network, which CTD-2 and DNS-3 block and LAN-1 would let out."""
    here, there = (HERE4, LAN4) if version == 4 else (HERE6, LAN6)
    return Facts(version, proto, here, there, sport=40000, dport=53, uid=0)


def fields(facts: Facts) -> dict[str, int]:
    return {"hop_limit": hop_limit(facts), "tos": tos(facts)}


def whole(facts: Facts) -> tuple[int, list[bytes]]:
    serial = next(_serials)
    return serial, [packets.packet(facts, packets.transport(facts, b"x" * 64), serial, **fields(facts))]


def by_native(policy: Policy, facts: Facts, pieces: Sequence[bytes]) -> bool:
    """Whether the native program lets every piece through, each as the datapath would see it."""
    program, table = Program(compile_policy(policy).code), FragmentTable()
    return all(_judged(program, table, facts, piece) for piece in pieces)


def _judged(program: Program, table: FragmentTable, facts: Facts, piece: bytes) -> bool:
    parsed = parse(piece)
    if isinstance(parsed, Reason):
        return False
    seen = replace(
        parsed, direction=facts.direction, iface_in=facts.iface_in, iface_out=facts.iface_out, uid=facts.uid,
        mark=facts.mark, reply=facts.reply,
    )  # fmt: skip
    return program.filter(table, seen, 1).accept


def by_kernel(machine: Host, facts: Facts, serial: int, pieces: Sequence[bytes], *, reaches: bool = True) -> bool:
    """Whether the kernel let the datagram, or any piece of it, past its hook; `reaches`: it must get that far."""
    machine.send(facts, pieces)
    seen, hook = machine.observe(), _HOOK[facts.direction]
    assert (serial in seen.shown[hook]) == reaches
    return serial in seen.passed[hook]


def both(
    machine: Host, policy: Policy, facts: Facts, serial: int, pieces: Sequence[bytes], *, reaches: bool = True
) -> bool:
    """What the kernel and the native program say, which must be the same."""
    machine.forget_flows()
    apply.apply(policy)
    kernel = by_kernel(machine, facts, serial, pieces, reaches=reaches)
    assert kernel == by_native(policy, facts, pieces), (
        f"the kernel says {'pass' if kernel else 'block'}, native does not"
    )
    return kernel


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("proto", [TCP, UDP])
@pytest.mark.parametrize("cuts", [(8,), (16,), (24,), (8, 16), (24, 48)])
def test_dns_in_fragments_does_not_slip_out_to_the_lan(
    machine: Host, version: int, proto: int, cuts: tuple[int, ...]
) -> None:
    facts, serial = dns(proto, version), next(_serials)
    pieces = packets.fragments(facts, packets.transport(facts, b"x" * 64), serial, cuts, **fields(facts))
    assert not both(machine, ERROR_LAN, facts, serial, pieces)
    assert not both(machine, CONNECTED, facts, *whole(facts))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("proto", [TCP, UDP])
def test_what_may_go_out_may_go_out_in_fragments(machine: Host, version: int, proto: int) -> None:
    facts, serial = replace(dns(proto, version), dport=443), next(_serials)
    pieces = packets.fragments(facts, packets.transport(facts, b"x" * 64), serial, (24, 48), **fields(facts))
    assert both(machine, ERROR_LAN, facts, serial, pieces)


@pytest.mark.parametrize("version", [4, 6])
def test_a_piece_that_rewrites_the_port_afterwards_takes_the_datagram_with_it(machine: Host, version: int) -> None:
    """RFC 1858, RFC 5722: the first piece says port 443, an overlapping one says 53."""
    facts, serial = replace(dns(TCP, version), dport=443), next(_serials)
    innocent = packets.transport(facts, b"x" * 64)
    question = packets.transport(dns(TCP, version), b"x" * 64)
    pieces = [
        packets.piece(facts, innocent[:40], serial, 0, more=True, **fields(facts)),
        packets.piece(facts, question[:40], serial, 0, more=True, **fields(facts)),
        packets.piece(facts, question[8:], serial, 8, more=False, **fields(facts)),
    ]
    assert not both(machine, ERROR_LAN, facts, serial, pieces, reaches=False)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("proto", [TCP, UDP])
def test_a_later_fragment_alone_goes_nowhere(machine: Host, version: int, proto: int) -> None:
    facts, serial = dns(proto, version), next(_serials)
    piece = packets.piece(facts, b"x" * 64, serial, 64, more=False, **fields(facts))
    assert not both(machine, ERROR_LAN, facts, serial, [piece], reaches=False)


@pytest.mark.parametrize("proto", [TCP, UDP])
def test_a_first_fragment_without_its_transport_header_goes_nowhere(machine: Host, proto: int) -> None:
    """Only extension headers in the first piece, the ports in the second: Linux leaves it as it is (RFC 8200, 4.5)."""
    facts, serial = dns(proto, 6), next(_serials)
    kind, body = packets.extended((60,), proto, packets.transport(facts, b"x" * 64))
    piece = packets.piece(replace(facts, proto=kind), body[:8], serial, 0, more=True, **fields(facts))
    assert not both(machine, ERROR_LAN, facts, serial, [piece])


def test_a_raw_socket_that_asks_for_no_reassembly_sends_no_piece(machine: Host) -> None:
    facts, serial = dns(UDP, 4), next(_serials)
    pieces = packets.fragments(facts, packets.transport(facts, b"x" * 64), serial, (24,), **fields(facts))
    apply.apply(ERROR_LAN)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.setsockopt(socket.IPPROTO_IP, 22, 1)  # IP_NODEFRAG
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, OTHER.encode())
        for piece in reversed(pieces):
            with pytest.raises(PermissionError):
                raw.sendto(piece, ("192.0.2.99", 0))
    seen = machine.observe()
    assert serial in seen.shown["output"]
    assert serial not in seen.passed["output"]


@pytest.mark.parametrize("port", [53, 443])
@pytest.mark.parametrize("proto", [TCP, UDP])
def test_an_atomic_fragment_is_judged_by_its_ports(machine: Host, proto: int, port: int) -> None:
    facts, serial = replace(dns(proto, 6), dport=port), next(_serials)
    piece = packets.piece(facts, packets.transport(facts, b"x" * 64), serial, 0, more=False, **fields(facts))
    assert both(machine, ERROR_LAN, facts, serial, [piece]) == (port == 443)


@pytest.mark.parametrize("headers", [(0,), (60,), (43,), (0, 60), (0, 60, 43, 60), (60, 60, 60, 60)])
@pytest.mark.parametrize("proto", [TCP, UDP])
@pytest.mark.parametrize("port", [53, 443])
def test_extension_headers_hide_no_port(machine: Host, headers: tuple[int, ...], proto: int, port: int) -> None:
    facts, serial = replace(dns(proto, 6), dport=port), next(_serials)
    kind, body = packets.extended(headers, proto, packets.transport(facts, b"x" * 64))
    packet = packets.ip6(facts.src, facts.dst, kind, body, serial, **fields(facts))
    assert both(machine, ERROR_LAN, facts, serial, [packet]) == (port == 443)


@pytest.mark.parametrize("headers", [(0,), (60,), (43,)])
def test_extension_headers_before_neighbour_discovery_do_not_change_the_verdict(
    machine: Host, headers: tuple[int, ...]
) -> None:
    facts = _nd(Direction.OUT, 135, 0, HERE6, ip_address("ff02::1:ff00:1"))
    serial = next(_serials)
    kind, body = packets.extended(headers, ICMPV6, packets.transport(facts, bytes(16)))
    packet = packets.ip6(facts.src, facts.dst, kind, body, serial, **fields(facts))
    assert both(machine, ERROR, facts, serial, [packet])


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("length", "kernel_passes"), [(3, True), (4, False), (7, False)])
def test_a_cut_off_question_is_malformed_to_us_and_to_the_kernel_what_can_be_read_of_it(
    machine: Host, version: int, length: int, kernel_passes: bool
) -> None:
    """The named difference `malformed`: without a port there is no DNS to block, and no question in it either."""
    facts, serial = dns(UDP, version), next(_serials)
    cut = packets.packet(facts, packets.transport(facts, b"")[:length], serial, **fields(facts))
    apply.apply(ERROR_LAN)
    assert by_kernel(machine, facts, serial, [cut]) == kernel_passes
    assert not by_native(ERROR_LAN, facts, [cut])


_LL = ip_address("fe80::1")
_ND = [
    (Direction.OUT, 133, HERE6, ip_address("ff02::2")),
    (Direction.IN, 134, _LL, HERE6),
    (Direction.IN, 137, _LL, HERE6),
    (Direction.OUT, 135, HERE6, ip_address("ff02::1:ff00:1")),
    (Direction.OUT, 135, HERE6, _LL),
    (Direction.IN, 135, _LL, HERE6),
    (Direction.OUT, 136, HERE6, _LL),
    (Direction.IN, 136, ip_address("2001:db8::1"), HERE6),
]


def _nd(direction: Direction, kind: int, code: int, src: IPAddress, dst: IPAddress) -> Facts:
    uid = 0 if direction is Direction.OUT else None
    return Facts(6, ICMPV6, src, dst, icmp_type=kind, icmp_code=code, direction=direction, uid=uid)


@pytest.mark.parametrize("code", [0, 1, 255])
@pytest.mark.parametrize(("direction", "kind", "src", "dst"), _ND)
def test_neighbour_discovery_passes_with_code_0_and_no_other(
    machine: Host, direction: Direction, kind: int, src: IPAddress, dst: IPAddress, code: int
) -> None:
    facts = _nd(direction, kind, code, src, dst)
    assert both(machine, ERROR, facts, *whole(facts)) == (code == 0)


def _around(network: object) -> list[tuple[IPAddress, bool]]:
    """(address, is it in the network) at both ends of a network."""
    first, last = int(network.network_address), int(network.broadcast_address)  # type: ignore[attr-defined]
    make = IPv4Address if network.version == 4 else IPv6Address  # type: ignore[attr-defined]
    numbers = [(first - 1, False), (first, True), (last, True), (last + 1, False)]
    return [(make(number), inside) for number, inside in numbers if 0 <= number <= int(make(make._ALL_ONES))]


def _edges() -> list[tuple[Facts, bool]]:
    """Every edge of every network of LAN-1 and LAN-2, as destination going out and as source coming in."""
    cases = []
    for network in (*LAN, *LAN_MULTICAST):
        here = HERE4 if network.version == 4 else HERE6
        there = ip_address("8.8.8.8") if network.version == 4 else ip_address("2001:db8::8")
        for address, _ in _around(network):
            out = Facts(network.version, UDP, here, address, sport=40000, dport=40001, uid=0)
            cases.append((out, any(address in n for n in (*LAN, *LAN_MULTICAST) if n.version == network.version)))
            if address.is_multicast or address == ip_address("255.255.255.255"):
                continue  # no packet comes from there: the kernel drops it before any rule
            incoming = Facts(network.version, UDP, address, there, sport=40000, dport=40001, direction=Direction.IN)
            cases.append((incoming, any(address in n for n in LAN if n.version == network.version)))
    return cases


def test_the_local_networks_end_exactly_where_they_should(machine: Host) -> None:
    """All of them under one policy, in one go."""
    machine.forget_flows()
    apply.apply(ERROR_LAN)
    cases = [(facts, expected, *whole(facts)) for facts, expected in _edges()]
    for facts, _, _, pieces in cases:
        machine.send(facts, pieces)
    seen = machine.observe()
    for facts, expected, serial, pieces in cases:
        hook = _HOOK[facts.direction]
        assert evaluate(ERROR_LAN, facts).accept == expected, facts
        assert by_native(ERROR_LAN, facts, pieces) == expected, facts
        assert serial in seen.shown[hook], f"the kernel never showed {facts}"
        assert (serial in seen.passed[hook]) == expected, facts
    assert len(cases) > 60


_SOLICITED = [
    ("ff02::1:feff:ffff", False),
    ("ff02::1:ff00:0", True),
    ("ff02::1:ffff:ffff", True),
    ("ff02::2:0:0", False),
]


@pytest.mark.parametrize(("address", "inside"), _SOLICITED)
def test_solicited_node_addresses_end_where_they_should(machine: Host, address: str, inside: bool) -> None:
    facts = _nd(Direction.OUT, 135, 0, HERE6, ip_address(address))
    assert both(machine, ERROR, facts, *whole(facts)) == inside


@pytest.mark.parametrize(
    "address", ["fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fe80::", "febf:ffff:ffff:ffff::1", "fec0::"]
)
def test_router_advertisements_come_from_link_local_addresses_alone(machine: Host, address: str) -> None:
    facts = _nd(Direction.IN, 134, 0, ip_address(address), HERE6)
    assert both(machine, ERROR, facts, *whole(facts)) == (address[:3] in ("fe8", "feb"))


@pytest.mark.parametrize(
    ("change", "passes"),
    [({}, True), ({"mark": 0}, False), ({"mark": MARK ^ 1}, False), ({"dport": 51821}, False), ({"proto": TCP}, False)],
    ids=["as it should be", "without the mark", "another mark", "another port", "another protocol"],
)  # fmt: skip
@pytest.mark.parametrize("uid", [0, 1000])
def test_the_first_hop_is_reached_with_the_mark_alone(
    machine: Host, change: dict[str, int], passes: bool, uid: int
) -> None:
    facts = Facts(4, UDP, HERE4, PEER.ip, sport=40000, dport=51820, mark=MARK, uid=uid)
    facts = replace(facts, **change)  # type: ignore[arg-type]
    assert both(machine, CONNECTED, facts, *whole(facts)) == passes


def test_the_first_hops_answer_carries_the_mark_for_the_reverse_path_filter(machine: Host) -> None:
    """With a strict filter and src_valid_mark, the answer is looked up with the tunnel's mark."""
    machine.forget_flows()
    apply.apply(CONNECTED)
    machine.ns.sh("nft", "add table inet marks; add chain inet marks input { type filter hook input priority 10; }")
    machine.ns.sh("nft", f"add rule inet marks input meta mark {MARK:#x} counter")
    question = Facts(4, UDP, HERE4, PEER.ip, sport=40000, dport=51820, mark=MARK, uid=1000)
    answer = Facts(4, UDP, PEER.ip, HERE4, sport=51820, dport=40000, direction=Direction.IN, iface_in=Interface.OTHER)
    machine.send(answer, whole(answer)[1])  # nobody asked
    assert "packets 0 " in machine.ns.sh("nft", "list table inet marks")
    machine.send(question, whole(question)[1])
    machine.send(answer, whole(answer)[1])
    assert "packets 1 " in machine.ns.sh("nft", "list table inet marks")
    machine.ns.sh("nft", "delete table inet marks")


def test_a_packet_to_the_tunnels_address_from_the_lan_vanishes(machine: Host) -> None:
    """CVE-2019-14899; the only packet that LAN-1 lets in and the rendered rules do not."""
    tunnel_address = ip_address("10.64.0.2")
    facts = Facts(4, TCP, LAN4, tunnel_address, sport=40000, dport=443, direction=Direction.IN)
    apply.apply(CONNECTED)
    assert evaluate(CONNECTED, facts).accept
    assert not by_kernel(machine, facts, *whole(facts))
    inside = replace(facts, iface_in=Interface.TUNNEL)
    assert by_kernel(machine, inside, *whole(inside))
    elsewhere = replace(facts, dst=HERE4)
    assert by_kernel(machine, elsewhere, *whole(elsewhere))


@pytest.mark.parametrize(("src", "dst"), [("203.0.113.5", HERE4), ("2001:db8:99::5", HERE6)])
@pytest.mark.parametrize("proto", [TCP, UDP])
def test_a_blocked_incoming_packet_gets_no_answer(machine: Host, proto: int, src: str, dst: IPAddress) -> None:
    facts = Facts(dst.version, proto, ip_address(src), dst, sport=40000, dport=22, direction=Direction.IN)
    apply.apply(ERROR_LAN)
    machine.observe()
    machine.send(facts, whole(facts)[1])
    assert machine.observe().left[OTHER] == set()


@pytest.mark.parametrize("address", ["203.0.113.5", "2001:db8::5"])
def test_a_blocked_application_is_told_at_once(machine: Host, address: str) -> None:
    """A connection is refused, a datagram's sender learns that the port is unreachable."""
    six = ":" in address
    family, here = (socket.AF_INET6, "fd00::77/64") if six else (socket.AF_INET, "172.16.0.77/24")
    machine.ns.ip(f"addr replace {here} dev {OTHER}")
    machine.ns.ip(f"{'-6' if six else '-4'} route replace default dev {OTHER}")
    try:
        apply.apply(ERROR)
        with socket.socket(family, socket.SOCK_STREAM) as tcp:
            tcp.settimeout(5)
            with pytest.raises(ConnectionRefusedError):
                tcp.connect((address, 80))
        with socket.socket(family, socket.SOCK_DGRAM) as udp:
            udp.settimeout(5)
            udp.connect((address, 80))
            with pytest.raises((ConnectionRefusedError, PermissionError)):
                [udp.send(b"x"), udp.recv(1)]
    finally:
        machine.ns.ip(f"{'-6' if six else '-4'} route del default dev {OTHER}")
        machine.ns.ip(f"addr del {here} dev {OTHER}")


def test_a_tunnel_whose_name_ends_in_a_star_is_that_interface_alone(machine: Host) -> None:
    policy = replace(CONNECTED, tunnel=PolicyTunnel("oth*", (), ()))
    apply.apply(policy)
    facts = Facts(4, UDP, HERE4, ip_address("203.0.113.5"), sport=40000, dport=40001, uid=0)
    assert not by_kernel(machine, facts, *whole(facts))


def test_while_policies_change_no_packet_slips_between_them(machine: Host) -> None:
    """ATOM-1: a packet that neither policy lets out is sent all the while; a gap would show it on the device."""
    facts = Facts(4, UDP, HERE4, ip_address("203.0.113.5"), sport=40000, dport=40001, uid=0)
    apply.apply(ERROR)
    machine.observe()
    pieces, stop = [whole(facts)[1][0] for _ in range(500)], threading.Event()

    def keep_sending() -> None:  # while the kernel is at work, without the interpreter's lock
        for piece in itertools.cycle(pieces):
            machine.send(facts, [piece])
            if stop.is_set():
                return

    sender = threading.Thread(target=keep_sending)
    sender.start()
    try:
        for policy in (CONNECTED, ERROR, ERROR_LAN, CONNECTED) * 5:
            apply.apply(policy)
    finally:
        stop.set()
        sender.join()
    seen = machine.observe()
    assert len(seen.shown["output"]) > 100
    assert seen.passed["output"] == set()
    assert seen.left[OTHER] - {-1} == set()
