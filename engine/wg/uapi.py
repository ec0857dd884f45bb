"""The cross-platform userspace protocol: what `wg` speaks over /var/run/wireguard/NAME.sock, as pure text.

https://www.wireguard.com/xplatform/. A request is `get=1` or `set=1`, then `key=value` lines, then an empty
line; the reply is lines, `errno=N` and an empty line (N is 0 or a *negative* errno, as wireguard-go sends it
and `wg` reads it).

Order of events for the owner of the socket:
1. `Connection.receive(bytes)` cuts the stream into requests, bounded, and parses each: `Get`, `Update` or
   `UapiError`.
2. A `Get` is answered with `render_get(config, facts)`; an `Update` is put on the present configuration by
   `apply_update(config, update)`, and the resulting `DeviceConfig` goes to the tunnel as one snapshot: where
   wireguard-go stops half-way at a bad line, here nothing has changed.
3. `reply(errno, body)` ends the answer.

Both functions want `config` as it *is*: the port really bound, the endpoints the peers have roamed to (or a
change of something else would throw a roaming peer back). Whoever applies the result sends a keepalive at
once to a peer whose persistent keepalive went from off to on, as wireguard-go does.
"""

import dataclasses
import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from engine.wg.config import DeviceConfig, HostPort, IPNetwork, PeerConfig, parse_network
from engine.wg.keys import ZERO_KEY, clamp, key_from_hex, public_key

MAX_REQUEST: Final = 16 << 20  # bytes of one request: some 50 000 peers
MAX_LINE: Final = 1024  # bytes of one line; the longest legal one is a scoped endpoint


class UapiError(Exception):
    """A request that cannot be obeyed: `.errno` (positive) goes into the reply, the sentence into the log.

    The sentence names line and key and repeats no value: it may be a private key.
    """

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.errno = code


@dataclass(frozen=True, slots=True)
class Get:
    """The `get=1` request: show everything."""


@dataclass(frozen=True, slots=True)
class AllowedIP:
    """One `allowed_ip` line: add the network (taking it from any other peer), or remove it (`-` prefix)."""

    network: IPNetwork
    remove: bool = False


@dataclass(frozen=True, slots=True)
class PeerUpdate:
    """The lines after one `public_key=`. None, False: not mentioned; a zero preshared key: remove it."""

    public_key: bytes
    remove: bool = False
    update_only: bool = False
    preshared_key: bytes | None = field(default=None, repr=False)
    endpoint: HostPort | None = None
    persistent_keepalive: int | None = None
    replace_allowed_ips: bool = False
    allowed_ips: tuple[AllowedIP, ...] = ()


