"""The product as the lab drives it: from outside, by its command and its management socket, and nothing else.

* `Daemon`: `molehill daemon`, told what to do by JSON-RPC. The default.
* `Run`: `molehill run`, which connects as it starts and disconnects by Ctrl-C; its settings are its options.

Both live in a `Home`: a mount namespace with an /etc and a /var/lib that are nobody else's, so that resolvers can be
set, files overwritten and disks filled without harm to the machine. The disk is small on purpose.

When `connect` or `settings` has returned, what was asked for is in force: that is the product's promise, and the
lab's watch begins at that moment.
"""

from __future__ import annotations

import json
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from engine.leaklab import relay, world
from engine.leaklab.namespaces import Lab, Process, wait_until
from engine.management import schema
from engine.management.client import Client, ManagementError

FORMER_RESOLV_CONF = f"nameserver {world.ISP4}\n"
_DISK = "2m"


class Home:
    """The device's own /etc and /var/lib, in a mount namespace that a sleeping process keeps."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self._here = lab, lab.dir / "home"
        self._here.mkdir()
        (self._here / "resolv.conf").write_text(FORMER_RESOLV_CONF)
        ready = self._here / "ready"
        script = (
            f"mkdir {self._here}/etc && mount -t tmpfs tmpfs {self._here}/etc && cp -a /etc/. {self._here}/etc/ && "
            f"cp --remove-destination {self._here}/resolv.conf {self._here}/etc/resolv.conf && "
            f"mount --bind {self._here}/etc /etc && mount -t tmpfs -o size={_DISK} tmpfs /var/lib && "
            f"touch {ready} && exec sleep infinity"
        )
        self._keeper = lab.start(lab["device"], "unshare", "--mount", "--propagation", "private", "sh", "-ec", script)
        wait_until(lambda: ready.exists() or not self._keeper.running, 20, "the device's own /etc and /var/lib")
        if not ready.exists():
            raise RuntimeError(f"the device's own /etc and /var/lib cannot be made: {self._keeper.output().strip()}")

    @property
    def enter(self) -> list[str]:
        """The words before a command that is to run at home."""
        return ["nsenter", f"--mount=/proc/{self._keeper.pid}/ns/mnt"]

    def sh(self, *command: str, stdin: str | None = None) -> str:
        """Run a command at home, on the device; RuntimeError with its own words if it fails."""
        return self._lab["device"].sh(*self.enter, *command, stdin=stdin)


@dataclass(frozen=True)
class Told:
    """What the product says of itself."""

    state: str
    blocks: bool
    enforced: bool
    failure: str = ""
    verdicts: dict[str, int] = field(default_factory=dict)  # packets by rule id
    drops: dict[str, int] = field(default_factory=dict)  # packets by reason


NOBODY_ANSWERS = Told("", blocks=False, enforced=False)


class Driver(ABC):
    """What the lab asks of the product. `live`: settings may be changed while it is connected."""

    name: str
    live: bool

    def __init__(self, lab: Lab, home: Home, confs: dict[str, str], firewall: bool) -> None:
        self.lab, self.home, self.confs, self.firewall = lab, home, confs, firewall
        self.iface = f"mh{lab.tag}"
        self.process: Process | None = None
        self.env = {"MOLEHILL_DNS": "file"}

    @abstractmethod
    def start(self) -> None:
        """Let it run, as its settings and its past say."""

    @abstractmethod
    def connect(self) -> None:
        """Connect; on return at least Connecting's policy is in force."""

    @abstractmethod
    def disconnect(self) -> None:
        """The explicit disconnect."""

    @abstractmethod
    def settings(self, **changes: Any) -> None:
        """Change settings, in the schema's names; on return they are in force."""

    @abstractmethod
    def block(self) -> None:
        """Bring it to Error."""

    @abstractmethod
    def status(self) -> Told:
        """What it says now; NOBODY_ANSWERS."""

    def wait_for(self, state: str, timeout: float = 30.0) -> float:
        """Wait until it tells this state; the seconds it took."""
        try:
            return wait_until(lambda: self.status().state == state, timeout, f"state {state}")
        except TimeoutError as error:
            said = self.process.output()[-2000:] if self.process else ""
            raise TimeoutError(f"{error}; it says {self.status().state or 'nothing'}; its log ends: {said}") from None

    def can_reach(self, state: str, *, api: bool = False, bridge: bool = False) -> bool:
        """Whether it can be brought to this state, with an API's endpoint or a bridge in its settings."""
        return self.live or not (api or bridge or state == "boot")

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.running

    def signal(self, number: signal.Signals) -> None:
        """Send its process a signal."""
        assert self.process is not None
        self.process.popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.process is not None:
            self.process.stop(signal.SIGKILL)

    @abstractmethod
    def reset(self) -> None:
        """The default settings, and the explicit disconnect: nothing is left enforced."""

    def _launch(self, *words: str) -> Process:
        return self.lab.start(self.lab["device"], *self.home.enter, "molehill", *words, env=self.env)


