"""The claims of the security policy, one by one: each has a packet that it lets through and one that it does not."""

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
    HERE,
    HERE6,
    ICMP,
    ICMPV6,
    LINK6,
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
blocking_lan = [replace(p, allow_lan=True) for p in BLOCKING]
with_lan = pytest.mark.parametrize("state", blocking_lan, ids=lambda p: str(p.state))
GATEWAY, GATEWAY6 = "10.64.0.1", "fc00:bbbb::1"


# ---- P-0 ----


@everywhere
def test_p0_blocks_what_no_rule_permits_and_tells_local_senders_alone(state: Policy) -> None:
    assert says(state, out(TCP, HERE, THERE, 4000, 443)) == "reject P-0"
    assert says(state, out(TCP, HERE6, THERE6, 4000, 443)) == "reject P-0"
    assert says(state, out(ICMP, HERE, THERE, icmp=(8, 0))) == "reject P-0"
    assert says(state, into(TCP, THERE, HERE, 443, 4000)) == "drop P-0"
    assert says(state, into(UDP, THERE6, HERE6, 443, 4000)) == "drop P-0"
    assert says(state, out(47, HERE, THERE)) == "reject P-0"


def test_p0_is_the_last_rule_of_every_policy() -> None:
    for state in (*BLOCKING, DISCONNECTED):
        assert rules_for(state)[-1] is P0


# ---- LO ----


@everywhere
def test_lo1_accepts_everything_on_loopback_dns_included(state: Policy) -> None:
    assert says(state, out(UDP, "127.0.0.1", "127.0.0.53", 4000, 53, via=LO)) == "accept LO-1"
    assert says(state, into(TCP, "::1", "::1", 80, 4000, via=LO)) == "accept LO-1"
    assert says(state, out(TCP, HERE, THERE, 4000, 443, via=LO)) == "accept LO-1"


@everywhere
def test_lo1_goes_by_the_interface_not_by_the_address(state: Policy) -> None:
    assert says(state, out(TCP, "127.0.0.1", "127.0.0.1", 4000, 80)) == "reject P-0"


def test_lo1_is_no_way_to_forward_past_the_block() -> None:
    assert says(ERROR, forward(LO, OTHER, TCP, HERE, THERE, 4000, 443)) == "reject P-0"


# ---- DHCP ----


@everywhere
def test_dhcp4_1_lets_the_request_out_to_broadcast_alone(state: Policy) -> None:
    assert says(state, out(UDP, "0.0.0.0", "255.255.255.255", 68, 67)) == "accept DHCP4-1"
    assert says(state, out(UDP, HERE, "255.255.255.255", 68, 67)) == "accept DHCP4-1"
    assert says(state, out(UDP, HERE, THERE, 68, 67)) == "reject P-0"
    assert says(state, out(UDP, HERE, "255.255.255.255", 4000, 67)) == "reject P-0"
    assert says(state, out(TCP, HERE, "255.255.255.255", 68, 67)) == "reject P-0"
    assert says(state, into(UDP, HERE, "255.255.255.255", 68, 67)) == "drop P-0"


@everywhere
def test_dhcp4_2_lets_the_answer_in_from_anywhere(state: Policy) -> None:
    assert says(state, into(UDP, THERE, HERE, 67, 68)) == "accept DHCP4-2"
    assert says(state, into(UDP, THERE, "255.255.255.255", 67, 68)) == "accept DHCP4-2"
    assert says(state, into(UDP, THERE, HERE, 67, 4000)) == "drop P-0"
    assert says(state, out(UDP, HERE, THERE, 67, 68)) == "reject P-0"
    assert says(state, into(UDP, THERE6, HERE6, 67, 68)) == "drop P-0"


@everywhere
def test_dhcp6_1_lets_the_request_out_to_both_server_groups(state: Policy) -> None:
    for group in ("ff02::1:2", "ff05::1:3"):
        assert says(state, out(UDP, LINK6, group, 546, 547)) == "accept DHCP6-1"
    assert says(state, out(UDP, LINK6, "ff02::1:3", 546, 547)) == "reject P-0"
    assert says(state, out(UDP, HERE6, "ff02::1:2", 546, 547)) == "reject P-0"
    assert says(state, out(UDP, LINK6, "ff02::1:2", 547, 546)) == "reject P-0"


