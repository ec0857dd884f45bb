"""What a wg-quick file means to a session: what it must have, what is not followed, and a builder made from it."""

from __future__ import annotations

from engine.service.builder import Builder
from engine.wg.conf import Conf


def not_followed(conf: Conf, *, one_peer: str = "") -> list[str]:
    """What wg-quick would do with the file and a session does not: one sentence each.

    `one_peer`: what lets one peer alone be reached, if anything does ("firewall", "bridge").
    """
    notices = []
    hooks = {"PreUp": conf.pre_up, "PostUp": conf.post_up, "PreDown": conf.pre_down, "PostDown": conf.post_down}
    for key in [key for key, lines in hooks.items() if lines]:
        notices.append(f"{key} is ignored: molehill runs no commands from a configuration")
    if conf.table != "auto":
        notices.append(f"Table = {conf.table} is ignored: everything is captured")
    if conf.dns_search:
        notices.append(f"the search domain {conf.dns_search[0]} in DNS is ignored: only servers are set")
    if conf.device.fwmark:
        notices.append("FwMark is ignored: molehill uses its own")
    if one_peer and sum(peer.endpoint is not None for peer in conf.device.peers) > 1:
        notices.append(f"the {one_peer} lets the first peer with an Endpoint be reached, the others not")
    return notices


def interface_of(conf: Conf, profile: str = "linux") -> Builder:
    """A builder with what [Interface] says: addresses, MTU. ValueError: one sentence."""
    if conf.device.private_key is None:
        raise ValueError("PrivateKey is missing in [Interface]")
    if not conf.addresses:
        raise ValueError("Address is missing in [Interface]")
    builder = Builder(profile)
    for address in conf.addresses:
        builder.add_address(address)
    if conf.mtu is not None:
        builder.set_mtu(conf.mtu)
    return builder


def check_peers(conf: Conf) -> None:
    """ValueError, one sentence, if nothing could go through a tunnel by this file."""
    if not any(peer.endpoint is not None for peer in conf.device.peers):
        raise ValueError("no [Peer] has an Endpoint")
    if not any(peer.allowed_ips for peer in conf.device.peers):
        raise ValueError("no [Peer] has AllowedIPs, so nothing could go through the tunnel")
