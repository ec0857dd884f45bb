"""WireGuard's configuration files, as `wg setconf` and `wg-quick` read them, into values and back.

A file has one [Interface] and any number of [Peer] sections of `Key = value` lines; keys and section names know no
case, `#` starts a comment anywhere. What `wg` accepts is accepted here with the same meaning, except what can only be
a mistake and would leave a tunnel other than the one intended: a key given twice, a peer given twice, an unbracketed
IPv6 endpoint, zero keys, spaces within a key or an address, a service's name for a port; and but for text that is not
UTF-8, in comments too.

Every refusal is one `ConfError` with line and key and one sentence. The sentence repeats a value only where it
cannot be a secret, not even a misplaced one.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface
from typing import Any, Final, NamedTuple

from engine.wg.config import DeviceConfig, HostPort, IPNetwork, PeerConfig, parse_network
from engine.wg.keys import ZERO_KEY, clamp, key_from_base64, key_to_base64

MAX_SIZE: Final = 16 << 20  # bytes of a file

_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class ConfError(ValueError):
    """A file that is not a configuration: `.line` (from 1), `.key` (None when no key is to blame), one sentence."""

    def __init__(self, line: int, key: str | None, problem: str) -> None:
        super().__init__(f"line {line}: {key}: {problem}" if key else f"line {line}: {problem}")
        self.line = line
        self.key = key


@dataclass(frozen=True, slots=True)
class Conf:
    """A whole file: what WireGuard itself needs (`device`) and what wg-quick adds to it.

    `table` is "auto", "off" or the name or number of a routing table; `mtu` None: to be found out from the route to
    the endpoint; the hooks are shell lines with %i for the interface.
    """

    device: DeviceConfig = field(default_factory=DeviceConfig)
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    dns: tuple[IPv4Address | IPv6Address, ...] = ()
    dns_search: tuple[str, ...] = ()
    mtu: int | None = None
    table: str = "auto"
    pre_up: tuple[str, ...] = ()
    post_up: tuple[str, ...] = ()
    pre_down: tuple[str, ...] = ()
    post_down: tuple[str, ...] = ()
    save_config: bool = False


def parse_conf(data: str | bytes) -> Conf:
    """Parse a file's text (or its bytes, UTF-8 with or without a byte order mark); ConfError if it is not one.

    An allowed address that several peers list belongs to the last one, as `wg` has it.
    """
    if len(data) > MAX_SIZE:
        raise ConfError(1, None, f"the file is longer than {MAX_SIZE} bytes")
    if isinstance(data, bytes):
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ConfError(data.count(b"\n", 0, error.start) + 1, None, "the file is not UTF-8 text") from None
    else:
        text = data
    reader = _Reader()
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        reader.line(number, line)
    return reader.finish()


@dataclass
class _Section:
    """A section being read: its line, its keys' values by field name, and the line of each key."""

    line: int
    keys: "dict[str, _Key]"
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in self.values.items()}