@dataclass(frozen=True, slots=True)
class Update:
    """A whole `set=1` request. A zero private key: none. The same peer may come twice, order counts."""

    private_key: bytes | None = field(default=None, repr=False)
    listen_port: int | None = None
    fwmark: int | None = None
    replace_peers: bool = False
    peers: tuple[PeerUpdate, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """What a peer has done: wall time of its last handshake (ns since 1970, 0: never), bytes of transfer."""

    last_handshake_ns: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0


class Connection:
    """One client's byte stream, cut into requests. Once `closed`, answer what came and hang up."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.closed = False

    def receive(self, data: bytes) -> "list[Get | Update | UapiError]":
        """Take what the socket gave (b"" = the client closed its side) and give the requests it completes.

        The closing side ends a `set` like an empty line does, as with wireguard-go.
        """
        requests: list[Get | Update | UapiError] = []
        if self.closed:
            return requests
        # An empty line that spans two reads is found too: look again from the last byte of the former one.
        searched = max(len(self._buffer) - 1, 0)
        self._buffer += data
        while (end := self._buffer.find(b"\n\n", searched)) >= 0:
            requests.append(self._parse(bytes(self._buffer[: end + 1])))
            del self._buffer[: end + 2]
            searched = 0
        if len(self._buffer) > MAX_REQUEST:
            requests.append(UapiError(errno.E2BIG, f"the request is longer than {MAX_REQUEST} bytes"))
            self.closed = True
        elif not data:
            self.closed = True
            if self._buffer.startswith(b"set=1\n"):
                requests.append(self._parse(bytes(self._buffer)))
        if self.closed:
            self._buffer.clear()
        return requests

    @staticmethod
    def _parse(request: bytes) -> "Get | Update | UapiError":
        try:
            return parse_request(request)
        except UapiError as error:
            return error


def parse_request(request: bytes) -> Get | Update:
    """Parse one request: `get=1` or `set=1` and its lines, with or without the empty line at the end.

    UapiError EPROTO: not this protocol; EINVAL: an unknown key or a bad value.
    """
    try:
        text = request.decode("ascii")
    except UnicodeDecodeError:
        raise UapiError(errno.EPROTO, "the request is not ASCII text") from None
    operation, *lines = text.rstrip("\n").split("\n")
    if operation == "get=1":
        if lines:
            raise UapiError(errno.EINVAL, "line 2: a get request has one line")
        return Get()
    if operation != "set=1":
        raise UapiError(errno.EPROTO, "line 1: the request is neither get=1 nor set=1")
    return _parse_set(lines)


def _parse_set(lines: list[str]) -> Update:
    device: dict[str, Any] = {}
    peers: list[PeerUpdate] = []
    peer: dict[str, Any] | None = None
    allowed: list[AllowedIP] = []

    def finish_peer() -> None:
        if peer is not None:
            peers.append(PeerUpdate(allowed_ips=tuple(allowed), **peer))

    for number, line in enumerate(lines, 2):
        key, equals, value = line.partition("=")
        if not equals or len(line) > MAX_LINE:
            raise UapiError(errno.EPROTO, f"line {number}: not a key=value line of at most {MAX_LINE} bytes")
        try:
            if key == "public_key":
                finish_peer()
                peer, allowed = {"public_key": key_from_hex(value)}, []
            elif peer is None:
                _device_line(device, key, value)
            elif key == "allowed_ip":
                allowed.append(_allowed_ip(value))
            elif key == "replace_allowed_ips":
                peer[key] = _true(value)
                allowed.clear()  # lines take effect in their order
            else:
                _peer_line(peer, key, value)
        except KeyError:
            where = "device" if peer is None else "peer"
            raise UapiError(errno.EINVAL, f"line {number}: no such {where} key") from None
        except ValueError as error:
            raise UapiError(errno.EINVAL, f"line {number}: {key}: {error}") from None
    finish_peer()
    return Update(peers=tuple(peers), **device)


def _device_line(device: dict[str, Any], key: str, value: str) -> None:
    match key:
        case "private_key":
            given = key_from_hex(value)
            device[key] = given if given == ZERO_KEY else clamp(given)
        case "listen_port":
            device[key] = _number(value, 0xFFFF)
        case "fwmark":
            device[key] = _number(value, 0xFFFFFFFF)
        case "replace_peers":
            device[key] = _true(value)
        case _:
            raise KeyError


def _peer_line(peer: dict[str, Any], key: str, value: str) -> None:
    match key:
        case "remove" | "update_only":
            peer[key] = _true(value)
        case "preshared_key":
            peer[key] = key_from_hex(value)
        case "endpoint":
            endpoint = HostPort.parse(value)
            if endpoint.address is None:
                raise ValueError("the host is not an IP address")
            peer[key] = endpoint
        case "persistent_keepalive_interval":
            peer["persistent_keepalive"] = _number(value, 0xFFFF)
        case "protocol_version":
            if value != "1":
                raise ValueError("the only protocol version is 1")
        case _:
            raise KeyError


def _allowed_ip(value: str) -> AllowedIP:
    remove = value.startswith("-")
    text = value[1:] if remove else value
    if "/" not in text:
        raise ValueError("not ADDRESS/LENGTH")
    try:
        return AllowedIP(parse_network(text), remove)
    except ValueError:
        raise ValueError("not ADDRESS/LENGTH") from None


def _number(value: str, highest: int) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", value, re.ASCII) or int(value) > highest:
        raise ValueError(f"not a number within 0..{highest}")
    return int(value)


def _true(value: str) -> bool:
    if value != "true":
        raise ValueError("the only value is true")
    return True


def apply_update(config: DeviceConfig, update: Update) -> DeviceConfig:
    """The configuration after a set request, in wireguard-go's order of operations.

    Device lines first (a new identity drops the peer that has it as its key), then `replace_peers`, then the
    peers one after the other: our own key is passed over, `update_only` creates nothing, `remove` wins over
    everything else said of the peer, an allowed address moves to the peer that names it last.
    """
    private = config.private_key if update.private_key is None else update.private_key
    private = None if private == ZERO_KEY else private
    own = None if private is None else public_key(private)
    peers = {} if update.replace_peers else {peer.public_key: peer for peer in config.peers}
    if own is not None:
        peers.pop(own, None)
    # Per peer as an ordered set; `owner` finds the peer that holds a network without asking every peer.
    allowed = {key: dict.fromkeys(peer.allowed_ips) for key, peer in peers.items()}
    owner = {network: key for key, networks in allowed.items() for network in networks}

    for change in update.peers:
        key = change.public_key
        if key == own or (change.update_only and key not in peers):
            continue
        if change.remove:
            if peers.pop(key, None) is not None:
                for network in allowed.pop(key):
                    del owner[network]
            continue
        peers[key] = _changed(peers.get(key) or PeerConfig(key), change)
        mine = allowed.setdefault(key, {})
        if change.replace_allowed_ips:
            for network in mine:
                del owner[network]
            mine.clear()
        for item in change.allowed_ips:
            holder = owner.get(item.network)
            if item.remove:
                if holder == key:
                    del owner[item.network], mine[item.network]
            elif holder != key:
                if holder is not None:
                    del allowed[holder][item.network]
                owner[item.network] = key
                mine[item.network] = None

    return DeviceConfig(
        private_key=private,
        listen_port=config.listen_port if update.listen_port is None else update.listen_port,
        fwmark=config.fwmark if update.fwmark is None else update.fwmark,
        peers=tuple(
            peer if peer.allowed_ips == (now := tuple(allowed[key])) else dataclasses.replace(peer, allowed_ips=now)
            for key, peer in peers.items()
        ),
    )


def _changed(peer: PeerConfig, change: PeerUpdate) -> PeerConfig:
    preshared = peer.preshared_key if change.preshared_key is None else change.preshared_key
    interval = change.persistent_keepalive
    return PeerConfig(
        public_key=peer.public_key,
        preshared_key=None if preshared == ZERO_KEY else preshared,
        endpoint=change.endpoint or peer.endpoint,
        persistent_keepalive=peer.persistent_keepalive if interval is None else interval,
        allowed_ips=(),  # the caller's
    )


def update_from(config: DeviceConfig) -> Update:
    """The set request that turns any device into exactly `config` (what `wg setconf` sends for a file).

    ValueError when an endpoint is still a hostname: look it up first.
    """
    for peer in config.peers:
        if peer.endpoint is not None and peer.endpoint.address is None:
            raise ValueError(f"the endpoint {peer.endpoint} must be looked up first")
    return Update(
        private_key=config.private_key or ZERO_KEY,
        listen_port=config.listen_port,
        fwmark=config.fwmark,
        replace_peers=True,
        peers=tuple(
            PeerUpdate(
                public_key=peer.public_key,
                preshared_key=peer.preshared_key or ZERO_KEY,
                endpoint=peer.endpoint,
                persistent_keepalive=peer.persistent_keepalive,
                replace_allowed_ips=True,
                allowed_ips=tuple(AllowedIP(network) for network in peer.allowed_ips),
            )
            for peer in config.peers
        ),
    )


def render_set(update: Update) -> str:
    """The text of a set request, empty line included: the inverse of `parse_request`."""
    lines = ["set=1"]
    if update.private_key is not None:
        lines.append(f"private_key={update.private_key.hex()}")
    if update.listen_port is not None:
        lines.append(f"listen_port={update.listen_port}")
    if update.fwmark is not None:
        lines.append(f"fwmark={update.fwmark}")
    if update.replace_peers:
        lines.append("replace_peers=true")
    for peer in update.peers:
        lines.append(f"public_key={peer.public_key.hex()}")
        lines += [f"{key}=true" for key in ("remove", "update_only") if getattr(peer, key)]
        if peer.preshared_key is not None:
            lines.append(f"preshared_key={peer.preshared_key.hex()}")
        if peer.endpoint is not None:
            lines.append(f"endpoint={peer.endpoint}")
        if peer.persistent_keepalive is not None:
            lines.append(f"persistent_keepalive_interval={peer.persistent_keepalive}")
        if peer.replace_allowed_ips:
            lines.append("replace_allowed_ips=true")
        lines += [f"allowed_ip={'-' if item.remove else ''}{item.network}" for item in peer.allowed_ips]
    return "\n".join(lines) + "\n\n"


def render_get(config: DeviceConfig, facts: Mapping[bytes, PeerFacts]) -> str:
    """The lines of a get reply (without errno): the configuration and, by public key, what each peer has
    done.

    `config` must have addresses as endpoints; a name that was never looked up is left out.
    """
    lines: list[str] = []
    if config.private_key is not None:
        lines.append(f"private_key={config.private_key.hex()}")
    if config.listen_port:
        lines.append(f"listen_port={config.listen_port}")
    if config.fwmark:
        lines.append(f"fwmark={config.fwmark}")
    for peer in config.peers:
        done = facts.get(peer.public_key, PeerFacts())
        seconds, nanoseconds = divmod(done.last_handshake_ns, 1_000_000_000)
        lines.append(f"public_key={peer.public_key.hex()}")
        lines.append(f"preshared_key={(peer.preshared_key or ZERO_KEY).hex()}")
        lines.append("protocol_version=1")
        if peer.endpoint is not None and peer.endpoint.address is not None:
            lines.append(f"endpoint={peer.endpoint}")
        lines.append(f"last_handshake_time_sec={seconds}")
        lines.append(f"last_handshake_time_nsec={nanoseconds}")
        lines.append(f"tx_bytes={done.tx_bytes}")
        lines.append(f"rx_bytes={done.rx_bytes}")
        lines.append(f"persistent_keepalive_interval={peer.persistent_keepalive}")
        lines += [f"allowed_ip={network}" for network in peer.allowed_ips]
    return "".join(f"{line}\n" for line in lines)


def reply(code: int = 0, body: str = "") -> str:
    """An answer: `body` (from `render_get`), the errno (given positive, 0: success), an empty line."""
    return f"{body}errno={-code}\n\n"
