"""Network namespaces to test in: built by name, entered by thread, removed whatever happens.

Two worlds are made of the same bricks:

* `world()` is the demo's: a device on a LAN, its provider (isp), the internet, a relay.

      device 192.168.77.2 ---+
                             +--- isp (bridge, router) ---- internet ---- relay
      lan    192.168.77.20 --+    192.168.77.1              203.0.113.x   198.51.100.10

  Nothing translates addresses: the internet side has a route back to the device's network and, by way of the
  relay, one to the tunnel's addresses. So a server sees by the source address which way a packet came.
* `pair()` is two namespaces joined by one veth, for interop tests and throughput.

Order of events: remove what a crashed run left behind (namespaces carry their maker's process id) -> make
namespaces and links -> the caller runs things -> `close()` ends every process started here and deletes the
namespaces, and with them every interface.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
NETNS = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_OURS = re.compile(r"^lab-(\d+)-\w+$")
_libc = ctypes.CDLL(None, use_errno=True)


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")


def sh(*command: str, stdin: str | None = None) -> str:
    """Run a command and return its standard output; a failure is raised with the command's own words."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(command)}` exited {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def wait_until(ready: Callable[[], bool], timeout: float, what: str) -> float:
    """Wait until `ready()`, and return the seconds it took; TimeoutError names `what` was waited for."""
    begin = time.monotonic()
    while not ready():
        if time.monotonic() - begin > timeout:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(0.02)
    return time.monotonic() - begin


class Namespace:
    """One network namespace. `with ns.entered():` moves the calling thread; sockets made there stay there."""

    def __init__(self, name: str) -> None:
        self.name = name

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Move the calling thread (and no other) into the namespace, and back."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            inside = os.open(NETNS / self.name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _setns(inside)
            finally:
                os.close(inside)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def sh(self, *command: str, stdin: str | None = None) -> str:
        """Run a command inside; see `sh`."""
        return sh("ip", "netns", "exec", self.name, *command, stdin=stdin)

    def ip(self, words: str) -> str:
        """`ip -n NAMESPACE ...` of a command line in one string."""
        return sh("ip", "-n", self.name, *words.split())

    def has_interface(self, name: str) -> bool:
        """Whether an interface of this name exists inside."""
        done = subprocess.run(["ip", "-n", self.name, "link", "show", "dev", name], capture_output=True, check=False)
        return done.returncode == 0


