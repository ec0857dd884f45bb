"""What the TUN alone cannot stop the lab does see: each known gap is caught, and at nothing else."""

from __future__ import annotations

import signal

import pytest

from engine.leaklab import world
from engine.leaklab.arena import Arena, Condition
from engine.leaklab.matrix import Matrix
from engine.leaklab.namespaces import wait_until
from engine.leaklab.probes import Probe, udp
from engine.leaklab.result import Verdict

pytestmark = [pytest.mark.netns, pytest.mark.timeout(300), pytest.mark.xdist_group("leaklab")]
CONNECTED = Condition("connected")


def test_a_foreign_rule_before_ours_would_leak_if_nobody_answered_it() -> None:
    """The control of the fault: where the TUN alone enforces, and while the daemon is stopped."""
    internet = Probe("UDP", "internet", udp(world.WEB4))
    with Arena(firewall=False, progress=lambda line: None) as arena:
        arena.begin()
        arena.reach(CONNECTED)
        arena.driver.signal(signal.SIGSTOP)
        device = arena.lab["device"]
        device.ip("rule add pref 99 lookup main")
        attempts, frames, _ = arena.probe([internet])
        assert any(frame.carries(token) for frame in frames for token in attempts[0].tokens)
        arena.driver.signal(signal.SIGCONT)
        wait_until(lambda: "proto 109" in device.ip("rule show").splitlines()[1], 10, "our rules at the front")
        attempts, frames, _ = arena.probe([internet])
        assert not any(frame.carries(token) for frame in frames for token in attempts[0].tokens)
        assert attempts[0].source == world.TUNNEL4


def test_the_tun_alone_is_caught_at_each_of_its_known_gaps() -> None:
    with Arena(firewall=False, progress=lambda line: None) as arena:
        rounds = Matrix(arena)
        arena.begin()
        rounds.control()
        arena.begin()
        arena.reach(CONNECTED)
        seen = {cell.test: cell.text for cell in rounds.round(CONNECTED) if cell.verdict is not Verdict.ZERO}
    for test, text in (
        ("UDP to a LAN host, bound to eth0", "1 LNX-1"),
        ("UDP marked as the engine's own", "1 LNX-2"),
        ("multicast ff05::1234, by eth0", "1 LNX-3"),
        ("UDP from the internet", "1 LNX-4"),
        ("a frame by a packet socket (root)", "1 NFT-1"),
    ):
        assert seen[test] == text
    assert "TCP to the internet" not in seen
