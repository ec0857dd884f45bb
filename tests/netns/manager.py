"""A service manager of a page, in systemd's place: `python -m tests.netns.manager FOLDER SYSTEMSTATE COMMAND...`.

It runs the command with a notify socket, a watchdog and a private system bus, on which systemd's SystemState can be
read; keeps descriptors that it is given; and starts the command again when it is killed, with what it has kept.
SIGTERM is `systemctl stop`, SIGUSR2 `systemctl restart` (RestartKillSignal=SIGUSR1). What it hears is printed.
"""

from __future__ import annotations

import array
import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from dbus_fast.aio import MessageBus

from tests.unit.daemon.test_systemd import FakeSystemd
from tests.unit.host.dns.daemons import private_bus

WATCHDOG_SECONDS = 4


class Manager:
    """See the head of this module."""

    def __init__(self, folder: Path, command: list[str], bus: str) -> None:
        self._command = command
        self._env = {
            **os.environ,
            "DBUS_SYSTEM_BUS_ADDRESS": bus,
            "NOTIFY_SOCKET": str(folder / "notify"),
            "WATCHDOG_USEC": str(WATCHDOG_SECONDS * 1_000_000),
        }
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._kept: dict[str, int] = {}
        self._child: subprocess.Popen[bytes] | None = None
        self._restart = False

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket.fileno(), self._hear)
        loop.add_signal_handler(signal.SIGTERM, self._send, signal.SIGTERM)
        loop.add_signal_handler(signal.SIGUSR2, self._send, signal.SIGUSR1)
        while True:
            self._restart = False
            self._start()
            assert self._child is not None
            while self._child.poll() is None:
                await asyncio.sleep(0.01)
            self._hear_all()
            print("ENDED", self._child.returncode, *sorted(self._kept), flush=True)
            if self._child.returncode != -signal.SIGKILL and not self._restart:
                return self._child.returncode

    def _start(self) -> None:
        """The command, with the kept descriptors as 3, 4, ..."""
        fds = list(self._kept.values())
        moves = "".join(f" {3 + at}<&{fd}" for at, fd in enumerate(fds))
        script = 'export LISTEN_PID=$$; exec "$@"' + moves
        env = self._env
        if fds:
            env = {**env, "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(self._kept)}
        self._child = subprocess.Popen(["bash", "-c", script, "bash", *self._command], env=env, pass_fds=fds)

    def _send(self, number: signal.Signals) -> None:
        self._restart = number is signal.SIGUSR1
        assert self._child is not None
        self._child.send_signal(number)

    def _hear_all(self) -> None:
        self._socket.setblocking(False)
        try:
            while True:
                self._hear()
        except BlockingIOError:
            self._socket.setblocking(True)

    def _hear(self) -> None:
        data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(16))
        words = data.decode().split("\n")
        fds = array.array("i")
        for _, _, rights in ancillary:
            fds.frombytes(rights)
        name = next((word.removeprefix("FDNAME=") for word in words if word.startswith("FDNAME=")), "")
        if "FDSTORE=1" in words:
            (self._kept[name],) = fds
        elif "FDSTOREREMOVE=1" in words and name in self._kept:
            os.close(self._kept.pop(name))
        print(*words, flush=True)


async def _main(folder: Path, state: str, command: list[str], address: str) -> int:
    bus = await MessageBus(address).connect()
    bus.export("/org/freedesktop/systemd1", FakeSystemd(state))
    await bus.request_name("org.freedesktop.systemd1")
    try:
        return await Manager(folder, command, address).run()
    finally:
        bus.disconnect()


if __name__ == "__main__":
    place, system_state, *program = sys.argv[1:]
    with private_bus(Path(place)) as bus_address:
        sys.exit(asyncio.run(_main(Path(place), system_state, program, bus_address)))
