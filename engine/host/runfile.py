"""Files of the run folder that belong to one network namespace: its kernel switches (sysctl.py), its session's lock."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

_SO_NETNS_COOKIE = 71  # asm-generic/socket.h


def of_this_namespace(stem: str, suffix: str) -> Path:
    """STEM-NAMESPACE.SUFFIX in the run folder."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            # Unlike the inode of /proc/self/ns/net a cookie is never given twice.
            namespace = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError:  # before Linux 5.14
            namespace = os.stat("/proc/thread-self/ns/net").st_ino
    return Path(os.environ.get("MOLEHILL_RUN_DIR", "/run/molehill")) / f"{stem}-{namespace}.{suffix}"
