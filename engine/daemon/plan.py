"""From what the user has decided to what a session is made of: one configuration, or one a relay in the order to try.

Whatever cannot be (no tunnel chosen, no relay that fits, a name without a known address, a file that cannot be read)
becomes a configuration without a peer that says why: to connect by it ends in Error, which blocks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from itertools import chain, zip_longest

from engine.bridge import BridgeSettings, Kind
from engine.daemon import relays as relay_list
from engine.daemon.settings import api_of, bridge_of, dns_of
from engine.daemon.store import Unreadable
from engine.daemon.tunnels import Tunnels
from engine.management.schema import BridgeKind, Relay, RelayChoice, RelayList, Settings, TunnelChoice
from engine.policy import IPAddress
from engine.service import Configuration
from engine.service.quick import check_peers, interface_of
from engine.state import NO_PEER, Cause, CauseKind
from engine.wg.conf import Conf
from engine.wg.config import DeviceConfig, HostPort, PeerConfig
from engine.wg.keys import key_from_base64

log = logging.getLogger(__name__)

_DIRECTLY = 2  # attempts, before the relays' own bridges are tried, too


@dataclass(frozen=True)
class Known:
    """All that a plan is made from. No password in its `repr`.

    `addresses`: of host names, as they were found last; `password`: the bridge's; `seed`: of the draw of relays.
    """

    settings: Settings
    tunnels: Tunnels
    relays: RelayList
    addresses: Mapping[str, IPAddress]
    seed: bytes
    password: str = field(default="", repr=False)


class _Impossible(Exception):
    def __init__(self, cause: Cause) -> None:
        super().__init__(str(cause))
        self.cause = cause


def plan(known: Known, base: Configuration) -> tuple[Configuration, ...]:
    """At least one configuration. `base` has what this run of the daemon decides: interface and mode."""
    settings = known.settings
    base = replace(
        base,
        allow_lan=settings.allow_lan,
        always_require_vpn=settings.always_require_vpn,
        dns=dns_of(settings),
        api=api_of(settings),
    )
    try:
        match settings.choice:
            case TunnelChoice(name):
                return (_by_tunnel(known, base, name),)
            case RelayChoice() as choice:
                return _by_relays(known, base, choice)
            case None:
                how = "choose NAME" if known.tunnels.names() else "import FILE"
                why = f"no tunnel is chosen: molehill tunnel {how}"
                raise _Impossible(replace(NO_PEER, detail=why))
    except _Impossible as impossible:
        return (replace(base, no_peer=impossible.cause),)
    except Exception as error:  # a fault of ours has to block, not to end the daemon
        log.exception("the plan failed")
        why = f"a fault of molehill's, {type(error).__name__}"
        return (replace(base, no_peer=Cause(CauseKind.INTERNAL, why)),)


def host_names(known: Known) -> frozenset[str]:
    """The host names whose addresses the plan needs."""
    choice = known.settings.choice
    try:
        return known.tunnels.host_names(choice.name) if isinstance(choice, TunnelChoice) else frozenset()
    except (KeyError, Unreadable):
        return frozenset()


def _conf(known: Known, name: str) -> Conf:
    try:
        return known.tunnels.load(name)
    except KeyError:
        raise _Impossible(replace(NO_PEER, detail=f"there is no tunnel {name} any more")) from None
    except Unreadable as error:
        raise _Impossible(Cause(CauseKind.START_TUNNEL, str(error))) from None


def _by_tunnel(known: Known, base: Configuration, name: str) -> Configuration:
    conf = _conf(known, name)
    found: dict[bytes, HostPort | None] = {}
    for peer in conf.device.peers:
        if peer.endpoint is not None and peer.endpoint.address is None:
            address = known.addresses.get(peer.endpoint.host)
            if address is None:
                why = f"{peer.endpoint.host} was never found; disconnect, so that it can be looked up, and connect"
                raise _Impossible(Cause(CauseKind.RESOLVE_ENDPOINT, why))
            found[peer.public_key] = HostPort(str(address), peer.endpoint.port)
    return _configuration(known, base, name, conf, conf.device.with_endpoints(found), conf.dns)


def _by_relays(known: Known, base: Configuration, choice: RelayChoice) -> tuple[Configuration, ...]:
    conf = _conf(known, choice.identity)
    drawn = relay_list.choose(known.relays, choice, known.seed)
    chosen = [relay for relay in drawn if key_from_base64(relay.public_key) != conf.device.public_key]
    if not chosen:
        wanted = [choice.country, choice.city, choice.hostname, "with IPv6" if choice.ip_version == 6 else ""]
        words = " ".join(word for word in wanted if word)
        raise _Impossible(Cause(CauseKind.NO_RELAY, f"{words or 'any'}, among {len(known.relays.relays)}"))
    made, bridged = [], []
    for relay in chosen:
        device, gateways = _device(conf, relay, choice), relay_list.gateways_of(relay) or conf.dns
        made.append(_configuration(known, base, relay.hostname, conf, device, gateways))
        if known.settings.bridge is not None and known.settings.bridge.kind is BridgeKind.AUTO:
            bridged += [
                replace(
                    made[-1], bridge=BridgeSettings(Kind.UDP_OVER_TCP, ip_address(_host(relay, choice)), offer.port)
                )
                for offer in relay.bridges
                if offer.kind is BridgeKind.UDP_OVER_TCP  # one by Shadowsocks needs a password, which no list has
            ]
    return _alternating(made, bridged)


def _alternating(direct: list[Configuration], bridged: list[Configuration]) -> tuple[Configuration, ...]:
    """Directly twice, then every other attempt by a bridge: who cannot get through directly is not kept waiting."""
    rest = chain.from_iterable(zip_longest(bridged, direct[_DIRECTLY:]))
    order = [*direct[:_DIRECTLY], *(each for each in rest if each is not None)]
    return tuple(order[: relay_list.CANDIDATES])


def _host(relay: Relay, choice: RelayChoice) -> str:
    return relay.ipv6 if choice.ip_version == 6 and relay.ipv6 is not None else relay.ipv4


def _device(conf: Conf, relay: Relay, choice: RelayChoice) -> DeviceConfig:
    peer = PeerConfig(
        public_key=key_from_base64(relay.public_key),
        endpoint=HostPort(_host(relay, choice), relay.port),
        allowed_ips=(ip_network("0.0.0.0/0"), ip_network("::/0")),
    )
    return DeviceConfig(private_key=conf.device.private_key, peers=(peer,))


def _configuration(
    known: Known, base: Configuration, name: str, conf: Conf, device: DeviceConfig, gateways: tuple[IPAddress, ...]
) -> Configuration:
    try:
        check_peers(replace(conf, device=device))
        builder = interface_of(conf).set_session(name).set_interface(base.interface).set_wireguard(device)
        for gateway in gateways:
            builder.add_gateway(gateway)
        if known.settings.mtu is not None:
            builder.set_mtu(known.settings.mtu)
        if known.settings.bridge is not None and known.settings.bridge.kind is not BridgeKind.AUTO:
            builder.set_bridge(bridge_of(known.settings.bridge, known.password))
        made = builder.set_firewall(base.firewall).configuration()
    except ValueError as error:
        raise _Impossible(Cause(CauseKind.START_TUNNEL, f"{name}: {error}")) from None
    return replace(
        base,
        wireguard=made.wireguard,
        bridge=made.bridge,
        session=made.session,
        addresses=made.addresses,
        routes=made.routes,
        gateways=made.gateways,
        mtu=made.mtu,
    )
