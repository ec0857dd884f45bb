"""The interface under way: a hub between two peers, down and up, another MTU, a taken port, deletion under load."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from tests.interop.link import INNER, MIB, OURS, PORT, ROLES, Link, Sent, Transfer
from tests.netns.engines import WIREGUARD_GO, Engine, Keys, config
from tests.netns.lab import pair, wait_until

pytestmark = pytest.mark.netns
BOTH = ROLES["we initiate"]


def test_a_hub_carries_between_two_peers_what_it_joined_and_splits_again() -> None:
    """a -- hub -- c: the kernel forwards super-packets from the TUN into the same TUN."""
    with pair() as lab:
        lab.namespace("c")
        lab.wire("b", "eth1", "c", "eth0")
        lab["b"].ip("addr add 172.16.10.2/24 dev eth1")
        lab["c"].ip("addr add 172.16.10.1/24 dev eth0")
        lab["b"].sh("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        keys = {role: Keys.new() for role in "abc"}
        hub = Engine(lab, lab["b"], f"mh{lab.tag}b", OURS)
        spokes = {role: Engine(lab, lab[role], f"mh{lab.tag}{role}", WIREGUARD_GO) for role in "ac"}
        hub_conf = config(keys["b"], keys["a"].public, "10.9.0.1/32,fd0a::1/128", port=PORT)
        hub.setconf(hub_conf + f"[Peer]\nPublicKey = {keys['c'].public}\nAllowedIPs = 10.9.0.3/32, fd0a::3/128\n")
        hub.up(["10.9.0.2/24", "fd0a::2/64"])
        for role, outer, number in (("a", "172.16.9.2", 1), ("c", "172.16.10.2", 3)):
            inside = "10.9.0.0/24,fd0a::/64"
            spokes[role].setconf(config(keys[role], keys["b"].public, inside, endpoint=f"{outer}:{PORT}"))
            spokes[role].up([f"10.9.0.{number}/24", f"fd0a::{number}/64"])
            lab[role].sh("ping", "-c", "1", "-W", "5", "10.9.0.2")
        for source, target, address in (("a", "c", "10.9.0.3"), ("c", "a", "fd0a::1")):
            assert Transfer(lab[source], lab[target], address, 8 * MIB).result() == Sent(8 * MIB, True)


def test_a_peer_cannot_speak_with_another_peers_address() -> None:
    with Link(BOTH) as link:
        assert link.ping()
        link.lab["b"].ip(f"addr add 10.9.0.66/24 dev {link.b.iface}")
        command = ["ping", "-c", "2", "-i", "0.2", "-W", "1", "-I", "10.9.0.66", INNER["a"][4]]
        with pytest.raises(RuntimeError, match="100% packet loss"):
            link.lab["b"].sh(*command)
        assert link.ping(ends="ba")


def test_down_and_up_again_the_tunnel_works_as_before() -> None:
    with Link(BOTH) as link:
        assert link.ping()
        link.a.ns.ip(f"link set {link.a.iface} down")
        assert link.a.process.running
        link.a.ns.ip(f"link set {link.a.iface} up")
        assert link.ping()
        assert link.send(4 * MIB) == Sent(4 * MIB, True)


def test_the_mtu_may_change_in_the_middle_of_a_transfer() -> None:
    with Link(BOTH) as link:
        assert link.ping()
        transfer = Transfer(link.lab["a"], link.lab["b"], INNER["b"][4], 12 * MIB, rate=8 * MIB)
        for mtu in (1280, 1400, 1300, 1420):
            moved = transfer.moved
            wait_until(lambda moved=moved: transfer.moved > moved + MIB, 20, "more of the transfer")  # type: ignore[misc]
            for end in (link.a, link.b):
                end.ns.ip(f"link set {end.iface} mtu {mtu}")
        assert transfer.result() == Sent(12 * MIB, True)
        assert link.ping(size=1420 - 28)


def test_a_listen_port_that_is_taken_is_an_error_and_the_tunnel_goes_on() -> None:
    with Link(BOTH) as link:
        assert link.ping()
        with link.a.ns.entered():
            taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with taken:
            taken.bind(("0.0.0.0", 45000))
            with pytest.raises(RuntimeError, match=r"(?i)in use"):
                link.a.wg("set", link.a.iface, "listen-port", "45000")
        assert link.a.wg("show", link.a.iface, "listen-port").strip() != "45000"
        assert link.ping()


def test_deleting_the_interface_in_the_middle_of_a_transfer_is_a_clean_end() -> None:
    with Link(BOTH) as link:
        assert link.ping()
        transfer = Transfer(link.lab["a"], link.lab["b"], INNER["b"][4], 1024 * MIB)
        wait_until(lambda: transfer.moved > 4 * MIB, 20, "the transfer under way")
        link.a.ns.ip(f"link del {link.a.iface}")
        wait_until(lambda: not link.a.process.running, 5, "the engine's end")
        assert link.a.process.popen.returncode == 0
        assert not Path(f"/var/run/wireguard/{link.a.iface}.sock").exists()


def test_two_hundred_changes_of_peers_under_a_transfer_harm_no_byte() -> None:
    with Link(BOTH) as link:
        assert link.ping()
        transfer = Transfer(link.lab["a"], link.lab["b"], INNER["b"][4], 24 * MIB, rate=8 * MIB)
        other = Keys.new().public
        script = (
            f"for i in $(seq 100); do wg set {link.a.iface} peer {other} allowed-ips 10.80.$i.0/24; "
            f"wg set {link.a.iface} peer {other} remove; done"
        )
        done = subprocess.run(
            ["ip", "netns", "exec", link.a.ns.name, "sh", "-ec", script], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert transfer.result() == Sent(24 * MIB, True)
        assert link.a.wg("show", link.a.iface, "peers").split() == [link.keys["b"].public]
