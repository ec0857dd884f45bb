"""The lab can fail: a setup that leaks is told, so is one that loses, and a blind witness proves nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from engine.leaklab import cells, world
from engine.leaklab.arena import Arena, Condition
from engine.leaklab.capture import Capture
from engine.leaklab.cells import Findings, Test
from engine.leaklab.namespaces import wait_until
from engine.leaklab.result import Cell, Verdict

pytestmark = [pytest.mark.netns, pytest.mark.timeout(300), pytest.mark.xdist_group("leaklab")]
CONNECTED = Condition("connected")


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with Arena(progress=lambda line: None) as arena:
        yield arena


def run(arena: Arena, do: cells.Do, before: cells.Do | None = None, known: str = "") -> Cell:
    return cells.run(arena, Test("tests", "made on purpose", do, (CONNECTED,), before=before, known=known), CONNECTED)


def open_everything(arena: Arena, condition: Condition, findings: Findings) -> None:
    """Nobody watches any more: the daemon is killed, its table and its rules are removed."""
    arena.driver.kill()
    device, wire = arena.lab["device"], arena.captures["the device's wire"]
    device.sh("nft", "delete", "table", "inet", "molehill")
    for family in ("", "-6 "):
        for priority in (190, 130, 195):
            while f"{priority}:" in device.ip(f"{family}rule show proto 109"):
                device.ip(f"{family}rule del pref {priority}")
    before = len(wire.frames)
    wait_until(lambda: len(wire.frames) > before + 200, 20, "frames in clear")


def test_a_hole_made_on_purpose_is_a_leak_of_every_kind(arena: Arena) -> None:
    cell = run(arena, open_everything)
    assert cell.verdict is Verdict.FAILED
    assert cell.out > 50
    assert any("udp 203.0.113.80" in line for line in cell.evidence)


def test_a_leak_with_an_explanation_is_not_a_failure_and_is_still_told(arena: Arena) -> None:
    cell = run(arena, open_everything, known="LNX-2")
    assert cell.verdict is Verdict.KNOWN
    assert cell.text == f"{cell.out} LNX-2"


def test_one_packet_to_a_neighbour_is_a_leak(arena: Arena) -> None:
    def one(arena: Arena, condition: Condition, findings: Findings) -> None:
        device = arena.lab["device"]
        arena.driver.signal(signal.SIGSTOP)  # it would close the hole within a moment
        device.sh("nft", "insert", "rule", "inet", "molehill", "output", "ip", "daddr", world.LAN_HOST4, "icmp", "type",
                  "echo-request", "counter", "accept")  # fmt: skip
        device.sh("sh", "-c", f"ping -c 1 -W 1 -I eth0 {world.LAN_HOST4} || true")
        arena.driver.signal(signal.SIGCONT)

    cell = run(arena, one)
    assert cell.verdict is Verdict.FAILED
    assert cell.evidence[0].endswith(f"protocol 1 {world.DEVICE4} -> {world.LAN_HOST4}")


def test_what_connected_permits_and_somebody_drops_is_lost(arena: Arena) -> None:
    def drop(arena: Arena, condition: Condition, findings: Findings) -> None:
        device = arena.lab["device"]
        device.sh("nft", "add table inet foreign; add chain inet foreign out { type filter hook output priority 0; }; "
                  f"add rule inet foreign out oifname {arena.driver.iface} drop")  # fmt: skip
        cells.inside(arena, findings, "with a foreign rule")
        device.sh("nft", "delete", "table", "inet", "foreign")

    cell = run(arena, drop)
    assert cell.verdict is Verdict.FAILED
    assert cell.lost == 5


def test_a_witness_on_the_wrong_wire_makes_the_cell_void(arena: Arena) -> None:
    arena.captures["the device's wire"].close()
    arena.captures["the device's wire"] = Capture(arena.lab["isp"], "rogue0", [])
    cell = run(arena, lambda arena, condition, findings: None)
    assert cell.verdict is Verdict.VOID
    assert "not seen where nothing is enforced" in cell.void


def test_what_is_left_behind_after_a_disconnect_is_told(arena: Arena) -> None:
    def leave_a_rule(arena: Arena, condition: Condition, findings: Findings) -> None:
        arena.lab["device"].ip("rule add pref 32000 table main")

    cell = run(arena, leave_a_rule)
    assert cell.verdict is Verdict.FAILED
    assert "left behind" in cell.evidence[0]
