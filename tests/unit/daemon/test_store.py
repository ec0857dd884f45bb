"""Files that are written whole or not at all, and documents that are understood or not."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from engine.daemon import lifecycle, migrations, names, relays, settings, store
from engine.daemon.lifecycle import Target
from engine.daemon.store import Unreadable

FROZEN = Path(__file__).parent / "frozen"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few pages, filled but for what is in it already."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder / "rubbish").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_file_is_its_owners_alone_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "it"
    store.write(path, b"old")
    store.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["it"]


def test_what_a_killed_writer_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".it.new").write_bytes(b"half")
    store.write(tmp_path / "it", b"whole")
    assert [entry.name for entry in tmp_path.iterdir()] == ["it"]


def test_on_a_full_disk_the_old_file_stays_and_the_writer_is_told(small_disk: Path) -> None:
    path = small_disk / "it"
    store.write(path, b"old")
    fill(small_disk)
    with pytest.raises(OSError, match="No space left") as caught:
        store.write(path, bytes(10_000))
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert not (small_disk / ".it.new").exists()


def test_a_document_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "target-state.json"
    assert store.load(path, "target") is None
    store.save(path, "target", "secured")
    assert store.load(path, "target") == "secured"
    assert json.loads(path.read_bytes()) == {"version": 1, "target": "secured"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be understood"),
        (b"{", "cannot be understood"),
        (b"\x00" * 50, "cannot be understood"),
        (b"[" * 100_000, "cannot be understood"),
        (b"[]", "a version and target"),
        (b'{"target": "secured"}', "a version and target"),
        (b'{"version": 1, "target": "secured", "more": 1}', "a version and target"),
        (b'{"version": 1, "target": null}', "its target must not be null"),
        (b'{"version": 2, "target": "secured"}', "of a newer molehill"),
        (b'{"version": 0, "target": "secured"}', "a number from 1"),
        (b'{"version": true, "target": "secured"}', "a number from 1"),
        (b'{"version": "1", "target": "secured"}', "a number from 1"),
    ],
)
def test_whatever_is_no_document_is_unreadable(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "it"
    path.write_bytes(content)
    with pytest.raises(Unreadable, match=words):
        store.load(path, "target")


def test_a_folder_in_a_files_place_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="cannot be read"):
        store.load(tmp_path, "target")


def test_broken_files_are_kept_a_few_of_them(tmp_path: Path) -> None:
    path = tmp_path / "it"
    for number in range(12):
        store.write(path, b"broken %d" % number)
        aside = store.put_aside(path)
        assert path.exists()
        assert aside.read_bytes() == b"broken %d" % number
    assert len(list(tmp_path.glob("it.broken-*"))) == 9


def test_steps_lead_from_an_old_version_to_the_newest_one() -> None:
    steps = {"speed": (lambda old: {"km": old}, lambda old: {"m": old["km"] * 1000})}
    assert migrations.newest("speed", steps) == 3
    for document in ({"version": 1, "speed": 2}, {"version": 2, "speed": {"km": 2}}):
        assert migrations.upgrade("speed", document, steps) == {"m": 2000}
    assert migrations.upgrade("speed", {"version": 3, "speed": {"m": 1}}, steps) == {"m": 1}


def test_a_document_that_is_not_what_its_version_says_is_none() -> None:
    with pytest.raises(ValueError, match="no document of version 1"):
        migrations.upgrade("speed", {"version": 1, "speed": {}}, {"speed": (lambda old: old["missing"],)})


def test_every_version_ever_written_is_read_by_this_one(tmp_path: Path) -> None:
    kinds = {"settings": "settings", "relays": "relays", "target": "target-state", "addresses": "addresses"}
    assert set(kinds) == set(migrations.STEPS)
    for kind, name in kinds.items():
        frozen = sorted(FROZEN.glob(f"{name}-v*.json"))
        assert len(frozen) == migrations.newest(kind)  # one of each version
        for file in frozen:
            (tmp_path / f"{name}.json").write_bytes(file.read_bytes())
            match kind:
                case "settings":
                    loaded = settings.load(tmp_path)
                    assert loaded.notice == ""
                    assert loaded.settings.dns == ("9.9.9.9", "192.168.1.53")
                case "relays":
                    assert [relay.hostname for relay in relays.load(tmp_path).relays] == ["se-sto-001"]
                case "target":
                    assert lifecycle.load(tmp_path) is Target.SECURED
                case "addresses":
                    assert list(names.load(tmp_path)) == ["vpn.example"]
