"""Talking to the service manager: a real datagram socket, descriptors that are really handed over, a private bus."""

from __future__ import annotations

import array
import asyncio
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dbus_fast import PropertyAccess
from dbus_fast.aio import MessageBus
from dbus_fast.service import ServiceInterface, dbus_property

from engine.daemon import systemd
from engine.daemon.systemd import Notify, Watchdog
from tests.unit.host.dns.daemons import missing, private_bus


class Manager:
    """The service manager's end of the notify socket."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(5)

    def hear(self) -> tuple[list[str], list[int]]:
        """The next message's assignments, and the descriptors that came with it."""
        data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(16))
        fds = array.array("i")
        for _, _, rights in ancillary:
            fds.frombytes(rights)
        return data.decode().split("\n"), list(fds)

    def heard_nothing(self) -> bool:
        """Whether no message waits."""
        if not select.select([self._socket], [], [], 0)[0]:
            return True
        self._socket.recv(4096)
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@molehill-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    made = Manager(address.replace("@", "\0"))
    yield made
    made.close()


def test_words_arrive_as_one_datagram(manager: Manager) -> None:
    notify = Notify()
    notify.say("READY=1", "STATUS=all well")
    assert manager.hear() == (["READY=1", "STATUS=all well"], [])
    notify.close()


def test_a_descriptor_is_kept_under_its_name_and_given_up_again(manager: Manager, tmp_path: Path) -> None:
    notify = Notify()
    with (tmp_path / "it").open("wb") as file:
        notify.keep(file.fileno(), "mole:hill0")
        words, (fd,) = manager.hear()
        assert words == ["FDSTORE=1", "FDNAME=tun-mole_hill0"]
        assert os.fstat(fd).st_ino == os.fstat(file.fileno()).st_ino
        os.close(fd)
    notify.keep(-1, "mole:hill0")
    assert manager.hear() == (["FDSTOREREMOVE=1", "FDNAME=tun-mole_hill0"], [])
    notify.close()


def test_without_a_manager_or_with_a_deaf_one_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify = Notify()
    notify.say("READY=1")
    notify.close()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify = Notify()
    notify.say("READY=1")
    notify.close()


_HEIR = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
from engine.daemon import systemd
fd = systemd.kept("molehill0")
print(fd, os.read(fd, 10).decode() if fd is not None else "", os.get_inheritable(fd) if fd is not None else "")
left = [n for n in (3, 4) if n != fd and os.path.exists(f"/proc/self/fd/{n}") and os.read(n, 10)]
print(left, systemd.kept("molehill0"))
"""


@pytest.mark.parametrize(
    ("names", "heard"),
    [("tun-molehill0:other", "3 first False"), ("other:tun-molehill0", "4 second False"), ("a:b", "None  ")],
)
def test_the_kept_descriptor_is_found_by_its_name_and_others_are_closed(tmp_path: Path, names: str, heard: str) -> None:
    for number, word in ((3, "first"), (4, "second")):
        (tmp_path / str(number)).write_text(word)
    shell = f'exec "$0" -c "$1" 3<{tmp_path / "3"} 4<{tmp_path / "4"}'
    env = {**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": names, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        ["bash", "-c", shell, sys.executable, _HEIR], env=env, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == [heard, "[] None"]


def test_descriptors_for_another_process_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "tun-molehill0")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert systemd.kept("molehill0") is None
    assert "LISTEN_FDS" not in os.environ


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_watchdog_is_fed_four_times_an_interval_while_the_datapath_moves(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000000")
    turns, clock, notify = iter(range(100)), Clock(), Notify()
    watchdog = Watchdog(notify, lambda: (next(turns),), clock)
    fed = []
    for second in range(21):
        watchdog.look()
        if not manager.heard_nothing():
            fed.append(second)
        clock.now += 1
    assert fed == [0, 5, 10, 15, 20]
    notify.close()


def test_one_thread_that_hangs_starves_it_though_the_others_move(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000000")
    turns, clock, notify = iter(range(100)), Clock(), Notify()
    watchdog = Watchdog(notify, lambda: (next(turns), 7, next(turns)), clock)
    watchdog.look()
    assert not manager.heard_nothing()  # it has not been seen to hang yet
    for _ in range(3):
        clock.now += 5
        watchdog.look()
        assert manager.heard_nothing()
    notify.close()


def test_a_datapath_that_hangs_starves_it_and_one_that_is_not_there_does_not(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000000")
    clock, notify = Clock(), Notify()
    hanging = Watchdog(notify, lambda: (7,), clock)
    idle = Watchdog(notify, lambda: None, clock)
    hanging.look()
    assert not manager.heard_nothing()  # it has not been seen to hang yet
    for _ in range(10):
        clock.now += 5
        hanging.look()
        assert manager.heard_nothing()
        idle.look()
        assert manager.hear() == (["WATCHDOG=1"], [])
    notify.close()


@pytest.mark.parametrize("pid", ["1", "none"])
def test_a_watchdog_of_another_process_or_none_is_not_fed(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, pid: str
) -> None:
    if pid == "none":
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    else:
        monkeypatch.setenv("WATCHDOG_USEC", "20000000")
        monkeypatch.setenv("WATCHDOG_PID", pid)
    notify = Notify()
    Watchdog(notify, lambda: 1, Clock()).look()
    assert manager.heard_nothing()
    notify.close()


class FakeSystemd(ServiceInterface):
    """org.freedesktop.systemd1.Manager's SystemState."""

    def __init__(self, state: str) -> None:
        super().__init__("org.freedesktop.systemd1.Manager")
        self._state = state

    @dbus_property(access=PropertyAccess.READ)
    def SystemState(self) -> s:  # type: ignore[name-defined]  # noqa: F821
        return self._state


@pytest.mark.skipif(bool(missing()), reason=missing())
@pytest.mark.parametrize(
    ("state", "runs"),
    [("running", True), ("degraded", True), ("starting", True), ("stopping", False), ("offline", False)],
)
def test_systemd_says_whether_the_machine_goes_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, runs: bool
) -> None:
    async def main(address: str) -> None:
        bus = await MessageBus(address).connect()
        bus.export("/org/freedesktop/systemd1", FakeSystemd(state))
        await bus.request_name("org.freedesktop.systemd1")
        try:
            assert await systemd.machine_runs() is runs
        finally:
            bus.disconnect()
            await asyncio.sleep(0)

    with private_bus(tmp_path) as address:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
        asyncio.run(main(address))


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_who_cannot_be_asked_is_presumed_to_go_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'nobody'}")
    assert asyncio.run(systemd.machine_runs()) is False
    with private_bus(tmp_path) as address:  # a bus without systemd
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
        assert asyncio.run(systemd.machine_runs()) is False
