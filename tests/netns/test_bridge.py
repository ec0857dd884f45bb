"""The first hop over a bridge: our own relay for UDP over TCP, shadowsocks-libev's server for Shadowsocks.

The device must speak to the bridge alone, by its protocol, and never to the VPN server (CON-1); everything else is as
without a bridge, which the whole walk through the states holds.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.netns import lab
from tests.netns.lab import wait_until
from tests.netns.scenario import BRIDGE_PASSWORD, BRIDGE_PORTS, Walk
from tests.netns.test_crash import wrong
from tests.netns.test_firewall_mode import rules
from tests.netns.test_leaks import _walk_and_judge

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]

KINDS = tuple(BRIDGE_PORTS)
both = pytest.mark.parametrize("kind", KINDS)
LOCAL = {"arp", "ndp", "dhcp", "mld"}


@contextmanager
def walking(kind: str, firewall: bool = False) -> Iterator[Walk]:
    with Walk(bridge=kind, firewall=firewall, progress=lambda text: None) as walk:
        yield walk


def sent(walk: Walk) -> list[str]:
    """A line for each frame that the device has sent, but the local link's own."""
    assert walk.capture is not None
    walk.capture.flush()
    return [frame.line for frame in walk.capture.frames if frame.kind not in LOCAL]


def problems(walk: Walk) -> list[str]:
    """Why it is not connected, as it was told, without repetitions."""
    assert walk.run is not None
    told = [json.loads(line) for line in walk.run.output().splitlines() if line.endswith("}")]
    return list(dict.fromkeys(each["problem"] for each in told if each["problem"]))


def transfer(walk: Walk, *options: str) -> None:
    """20 MB through the tunnel by TCP; they have to arrive, but for what is on its way at the end."""
    internet = walk.lab["internet"]
    sink = walk.lab.start(internet, "iperf3", "-s", "-1", "-B", lab.WEB4)
    wait_until(lambda: lab.WEB4 in internet.sh("ss", "-Hltn", "sport = :5201"), 5, "iperf3's server")
    report = json.loads(walk.lab["device"].sh("iperf3", "-c", lab.WEB4, "-n", "20M", "-J", *options))
    assert report["end"]["sum_received"]["bytes"] > 15e6
    sink.stop()


@both
@pytest.mark.parametrize("firewall", [False, True])
def test_con1_with_a_bridge_only_the_bridge_is_spoken_to_by_its_protocol_and_never_the_server(
    kind: str, firewall: bool
) -> None:
    protocol, port = BRIDGE_PORTS[kind]
    with walking(kind, firewall) as walk:
        walk.start()
        walk.wait_for("connected", 20)
        if firewall:
            assert f"{lab.BRIDGE4} {protocol} dport {port}" in rules(walk)
            assert not any("accept" in rule for rule in rules(walk).splitlines() if lab.RELAY4 in rule)
        assert wrong(walk.probe("connected", "connected")) == []
        assert walk.stop() == 0
        lines = [line for line in sent(walk) if lab.BRIDGE4 in line]
        assert lines
        assert all(line.startswith(f"{protocol.upper()} {lab.DEVICE4} -> {lab.BRIDGE4}") for line in lines)
        assert all(f"-> {port}" in line for line in lines)
        assert not any(lab.RELAY4 in line for line in sent(walk))


@both
@pytest.mark.slow
def test_no_state_and_no_change_lets_anything_out_over_a_bridge_either(kind: str) -> None:
    with Walk(bridge=kind, firewall=kind == "udp-over-tcp") as walk:
        _walk_and_judge(walk)


@pytest.mark.parametrize(
    ("kind", "firewall"),
    [
        ("udp-over-tcp", True),
        ("shadowsocks", False),
        pytest.param("udp-over-tcp", False, marks=pytest.mark.slow),
        pytest.param("shadowsocks", True, marks=pytest.mark.slow),
    ],
)
def test_a_wrong_port_or_a_bridge_that_is_down_stays_connecting_and_blocks(kind: str, firewall: bool) -> None:
    with walking(kind, firewall) as walk:
        walk.start(*walk.bridge_options(port=4433))
        walk.wait_for("connecting", 20)
        wait_until(lambda: bool(problems(walk)), 20, "a reason")
        assert f"bridge {kind} {lab.BRIDGE4}:4433" in problems(walk)[-1]
        assert wrong(walk.probe("a wrong port", "connecting")) == []
        assert walk.stop() == 0
        assert walk.bridge_end is not None
        walk.bridge_end.stop()
        walk.start()
        walk.wait_for("connecting", 20)
        wait_until(lambda: bool(problems(walk)), 20, "a reason")
        assert wrong(walk.probe("the bridge down", "connecting")) == []
        assert not any(lab.RELAY4 in line for line in sent(walk))
        walk.start_bridge()
        walk.wait_for("connected", 40)
        assert wrong(walk.probe("the bridge up", "connected")) == []


def test_a_bridge_that_is_lost_is_noticed_at_once_and_opened_again_by_the_next_attempt() -> None:
    with walking("udp-over-tcp") as walk:
        walk.start()
        walk.wait_for("connected", 20)
        walk.guard()
        assert walk.bridge_end is not None
        walk.bridge_end.stop(signal.SIGKILL)
        walk.wait_for("connecting", 20)
        assert f"the bridge udp-over-tcp {lab.BRIDGE4}:443 is lost" in problems(walk)[0]
        assert wrong(walk.probe("the bridge lost", "connecting")) == []
        walk.start_bridge()
        walk.wait_for("connected", 40)
        walk.unguard()
        assert walk.leaks() == []
        assert walk.status()["problem"] is None


def test_a_wrong_password_is_no_answer_and_blocks() -> None:
    with walking("shadowsocks") as walk:
        walk.start(*walk.bridge_options(password="another"))
        walk.wait_for("connecting", 20)
        wait_until(lambda: bool(problems(walk)), 20, "a reason")
        assert "no answer from" in problems(walk)[0]
        assert wrong(walk.probe("a wrong password", "connecting")) == []


def test_the_password_is_neither_in_the_status_nor_in_the_log() -> None:
    with walking("shadowsocks") as walk:
        walk.start("--verbose")
        walk.wait_for("connected", 20)
        status = walk.status()
        assert walk.stop() == 0
        assert walk.run is not None
        told = json.dumps(status) + walk.run.output()
        assert f"shadowsocks {lab.BRIDGE4}:8388" in told
        assert BRIDGE_PASSWORD not in told


def test_aes_is_spoken_too() -> None:
    with walking("shadowsocks") as walk:
        assert walk.bridge_end is not None
        walk.bridge_end.stop()
        walk.start_bridge("aes-256-gcm")
        walk.start("--bridge-cipher", "aes-256-gcm")
        walk.wait_for("connected", 20)


@pytest.mark.parametrize(("kind", "mtu"), [("udp-over-tcp", 1420), ("shadowsocks", 1420 - 55)])
def test_the_tunnels_mtu_is_what_fits_and_bulk_goes_through_without_fragments(kind: str, mtu: int) -> None:
    with walking(kind) as walk:
        walk.start()
        walk.wait_for("connected", 20)
        assert f"mtu {mtu} " in walk.lab["device"].ip(f"link show {walk.iface}")
        transfer(walk)
        transfer(walk, "-R")
        assert not any("fragment" in line for line in sent(walk))
        status = walk.status()
        assert status["bridge"] == f"{kind} {lab.BRIDGE4}:{BRIDGE_PORTS[kind][1]}"
        assert f"{lab.RELAY4}:{lab.RELAY_PORT}" in json.dumps(status["peers"])
