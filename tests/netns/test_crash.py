"""The process is killed (SIGKILL), or ends and has to leave the block behind: nothing opens until it shall.

Connecting and Connected are in test_leaks; here is the rest.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.leaklab.probes import Drizzle
from tests.netns.scenario import Round, Walk

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and routes need root"),
]

TRACES = ("rule", "-6 rule", "route show table all", "-6 route show table all", "-brief link")


@pytest.fixture
def walk() -> Iterator[Walk]:
    with Walk(progress=lambda text: None) as walk:
        yield walk


def traces(walk: Walk) -> list[str]:
    """All that a run may leave in the machine, in the words of `ip`."""
    return [walk.lab["device"].ip(words) for words in TRACES]


def wrong(round_: Round) -> list[str]:
    return [f"{row.probe.name}: {row.seen}, expected {row.expected}" for row in round_.rows if not row.ok]


def workers(pid: int) -> int:
    """How many datapath threads the process has."""
    return sum(task.read_text() == "molehill-data\n" for task in Path(f"/proc/{pid}/task").glob("*/comm"))


def kill(walk: Walk) -> None:
    assert walk.stop(signal.SIGKILL) == -signal.SIGKILL


def test_killed_in_error_everything_stays_blocked_and_the_next_run_takes_over(walk: Walk) -> None:
    before = traces(walk)
    walk.start()
    walk.wait_for("connected", 20)
    walk.lose_the_way(True)
    walk.wait_for("error", 20)
    kill(walk)
    assert wrong(walk.probe("killed in error", "error")) == []
    walk.lose_the_way(False)
    walk.start()
    walk.wait_for("connected", 20)
    assert wrong(walk.probe("taken over", "connected")) == []
    assert walk.stop() == 0
    assert traces(walk) == before


@pytest.mark.parametrize(("first", "then"), [(4, 4), (4, 1), (1, 4)])
def test_several_threads_change_policy_under_traffic_are_killed_and_taken_over(
    walk: Walk, first: int, then: int
) -> None:
    before = traces(walk)
    walk.drizzle = Drizzle(walk.lab["device"])
    walk.start("--threads", str(first))
    walk.wait_for("connected", 20)
    walk.guard()
    walk.drizzle.start()
    assert walk.run is not None
    assert workers(walk.run.pid) == first
    assert wrong(walk.probe("connected", "connected")) == []
    walk.lose_the_way(True)
    walk.wait_for("error", 20)
    assert wrong(walk.probe("error", "error")) == []
    kill(walk)
    assert wrong(walk.probe("killed in error", "error")) == []
    walk.lose_the_way(False)
    walk.start("--threads", str(then))
    walk.wait_for("connected", 20)
    assert workers(walk.run.pid) == (then if first > 1 else 1)  # it is taken over as what it was made
    assert wrong(walk.probe("taken over", "connected")) == []
    walk.drizzle.close()
    walk.unguard()
    assert walk.stop() == 0
    assert walk.leaks() == []
    assert traces(walk) == before


def test_killed_and_then_the_tun_deleted_everything_is_unreachable_until_unblocked(walk: Walk) -> None:
    before = traces(walk)
    walk.start()
    walk.wait_for("connected", 20)
    kill(walk)
    walk.lab["device"].ip(f"link del {walk.iface}")
    assert wrong(walk.probe("killed, the TUN deleted", "error")) == []
    walk.lab.start(walk.lab["device"], "molehill", "unblock").popen.wait(20)
    assert traces(walk) == before


def test_always_require_vpn_blocks_after_the_disconnect_until_unblocked(walk: Walk) -> None:
    before = traces(walk)
    walk.start("--always-require-vpn")
    walk.wait_for("connected", 20)
    refused = walk.lab.start(walk.lab["device"], "molehill", "unblock")
    assert refused.popen.wait(20) == 1
    assert "stop it first" in refused.output()
    assert walk.stop() == 0
    assert wrong(walk.probe("disconnected, VPN always required", "error")) == []
    status = walk.lab.start(walk.lab["device"], "molehill", "status")
    assert status.popen.wait(20) == 1
    assert "stays blocked: sudo molehill unblock opens it" in status.output()
    opened = walk.lab.start(walk.lab["device"], "molehill", "unblock")
    assert opened.popen.wait(20) == 0
    assert traces(walk) == before
    assert wrong(walk.probe("unblocked", "disconnected")) == []