class Daemon(Driver):
    """`molehill daemon`."""

    name, live = "daemon", True

    def start(self) -> None:
        """Start it, wait until it answers, and import the tunnels."""
        process = self.process = self._launch("daemon", "--interface", self.iface, "--mode", self._mode)

        def answers() -> bool:
            if not process.running:
                raise RuntimeError(f"`molehill daemon` ended at once: {process.output().strip()[-2000:]}")
            return self.status() is not NOBODY_ANSWERS

        wait_until(answers, 30, "the daemon answers")
        with self.client() as client:
            known = {tunnel.name for tunnel in client.call("tunnel.list", None, schema.Tunnels).tunnels}
            for name, conf in self.confs.items():
                if name not in known:
                    client.call("tunnel.import", schema.ImportTunnel(name, conf), schema.Imported)

    @property
    def _mode(self) -> str:
        return "firewall" if self.firewall else "vpn-service"

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A connection to its socket."""
        with Client(self.lab.dir / "run" / "management.socket") as client:
            yield client

    def connect(self) -> None:
        """Connect, by the tunnel that is chosen."""
        with self.client() as client:
            client.call("connect", None, schema.Status)

    def reconnect(self) -> None:
        """Connect anew."""
        with self.client() as client:
            client.call("reconnect", None, schema.Status)

    def disconnect(self) -> None:
        """The explicit disconnect."""
        with self.client() as client:
            client.call("disconnect", None, schema.Status)

    def settings(self, **changes: Any) -> None:
        """Change settings."""
        with self.client() as client:
            client.call("settings.set", schema.SettingsPatch(**changes), schema.Settings)

    def reset(self) -> None:
        """Disconnect, and the default settings but for the tunnel to connect by."""
        self.disconnect()
        self.reset_settings()
        self.settings(choice=schema.TunnelChoice(next(iter(self.confs))))
        self.wait_for("disconnected")

    def set_bridge(self, endpoint: str) -> None:
        """From now on the first hop is a bridge there, by UDP over TCP."""
        bridge = schema.Bridge(schema.BridgeKind.UDP_OVER_TCP, endpoint)
        with self.client() as client:
            client.call("bridge.set", schema.SetBridge(bridge), schema.Settings)

    def reset_settings(self) -> None:
        """The default settings: no tunnel is chosen."""
        with self.client() as client:
            client.call("settings.reset", None, schema.Settings)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self.process is not None
        return self.process.stop(patience=15)

    def block(self) -> None:
        """Go to Error on purpose."""
        with self.client() as client:
            client.call("debug.block", schema.Detail("the leak lab asked for it"), schema.Status)

    def status(self) -> Told:
        """What it says now."""
        try:
            with self.client() as client:
                told = client.call("status", None, schema.Status)
        except (ManagementError, OSError):
            return NOBODY_ANSWERS
        return as_told(told)

    def block_early(self) -> None:
        """What the unit of the early boot runs: block, and end (BOOT-1)."""
        done = self._launch("daemon", "--interface", self.iface, "--mode", self._mode, "--early-boot-blocking")
        if done.popen.wait(30) != 0:
            raise RuntimeError(f"`molehill daemon --early-boot-blocking` failed: {done.output().strip()}")


def as_told(told: schema.Status) -> Told:
    """What the daemon says, in the lab's words."""
    verdicts = {rule: count.packets for rule, count in told.verdicts.items()}
    return Told(told.state, told.blocks, told.enforced, told.failure or "", verdicts, dict(told.drops))


