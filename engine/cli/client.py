"""Ask a session of `molehill run` by its status socket. Nothing but the standard library, unless nobody answers: it is
what `status` waits for."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.cli.main import Fault

ANSWER_SECONDS = 5.0


def _folder() -> Path:
    return Path(os.environ.get("MOLEHILL_RUN_DIR", "/run/molehill"))


def find(interface: str | None) -> Path:
    """The socket of the named session, or of the only one; sessions of other network namespaces count only if named."""
    if interface is not None:
        return _folder() / f"{interface}.sock"
    here = os.stat("/proc/self/ns/net").st_ino
    found = {}
    for path in sorted(_folder().glob("*.sock")):
        try:
            found[path] = next(ask(path, "status"))["netns"]
        except Fault:
            continue  # left by a run that was killed
    mine = [path for path, netns in found.items() if netns == here]
    if len(mine) == 1:
        return mine[0]
    if not found:
        raise Fault(", but ".join(filter(None, ("molehill is not running", left_behind()))))
    raise Fault(f"choose one with --interface: {', '.join(path.stem for path in found)}")


def left_behind() -> str:
    """What a run that was killed, or that always requires VPN, still does to this machine."""
    from engine.host import HostError, is_captured

    with suppress(HostError, OSError):
        if is_captured():
            return "what an earlier run captured stays blocked: sudo molehill unblock opens it"
    return ""


def ask(path: Path, method: str) -> Iterator[dict[str, Any]]:
    """The answers to one request: one for `status`, one and then one a change for `watch`. Fault if nobody answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(ANSWER_SECONDS)
        try:
            sock.connect(str(path))
            sock.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method}).encode() + b"\n")
            with sock.makefile("rb") as lines:
                for line in lines:
                    message = json.loads(line)
                    yield message.get("result") or message["params"]
                    if method == "status":
                        return
                    sock.settimeout(None)
        except (OSError, ValueError, KeyError):
            raise Fault(f"molehill is not running on {path.stem}") from None
    raise Fault(f"molehill on {path.stem} has ended")
