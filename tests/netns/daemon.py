"""The real daemon on the device of the lab's world, and its socket."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.management import schema
from engine.management.client import Client, ManagementError
from tests.netns.lab import Lab, Process, wait_until


class Daemon:
    """`molehill daemon` in a namespace; state and sockets in the lab's own folders."""

    def __init__(self, lab: Lab, role: str = "device", **env: str) -> None:
        self.lab, self.ns = lab, lab[role]
        self.env = {"MOLEHILL_STATE_DIR": str(lab.dir / "state"), **env}
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
        self.process = process = self.lab.start(self.ns, "molehill", "daemon", *options, env=self.env)

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
