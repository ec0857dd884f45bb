"""The WFP filter set: its shape, its arbitration, and what blocks while no service runs."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from engine.firewall import wfp
from engine.firewall.packet import Packet
from engine.firewall.wfp.constants import (
    SUBLAYER_BASELINE,
    SUBLAYER_DNS,
    Action,
    Field,
    FilterFlag,
    Layer,
)
from engine.firewall.wfp.evaluate import judge
from engine.policy import App, Direction, Interface, Platform, Policy, State
from engine.policy.nets import TCP, UDP
from tests.unit.firewall.golden import POLICIES, for_platform

WINDOWS = {name: for_platform(name, Platform.WINDOWS) for name in POLICIES}
BLOCKING = [name for name, policy in POLICIES.items() if policy.blocks]
HERE, LAN_RESOLVER = ip_address("192.168.1.5"), ip_address("192.168.1.1")
DNS_TO_LAN = Packet(Direction.OUT, Interface.OTHER, UDP, HERE, LAN_RESOLVER, 50000, 53)


@pytest.mark.parametrize("name", BLOCKING)
def test_every_layer_ends_in_a_block_of_everything_at_the_lowest_weight(name: str) -> None:
    filters = [f for f in wfp.filters(WINDOWS[name]).filters if f.sublayer == SUBLAYER_BASELINE]
    for layer in Layer:
        last = min((f for f in filters if f.layer is layer), key=lambda f: f.weight)
        assert (last.action, last.conditions, last.rule) == (Action.BLOCK, (), "P-0")


@pytest.mark.parametrize("name", BLOCKING)
def test_keys_are_unique_and_the_same_every_time(name: str) -> None:
    keys = [f.key for f in wfp.filters(WINDOWS[name]).filters]
    assert len(set(keys)) == len(keys)
    assert keys == [f.key for f in wfp.filters(WINDOWS[name]).filters]


@pytest.mark.parametrize("name", BLOCKING)
def test_the_dns_sublayer_speaks_of_outgoing_dns_alone(name: str) -> None:
    for f in wfp.filters(WINDOWS[name]).filters:
        if f.sublayer == SUBLAYER_DNS:
            assert f.layer in (Layer.CONNECT_V4, Layer.CONNECT_V6)
            assert [c.value for c in f.conditions if c.field is Field.REMOTE_PORT] == [53]
            assert {c.value for c in f.conditions if c.field is Field.PROTOCOL} <= {TCP, UDP}


@pytest.mark.parametrize("name", [name for name in BLOCKING if POLICIES[name].allow_lan])
def test_dns_stays_blocked_even_if_the_baseline_permitted_everything(name: str) -> None:
    whole = wfp.filters(WINDOWS[name])
    assert judge(whole, DNS_TO_LAN, "molehill0")[0] is Action.BLOCK
    opened = replace(
        whole,
        filters=tuple(
            replace(f, action=Action.PERMIT) if f.sublayer == SUBLAYER_BASELINE else f for f in whole.filters
        ),
    )
    assert judge(opened, DNS_TO_LAN, "molehill0")[0] is Action.BLOCK


def test_without_filters_everything_is_permitted() -> None:
    nothing = wfp.filters(Policy(State.DISCONNECTED, Platform.WINDOWS))
    assert nothing.filters == ()
    assert judge(nothing, DNS_TO_LAN, None) == (Action.PERMIT, None)


def test_the_first_hop_is_for_the_service_alone_and_the_api_for_the_report_tool_too() -> None:
    filters = wfp.filters(WINDOWS["connecting"])
    policy = WINDOWS["connecting"]
    for hop, permitted in ((policy.peer, {App.SERVICE}), (policy.api, {App.SERVICE, App.PROBLEM_REPORT})):
        assert hop is not None
        protocol = UDP if hop.protocol == "udp" else TCP
        packet = Packet(Direction.OUT, Interface.OTHER, protocol, HERE, hop.ip, 50000, hop.port)
        let_out = {app for app in App if judge(filters, replace(packet, app=app), None)[0] is Action.PERMIT}
        assert let_out == permitted


@pytest.mark.parametrize("layer", [Layer.FORWARD_V4, Layer.FORWARD_V6])
def test_nothing_is_forwarded(layer: Layer) -> None:
    there = [f for f in wfp.filters(WINDOWS["connected-lan"]).filters if f.layer is layer]
    assert [(f.action, f.conditions) for f in there] == [(Action.BLOCK, ())]


def test_blocks_are_hard() -> None:
    for f in wfp.filters(WINDOWS["connected-lan"]).filters:
        assert (f.flags == FilterFlag.CLEAR_ACTION_RIGHT) == (f.action is Action.BLOCK)


def test_without_a_service_everything_is_blocked_from_boot_on() -> None:
    persistent = wfp.persistent_filters()
    assert {(f.layer.name, f.flags) for f in persistent.filters} == {
        (layer, flag)
        for layer in ("CONNECT_V4", "CONNECT_V6", "ACCEPT_V4", "ACCEPT_V6")
        for flag in (FilterFlag.BOOTTIME, FilterFlag.PERSISTENT)
    }
    assert all(f.action is Action.BLOCK and not f.conditions for f in persistent.filters)
    assert all(provider.persistent for provider in persistent.providers)
    assert all(sublayer.persistent for sublayer in persistent.sublayers)
    loopback = replace(DNS_TO_LAN, interface=Interface.LOOPBACK)
    assert judge(persistent, loopback, None)[0] is Action.BLOCK


@pytest.mark.parametrize("platform", [p for p in Platform if p is not Platform.WINDOWS])
def test_another_platforms_policy_is_refused(platform: Platform) -> None:
    with pytest.raises(ValueError, match="Windows"):
        wfp.filters(Policy(State.ERROR, platform))
