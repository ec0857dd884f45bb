"""`molehill run` as a user has it: going offline, refusals, JSON, an idle session, an underlying network."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns import lab
from tests.netns.engines import wait_until_idle
from tests.netns.lab import ROOT, wait_until
from tests.netns.scenario import Walk

pytestmark = pytest.mark.netns


@pytest.fixture
def walk() -> Iterator[Walk]:
    with Walk(progress=lambda text: None) as walk:
        yield walk


def test_going_offline_is_an_error_that_blocks_and_coming_back_connects_by_itself(walk: Walk) -> None:
    device = walk.lab["device"]
    walk.start()
    walk.wait_for("connected", 20)
    device.ip("link set eth0 down")
    walk.wait_for("error", 10)
    assert walk.status()["cause_kind"] == "offline"
    device.ip("link set eth0 up")
    device.ip(f"route add default via {lab.ISP4}")
    walk.wait_for("connected", 20)
    assert walk.stop(signal.SIGTERM) == 0


def test_a_second_run_in_the_same_namespace_is_refused_and_harms_nothing(walk: Walk) -> None:
    walk.start()
    walk.wait_for("connected", 20)
    conf = walk.write_conf()
    second = walk.lab.start(walk.lab["device"], "molehill", "run", str(conf), "--interface", "other")
    assert second.popen.wait(20) == 1
    assert "another molehill session runs in this network namespace" in second.output()
    assert walk.status()["state"] == "connected"


def test_each_change_of_state_is_a_line_of_json(walk: Walk) -> None:
    walk.start("--json")
    walk.wait_for("connected", 20)
    assert walk.stop() == 0
    assert walk.run is not None
    lines = [json.loads(line) for line in walk.run.output().splitlines()]
    states = [line["state"] for line in lines]
    assert list(dict.fromkeys(states)) == ["disconnected", "connecting", "connected", "disconnecting"]
    assert all(line["enforced"] for line in lines)


def test_an_idle_session_sleeps_and_is_small(walk: Walk) -> None:
    walk.start()
    walk.wait_for("connected", 20)
    assert walk.run is not None
    wait_until_idle(walk.run.pid, 6, wakes=3)  # a passive keepalive, 10 s after the last data, may come first
    peak = next(line for line in Path(f"/proc/{walk.run.pid}/status").read_text().splitlines() if "VmHWM" in line)
    assert int(peak.split()[1]) < 80 * 1024


def test_a_name_that_cannot_be_resolved_is_one_sentence(walk: Walk) -> None:
    conf = walk.write_conf()
    conf.write_text(conf.read_text().replace(f"{lab.RELAY4}:", "relay.invalid:"))
    run = walk.lab.start(walk.lab["device"], "molehill", "run", str(conf))
    assert run.popen.wait(30) == 1
    assert "Endpoint relay.invalid:51820: the name cannot be resolved" in run.output()
    assert "molehill unblock" in run.output()
    assert len(run.output().splitlines()) == 1


_UNDERLYING = """
import asyncio, sys
from engine.service import Builder, State
from engine.wg.conf import parse_conf

async def main():
    conf = parse_conf(open(sys.argv[1]).read())
    builder = Builder().set_wireguard(conf.device).set_interface("mhu").set_underlying_network(sys.argv[2])
    for address in conf.addresses:
        builder.add_address(address)
    session = await builder.add_gateway(conf.dns[0]).establish()
    print((await session.until(State.CONNECTED, State.ERROR)).line())
    await session.stop()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("interface", "words"), [("eth0", "connected on linux"), ("eth9", "because: the tunnel could")]
)
def test_an_underlying_network_is_used_if_it_is_there(walk: Walk, interface: str, words: str) -> None:
    command = [sys.executable, "-c", _UNDERLYING, str(walk.write_conf()), interface]
    done = subprocess.run(
        ["ip", "netns", "exec", walk.lab["device"].name, *command],
        env={**walk.lab.env, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=40,
    )  # fmt: skip
    assert words in done.stdout, done.stderr
    wait_until(lambda: not walk.lab["device"].has_interface("mhu"), 5, "the TUN is gone")
