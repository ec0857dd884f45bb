"""What the engine needs of this machine, checked before anything is changed."""

from __future__ import annotations

import os
from pathlib import Path

_CAP_NET_ADMIN = 12  # linux/capability.h


def missing() -> list[str]:
    """One sentence for each thing that is missing; empty: all is there."""
    problems = []
    if not _has_net_admin():
        problems.append("the privilege CAP_NET_ADMIN is missing: run as root (sudo)")
    device = Path("/dev/net/tun")
    if not device.exists():
        problems.append("there is no /dev/net/tun: load the tun module (modprobe tun) or give it to the container")
    elif not os.access(device, os.R_OK | os.W_OK):
        problems.append("/dev/net/tun may not be opened by this user: run as root (sudo)")
    if not Path("/proc/sys/net/ipv4/conf/all/src_valid_mark").exists():
        problems.append("the kernel has no packet marks (src_valid_mark): it is not Linux 2.6.36 or newer")
    return problems


def _has_net_admin() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return False
