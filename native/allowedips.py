"""Cryptokey routing: the longest prefix that contains an address, and its owner (native/src/allowedips.c)."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Generic, TypeVar

from native._native import ffi, lib

Owner = TypeVar("Owner")


class AllowedIPs(Generic[Owner]):
    """An immutable table from prefixes, IPv4 and IPv6, to owners. Any thread may look up."""

    def __init__(self, routes: Iterable[tuple[IPv4Network | IPv6Network, Owner]]) -> None:
        """Build the table; of equal prefixes the last one wins. MemoryError: no memory."""
        routes = list(routes)
        self._owners = [owner for _, owner in routes]
        prefixes = ffi.new("mh_prefix[]", len(routes))
        for number, (prefix, (network, _)) in enumerate(zip(prefixes, routes, strict=True)):
            packed = network.network_address.packed
            prefix.family = network.version
            prefix.cidr = network.prefixlen
            ffi.memmove(prefix.addr, packed, len(packed))
            prefix.owner = ffi.cast("void *", number + 1)  # a number, never followed; NULL is "none"
        table = lib.mh_allowedips_new(prefixes, len(routes))
        if table == ffi.NULL:
            raise MemoryError("no memory for the allowed IPs")
        self._table = ffi.gc(table, lib.mh_allowedips_free)

    def find(self, address: IPv4Address | IPv6Address) -> Owner | None:
        """Return the owner of the longest prefix that contains the address, or None."""
        find = lib.mh_allowedips_find4 if address.version == 4 else lib.mh_allowedips_find6
        number = int(ffi.cast("uintptr_t", find(self._table, address.packed)))
        return self._owners[number - 1] if number else None
