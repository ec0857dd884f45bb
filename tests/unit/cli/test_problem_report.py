"""`molehill problem-report`: seen before it is sent, sent only when asked to, over TLS to the API that is set."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from engine.cli.main import BAD_INPUT, FAILED, OK, molehill
from engine.report.collect import TITLE
from tests.management_fake import CONNECTING, FakeDaemon
from tests.unit.report.api import HOST, IP_NAME, Api, Authority


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    monkeypatch.setenv("MOLEHILL_RUN_DIR", str(tmp_path))
    monkeypatch.setattr("engine.report.send.PAUSE_SECONDS", 0.0)
    with FakeDaemon(tmp_path / "management.socket") as fake:
        yield fake


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.txt"
    path.write_text(f"{TITLE}\nI added: my address is 198.51.100.77\n")
    return path


def run(*words: object, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(molehill, ["problem-report", *map(str, words)], prog_name="molehill", input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_what_is_collected_only_its_owner_may_read_and_show_shows_it(daemon: FakeDaemon, tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    result = run("collect", path)
    assert result.exit_code == OK
    assert f"look at it with molehill problem-report show {path}" in result.output
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert run("show", path).output == path.read_text()
    assert '"state": "disconnected"' in path.read_text()
    assert '"state": "disconnected"' in run("show").output


def test_no_file_is_written_over_and_no_link_is_followed(daemon: FakeDaemon, report: Path, tmp_path: Path) -> None:
    before = report.read_text()
    assert run("collect", report).exit_code == BAD_INPUT
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    assert run("collect", link).exit_code == BAD_INPUT
    assert report.read_text() == before
    assert not (tmp_path / "elsewhere").exists()


def test_without_an_api_nothing_is_sent_and_none_is_set_by_default(daemon: FakeDaemon, report: Path) -> None:
    result = run("send", report, "--yes")
    assert (result.exit_code, result.stdout) == (FAILED, "")
    assert "no API is set" in result.stderr


def test_ui1_it_is_shown_asked_about_and_sent_as_shown(daemon: FakeDaemon, report: Path, tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    with Api(authority.server_context(tmp_path, IP_NAME)) as api:
        daemon.settings = replace(daemon.settings, api=f"{HOST}:{api.port}/tcp")
        no = run("send", report, "--authority", authority.file, stdin="n\n")
        assert (no.exit_code, api.connections) == (FAILED, 0)
        assert "not sent" in no.stderr
        yes = run("send", report, "--authority", authority.file, stdin="y\n")
        assert yes.exit_code == OK
        shown = f"{TITLE}\nI added: my address is [IPv4]\n"
        assert yes.stdout == shown
        assert f"Send these {len(shown)} bytes to {HOST}:{api.port}/tcp?" in yes.stderr
        assert api.reports == [("/problem-report", shown)]
        sent = run("send", report, "--authority", authority.file, "--yes", "--json")
        assert json.loads(sent.stdout) == {"sent": len(shown), "to": f"{HOST}:{api.port}/tcp"}


def test_no_other_file_is_ever_sent(daemon: FakeDaemon, tmp_path: Path) -> None:
    other = tmp_path / "id_ed25519"
    other.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    result = run("send", other, "--yes")
    assert result.exit_code == BAD_INPUT
    assert "is no problem report" in result.stderr
    assert "OPENSSH" not in result.output
    assert run("send", tmp_path / "none").exit_code == BAD_INPUT
    assert daemon.asked == []


def test_while_molehill_blocks_another_user_is_told_that_only_root_reaches_the_api(
    daemon: FakeDaemon, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.settings = replace(daemon.settings, api=f"{HOST}:1/tcp")
    daemon.show(CONNECTING)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    result = run("send", report, "--yes")
    assert result.exit_code == FAILED
    assert "Connection refused; while molehill blocks, only root reaches the API (API-1): use sudo" in result.stderr
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert "use sudo" not in run("send", report, "--yes").stderr
