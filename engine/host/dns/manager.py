"""What the ways to change the system's resolvers have in common, and the little reading of resolv.conf they need."""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Protocol

IPAddress = IPv4Address | IPv6Address


class DnsError(Exception):
    """The system's resolvers could not be changed: one sentence that says what and why."""


class Manager(Protocol):
    """Somebody who decides which servers this machine asks."""

    name: str

    async def set(self, interface: str, servers: tuple[IPAddress, ...], outside: frozenset[IPAddress]) -> None:
        """Let the machine ask `servers`; of these, `outside` are reached past the tunnel (DNS-2). DnsError."""

    async def reset(self, interface: str) -> None:
        """Undo `set`; what is already undone is fine. DnsError."""


def link_target(path: Path) -> str | None:
    """Where the symbolic link `path` leads, as an absolute path of its own root; None: it is no link."""
    try:
        target = os.readlink(path)
    except OSError:
        return None
    # The folder is always /etc: a root injected by tests does not show in the links below it.
    return os.path.normpath(os.path.join("/etc", target))


def nameservers(path: Path) -> tuple[str, ...]:
    """The servers a resolv.conf names (resolv.conf(5)), as they stand there; empty if it cannot be read."""
    return tuple(
        words[1]
        for words in (line.split() for line in read(path).splitlines())
        if len(words) > 1 and words[0] == "nameserver"
    )


def read(path: Path) -> str:
    """The file's text, empty if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