class _Reader:
    """Takes one line after the other; knows the section it is in."""

    def __init__(self) -> None:
        self._interface = _Section(1, _INTERFACE)
        self._peers: list[_Section] = []
        self._section: _Section | None = None

    def line(self, number: int, raw: str) -> None:
        text = raw.removesuffix("\r")
        if _CONTROL.search(text):
            raise ConfError(number, None, "the line has a control character")
        text = text.partition("#")[0].strip()
        if text.startswith("["):
            self._header(number, text)
        elif text:
            self._assignment(number, text)

    def _header(self, number: int, text: str) -> None:
        match "".join(text.split()).lower():
            case "[interface]":
                self._section = self._interface
            case "[peer]":
                self._section = _Section(number, _PEER)
                self._peers.append(self._section)
            case _:
                raise ConfError(number, None, "the only sections are [Interface] and [Peer]")

    def _assignment(self, number: int, text: str) -> None:
        section = self._section
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ConfError(number, None, "neither a [Section] nor a Key = value line")
        if section is None:
            raise ConfError(number, None, "the file must begin with [Interface] or [Peer]")
        key = section.keys.get(name.lower())
        if key is None:
            # The tail of a wrapped key looks like a name with an empty value: show only what surely is a name.
            shown = name if value and re.fullmatch(r"[A-Za-z]{1,24}", name) else None
            raise ConfError(number, shown, "there is no such key in this section")
        try:
            parsed = key.parse(value)
        except ValueError as error:
            raise ConfError(number, key.name, str(error)) from None
        if isinstance(parsed, tuple):
            section.values.setdefault(key.field, []).extend(parsed)
        elif key.field in section.lines:
            raise ConfError(number, key.name, f"already given in line {section.lines[key.field]}")
        else:
            section.values[key.field] = parsed
        section.lines[key.field] = number

    def finish(self) -> Conf:
        extra = self._interface.fields()
        device = {name: extra.pop(name) for name in ("private_key", "listen_port", "fwmark") if name in extra}
        self._settle_peers(DeviceConfig(**device).public_key)
        dns = extra.pop("dns", ())
        return Conf(
            device=DeviceConfig(**device, peers=tuple(PeerConfig(**section.fields()) for section in self._peers)),
            dns=tuple(server for server in dns if not isinstance(server, str)),
            dns_search=tuple(domain for domain in dns if isinstance(domain, str)),
            **extra,
        )

    def _settle_peers(self, own_key: bytes | None) -> None:
        """Every peer has a key of its own; an allowed address listed in several places belongs to the last."""
        seen: dict[bytes, int] = {}
        owner: dict[IPNetwork, int] = {}
        for index, section in enumerate(self._peers):
            if "public_key" not in section.values:
                raise ConfError(section.line, "PublicKey", "this [Peer] has none")
            public, line = section.values["public_key"], section.lines["public_key"]
            if public == own_key:
                raise ConfError(line, "PublicKey", "this is the interface's own key")
            if public in seen:
                raise ConfError(line, "PublicKey", f"the same peer as in line {seen[public]}")
            seen[public] = line
            for network in section.values.get("allowed_ips", ()):
                owner.pop(network, None)  # to keep the order of the last mention
                owner[network] = index
            section.values["allowed_ips"] = []
        for network, index in owner.items():
            self._peers[index].values["allowed_ips"].append(network)


def render_conf(conf: Conf) -> str:
    """The text of a file that `parse_conf` reads back as `conf`; holds private keys."""
    device = conf.device
    lines = ["[Interface]"]
    if device.private_key is not None:
        lines.append(f"PrivateKey = {key_to_base64(device.private_key)}")
    if device.listen_port:
        lines.append(f"ListenPort = {device.listen_port}")
    if device.fwmark:
        lines.append(f"FwMark = {device.fwmark:#x}")
    lines += [f"Address = {address}" for address in conf.addresses]
    if conf.dns or conf.dns_search:
        lines.append("DNS = " + ", ".join([*map(str, conf.dns), *conf.dns_search]))
    if conf.mtu is not None:
        lines.append(f"MTU = {conf.mtu}")
    if conf.table != "auto":
        lines.append(f"Table = {conf.table}")
    hooks = (("PreUp", conf.pre_up), ("PostUp", conf.post_up), ("PreDown", conf.pre_down), ("PostDown", conf.post_down))
    lines += [f"{key} = {command}" for key, commands in hooks for command in commands]
    if conf.save_config:
        lines.append("SaveConfig = true")
    for peer in device.peers:
        lines += ["", "[Peer]", f"PublicKey = {key_to_base64(peer.public_key)}"]
        if peer.preshared_key is not None:
            lines.append(f"PresharedKey = {key_to_base64(peer.preshared_key)}")
        if peer.allowed_ips:
            lines.append("AllowedIPs = " + ", ".join(map(str, peer.allowed_ips)))
        if peer.endpoint is not None:
            lines.append(f"Endpoint = {peer.endpoint}")
        if peer.persistent_keepalive:
            lines.append(f"PersistentKeepalive = {peer.persistent_keepalive}")
    return "\n".join(lines) + "\n"


# One function a key: text to value (a tuple for keys that may be repeated), ValueError with the sentence's problem.


def _shown(value: str) -> str:
    """The value for an error text, unless it is so long and dense that it may be a key in the wrong place."""
    return "it" if re.search(r"[A-Za-z0-9+/=]{24}", value) or len(value) > 60 else repr(value)


def _private_key(value: str) -> bytes:
    return clamp(_some_key(value))


def _some_key(value: str) -> bytes:
    key = key_from_base64(value)
    if key == ZERO_KEY:
        raise ValueError("the key is all zero")
    return key


def _number(value: str, lowest: int, highest: int) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", value, re.ASCII) or not lowest <= int(value) <= highest:
        raise ValueError(f"{_shown(value)} is not a number from {lowest} to {highest}")
    return int(value)