class Process:
    """A command running in a namespace, its output kept in a file, ended by SIGTERM and then SIGKILL."""

    def __init__(self, ns: Namespace, command: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.command, self.log = list(command), log
        with log.open("wb") as out:
            self.popen = subprocess.Popen(
                ["ip", "netns", "exec", ns.name, *command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=dict(env),
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Process id of the command itself: `ip netns exec` replaces itself by it."""
        return self.popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.popen.poll() is None

    def output(self) -> str:
        """All it has written so far, both streams."""
        return self.log.read_text(errors="replace")

    def stop(self, how: signal.Signals = signal.SIGTERM, patience: float = 5.0) -> int:
        """End it and return its exit code (negative: the signal)."""
        if self.running:
            self.popen.send_signal(how)
        try:
            return self.popen.wait(patience)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()


def _remove(name: str) -> None:
    """Delete a namespace and end what still runs in it."""
    listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    for pid in listed.stdout.split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            pass
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def remove_left_behind() -> None:
    """Remove the namespaces and scratch folders of earlier runs that no longer live."""

    def left(folder: Path) -> Iterator[Path]:
        for entry in folder.iterdir() if folder.is_dir() else ():
            made_by = _OURS.match(entry.name)
            if made_by and not Path(f"/proc/{made_by[1]}").exists():
                yield entry

    for namespace in left(NETNS):
        _remove(namespace.name)
    for scratch in left(Path(tempfile.gettempdir())):
        shutil.rmtree(scratch, ignore_errors=True)


class Lab:
    """A set of namespaces and the processes in them; a context manager that leaves nothing behind."""

    def __init__(self) -> None:
        remove_left_behind()
        self.tag = f"{os.getpid():x}"
        self.dir = Path(tempfile.mkdtemp(prefix=f"lab-{os.getpid()}-"))
        self._namespaces: dict[str, Namespace] = {}
        self._processes: list[Process] = []
        self.env = self._environment()

    def _environment(self) -> dict[str, str]:
        """Ours on PATH as `molehill` and `molehill-wg`, whether the package is installed or not."""
        bin_dir = self.dir / "bin"
        bin_dir.mkdir()
        for name, module in (("molehill", "engine.cli.main"), ("molehill-wg", "engine.tunnel.molehill_wg")):
            script = bin_dir / name
            script.write_text(
                f'#!/bin/sh\nPYTHONPATH="{ROOT}:$PYTHONPATH" exec "{sys.executable}" -P -m {module} "$@"\n'
            )
            script.chmod(0o755)
        own = {
            "MOLEHILL_RUN_DIR": str(self.dir / "run"),  # apart from other labs, which share /run
            "MOLEHILL_DNS": "none",  # a network namespace shares the machine's /etc/resolv.conf
        }
        return {**os.environ, **own, "PATH": f"{bin_dir}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"}

    def namespace(self, role: str) -> Namespace:
        """Make a namespace with loopback up and IPv6 addresses usable at once (no duplicate detection)."""
        ns = Namespace(f"lab-{os.getpid()}-{role}")
        _remove(ns.name)
        sh("ip", "netns", "add", ns.name)
        self._namespaces[role] = ns
        ns.ip("link set lo up")
        quick = ["net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0"]
        # An address outlives the removal of another one of its subnet, as on a host with a network manager.
        ns.sh("sysctl", "-qw", *quick, "net.ipv4.conf.default.promote_secondaries=1")
        return ns

    @property
    def roles(self) -> tuple[str, ...]:
        """The names of the namespaces made so far, without the prefix."""
        return tuple(self._namespaces)

    def __getitem__(self, role: str) -> Namespace:
        return self._namespaces[role]

    def wire(self, a: str, a_name: str, b: str, b_name: str) -> None:
        """Join two namespaces by a veth pair, both ends up."""
        left, right = self[a], self[b]
        left.ip(f"link add {a_name} type veth peer name {b_name} netns {right.name}")
        left.ip(f"link set {a_name} up")
        right.ip(f"link set {b_name} up")

    def start(self, ns: Namespace, *command: str, env: Mapping[str, str] | None = None) -> Process:
        """Start a command in a namespace; `close()` ends it."""
        log = self.dir / f"{len(self._processes):02d}-{Path(command[0]).name}.log"
        process = Process(ns, command, log, {**self.env, **(env or {})})
        self._processes.append(process)
        return process

    def close(self) -> None:
        """End every process, delete every namespace, remove the scratch folder."""
        for process in reversed(self._processes):
            process.stop(patience=2.0)
        for ns in self._namespaces.values():
            _remove(ns.name)
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# The world of the demo. Addresses of documentation and private use only.
LAN4, LAN6 = "192.168.77.", "2001:db8:77::"
DEVICE4, DEVICE6 = LAN4 + "2", LAN6 + "2"
ISP4, ISP6 = LAN4 + "1", LAN6 + "1"
LAN_HOST4, LAN_HOST6 = LAN4 + "20", "fd77::20"
RELAY4, RELAY6, RELAY_PORT = "198.51.100.10", "2001:db8:100::10", 51820
WEB4, WEB6 = "203.0.113.80", "2001:db8:80::80"
RESOLVER4, RESOLVER6 = "203.0.113.53", "2001:db8:80::53"
BRIDGE4, BRIDGE6 = "203.0.113.90", "2001:db8:80::90"
TUNNEL4, TUNNEL6 = "10.64.0.2", "fc00:64::2"
GATEWAY4, GATEWAY6 = "10.64.0.1", "fc00:64::1"


def world() -> Lab:
    """Device, LAN host, provider, internet and relay, wired and routed; no tunnel yet."""
    lab = Lab()
    try:
        device, lan, isp, internet, relay = map(lab.namespace, ("device", "lan", "isp", "internet", "relay"))
        isp.ip("link add lan type bridge mcast_snooping 0")
        lab.wire("device", "eth0", "isp", "dev0")
        lab.wire("lan", "eth0", "isp", "lan0")
        lab.wire("isp", "up0", "internet", "isp0")
        lab.wire("relay", "eth0", "internet", "rel0")
        for port in ("dev0", "lan0"):
            isp.ip(f"link set {port} master lan")
        isp.ip("link set lan up")
        for router in (isp, internet, relay):
            router.sh("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

        def addresses(ns: Namespace, dev: str, *networks: str) -> None:
            for network in networks:
                nodad = " nodad" if ":" in network else ""
                ns.ip(f"addr add {network} dev {dev}{nodad}")

        addresses(device, "eth0", DEVICE4 + "/24", DEVICE6 + "/64", "fd77::2/64")
        addresses(lan, "eth0", LAN_HOST4 + "/24", LAN_HOST6 + "/64")
        addresses(isp, "lan", ISP4 + "/24", ISP6 + "/64")
        addresses(isp, "up0", "192.0.2.1/30", "2001:db8:2::1/64")
        addresses(internet, "isp0", "192.0.2.2/30", "2001:db8:2::2/64")
        addresses(internet, "rel0", "198.51.100.1/24", "2001:db8:100::1/64")
        addresses(internet, "lo", *(f"{a}/32" for a in (WEB4, RESOLVER4, BRIDGE4)))
        addresses(internet, "lo", *(f"{a}/128" for a in (WEB6, RESOLVER6, BRIDGE6)))
        addresses(relay, "eth0", RELAY4 + "/24", RELAY6 + "/64")
        for ns, hop4, hop6 in (
            (device, ISP4, ISP6),
            (isp, "192.0.2.2", "2001:db8:2::2"),
            (relay, "198.51.100.1", "2001:db8:100::1"),
        ):
            ns.ip(f"route add default via {hop4}")
            ns.ip(f"-6 route add default via {hop6}")
        lan.ip(f"route add default via {ISP4}")
        # As behind any address translation: from the relay's end there is no way back into the device's own LAN.
        relay.ip(f"route add unreachable {LAN_HOST4}")
        internet.ip(f"route add {LAN4}0/24 via 192.0.2.1")
        internet.ip(f"-6 route add {LAN6}/64 via 2001:db8:2::1")
        # A relay may not fragment IPv6 on its way into the tunnel: the internet side knows the narrow hop.
        internet.ip(f"route add 10.64.0.0/24 via {RELAY4} mtu 1280")
        internet.ip(f"-6 route add fc00:64::/64 via {RELAY6} mtu 1280")
    except BaseException:
        lab.close()
        raise
    return lab


def pair() -> Lab:
    """Namespaces `a` (172.16.9.1, fd09::1) and `b` (172.16.9.2, fd09::2), joined by one veth of MTU 1500."""
    lab = Lab()
    try:
        for role in "ab":
            lab.namespace(role)
        lab.wire("a", "eth0", "b", "eth0")
        for number, role in enumerate("ab", 1):
            lab[role].ip(f"addr add 172.16.9.{number}/24 dev eth0")
            lab[role].ip(f"addr add fd09::{number}/64 dev eth0 nodad")
    except BaseException:
        lab.close()
        raise
    return lab