@everywhere
def test_dhcp6_2_lets_the_answer_in_between_link_local_addresses(state: Policy) -> None:
    assert says(state, into(UDP, "fe80::1", LINK6, 547, 546)) == "accept DHCP6-2"
    assert says(state, into(UDP, "febf:ffff::1", LINK6, 547, 546)) == "accept DHCP6-2"
    assert says(state, into(UDP, "fec0::1", LINK6, 547, 546)) == "drop P-0"
    assert says(state, into(UDP, "fe80::1", HERE6, 547, 546)) == "drop P-0"


# ---- NDP ----


@everywhere
def test_ndp1_lets_router_solicitations_out_to_all_routers(state: Policy) -> None:
    assert says(state, out(ICMPV6, LINK6, "ff02::2", icmp=(133, 0))) == "accept NDP-1"
    assert says(state, out(ICMPV6, LINK6, "ff02::1", icmp=(133, 0))) == "reject P-0"
    assert says(state, out(ICMPV6, LINK6, "ff02::2", icmp=(133, 1))) == "reject P-0"


@everywhere
def test_ndp2_lets_router_advertisements_in_from_link_local_routers(state: Policy) -> None:
    assert says(state, into(ICMPV6, "fe80::1", "ff02::1", icmp=(134, 0))) == "accept NDP-2"
    assert says(state, into(ICMPV6, THERE6, "ff02::1", icmp=(134, 0))) == "drop P-0"
    assert says(state, out(ICMPV6, LINK6, "ff02::1", icmp=(134, 0))) == "reject P-0"


@everywhere
def test_ndp3_lets_redirects_in_from_link_local_routers(state: Policy) -> None:
    assert says(state, into(ICMPV6, "fe80::1", HERE6, icmp=(137, 0))) == "accept NDP-3"
    assert says(state, into(ICMPV6, "fe80::1", HERE6, icmp=(137, 1))) == "drop P-0"
    assert says(state, out(ICMPV6, LINK6, "fe80::1", icmp=(137, 0))) == "reject P-0"


@everywhere
def test_ndp4_lets_neighbour_solicitations_out_to_the_link(state: Policy) -> None:
    assert says(state, out(ICMPV6, HERE6, "ff02::1:ff12:3456", icmp=(135, 0))) == "accept NDP-4"
    assert says(state, out(ICMPV6, HERE6, "fe80::1", icmp=(135, 0))) == "accept NDP-4"
    assert says(state, out(ICMPV6, HERE6, "ff02::1:fe12:3456", icmp=(135, 0))) == "reject P-0"
    assert says(state, out(ICMPV6, HERE6, THERE6, icmp=(135, 0))) == "reject P-0"


@everywhere
def test_ndp5_lets_neighbour_solicitations_in_from_link_local_hosts(state: Policy) -> None:
    assert says(state, into(ICMPV6, "fe80::1", HERE6, icmp=(135, 0))) == "accept NDP-5"
    assert says(state, into(ICMPV6, THERE6, HERE6, icmp=(135, 0))) == "drop P-0"


@everywhere
def test_ndp6_lets_neighbour_advertisements_out_to_link_local_hosts(state: Policy) -> None:
    assert says(state, out(ICMPV6, HERE6, "fe80::1", icmp=(136, 0))) == "accept NDP-6"
    assert says(state, out(ICMPV6, HERE6, "ff02::1", icmp=(136, 0))) == "reject P-0"


@everywhere
def test_ndp7_lets_neighbour_advertisements_in_from_anywhere(state: Policy) -> None:
    assert says(state, into(ICMPV6, THERE6, HERE6, icmp=(136, 0))) == "accept NDP-7"
    assert says(state, into(ICMPV6, THERE6, HERE6, icmp=(136, 1))) == "drop P-0"
    assert says(state, into(ICMPV6, THERE6, HERE6, icmp=(128, 0))) == "drop P-0"


# ---- LAN ----