def _port(value: str) -> int:
    return _number(value, 0, 0xFFFF)


def _mark(value: str) -> int:
    if value.lower() == "off":
        return 0
    number = int(value, 16) if re.fullmatch(r"0x[0-9a-f]{1,8}", value, re.ASCII | re.IGNORECASE) else None
    return _number(value, 0, 0xFFFFFFFF) if number is None else number


def _keepalive(value: str) -> int:
    return 0 if value.lower() == "off" else _number(value, 0, 0xFFFF)


def _mtu(value: str) -> int:
    return _number(value, 68, 65535)


def _table(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,32}", value, re.ASCII):
        raise ValueError(f"{_shown(value)} is neither off, auto nor a routing table")
    return value.lower() if value.lower() in ("off", "auto") else value


def _flag(value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise ValueError(f"{_shown(value)} is neither true nor false")
    return value.lower() == "true"


def _hook(value: str) -> tuple[str, ...]:
    if not value:
        raise ValueError("the command is empty")
    return (value,)


def _addresses(value: str) -> tuple[IPv4Interface | IPv6Interface, ...]:
    items = value.replace(",", " ").split()
    if not items:
        raise ValueError("the address is missing")
    return tuple(map(_address, items))


def _address(item: str) -> IPv4Interface | IPv6Interface:
    host, slash, length = item.partition("/")
    try:
        if "%" in host or (slash and not re.fullmatch(r"[0-9]{1,3}", length, re.ASCII)):
            raise ValueError
        return ip_interface(item)
    except ValueError:
        raise ValueError(f"{_shown(item)} is not ADDRESS/LENGTH") from None


def _dns(value: str) -> tuple[IPv4Address | IPv6Address | str, ...]:
    """Addresses are servers, everything else is a search domain (wg-quick tells them apart by their characters)."""
    items = value.replace(",", " ").split()
    if not items:
        raise ValueError("the server is missing")
    servers: list[IPv4Address | IPv6Address | str] = []
    for item in items:
        if ":" in item or re.fullmatch(r"[0-9.]+", item, re.ASCII):
            try:
                servers.append(ip_address(item))
            except ValueError:
                raise ValueError(f"{_shown(item)} is not an IP address") from None
        elif re.fullmatch(r"~?[A-Za-z0-9_.-]{1,253}", item, re.ASCII):
            servers.append(item)
        else:
            raise ValueError(f"{_shown(item)} is neither an IP address nor a domain")
    return tuple(servers)


def _allowed_ips(value: str) -> tuple[IPNetwork, ...]:
    networks: dict[IPNetwork, None] = {}
    for item in (item.strip() for item in value.split(",")) if value else ():
        try:
            networks[parse_network(item)] = None
        except ValueError:
            raise ValueError(f"{_shown(item)} is not ADDRESS/LENGTH") from None
    return tuple(networks)


def _endpoint(value: str) -> HostPort:
    try:
        return HostPort.parse(value)
    except ValueError as error:
        raise ValueError(f"{_shown(value)} is not HOST:PORT: {error}") from None


class _Key(NamedTuple):
    """A key as it is spelt, the field its value goes to, and what reads the value."""

    name: str
    field: str
    parse: Callable[[str], object]


def _table_of(*keys: _Key) -> dict[str, _Key]:
    return {key.name.lower(): key for key in keys}


_INTERFACE: Final = _table_of(
    _Key("PrivateKey", "private_key", _private_key),
    _Key("ListenPort", "listen_port", _port),
    _Key("FwMark", "fwmark", _mark),
    _Key("Address", "addresses", _addresses),
    _Key("DNS", "dns", _dns),
    _Key("MTU", "mtu", _mtu),
    _Key("Table", "table", _table),
    _Key("PreUp", "pre_up", _hook),
    _Key("PostUp", "post_up", _hook),
    _Key("PreDown", "pre_down", _hook),
    _Key("PostDown", "post_down", _hook),
    _Key("SaveConfig", "save_config", _flag),
)
_PEER: Final = _table_of(
    _Key("PublicKey", "public_key", _some_key),
    _Key("PresharedKey", "preshared_key", _some_key),
    _Key("AllowedIPs", "allowed_ips", _allowed_ips),
    _Key("Endpoint", "endpoint", _endpoint),
    _Key("PersistentKeepalive", "persistent_keepalive", _keepalive),
)
