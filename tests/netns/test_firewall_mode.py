"""`molehill run --firewall`: the TUN and nftables by one policy, against real traffic, a crash, and a meddler.

What the VPN-service mode cannot stop is tried in `scenario` (the group "limit") and must be blocked here.
"""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from engine.leaklab.probes import Attempt, Probe, ping, run_all, tcp, udp
from engine.policy import MARK
from tests.netns import lab
from tests.netns.lab import Namespace, wait_until
from tests.netns.scenario import Seen, Walk, judge
from tests.netns.test_crash import kill, traces, wrong
from tests.netns.test_leaks import _resolvers, _walk_and_judge

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]
SWITCHES = [f"net.ipv4.conf.all.{name}" for name in ("arp_ignore", "src_valid_mark", "rp_filter")]


@pytest.fixture
def walk() -> Iterator[Walk]:
    with Walk(firewall=True, progress=lambda text: None) as walk:
        yield walk


def rules(walk: Walk) -> str:
    """Our table as nft prints it; empty: there is none."""
    device = walk.lab["device"]
    tables = json.loads(device.sh("nft", "-j", "list", "tables"))["nftables"]
    if not any(entry.get("table", {}).get("name") == "molehill" for entry in tables):
        return ""
    return device.sh("nft", "-s", "list", "table", "inet", "molehill")


def state_of_machine(walk: Walk) -> list[str]:
    return [*traces(walk), rules(walk), walk.lab["device"].sh("sysctl", *SWITCHES)]


def heard(walk: Walk, receiver: str, sender: Namespace) -> bool:
    """Whether a datagram from the sender reaches a socket on the device at all, answered or not."""
    family = socket.AF_INET6 if ":" in receiver else socket.AF_INET
    with walk.lab["device"].entered():
        ear = socket.socket(family, socket.SOCK_DGRAM)
    with sender.entered():
        mouth = socket.socket(family, socket.SOCK_DGRAM)
    with ear, mouth:
        ear.bind((receiver, 0))
        ear.settimeout(0.3)
        for _ in range(3):
            mouth.sendto(b"knock", (receiver, ear.getsockname()[1]))
            try:
                return ear.recv(64) == b"knock"
            except TimeoutError:
                continue
    return False


def test_no_state_and_no_change_lets_anything_out_nor_what_only_a_firewall_stops() -> None:
    with Walk(firewall=True) as walk:
        _walk_and_judge(walk)
        assert rules(walk) == ""


@pytest.mark.slow
def test_with_lan_allowed_and_a_foreign_relay_the_lan_is_open_and_nothing_else() -> None:
    with Walk(relay="wireguard-go", allow_lan=True, firewall=True) as walk:
        _walk_and_judge(walk)


def test_the_status_says_which_mode_enforces_and_a_disconnect_leaves_nothing(walk: Walk) -> None:
    before = state_of_machine(walk)
    walk.start()
    walk.wait_for("connected", 20)
    status = walk.status()
    assert (status["mode"], status["enforced"]) == ("firewall", True)
    assert "CTD-3" in rules(walk)
    assert f'oifname "{walk.iface}"' in rules(walk)
    assert "= 2" in walk.lab["device"].sh("sysctl", SWITCHES[0])
    assert walk.stop() == 0
    assert state_of_machine(walk) == before


def test_unsolicited_inbound_never_reaches_a_socket_while_the_vpn_service_mode_hears_it() -> None:
    for firewall in (False, True):
        with Walk(firewall=firewall, progress=lambda text: None) as walk:
            walk.start()
            walk.wait_for("connected", 20)
            inbound = [
                heard(walk, address, walk.lab[role])
                for role, address in (
                    ("lan", lab.DEVICE4), ("lan", "fd77::2"), ("internet", lab.DEVICE4), ("internet", lab.DEVICE6)
                )
            ]  # fmt: skip
            assert inbound == [not firewall] * 4


def _marked(ns: Namespace, attempt: Attempt) -> None:
    """A datagram to the internet by a process that marks its packets as the engine's own (CAP_NET_ADMIN)."""
    attempt.tokens.append("mh" + secrets.token_hex(7))
    with ns.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        sock.sendto(attempt.tokens[0].encode(), (lab.WEB4, 7))


def test_a_packet_marked_as_our_own_does_not_leave_for_the_internet_while_the_vpn_service_mode_lets_it() -> None:
    """LNX-2."""
    for firewall in (False, True):
        with Walk(firewall=firewall, progress=lambda text: None) as walk:
            walk.start()
            walk.wait_for("connected", 20)
            probe = Probe("marked", "bypass", _marked)
            attempts = run_all(walk.lab, [probe])
            assert walk.capture is not None
            walk.capture.flush()
            seen = judge(probe, attempts[0], walk.capture.frames)
            assert seen is (Seen.BLOCKED if firewall else Seen.CLEAR)


