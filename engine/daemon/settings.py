"""What the user decides: read fail-closed, checked, changed as a whole.

Settings that cannot be read (broken, of a newer version, with a value that cannot be) mean that nothing may be open:
the defaults are taken with "always require VPN" on, the broken file is kept aside, and the status says so until the
user changes a setting.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import msgspec

from engine.bridge import BridgeSettings, Cipher, Kind, parse_endpoint
from engine.daemon import store
from engine.daemon.store import Unreadable
from engine.daemon.words import check_word
from engine.explain.settings import endpoint
from engine.management.schema import Bridge, BridgeKind, RelayChoice, Settings, SettingsPatch
from engine.policy import Hop, IPAddress, Policy, State
from engine.service import Builder

log = logging.getLogger(__name__)

MAX_DNS = 8
_SOME = "?"  # a password, to check the rest with
_FILE, _KIND = "settings.json", "settings"


@dataclass(frozen=True)
class Loaded:
    """Settings, and what the user should know of how they were read."""

    settings: Settings
    notice: str = ""


def load(folder: Path) -> Loaded:
    """The settings of the state folder; see the head of this module."""
    path = folder / _FILE
    try:
        content = store.load(path, _KIND)
        if content is None:
            return Loaded(Settings())
        settings = msgspec.convert(content, Settings)
        check(settings)
        return Loaded(settings)
    except (Unreadable, msgspec.ValidationError, ValueError) as error:
        why = str(error) if isinstance(error, Unreadable) else f"{path} cannot be understood: {error}"
    log.error("%s; VPN is always required from now on", why)
    settings = Settings(always_require_vpn=True)
    try:
        why = f"{why} (kept as {store.put_aside(path).name})"
        save(folder, settings)
    except OSError as error:
        log.error("%s could not be put aside and written anew: %s", path, error)
    return Loaded(settings, f"{why}: the settings are the defaults with always-require-VPN on; change one to confirm")


def save(folder: Path, settings: Settings) -> None:
    """Write the settings. OSError: then the old ones are as they were."""
    store.save(folder / _FILE, _KIND, settings)


def patched(settings: Settings, patch: SettingsPatch) -> Settings:
    """The settings with the patch's changes. ValueError: one sentence that names the field."""
    changes = {field: getattr(patch, field) for field in patch.__struct_fields__}
    new = msgspec.structs.replace(
        settings, **{field: value for field, value in changes.items() if value is not msgspec.UNSET}
    )
    check(new)
    return new


def check(settings: Settings) -> None:
    """ValueError, one sentence that names the field, for a value that cannot be."""
    dns_of(settings)
    api_of(settings)
    if settings.mtu is not None:
        Builder().set_mtu(settings.mtu)
    if settings.bridge is not None:
        check_bridge(settings.bridge, _SOME if settings.bridge.kind is BridgeKind.SHADOWSOCKS else "")
    if isinstance(settings.choice, RelayChoice):
        if settings.choice.ip_version not in (4, 6):
            raise ValueError(f"ip_version must be 4 or 6, not {settings.choice.ip_version}")
        for field in ("country", "city", "hostname"):
            check_word(field, getattr(settings.choice, field))


def dns_of(settings: Settings) -> tuple[IPAddress, ...]:
    """The custom DNS servers. ValueError."""
    if len(settings.dns) > MAX_DNS:
        raise ValueError(f"dns: at most {MAX_DNS} servers, not {len(settings.dns)}")
    servers = []
    for text in settings.dns:
        try:
            servers.append(ip_address(text))
        except ValueError:
            raise ValueError(f"dns: {text!r} is no IP address, such as 9.9.9.9") from None
    try:
        return Policy(State.ERROR, dns=tuple(servers)).dns  # a policy knows which addresses it can name
    except ValueError as error:
        raise ValueError(f"dns: {error}") from None


def check_bridge(bridge: Bridge, password: str) -> None:
    """ValueError for a bridge that cannot be."""
    if bridge.kind is not BridgeKind.AUTO:
        bridge_of(bridge, password)
    elif bridge.endpoint or bridge.cipher or password:
        raise ValueError("bridge: auto takes the relays' own bridges, with no endpoint, cipher or password of yours")


def bridge_of(bridge: Bridge, password: str) -> BridgeSettings:
    """The bridge as a session takes it; not for `auto`. ValueError."""
    cipher = Cipher.CHACHA20_POLY1305
    if bridge.kind is BridgeKind.SHADOWSOCKS:
        if bridge.cipher not in list(Cipher):
            raise ValueError(f"bridge: there is no cipher {bridge.cipher!r}: use {' or '.join(Cipher)}")
        cipher = Cipher(bridge.cipher)
    elif bridge.cipher:
        raise ValueError(f"bridge: a {bridge.kind} bridge has no cipher")
    try:
        return BridgeSettings(Kind(bridge.kind), *parse_endpoint(bridge.endpoint), cipher, password)
    except ValueError as error:
        raise ValueError(f"bridge: {error}") from None


def api_of(settings: Settings) -> Hop | None:
    """The API's endpoint. ValueError."""
    return None if settings.api is None else endpoint("api", settings.api)
