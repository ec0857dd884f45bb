"""A policy that makes no sense cannot be constructed, and says in one sentence why."""

import re
from dataclasses import FrozenInstanceError, replace
from ipaddress import ip_address

import pytest

from engine.policy import Hop, Platform, Policy, Protocol, State, Tunnel
from tests.judging import BRIDGE, CONNECTED, CONNECTING, DISCONNECTED, ERROR, LOCKED, RELAY, TUNNEL, policy

V4 = ip_address("192.0.2.1")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Hop(V4, 0, Protocol.UDP), "port must be 1 to 65535, not 0"),
        (lambda: Hop(V4, 65536, Protocol.UDP), "port must be 1 to 65535"),
        (lambda: Hop(V4, 443, "sctp"), "protocol must be udp or tcp, not 'sctp'"),
        (lambda: Hop("192.0.2.1", 443, Protocol.UDP), "must be an IPv4Address or IPv6Address"),
        (lambda: Hop(ip_address("0.0.0.0"), 443, Protocol.UDP), "must name one host, not 0.0.0.0"),
        (lambda: Hop(ip_address("ff02::1"), 443, Protocol.UDP), "must name one host"),
        (lambda: Hop(ip_address("::ffff:192.0.2.1"), 443, Protocol.UDP), "must be written as IPv4: 192.0.2.1"),
        (lambda: Tunnel("", (V4,), ()), "name must be 1 to 15 bytes"),
        (lambda: Tunnel("sixteen-bytes-xx", (V4,), ()), "name must be 1 to 15 bytes"),
        (lambda: Tunnel("a b", (V4,), ()), "name must be 1 to 15 bytes"),
        (lambda: Tunnel("a/b", (V4,), ()), "name must be 1 to 15 bytes"),
        (lambda: Tunnel("..", (V4,), ()), "cannot be named '..'"),
        (lambda: Tunnel("wg0", [V4], ()), "addresses must be a tuple, not list"),
        (lambda: Tunnel("wg0", (V4,), ("10.64.0.1",)), "gateways must be an IPv4Address"),
        (lambda: Policy("connected"), "state must be a State, not 'connected'"),
        (lambda: Policy(State.ERROR, platform="linux"), "platform must be a Platform"),
        (lambda: Policy(State.ERROR, allow_lan=1), "allow_lan must be true or false, not 1"),
        (lambda: Policy(State.ERROR, peer="198.51.100.7:1"), "peer must be a Hop or None"),
        (lambda: Policy(State.ERROR, tunnel="wg0"), "tunnel must be a Tunnel or None"),
        (lambda: Policy(State.ERROR, dns=(ip_address("::"),)), "custom DNS servers must name one host"),
        (lambda: Policy(State.CONNECTED), "Connected needs a tunnel"),
        (lambda: Policy(State.DISCONNECTING, kept=State.CONNECTED), "Connected needs a tunnel"),
        (lambda: Policy(State.DISCONNECTING), "kept must be connecting, connected or error, not None"),
        (lambda: Policy(State.DISCONNECTING, kept=State.DISCONNECTED), "kept must be connecting"),
        (lambda: Policy(State.ERROR, kept=State.ERROR), "kept belongs to Disconnecting alone, not to error"),
        (lambda: Policy(State.ERROR, ios_blocking=True), "ios_blocking belongs to iOS alone, not to linux"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(make, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_policy_is_a_value() -> None:
    assert policy(State.ERROR) == ERROR
    assert len({policy(State.ERROR), ERROR, CONNECTED}) == 2
    with pytest.raises(FrozenInstanceError):
        ERROR.state = State.DISCONNECTED


def test_the_enforced_state_resolves_disconnecting_and_always_require_vpn() -> None:
    assert policy(State.DISCONNECTING, kept=State.CONNECTED).enforced is State.CONNECTED
    assert LOCKED.enforced is State.ERROR
    assert not DISCONNECTED.blocks
    assert all(state.blocks for state in (LOCKED, ERROR, CONNECTED, CONNECTING))


def test_the_first_hop_is_the_bridge_if_one_is_used() -> None:
    assert CONNECTING.first_hop is RELAY
    assert replace(CONNECTING, bridge=BRIDGE).first_hop is BRIDGE
    assert replace(CONNECTING, peer=None).first_hop is None


def test_describe_says_in_one_line_what_is_in_force() -> None:
    assert DISCONNECTED.describe() == "disconnected on linux: nothing is enforced"
    assert CONNECTED.describe() == (
        "connected on linux, peer 198.51.100.7:51820/udp, tunnel wg0, DNS 10.64.0.1, fc00:bbbb::1, LAN blocked"
    )
    assert LOCKED.describe() == (
        "disconnected on linux, VPN always required, so blocking, API 192.0.2.80:443/tcp, DNS blocked, LAN blocked"
    )
    assert "keeping connected's rules" in policy(State.DISCONNECTING, kept=State.CONNECTED).describe()
    assert "bridge 203.0.113.9:443/tcp" in replace(CONNECTING, bridge=BRIDGE).describe()
    assert "DNS blocked" in replace(CONNECTED, tunnel=replace(TUNNEL, gateways=())).describe()
    assert "does NOT block" in replace(ERROR, platform=Platform.IOS).describe()
    assert str(Hop(ip_address("2001:db8::1"), 1, Protocol.TCP)) == "[2001:db8::1]:1/tcp"