def test_a_lan_host_that_knows_the_tunnels_addresses_reaches_nothing_there(walk: Walk) -> None:
    """CVE-2019-14899: the neighbour has a route to the tunnel's addresses by way of the device."""
    walk.start("--allow-lan")
    walk.wait_for("connected", 20)
    host = walk.lab["lan"]
    host.ip(f"route add {lab.TUNNEL4} via {lab.DEVICE4}")
    host.ip(f"-6 route add {lab.TUNNEL6} via fd77::2")
    knocks = [
        Probe(f"{kind.__name__} {address}", "inbound", kind(address), role="lan")
        for kind in (tcp, udp, ping)
        for address in (lab.TUNNEL4, lab.TUNNEL6)
    ]
    for probe, attempt in zip(knocks, run_all(walk.lab, knocks), strict=True):
        assert walk.capture is not None
        assert (attempt.source, judge(probe, attempt, walk.capture.frames)) == (None, Seen.BLOCKED), probe.name
    for address in (lab.TUNNEL4, lab.TUNNEL6):
        assert not heard(walk, address, host)
    assert heard(walk, lab.DEVICE4, host)


def test_a_private_custom_resolver_is_asked_outside_the_tunnel_and_only_while_connected(walk: Walk) -> None:
    """DNS-2, DNS-3: its answers pass nftables as answers."""
    walk.cut_relay(True)
    walk.start("--dns", lab.ISP4)
    walk.wait_for("connecting", 30)
    assert _resolvers(walk) == {}
    walk.cut_relay(False)
    walk.wait_for("connected", 30)
    assert _resolvers(walk) == {"provider": "clear", "provider, TCP": "clear"}


def test_killed_the_table_stays_the_next_run_takes_it_over_and_unblock_removes_it(walk: Walk) -> None:
    before = state_of_machine(walk)
    device = walk.lab["device"]
    walk.start()
    walk.wait_for("connected", 20)
    kill(walk)
    left = rules(walk)
    assert "CTD-3" in left
    assert wrong(walk.probe("killed", "error")) == []
    device.ip(f"link del {walk.iface}")
    for priority in set(device.ip("rule").split()) & {"190:", "130:", "195:"}:
        while priority in device.ip("rule"):
            device.ip(f"rule del pref {priority[:-1]}")
    assert wrong(walk.probe("killed, and the routes opened by somebody", "error")) == []
    assert rules(walk) == left
    walk.start()
    walk.wait_for("connected", 20)
    assert wrong(walk.probe("taken over", "connected")) == []
    kill(walk)
    opened = walk.lab.start(device, "molehill", "unblock")
    assert opened.popen.wait(20) == 0
    assert state_of_machine(walk) == before
    assert wrong(walk.probe("unblocked", "disconnected")) == []


def test_a_run_without_the_firewall_takes_over_from_a_killed_one_with_it(walk: Walk) -> None:
    before = state_of_machine(walk)
    walk.start()
    walk.wait_for("connected", 20)
    kill(walk)
    walk.firewall = False
    walk.start()
    walk.wait_for("connected", 20)
    assert rules(walk) == ""
    assert walk.stop() == 0
    assert state_of_machine(walk) == before


def test_always_require_vpn_keeps_the_table_that_blocks_until_unblocked(walk: Walk) -> None:
    before = state_of_machine(walk)
    walk.start("--always-require-vpn")
    walk.wait_for("connected", 20)
    assert walk.stop() == 0
    assert "P-0" in rules(walk)
    assert "CTD" not in rules(walk)
    assert wrong(walk.probe("disconnected, VPN always required", "error")) == []
    assert walk.lab.start(walk.lab["device"], "molehill", "unblock").popen.wait(20) == 0
    assert state_of_machine(walk) == before


def test_a_table_removed_by_somebody_is_there_again_and_so_is_what_it_blocks(walk: Walk) -> None:
    """NFT-2: it is watched."""
    walk.start()
    walk.wait_for("connected", 20)
    walk.lab["device"].sh("nft", "flush", "ruleset")
    wait_until(lambda: "P-0" in rules(walk), 10, "the table is loaded again")
    assert wrong(walk.probe("the table removed and loaded again", "connected")) == []


def test_a_firewall_that_refuses_is_an_error_that_is_told_and_the_tun_blocks(walk: Walk) -> None:
    """ERR-3: another process owns a table of our name (flags owner), so the kernel refuses ours."""
    device = walk.lab["device"]
    owner = subprocess.Popen(
        ["ip", "netns", "exec", device.name, "nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        assert owner.stdin is not None
        owner.stdin.write("add table inet molehill { flags owner; }\n")
        owner.stdin.flush()
        wait_until(lambda: rules(walk) != "", 5, "the foreign table")
        walk.start()
        walk.wait_for("error", 20)
        status = walk.status()
        assert status["enforced"] is False
        assert status["cause_kind"] == "apply-policy"
        assert "nftables refused the rules" in str(status["failure"])
        walk.firewall = False  # judge by what the TUN alone stops
        assert wrong(walk.probe("refused", "error")) == []
    finally:
        owner.communicate("quit\n", timeout=5)
    assert walk.stop() == 0
    assert wrong(walk.probe("disconnected", "disconnected")) == []


def test_without_nftables_the_firewall_mode_is_refused_in_one_sentence(walk: Walk) -> None:
    device = walk.lab["device"]
    before = state_of_machine(walk)
    hidden = "import engine.firewall.nftables.kernel as k; k.NETLINK_NETFILTER = 31; "  # which no kernel has
    code = f"{hidden}from engine.cli.main import main; main()"
    done = subprocess.run(
        ["ip", "netns", "exec", device.name, sys.executable, "-c", code, "run", str(walk.write_conf()), "--firewall"],
        env={**walk.lab.env, "PYTHONPATH": str(lab.ROOT)}, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 3
    assert "the kernel has no netfilter" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert state_of_machine(walk) == before
