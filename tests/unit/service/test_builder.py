"""The builder: what it accepts, what it refuses, and what it makes of it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from engine.policy import MARK, Platform, Policy, State, nets
from engine.service import PROFILES, Builder
from engine.service.builder import NOBODY, peer_for, source_for
from engine.wg.config import DeviceConfig, HostPort, PeerConfig

PEER = PeerConfig(bytes([7]) * 32, endpoint=HostPort("192.0.2.7", 51820), allowed_ips=(ip_network("0.0.0.0/0"),))
WIREGUARD = DeviceConfig(private_key=bytes([1]) * 31 + b"\x40", peers=(PEER,))


def builder(profile: str = "linux") -> Builder:
    return Builder(profile).set_wireguard(WIREGUARD).add_address("10.64.0.2/32")


def test_without_routes_everything_of_both_families_leads_into_the_tunnel() -> None:
    routes = builder().configuration().routes
    assert routes == (ip_network("0.0.0.0/0"), ip_network("::/0"))


def test_named_routes_are_the_only_ones() -> None:
    assert builder().add_route("10.0.0.0/8").configuration().routes == (ip_network("10.0.0.0/8"),)


def test_the_engines_own_sockets_always_carry_the_mark() -> None:
    assert builder().configuration().wireguard.fwmark == MARK


def test_in_blocking_states_the_resolver_is_nobody_so_that_no_lookup_falls_out() -> None:
    done = builder("android").add_gateway("10.64.0.1").configuration()
    assert done.resolvers(State.CONNECTED) == (ip_address("10.64.0.1"),)
    for state in (State.CONNECTING, State.DISCONNECTING, State.ERROR):
        assert done.resolvers(state) == (NOBODY,)
    assert done.resolvers(State.DISCONNECTED) == ()
    assert replace(done, always_require_vpn=True).resolvers(State.DISCONNECTED) == (NOBODY,)


def test_custom_servers_come_before_the_gateway() -> None:
    done = builder().add_gateway("10.64.0.1").add_dns_server("9.9.9.9").configuration()
    assert done.resolvers(State.CONNECTED) == (ip_address("9.9.9.9"),)


def test_the_lan_goes_past_the_tunnel_only_while_it_is_allowed() -> None:
    done = builder().configuration()
    for allowed in (False, True):
        capture = done.capture(Policy(State.CONNECTING, allow_lan=allowed))
        assert capture.lan == ((*nets.LAN, *nets.LAN_MULTICAST) if allowed else ())


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_says_what_it_cannot_block(name: str) -> None:
    assert PROFILES[name].cannot_block
    settings = builder(name).configuration().settings()
    assert settings.platform is PROFILES[name].platform
    assert settings.ios_blocking is (name == "ios-blocking")
    assert settings.ios_blocking <= (settings.platform is Platform.IOS)


def test_a_target_is_pinged_by_the_peer_and_from_the_address_of_its_family() -> None:
    other = PeerConfig(bytes([8]) * 32, allowed_ips=(ip_network("10.9.0.0/16"),))
    done = builder().add_address("fd00::2/128").set_wireguard(replace(WIREGUARD, peers=(PEER, other))).configuration()
    assert peer_for(done, ip_address("10.9.1.1")) is other or peer_for(done, ip_address("10.9.1.1")) == other
    assert peer_for(done, ip_address("10.64.0.1")) == PEER
    assert peer_for(done, ip_address("fd00::1")) == PEER, "no allowed address: the VPN server"
    assert source_for(done, ip_address("fd00::1")) == ip_address("fd00::2")
    assert source_for(builder().configuration(), ip_address("fd00::1")) is None


def test_what_cannot_be_is_refused_in_one_sentence() -> None:
    named = replace(WIREGUARD, peers=(replace(PEER, endpoint=HostPort("relay.example", 1)),))
    unreachable = replace(WIREGUARD, peers=(replace(PEER, endpoint=None),))
    keyless = replace(WIREGUARD, private_key=None)
    for wrong, words in (
        (lambda: Builder("windows"), "there is no profile 'windows'"),
        (lambda: builder().set_mtu(1279), "1280 to 65535"),
        (lambda: builder().set_interface("much-too-long-a-name"), "15 bytes"),
        (lambda: builder().add_address("10.0.0.300"), "10.0.0.300"),
        (lambda: builder().add_route("10.0.0.1/8"), "has host bits set"),
        (lambda: builder().set_wireguard(named), "look the name up first"),
        (lambda: builder().set_wireguard(keyless), "PrivateKey is missing"),
        (lambda: builder().set_wireguard(unreachable).configuration(), "no peer has an Endpoint"),
        (lambda: Builder().set_wireguard(WIREGUARD).configuration(), "needs an address"),
        (lambda: builder().add_allowed_application(-1), "is no user id"),
        (
            lambda: builder().add_allowed_application(1).add_disallowed_application(2).configuration(),
            "not both",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()
