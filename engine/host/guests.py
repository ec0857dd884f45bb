"""Who is a guest: which of main's routes lead to containers and guests, for whom the tunnel's answers may come back.

A packet that comes out of the tunnel and is not for this machine is routed by these alone, never by main itself: what
main knows, a hostile DHCP server or router may have told it, and the answers a guest is waiting for would go to whoever
says that the guest lives on the LAN (as in TunnelVision, CVE-2024-3661, and LocalNet, CVE-2023-36672).

Trusted are routes without a gateway, by an interface whose routes nobody else decides on. An interface is an *uplink*,
and what it says of guests counts for nothing, if main has a route by it

* with a gateway, or of a length below `WIDE` (a point-to-point link's default route has none);
* that was learned: from a router advertisement, a redirect or DHCP, or that expires;

or if one of its addresses expires: a lease, or an advertised prefix. What was an uplink once stays one (the caller
remembers), for between two leases it has neither. Where two other interfaces claim the same addresses, neither is
believed. In doubt a guest gets no answers; nothing else depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.host.capture import IPNetwork

WIDE = 8
_LOOPBACK_INDEX = 1  # LOOPBACK_IFINDEX


@dataclass(frozen=True)
class Way:
    """A route of main, as far as it matters here. `interfaces`: the indices of the devices by which it leads, which may
    be unknown. `direct`: without a gateway, by one device. `learned`: somebody on the network has said so.
    """

    network: IPNetwork
    interfaces: tuple[int, ...]
    direct: bool
    learned: bool = False


def uplinks(ways: Iterable[Way], leased: Iterable[int]) -> set[int] | None:
    """The interfaces that lead to others' networks; `leased`: those with an address that expires.

    None: it cannot be told, for a route names no interface.
    """
    found = set(leased)
    for way in ways:
        if not way.direct or way.learned or way.network.prefixlen < WIDE:
            if not way.interfaces:
                return None
            found.update(way.interfaces)
    return found


def to_guests(ways: Iterable[Way], others: Iterable[int]) -> set[tuple[IPNetwork, int]]:
    """The networks of guests, each with the index of its interface. `others`: the uplinks and the tunnel."""
    none_of = {*others, _LOOPBACK_INDEX}
    found = {
        (way.network, way.interfaces[0])
        for way in ways
        if way.direct and way.interfaces[0] not in none_of and not way.network.is_link_local
    }
    return found - _disputed(found)


def _disputed(routes: set[tuple[IPNetwork, int]]) -> set[tuple[IPNetwork, int]]:
    """Those that share an address with another interface's. Networks lie within each other or apart: one sweep."""
    disputed: set[tuple[IPNetwork, int]] = set()
    around: list[tuple[IPNetwork, int]] = []
    for network, interface in sorted(routes, key=lambda r: (r[0].version, int(r[0].network_address), r[0].prefixlen)):
        while around and not (around[-1][0].version == network.version and network.overlaps(around[-1][0])):
            around.pop()
        for outer in around:
            if outer[1] != interface:
                disputed |= {outer, (network, interface)}
        around.append((network, interface))
    return disputed
