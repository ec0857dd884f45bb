"""A device of the lab with our package installed, on Debian's own systemd: what the boot tests are told with.

The network comes up in the boot, by a unit right after network-pre.target, as early as any could. From before the boot
a drizzle of datagrams tries to get out, and a capture at the provider's end judges every frame.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.leaklab.probes import Drizzle
from tests.boot.machine import BASE, Machine, forget_kernel
from tests.netns import lab
from tests.netns.lab import wait_until
from tests.netns.scenario import ALLOWED, Walk

_NETWORK = f"""\
[Unit]
DefaultDependencies=no
After=network-pre.target
Before=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/ip link set lo up
ExecStart=/usr/sbin/ip link set eth0 up
ExecStart=/usr/sbin/ip addr add {lab.DEVICE4}/24 dev eth0
ExecStart=/usr/sbin/ip addr add {lab.DEVICE6}/64 dev eth0 nodad
ExecStart=/usr/sbin/ip route add default via {lab.ISP4}
ExecStart=/usr/sbin/ip -6 route add default via {lab.ISP6}
[Install]
WantedBy=sysinit.target
"""
RESOLV_CONF = f"# the provider's\nnameserver {lab.ISP4}\n"


class Device:
    """See the head of this file. `walk` is the world around it, `machine` the machine."""

    def __init__(self, walk: Walk, installed: Path | None, base: Path = BASE) -> None:
        self.walk = walk
        self.machine = Machine(walk.lab, installed=installed, base=base)
        self.machine.write("etc/systemd/system/lab-network.service", _NETWORK)
        self.machine.link("etc/systemd/system/sysinit.target.wants/lab-network.service", "../lab-network.service")
        self.machine.write("etc/resolv.conf", RESOLV_CONF)
        self.drizzle = Drizzle(walk.lab["device"])

    def boot(self) -> None:
        """From the power switch to the end of the boot, the drizzle going on all the time."""
        forget_kernel(self.machine.network)
        if not self.drizzle.running:
            self.drizzle.start()
        self.machine.boot()

    def import_tunnel(self) -> None:
        """`molehill tunnel import` of the relay's file."""
        self.machine.run("molehill", "tunnel", "import", "-", "--name", "se1", stdin=self.walk.write_conf().read_text())

    def connect(self) -> None:
        """Import and connect; every frame in clear from here on is a leak."""
        self.import_tunnel()
        self.machine.run("molehill", "connect", "--wait", "--timeout", "30")
        self.walk.guard()

    def status(self) -> dict[str, Any]:
        """What `molehill status --json` says; empty while nobody answers."""
        done = self.machine.try_run("molehill", "status", "--json")
        if done.returncode != 0:
            return {}
        said = json.loads(done.stdout)
        assert isinstance(said, dict)
        return said

    def wait_for(self, state: str) -> None:
        """Wait until the daemon tells that it is in `state`."""
        try:
            wait_until(lambda: self.status().get("state") == state, 30, f"state {state}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.status()}\n{self.machine.journal()}") from None

    def frames_in_clear(self, since: float = 0) -> list[float]:
        """When frames in clear were seen, from `since` (monotonic s) on."""
        assert self.walk.capture is not None
        self.walk.capture.flush()
        return [frame.at for frame in self.walk.capture.frames if frame.at >= since and frame.kind not in ALLOWED]

    def is_open(self) -> bool:
        """Whether the drizzle gets out in clear now. Half a second is a hundred of its drops."""
        begin = time.monotonic()
        time.sleep(0.5)
        return bool(self.frames_in_clear(begin))

    def interface_index(self) -> str:
        """The number of the TUN: another one is another TUN."""
        return self.walk.lab["device"].ip("-o link show molehill0").split(":")[0]

    def table(self) -> str:
        """The names of the firewall's tables, as anybody in the device's network sees them."""
        return self.walk.lab["device"].sh("nft", "list", "tables")


@contextmanager
def device(installed: Path | None, base: Path = BASE) -> Iterator[Device]:
    """A device in a world of its own, not booted yet."""
    with Walk(firewall=True, progress=lambda text: None) as walk:
        made = Device(walk, installed, base)
        walk.drizzle = made.drizzle
        yield made
