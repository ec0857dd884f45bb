"""The unmodified `wg` and `wg-quick` drive our engine: every verb, and what it leaves in force."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.interop.link import OURS, Link
from tests.netns.engines import WIREGUARD_GO, Engine, Keys, config
from tests.netns.lab import Lab, pair, wait_until

pytestmark = pytest.mark.netns
BOTH = (OURS, WIREGUARD_GO)


def test_wg_show_tells_peer_endpoint_handshake_and_transfer() -> None:
    with Link(BOTH) as link:
        assert link.a.last_handshake() == 0
        assert link.a.transfer() == (0, 0)
        assert link.ping()
        shown = link.a.wg("show", link.a.iface)
        assert f"peer: {link.keys['b'].public}" in shown
        assert "endpoint: 172.16.9.2:51820" in shown
        assert "latest handshake:" in shown
        assert link.keys["a"].public in shown
        assert link.keys["a"].private not in shown
        received, sent = link.a.transfer()
        # An initiation (148) and an echo (32 + 96) out, a response (92) and an echo in; a keepalive (32) may be.
        assert sent in (148 + 128, 148 + 128 + 32)
        assert received in (92 + 128, 92 + 128 + 32)


def test_both_ends_count_the_same_bytes() -> None:
    with Link(BOTH) as link:
        for size in (0, 1, 100, 1000, 1392):
            assert link.ping(size=size)
        wait_until(lambda: link.a.transfer() == link.b.transfer()[::-1], 5, "equal counters at both ends")


def test_wg_showconf_is_a_configuration_that_setconf_takes_back() -> None:
    with Link(BOTH) as link:
        link.a.wg("set", link.a.iface, "peer", link.keys["b"].public, "persistent-keepalive", "21")
        conf = link.a.wg("showconf", link.a.iface)
        assert f"PrivateKey = {link.keys['a'].private}" in conf
        assert "AllowedIPs = 10.9.0.2/32, fd0a::2/128" in conf
        assert "PersistentKeepalive = 21" in conf
        assert "Endpoint = 172.16.9.2:51820" in conf
        time.sleep(0.1)  # the far end takes no two initiations within 50 ms
        link.a.setconf(conf)
        assert link.a.wg("showconf", link.a.iface) == conf
        assert link.ping()


def test_wg_set_changes_one_thing_and_leaves_the_rest() -> None:
    with Link(BOTH) as link:
        assert link.ping()
        other = Keys.new()
        link.a.wg("set", link.a.iface, "listen-port", "45678", "fwmark", "0x1234")
        link.a.wg("set", link.a.iface, "peer", other.public, "allowed-ips", "10.9.1.0/24,fd0b::/64")
        assert link.a.wg("show", link.a.iface, "listen-port").strip() == "45678"
        assert link.a.wg("show", link.a.iface, "fwmark").strip() == "0x1234"
        assert set(link.a.wg("show", link.a.iface, "peers").split()) == {link.keys["b"].public, other.public}
        assert link.ping()
        link.a.wg("set", link.a.iface, "peer", other.public, "remove")
        assert link.a.wg("show", link.a.iface, "peers").split() == [link.keys["b"].public]
        link.a.wg("set", link.a.iface, "fwmark", "off")
        assert link.a.wg("show", link.a.iface, "fwmark").strip() == "off"


def test_allowed_ips_move_to_the_peer_that_claims_them_last() -> None:
    with Link(BOTH) as link:
        assert link.ping()
        other = Keys.new()
        link.a.wg("set", link.a.iface, "peer", other.public, "allowed-ips", "10.9.0.2/32")
        assert not link.ping(4, wait=1)
        assert link.ping(6)
        link.a.wg("set", link.a.iface, "peer", link.keys["b"].public, "allowed-ips", "10.9.0.2/32,fd0a::2/128")
        assert link.ping(4)


def test_syncconf_keeps_the_session_of_an_unchanged_peer() -> None:
    with Link(BOTH) as link:
        assert link.ping()
        handshake = link.a.last_handshake()
        conf = config(link.keys["a"], link.keys["b"].public, "10.9.0.2/32,fd0a::2/128", endpoint="172.16.9.2:51820")
        more = conf + f"[Peer]\nPublicKey = {Keys.new().public}\nAllowedIPs = 10.9.7.0/24\n"
        path = link.lab.dir / "sync.conf"
        path.write_text(more)
        link.a.wg("syncconf", link.a.iface, str(path))
        assert len(link.a.wg("show", link.a.iface, "peers").split()) == 2
        path.write_text(conf)
        link.a.wg("syncconf", link.a.iface, str(path))
        assert link.a.wg("show", link.a.iface, "peers").split() == [link.keys["b"].public]
        assert link.ping()
        assert link.a.last_handshake() == handshake


def test_addconf_adds_a_peer_and_touches_no_other() -> None:
    with Link(BOTH) as link:
        assert link.ping()
        other = Keys.new()
        path = link.lab.dir / "add.conf"
        path.write_text(f"[Peer]\nPublicKey = {other.public}\nAllowedIPs = 10.9.8.0/24\n")
        link.a.wg("addconf", link.a.iface, str(path))
        assert set(link.a.wg("show", link.a.iface, "peers").split()) == {link.keys["b"].public, other.public}
        assert link.ping()


def test_a_bad_value_is_refused_and_changes_nothing() -> None:
    with Link(BOTH) as link:
        before = link.a.wg("showconf", link.a.iface)
        done = subprocess.run(
            ["ip", "netns", "exec", link.a.ns.name, "python3", "-c", _RAW_SET, link.a.iface],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.startswith("errno=")
        assert not done.stdout.startswith("errno=0")
        assert link.a.wg("showconf", link.a.iface) == before


_RAW_SET = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(f"/var/run/wireguard/{sys.argv[1]}.sock")
s.sendall(b"set=1\\nlisten_port=70000\\n\\n")
print(s.recv(4096).decode())
"""


