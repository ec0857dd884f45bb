"""The lab cleans up: after itself, after an exception, and after a run that was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.netns.engines import WIREGUARD_GO, Engine, Keys, config
from tests.netns.lab import GATEWAY4, NETNS, ROOT, WEB4, WEB6, Lab, pair, remove_left_behind, wait_until, world

pytestmark = pytest.mark.netns


def _namespaces(lab: Lab) -> list[Path]:
    return [NETNS / lab[role].name for role in lab.roles]


def test_the_world_is_routed_for_both_families_and_gone_afterwards() -> None:
    with world() as lab:
        names = _namespaces(lab)
        assert len(names) == 5
        lab["device"].sh("ping", "-c", "1", "-W", "2", WEB4)
        lab["device"].sh("ping", "-c", "1", "-W", "2", WEB6)
    assert not any(name.exists() for name in names)
    assert not lab.dir.exists()


def test_an_exception_leaves_no_namespace_and_no_process() -> None:
    lab = pair()
    process = lab.start(lab["a"], "sleep", "60")
    names = _namespaces(lab)

    def fail() -> None:
        with lab:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not any(name.exists() for name in names)
    assert not process.running


_KILLED = """
import os, signal
from tests.netns.lab import pair
lab = pair()
lab.start(lab["a"], "sleep", "60")
print(lab["a"].name, lab.dir, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_left_behind_goes_with_the_next_one() -> None:
    killed = subprocess.Popen([sys.executable, "-c", _KILLED], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    with killed.stdout:
        name, scratch = killed.stdout.readline().split()
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # its process id lives on, or another run cleans up first
    assert (NETNS / name).exists()
    assert Path(scratch).exists()
    killed.wait()
    remove_left_behind()
    assert not (NETNS / name).exists()
    assert not Path(scratch).exists()


def test_a_relay_forwards_from_its_tunnel_to_the_internet_and_back() -> None:
    with world() as lab:
        ours, theirs = Keys.new(), Keys.new()
        relay = Engine(lab, lab["relay"], f"mh{lab.tag}r", WIREGUARD_GO)
        relay.setconf(config(theirs, ours.public, "10.64.0.2/32", port=51820))
        relay.up([GATEWAY4 + "/24"])
        device = Engine(lab, lab["device"], f"mh{lab.tag}d", WIREGUARD_GO)
        device.setconf(config(ours, theirs.public, "0.0.0.0/0", endpoint="198.51.100.10:51820"))
        device.up(["10.64.0.2/32"], [f"{WEB4}/32"])
        lab["device"].sh("ping", "-c", "1", "-W", "5", WEB4)
        wait_until(lambda: device.transfer()[0] > 0, 2, "bytes counted")
