"""Collect the report: everything that helps to see what is wrong, as one text, redacted as a whole at the end.

Nothing here changes anything, and nothing here fails: a part that cannot be had says why in its place. As root the
report shows more (nftables); as another user it says so.
"""

from __future__ import annotations

import os
import platform
import pwd
import shutil
import socket
import subprocess
import time
from pathlib import Path

import msgspec

from engine import __version__
from engine.management.client import Client, ManagementError
from engine.management.schema import Hello, Lines, Log, Settings, Status
from engine.report.redact import redact

TITLE = "molehill problem report"
LOG_BYTES = 128 << 10
_PART_BYTES = 64 << 10  # of the output of one command
_COMMAND_SECONDS = 5.0
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_LOG_LINES = 10_000  # more than the daemon keeps

_INTRODUCTION = f"""\
{TITLE}

Keys, passwords, addresses, hardware addresses, UUIDs, long numbers, home folders and this machine's name have been
replaced by words in brackets. Look it through, and take out or add what you like, before you send it.
"""

_COMMANDS = {
    "service": (["systemctl", "show", "molehill.service", "--property",
                 "ActiveState,SubState,Result,NRestarts,ActiveEnterTimestamp,MainPID"],),
    "journal, the service's last lines": (["journalctl", "--unit", "molehill.service", "--lines", "100", "--no-pager",
                                           "--output", "short-iso", "--no-hostname"],),
    "our nftables table": (["nft", "--version"], ["nft", "list", "table", "inet", "molehill"]),
    "routing rules": (["ip", "-4", "rule", "show"], ["ip", "-6", "rule", "show"]),
    "routes": (["ip", "-4", "route", "show", "table", "all"], ["ip", "-6", "route", "show", "table", "all"]),
    "links": (["ip", "-brief", "link", "show"],),
}  # fmt: skip


def collect() -> str:
    """The whole report, redacted."""
    parts = [f"== {title} ==\n{text.strip() or '(nothing)'}\n" for title, text in _parts()]
    text = "\n".join((_INTRODUCTION, *parts))
    return redacted(text)


def redacted(text: str) -> str:
    """The text without what identifies the users of this machine, and without control characters."""
    printable = "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)
    return redact(printable, homes=_homes(), hosts=_hosts())


def _homes() -> set[str]:
    """The home folders of people; those of services name no one."""
    return {user.pw_dir for user in pwd.getpwall() if 1000 <= user.pw_uid < 65534 and user.pw_dir.count("/") > 1}


def _hosts() -> set[str]:
    names = {socket.gethostname(), platform.node()}
    return {part for name in names for part in (name, name.partition(".")[0]) if part and part != "localhost"}


def _parts() -> list[tuple[str, str]]:
    parts = [
        ("version", f"molehill {__version__}\ncollected {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}"),
        ("platform", _platform()),
        ("capabilities", _capabilities()),
    ]
    parts += _daemon()
    return parts + [(title, "\n".join(map(_run, commands))) for title, commands in _COMMANDS.items()]


def _platform() -> str:
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        system = "unknown"
    kernel = f"{platform.system()} {platform.release()} {platform.machine()}"
    return f"system {system}\nkernel {kernel}\nPython {platform.python_version()}\nroot {os.geteuid() == 0}"


def _capabilities() -> str:
    """What of this machine the daemon needs, as it looks from here."""
    present = {
        "/dev/net/tun": Path("/dev/net/tun").exists(),
        "packet marks": Path("/proc/sys/net/ipv4/conf/all/src_valid_mark").exists(),
        "IPv6": Path("/proc/net/if_inet6").exists(),
        "systemd": Path("/run/systemd/system").exists(),
        "systemd-resolved": Path("/run/systemd/resolve").exists(),
        "NetworkManager": Path("/run/NetworkManager").exists(),
        "nft": shutil.which("nft", path=_PATH) is not None,
        "resolvconf": shutil.which("resolvconf", path=_PATH) is not None,
    }
    return "\n".join(f"{name}: {'yes' if there else 'no'}" for name, there in present.items())


def _daemon() -> list[tuple[str, str]]:
    """What the daemon tells of itself, as far as it answers."""
    parts = []
    try:
        with Client() as client:
            for title, method, result in (
                ("daemon", "hello", Hello),
                ("settings", "settings.get", Settings),
                ("status", "status", Status),
            ):
                encoded = msgspec.json.encode(client.call(method, None, result))
                parts.append((title, msgspec.json.format(encoded, indent=1).decode()))
            log = client.call("log", Lines(_LOG_LINES), Log).lines
    except ManagementError as error:
        return [*parts, ("daemon's answers end", str(error))]
    lines = [f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(line.at))} {line.level} {line.text}" for line in log]
    return [*parts, ("log", _last("\n".join(lines), LOG_BYTES))]


def _run(command: list[str]) -> str:
    """The command's output under its name."""
    name = f"$ {' '.join(command)}"
    program = shutil.which(command[0], path=_PATH)
    if program is None:
        return f"{name}\n(there is no {command[0]} here)\n"
    try:
        done = subprocess.run(
            [program, *command[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={"PATH": _PATH, "LC_ALL": "C"}, timeout=_COMMAND_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"{name}\n(no answer in {_COMMAND_SECONDS:.0f} s)\n"
    except OSError as error:
        return f"{name}\n({error.strerror})\n"
    return f"{name}\n{_last(done.stdout.decode(errors='replace'), _PART_BYTES)}"


def _last(text: str, limit: int) -> str:
    """The last whole lines that fit into so many bytes."""
    data = text.encode()
    if len(data) <= limit:
        return text
    kept = data[-limit:].partition(b"\n")[2].decode(errors="replace")
    return f"(what came before is left out)\n{kept}"
