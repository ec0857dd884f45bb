"""/etc/resolv.conf itself, where nobody manages it: replaced as a whole, and put back as it was, crash or not.

Order of events: the former file (bytes, mode and owner; or where the link led; or that there was none) goes into a
record under /var/lib/molehill, on disk before anything changes -> the new file is written beside, synced and renamed
over the old one -> ... -> `reset`: the former file comes back the same way -> the record goes. A link is replaced,
never followed: the file behind it is somebody else's.

The first line of our file holds the record's name. So `recover`, at the next start, knows our file and its record in
whatever mount namespace it finds them; a record is locked while its maker lives, and another one's is left alone.
Who changed the file meanwhile meant it: then it is left as it is, and the record goes. But while we live, a file that
still begins with our first line is ours, whatever was added below: it is written anew, and the former one comes back,
as that line says.

A resolv.conf that is a mount of its own (containers, `ip netns exec`) cannot be renamed over: it is overwritten in
place, by one write, and then cut to its length. A crash between the two leaves the end of a longer one behind.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import fcntl
import json
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.host.dns.manager import DnsError, IPAddress

log = logging.getLogger(__name__)

_FIRST_LINE = re.compile(rb"# molehill ([0-9a-f]{16}):")
_MAX_SERVERS = 3  # MAXNS: the C library reads no more
_ADVICE = "set it yourself and use MOLEHILL_DNS=none, or see what manages it"


class ResolvConf:
    """The file manager. `root` is / but in tests."""

    name = "file"

    def __init__(self, root: Path) -> None:
        self._path = root / "etc/resolv.conf"
        self._folder = root / "var/lib/molehill"
        self._record: _Record | None = None
        self._disk = ThreadPoolExecutor(1, "resolv.conf")

    async def _in_order(self, work: Callable[..., None], *arguments: Any) -> None:
        """In a thread, for a disk takes its time; what was given up after a time limit ends before the next begins."""
        await asyncio.get_running_loop().run_in_executor(self._disk, work, *arguments)

    async def set(self, interface: str, servers: tuple[IPAddress, ...], outside: frozenset[IPAddress]) -> None:
        """Make resolv.conf name these servers."""
        try:
            await self._in_order(self._set, servers)
        except OSError as error:
            raise DnsError(f"{self._path} cannot be written ({error.strerror}): {_ADVICE}") from error

    async def reset(self, interface: str) -> None:
        """Put the former file back, unless somebody has changed it."""
        await self._in_order(self._reset)

    def _reset(self) -> None:
        record, self._record = self._record, None
        if record is None:
            return
        try:
            self._restore(record)
        except OSError as error:
            raise DnsError(
                f"{self._path} cannot be restored ({error.strerror}): its former content is in {record.path}"
            ) from error
        finally:
            record.unlock()

    def recover(self) -> bool:
        """Put back what a run left that was killed. A living one's file is left alone: then it is True. DnsError."""
        token = _token(_content(self._path))
        path = self._folder / f"resolv-{token}.json"
        try:
            record = _Record.load(path) if token is not None else self._half_restored()
        except FileNotFoundError:
            log.warning("%s was written by molehill, but what it was before is not known: %s is missing",
                        self._path, path)  # fmt: skip
            return False
        except BlockingIOError:
            return True
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DnsError(f"{path} cannot be read ({error}): set {self._path} yourself") from error
        if record is None:
            return False
        try:
            self._restore(record)
        except OSError as error:
            raise DnsError(f"{self._path} cannot be restored ({error.strerror}) from {record.path}") from error
        finally:
            record.unlock()
        return False

    def _half_restored(self) -> _Record | None:
        """The record whose former content the file begins with, while it ends as ours did."""
        present = _content(self._path)
        for path in sorted(self._folder.glob("resolv-*.json")) if present else ():
            try:
                record = _Record.load(path)
            except (OSError, ValueError, KeyError, TypeError):  # a living one's, or none
                continue
            if present in record.halves():
                return record
            record.unlock()
        return None

    def disturbed(self) -> bool:
        """Whether somebody has changed the file since `set`."""
        return self._record is not None and _content(self._path) not in self._record.written

    def close(self) -> None:
        """Let go of the record, as a crash would: what is set stays, and the next start may restore it."""
        self._disk.shutdown(wait=False)
        if self._record is not None:
            self._record.unlock()
            self._record = None

    def _set(self, servers: tuple[IPAddress, ...]) -> None:
        if self._record is not None and self.disturbed():
            if _token(_content(self._path)) == self._record.token:
                log.warning("%s was edited by somebody else meanwhile: it is written anew", self._path)
            else:
                log.warning("%s was changed by somebody else meanwhile: that is what will be restored", self._path)
                self._record.remove()
                self._record = None
        if self._record is None:
            if self.recover():
                raise DnsError(f"{self._path} is in use by another molehill session: stop it first")
            self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._record = _Record.make(self._folder, _describe(self._path))
        text = _render(self._record.token, servers)
        if _content(self._path) == text:
            return
        self._record.written = [*self._record.written[-1:], text]
        self._record.save()
        _put(self._path, text, 0o644, None)

    def _restore(self, record: _Record) -> None:
        present, former = _content(self._path), record.former
        content = base64.b64decode(former.get("content", ""))
        if _describe(self._path) == former:
            pass  # it was never changed
        elif present not in record.written and present not in record.halves():
            log.warning("%s was changed by somebody else meanwhile, and is left so", self._path)
        elif "link" in former:
            _replace(self._path, lambda new: os.symlink(former["link"], new))
        elif "content" in former:
            _put(self._path, content, former["mode"], (former["uid"], former["gid"]))
        else:
            self._path.unlink(missing_ok=True)
            _sync_folder(self._path.parent)
        record.remove()


