"""A machine to boot: Debian's real systemd as process 1, in namespaces of its own, with the network of a lab's device.

Its root is an overlay on a minimal Debian that `make test-boot` debootstraps once; what it writes stays from one boot
to the next, as on a disk. Its network namespace is the lab's and outlives it, so what a shutdown leaves in force can
be looked at; `forget_kernel` clears that, as a reboot does.

It shares the kernel: /proc/sys is read-only but for the network's part, and what could harm the host (clock, kernel
modules, log) is out of its capabilities.

Order of a boot: namespaces -> overlay, /proc, /sys, /dev with the TUN -> pivot_root -> /lib/systemd/systemd.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from tests.netns.lab import ROOT, Lab, Namespace, Process, wait_until

BASE = ROOT / "build/boot/root"
MANAGERS = ROOT / "build/boot/managers"
"""The same with systemd-resolved and NetworkManager."""
PACKAGES = ROOT / "dist"

_BOOT = """\
set -e
layers=$1 disk=$2
mount --make-rprivate /
mkdir -p $disk/upper $disk/work $disk/root
mount -t overlay -o lowerdir=$layers,upperdir=$disk/upper,workdir=$disk/work overlay $disk/root
cd $disk/root
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,rw proc/sys/net
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/net dev/pts dev/shm
for node in null zero full random urandom tty net/tun; do touch dev/$node; mount --bind /dev/$node dev/$node; done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
pivot_root . mnt
umount -l /mnt
exec env -i container=molehill-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio,-syslog,-wake_alarm \\
    /lib/systemd/systemd --log-target=console --show-status=no
"""

_ENVIRONMENT = ("PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")


class Machine:
    """One machine on `role`'s network. `boot()` first; the lab's `close()` ends it if nothing else has.

    `installed`: the folder `upper` of another machine's disk, to begin with what was installed there.
    """

    def __init__(self, lab: Lab, role: str = "device", installed: Path | None = None, base: Path = BASE) -> None:
        self._lab, self.network = lab, lab[role]
        self.disk = lab.dir / "disk"
        self.disk.mkdir()
        self._layers = ":".join(str(layer) for layer in (installed, base) if layer is not None)
        self._outside: Process | None = None
        self._pid = 0
        self.write("etc/systemd/system/console-getty.service.d/off.conf", "[Unit]\nConditionPathExists=/none\n")

    def write(self, path: str, content: str | bytes) -> None:
        """A file of the machine; between boots, or while it runs where nothing else stands."""
        here = self._root / path if self._pid else self.disk / "upper" / path
        here.parent.mkdir(parents=True, exist_ok=True)
        here.write_bytes(content.encode() if isinstance(content, str) else content)

    def link(self, path: str, target: str) -> None:
        """A symbolic link on its disk; before the boot."""
        here = self.disk / "upper" / path
        here.parent.mkdir(parents=True, exist_ok=True)
        here.symlink_to(target)

    @property
    def _root(self) -> Path:
        return Path(f"/proc/{self._pid}/root")

    def boot(self) -> None:
        """Start it, and wait until systemd has done what it does at a boot."""
        inner = ["sh", "-c", _BOOT, "boot", self._layers, str(self.disk)]
        own = ["unshare", "--fork", "--pid", "--mount", "--uts", "--ipc", "--cgroup", "--kill-child"]
        self._outside = outside = self._lab.start(self.network, *own, *inner)
        children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")

        def up() -> bool:
            if not outside.running:
                raise RuntimeError(f"the machine did not boot: {outside.output()[-2000:]}")
            self._pid = int((children.read_text().split() or ["0"])[0])
            return bool(self._pid) and self.try_run("systemctl", "is-system-running").stdout.strip() in (
                "running",
                "degraded",
            )

        wait_until(up, 60, "the end of the boot")

    def try_run(self, *command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command in it as root, whatever comes of it."""
        return subprocess.run(
            ["nsenter", "-t", str(self._pid), "-a", "env", "-i", *_ENVIRONMENT, *command],
            input=stdin, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def run(self, *command: str, stdin: str | None = None) -> str:
        """The same; its standard output. A failure is raised with the command's own words."""
        done = self.try_run(*command, stdin=stdin)
        if done.returncode != 0:
            said = f"{done.stdout}\n{done.stderr}".strip()
            raise RuntimeError(f"`{shlex.join(command)}` exited {done.returncode}: {said}\n{self.journal()}")
        return done.stdout

    def show(self, unit: str, of: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", of, unit).strip()

    def main_pid(self) -> int:
        """The daemon's process id as the machine counts; 0: it does not run."""
        return int(self.show("molehill.service", "MainPID"))

    def journal(self) -> str:
        """The newest lines of our units."""
        return self.try_run("journalctl", "-n", "60", "-o", "short-monotonic", "-u", "molehill*").stdout

    def shut_down(self) -> None:
        """`systemctl poweroff`, to the end."""
        assert self._outside is not None
        self.try_run("systemctl", "poweroff")
        outside = self._outside
        wait_until(lambda: not outside.running, 60, "the end of the shutdown")
        self._pid = 0


def forget_kernel(network: Namespace) -> None:
    """What a reboot does to a network namespace: firewall, rules, routes, addresses and our interface go."""
    network.ip("link set eth0 down")
    network.sh("nft", "flush", "ruleset")
    for family in ("-4", "-6"):
        network.ip(f"{family} rule flush")
        network.ip(f"{family} rule add pref 32766 table main")
        network.ip(f"{family} route flush table all")
    network.ip("-4 rule add pref 32767 table default")
    if network.has_interface("molehill0"):
        network.ip("link del molehill0")
    network.ip("addr flush dev eth0")
    network.ip("link set lo down")
