"""The rules on a host with routes like the desktop service's: everything without the mark goes into the tunnel.

    device (eth0, molehill0) ---- relay 198.51.100.7

The first hop's answers must come in although, to an unmarked look-up, its address lies behind the tunnel; ARP must not
tell the neighbours about the tunnel's address.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from engine.firewall.nftables import apply
from engine.policy import MARK, Hop, Policy, Protocol, State, Tunnel
from tests.netns.lab import Lab

pytestmark = pytest.mark.netns

RELAY, TUNNEL_ADDRESS = "198.51.100.7", "10.64.0.2"
CONNECTED = Policy(
    State.CONNECTED, peer=Hop(ip_address(RELAY), 51820, Protocol.UDP), allow_lan=True,
    tunnel=Tunnel("molehill0", (ip_address(TUNNEL_ADDRESS),), ()),
)  # fmt: skip


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        device, relay = made.namespace("device"), made.namespace("relay")
        made.wire("device", "eth0", "relay", "eth0")
        device.ip("addr add 192.168.1.5/24 dev eth0")
        relay.ip("addr add 192.168.1.1/24 dev eth0")
        relay.ip(f"addr add {RELAY}/32 dev eth0")
        device.ip("route add default via 192.168.1.1")
        device.ip("tuntap add dev molehill0 mode tun")
        device.ip("link set molehill0 up")
        device.ip(f"addr add {TUNNEL_ADDRESS}/32 dev molehill0")
        device.ip("route add default dev molehill0 table 51820")
        device.ip("rule add pref 10 table main suppress_prefixlength 0")
        device.ip(f"rule add pref 11 not fwmark {MARK:#x} lookup 51820")
        device.sh("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.eth0.rp_filter=1")
        yield made


def answered(lab: Lab) -> bool:
    """Whether the relay's answer to a marked datagram gets in."""
    with lab["relay"].entered():
        relay = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with lab["device"].entered():
        ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with relay, ours:
        relay.bind((RELAY, 51820))
        relay.settimeout(2)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        ours.settimeout(1)
        ours.sendto(b"question", (RELAY, 51820))
        _, sender = relay.recvfrom(100)
        relay.sendto(b"answer", sender)
        try:
            return ours.recv(100) == b"answer"
        except TimeoutError:
            return False


def test_the_first_hops_answers_pass_a_strict_reverse_path_filter(lab: Lab) -> None:
    with lab["device"].entered():
        assert apply.apply(CONNECTED) == []
    assert answered(lab)


def test_without_the_mark_of_the_prerouting_chain_they_would_not(lab: Lab) -> None:
    with lab["device"].entered():
        apply.apply(CONNECTED)
    lab["device"].sh("nft", "flush", "chain", "inet", "molehill", "prerouting")
    assert not answered(lab)


def test_arp_does_not_tell_the_neighbours_about_the_tunnels_address(lab: Lab) -> None:
    """The settings that go with the rules: without them Linux answers for every address it has."""

    def neighbour_learns_it() -> bool:
        lab["relay"].ip("neigh flush all")
        lab["relay"].sh("sh", "-c", f"ping -c 1 -W 1 {TUNNEL_ADDRESS} >/dev/null; true")
        return "lladdr" in lab["relay"].ip(f"neigh show {TUNNEL_ADDRESS}")

    lab["relay"].ip(f"route add {TUNNEL_ADDRESS}/32 dev eth0")
    assert neighbour_learns_it()
    with lab["device"].entered():
        apply.apply(CONNECTED)
    assert not neighbour_learns_it()
