"""The report has what helps and stands by itself: whatever cannot be had says why in its place."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.firewall.nftables.render import TABLE
from engine.management.schema import ErrorCode, LogEvent
from engine.report import collect
from engine.report.collect import LOG_BYTES, TITLE
from tests.management_fake import CONNECTED, KEY, FakeDaemon, Refused


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    monkeypatch.setenv("MOLEHILL_RUN_DIR", str(tmp_path))
    with FakeDaemon(tmp_path / "management.socket") as fake:
        fake.show(CONNECTED)
        yield fake


def part(report: str, title: str) -> str:
    """The text under one title."""
    found = re.search(rf"^== {re.escape(title)} ==\n(.*?)(?=^== |\Z)", report, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


def test_it_has_every_part_and_no_key_or_address(daemon: FakeDaemon) -> None:
    daemon.log("handshake with 192.0.2.7 by uid 1000 in /home/ann/x")
    report = collect.collect()
    assert report.startswith(f"{TITLE}\n")
    titles = [
        "version", "platform", "capabilities", "daemon", "settings", "status", "log", "service",
        "journal, the service's last lines", "our nftables table", "routing rules", "routes", "links",
    ]  # fmt: skip
    assert re.findall(r"^== (.*) ==$", report, re.MULTILINE) == titles
    assert '"state": "connected"' in part(report, "status")
    assert "peer [IPv4]:51820/udp" in part(report, "status")
    assert "handshake with [IPv4] by uid 1000 in ~/x" in part(report, "log")
    assert KEY not in report
    assert not [found for found in re.findall(r"\d+\.\d+\.\d+\.\d+", report) if found != "127.0.0.1"]
    assert socket.gethostname() not in re.findall(r"[\w.-]+", report)


def test_of_a_long_log_it_has_the_last_128_kib_in_whole_lines(daemon: FakeDaemon) -> None:
    daemon.lines = [LogEvent(1795459812.0, "info", f"line {number:05} {'x' * 80}") for number in range(5000)]
    log = part(collect.collect(), "log").strip().splitlines()
    assert log[0] == "(what came before is left out)"
    assert log[-1].startswith("2026-11-23T18:50:12Z info line 04999 ")
    assert all(line.startswith("2026-11-23T") for line in log[1:])
    assert LOG_BYTES - 200 < sum(len(line) + 1 for line in log[1:]) <= LOG_BYTES


def test_without_a_daemon_the_rest_is_still_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLEHILL_RUN_DIR", str(tmp_path))
    report = collect.collect()
    assert "the molehill daemon is not running" in part(report, "daemon's answers end")
    assert "kernel Linux" in part(report, "platform")


def test_a_daemon_that_has_no_log_to_tell_spoils_nothing_else(daemon: FakeDaemon) -> None:
    daemon.refuses["log"] = Refused(ErrorCode.INTERNAL, "no log today")
    report = collect.collect()
    assert '"state": "connected"' in part(report, "status")
    assert "no log today" in part(report, "daemon's answers end")


def test_a_program_that_is_missing_fails_or_hangs_is_told_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLEHILL_RUN_DIR", str(tmp_path))
    monkeypatch.setattr(collect, "_PATH", str(tmp_path))
    monkeypatch.setattr(collect, "_COMMAND_SECONDS", 2.0)
    for name, text in (("nft", "echo no >&2; exit 1"), ("ip", "exec /bin/sleep 30")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    report = collect.collect()
    assert "(there is no systemctl here)" in part(report, "service")
    assert "no\n" in part(report, "our nftables table")
    assert "(no answer in 2 s)" in part(report, "routes")


def test_the_table_it_shows_is_ours(daemon: FakeDaemon) -> None:
    assert f"$ nft list table inet {TABLE}" in collect.collect()


def test_what_a_terminal_would_obey_is_shown_as_question_marks() -> None:
    assert collect.redacted("a\x1b[2Jb\x07\tc\r\n") == "a?[2Jb?\tc?\n"


def test_nothing_of_the_environment_is_in_it(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_THING", "hunter2-hunter2")
    assert "hunter2-hunter2" not in collect.collect()
    assert os.environ["SECRET_THING"]
