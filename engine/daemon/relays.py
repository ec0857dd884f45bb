"""The relay list: kept as a document, checked when it is loaded, chosen from by constraints and weights."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import msgspec

from engine.daemon import store
from engine.daemon.store import Unreadable
from engine.daemon.words import check_word
from engine.management.schema import MAX_LINE, BridgeKind, Relay, RelayChoice, RelayList
from engine.policy import Hop, IPAddress, Protocol, Tunnel
from engine.wg.keys import key_from_base64

MAX_BYTES = MAX_LINE - 1024
"""So that the list fits in an answer."""

MAX_GATEWAYS = 8
MAX_WEIGHT = 1_000_000
CANDIDATES = 16
"""So many relays are tried in turn before the first one is tried again; a reconnect draws new ones."""

_FILE, _KIND = "relays.json", "relays"


def load(folder: Path) -> RelayList:
    """The relay list of the state folder; none is empty. Unreadable."""
    content = store.load(folder / _FILE, _KIND)
    if content is None:
        return RelayList()
    try:
        found = RelayList(relays=msgspec.convert(content, tuple[Relay, ...]))
        check(found)
        return found
    except (msgspec.ValidationError, ValueError) as error:
        raise Unreadable(f"{folder / _FILE} cannot be understood: {error}") from None


def save(folder: Path, relays: RelayList) -> None:
    """Write the list. OSError: then the old one is as it was."""
    store.save(folder / _FILE, _KIND, relays.relays)


def check(relays: RelayList) -> None:
    """ValueError, one sentence that names relay and field, for a list that cannot be."""
    if relays.version != 1:
        raise ValueError(f"version must be 1, not {relays.version}")
    if len(msgspec.json.encode(relays)) > MAX_BYTES:
        raise ValueError(f"the list is longer than {MAX_BYTES} bytes, with all its fields written out")
    names = Counter(relay.hostname for relay in relays.relays)
    for relay in relays.relays:
        try:
            _check(relay, names)
        except ValueError as error:
            raise ValueError(f"relay {relay.hostname!r}: {error}") from None


def _check(relay: Relay, names: Counter[str]) -> None:
    if not relay.hostname or names[relay.hostname] > 1:
        raise ValueError("every relay needs a hostname of its own")
    for field in ("hostname", "country", "city"):
        check_word(field, getattr(relay, field))
    if len(relay.gateways) > MAX_GATEWAYS:
        raise ValueError(f"gateways: at most {MAX_GATEWAYS}, not {len(relay.gateways)}")
    _parsed("public_key", key_from_base64, relay.public_key)
    for field, kind in (("ipv4", IPv4Address), ("ipv6", IPv6Address)):
        text = getattr(relay, field)
        if text is not None:
            Hop(_parsed(field, kind, text), relay.port, Protocol.UDP)
    gateways_of(relay)
    if not 0 <= relay.weight <= MAX_WEIGHT:
        raise ValueError(f"weight must be 0 to {MAX_WEIGHT:,}")
    for bridge in relay.bridges:
        if bridge.kind is BridgeKind.AUTO:
            raise ValueError("bridges: a relay offers udp-over-tcp or shadowsocks, not auto")
        if not 1 <= bridge.port <= 65535:
            raise ValueError(f"bridges: a port must be 1 to 65535, not {bridge.port}")


def _parsed(field: str, parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def gateways_of(relay: Relay) -> tuple[IPAddress, ...]:
    """The relay's addresses inside the tunnel. ValueError."""
    gateways = tuple(_parsed("gateways", ip_address, text) for text in relay.gateways)
    return Tunnel("relay", (), gateways).gateways  # a policy's tunnel knows which addresses it can name


def choose(relays: RelayList, choice: RelayChoice, seed: bytes) -> tuple[Relay, ...]:
    """The relays that fit all constraints, in the order to try them, CANDIDATES at most.

    Each place is drawn by weight from what is left: the key is u ** (1 / weight), u uniform in (0, 1] (Efraimidis and
    Spirakis, "Weighted random sampling with a reservoir", 2006). Weight 0 comes after all others, in a random order.
    A relay's u depends on `seed` and its name alone, so that other constraints do not reorder what still fits.
    """

    def key(relay: Relay) -> tuple[bool, float]:
        drawn = hashlib.blake2b(relay.hostname.encode(), key=seed, digest_size=8).digest()
        u = (int.from_bytes(drawn) + 1) / 2**64
        return (relay.weight > 0, math.log(u) / relay.weight if relay.weight > 0 else u)  # the logarithm keeps order

    fitting = [relay for relay in relays.relays if fits(relay, choice)]
    return tuple(sorted(fitting, key=key, reverse=True)[:CANDIDATES])


def fits(relay: Relay, choice: RelayChoice) -> bool:
    """Whether a relay satisfies every constraint; words know no case."""
    return (
        relay.active
        and (choice.ip_version == 4 or relay.ipv6 is not None)
        and choice.country.lower() in ("", relay.country.lower())
        and choice.city.lower() in ("", relay.city.lower())
        and choice.hostname.lower() in ("", relay.hostname.lower())
    )
