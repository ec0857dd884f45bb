"""Which of main's routes lead to guests: those that nobody on the network can have said."""

from __future__ import annotations

from ipaddress import ip_network

from engine.host.guests import Way, to_guests, uplinks

ETH0, WLAN0, DOCKER0, POD, TUN = 2, 3, 4, 5, 9


def way(network: str, interface: int, *, direct: bool = True, learned: bool = False) -> Way:
    return Way(ip_network(network), (interface,), direct, learned)


DEFAULT = way("0.0.0.0/0", ETH0, direct=False)
LAN = way("192.168.1.0/24", ETH0)
BRIDGE = way("172.17.0.0/16", DOCKER0)


def guests(*ways: Way, leased: set[int] | None = None) -> list[tuple[str, int]]:
    found = uplinks(ways, leased or set())
    return sorted((str(n), i) for n, i in to_guests(ways, {*found, TUN})) if found is not None else []


def test_a_bridge_of_containers_is_a_guest_and_the_way_out_is_none() -> None:
    six = way("fd00:17::/64", DOCKER0)
    assert guests(DEFAULT, LAN, BRIDGE, six) == [("172.17.0.0/16", DOCKER0), ("fd00:17::/64", DOCKER0)]


def test_a_route_of_a_hostile_dhcp_server_to_a_guest_leads_nowhere() -> None:
    """TunnelVision, CVE-2024-3661."""
    stolen = (way("172.17.0.2/32", ETH0, direct=False), way("172.17.0.2/32", ETH0))
    for each in stolen:
        assert guests(DEFAULT, LAN, BRIDGE, each) == [("172.17.0.0/16", DOCKER0)]


def test_a_network_that_claims_a_guests_addresses_for_itself_gets_nothing() -> None:
    """LocalNet, CVE-2023-36672: the lease has a limited time, or at least a default route."""
    claimed = way("172.17.0.0/28", WLAN0)
    assert guests(DEFAULT, LAN, BRIDGE, claimed, leased={WLAN0}) == [("172.17.0.0/16", DOCKER0)]
    assert guests(DEFAULT, LAN, BRIDGE, claimed, way("0.0.0.0/0", WLAN0, direct=False)) == [("172.17.0.0/16", DOCKER0)]
    assert guests(DEFAULT, LAN, BRIDGE, claimed) == [], "with neither: nobody is believed"


def test_an_interface_with_anything_learned_is_no_guests() -> None:
    assert guests(DEFAULT, LAN, BRIDGE, way("2001:db8::/64", WLAN0, learned=True), way("10.9.0.0/24", WLAN0)) == [
        ("172.17.0.0/16", DOCKER0)
    ]


def test_a_point_to_point_link_with_a_default_route_without_a_gateway_is_no_guest() -> None:
    assert guests(way("0.0.0.0/0", WLAN0), way("10.9.0.1/32", WLAN0)) == []
    assert guests(way("0.0.0.0/1", WLAN0), way("10.9.0.1/32", WLAN0)) == []


def test_a_route_that_names_no_interface_makes_everybody_a_suspect() -> None:
    assert guests(Way(ip_network("0.0.0.0/0"), (), direct=False), BRIDGE) == []


def test_loopback_link_local_addresses_and_the_tunnel_are_never_guests() -> None:
    assert guests(way("10.5.0.0/16", 1), way("fe80::/64", DOCKER0), way("10.64.0.0/24", TUN)) == []


def test_networks_within_each_other_are_fine_on_one_interface_and_disputed_on_two() -> None:
    inner = way("172.17.5.0/24", DOCKER0)
    assert guests(BRIDGE, inner) == [("172.17.0.0/16", DOCKER0), ("172.17.5.0/24", DOCKER0)]
    pod = way("172.17.5.9/32", POD)
    assert guests(BRIDGE, pod, way("10.42.0.5/32", POD)) == [("10.42.0.5/32", POD)]
    assert guests(BRIDGE, inner, pod) == []
