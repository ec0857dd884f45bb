"""Network namespaces to test in: built by name, entered by thread, removed whatever happens.

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

    def sysctl(self, name: str, value: int) -> None:
        """Set one of the kernel's settings for this namespace."""
        with self.entered():
            Path("/proc/sys", *name.split(".")).write_text(f"{value}\n")

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
        ns.sysctl("net.ipv6.conf.default.accept_dad", 0)
        ns.sysctl("net.ipv6.conf.all.accept_dad", 0)
        # An address outlives the removal of another one of its subnet, as on a host with a network manager.
        ns.sysctl("net.ipv4.conf.default.promote_secondaries", 1)
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
