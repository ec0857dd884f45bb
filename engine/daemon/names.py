"""Endpoints that are host names: looked up before the block, remembered on disk for when DNS is blocked.

A name is looked up, by the machine's own resolvers, while nothing is enforced: when a tunnel is imported, and at each
connect out of Disconnected, just before it. In every other state DNS is blocked (DNS-3), and asking around the block
would be a leak; there, and where the lookup fails or takes longer than LOOKUP_SECONDS, the address of the last lookup
is used. A name that was never looked up makes the connect end in Error, which blocks and says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path

import msgspec

from engine.daemon import store
from engine.daemon.store import Unreadable
from engine.policy import IPAddress
from engine.tunnel.resolve import ResolveError, resolve

log = logging.getLogger(__name__)

LOOKUP_SECONDS = 3.0
_FILE, _KIND = "addresses.json", "addresses"


def load(folder: Path) -> dict[str, IPAddress]:
    """The addresses that were last found, by name. What cannot be read is nothing."""
    try:
        known = msgspec.convert(store.load(folder / _FILE, _KIND) or {}, dict[str, str])
        return {name: ip_address(address) for name, address in known.items()}
    except (Unreadable, msgspec.ValidationError, ValueError) as error:
        log.warning("the addresses of host names are forgotten: %s", error)
        return {}


def save(folder: Path, known: Mapping[str, IPAddress]) -> None:
    """Write them. OSError: then the old ones are as they were."""
    store.save(folder / _FILE, _KIND, {name: str(address) for name, address in known.items()})


async def look_up(names: Iterable[str]) -> dict[str, IPAddress]:
    """The addresses of those names that could be found in time."""
    wanted = list(names)
    found = await asyncio.gather(*(_one(name) for name in wanted))
    return {name: address for name, address in zip(wanted, found, strict=True) if address is not None}


async def _one(name: str) -> IPAddress | None:
    try:
        async with asyncio.timeout(LOOKUP_SECONDS):
            return (await resolve(name, 1)).host
    except (ResolveError, TimeoutError) as error:
        log.warning("the address of %s could not be found: %s", name, error or f"no answer in {LOOKUP_SECONDS:g} s")
        return None
