"""Settings as text: what `--state connected --peer 198.51.100.7:51820/udp` says, as a `Policy`.

One reader for the options of the commands and for `molehill policy diff "connected allow-lan" ...`, so that a
setting is written the same way everywhere: there with dashes before it, here without.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum
from ipaddress import ip_address
from typing import TypeVar

from engine.policy import Hop, IPAddress, Platform, Policy, Protocol, State, Tunnel

E = TypeVar("E", bound=StrEnum)

FLAGS = ("allow-lan", "always-require-vpn", "ios-blocking")
ENDPOINTS = ("peer", "bridge", "api")
ADDRESSES = ("tunnel-address", "gateway", "dns")
SETTINGS = ("state", "platform", *FLAGS, *ENDPOINTS, "tunnel", *ADDRESSES, "kept")

Settings = Mapping[str, Sequence[str]]


def parse_settings(text: str, base: Settings) -> Policy:
    """The policy of `STATE [SETTING | SETTING=VALUE]...`, on top of `base`. ValueError: one sentence.

    A setting that is named replaces the one of `base`; naming it several times lists several values.
    """
    words = text.replace(",", " ").split()
    if not words:
        raise ValueError(f"name a state: {', '.join(State)}")
    own: dict[str, list[str]] = {"state": [words[0]]}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        name = name.removeprefix("--")
        if name not in SETTINGS or name == "state":
            near = get_close_matches(name, SETTINGS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(SETTINGS[1:])}"
            raise ValueError(f"{name!r} is no setting: {hint}")
        if name not in FLAGS and not value:
            raise ValueError(f"{name} needs a value: {name}=...")
        own.setdefault(name, []).append(value if equals else "yes")
    return policy_of({**base, **own})


def policy_of(settings: Settings) -> Policy:
    """The policy of settings by name, each with its values as text. ValueError: one sentence that names the setting.

    What a state cannot be without has a default: the tunnel in Connected (molehill0; utun4 on macOS), and in
    Disconnecting the state whose rules stay (connected).
    """
    state = _choice(State, settings, "state", None)
    platform = _choice(Platform, settings, "platform", Platform.LINUX)
    kept = _choice(State, settings, "kept", State.CONNECTED) if state is State.DISCONNECTING else None
    if kept is None and settings.get("kept"):
        raise ValueError(f"kept belongs to disconnecting alone, not to {state}")
    own, gateways, dns = (addresses(name, settings.get(name) or ()) for name in ADDRESSES)
    names = settings.get("tunnel") or []
    tunnel = None
    if names or own or gateways or State.CONNECTED in (state, kept):
        name = names[-1] if names else "utun4" if platform is Platform.MACOS else "molehill0"
        tunnel = Tunnel(name, own, gateways)
    peer, bridge, api = (_endpoint(settings, name) for name in ENDPOINTS)
    allow_lan, always, ios = (_flag(settings, name) for name in FLAGS)
    return Policy(state, platform, allow_lan, always, peer, bridge, api, tunnel, dns, kept, ios)


def _choice(kind: type[E], settings: Settings, name: str, default: E | None) -> E:
    values = settings.get(name)
    if not values:
        if default is None:
            raise ValueError(f"{name} is missing: one of {', '.join(kind)}")
        return default
    try:
        return kind(values[-1].lower())
    except ValueError:
        near = get_close_matches(values[-1].lower(), list(kind), n=1, cutoff=0.5)
        hint = f"did you mean {str(near[0])!r}?" if near else f"use one of {', '.join(kind)}"
        raise ValueError(f"{values[-1]!r} is no {name}: {hint}") from None


def _flag(settings: Settings, name: str) -> bool:
    values = settings.get(name)
    if not values:
        return False
    words = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
    if values[-1].lower() not in words:
        raise ValueError(f"{name} is yes or no, not {values[-1]!r}")
    return words[values[-1].lower()]


def _endpoint(settings: Settings, name: str) -> Hop | None:
    values = settings.get(name)
    return endpoint(name, values[-1]) if values else None


def endpoint(name: str, value: str) -> Hop:
    """The endpoint of the setting `name`. ValueError: one sentence."""
    example = "such as 198.51.100.7:51820/udp or [2001:db8::7]:443/tcp"
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^\[\]:]+)):(\d+)/(udp|tcp)", value.lower())
    if found is None:
        raise ValueError(f"{name}: {value!r} is no endpoint, {example}")
    try:
        return Hop(ip_address(found[1] or found[2]), int(found[3]), Protocol(found[4]))
    except ValueError as error:
        raise ValueError(f"{name}: {error}, {example}") from None


def addresses(name: str, values: Sequence[str]) -> tuple[IPAddress, ...]:
    """The addresses of the setting or option `name`. ValueError: one sentence."""
    found = []
    for value in values:
        try:
            found.append(ip_address(value))
        except ValueError:
            raise ValueError(f"{name}: {value!r} is no IP address, such as 10.64.0.1") from None
    return tuple(found)
