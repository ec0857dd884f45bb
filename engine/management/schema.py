"""The management interface's schema: every method with its parameters and result, every event, every error.

The wire is JSON-RPC 2.0, one message a line, over a Unix socket (IPC-1):

    -> {"jsonrpc": "2.0", "id": 1, "method": "connect"}
    <- {"jsonrpc": "2.0", "id": 1, "result": {...}}
    <- {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "one sentence", "data": {"kind": "bad-input"}}}
    <- {"jsonrpc": "2.0", "method": "event", "params": {"type": "status", ...}}         after "subscribe"

These structs are the only schema: the daemon decodes and encodes by them, clients do, and `json_schema()` exports them.
Nothing secret is in any result: private keys and passwords go in and never come out. Addresses, endpoints and networks
are text; times are seconds since 1970; sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

import msgspec

PROTOCOL = 1
"""Raised when a client of the former protocol could misunderstand; `hello` tells it."""

MAX_LINE = 1 << 20
"""The longest message, either way, in bytes."""


class ErrorCode(IntEnum):
    """JSON-RPC 2.0, section 5.1, and our own (positive)."""

    PARSE = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL = -32603
    BAD_INPUT = 1  # what was asked for cannot be: the sentence names the field
    NOT_FOUND = 2  # no tunnel, relay or the like of that name
    WRONG_STATE = 3  # not in this state: reconnect while disconnected
    FAILED = 4  # the machine refused
    BUSY = 5  # too many clients, or too many requests of one


class _Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value of the schema: frozen, no unknown field."""


# Settings


class BridgeKind(StrEnum):
    """How the first hop is disguised or carried."""

    UDP_OVER_TCP = "udp-over-tcp"
    SHADOWSOCKS = "shadowsocks"
    AUTO = "auto"  # a setting alone: directly, and where that fails by what the relays of the list offer


class Bridge(_Value, frozen=True):
    """A first hop in front of the VPN server (CON-1). The password is set by `bridge.set` and never told."""

    kind: BridgeKind
    endpoint: str = ""  # "203.0.113.9:443", "[2001:db8::9]:443"; of `auto`, none
    cipher: str = ""  # Shadowsocks only


class TunnelChoice(_Value, tag="tunnel", tag_field="by", frozen=True):
    """Connect by an imported .conf file."""

    name: str


class RelayChoice(_Value, tag="relay", tag_field="by", frozen=True):
    """Connect to a relay of the list: those that fit all constraints, in an order of their weights, next on failure.

    `identity`: the imported tunnel whose [Interface] has our key and addresses. Empty constraints fit every relay.
    """

    identity: str
    country: str = ""
    city: str = ""
    hostname: str = ""
    ip_version: int = 4  # of the way to the relay


class Settings(_Value, frozen=True):
    """All that the user decides. The file on disk has the same form, with its version."""

    allow_lan: bool = False
    always_require_vpn: bool = False
    auto_connect: bool = False
    dns: tuple[str, ...] = ()  # custom servers (DNS-2); empty: the relay's own
    mtu: int | None = None  # None: from the route, then probed
    bridge: Bridge | None = None
    api: str | None = None  # the API's endpoint (API-1), "203.0.113.7:443/tcp"
    choice: TunnelChoice | RelayChoice | None = None


class SettingsPatch(_Value, frozen=True):
    """What to change; what is left out stays. All or nothing. The bridge has a method of its own."""

    allow_lan: bool | msgspec.UnsetType = msgspec.UNSET
    always_require_vpn: bool | msgspec.UnsetType = msgspec.UNSET
    auto_connect: bool | msgspec.UnsetType = msgspec.UNSET
    dns: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    mtu: int | msgspec.UnsetType | None = msgspec.UNSET
    api: str | msgspec.UnsetType | None = msgspec.UNSET
    choice: TunnelChoice | RelayChoice | msgspec.UnsetType | None = msgspec.UNSET


# Tunnels and relays