class _Record:
    """What a file was, and what we made of it: a file of ours, locked while we live."""

    def __init__(self, path: Path, former: dict[str, Any], written: list[bytes]) -> None:
        self.path, self.former, self.written = path, former, written
        self._fd = -1

    @property
    def token(self) -> str:
        """The name that stands in the file's first line."""
        return self.path.stem.removeprefix("resolv-")

    @classmethod
    def make(cls, folder: Path, former: dict[str, Any]) -> _Record:
        """A new record, not saved yet."""
        return cls(folder / f"resolv-{secrets.token_hex(8)}.json", former, [])

    @classmethod
    def load(cls, path: Path) -> _Record:
        """Read and lock one. BlockingIOError: its maker lives."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ino != path.stat().st_ino:  # its maker has just written it anew
                raise BlockingIOError
            data = json.loads(path.read_bytes())
            record = cls(path, data["former"], [base64.b64decode(text) for text in data["written"]])
        except BaseException:
            os.close(fd)
            raise
        record._fd = fd
        return record

    def halves(self) -> list[bytes]:
        """What an overwriting in place leaves if it is cut off."""
        texts = [base64.b64decode(self.former.get("content", "")), *self.written]
        return [new + old[len(new) :] for new in texts for old in texts if len(old) > len(new)]

    def save(self) -> None:
        """On disk when this returns, and locked."""
        data = {"former": self.former, "written": [base64.b64encode(text).decode() for text in self.written]}
        fd = -1

        def write(new: Path) -> None:
            nonlocal fd
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_all(fd, json.dumps(data).encode())
            os.fsync(fd)

        _replace(self.path, write)
        self.unlock()
        self._fd = fd

    def remove(self) -> None:
        """Away with it."""
        self.path.unlink(missing_ok=True)
        self.unlock()

    def unlock(self) -> None:
        """Let others have it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _render(token: str, servers: tuple[IPAddress, ...]) -> bytes:
    lines = [f"# molehill {token}: the VPN's servers, while it is connected; the former file comes back afterwards"]
    lines += [f"nameserver {server}" for server in servers[:_MAX_SERVERS]]
    return ("\n".join(lines) + "\n").encode()


def _token(content: bytes | None) -> str | None:
    found = _FIRST_LINE.match(content or b"")
    return found[1].decode() if found else None


def _content(path: Path) -> bytes | None:
    """The bytes of a file of its own; None for a link (never ours), or where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        return file.read()


def _describe(path: Path) -> dict[str, Any]:
    try:
        is_now = path.lstat()
    except FileNotFoundError:
        return {}
    if stat.S_ISLNK(is_now.st_mode):
        return {"link": os.readlink(path)}
    content = base64.b64encode(path.read_bytes()).decode()
    mode = stat.S_IMODE(is_now.st_mode)
    return {"content": content, "mode": mode, "uid": is_now.st_uid, "gid": is_now.st_gid}


def _put(path: Path, content: bytes, mode: int, owner: tuple[int, int] | None) -> None:
    """Make `path` a file of this content: by a rename, or in place where it is a mount."""

    def write(new: Path) -> None:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if owner is not None:
                try:
                    os.fchown(file.fileno(), *owner)
                except PermissionError as error:  # without CAP_CHOWN; the content matters more
                    log.warning("%s cannot be given back to its owner %d:%d: %s", path, *owner, error.strerror)
            os.fsync(file.fileno())

    try:
        _replace(path, write)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EROFS):  # a mount, or a mount in a folder that is read-only
            raise
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _write_all(fd, content)
            os.ftruncate(fd, len(content))
            os.fsync(fd)
        finally:
            os.close(fd)


def _write_all(fd: int, content: bytes) -> None:
    """write(2) may write a part: of what is left on a disk that is nearly full. OSError."""
    while content:
        content = content[os.write(fd, content) :]


def _replace(path: Path, make: Callable[[Path], None]) -> None:
    """Let `make` write a new entry beside `path`, and rename it over; on failure nothing has changed."""
    new = path.with_name(f".{path.name}.molehill")
    new.unlink(missing_ok=True)
    try:
        make(new)
        os.replace(new, path)
    except BaseException:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
