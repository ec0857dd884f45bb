"""The daemon as a user has it: import, connect, browse, disconnect; and what stays when it ends, in whatever way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine.leaklab.probes import run_all
from engine.management import schema
from engine.management.client import ManagementError
from engine.policy import MARK
from tests.netns import lab
from tests.netns.daemon import Daemon
from tests.netns.lab import wait_until
from tests.netns.scenario import PROBES, Walk
from tests.netns.test_crash import traces, wrong

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and routes need root"),
]


@pytest.fixture
def walk() -> Iterator[Walk]:
    with Walk(firewall=True, progress=lambda text: None) as walk:
        yield walk


def started(walk: Walk, system_state: str = "") -> Daemon:
    daemon = Daemon(walk.lab, system_state=system_state)
    daemon.start()
    return daemon


def connected(walk: Walk, system_state: str = "") -> Daemon:
    daemon = started(walk, system_state)
    daemon.import_conf("se1", walk.write_conf().read_text())
    daemon.connect()
    return daemon


def seen_from(walk: Walk) -> str | None:
    """The source address that a web server sees; None: it is not reached."""
    (attempt,) = run_all(walk.lab, [probe for probe in PROBES if probe.name == "TCP to the internet"])
    return attempt.source


def blocked(walk: Walk, what: str) -> None:
    assert wrong(walk.probe(what, "error")) == []


def test_import_connect_browse_disconnect(walk: Walk) -> None:
    daemon = started(walk)
    before = traces(walk)
    assert seen_from(walk) == lab.DEVICE4
    imported = daemon.import_conf("se1", walk.write_conf().read_text())
    assert imported.tunnel.endpoint == f"{lab.RELAY4}:{lab.RELAY_PORT}"
    daemon.connect()
    assert seen_from(walk) == lab.TUNNEL4
    status = daemon.status()
    assert (status.connecting_to, status.enforced, status.mode) == ("se1", True, "firewall")
    daemon.disconnect()
    assert seen_from(walk) == lab.DEVICE4
    assert traces(walk) == before


def test_err3_a_foreign_interface_in_the_tuns_place_leaves_everything_unreachable_and_then_nothing(
    walk: Walk,
) -> None:
    daemon = Daemon(walk.lab)
    daemon.start("--mode", "vpn-service")
    before, device = traces(walk), walk.lab["device"]
    daemon.import_conf("se1", walk.write_conf().read_text())
    device.ip("link add molehill0 type veth peer name 0llihelom")
    with daemon.client() as client:
        client.call("connect", None, schema.Status)
    daemon.wait_for("error")
    status = daemon.status()
    assert (status.cause_kind, status.enforced) == ("tun-device", False)
    assert "of another kind" in (status.cause or "")
    for target in (lab.WEB4, lab.WEB6):
        with pytest.raises(RuntimeError, match=r"unreachable|No route to host"):
            device.ip(f"route get {target}")
        assert "dev eth0" in device.ip(f"route get {target} mark {MARK:#x}")
    device.ip("link del molehill0")
    daemon.disconnect()
    assert seen_from(walk) == lab.DEVICE4
    assert traces(walk) == before


def test_settings_change_under_the_running_tunnel(walk: Walk) -> None:
    daemon = connected(walk)
    since = daemon.status().since
    lan = [probe for probe in PROBES if probe.name == "UDP to a LAN host"]
    assert run_all(walk.lab, lan)[0].source is None
    daemon.set(allow_lan=True)
    assert run_all(walk.lab, lan)[0].source == lab.DEVICE4
    daemon.set(allow_lan=False)
    assert run_all(walk.lab, lan)[0].source is None
    assert daemon.status().since == since


def test_ks1_start1_killed_it_leaves_the_block_and_the_next_start_connects(walk: Walk) -> None:
    daemon = connected(walk)
    daemon.kill()
    blocked(walk, "killed")
    daemon.start()
    daemon.wait_for("connected")
    assert seen_from(walk) == lab.TUNNEL4


def test_killed_under_a_service_manager_the_tun_is_never_without_an_owner(walk: Walk) -> None:
    daemon = connected(walk, "running")
    assert daemon.process is not None
    index = (walk.lab["device"].ip("-o link show dev molehill0")).split(":")[0]
    walk.guard()
    for _ in range(3):
        daemon.kill()
        daemon.wait_for("connected")
    wait_until(lambda: daemon.process.output().count("READY=1") == 4, 10, "the manager has heard it")
    assert walk.capture is not None
    walk.capture.flush()
    assert walk.leaks() == []
    assert (walk.lab["device"].ip("-o link show dev molehill0")).split(":")[0] == index
    said = daemon.process.output()
    assert said.count("ENDED -9 tun-molehill0") == 3
    assert "the kept descriptor cannot be used" not in said
    assert said.count("READY=1") == 4
    walk.unguard()
    daemon.disconnect()  # and then nothing holds it any more
    assert not walk.lab["device"].has_interface("molehill0")


def test_exit1_the_users_stop_opens(walk: Walk) -> None:
    daemon = started(walk, "running")
    before = traces(walk)
    daemon.import_conf("se1", walk.write_conf().read_text())
    daemon.connect()
    assert daemon.stop() == 0
    assert seen_from(walk) == lab.DEVICE4
    assert traces(walk) == before
    daemon.start()
    assert daemon.state() == "disconnected"


@pytest.mark.parametrize("system_state", ["stopping", ""])
def test_exit1_start1_a_shutdown_keeps_the_block_and_so_does_a_stop_that_nobody_explains(
    walk: Walk, system_state: str
) -> None:
    daemon = connected(walk, system_state)
    assert daemon.stop() == 0
    blocked(walk, "shut down")
    daemon.start()  # the next boot: without auto-connect it is disconnected, and open
    assert daemon.state() == "disconnected"
    assert seen_from(walk) == lab.DEVICE4


def test_exit1_start1_a_restart_keeps_the_block_and_connects_again(walk: Walk) -> None:
    daemon = connected(walk, "running")
    assert daemon.process is not None
    first = daemon.pid
    walk.guard()
    daemon.process.popen.send_signal(signal.SIGUSR2)
    wait_until(lambda: "ENDED 0" in daemon.process.output(), 20, "it has ended")  # type: ignore[union-attr]
    daemon.wait_for("connected")
    assert daemon.pid != first
    assert walk.capture is not None
    walk.capture.flush()
    assert walk.leaks() == []


def test_exit1_always_require_vpn_outlives_the_users_stop(walk: Walk) -> None:
    daemon = connected(walk, "running")
    daemon.set(always_require_vpn=True)
    daemon.disconnect()
    blocked(walk, "disconnected, VPN always required")
    assert daemon.stop() == 0
    blocked(walk, "stopped, VPN always required")


@pytest.mark.parametrize("what", ["settings.json", "target-state.json"])
def test_a_corrupt_file_leaves_nothing_open(walk: Walk, what: str) -> None:
    daemon = started(walk)
    daemon.import_conf("se1", walk.write_conf().read_text())
    daemon.stop()
    walk.cut_relay(True)
    (daemon.state_folder / what).write_bytes(b'{"version": 1, "set')
    daemon.start()
    blocked(walk, f"{what} is corrupt")
    status = daemon.status()
    assert status.blocks
    if what == "settings.json":
        assert "settings.json.broken-1" in status.notices[0]
    else:
        assert status.state == "connecting"


def test_boot1_early_boot_blocking_lasts_until_the_daemon_runs(walk: Walk) -> None:
    daemon = Daemon(walk.lab)
    before = traces(walk)
    early = walk.lab.start(walk.lab["device"], "molehill", "daemon", "--early-boot-blocking", env=daemon.env)
    assert early.popen.wait(20) == 0, early.output()
    blocked(walk, "early boot")
    daemon.start()
    assert seen_from(walk) == lab.DEVICE4
    assert traces(walk) == before


def test_boot1_early_boot_blocking_follows_the_settings_lan_and_works_without_a_network(walk: Walk) -> None:
    daemon = Daemon(walk.lab)
    daemon.start()
    daemon.set(allow_lan=True, api="203.0.113.80:7/udp")
    daemon.stop()
    device = walk.lab["device"]
    device.ip("link set eth0 down")
    early = walk.lab.start(device, "molehill", "daemon", "--early-boot-blocking", env=daemon.env)
    assert early.popen.wait(20) == 0, early.output()
    device.ip("link set eth0 up")
    device.ip(f"route replace default via {lab.ISP4}")
    names = ("UDP to a LAN host", "UDP to the internet", "DNS to a LAN host")
    attempts = run_all(walk.lab, [probe for name in names for probe in PROBES if probe.name == name])
    assert [attempt.source for attempt in attempts] == [lab.DEVICE4, None, None]


def test_the_next_relay_is_tried_when_one_does_not_answer(walk: Walk) -> None:
    daemon = started(walk)
    daemon.import_conf("me", walk.write_conf().read_text())
    good = schema.Relay("good", "se", "sto", walk.relay_keys.public, lab.RELAY4, gateways=(lab.GATEWAY4,), weight=0)
    silent = msgspec.structs.replace(good, hostname="silent", ipv4="198.51.100.99", weight=100)
    with daemon.client() as client:
        client.call("relay.load", schema.RelayList(relays=(good, silent)), schema.RelayList)
    daemon.set(choice=schema.RelayChoice("me", country="SE"))
    with daemon.client() as client:
        client.call("connect", None, schema.Status)
    assert daemon.status().connecting_to == "silent"
    daemon.wait_for("connected")
    assert (daemon.status().connecting_to, daemon.status().attempt) == ("good", 0)
    assert seen_from(walk) == lab.TUNNEL4


def test_where_udp_is_blocked_auto_finds_the_relays_own_bridge_and_opens_that_alone(walk: Walk) -> None:
    internet, relay = walk.lab["internet"], walk.lab["relay"]
    internet.sh("nft", "add table ip wall; add chain ip wall way { type filter hook forward priority 0; }; "
                "add rule ip wall way udp dport 51820 drop")  # fmt: skip
    listen, to = f"{lab.RELAY4}:443", f"{lab.RELAY4}:51820"
    walk.lab.start(relay, "molehill", "bridge-relay", "udp-over-tcp", "--listen", listen, "--to", to)
    wait_until(lambda: ":443" in relay.sh("ss", "-Hltn", "sport = :443"), 15, "the relay's bridge")
    daemon = started(walk)
    daemon.import_conf("me", walk.write_conf().read_text())
    offers = (schema.RelayBridge(schema.BridgeKind.UDP_OVER_TCP, 443),)
    one = schema.Relay(
        "se-1", "se", "sto", walk.relay_keys.public, lab.RELAY4, gateways=(lab.GATEWAY4,), bridges=offers
    )
    with daemon.client() as client:
        client.call("relay.load", schema.RelayList(relays=(one,)), schema.RelayList)
        client.call("bridge.set", schema.SetBridge(schema.Bridge(schema.BridgeKind.AUTO)), schema.Settings)
    daemon.set(choice=schema.RelayChoice("me"))
    with daemon.client() as client:
        client.call("connect", None, schema.Status)
    daemon.wait_for("connected")
    assert daemon.status().bridge == f"udp-over-tcp {listen}"
    assert f"bridge {listen}/tcp" in daemon.status().policy  # CON-1
    assert "51820" not in daemon.status().policy
    assert seen_from(walk) == lab.TUNNEL4


def test_a_socket_that_somebody_removes_comes_back(walk: Walk) -> None:
    daemon = started(walk)
    pid = daemon.pid
    os.kill(pid, signal.SIGSTOP)  # it looks after its socket every second
    daemon.socket.unlink()
    with pytest.raises(ManagementError, match="not running"):
        daemon.status()
    os.kill(pid, signal.SIGCONT)
    wait_until(daemon.socket.exists, 5, "the socket is back")
    assert daemon.state() == "disconnected"


def test_a_full_disk_stops_changes_and_nothing_else(walk: Walk) -> None:
    disk = walk.lab.dir / "state"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], check=True)
    try:
        daemon = started(walk)
        daemon.import_conf("se1", walk.write_conf().read_text())
        subprocess.run(["dd", "if=/dev/zero", f"of={disk}/rubbish"], capture_output=True, check=False)
        with pytest.raises(ManagementError, match="No space left on device"):
            daemon.set(allow_lan=True)
        daemon.connect()
        assert seen_from(walk) == lab.TUNNEL4
        daemon.kill()
        daemon.start()
        daemon.wait_for("connected")  # what the user wants was kept in memory
        (disk / "rubbish").unlink()
        assert daemon.set(allow_lan=True).allow_lan
        daemon.disconnect()
        daemon.stop()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_without_descriptors_the_tunnel_stays_and_the_daemon_comes_back(walk: Walk) -> None:
    daemon = connected(walk)
    pid = daemon.pid
    used = len(os.listdir(f"/proc/{pid}/fd"))
    subprocess.run(["prlimit", "--pid", str(pid), f"--nofile={used}:4096"], check=True)
    crowd = [socket.socket(socket.AF_UNIX) for _ in range(50)]
    for each in crowd:
        each.settimeout(5)
        each.connect(str(daemon.socket))
    assert seen_from(walk) == lab.TUNNEL4
    time.sleep(2)  # the socket is looked after meanwhile
    for each in crowd:
        each.close()
    subprocess.run(["prlimit", "--pid", str(pid), "--nofile=1024:4096"], check=True)
    assert daemon.status().state == "connected"
    daemon.disconnect()


def test_explain_speaks_of_the_policy_in_force(walk: Walk) -> None:
    daemon = connected(walk)
    packet = schema.Packet("out tunnel udp 10.64.0.2:5353 > 9.9.9.9:53")
    with daemon.client() as client:
        found = client.call("explain", packet, schema.Explanation)
        assert (found.verdict, found.rule) == ("reject", "CTD-2")
        daemon.disconnect()
        found = client.call("explain", packet, schema.Explanation)
        assert (found.verdict, found.rule) == ("accept", "DIS-1")


def test_a_second_daemon_is_refused_and_harms_nothing(walk: Walk) -> None:
    daemon = connected(walk)
    second = walk.lab.start(walk.lab["device"], "molehill", "daemon", env=daemon.env)
    assert second.popen.wait(20) == 1
    assert "another molehill" in second.output()
    assert daemon.state() == "connected"


def test_no_key_is_in_the_log_or_in_the_files_that_others_can_read(walk: Walk) -> None:
    daemon = connected(walk)
    assert daemon.process is not None
    with daemon.client() as client:
        log = client.call("log", schema.Lines(1000), schema.Log)
    assert any("connect by user 0" in line.text for line in log.lines)
    assert walk.keys.private not in daemon.process.output() + json.dumps([line.text for line in log.lines])
    for path in daemon.state_folder.rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path
    assert Path(daemon.state_folder / "tunnels").stat().st_mode & 0o077 == 0
