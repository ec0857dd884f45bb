"""A guest behind the machine, as a container is, works through the tunnel, and the tunnel's far end is not let at it.

The world is the leak lab's: the device translates its guest's addresses, and main knows the way to the guest.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from engine.leaklab import world
from engine.leaklab.arena import Arena, Condition
from engine.leaklab.namespaces import Namespace, wait_until
from engine.leaklab.probes import Probe, dns, ping, tcp, udp

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180), pytest.mark.xdist_group("leaklab")]
CONNECTED = Condition("connected")
LAN_TOO = Condition("connected", lan=True)
PORT = 40053
GUEST = [
    Probe("TCP", "", tcp(world.WEB4), role="guest"),
    Probe("TCP, IPv6", "", tcp(world.WEB6), role="guest"),
    Probe("UDP", "", udp(world.WEB4), role="guest"),
    Probe("UDP, IPv6", "", udp(world.WEB6), role="guest"),
    Probe("ping", "", ping(world.WEB4), role="guest"),
    Probe("DNS", "", dns(world.GATEWAY4), role="guest"),
]


@pytest.fixture(scope="module", params=[True, False], ids=["firewall", "vpn-service"])
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    with Arena(firewall=request.param, progress=lambda line: None) as arena:
        know_each_other(arena)
        yield arena


@pytest.fixture
def connected(arena: Arena) -> Iterator[Arena]:
    arena.begin()
    arena.reach(CONNECTED)
    yield arena
    arena.unwatch()
    arena.leave()


def know_each_other(arena: Arena) -> None:
    """The guest's IPv6 neighbour is its gateway, once and for all.

    In the firewall mode it cannot ask for it while the LAN is blocked: it asks from its global address (LNX-7, NDP-5).
    """
    mac = json.loads(arena.lab["device"].ip("-json link show dev guest0"))[0]["address"]
    arena.lab["guest"].ip(f"neigh replace fd05::1 lladdr {mac} nud permanent dev eth0")


def through_the_tunnel(arena: Arena) -> dict[str, bool]:
    attempts, _, _ = arena.probe(GUEST)
    inside = (world.TUNNEL4, world.TUNNEL6, "")
    return {p.name: a.source in inside for p, a in zip(GUEST, attempts, strict=True)}


ALL = {probe.name: True for probe in GUEST}
NONE = {probe.name: False for probe in GUEST}


def guest_routes(arena: Arena) -> str:
    table = str(world.MARK + 1)
    device = arena.lab["device"]
    return device.ip(f"route show table {table}") + device.ip(f"-6 route show table {table}")


def test_a_guest_works_through_the_tunnel_while_the_lan_is_not_allowed(connected: Arena) -> None:
    connected.lab["device"].ip("neigh flush all")
    assert through_the_tunnel(connected) == ALL


def test_the_guests_routes_are_its_own_and_the_way_out_is_not_among_them(connected: Arena) -> None:
    routes = guest_routes(connected)
    assert "172.20.5.0/24 dev guest0" in routes
    assert "fd05::/64 dev guest0" in routes
    assert "eth0" not in routes


def test_a_guest_that_comes_later_works_too_and_one_that_goes_leaves_nothing(connected: Arena) -> None:
    device = connected.lab["device"]
    device.ip("addr del 172.20.5.1/24 dev guest0")
    wait_until(lambda: "172.20.5.0/24" not in guest_routes(connected), 10, "the guest's route to go")
    device.ip("addr add 172.20.5.1/24 dev guest0")
    wait_until(lambda: "172.20.5.0/24 dev guest0" in guest_routes(connected), 10, "the guest's route")
    assert through_the_tunnel(connected) == ALL
    assert connected.driver.status().enforced


def test_in_error_a_guest_has_neither_answers_nor_routes(connected: Arena) -> None:
    connected.driver.block()
    connected.driver.wait_for("error")
    assert through_the_tunnel(connected) == NONE
    assert guest_routes(connected) == ""
    assert "iif" not in connected.lab["device"].ip("rule show proto 109")


def test_a_route_of_a_hostile_dhcp_server_to_the_guest_does_not_divert_its_answers(connected: Arena) -> None:
    """TunnelVision (CVE-2024-3661) for what comes back; LocalNet (CVE-2023-36672) claims the guest's whole network."""
    device = connected.lab["device"]
    device.ip(f"route add {world.GUEST4}/32 via {world.ROGUE4} dev eth0")
    device.ip(f"-6 route add {world.GUEST6}/128 via {world.ROGUE6} dev eth0")
    device.ip("addr add 172.20.5.7/29 dev eth0")
    try:
        way = device.ip(f"route get {world.GUEST4}")
        connected.settle()
        assert through_the_tunnel(connected) == ALL
        assert "eth0" not in guest_routes(connected)
        assert "dev eth0" not in way, "nor does this machine's own traffic ask there"
    finally:
        device.ip("addr del 172.20.5.7/29 dev eth0")
        device.ip(f"route del {world.GUEST4}/32")
        device.ip(f"-6 route del {world.GUEST6}/128")


