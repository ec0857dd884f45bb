"""`molehill service`: what it refuses, and what it would write."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cli.main import BAD_INPUT, Fault
from engine.cli.service import EARLY, FILES, SERVICE, command_path, rendered

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
