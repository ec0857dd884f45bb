"""Where a peer is: its outer address and port, and the local address it spoke to (native/src/endpoint.h)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

_LAYOUT = struct.Struct("=BBHIII16s16s")  # mh_endpoint: family, local family, port, scope, ifindex, no_bursts, ...
ENDPOINT_LEN: int = _LAYOUT.size
NOWHERE = bytes(ENDPOINT_LEN)
"""No endpoint, packed."""


@dataclass(frozen=True)
class Endpoint:
    """An outer address. Two are equal when host, port and scope are; the sticky source does not count.

    scope: the interface of a link-local host. local, ifindex: the address of ours that the peer sent to, and the
    interface it came in by; answers leave from there as long as it exists. None: the kernel chooses.
    """

    host: IPv4Address | IPv6Address
    port: int
    scope: int = 0
    local: IPv4Address | IPv6Address | None = field(default=None, compare=False)
    ifindex: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        """ValueError: a port that is none, or a local address of the other family."""
        if not 0 < self.port < 1 << 16:
            raise ValueError(f"an endpoint's port is 1 to 65535, not {self.port}")
        if self.local is not None and self.local.version != self.host.version:
            raise ValueError(f"the local address {self.local} is not of the family of {self.host}")

    def pack(self) -> bytes:
        """The 48 bytes of `mh_endpoint`."""
        local = self.local
        return _LAYOUT.pack(
            self.host.version, 0 if local is None else local.version, self.port, self.scope, self.ifindex, 0,
            self.host.packed, b"" if local is None else local.packed,
        )  # fmt: skip

    @classmethod
    def unpack(cls, data: bytes) -> Endpoint | None:
        """The endpoint in 48 bytes of `mh_endpoint`; None: it says there is none."""
        family, local_family, port, scope, ifindex, _, host, local = _LAYOUT.unpack(data)
        if family == 0 or port == 0:
            return None
        return cls(
            _address(family, host), port, scope, _address(local_family, local) if local_family else None, ifindex
        )

    def __str__(self) -> str:
        """As `wg` writes it: 192.0.2.1:51820, [2001:db8::1]:51820, [fe80::1%3]:51820."""
        if self.host.version == 4:
            return f"{self.host}:{self.port}"
        scope = f"%{self.scope}" if self.scope else ""
        return f"[{self.host}{scope}]:{self.port}"


def _address(family: int, packed: bytes) -> IPv4Address | IPv6Address:
    return IPv4Address(packed[:4]) if family == 4 else IPv6Address(packed)