class TunnelInfo(_Value, frozen=True):
    """An imported tunnel, without its secrets."""

    name: str
    public_key: str  # ours
    addresses: tuple[str, ...]
    endpoint: str | None  # the VPN server's as the file has it, perhaps a name
    dns: tuple[str, ...] = ()


class RelayBridge(_Value, frozen=True):
    """A bridge that a relay offers on its own address."""

    kind: BridgeKind
    port: int
    cipher: str = ""


class Relay(_Value, frozen=True):
    """One VPN server of the relay list."""

    hostname: str
    country: str  # two letters
    city: str
    public_key: str
    ipv4: str
    ipv6: str | None = None
    port: int = 51820
    gateways: tuple[str, ...] = ()  # its addresses inside the tunnel: DNS, and the ping that verifies
    weight: int = 100  # how often it is tried first, beside the others; 0: only if nothing else fits
    active: bool = True
    bridges: tuple[RelayBridge, ...] = ()


class RelayList(_Value, frozen=True):
    """The relay list, also the form of its file."""

    version: int = 1
    relays: tuple[Relay, ...] = ()


# Status


class PeerInfo(_Value, frozen=True):
    """A WireGuard peer as it is now."""

    public_key: str
    endpoint: str | None
    last_handshake: float | None
    rx_bytes: int
    tx_bytes: int


class Count(_Value, frozen=True):
    """Packets and bytes that one rule has judged."""

    packets: int
    bytes: int


class FirewallDrop(_Value, frozen=True):
    """Packets and bytes that the rules of one id have blocked in the machine's firewall, by where the packets went."""

    rule: str
    direction: str  # out, in, forward
    packets: int
    bytes: int


class Gap(_Value, frozen=True):
    """A kind of traffic that this mode cannot block; the id is docs/known-issues.md's."""

    id: str
    text: str


class Status(_Value, frozen=True):
    """Everything there is to tell about the tunnel now. `enforced` False: traffic may be leaking (ERR-3)."""

    state: str  # disconnected, connecting, connected, disconnecting, error
    since: float
    policy: str  # the policy in one line
    blocks: bool  # whether a policy is enforced in this state
    enforced: bool
    failure: str | None  # why it is not enforced
    cause: str | None  # why Error (ERR-2)
    cause_kind: str | None
    problem: str | None  # why it is not connected yet
    attempt: int  # from 0
    online: bool
    mode: str  # firewall, vpn-service
    interface: str
    profile: str
    connecting_to: str | None  # the tunnel's or relay's name
    endpoint: str | None  # of the VPN server
    bridge: str | None  # the first hop in front of it
    verified_by: str
    dns: str
    mtu: int  # of the tunnel; 0: not known yet
    allow_lan: bool
    always_require_vpn: bool
    notices: tuple[str, ...] = ()  # what the user should know: unreadable settings, missing capabilities
    cannot_block: tuple[Gap, ...] = ()
    peers: tuple[PeerInfo, ...] = ()
    verdicts: dict[str, Count] = {}
    drops: dict[str, int] = {}
    firewall_drops: tuple[FirewallDrop, ...] = ()
    offloads: dict[str, bool] = {}


# Events, after "subscribe"


class StatusEvent(_Value, tag="status", frozen=True):
    """The state, the policy or what is enforced has changed."""

    status: Status


class SettingsEvent(_Value, tag="settings", frozen=True):
    """The settings have changed."""

    settings: Settings


class TunnelsEvent(_Value, tag="tunnels", frozen=True):
    """The imported tunnels have changed."""

    tunnels: tuple[TunnelInfo, ...]


class RelaysEvent(_Value, tag="relays", frozen=True):
    """The relay list has changed."""

    count: int


class LogEvent(_Value, tag="log", frozen=True):
    """A line for the log's readers; no secrets in it."""

    at: float
    level: str
    text: str


Event = StatusEvent | SettingsEvent | TunnelsEvent | RelaysEvent | LogEvent


# Parameters and results of single methods


class Nothing(_Value, frozen=True):
    """No parameters, or no result."""


class Hello(_Value, frozen=True):
    """Who answers."""

    protocol: int
    version: str
    pid: int
    netns: int  # the network namespace's inode


