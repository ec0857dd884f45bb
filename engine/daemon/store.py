"""Files of the daemon's own, under /var/lib/molehill (MOLEHILL_STATE_DIR): written whole or not at all.

A write: a new file beside the old one, 0600 -> synced -> renamed over it -> the folder synced. Whatever fails (a full
disk, a read-only one) leaves the old file as it was, and is an OSError for whoever asked for the change.

A document is JSON with its version: `{"version": 1, "settings": {...}}`. One that cannot be read is `Unreadable`, and
so is one of a newer version: what it meant is not known, and its reader must take the strictest meaning. Documents of
older versions are brought up to date by engine/daemon/migrations.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from engine.daemon import migrations

_ASIDE = 9  # broken files that are kept of each name


class Unreadable(Exception):
    """A file is there, and what it means cannot be known: one sentence."""


def state_folder() -> Path:
    """Where the daemon keeps its files."""
    return Path(os.environ.get("MOLEHILL_STATE_DIR", "/var/lib/molehill"))


def write(path: Path, content: bytes) -> None:
    """Make `path` a file of this content, readable by its owner alone. OSError: then the old one is as it was."""
    new = path.with_name(f".{path.name}.new")
    with suppress(FileNotFoundError):
        new.unlink()
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file, for good when this returns; none is fine. OSError."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the folder's own entries to the disk. OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read(path: Path) -> bytes | None:
    """The content of a file; None: there is none. Unreadable."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror}") from None


def load(path: Path, kind: str) -> Any:
    """The content of the document `path` of this kind, in its newest form; None: there is none. Unreadable."""
    content = read(path)
    if content is None:
        return None
    try:
        document = msgspec.json.decode(content)
        return migrations.upgrade(kind, document)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise Unreadable(f"{path} cannot be understood: {error}") from None


def save(path: Path, kind: str, content: Any) -> None:
    """Write the document `path` of this kind. OSError: then the old one is as it was."""
    document = {"version": migrations.newest(kind), kind: content}
    write(path, msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def put_aside(path: Path) -> Path:
    """Keep a broken file under a second name, PATH.broken-N, until it is written anew. OSError.

    It stays under its own name too: should the new one not come, the next start finds it broken again.
    """
    names = [path.with_name(f"{path.name}.broken-{number}") for number in range(1, _ASIDE + 1)]
    aside = next((name for name in names if not name.exists()), names[-1])
    aside.unlink(missing_ok=True)
    os.link(path, aside)
    return aside
