"""What the policy permits by state: the API, the first hop, the tunnel, DNS, a phone's tunnel; see also test_rules."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from engine.policy import MARK, P0, Direction, Hop, Interface, Platform, Policy, Protocol, State, nets, rules_for
from native.facts import App
from tests.judging import (
    API,
    BLOCKING,
    BRIDGE,
    CONNECTED,
    CONNECTING,
    DISCONNECTED,
    ERROR,
    GATEWAY,
    GATEWAY6,
    HERE,
    HERE6,
    ICMP,
    LO,
    LOCKED,
    OTHER,
    RELAY,
    RELAY6,
    TCP,
    THERE,
    THERE6,
    TUN,
    TUNNEL,
    UDP,
    forward,
    into,
    out,
    policy,
    says,
)

everywhere = pytest.mark.parametrize("state", BLOCKING, ids=lambda p: str(p.state))

# ---- API ----

to_api = out(TCP, HERE, str(API.ip), 4000, 443, uid=0)
from_api = into(TCP, str(API.ip), HERE, 443, 4000, reply=True)


@pytest.mark.parametrize("platform", [Platform.LINUX, Platform.MACOS])
@pytest.mark.parametrize("state", [CONNECTING, ERROR, LOCKED], ids=lambda p: str(p.state))
def test_api1_is_reachable_for_root_with_replies_outside_connected(state: Policy, platform: Platform) -> None:
    state = replace(state, platform=platform)
    assert says(state, to_api) == "accept API-1"
    assert says(state, from_api) == "accept API-1"
    assert says(state, replace(to_api, uid=1000)) == "reject P-0"
    assert says(state, replace(to_api, uid=None)) == "reject P-0"
    assert says(state, replace(to_api, dport=80)) == "reject P-0"
    assert says(state, replace(to_api, proto=UDP)) == "reject P-0"
    assert says(state, replace(from_api, reply=False)) == "drop P-0"


def test_api1_on_windows_is_for_the_service_and_the_problem_report_tool() -> None:
    state = replace(ERROR, platform=Platform.WINDOWS)
    assert says(state, replace(to_api, app=App.SERVICE)) == "accept API-1"
    assert says(state, replace(to_api, app=App.PROBLEM_REPORT)) == "accept API-1"
    assert says(state, to_api) == "reject P-0"


def test_api2_connected_reaches_the_api_inside_the_tunnel_alone() -> None:
    assert says(CONNECTED, to_api) == "reject P-0"
    assert says(CONNECTED, from_api) == "drop P-0"
    assert says(CONNECTED, replace(to_api, iface_out=TUN)) == "accept CTD-1"


# ---- Disconnected ----


@pytest.mark.parametrize("platform", list(Platform))
def test_dis1_disconnected_enforces_nothing(platform: Platform) -> None:
    state = replace(DISCONNECTED, platform=platform)
    assert says(state, out(TCP, HERE, THERE, 4000, 443)) == "accept DIS-1"
    assert says(state, into(TCP, THERE, HERE, 443, 4000)) == "accept DIS-1"
    assert says(state, out(UDP, HERE, "8.8.8.8", 4000, 53)) == "accept DIS-1"
    assert says(state, forward(OTHER, OTHER, 47, HERE, THERE)) == "accept DIS-1"
    assert says(state, out(UDP, HERE, "8.8.8.8", 4000, 53, via=TUN)) == "accept DIS-1"


@pytest.mark.parametrize("platform", list(Platform))
def test_dis2_always_require_vpn_is_exactly_errors_policy(platform: Platform) -> None:
    for allow_lan in (False, True):
        locked = replace(LOCKED, platform=platform, allow_lan=allow_lan)
        assert rules_for(locked) == rules_for(replace(ERROR, platform=platform, allow_lan=allow_lan))
    assert says(LOCKED, out(TCP, HERE, THERE, 4000, 443)) == "reject P-0"


# ---- Connecting ----

to_relay = out(UDP, HERE, str(RELAY.ip), 51820, 51820, mark=MARK)
from_relay = into(UDP, str(RELAY.ip), HERE, 51820, 51820, reply=True)


@pytest.mark.parametrize(("state", "id"), [(CONNECTING, "CON-1"), (CONNECTED, "CTD-3")])
def test_con1_ctd3_the_first_hop_is_reachable_on_every_interface_with_replies(state: Policy, id: str) -> None:
    assert says(state, to_relay) == f"accept {id}"
    assert says(state, replace(to_relay, iface_out=TUN)) == f"accept {id}"
    assert says(state, from_relay) == f"accept {id}"
    assert says(state, replace(from_relay, reply=False)) == "drop P-0"
    six = replace(state, peer=RELAY6)
    assert says(six, out(UDP, HERE6, str(RELAY6.ip), 1, 51820, mark=MARK)) == f"accept {id}"
    assert says(six, to_relay) == "reject P-0"


@pytest.mark.parametrize("state", [CONNECTING, CONNECTED], ids=lambda p: str(p.state))
def test_con2_without_the_mark_or_with_another_port_or_protocol_it_is_blocked(state: Policy) -> None:
    assert says(state, replace(to_relay, mark=0)) == "reject CON-2"
    assert says(state, replace(to_relay, mark=0, uid=0)) == "reject CON-2"
    assert says(state, replace(to_relay, mark=MARK + 1)) == "reject CON-2"
    assert says(state, replace(to_relay, dport=51821)) == "reject P-0"
    assert says(state, replace(to_relay, proto=TCP)) == "reject P-0"


def test_con2_a_relay_in_the_local_network_is_not_opened_to_everybody_by_lan() -> None:
    near = policy(State.CONNECTING, allow_lan=True, peer=Hop(ip_address("192.168.1.9"), 51820, Protocol.UDP))
    packet = out(UDP, HERE, "192.168.1.9", 4000, 51820)
    assert says(near, packet) == "reject CON-2"
    assert says(near, replace(packet, mark=MARK)) == "accept CON-1"
    assert says(near, replace(packet, dport=80)) == "accept LAN-1"


def test_con2_on_macos_the_first_hop_is_for_root() -> None:
    state = replace(CONNECTING, platform=Platform.MACOS)
    assert says(state, replace(to_relay, mark=0, uid=0)) == "accept CON-1"
    assert says(state, replace(to_relay, uid=1000)) == "reject CON-2"


def test_con2_on_windows_the_first_hop_is_for_the_service() -> None:
    state = replace(CONNECTING, platform=Platform.WINDOWS)
    assert says(state, replace(to_relay, mark=0, app=App.SERVICE)) == "accept CON-1"
    assert says(state, replace(to_relay, app=App.PROBLEM_REPORT)) == "reject CON-2"
    assert says(state, to_relay) == "reject CON-2"


@pytest.mark.parametrize(("state", "id"), [(CONNECTING, "CON-1"), (CONNECTED, "CTD-3")])
def test_con1_with_a_bridge_nothing_goes_to_the_server_directly(state: Policy, id: str) -> None:
    bridged = replace(state, bridge=BRIDGE, allow_lan=True)
    assert says(bridged, out(TCP, HERE, str(BRIDGE.ip), 4000, 443, mark=MARK)) == f"accept {id}"
    assert says(bridged, into(TCP, str(BRIDGE.ip), HERE, 443, 4000, reply=True)) == f"accept {id}"
    assert says(bridged, to_relay) == "reject CON-1"
    assert says(bridged, replace(to_relay, proto=TCP, dport=443)) == "reject CON-1"
    assert says(bridged, from_relay) == "drop CON-1"
    near = replace(bridged, peer=Hop(ip_address("192.168.1.9"), 51820, Protocol.UDP))
    assert says(near, out(TCP, HERE, "192.168.1.9", 4000, 80)) == "reject CON-1"


def test_con1_a_relay_on_port_53_is_no_dns() -> None:
    on53 = policy(State.CONNECTING, peer=replace(RELAY, port=53))
    assert says(on53, replace(to_relay, dport=53)) == "accept CON-1"
    assert says(on53, replace(to_relay, dport=53, mark=0)) == "reject CON-2"


def test_con3_traffic_inside_the_tunnel_passes_as_soon_as_the_tunnel_exists() -> None:
    inside = out(TCP, "10.64.0.2", THERE, 4000, 443, via=TUN)
    assert says(CONNECTING, inside) == "accept CON-3"
    assert says(CONNECTING, into(TCP, THERE, "10.64.0.2", 443, 4000, via=TUN)) == "accept CON-3"
    assert says(replace(CONNECTING, tunnel=None), inside) == "reject P-0"
    assert says(CONNECTING, replace(inside, dport=53)) == "reject DNS-3"


# ---- Connected ----


def test_ctd1_everything_passes_inside_the_tunnel_and_nothing_beside_it() -> None:
    for proto in (TCP, UDP):
        assert says(CONNECTED, out(proto, "10.64.0.2", THERE, 4000, 443, via=TUN)) == "accept CTD-1"
        assert says(CONNECTED, into(proto, THERE6, "fc00:bbbb::2", 443, 4000, via=TUN)) == "accept CTD-1"
        assert says(CONNECTED, out(proto, "10.64.0.2", THERE, 4000, 443)) == "reject P-0"
    assert says(CONNECTED, out(ICMP, "10.64.0.2", THERE, icmp=(8, 0), via=TUN)) == "accept CTD-1"
    assert says(CONNECTED, into(ICMP, THERE, "10.64.0.2", icmp=(0, 0), via=TUN)) == "accept CTD-1"
    assert says(CONNECTED, out(132, "10.64.0.2", THERE, via=TUN)) == "accept CTD-1"


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_ctd2_dns_inside_the_tunnel_is_for_the_gateway_alone(protocol: int) -> None:
    assert says(CONNECTED, out(protocol, "10.64.0.2", GATEWAY, 4000, 53, via=TUN)) == "accept DNS-1"
    assert says(CONNECTED, out(protocol, "fc00:bbbb::2", GATEWAY6, 4000, 53, via=TUN)) == "accept DNS-1"
    assert says(CONNECTED, out(protocol, "10.64.0.2", "8.8.8.8", 4000, 53, via=TUN)) == "reject CTD-2"
    assert says(CONNECTED, out(protocol, "fc00:bbbb::2", THERE6, 4000, 53, via=TUN)) == "reject CTD-2"


def test_ctd2_a_source_port_53_is_no_dns_request() -> None:
    assert says(CONNECTED, out(UDP, "10.64.0.2", THERE, 53, 4000, via=TUN)) == "accept CTD-1"


# ---- Disconnecting ----


@pytest.mark.parametrize("kept", [CONNECTING, CONNECTED, ERROR], ids=lambda p: str(p.state))
@pytest.mark.parametrize("platform", [Platform.LINUX, Platform.MACOS, Platform.WINDOWS, Platform.IOS])
def test_dsc1_disconnecting_keeps_the_rules_that_were_active(kept: Policy, platform: Platform) -> None:
    before = replace(kept, platform=platform)
    assert rules_for(replace(before, state=State.DISCONNECTING, kept=kept.state)) == rules_for(before)


def test_dsc1_disconnecting_neither_opens_nor_closes_what_connected_did() -> None:
    closing = policy(State.DISCONNECTING, kept=State.CONNECTED)
    assert says(closing, out(TCP, "10.64.0.2", THERE, 4000, 443, via=TUN)) == "accept CTD-1"
    assert says(closing, out(TCP, HERE, THERE, 4000, 443)) == "reject P-0"


# ---- Error ----


def test_err1_error_blocks_the_tunnel_and_the_first_hop_as_well() -> None:
    assert says(ERROR, out(TCP, "10.64.0.2", THERE, 4000, 443, via=TUN)) == "reject P-0"
    assert says(ERROR, to_relay) == "reject P-0"
    assert says(ERROR, from_relay) == "drop P-0"
    assert says(ERROR, to_api) == "accept API-1"
    assert says(ERROR, out(UDP, "0.0.0.0", "255.255.255.255", 68, 67)) == "accept DHCP4-1"


# ---- DNS ----


def _custom(*servers: str) -> Policy:
    return replace(CONNECTED, dns=tuple(ip_address(server) for server in servers))


def test_dns1_connected_asks_the_gateway_and_only_inside_the_tunnel() -> None:
    assert says(CONNECTED, out(UDP, "10.64.0.2", GATEWAY, 4000, 53, via=TUN)) == "accept DNS-1"
    assert says(CONNECTED, out(UDP, HERE, GATEWAY, 4000, 53)) == "reject CTD-2"
    silent = replace(CONNECTED, tunnel=replace(TUNNEL, gateways=()))
    assert says(silent, out(UDP, "10.64.0.2", GATEWAY, 4000, 53, via=TUN)) == "reject CTD-2"


def test_dns2_a_public_custom_server_is_asked_inside_the_tunnel_and_then_only_it() -> None:
    custom = _custom("9.9.9.9", "2620:fe::fe")
    assert says(custom, out(UDP, "10.64.0.2", "9.9.9.9", 4000, 53, via=TUN)) == "accept DNS-2"
    assert says(custom, out(TCP, "fc00:bbbb::2", "2620:fe::fe", 4000, 53, via=TUN)) == "accept DNS-2"
    assert says(custom, out(UDP, HERE, "9.9.9.9", 4000, 53)) == "reject CTD-2"
    assert says(custom, out(UDP, "10.64.0.2", GATEWAY, 4000, 53, via=TUN)) == "reject CTD-2"


@pytest.mark.parametrize("server", ["192.168.1.53", "10.1.1.1", "172.16.0.1", "169.254.0.1"])
def test_dns2_a_private_custom_server_is_asked_outside_the_tunnel(server: str) -> None:
    custom = _custom(server)
    assert says(custom, out(UDP, HERE, server, 4000, 53)) == "accept DNS-2"
    assert says(custom, into(UDP, server, HERE, 53, 4000, reply=True)) == "accept DNS-2"
    assert says(custom, into(UDP, server, HERE, 53, 4000)) == "drop P-0"
    assert says(custom, out(UDP, "10.64.0.2", server, 4000, 53, via=TUN)) == "reject CTD-2"
    assert says(custom, out(UDP, HERE, server, 4000, 80)) == "reject P-0"


def test_dns2_a_loopback_custom_server_is_reached_over_loopback() -> None:
    custom = _custom("127.0.0.53", "::1")
    assert says(custom, out(UDP, "127.0.0.1", "127.0.0.53", 4000, 53, via=LO)) == "accept LO-1"
    assert says(custom, out(UDP, "::1", "::1", 4000, 53, via=LO)) == "accept LO-1"
    assert says(custom, out(UDP, "10.64.0.2", GATEWAY, 4000, 53, via=TUN)) == "reject CTD-2"


@pytest.mark.parametrize(
    "state",
    [CONNECTING, ERROR, LOCKED, policy(State.DISCONNECTING, kept=State.CONNECTING)],
    ids=lambda p: str(p.state),
)
def test_dns3_dns_is_blocked_in_the_other_states_custom_servers_included(state: Policy) -> None:
    state = replace(state, allow_lan=True, dns=(ip_address("192.168.1.53"), ip_address("9.9.9.9")))
    for server in ("192.168.1.53", "9.9.9.9", GATEWAY, "8.8.8.8"):
        for via in (TUN, OTHER):
            assert says(state, out(UDP, HERE, server, 4000, 53, via=via)) == "reject DNS-3"
            assert says(state, out(TCP, HERE, server, 4000, 53, via=via)) == "reject DNS-3"
    assert says(state, out(UDP, HERE, "192.168.1.53", 4000, 5353)) == "accept LAN-1"


def test_dns4_disconnected_leaves_dns_alone() -> None:
    assert says(DISCONNECTED, out(UDP, HERE, "8.8.8.8", 4000, 53)) == "accept DIS-1"
    assert says(LOCKED, out(UDP, HERE, "8.8.8.8", 4000, 53)) == "reject DNS-3"


# ---- KS-1 ----


@everywhere
def test_ks1_outside_the_tunnel_only_named_exceptions_go_anywhere_public(state: Policy) -> None:
    """Every accepting outgoing rule names its destination, its service or its interface."""
    for rule in rules_for(state):
        if rule.accept and Direction.OUT in rule.directions:
            inside = rule.interfaces and Interface.OTHER not in rule.interfaces
            assert inside or rule.destinations
    assert rules_for(replace(state, allow_lan=True))[-1] is P0


# ---- mobile ----

ANDROID_BLOCKING = [
    policy(State.CONNECTING, platform=Platform.ANDROID),
    policy(State.ERROR, platform=Platform.ANDROID),
    policy(State.DISCONNECTED, platform=Platform.ANDROID, always_require_vpn=True),
    policy(State.DISCONNECTING, platform=Platform.ANDROID, kept=State.CONNECTED),
]


@pytest.mark.parametrize("state", ANDROID_BLOCKING, ids=lambda p: str(p.state))
def test_mob2_android_drops_all_outgoing_and_delivers_incoming_in_blocking_states(state: Policy) -> None:
    for allow_lan in (False, True):
        state = replace(state, allow_lan=allow_lan)
        assert says(state, out(TCP, "10.64.0.2", THERE, 4000, 443, via=TUN)) == "drop MOB-2"
        assert says(state, out(UDP, "0.0.0.0", "255.255.255.255", 68, 67, via=TUN)) == "drop MOB-2"
        assert says(state, out(TCP, "10.64.0.2", "192.168.1.1", 4000, 80, via=TUN)) == "drop MOB-2"
        assert says(state, replace(to_api, iface_out=TUN)) == "drop MOB-2"
        assert says(state, into(TCP, THERE, "10.64.0.2", 443, 4000, via=TUN)) == "accept MOB-2"


def test_mob2_android_connected_is_connected() -> None:
    state = replace(CONNECTED, platform=Platform.ANDROID)
    assert says(state, out(TCP, "10.64.0.2", THERE, 4000, 443, via=TUN)) == "accept CTD-1"
    assert says(state, out(UDP, "10.64.0.2", "8.8.8.8", 4000, 53, via=TUN)) == "reject CTD-2"


@pytest.mark.parametrize("platform", [Platform.ANDROID, Platform.IOS])
def test_mob1_no_packet_in_a_phones_tunnel_may_pass_as_the_services_own(platform: Platform) -> None:
    on53 = replace(CONNECTED, platform=platform, peer=replace(RELAY, port=53))
    for sender in ({"mark": MARK}, {"uid": 0}, {"app": App.SERVICE}):
        assert says(on53, replace(to_relay, dport=53, iface_out=TUN, **sender)) == "reject CTD-2"


def test_mob4_ios_does_not_block_in_error_as_documented_and_does_in_our_variant() -> None:
    for state in (ERROR, LOCKED):
        documented = replace(state, platform=Platform.IOS)
        blocking = replace(documented, ios_blocking=True)
        for packet in (
            out(TCP, "10.64.0.2", THERE, 4000, 443, via=TUN),
            out(UDP, "10.64.0.2", "8.8.8.8", 4000, 53, via=TUN),
        ):
            assert says(documented, packet) == "accept MOB-4"
            assert says(blocking, packet) in ("reject P-0", "reject DNS-3")
        assert says(blocking, into(TCP, THERE, "10.64.0.2", 443, 4000, via=TUN)) == "drop P-0"
        assert says(blocking, replace(to_api, iface_out=TUN)) == "reject P-0"


def test_the_mark_and_the_dns_split_are_the_documents() -> None:
    assert nets.MARK == 0x6D6F6C65
    assert nets.is_local(ip_address("127.0.0.1"))
    assert nets.is_local(ip_address("::1"))
    assert not nets.is_local(ip_address("100.64.0.1"))
    assert not nets.is_local(ip_address("224.0.0.1"))