LAN_EDGES = [
    "10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0", "192.168.255.255",
    "169.254.0.0", "169.254.255.255", "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fc00::",
    "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
]  # fmt: skip
OUTSIDE_LAN = [
    "9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0",
    "169.253.255.255", "169.255.0.0", "100.64.0.1", "fec0::", "fe7f:ffff::1", "fbff:ffff::1", "fe00::1",
]  # fmt: skip
LOCAL_GROUPS = [
    "224.0.0.0", "224.0.0.255", "239.0.0.0", "239.255.255.255", "255.255.255.255",
    "ff01::1", "ff02::fb", "ff03::1", "ff04::1", "ff05::2",
]  # fmt: skip
ROUTABLE_GROUPS = ["224.0.1.0", "238.255.255.255", "240.0.0.1", "255.255.255.254", "ff00::1", "ff06::1", "ff0e::1"]


def _far_end(address: str) -> str:
    return HERE6 if ":" in address else THERE


@with_lan
@pytest.mark.parametrize("address", LAN_EDGES)
def test_lan1_opens_both_directions_of_every_private_network_while_allowed(state: Policy, address: str) -> None:
    far = _far_end(address)
    assert says(state, out(TCP, far, address, 4000, 80)) == "accept LAN-1"
    assert says(state, into(TCP, address, far, 4000, 80)) == "accept LAN-1"
    shut = replace(state, allow_lan=False)
    assert says(shut, out(TCP, far, address, 4000, 80)) == "reject P-0"
    assert says(shut, into(TCP, address, far, 4000, 80)) == "drop P-0"


@with_lan
@pytest.mark.parametrize("address", OUTSIDE_LAN)
def test_lan1_ends_at_the_edges_of_the_private_networks(state: Policy, address: str) -> None:
    assert says(state, out(TCP, _far_end(address), address, 4000, 80)) == "reject P-0"
    assert says(state, into(TCP, address, _far_end(address), 4000, 80)) == "drop P-0"


@with_lan
@pytest.mark.parametrize(
    "group",
    ["224.0.0.251", "239.255.255.250", "255.255.255.255", "ff01::1", "ff02::fb", "ff03::1", "ff04::1", "ff05::2"],
)
def test_lan2_lets_local_multicast_out_but_does_not_open_the_way_in(state: Policy, group: str) -> None:
    assert says(state, out(UDP, _far_end(group), group, 5353, 5353)) == "accept LAN-2"
    assert says(replace(state, allow_lan=False), out(UDP, _far_end(group), group, 5353, 5353)) == "reject P-0"
    assert says(state, into(UDP, _far_end(group), group, 5353, 5353)) == "drop P-0"


@with_lan
@pytest.mark.parametrize(
    "group", ["224.0.1.0", "238.255.255.255", "240.0.0.1", "255.255.255.254", "ff06::1", "ff0e::1"]
)
def test_lan2_leaves_routable_multicast_blocked(state: Policy, group: str) -> None:
    assert says(state, out(UDP, _far_end(group), group, 5353, 5353)) == "reject P-0"


@with_lan
def test_lan3_lets_dhcp_requests_to_our_server_in(state: Policy) -> None:
    assert says(state, into(UDP, "0.0.0.0", "255.255.255.255", 68, 67)) == "accept LAN-3"
    assert says(state, into(UDP, "0.0.0.0", HERE, 68, 67)) == "drop P-0"
    assert says(replace(state, allow_lan=False), into(UDP, "0.0.0.0", "255.255.255.255", 68, 67)) == "drop P-0"


@with_lan
def test_lan4_lets_our_dhcp_servers_answers_out(state: Policy) -> None:
    assert says(state, out(UDP, HERE, THERE, 67, 68)) == "accept LAN-4"
    assert says(state, out(UDP, HERE, THERE, 67, 69)) == "reject P-0"
    assert says(replace(state, allow_lan=False), out(UDP, HERE, THERE, 67, 68)) == "reject P-0"


@with_lan
def test_dns_comes_before_lan(state: Policy) -> None:
    for protocol in (TCP, UDP):
        verdict = says(state, out(protocol, HERE, "192.168.1.1", 4000, 53))
        assert verdict in ("reject DNS-3", "reject CTD-2")


# ---- forwarding ----


