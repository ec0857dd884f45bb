"""The claims of the security policy, one by one: each has a packet that it lets through and one that it does not.

Here are those of every state that blocks; what a state permits of its own is in test_states.
"""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from engine.policy import P0, Platform, Policy, rules_for
from tests.judging import (
    BLOCKING,
    CONNECTED,
    CONNECTING,
    DISCONNECTED,
    ERROR,
    GATEWAY,
    HERE,
    HERE6,
    ICMP,
    ICMPV6,
    LINK6,
    LO,
    OTHER,
    TCP,
    THERE,
    THERE6,
    TUN,
    UDP,
    forward,
    into,
    out,
    says,
)

everywhere = pytest.mark.parametrize("state", BLOCKING, ids=lambda p: str(p.state))
blocking_lan = [replace(p, allow_lan=True) for p in BLOCKING]
with_lan = pytest.mark.parametrize("state", blocking_lan, ids=lambda p: str(p.state))


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
