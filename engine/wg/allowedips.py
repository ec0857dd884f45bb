"""Cryptokey routing (paper section 2), the control side: which prefix belongs to which peer.

A prefix has one owner; giving it to another peer takes it from the first. The native datapath gets the whole list as
part of its snapshot; `find` here serves the sans-IO mode: one dictionary lookup per prefix length in use.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from operator import itemgetter
from typing import Generic, TypeVar

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
Owner = TypeVar("Owner")


class _Family(Generic[Owner]):
    """One address family."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._tables: dict[int, dict[int, Owner]] = {}  # width - prefix length -> network bits -> owner
        self._order: list[tuple[int, dict[int, Owner]]] = []  # the same, longest prefixes first

    def set(self, network: Network, owner: Owner) -> None:
        shift = self._width - network.prefixlen
        if shift not in self._tables:
            self._tables[shift] = {}
            self._order = sorted(self._tables.items(), key=itemgetter(0))
        self._tables[shift][int(network.network_address) >> shift] = owner

    def remove(self, network: Network) -> None:
        shift = self._width - network.prefixlen
        del self._tables[shift][int(network.network_address) >> shift]
        if not self._tables[shift]:
            del self._tables[shift]
            self._order = sorted(self._tables.items(), key=itemgetter(0))

    def find(self, address: int) -> Owner | None:
        for shift, table in self._order:
            owner = table.get(address >> shift)
            if owner is not None:
                return owner
        return None


class AllowedIPs(Generic[Owner]):
    """Prefixes and their owners (any hashable object, a peer)."""

    def __init__(self) -> None:
        self._owner: dict[Network, Owner] = {}
        self._prefixes: dict[Owner, dict[Network, None]] = {}
        self._v4: _Family[Owner] = _Family(32)
        self._v6: _Family[Owner] = _Family(128)

    def __len__(self) -> int:
        return len(self._owner)

    def __iter__(self) -> Iterator[tuple[Network, Owner]]:
        return iter(self._owner.items())

    def _family(self, network: Network) -> _Family[Owner]:
        return self._v4 if network.version == 4 else self._v6

    def add(self, network: Network, owner: Owner) -> None:
        """Give a prefix to owner, taking it from whoever has it."""
        former = self._owner.get(network)
        if former is not None and former is not owner:
            del self._prefixes[former][network]
        self._owner[network] = owner
        self._prefixes.setdefault(owner, {})[network] = None
        self._family(network).set(network, owner)

    def remove(self, network: Network, owner: Owner) -> None:
        """Take a prefix from owner; nothing happens when it is not (any more) its own."""
        if self._owner.get(network) is owner:
            del self._owner[network]
            del self._prefixes[owner][network]
            self._family(network).remove(network)

    def remove_owner(self, owner: Owner) -> None:
        """Take all prefixes from owner."""
        for network in self._prefixes.pop(owner, {}):
            del self._owner[network]
            self._family(network).remove(network)

    def of(self, owner: Owner) -> tuple[Network, ...]:
        """Return the prefixes of owner, in the order they were given."""
        return tuple(self._prefixes.get(owner, ()))

    def find(self, address: bytes) -> Owner | None:
        """Return the owner of the longest prefix that covers a packed address (4 or 16 bytes), or None."""
        family = self._v4 if len(address) == 4 else self._v6
        return family.find(int.from_bytes(address, "big"))
