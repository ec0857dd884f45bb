"""Cryptokey routing (paper section 2), the control side: which prefix belongs to which peer.

A prefix has one owner; giving it to another peer takes it from the first. The native datapath gets the whole list as
part of its snapshot; `find` here serves the sans-IO mode alone: one look-up per prefix length in use.
"""

from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Generic, TypeVar

Network = IPv4Network | IPv6Network
Owner = TypeVar("Owner")


class AllowedIPs(Generic[Owner]):
    """Prefixes and their owners (any hashable object, a peer)."""

    def __init__(self) -> None:
        self._owner: dict[Network, Owner] = {}
        # In the order they were given; one that another owner has taken since may still stand here.
        self._given: dict[Owner, tuple[Network, ...]] = {}
        self._lengths: Counter[tuple[int, int]] = Counter()  # (IP version, prefix length) -> prefixes

    def __len__(self) -> int:
        return len(self._owner)

    def __iter__(self) -> Iterator[tuple[Network, Owner]]:
        return iter(self._owner.items())

    def add(self, network: Network, owner: Owner) -> None:
        """Give a prefix to owner, taking it from whoever has it."""
        if self._owner.get(network) is not owner:
            others = (given for given in self._given.get(owner, ()) if given != network)
            self._given[owner] = (*others, network)
            self._take(network, owner)

    def replace(self, owner: Owner, networks: tuple[Network, ...]) -> None:
        """Make these the prefixes of owner, taking each from whoever has it."""
        self.remove_owner(owner)
        if networks:
            self._given[owner] = networks
        for network in networks:
            self._take(network, owner)

    def remove(self, network: Network, owner: Owner) -> None:
        """Take a prefix from owner; nothing happens when it is not (any more) its own."""
        if self._owner.get(network) is owner:
            self._forget(network)

    def remove_owner(self, owner: Owner) -> None:
        """Take all prefixes from owner."""
        for network in self._given.pop(owner, ()):
            self.remove(network, owner)

    def of(self, owner: Owner) -> tuple[Network, ...]:
        """Return the prefixes of owner, in the order they were given."""
        return tuple(network for network in self._given.get(owner, ()) if self._owner.get(network) is owner)

    def find(self, address: bytes) -> Owner | None:
        """Return the owner of the longest prefix that covers a packed address (4 or 16 bytes), or None."""
        kind, version = (IPv4Network, 4) if len(address) == 4 else (IPv6Network, 6)
        for length in sorted((n for v, n in self._lengths if v == version), reverse=True):
            owner = self._owner.get(kind((address, length), strict=False))
            if owner is not None:
                return owner
        return None

    def _take(self, network: Network, owner: Owner) -> None:
        known = len(self._owner)
        self._owner[network] = owner
        if len(self._owner) > known:  # hashing a network is slow, and this is done for each of many
            self._lengths[network.version, network.prefixlen] += 1

    def _forget(self, network: Network) -> None:
        del self._owner[network]
        kind = (network.version, network.prefixlen)
        self._lengths[kind] -= 1
        if not self._lengths[kind]:
            del self._lengths[kind]
