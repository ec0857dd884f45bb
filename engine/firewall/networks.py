"""Networks as the renderers write them."""

from __future__ import annotations

from collections.abc import Iterable

from engine.policy import IPNetwork


def of_version(networks: Iterable[IPNetwork], version: int) -> list[IPNetwork]:
    """Those of one IP version, sorted, without any that lies within another (nft refuses overlaps in a set)."""
    ordered = sorted(
        {network for network in networks if network.version == version},
        key=lambda network: (int(network.network_address), network.prefixlen),
    )
    kept: list[IPNetwork] = []
    for network in ordered:
        if not kept or int(network.network_address) > int(kept[-1].broadcast_address):
            kept.append(network)
    return kept
