"""`molehill service`: what it refuses, and what it would write."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cli.main import BAD_INPUT, Fault
from engine.cli.service import EARLY, FILES, SERVICE, _passed, command_path, rendered

COMMAND = Path("/opt/x/bin/molehill")


def test_the_units_name_the_command_and_nothing_is_left_to_fill_in() -> None:
    assert not any("@MOLEHILL@" in rendered(name, COMMAND) for name in FILES)
    assert f"ExecStart={COMMAND} daemon\n" in rendered(SERVICE, COMMAND)
    assert f"ExecStart={COMMAND} daemon --early-boot-blocking\n" in rendered(EARLY, COMMAND)


def test_a_command_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="install molehill into a virtual environment first") as refused:
        command_path(tmp_path / "molehill")
    assert refused.value.exit_code == BAD_INPUT


def test_a_command_where_the_service_cannot_look_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("engine.cli.service._UNSEEN", (str(tmp_path),))
    (tmp_path / "molehill").touch()
    with pytest.raises(Fault, match="where the service cannot look"):
        command_path(tmp_path / "molehill")


def test_a_command_that_others_may_change_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("engine.cli.service._UNSEEN", ())
    (tmp_path / "molehill").touch()
    (tmp_path / "molehill").chmod(0o777)
    with pytest.raises(Fault, match=f"{tmp_path}/molehill may be changed by others than root"):
        command_path(tmp_path / "molehill")


def test_the_folders_that_links_lead_through_are_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "theirs/venv").mkdir(parents=True)
    (tmp_path / "theirs/venv/molehill").touch()
    (tmp_path / "opt").symlink_to("theirs/venv")
    passed = list(_passed(tmp_path / "opt/molehill"))
    assert {tmp_path / "opt", tmp_path / "theirs/venv", tmp_path / "theirs", Path("/")} < set(passed)
    assert len(passed) == len(set(passed))


def test_a_link_to_where_the_service_cannot_look_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("engine.cli.service._UNSEEN", (str(tmp_path / "home"),))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/python3.11").touch()
    (tmp_path / "python3").symlink_to(tmp_path / "home/python3.11")
    with pytest.raises(Fault, match="where the service cannot look"):
        command_path(tmp_path / "python3")