def heard(ear: Namespace, address: str, mouth: Namespace) -> bool:
    """Whether a datagram from one namespace arrives in another."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with ear.entered():
        listener = socket.socket(family, socket.SOCK_DGRAM)
    with mouth.entered():
        sender = socket.socket(family, socket.SOCK_DGRAM)
    with listener, sender:
        listener.bind((address, PORT))
        listener.settimeout(0.4)
        for _ in range(3):
            sender.sendto(b"unasked", (address, PORT))
            try:
                return listener.recv(64) == b"unasked"
            except TimeoutError:
                continue
    return False


def heard_by_the_guest_through_a_hole(arena: Arena) -> bool:
    """It is closed within 30 ms, so the relay sends all the while; the product, if stopped, would carry nothing."""
    relay, guest = arena.relays[0], arena.lab["guest"]
    with guest.entered():
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with relay.ns.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with listener, sender:
        listener.bind((world.GUEST4, PORT))
        listener.setblocking(False)
        hole = threading.Thread(
            target=arena.lab["device"].sh, args=("nft", "insert", "rule", "inet", "molehill", "forward", "accept")
        )
        hole.start()
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            sender.sendto(b"unasked", (world.GUEST4, PORT))
            time.sleep(0.002)
            with suppress(BlockingIOError):
                if listener.recv(64) == b"unasked":
                    hole.join()
                    return True
        hole.join()
    return False


@pytest.mark.parametrize("condition", [CONNECTED, LAN_TOO], ids=["", "LAN allowed"])
def test_fwd1_a_relay_that_sends_packets_to_guests_and_to_the_lan_reaches_nobody(
    arena: Arena, condition: Condition
) -> None:
    targets = {world.GUEST4: "guest", world.GUEST6: "guest", world.LAN_HOST4: "lan"}
    relay = arena.relays[0]
    arena.begin()
    honest, relay._allowed = relay._allowed, ("0.0.0.0/0", "::/0")
    relay.stop()
    relay.start()
    try:
        relay.ns.ip(f"route del unreachable {world.LAN_HOST4}")
        for address in targets:
            relay.ns.ip(f"{'-6 ' if ':' in address else ''}route add {address} dev {relay.iface}")
        arena.reach(condition)
        before = arena.driver.status().verdicts.get("FWD-1", 0)
        reached = [address for address, role in targets.items() if heard(arena.lab[role], address, relay.ns)]
        assert reached == []
        if arena.firewall:  # the control: so they do arrive where nobody judges
            wait_until(lambda: heard_by_the_guest_through_a_hole(arena), 20, "the control")
        else:
            wait_until(lambda: arena.driver.status().verdicts.get("FWD-1", 0) > before, 10, "the TUN's own count")
        assert through_the_tunnel(arena) == ALL
    finally:
        relay._allowed = honest
        arena.rebuild()
        know_each_other(arena)
