"""`BridgeSettings`: which bridge carries the tunnel's datagrams, as one checked value. No password in its `repr`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address

IPAddress = IPv4Address | IPv6Address


class Kind(StrEnum):
    """How a bridge carries datagrams."""

    UDP_OVER_TCP = "udp-over-tcp"
    SHADOWSOCKS = "shadowsocks"


class Cipher(StrEnum):
    """Shadowsocks' AEAD ciphers that are offered (SIP004); both have keys and salts of 32 bytes."""

    CHACHA20_POLY1305 = "chacha20-ietf-poly1305"
    AES_256_GCM = "aes-256-gcm"


class BridgeError(Exception):
    """The bridge cannot be had: one sentence for the user."""


@dataclass(frozen=True)
class BridgeSettings:
    """Where the bridge is and how it is spoken to. Raises ValueError with one sentence.

    `cipher` and `password` are Shadowsocks' alone.
    """

    kind: Kind
    ip: IPAddress
    port: int
    cipher: Cipher = Cipher.CHACHA20_POLY1305
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.ip.is_unspecified or self.ip.is_multicast:
            raise ValueError(f"the bridge's address must name one host, not {self.ip}")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"the bridge's port must be 1 to 65535, not {self.port}")
        if self.kind is Kind.SHADOWSOCKS and not self.password:
            raise ValueError("a shadowsocks bridge needs a password")
        if self.kind is Kind.UDP_OVER_TCP and self.password:
            raise ValueError("a udp-over-tcp bridge has no password")

    @classmethod
    def parse(cls, text: str, password: str = "", cipher: Cipher = Cipher.CHACHA20_POLY1305) -> BridgeSettings:
        """Read `udp-over-tcp:203.0.113.9:443` or `shadowsocks:[2001:db8::9]:8388`; ValueError says what is wrong."""
        kind, _, where = text.partition(":")
        if kind not in list(Kind):
            raise ValueError(f"there is no bridge of the kind {kind!r}: use {' or '.join(Kind)}, a colon and ADDR:PORT")
        return cls(Kind(kind), *parse_endpoint(where), cipher, password)

    @property
    def transport(self) -> str:
        """What an observer sees between us and the bridge: "tcp" or "udp"."""
        return "tcp" if self.kind is Kind.UDP_OVER_TCP else "udp"

    def overhead(self, server: IPAddress) -> int:
        """By how many bytes a packet on the wire is larger than without the bridge.

        A stream has no packets that could become too large. Shadowsocks adds salt 32, tag 16, and the server's
        address: type 1, IPv4 4 or IPv6 16, port 2.
        """
        if self.kind is Kind.UDP_OVER_TCP:
            return 0
        return 32 + 16 + 1 + server.max_prefixlen // 8 + 2

    def __str__(self) -> str:
        return f"{self.kind} {endpoint_text(self.ip, self.port)}"


def parse_endpoint(text: str) -> tuple[IPAddress, int]:
    """`203.0.113.9:443` or `[2001:db8::9]:443`; ValueError says what is wrong."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        ip = ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address, a colon and a port (IPv6 in brackets)") from None
    if bracketed != (ip.version == 6) or "%" in host:
        raise ValueError(f"{text!r}: an IPv6 address stands in brackets, without a scope")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ValueError(f"{text!r}: the port must be 1 to 65535")
    return ip, int(port)


def endpoint_text(ip: IPAddress, port: int) -> str:
    """The inverse of `parse_endpoint`."""
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"
