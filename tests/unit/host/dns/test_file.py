"""The file manager on real files below a folder of the test's own, never the machine's."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import threading
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from engine.host.dns import DnsError
from engine.host.dns import file as file_module
from engine.host.dns.file import ResolvConf

SERVERS = (ip_address("10.64.0.1"), ip_address("fc00:64::1"))
FORMER = b"# mine\nsearch home.arpa\nnameserver 192.168.1.1\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    return tmp_path


@pytest.fixture
def conf(root: Path) -> Path:
    path = root / "etc/resolv.conf"
    path.write_bytes(FORMER)
    path.chmod(0o640)
    return path


def set_(manager: ResolvConf, *servers: Any) -> None:
    asyncio.run(manager.set("mh0", servers or SERVERS, frozenset()))


def reset(manager: ResolvConf) -> None:
    asyncio.run(manager.reset("mh0"))


def records(root: Path) -> list[str]:
    return sorted(os.listdir(root / "var/lib/molehill"))


def nothing_left(root: Path) -> bool:
    return records(root) == [] and os.listdir(root / "etc") in (["resolv.conf"], [])


def test_the_servers_are_named_and_the_former_file_comes_back_with_its_mode(root: Path, conf: Path) -> None:
    manager = ResolvConf(root)
    set_(manager)
    lines = conf.read_text().splitlines()
    assert lines[1:] == ["nameserver 10.64.0.1", "nameserver fc00:64::1"]
    assert conf.stat().st_mode & 0o777 == 0o644
    assert not manager.disturbed()
    reset(manager)
    assert conf.read_bytes() == FORMER
    assert conf.stat().st_mode & 0o777 == 0o640
    assert nothing_left(root)


def test_a_link_is_replaced_and_not_followed_and_comes_back(root: Path) -> None:
    behind = root / "etc/behind"
    behind.write_bytes(FORMER)
    conf = root / "etc/resolv.conf"
    conf.symlink_to("behind")
    manager = ResolvConf(root)
    set_(manager)
    assert not conf.is_symlink()
    assert behind.read_bytes() == FORMER
    reset(manager)
    assert os.readlink(conf) == "behind"
    assert records(root) == []


def test_a_dangling_link_comes_back_as_it_was(root: Path) -> None:
    conf = root / "etc/resolv.conf"
    conf.symlink_to("../run/nowhere")
    manager = ResolvConf(root)
    set_(manager)
    reset(manager)
    assert os.readlink(conf) == "../run/nowhere"


def test_where_there_was_no_file_there_is_none_again(root: Path) -> None:
    manager = ResolvConf(root)
    set_(manager)
    assert (root / "etc/resolv.conf").exists()
    reset(manager)
    assert nothing_left(root)
    assert not (root / "etc/resolv.conf").exists()


def test_after_a_crash_the_next_start_restores(root: Path, conf: Path) -> None:
    crashed = ResolvConf(root)
    set_(crashed)
    set_(crashed, ip_address("9.9.9.9"))
    crashed.close()  # its locks go with a process
    ResolvConf(root).recover()
    assert conf.read_bytes() == FORMER
    assert nothing_left(root)


def test_a_living_session_is_not_restored_by_the_start_of_another_nor_overwritten(root: Path, conf: Path) -> None:
    living, other = ResolvConf(root), ResolvConf(root)
    set_(living)
    ours = conf.read_bytes()
    other.recover()
    assert conf.read_bytes() == ours
    with pytest.raises(DnsError, match="in use by another molehill session"):
        set_(other)
    reset(living)
    assert conf.read_bytes() == FORMER


def test_what_somebody_else_wrote_meanwhile_is_noticed_and_not_clobbered(
    root: Path, conf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = ResolvConf(root)
    set_(manager)
    conf.write_text("nameserver 172.16.0.1\n")
    assert manager.disturbed()
    reset(manager)
    assert conf.read_text() == "nameserver 172.16.0.1\n"
    assert "changed by somebody else meanwhile, and is left so" in caplog.text
    assert nothing_left(root)


def test_a_link_that_somebody_else_made_meanwhile_stays(root: Path, conf: Path) -> None:
    manager = ResolvConf(root)
    set_(manager)
    conf.unlink()
    conf.symlink_to("/run/NetworkManager/resolv.conf")
    assert manager.disturbed()
    reset(manager)
    assert os.readlink(conf) == "/run/NetworkManager/resolv.conf"


def test_after_a_crash_too_what_somebody_else_wrote_is_left_alone(root: Path, conf: Path) -> None:
    crashed = ResolvConf(root)
    set_(crashed)
    crashed.close()
    changed = conf.read_bytes() + b"nameserver 172.16.0.1\n"
    conf.write_bytes(changed)
    ResolvConf(root).recover()
    assert conf.read_bytes() == changed


def test_setting_anew_after_a_foreign_change_restores_the_foreign_file(root: Path, conf: Path) -> None:
    manager = ResolvConf(root)
    set_(manager)
    conf.write_text("nameserver 172.16.0.1\n")
    set_(manager)
    assert "10.64.0.1" in conf.read_text()
    reset(manager)
    assert conf.read_text() == "nameserver 172.16.0.1\n"
    assert nothing_left(root)


def test_setting_twice_and_restoring_twice_keeps_the_first_file(root: Path, conf: Path) -> None:
    manager = ResolvConf(root)
    for _ in range(3):
        set_(manager)
    assert len(records(root)) == 1
    reset(manager)
    reset(manager)
    assert conf.read_bytes() == FORMER


@pytest.mark.parametrize("step", range(1, 12))
def test_a_crash_at_any_step_leaves_one_of_the_two_files_and_the_next_start_the_former(
    root: Path, conf: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Every system call that changes something may be the last one."""

    class Crash(BaseException):
        pass

    left = step

    def counting(real: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:  # dead: nothing more is done, the cleaning up neither
                raise Crash
            return real(*args, **named)

        return call

    manager = ResolvConf(root)
    with monkeypatch.context() as patched:
        for name in ("replace", "fsync", "unlink", "write", "fchmod"):
            patched.setattr(file_module.os, name, counting(getattr(os, name)))
        try:
            set_(manager)
            reset(manager)
        except Crash:
            pass
        else:
            pytest.fail("fewer steps than thought: lower the range")
    manager.close()
    token_or_former = conf.read_bytes()
    assert token_or_former == FORMER or re.match(rb"# molehill [0-9a-f]{16}: .*\nnameserver 10", token_or_former)
    after = ResolvConf(root)
    after.recover()
    assert conf.read_bytes() == FORMER
    set_(after)
    reset(after)
    assert conf.read_bytes() == FORMER


def test_a_file_that_is_a_mount_is_overwritten_in_place(
    root: Path, conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def busy(source: Any, target: Any) -> None:
        if Path(target) == conf:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        real(source, target)

    monkeypatch.setattr(file_module.os, "replace", busy)
    inode = conf.stat().st_ino
    manager = ResolvConf(root)
    set_(manager)
    assert conf.read_text().splitlines()[1:] == ["nameserver 10.64.0.1", "nameserver fc00:64::1"]
    reset(manager)
    assert conf.read_bytes() == FORMER
    assert conf.stat().st_ino == inode
    assert nothing_left(root)


def test_an_overwriting_in_place_that_was_cut_off_is_restored(root: Path, conf: Path) -> None:
    former = FORMER + b"# and a long rest\n" * 20
    conf.write_bytes(former)
    crashed = ResolvConf(root)
    set_(crashed)
    crashed.close()
    ours = conf.read_bytes()
    conf.write_bytes(ours + former[len(ours) :])
    ResolvConf(root).recover()
    assert conf.read_bytes() == former


def test_a_place_that_cannot_be_written_is_one_sentence_and_nothing_has_changed(
    root: Path, conf: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = os.replace

    def refuse(source: Any, target: Any) -> None:
        if Path(target) == conf:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        real(source, target)

    monkeypatch.setattr(file_module.os, "replace", refuse)
    manager = ResolvConf(root)
    with pytest.raises(DnsError, match=r"resolv\.conf cannot be written \(Permission denied\).*MOLEHILL_DNS=none"):
        set_(manager)
    assert conf.read_bytes() == FORMER
    reset(manager)
    assert conf.read_bytes() == FORMER
    assert nothing_left(root)
    assert "somebody else" not in caplog.text


def test_a_file_of_ours_without_its_record_is_left_alone_and_told(
    root: Path, conf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    conf.write_text("# molehill 0123456789abcdef: and so on\nnameserver 10.64.0.1\n")
    ResolvConf(root).recover()
    assert "is missing" in caplog.text
    assert conf.read_text().endswith("nameserver 10.64.0.1\n")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"former": {}}'])
def test_a_damaged_record_is_one_sentence_and_changes_nothing(root: Path, conf: Path, damage: bytes) -> None:
    crashed = ResolvConf(root)
    set_(crashed)
    crashed.close()
    ours = conf.read_bytes()
    (root / "var/lib/molehill" / records(root)[0]).write_bytes(damage)
    with pytest.raises(DnsError, match="cannot be read"):
        ResolvConf(root).recover()
    assert conf.read_bytes() == ours


def test_a_file_whose_owner_cannot_be_given_back_comes_back_nevertheless(
    root: Path, conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    manager = ResolvConf(root)
    set_(manager)
    monkeypatch.setattr(os, "fchown", refused)
    reset(manager)
    assert conf.read_bytes() == FORMER
    assert conf.stat().st_mode & 0o777 == 0o640
    assert nothing_left(root)


def test_the_event_loop_goes_on_while_the_disk_takes_its_time(
    root: Path, conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, manager = threading.Event(), ResolvConf(root)

    def slow(fd: int) -> None:
        assert going.wait(10)

    async def main() -> None:
        work = asyncio.create_task(manager.set("mh0", SERVERS, frozenset()))
        await asyncio.sleep(0.01)
        going.set()  # nobody would, if the loop stood still
        await work

    monkeypatch.setattr(os, "fsync", slow)
    asyncio.run(main())
    assert not manager.disturbed()
    reset(manager)


def test_setting_what_is_set_already_writes_nothing(root: Path, conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = ResolvConf(root)
    set_(manager)
    before = conf.stat()
    set_(manager)
    assert (conf.stat().st_ino, conf.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    reset(manager)
    assert conf.read_bytes() == FORMER


def test_a_line_that_somebody_adds_to_our_file_costs_neither_the_former_file_nor_the_tunnel(
    root: Path, conf: Path
) -> None:
    manager = ResolvConf(root)
    set_(manager)
    ours = conf.read_bytes()
    conf.write_bytes(ours + b"options edns0\n")
    assert manager.disturbed()
    set_(manager)
    assert conf.read_bytes() == ours
    reset(manager)
    assert conf.read_bytes() == FORMER
    assert nothing_left(root)


def test_a_file_of_ours_without_its_record_does_not_keep_the_next_session_out(root: Path, conf: Path) -> None:
    orphan = "# molehill 0123456789abcdef: and so on\nnameserver 10.64.0.1\n"
    conf.write_text(orphan)
    manager = ResolvConf(root)
    set_(manager)
    assert "nameserver fc00:64::1" in conf.read_text()
    reset(manager)
    assert conf.read_text() == orphan


@pytest.mark.parametrize("folder_is_read_only", [False, True])
@pytest.mark.parametrize("former", [b"", b"nameserver 127.0.0.11", FORMER, FORMER * 20])
@pytest.mark.parametrize("steps", ["A", "AB", "BA", "A-", "AB-", "BA-"])
def test_in_place_the_former_file_comes_back_wherever_the_crash_was(
    root: Path, conf: Path, monkeypatch: pytest.MonkeyPatch, former: bytes, steps: str, folder_is_read_only: bool
) -> None:
    """Each cut to the new length is once the last thing that does not happen."""
    number = errno.EROFS if folder_is_read_only else errno.EBUSY
    servers = {"A": SERVERS, "B": (ip_address("9.9.9.9"),)}
    replace, truncate = os.replace, os.ftruncate

    def refuse(source: Any, target: Any) -> None:
        if Path(target) == conf:
            raise OSError(number, os.strerror(number))
        replace(source, target)

    class Crash(BaseException):
        pass

    def live(manager: ResolvConf) -> None:
        for step in steps:
            if step == "-":
                manager._reset()
            else:
                manager._set(servers[step])

    monkeypatch.setattr(file_module.os, "replace", refuse)
    for last in range(len(steps)):
        conf.write_bytes(former)
        left = [last]

        def cut(fd: int, size: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Crash
            truncate(fd, size)

        crashing = ResolvConf(root)
        with monkeypatch.context() as patch:
            patch.setattr(file_module.os, "ftruncate", cut)
            with pytest.raises(Crash):
                live(crashing)
        crashing.close()
        ResolvConf(root).recover()
        assert conf.read_bytes() == former


@pytest.mark.parametrize("in_place", [False, True])
def test_a_disk_that_takes_a_byte_at_a_time_gets_the_record_and_the_file_whole(
    root: Path, conf: Path, monkeypatch: pytest.MonkeyPatch, in_place: bool
) -> None:
    write, replace = os.write, os.replace

    def busy(source: Any, target: Any) -> None:
        if Path(target) == conf:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        replace(source, target)

    crashed = ResolvConf(root)
    with monkeypatch.context() as patched:
        patched.setattr(file_module.os, "write", lambda fd, content: write(fd, content[:1]))
        if in_place:
            patched.setattr(file_module.os, "replace", busy)
        set_(crashed)
    crashed.close()
    assert conf.read_text().splitlines()[1:] == ["nameserver 10.64.0.1", "nameserver fc00:64::1"]
    ResolvConf(root).recover()
    assert conf.read_bytes() == FORMER
    assert nothing_left(root)
