"""The demo's scenario as a test, and the same with other settings.

The walk itself is described in `scenario`. Each case takes most of a minute, most of it waiting for the device to
notice a relay that is silent.
"""

from __future__ import annotations

import signal
import socket
import struct
import time

import pytest

from engine.host.capture import PRIORITY_ALL, PRIORITY_DNS, PRIORITY_REST
from engine.leaklab.probes import Drizzle, Probe, dns, ping, run_all, tcp, udp
from tests.netns import lab
from tests.netns.demo import table
from tests.netns.scenario import Round, Seen, Walk, judge

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]


def _walk_and_judge(walk: Walk) -> list[Round]:
    rounds = list(walk.rounds())
    assert walk.capture is not None
    assert not walk.leaks(), "\n".join(frame.line for frame in walk.leaks())
    assert walk.capture.lost() == 0
    assert all(round_.ok for round_ in rounds), "\n" + table(rounds)
    return rounds


def test_no_state_and_no_change_of_state_lets_anything_out() -> None:
    with Walk() as walk:
        rounds = _walk_and_judge(walk)
    assert [round_.state for round_ in rounds] == [
        "disconnected", "connecting", "connected", "connecting", "error", "disconnected"
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["android", "ios"])
def test_the_mobile_profiles_leak_nothing_either(profile: str) -> None:
    with Walk(profile=profile) as walk:
        _walk_and_judge(walk)


@pytest.mark.slow
def test_with_a_foreign_relay_and_lan_allowed_the_lan_is_open_and_nothing_else() -> None:
    with Walk(relay="wireguard-go", allow_lan=True) as walk:
        _walk_and_judge(walk)


def test_a_hole_made_on_purpose_is_seen_as_a_leak() -> None:
    """The witness is not blind: without the rules that capture everything, probes and the drizzle are in clear."""
    with Walk() as walk:
        walk.drizzle = Drizzle(walk.lab["device"])
        walk.start()
        walk.wait_for("connected", 30)
        walk.guard()
        walk.drizzle.start()
        assert walk.run is not None
        walk.run.popen.send_signal(signal.SIGSTOP)  # it would close the hole within a moment
        for priority in (PRIORITY_DNS, PRIORITY_ALL, PRIORITY_REST):
            while f"{priority}:" in walk.lab["device"].ip("rule"):
                walk.lab["device"].ip(f"rule del pref {priority}")
        holed = walk.probe("with a hole", "connected")
        walk.unguard()
        walk.run.popen.send_signal(signal.SIGCONT)
        wrong = {row.probe.name: row.seen for row in holed.rows if not row.ok}
        assert wrong["TCP to the internet"] is Seen.CLEAR
        assert wrong["DNS to the provider's resolver"] is Seen.CLEAR
        assert wrong["UDP to a LAN host"] is Seen.CLEAR
        assert wrong["TCP to the internet, IPv6"] is Seen.BLOCKED  # its rules are there, and the tunnel stands still
        assert any(frame.carries(walk.drizzle.token) for frame in walk.leaks())


def _arp_answered(walk: Walk, address: str) -> bool:
    """Whether the device answers the LAN host's question who has this address."""
    with walk.lab["lan"].entered():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with sock:
        sock.bind(("eth0", 0x0806))
        sock.settimeout(0.5)
        mac = sock.getsockname()[4]
        question = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + socket.inet_aton(lab.LAN_HOST4) + bytes(6)
        sock.send(b"\xff" * 6 + mac + b"\x08\x06" + question + socket.inet_aton(address))
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            try:
                frame = sock.recv(2048)
            except TimeoutError:
                continue
            if frame[20:22] == b"\0\2" and frame[28:32] == socket.inet_aton(address):
                return True
    return False


def test_a_lan_host_learns_nothing_of_the_tunnels_addresses() -> None:
    """CVE-2019-14899 and audit finding MLLVD-CR-24-03."""
    with Walk() as walk:
        walk.start()
        walk.wait_for("connected", 30)
        assert _arp_answered(walk, lab.DEVICE4)
        assert not _arp_answered(walk, lab.TUNNEL4)
        host = walk.lab["lan"]
        host.ip(f"route add {lab.TUNNEL4} via {lab.DEVICE4}")
        host.ip(f"-6 route add {lab.TUNNEL6} via fd77::2")
        knocks = [
            Probe(f"{kind.__name__} {address}", "inbound", kind(address), role="lan")
            for kind in (tcp, udp, ping)
            for address in (lab.TUNNEL4, lab.TUNNEL6)
        ]
        for probe, attempt in zip(knocks, run_all(walk.lab, knocks), strict=True):
            assert attempt.source is None, probe.name
            assert walk.capture is not None
            assert judge(probe, attempt, walk.capture.frames) is Seen.BLOCKED, probe.name


RESOLVERS = {
    "gateway": dns(lab.GATEWAY4),
    "provider": dns(lab.ISP4),
    "provider, TCP": tcp(lab.ISP4, 53),
    "public": dns(lab.RESOLVER4),
    "public, TCP": tcp(lab.RESOLVER4, 53),
    "public, IPv6": dns(lab.RESOLVER6),
    "LAN host": dns(lab.LAN_HOST4),
}


def _resolvers(walk: Walk) -> dict[str, str]:
    """What becomes of a question to each resolver, but of those that are blocked."""
    assert walk.capture is not None
    probes = [Probe(name, "other DNS", run) for name, run in RESOLVERS.items()]
    attempts = run_all(walk.lab, probes)
    walk.capture.flush()
    seen = {p.name: judge(p, a, walk.capture.frames) for p, a in zip(probes, attempts, strict=True)}
    return {name: str(what) for name, what in seen.items() if what is not Seen.BLOCKED}


def test_a_public_custom_resolver_is_asked_inside_the_tunnel_and_no_other_one_at_all() -> None:
    """CTD-2, DNS-2."""
    with Walk() as walk:
        walk.start("--dns", lab.RESOLVER4)
        walk.wait_for("connected", 30)
        assert _resolvers(walk) == {"public": "tunnel", "public, TCP": "tunnel"}


def test_a_private_custom_resolver_is_asked_outside_the_tunnel_and_only_while_connected() -> None:
    """DNS-2, DNS-3."""
    with Walk() as walk:
        walk.cut_relay(True)
        walk.start("--dns", lab.ISP4)
        walk.wait_for("connecting", 30)
        assert _resolvers(walk) == {}
        walk.cut_relay(False)
        walk.wait_for("connected", 30)
        assert _resolvers(walk) == {"provider": "clear", "provider, TCP": "clear"}
