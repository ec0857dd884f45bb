"""WireGuard engines as processes: any program with wireguard-go's command line, driven by unmodified `wg`.

Order of events: start the command in a namespace -> wait for its control socket -> `wg setconf` -> addresses,
MTU and routes by `ip` -> the test -> `stop()`. The engines to compare differ in `command` alone.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.netns.lab import Lab, Namespace, Process, sh, wait_until

WIREGUARD_GO = "wireguard-go -f {iface}"
MOLEHILL = "molehill-wg -f {iface}"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Keys:
    """One key pair in base64."""

    private: str
    public: str

    @classmethod
    def new(cls) -> Keys:
        """A fresh pair, made by `wg genkey` and `wg pubkey`."""
        private = sh("wg", "genkey").strip()
        return cls(private, sh("wg", "pubkey", stdin=private + "\n").strip())


@dataclass(frozen=True)
class Cost:
    """What a process has used: CPU in seconds over all its threads, peak resident set in bytes."""

    cpu: float
    peak_rss: int


class Engine:
    """A running WireGuard process and its interface in a namespace."""

    def __init__(
        self,
        lab: Lab,
        ns: Namespace,
        iface: str,
        command: str = WIREGUARD_GO,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.lab, self.ns, self.iface = lab, ns, iface
        quiet = {"LOG_LEVEL": "error"}  # wireguard-go's; ours ignores it
        self.process: Process = lab.start(ns, *shlex.split(command.format(iface=iface)), env={**quiet, **(env or {})})
        socket = Path(f"/var/run/wireguard/{iface}.sock")

        def ready() -> bool:
            if not self.process.running:
                raise RuntimeError(f"{command!r} ended at once: {self.process.output().strip()}")
            return socket.exists() and ns.has_interface(iface) and self._answers()

        wait_until(ready, 15, f"{command!r} serving {socket}")

    def _answers(self) -> bool:
        shown = ["ip", "netns", "exec", self.ns.name, "wg", "show", self.iface, "listen-port"]
        return subprocess.run(shown, capture_output=True, check=False, timeout=10).returncode == 0

    def wg(self, *words: str, stdin: str | None = None) -> str:
        """`wg WORDS...` in the engine's namespace."""
        return self.ns.sh("wg", *words, stdin=stdin)

    def setconf(self, text: str) -> None:
        """`wg setconf` of a configuration text."""
        conf = self.lab.dir / f"{self.iface}.wg"
        conf.touch(mode=0o600)
        conf.write_text(text)
        self.wg("setconf", self.iface, str(conf))

    def up(self, addresses: Sequence[str], routes: Sequence[str] = (), mtu: int = 1420) -> None:
        """Addresses (with prefix length), MTU, link up, routes to the interface."""
        self.ns.ip(f"link set {self.iface} mtu {mtu}")
        for address in addresses:
            self.ns.ip(f"addr add {address} dev {self.iface}{' nodad' if ':' in address else ''}")
        self.ns.ip(f"link set {self.iface} up")
        for route in routes:
            self.ns.ip(f"route add {route} dev {self.iface}")

    def transfer(self) -> tuple[int, int]:
        """Bytes received and sent by the only peer, as `wg show` tells."""
        _, received, sent = self.wg("show", self.iface, "transfer").split()
        return int(received), int(sent)

    def last_handshake(self) -> int:
        """Unix time of the only peer's last handshake; 0 is never."""
        return int(self.wg("show", self.iface, "latest-handshakes").split()[1])

    def endpoint(self) -> str:
        """The only peer's endpoint as `wg show` prints it."""
        return self.wg("show", self.iface, "endpoints").split()[1]

    def cost(self) -> Cost:
        """CPU and peak memory used so far."""
        return cost_of(self.process.pid)

    def stop(self) -> int:
        """End it by SIGTERM; returns the exit code."""
        return self.process.stop()


def cost_of(pid: int) -> Cost:
    """CPU and peak memory of a process, all threads, from /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return Cost((int(fields[11]) + int(fields[12])) / _TICKS, int(peak) * 1024)


def _wakes(pid: int) -> int:
    """How often all threads of a process have gone to sleep or been interrupted so far."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if "ctxt_switches" in line:
                total += int(line.split()[1])
    return total


def wait_until_idle(pid: int, seconds: float, wakes: int, patience: float = 60) -> None:
    """Wait until so many seconds pass in which a process wakes at most so often."""

    def idle() -> bool:
        begin, before = time.monotonic(), _wakes(pid)
        while time.monotonic() - begin < seconds and _wakes(pid) - before <= wakes:
            time.sleep(0.1)
        return _wakes(pid) - before <= wakes

    wait_until(idle, patience, f"{seconds:g} s with at most {wakes} wakes")


def config(
    keys: Keys,
    peer: str,
    allowed: str,
    *,
    port: int = 0,
    endpoint: str = "",
    psk: str = "",
    keepalive: int = 0,
) -> str:
    """The text of a one-peer `wg setconf` file."""
    lines = ["[Interface]", f"PrivateKey = {keys.private}"]
    if port:
        lines.append(f"ListenPort = {port}")
    lines += ["[Peer]", f"PublicKey = {peer}", f"AllowedIPs = {allowed}"]
    if psk:
        lines.append(f"PresharedKey = {psk}")
    if endpoint:
        lines.append(f"Endpoint = {endpoint}")
    if keepalive:
        lines.append(f"PersistentKeepalive = {keepalive}")
    return "\n".join(lines) + "\n"
