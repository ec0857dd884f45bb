"""EXIT-1 and START-1, every case; the target state on disk."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from engine.daemon import lifecycle, store
from engine.daemon.lifecycle import Stop, Target, connects, keeps_block, target_left
from engine.management.schema import Settings
from engine.policy import State

EVERY_END = list(product(Stop, State, Target, (False, True), (False, True)))


@pytest.mark.parametrize(("stop", "state", "target", "auto_connect", "always"), EVERY_END)
def test_exit1_what_stays_at_the_end_is_what_the_document_says(
    stop: Stop, state: State, target: Target, auto_connect: bool, always: bool
) -> None:
    settings = Settings(auto_connect=auto_connect, always_require_vpn=always)
    keeps = keeps_block(stop, state, target, settings)
    # EXIT-1, word by word: "keeps the block if: always-require-VPN is on; or the stop was not asked for by the user and
    # (it is in Connecting, Connected or Error, or auto-connect is on). Otherwise rules are removed".
    asked_by_user = stop is Stop.USER
    document = always or (
        not asked_by_user and (state in {State.CONNECTING, State.CONNECTED, State.ERROR} or auto_connect)
    )
    if state is State.DISCONNECTING and target is Target.SECURED and not asked_by_user:
        assert keeps  # it is on its way to Connecting or Error
    else:
        assert keeps == document


def test_exit1_no_end_opens_more_than_the_users_own_stop() -> None:
    for _, state, target, auto_connect, always in EVERY_END:
        settings = Settings(auto_connect=auto_connect, always_require_vpn=always)
        if keeps_block(Stop.USER, state, target, settings):
            assert keeps_block(Stop.SHUTDOWN, state, target, settings)
            assert keeps_block(Stop.RESTART, state, target, settings)


@pytest.mark.parametrize(
    ("stop", "left"),
    [(Stop.USER, Target.UNSECURED), (Stop.SHUTDOWN, Target.UNSECURED), (Stop.RESTART, Target.SECURED)],
)
def test_a_clean_end_forgets_the_target_and_a_restart_does_not(stop: Stop, left: Target) -> None:
    assert target_left(stop, Target.SECURED) is left
    assert target_left(stop, Target.UNSECURED) is Target.UNSECURED


def test_start1_the_service_connects_as_it_starts_by_auto_connect_or_after_a_crash() -> None:
    assert not connects(Target.UNSECURED, Settings())
    assert not connects(Target.UNSECURED, Settings(always_require_vpn=True))
    assert connects(Target.UNSECURED, Settings(auto_connect=True))
    assert connects(Target.SECURED, Settings())


def test_the_target_is_on_disk_while_it_is_secured(tmp_path: Path) -> None:
    assert lifecycle.load(tmp_path) is Target.UNSECURED
    lifecycle.save(Target.SECURED, tmp_path)
    assert lifecycle.load(tmp_path) is Target.SECURED
    lifecycle.save(Target.UNSECURED, tmp_path)
    assert list(tmp_path.iterdir()) == []
    lifecycle.save(Target.UNSECURED, tmp_path)


def test_where_the_disk_takes_nothing_the_target_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, spare = tmp_path / "disk", tmp_path / "spare"
    disk.mkdir()
    spare.mkdir()
    write = store.write

    def full(path: Path, content: bytes) -> None:
        if path.parent == disk:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(store, "write", full)
    lifecycle.save(Target.SECURED, disk, spare)
    assert lifecycle.load(disk, spare) is Target.SECURED
    lifecycle.save(Target.UNSECURED, disk, spare)
    assert lifecycle.load(disk, spare) is Target.UNSECURED
    monkeypatch.undo()
    lifecycle.save(Target.SECURED, disk, spare)
    assert list(spare.iterdir()) == []


def test_a_target_that_nobody_takes_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        lifecycle.save(Target.SECURED, tmp_path / "file", tmp_path / "file")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"secured",
        b'{"version": 1, "target": "open"}',
        b'{"version": 1, "target": null}',
        b'{"version": 9}',
        b"\xff",
    ],
)
def test_a_target_that_cannot_be_read_is_secured(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "target-state.json").write_bytes(content)
    assert lifecycle.load(tmp_path) is Target.SECURED
