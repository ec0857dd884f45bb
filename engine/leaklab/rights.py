"""The right to make namespaces: root has it; anyone has it inside a user namespace where the kernel allows that.

`need_namespaces()` is called before anything else is done. As root it returns. As an ordinary user it runs the
same command again in a user namespace of its own (util-linux `unshare -Urnm`, a private /run for `ip netns` and
the control sockets), and if a TUN device cannot be made there, says in one line to use sudo.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

_ENTER = ["unshare", "-Urnm", "--propagation", "private"]
_PREPARE = "mount -t tmpfs tmpfs /run"
_TRY = f"{_PREPARE} && ip netns add try && ip tuntap add dev try0 mode tun"


def why_not(*tools: str) -> str:
    """Why namespaces and TUN devices cannot be made here, in one sentence; empty: they can (perhaps re-executed).

    `tools`: commands that are needed besides.
    """
    for tool in ("ip", "unshare", *tools):
        if shutil.which(tool) is None:
            return f"the command `{tool}` is missing"
    if not os.path.exists("/dev/net/tun"):
        return "there is no /dev/net/tun"
    if os.geteuid() == 0:
        return ""
    tried = subprocess.run([*_ENTER, "sh", "-c", _TRY], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return f"this kernel lets no ordinary user make namespaces with a TUN ({tried.stderr.strip()})"
    return ""


def need_namespaces(command: Sequence[str] | None = None) -> None:
    """Return as (namespace) root, or run `command` (default: this very command) in a user namespace and exit."""
    reason = why_not("wg")
    if reason:
        raise SystemExit(f"namespaces are needed, and {reason}: use sudo")
    if os.geteuid() == 0:
        return
    again = list(command or [sys.executable, *sys.orig_argv[1:]])
    prepared = [*_ENTER, "sh", "-c", f'{_PREPARE} && exec "$@"', "sh", *again]
    os.execvp(prepared[0], prepared)
