"""Hostnames of endpoints to addresses, off the event loop, as WireGuard's tools do: once, before the tunnel is up."""

import asyncio
import ipaddress
import socket

from native.endpoint import Endpoint


class ResolveError(Exception):
    """The name of an endpoint has no address; the text is one sentence for the user."""


async def resolve(host: str, port: int) -> Endpoint:
    """The first address of `host` (a literal or a name). Raises ResolveError."""
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except socket.gaierror as error:
        raise ResolveError(f"Endpoint {host}:{port}: the name cannot be resolved ({error.strerror})") from None
    address = infos[0][4]
    scope = int(address[3]) if len(address) == 4 else 0
    return Endpoint(ipaddress.ip_address(str(address[0]).partition("%")[0]), port, scope)
