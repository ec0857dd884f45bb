"""From settings, tunnels and relays to what a session is made of."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from engine.daemon import relays as relay_list
from engine.daemon.plan import Known, host_names, plan
from engine.daemon.tunnels import Tunnels
from engine.management.schema import Bridge, BridgeKind, RelayBridge, RelayChoice, RelayList, Settings, TunnelChoice
from engine.policy import Hop, Protocol
from engine.service import Configuration
from engine.state import CauseKind
from engine.wg.conf import parse_conf
from tests.unit.daemon.test_relays import relay
from tests.unit.daemon.test_tunnels import CONF

BASE = Configuration(interface="molehill0", firewall=True)
BY_ADDRESS = CONF.replace("vpn.example", "198.51.100.10")


@pytest.fixture
def known(tmp_path: Path) -> Known:
    tunnels = Tunnels(tmp_path)
    tunnels.add("se1", BY_ADDRESS)
    tunnels.add("named", CONF)
    tunnels.add("me", CONF.partition("[Peer]")[0])
    return Known(Settings(), tunnels, RelayList(), {}, bytes(16))


def planned(known: Known, **settings: Any) -> tuple[Configuration, ...]:
    return plan(replace(known, settings=Settings(**settings)), BASE)


def test_a_tunnels_file_becomes_a_configuration(known: Known) -> None:
    (made,) = planned(known, choice=TunnelChoice("se1"), allow_lan=True, dns=("9.9.9.9",), api="203.0.113.7:443/tcp")
    assert made.peer is not None
    assert str(made.peer.endpoint) == "198.51.100.10:51820"
    assert (made.session, made.interface, made.firewall, made.allow_lan) == ("se1", "molehill0", True, True)
    assert made.gateways == (ip_address("10.64.0.1"),)
    assert made.dns == (ip_address("9.9.9.9"),)
    assert made.api == Hop(ip_address("203.0.113.7"), 443, Protocol.TCP)
    assert made.mtu is None


def test_the_settings_mtu_comes_before_the_files(known: Known) -> None:
    known.tunnels.add("small", BY_ADDRESS.replace("DNS =", "MTU = 1300\nDNS ="))
    assert [made.mtu for made in planned(known, choice=TunnelChoice("small"))] == [1300]
    assert [made.mtu for made in planned(known, choice=TunnelChoice("small"), mtu=1400)] == [1400]


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({}, CauseKind.NO_PEER, "no tunnel is chosen: molehill tunnel choose NAME"),
        ({"choice": TunnelChoice("gone")}, CauseKind.NO_PEER, "there is no tunnel gone"),
        ({"choice": TunnelChoice("me")}, CauseKind.START_TUNNEL, "no .Peer. has an Endpoint"),
        ({"choice": TunnelChoice("named")}, CauseKind.RESOLVE_ENDPOINT, "vpn.example was never found"),
        ({"choice": RelayChoice("me", country="xx")}, CauseKind.NO_RELAY, "xx, among 0"),
        ({"choice": RelayChoice("gone")}, CauseKind.NO_PEER, "there is no tunnel gone"),
    ],
)
def test_what_cannot_be_is_a_configuration_without_a_peer_that_says_why(
    known: Known, settings: dict[str, Any], kind: CauseKind, words: str
) -> None:
    (made,) = planned(known, allow_lan=True, always_require_vpn=True, **settings)
    assert made.peer is None
    assert made.no_peer.kind is kind
    assert re.search(words, str(made.no_peer))
    assert (made.allow_lan, made.always_require_vpn) == (True, True)  # it blocks as the user wants


def test_a_file_that_was_broken_since_is_said_so(known: Known, tmp_path: Path) -> None:
    (tmp_path / "tunnels" / "se1.conf").write_text("rubbish")
    (made,) = planned(known, choice=TunnelChoice("se1"))
    assert "se1 cannot be understood: line 1" in str(made.no_peer)


def test_a_bridge_is_the_first_hop_and_its_password_is_never_shown(known: Known) -> None:
    bridge = Bridge(BridgeKind.SHADOWSOCKS, "203.0.113.9:443", "aes-256-gcm")
    known = replace(known, password="open sesame")
    (made,) = planned(known, choice=TunnelChoice("se1"), bridge=bridge)
    assert made.bridge is not None
    assert (str(made.bridge), made.bridge.password) == ("shadowsocks 203.0.113.9:443", "open sesame")
    assert "sesame" not in repr(made) + repr(known)
    (made,) = planned(replace(known, password=""), choice=TunnelChoice("se1"), bridge=bridge)
    assert made.peer is None  # never to the server directly
    assert "needs a password" in str(made.no_peer)


def test_auto_goes_directly_twice_and_then_by_the_relays_own_bridges_in_turn(known: Known) -> None:
    offers = (RelayBridge(BridgeKind.UDP_OVER_TCP, 443), RelayBridge(BridgeKind.SHADOWSOCKS, 8388, "aes-256-gcm"))
    relays = RelayList(
        relays=tuple(
            relay(f"se-{n}", ipv4=f"198.51.100.{n}", ipv6=f"2001:db8::{n}", bridges=offers if n < 3 else ())
            for n in range(1, 5)
        )
    )
    known = replace(known, relays=relays)
    made = planned(known, choice=RelayChoice("me"), bridge=Bridge(BridgeKind.AUTO))
    assert [each.bridge is not None for each in made] == [False, False, True, False, True, False]
    assert all(made[0].same_but_for_the_relay(each) for each in made)
    for each in made:
        if each.bridge is not None:  # its own relay's, and CON-1 names that alone
            assert str(each.bridge) == f"udp-over-tcp 198.51.100.{each.session[-1]}:443"
            assert str(each.candidate().bridge) == f"198.51.100.{each.session[-1]}:443/tcp"
    six = planned(known, choice=RelayChoice("me", ip_version=6), bridge=Bridge(BridgeKind.AUTO))
    assert {str(each.bridge) for each in six} >= {"udp-over-tcp [2001:db8::1]:443"}
    (by_file,) = planned(known, choice=TunnelChoice("se1"), bridge=Bridge(BridgeKind.AUTO))
    assert by_file.bridge is None
    assert by_file.peer is not None


def test_many_relays_with_bridges_are_no_more_attempts_than_without(known: Known) -> None:
    offers = (RelayBridge(BridgeKind.UDP_OVER_TCP, 443),)
    relays = RelayList(relays=tuple(relay(f"r-{n}", ipv4=f"198.51.100.{n}", bridges=offers) for n in range(1, 30)))
    made = planned(replace(known, relays=relays), choice=RelayChoice("me"), bridge=Bridge(BridgeKind.AUTO))
    assert (len(made), sum(each.bridge is not None for each in made)) == (16, 7)


def test_a_host_name_has_the_address_that_is_known(known: Known) -> None:
    known = replace(known, settings=Settings(choice=TunnelChoice("named")))
    assert host_names(known) == {"vpn.example"}
    (made,) = plan(replace(known, addresses={"vpn.example": ip_address("2001:db8::5")}), BASE)
    assert made.peer is not None
    assert str(made.peer.endpoint) == "[2001:db8::5]:51820"


def test_relays_become_alternatives_that_differ_in_the_relay_only(known: Known) -> None:
    relays = RelayList(
        relays=(
            relay("se-1", ipv4="198.51.100.1", ipv6="2001:db8::1", gateways=("10.8.0.1",)),
            relay("se-2", ipv4="198.51.100.2", ipv6="2001:db8::2", port=1234),
            relay("se-3", ipv4="198.51.100.3"),
        )
    )
    known = replace(known, relays=relays)
    made = planned(known, choice=RelayChoice("me"))
    assert {each.session for each in made} == {"se-1", "se-2", "se-3"}
    assert all(made[0].same_but_for_the_relay(each) for each in made)
    assert {each.wireguard.private_key for each in made} == {known.tunnels.load("me").device.private_key}
    by_name = {each.session: each for each in planned(known, choice=RelayChoice("me", ip_version=6))}
    assert set(by_name) == {"se-1", "se-2"}
    assert by_name["se-2"].peer is not None
    assert str(by_name["se-2"].peer.endpoint) == "[2001:db8::2]:1234"
    assert by_name["se-1"].gateways == (ip_address("10.8.0.1"),)
    assert by_name["se-2"].gateways == (ip_address("10.64.0.1"),)  # the relay names none: the identity's


def test_a_relay_with_our_own_key_is_passed_over(known: Known) -> None:
    own = base64.b64encode(parse_conf(CONF).device.public_key or b"").decode()
    listed = RelayList(relays=(relay("se-1", public_key=own), relay("se-2")))
    made = plan(replace(known, settings=Settings(choice=RelayChoice(identity="me")), relays=listed), BASE)
    assert [each.session for each in made] == ["se-2"]


def test_a_fault_of_ours_is_a_configuration_without_a_peer_that_blocks_as_the_user_wants(
    known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OverflowError("int too large to convert to float")

    monkeypatch.setattr(relay_list, "choose", broken)
    (made,) = planned(known, choice=RelayChoice("me"), allow_lan=True, always_require_vpn=True)
    assert made.peer is None
    assert (made.no_peer.kind, made.no_peer.detail) == (CauseKind.INTERNAL, "a fault of molehill's, OverflowError")
    assert (made.allow_lan, made.always_require_vpn) == (True, True)