class Run(Driver):
    """`molehill run`, of the first configuration."""

    name, live = "run", False

    def __init__(self, lab: Lab, home: Home, confs: dict[str, str], firewall: bool) -> None:
        super().__init__(lab, home, confs, firewall)
        self._options: dict[str, Any] = {}
        self._lost_the_way = False

    def start(self) -> None:
        """Nothing runs until it connects."""

    def connect(self) -> None:
        """Start `molehill run`, and wait until it is on its way."""
        conf = self.lab.dir / f"{self.iface}.conf"
        conf.touch(mode=0o600)
        conf.write_text(next(iter(self.confs.values())))
        options = [f"--dns={server}" for server in self._options.get("dns", ())]
        options += ["--allow-lan"] if self._options.get("allow_lan") else []
        options += ["--always-require-vpn"] if self._options.get("always_require_vpn") else []
        options += ["--firewall"] if self.firewall else []
        process = self.process = self._launch("run", str(conf), "--json", *options)

        def on_its_way() -> bool:
            if not process.running:
                raise RuntimeError(f"`molehill run` ended at once: {process.output().strip()[-2000:]}")
            return self.status().state not in ("", "disconnected")

        wait_until(on_its_way, 30, "`molehill run` connects")

    def disconnect(self) -> None:
        """Ctrl-C."""
        if self._lost_the_way:
            self.lab["device"].ip(f"rule del pref 50 fwmark {world.MARK:#x} unreachable")
            self._lost_the_way = False
        if self.process is not None:
            self.process.stop(signal.SIGINT, patience=15)

    def settings(self, **changes: Any) -> None:
        """Options of the next connect."""
        if self.running:
            raise RuntimeError("`molehill run` takes its settings when it starts")
        self._options.update(changes)

    def block(self) -> None:
        """Close the way to the relay for its own packets alone: it is offline, nobody else is."""
        self.lab["device"].ip(f"rule add pref 50 fwmark {world.MARK:#x} unreachable")  # its own packets' way alone
        self._lost_the_way = True
        self.wait_for("error")

    def status(self) -> Told:
        """What it has told last, on its standard output."""
        if self.process is None:
            return Told("disconnected", blocks=False, enforced=True)
        told = [json.loads(line) for line in self.process.output().splitlines() if line.endswith("}")]
        if not told:
            return NOBODY_ANSWERS
        if not self.running:
            return Told("disconnected", blocks=bool(self._options.get("always_require_vpn")), enforced=True)
        last = told[-1]
        return Told(last["state"], last["state"] != "disconnected", last["enforced"], last.get("failure") or "")

    def reset(self) -> None:
        """Ctrl-C; what a killed run or "always require VPN" has left is opened."""
        if self.running:
            self.disconnect()
        if self._options.get("always_require_vpn") or self.process is not None:
            unblock(self)
        self._options.clear()
        self.process = None


def unblock(driver: Driver) -> None:
    """`molehill unblock`: open what a killed process left."""
    command = ["ip", "netns", "exec", driver.lab["device"].name, *driver.home.enter, "molehill", "unblock"]
    env = {**driver.lab.env, **driver.env}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"`molehill unblock` failed: {done.stderr.strip()}")


def configurations(client: relay.Keys, first: relay.Keys, second: relay.Keys) -> dict[str, str]:
    """The two tunnels of the lab, each by its own relay, as .conf texts."""
    return {
        name: (
            f"[Interface]\nPrivateKey = {relay.text(client.private)}\nAddress = {four}/32, {six}/128\n"
            f"DNS = {gateway}\n[Peer]\nPublicKey = {relay.text(keys.public)}\nAllowedIPs = 0.0.0.0/0, ::/0\n"
            f"Endpoint = {endpoint}:{world.RELAY_PORT}\n"
        )
        for name, keys, endpoint, four, six, gateway in (
            ("one", first, world.RELAY4, world.TUNNEL4, world.TUNNEL6, world.GATEWAY4),
            ("two", second, world.RELAY2_4, world.TUNNEL2_4, world.TUNNEL2_6, world.GATEWAY2_4),
        )
    }