def test_fwd1_forwards_what_may_go_out_or_come_in() -> None:
    assert says(CONNECTED, forward(OTHER, TUN, TCP, "172.17.0.2", THERE, 4000, 443)) == "accept CTD-1"
    assert says(CONNECTED, forward(TUN, OTHER, TCP, THERE, "172.17.0.2", 443, 4000, reply=True)) == "accept FWD-1"
    assert says(replace(ERROR, allow_lan=True), forward(OTHER, OTHER, TCP, THERE, HERE, 1, 2)) == "accept LAN-1"
    assert says(ERROR, forward(OTHER, OTHER, UDP, THERE, HERE, 67, 68)) == "accept DHCP4-2"


@everywhere
def test_fwd1_rejects_every_other_forwarded_packet(state: Policy) -> None:
    assert says(state, forward(OTHER, OTHER, TCP, "172.17.0.2", THERE, 4000, 443)) == "reject P-0"


@pytest.mark.parametrize("lan", [False, True])
def test_fwd1_forwards_from_the_tunnel_what_was_asked_for_and_nothing_else(lan: bool) -> None:
    for state in (replace(CONNECTED, allow_lan=lan), replace(CONNECTING, allow_lan=lan)):
        for guest in ("172.17.0.2", "fd05::2"):
            there = THERE6 if ":" in guest else THERE
            answer = forward(TUN, OTHER, UDP, there, guest, 443, 4000, reply=True)
            assert says(state, answer) == "accept FWD-1"
            assert says(state, replace(answer, reply=False)) == "reject FWD-1"
            assert says(state, replace(answer, reply=False, src=answer.dst)) == "reject FWD-1"


def test_fwd1_where_the_tun_alone_judges_it_lets_in_what_is_for_the_tunnels_own_addresses_only() -> None:
    alone = replace(CONNECTED, tun_only=True, allow_lan=True)
    assert says(alone, into(TCP, THERE, "10.64.0.2", 443, 4000, via=TUN)) == "accept CTD-1"
    assert says(alone, into(TCP, THERE6, "fc00:bbbb::2", 443, 4000, via=TUN)) == "accept CTD-1"
    for guest in ("172.17.0.2", "192.168.1.5", "10.64.0.3"):
        packet = into(TCP, THERE, guest, 443, 4000, via=TUN)
        assert says(alone, packet) == "drop FWD-1"
        assert says(alone, into(TCP, "192.168.1.1", guest, 443, 4000, via=TUN)) == "drop FWD-1", (
            "LAN-1 is not the tunnel's"
        )
        assert says(CONNECTED, packet) == "accept CTD-1"
    assert says(alone, into(UDP, THERE, "172.17.0.2", 67, 68, via=TUN)) == "drop FWD-1", "nor is DHCP4-2"
    assert says(alone, into(UDP, THERE6, "fd05::2", 443, 4000, via=TUN)) == "drop FWD-1"
    nowhere = replace(alone, tunnel=replace(alone.tunnel, addresses=()))
    assert says(nowhere, into(TCP, THERE, "10.64.0.2", 443, 4000, via=TUN)) == "drop FWD-1"
    assert says(alone, out(TCP, "172.17.0.2", THERE, 4000, 443, via=TUN)) == "accept CTD-1"


def test_fwd1_does_not_forward_dns_past_the_tunnel() -> None:
    to_stranger = forward(OTHER, TUN, UDP, "172.17.0.2", "8.8.8.8", 4000, 53)
    assert says(CONNECTED, to_stranger) == "reject CTD-2"
    assert says(CONNECTED, replace(to_stranger, dst=ip_address(GATEWAY))) == "accept DNS-1"
    assert says(ERROR, forward(OTHER, OTHER, TCP, "172.17.0.2", "8.8.8.8", 4000, 53)) == "reject DNS-3"


@with_lan
def test_fwd1_a_private_source_is_no_ticket_out_of_the_block(state: Policy) -> None:
    assert says(state, forward(OTHER, OTHER, TCP, "172.17.0.2", THERE, 4000, 443)) == "reject P-0"


@pytest.mark.parametrize("platform", [Platform.MACOS, Platform.WINDOWS])
def test_fwd1_is_linux_alone(platform: Platform) -> None:
    forwarded = forward(OTHER, TUN, TCP, "172.17.0.2", THERE, 4000, 443)
    assert says(replace(CONNECTED, platform=platform), forwarded) == "reject P-0"


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
