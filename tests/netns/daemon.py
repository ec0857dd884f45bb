"""The real daemon on the device of the lab's world, and its socket."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.management import schema
from engine.management.client import Client, ManagementError
from tests.netns.lab import ROOT, Lab, Process, wait_until


class Daemon:
    """`molehill daemon` in a namespace; state and sockets in the lab's own folders."""

    def __init__(self, lab: Lab, role: str = "device", *, system_state: str = "", **env: str) -> None:
        """`system_state`: run it by a service manager (tests/netns/manager.py) that says this of the machine."""
        self.lab, self.ns, self._system_state = lab, lab[role], system_state
        nobody = f"unix:path={lab.dir / 'no-bus'}"
        self.env = {"MOLEHILL_STATE_DIR": str(lab.dir / "state"), "DBUS_SYSTEM_BUS_ADDRESS": nobody, **env}
        self.process: Process | None = None

    @property
    def state_folder(self) -> Path:
        """Where it keeps its files."""
        return Path(self.env["MOLEHILL_STATE_DIR"])

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return Path(self.lab.env["MOLEHILL_RUN_DIR"]) / "management.socket"

    def start(self, *options: str) -> None:
        """Start it, and wait until it answers."""
        command = ["molehill", "daemon", *options]
        env = self.env
        if self._system_state:
            folder = Path(tempfile.mkdtemp(dir=self.lab.dir))
            command = [sys.executable, "-m", "tests.netns.manager", str(folder), self._system_state, *command]
            env = {**env, "PYTHONPATH": str(ROOT)}
        self.process = process = self.lab.start(self.ns, *command, env=env)

        def answers() -> bool:
            if not process.running:
                raise RuntimeError(f"`molehill daemon` ended at once: {process.output().strip()[-2000:]}")
            try:
                return self.status() is not None
            except ManagementError:
                return False

        wait_until(answers, 20, "the daemon answers")

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A connection to it."""
        with Client(self.socket) as client:
            yield client

    @property
    def pid(self) -> int:
        """The daemon's process, whoever has started it."""
        with self.client() as client:
            return client.call("hello", None, schema.Hello).pid

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory ends."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{pid}").exists() or self._is_zombie(pid), 10, "the daemon is dead")

    @staticmethod
    def _is_zombie(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    def status(self) -> schema.Status:
        """What it says."""
        with self.client() as client:
            return client.call("status", None, schema.Status)

    def state(self) -> str:
        """The state it tells; empty: nobody answers."""
        try:
            return self.status().state
        except ManagementError:
            return ""

    def wait_for(self, state: str, timeout: float = 20) -> None:
        """Wait until it tells this state."""
        try:
            wait_until(lambda: self.state() == state, timeout, f"state {state}")
        except TimeoutError as error:
            assert self.process is not None
            raise TimeoutError(f"{error}; its log: {self.process.output()[-3000:]}") from None

    def connect(self) -> None:
        """Connect, and wait for it."""
        with self.client() as client:
            client.call("connect", None, schema.Status)
        self.wait_for("connected")

    def disconnect(self) -> None:
        """Disconnect, and wait for it."""
        with self.client() as client:
            client.call("disconnect", None, schema.Status)
        self.wait_for("disconnected")

    def set(self, **settings: object) -> schema.Settings:
        """Change settings."""
        with self.client() as client:
            return client.call("settings.set", schema.SettingsPatch(**settings), schema.Settings)  # type: ignore[arg-type]

    def import_conf(self, name: str, conf: str) -> schema.Imported:
        """Import a tunnel."""
        with self.client() as client:
            return client.call("tunnel.import", schema.ImportTunnel(name, conf), schema.Imported)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit code."""
        assert self.process is not None
        return self.process.stop(how, patience=20)