class ImportTunnel(_Value, frozen=True):
    """A .conf file's text; `replace`: over one of the same name."""

    name: str
    conf: str
    replace: bool = False


class Imported(_Value, frozen=True):
    """The tunnel, and what of its file is not followed, one sentence each."""

    tunnel: TunnelInfo
    notices: tuple[str, ...] = ()


class Name(_Value, frozen=True):
    """A tunnel's name."""

    name: str


class Tunnels(_Value, frozen=True):
    """All imported tunnels."""

    tunnels: tuple[TunnelInfo, ...]


class SetBridge(_Value, frozen=True):
    """The bridge from now on (None: none) and its password."""

    bridge: Bridge | None
    password: str | None = None


class Packet(_Value, frozen=True):
    """A packet in the words of `molehill explain`."""

    packet: str


class Explanation(_Value, frozen=True):
    """What the policy in force does with it: accept, drop or reject, by which rule, and the same as text for people."""

    verdict: str
    rule: str
    text: str


class Detail(_Value, frozen=True):
    """Why, in words."""

    detail: str = ""


class Lines(_Value, frozen=True):
    """How many of the newest lines."""

    lines: int = 100


class Log(_Value, frozen=True):
    """The newest lines of the daemon's log."""

    lines: tuple[LogEvent, ...]


class Subscribe(_Value, frozen=True):
    """Which events: by default all but the log."""

    log: bool = False


@dataclass(frozen=True)
class Method:
    """One method: what it takes, what it gives, what it does."""

    params: type[msgspec.Struct]
    result: type[msgspec.Struct]
    does: str


METHODS: dict[str, Method] = {
    "hello": Method(Nothing, Hello, "Who answers, and which protocol."),
    "status": Method(Nothing, Status, "Everything there is to tell about the tunnel now."),
    "connect": Method(Nothing, Status, "Connect; if connected already nothing changes."),
    "disconnect": Method(Nothing, Status, "The explicit disconnect (KS-1)."),
    "reconnect": Method(Nothing, Status, "Connect anew, perhaps to another relay; WRONG_STATE while disconnected."),
    "settings.get": Method(Nothing, Settings, "The settings."),
    "settings.set": Method(SettingsPatch, Settings, "Change settings, all or nothing."),
    "settings.reset": Method(Nothing, Settings, "The default settings; tunnels stay."),
    "bridge.set": Method(SetBridge, Settings, "Set or remove the bridge, with its password."),
    "tunnel.list": Method(Nothing, Tunnels, "The imported tunnels."),
    "tunnel.import": Method(ImportTunnel, Imported, "Import a WireGuard .conf file; the first one is chosen."),
    "tunnel.remove": Method(Name, Tunnels, "Remove an imported tunnel; WRONG_STATE while it is in use."),
    "relay.list": Method(Nothing, RelayList, "The relay list."),
    "relay.load": Method(RelayList, RelayList, "Replace the relay list."),
    "explain": Method(Packet, Explanation, "What the policy in force does with a packet."),
    "debug.block": Method(Detail, Status, "Go to Error on purpose, as an error would; ignored while disconnected."),
    "log": Method(Lines, Log, "The newest lines of the log."),
    "subscribe": Method(Subscribe, Status, "The status now, and from then on events on this connection."),
}


def json_schema() -> dict[str, Any]:
    """The whole interface as JSON Schema (2020-12): methods with parameters and results, and the events."""
    types: list[Any] = [method.params for method in METHODS.values()]
    types += [method.result for method in METHODS.values()]
    schemas, components = msgspec.json.schema_components([*types, Event], ref_template="#/$defs/{name}")
    count = len(METHODS)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "protocol": PROTOCOL,
        "methods": {
            name: {"does": method.does, "params": schemas[i], "result": schemas[count + i]}
            for i, (name, method) in enumerate(METHODS.items())
        },
        "events": schemas[-1],
        "errors": {code.name.lower().replace("_", "-"): int(code) for code in ErrorCode},
        "$defs": components,
    }
