"""The WireGuard configuration of one device, as values.

What `wg setconf` sets and `wg showconf` shows: keys, port, mark and peers. Files (conf.py) and the UAPI
(uapi.py) both end here, and the tunnel is always given one whole `DeviceConfig`, never a stream of changes.

Construction validates: each value that exists is one that may be put to work. Secrets stay out of `repr`.
Hostnames stay hostnames: looking them up is I/O and belongs to the glue.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from engine.wg.keys import KEY_LEN, public_key

IPNetwork = IPv4Network | IPv6Network

_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
_SCOPE: Final = re.compile(r"[A-Za-z0-9_=+.-]{1,15}", re.ASCII)  # an interface's name or number


def parse_network(text: str) -> IPNetwork:
    """`ADDRESS[/LENGTH]` as a network; bits beyond the length are cleared, as WireGuard does.

    Stricter than `ipaddress`: no netmasks, no scope. ValueError otherwise.
    """
    host, slash, length = text.partition("/")
    if "%" in host:
        raise ValueError("an allowed address has no scope")
    address = ip_address(host)
    if slash and not (length.isascii() and length.isdigit() and len(length) <= 3):
        raise ValueError("the prefix length is not a number")
    bits = int(length) if slash else address.max_prefixlen
    if isinstance(address, IPv4Address):
        return IPv4Network((address, bits), strict=False)
    return IPv6Network((address, bits), strict=False)


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    _, percent, scope = host.partition("%")
    if percent and not _SCOPE.fullmatch(scope):
        return None
    try:
        return ip_address(host)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class HostPort:
    """Where a peer listens: an address literal (IPv6 without brackets) or a hostname, and a port."""

    host: str
    port: int
    address: IPv4Address | IPv6Address | None = field(init=False, repr=False, compare=False)
    """The address when the host is a literal one, None when it is a name that must be looked up."""

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ValueError("the port is not within 1..65535")
        address = _literal(self.host)
        object.__setattr__(self, "address", address)
        if address is not None:
            object.__setattr__(self, "host", str(address))  # one spelling, so that equal endpoints are equal
            return
        if len(self.host) > 253 or not _NAME.fullmatch(self.host):
            raise ValueError("the host is neither an IP address nor a hostname")
        if re.fullmatch(r"[0-9.]+", self.host):
            raise ValueError("the host is not a whole IPv4 address")

    @classmethod
    def parse(cls, text: str) -> "HostPort":
        """Read `1.2.3.4:51820`, `[2001:db8::1]:51820` or `host.name:51820`; ValueError says what is wrong."""
        host, colon, port = text.rpartition(":")
        if not colon or "]" in port or not port:
            raise ValueError("the port is missing")
        if not (port.isascii() and port.isdigit() and len(port) <= 5):
            raise ValueError("the port is not within 1..65535")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            if ":" not in host:
                raise ValueError("brackets are for IPv6 addresses only")
        elif ":" in host:
            raise ValueError("an IPv6 address must stand in brackets")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """One peer. `persistent_keepalive` is in seconds, 0 = off; no preshared key is None, never zero bytes."""

    public_key: bytes
    preshared_key: bytes | None = field(default=None, repr=False)
    endpoint: HostPort | None = None
    persistent_keepalive: int = 0
    allowed_ips: tuple[IPNetwork, ...] = ()

    def __post_init__(self) -> None:
        if len(self.public_key) != KEY_LEN:
            raise ValueError("a public key is 32 bytes")
        if self.preshared_key is not None and (len(self.preshared_key) != KEY_LEN or not any(self.preshared_key)):
            raise ValueError("a preshared key is 32 bytes, not all of them zero")
        if not 0 <= self.persistent_keepalive < 65536:
            raise ValueError("the persistent keepalive is not within 0..65535 seconds")
        if len(self.allowed_ips) > 1 and len(set(self.allowed_ips)) != len(self.allowed_ips):
            raise ValueError("an allowed address is listed twice")


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """A whole device: every peer has its own key, and every allowed address belongs to one peer.

    `private_key` None: the device has no identity yet and stays silent. `listen_port` 0: the system chooses
    one.
    `fwmark` 0: none.
    """

    private_key: bytes | None = field(default=None, repr=False)
    listen_port: int = 0
    fwmark: int = 0
    peers: tuple[PeerConfig, ...] = ()

    def __post_init__(self) -> None:
        if self.private_key is not None and (len(self.private_key) != KEY_LEN or not any(self.private_key)):
            raise ValueError("a private key is 32 bytes, not all of them zero")
        if not 0 <= self.listen_port < 65536:
            raise ValueError("the listening port is not within 0..65535")
        if not 0 <= self.fwmark < 1 << 32:
            raise ValueError("the firewall mark is not within 0..0xffffffff")
        if len({peer.public_key for peer in self.peers}) != len(self.peers):
            raise ValueError("two peers have the same public key")
        allowed = [network for peer in self.peers for network in peer.allowed_ips]
        if len(set(allowed)) != len(allowed):
            raise ValueError("an allowed address belongs to two peers")

    @property
    def public_key(self) -> bytes | None:
        """The device's own public key."""
        return None if self.private_key is None else public_key(self.private_key)

    def with_endpoints(self, endpoints: dict[bytes, HostPort | None]) -> "DeviceConfig":
        """The same configuration with the endpoints (by public key) to which the peers have roamed."""
        moved = {
            peer.public_key: dataclasses.replace(peer, endpoint=endpoints[peer.public_key])
            for peer in self.peers
            if peer.public_key in endpoints and endpoints[peer.public_key] != peer.endpoint
        }
        if not moved:
            return self
        return dataclasses.replace(self, peers=tuple(moved.get(peer.public_key, peer) for peer in self.peers))
