"""One session a network namespace, and only root can keep others away from its place."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from engine.service import Unavailable, place


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOLEHILL_RUN_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


def test_the_second_session_is_told_of_the_first() -> None:
    with closing(place.take()), pytest.raises(Unavailable, match="another molehill session runs"):
        place.take()
    place.take().close()


def test_nobody_else_can_open_it(folder: Path) -> None:
    place.take().close()
    (lock,) = folder.iterdir()
    assert lock.stat().st_mode & 0o777 == 0o600
    assert lock.stat().st_uid == os.geteuid()


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    place.take().close()
    (lock,) = folder.iterdir()
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="cannot be opened"):
        place.take()
    assert not (tmp_path / "elsewhere").exists()


def test_a_run_folder_that_cannot_be_had_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLEHILL_RUN_DIR", "/proc/nothing")
    with pytest.raises(Unavailable, match=r"/proc/nothing/session-.*cannot be opened"):
        place.take()
