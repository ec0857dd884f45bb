"""connect, disconnect, reconnect, and what --wait waits for, against a daemon's double."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from msgspec.structs import replace

from engine.cli.main import BAD_INPUT, FAILED, OK
from tests.management_fake import CONNECTED, CONNECTING, DISCONNECTED, ERROR, FakeDaemon
from tests.unit.cli.test_commands import ROOT, daemon, methods, run

__all__ = ["daemon"]  # a fixture, used by its name


def test_connect_without_wait_says_what_goes_on_and_ends_at_once(daemon: FakeDaemon) -> None:
    result = run("connect")
    assert (result.exit_code, result.output) == (OK, "connecting to home at 192.0.2.7:51820\n")
    assert methods(daemon) == ["connect"]


def test_wait_ends_with_connected_by_events_that_are_newer_than_the_command(daemon: FakeDaemon) -> None:
    daemon.course = [replace(CONNECTING, attempt=1, problem="no answer"), CONNECTED]
    result = run("connect", "--wait")
    assert (result.exit_code, result.stdout) == (OK, "connected to home at 192.0.2.7:51820\n")
    assert result.stderr == "", "progress is for terminals"
    assert methods(daemon) == ["connect", "subscribe"]


def test_on_a_terminal_progress_is_one_line_that_is_gone_at_the_end(daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.course = [replace(CONNECTING, problem="no answer " * 50), CONNECTED]
    ours, its = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        done = subprocess.run(
            [sys.executable, "-m", "engine.cli.main", "connect", "--wait"], stdout=subprocess.PIPE, stderr=its,
            env=os.environ | {"MOLEHILL_RUN_DIR": str(tmp_path), "COLUMNS": "80"}, cwd=ROOT, text=True, check=True,
        )  # fmt: skip
        os.close(its)
        shown = terminal.read(10_000).decode()
    assert done.stdout == "connected to home at 192.0.2.7:51820\n"
    *lines, last = shown.split("\r\x1b[K")
    assert [len(click.unstyle(line)) <= 79 for line in lines] == [True] * 2
    assert "no answer" in lines[-1]
    assert last == ""


def test_wait_ends_with_the_cause_and_exit_code_1_in_an_error(daemon: FakeDaemon) -> None:
    daemon.course = [ERROR]
    result = run("connect", "--wait")
    assert (result.exit_code, result.stderr) == (FAILED, f"molehill: error: {ERROR.cause}\n")


def test_wait_ends_with_exit_code_1_when_somebody_else_disconnects(daemon: FakeDaemon) -> None:
    daemon.course = [DISCONNECTED]
    result = run("connect", "--wait")
    assert (result.exit_code, result.stderr) == (FAILED, "molehill: disconnected\n")


def test_wait_ends_at_the_timeout_with_what_it_waited_for(daemon: FakeDaemon) -> None:
    daemon.course = [replace(CONNECTING, attempt=2, problem="no answer")]
    result = run("connect", "--wait", "--timeout", "2")
    assert result.exit_code == FAILED
    assert result.stderr == (
        "molehill: not connected after 2 s: connecting to home at 192.0.2.7:51820, attempt 3, no answer\n"
    )


def test_at_the_timeout_a_program_gets_the_status_too(daemon: FakeDaemon) -> None:
    daemon.course = [CONNECTING]
    result = run("connect", "--wait", "--timeout", "0.2", "--json")
    assert result.exit_code == FAILED
    assert json.loads(result.stdout)["state"] == "connecting"


@pytest.mark.parametrize("timeout", ["nan", "inf"])
def test_a_timeout_is_a_number(timeout: str) -> None:
    result = run("connect", "--wait", "--timeout", timeout)
    assert result.exit_code == BAD_INPUT
    assert "--timeout is a number of seconds" in result.stderr


def test_wait_says_so_when_the_daemon_ends_meanwhile(daemon: FakeDaemon) -> None:
    daemon.course, daemon.hangs_up = [CONNECTING], True
    result = run("connect", "--wait")
    assert (result.exit_code, result.stderr) == (FAILED, "molehill: the daemon has closed the connection\n")


def test_connected_without_enforcement_is_no_success(daemon: FakeDaemon) -> None:
    daemon.course = [replace(CONNECTED, enforced=False, failure="nftables refused")]
    result = run("connect", "--wait")
    assert result.exit_code == FAILED
    assert "NOT ENFORCED, TRAFFIC MAY BE LEAKING: nftables refused" in result.stderr


def test_disconnect_waits_for_disconnected_and_tells_of_lockdown(daemon: FakeDaemon) -> None:
    run("lockdown", "set", "on")
    daemon.show(CONNECTED)
    result = run("disconnect", "--wait")
    assert (result.exit_code, result.stdout) == (OK, "disconnected, and everything stays blocked: lockdown is on\n")


def test_reconnect_while_disconnected_is_exit_code_1(daemon: FakeDaemon) -> None:
    result = run("reconnect")
    assert (result.exit_code, result.stderr) == (FAILED, "molehill: nothing to reconnect: disconnected\n")


def test_wait_with_json_is_the_last_status_alone(daemon: FakeDaemon) -> None:
    daemon.course = [CONNECTED]
    shown = json.loads(run("connect", "--wait", "--json").stdout)
    assert (shown["state"], shown["connecting_to"]) == ("connected", "home")
    daemon.show(DISCONNECTED)
    daemon.course = [ERROR]
    result = run("connect", "--wait", "--json")
    assert (result.exit_code, json.loads(result.stdout)["cause"]) == (FAILED, ERROR.cause)


def test_a_timeout_without_wait_is_bad_input(daemon: FakeDaemon) -> None:
    assert run("connect", "--timeout", "3").exit_code == BAD_INPUT
    assert daemon.asked == []