def test_the_control_socket_is_for_root_alone() -> None:
    with Link(BOTH) as link:
        assert Path(f"/var/run/wireguard/{link.a.iface}.sock").stat().st_mode & 0o777 in (0o600, 0o700)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace, which slows the start down, is not installed")
def test_wg_asking_in_the_moment_of_the_start_does_not_unlink_the_socket() -> None:
    """`wg` removes a socket that refuses it: it must not see ours before we listen."""
    slow = f"strace -o /dev/null -f -e trace=listen -e inject=listen:delay_enter=300000 {OURS}"
    with pair() as lab:
        engine = Engine(lab, lab["a"], f"mh{lab.tag}a", slow)  # asks again and again from the first moment
        assert engine.wg("show", engine.iface, "listen-port")


@pytest.mark.parametrize("how", ["interface", "socket"])
def test_deleting_the_interface_or_the_socket_ends_the_engine(how: str) -> None:
    with Link(BOTH) as link:
        if how == "interface":
            link.a.ns.ip(f"link del {link.a.iface}")
        else:
            Path(f"/var/run/wireguard/{link.a.iface}.sock").unlink()
        wait_until(lambda: not link.a.process.running, 5, "the engine's end")
        assert link.a.process.popen.returncode == 0
        assert not link.a.ns.has_interface(link.a.iface)
        assert not Path(f"/var/run/wireguard/{link.a.iface}.sock").exists()


def _wg_quick(lab: Lab, verb: str, conf: Path) -> str:
    command = OURS.split()[0]
    env = {**lab.env, "WG_QUICK_USERSPACE_IMPLEMENTATION": command, "LOG_LEVEL": "error"}
    log = lab.dir / f"wg-quick-{verb}.log"  # not a pipe: an engine that stays may hold it open
    with log.open("w") as out:
        done = subprocess.run(
            ["ip", "netns", "exec", lab["a"].name, "wg-quick", verb, str(conf)],
            env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False, timeout=30,
        )  # fmt: skip
    assert done.returncode == 0, log.read_text()
    return log.read_text()


def test_wg_quick_brings_the_tunnel_up_with_a_default_route_and_takes_it_down() -> None:
    ours, theirs = Keys.new(), Keys.new()
    with pair() as lab:
        far = Engine(lab, lab["b"], f"mh{lab.tag}b", WIREGUARD_GO)
        far.setconf(config(theirs, ours.public, "10.9.0.1/32,fd0a::1/128", port=51820))
        far.up(["10.9.0.2/24", "fd0a::2/64", "192.0.2.99/32"])
        name = f"mh{lab.tag}q"
        conf = lab.dir / f"{name}.conf"
        conf.touch(mode=0o600)
        conf.write_text(
            f"[Interface]\nPrivateKey = {ours.private}\nAddress = 10.9.0.1/32, fd0a::1/128\nMTU = 1400\n"
            f"[Peer]\nPublicKey = {theirs.public}\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = 172.16.9.2:51820\n"
        )
        said = _wg_quick(lab, "up", conf)
        assert "fwmark 51820" in said
        assert lab["a"].sh("ping", "-c", "1", "-W", "5", "192.0.2.99")
        assert lab["a"].sh("ping", "-c", "1", "-W", "5", "fd0a::2")
        assert "mtu 1400" in lab["a"].ip(f"link show {name}")
        _wg_quick(lab, "down", conf)
        wait_until(lambda: not lab["a"].has_interface(name), 5, "the interface gone")
        socket = Path(f"/var/run/wireguard/{name}.sock")
        wait_until(lambda: not socket.exists(), 5, "the control socket gone")
        assert os.path.basename(socket) not in os.listdir("/var/run/wireguard")
