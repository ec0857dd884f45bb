"""The commands against the real daemon, as a user types them: what they change is so, and what they say is true."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from engine.leaklab.probes import run_all
from tests.netns import lab
from tests.netns.daemon import Daemon
from tests.netns.scenario import PROBES, Walk

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and routes need root"),
]


@pytest.fixture
def walk() -> Iterator[Walk]:
    with Walk(progress=lambda text: None) as walk:
        yield walk


@pytest.fixture
def daemon(walk: Walk) -> Daemon:
    made = Daemon(walk.lab)
    made.start()
    return made


class Shell:
    """Runs `molehill` in the device's namespace."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk

    def __call__(self, *words: str, code: int = 0) -> str:
        """What it prints on standard output, or on standard error where it is to fail."""
        command = ["ip", "netns", "exec", self._walk.lab["device"].name, "molehill", *words]
        done = subprocess.run(
            command, env=self._walk.lab.env, capture_output=True, text=True, check=False, timeout=60
        )  # fmt: skip
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done.stderr if code else done.stdout


def reaches(walk: Walk, probe: str) -> str | None:
    """The source address by which a kind of probe arrives; None: it does not."""
    (attempt,) = run_all(walk.lab, [each for each in PROBES if each.name == probe])
    return attempt.source


def test_a_user_imports_connects_looks_changes_and_disconnects(walk: Walk, daemon: Daemon) -> None:
    shell = Shell(walk)
    conf = walk.write_conf()
    assert "nothing to connect anew" in shell("reconnect", code=1)
    assert shell("tunnel", "import", str(conf), "--name", "se1").startswith("imported se1: ")
    assert shell("tunnel", "list").startswith("* se1")
    assert shell("connect", "--wait").startswith("connected to se1 at ")
    assert reaches(walk, "TCP to the internet") == lab.TUNNEL4

    told = shell("status", "-v")
    assert told.startswith("CONNECTED since ")
    assert "se1 at " in told
    assert "CTD-1 " in told, "the verdicts by rule id"
    assert json.loads(shell("status", "--json"))["enforced"] is True

    assert reaches(walk, "TCP to a LAN host") is None
    assert shell("lan", "set", "allow").startswith("allow")
    assert reaches(walk, "TCP to a LAN host") is not None
    assert shell("lan", "set", "block").startswith("block")
    assert reaches(walk, "TCP to a LAN host") is None

    assert shell("dns", "set", "custom", "9.9.9.9") == "custom: 9.9.9.9\n"
    assert "DNS custom 9.9.9.9" in json.loads(shell("status", "--json"))["policy"]
    assert "9.9.9.999" in shell("dns", "set", "custom", "9.9.9.999", code=2)
    assert shell("dns", "get") == "custom: 9.9.9.9\n"
    explained = json.loads(shell("explain", "out tunnel udp 10.64.0.2:5000 > 10.64.0.1:53", "--json"))
    assert (explained["verdict"], explained["rule"]) == ("reject", "CTD-2")
    shell("dns", "set", "default")

    assert shell("reconnect", "--wait").startswith("connected to se1")
    assert "is in use" in shell("tunnel", "remove", "se1", code=1)
    assert "reconnect by " in shell("log")
    assert shell("disconnect", "--wait") == "disconnected\n"
    assert reaches(walk, "TCP to the internet") == lab.DEVICE4
    assert shell("tunnel", "remove", "se1") == "removed: se1\n"


def test_a_wait_that_ends_in_an_error_says_why_and_what_is_blocked_stays_so(walk: Walk, daemon: Daemon) -> None:
    shell = Shell(walk)
    assert "molehill tunnel import" in shell("connect", "--wait", code=1)
    shell("tunnel", "import", str(walk.write_conf()), "--name", "se1")
    shell("connect", "--wait")
    assert shell("debug", "block", "to see").startswith("error: ")
    assert "to see" in shell("status")
    assert reaches(walk, "TCP to the internet") is None
    assert shell("connect", "--wait").startswith("connected")
    walk.cut_relay(True)
    assert "not connected after 2 s: connecting to se1" in shell("reconnect", "--wait", "--timeout", "2", code=1)
    walk.cut_relay(False)
    assert shell("connect", "--wait").startswith("connected")
    shell("disconnect", "--wait")


def test_lockdown_blocks_while_disconnected_and_opens_when_switched_off(walk: Walk, daemon: Daemon) -> None:
    shell = Shell(walk)
    assert shell("lockdown", "set", "on").startswith("on: ")
    assert reaches(walk, "TCP to the internet") is None
    assert "lockdown is on" in shell("disconnect", "--wait")
    assert shell("lockdown", "set", "off").startswith("off: ")
    assert reaches(walk, "TCP to the internet") == lab.DEVICE4


def test_a_problem_report_of_a_living_tunnel_has_no_key_and_no_address(walk: Walk, daemon: Daemon) -> None:
    shell = Shell(walk)
    conf = walk.write_conf()
    shell("tunnel", "import", str(conf), "--name", "se1")
    shell("connect", "--wait")
    report = shell("problem-report", "show")
    assert '"state": "connected"' in report
    assert "table inet molehill {" in report
    assert "connect by " in report
    secrets = [line.partition("=")[2].strip() for line in conf.read_text().splitlines() if "Key" in line]
    assert secrets
    for found in (*secrets, lab.RELAY4, lab.DEVICE4, lab.TUNNEL4, lab.GATEWAY4):
        assert found not in report
    shell("disconnect", "--wait")
