"""`Builder`: say what the VPN is to be, as with Android's VpnService.Builder, then `establish()` it.

A builder collects; `configuration()` checks the whole and freezes it; `establish()` opens the TUN (blocking from the
first moment) and gives the session. Methods return the builder. What cannot be is a `ValueError` with one sentence.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import TYPE_CHECKING, Any

from engine.bridge import BridgeSettings
from engine.host import DEFAULT_ROUTES, Capture, Endpoint, SystemDns
from engine.policy import MARK, Hop, IPAddress, IPNetwork, Platform, Policy, Protocol, State, Tunnel, nets
from engine.service.profiles import PROFILES, Gap, Profile
from engine.state import NO_PEER, Candidate, Cause, Settings
from engine.wg.config import DeviceConfig, PeerConfig

if TYPE_CHECKING:
    from engine.service.session import Session

IPInterface = IPv4Interface | IPv6Interface

# A resolver that nobody is (TEST-NET-1): the system must have one in the blocking states, or Android's lookups
# fall out of the tunnel.
NOBODY = IPv4Address("192.0.2.1")
DEFAULT_MTU = 1420
MIN_MTU = 1280  # IPv6 (RFC 8200, section 5)

# What a relay's alternative may have of its own; the rest is the session's, or the user's.
_OF_A_RELAY = frozenset(
    ("wireguard", "bridge", "session", "addresses", "routes", "gateways", "mtu", "underlying_network")
)


@dataclass(frozen=True)
class Configuration:
    """All that a session is made of. `wireguard` has literal endpoints: names are looked up before.

    `bridge`: the first hop instead of the VPN server. `mtu` None: from the route to the first hop. `no_peer` is told
    where a connect finds no peer.
    """

    wireguard: DeviceConfig = field(default_factory=DeviceConfig)
    bridge: BridgeSettings | None = None
    session: str = "molehill"
    interface: str = "mh0"
    profile: Profile = PROFILES["linux"]
    addresses: tuple[IPInterface, ...] = ()
    routes: tuple[IPNetwork, ...] = DEFAULT_ROUTES
    dns: tuple[IPAddress, ...] = ()
    gateways: tuple[IPAddress, ...] = ()
    mtu: int | None = None
    allowed_uids: tuple[int, ...] = ()
    disallowed_uids: tuple[int, ...] = ()
    underlying_network: str | None = None
    allow_lan: bool = False
    always_require_vpn: bool = False
    api: Hop | None = None
    firewall: bool = False
    no_peer: Cause = NO_PEER

    @property
    def mode(self) -> str:
        """What enforces: "firewall" (TUN and nftables) or "vpn-service" (TUN alone)."""
        return "firewall" if self.firewall else "vpn-service"

    @property
    def cannot_block(self) -> tuple[Gap, ...]:
        """What is not blocked in this profile and mode."""
        return self.profile.gaps(firewall=self.firewall)

    @property
    def peer(self) -> PeerConfig | None:
        """The peer that is the VPN server: the first one with an endpoint."""
        return next((peer for peer in self.wireguard.peers if peer.endpoint is not None), None)

    @property
    def tunnel(self) -> Tunnel:
        """The device as a policy sees it."""
        return Tunnel(self.interface, tuple(address.ip for address in self.addresses), self.gateways)

    def candidate(self, generation: int = 0) -> Candidate:
        """This relay as the state machine sees it. ValueError for an endpoint that no policy can name."""
        hop = None
        if self.peer is not None and self.peer.endpoint is not None and self.peer.endpoint.address is not None:
            hop = Hop(self.peer.endpoint.address, self.peer.endpoint.port, Protocol.UDP)
        bridge = None
        if self.bridge is not None:
            bridge = Hop(self.bridge.ip, self.bridge.port, Protocol(self.bridge.transport))
        return Candidate(peer=hop, bridge=bridge, tunnel=self.tunnel, generation=generation)

    def settings(self, *candidates: Candidate) -> Settings:
        """What the state machine decides by; without candidates this relay is the only one."""
        return Settings(
            platform=self.profile.platform,
            ios_blocking=self.profile.ios_blocking,
            tun_only=self.profile.platform is Platform.LINUX and not self.firewall,
            allow_lan=self.allow_lan,
            always_require_vpn=self.always_require_vpn,
            api=self.api,
            dns=self.dns,
            candidates=candidates or (self.candidate(),),
            no_peer=self.no_peer,
        )

    def same_but_for_the_relay(self, other: Configuration) -> bool:
        """Whether both can be candidates of one session at the same time."""
        mine = (f.name for f in fields(self) if f.name not in _OF_A_RELAY)
        return all(getattr(self, name) == getattr(other, name) for name in mine)

    def same_tunnel(self, other: Configuration) -> bool:
        """Whether going from one to the other leaves keys, peers and device as they are."""
        names = ("wireguard", "bridge", "mtu", "routes", "underlying_network", "allowed_uids", "disallowed_uids")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def capture(self, policy: Policy, mtu: int = DEFAULT_MTU) -> Capture:
        """What the machine has to route into the TUN while `policy` is in force; `mtu` where none is configured.

        The LAN goes past the TUN while it is allowed (LAN-1, LAN-2), never its DNS (policy.md: DNS comes before LAN);
        local custom DNS servers only in Connected (DNS-2, DNS-3); root's way to the API outside it (API-1, API-2);
        the answers for guests come back from it while there is a tunnel (FWD-1).
        """
        connected = policy.enforced is State.CONNECTED
        tunnelled = policy.tunnel is not None and policy.enforced is not State.ERROR
        api = policy.api if policy.platform is Platform.LINUX and not connected else None
        return Capture(
            interface=self.interface,
            mark=MARK,
            addresses=self.addresses,
            mtu=self.mtu or mtu,
            routes=self.routes,
            lan=(*nets.LAN, *nets.LAN_MULTICAST) if policy.allow_lan else (),
            local_dns=tuple(s for s in policy.dns if nets.is_local(s)) if connected else (),
            api=Endpoint(api.ip, api.port, nets.UDP if api.protocol is Protocol.UDP else nets.TCP) if api else None,
            included_uids=self.allowed_uids,
            excluded_uids=self.disallowed_uids,
            guests=policy.platform is Platform.LINUX and tunnelled,
        )

    def resolvers(self, state: State) -> tuple[IPAddress, ...]:
        """The servers that the system should ask in this state; empty: its own."""
        if state is State.DISCONNECTED and not self.always_require_vpn:
            return ()
        if state is State.CONNECTED:
            return self.dns or self.gateways or (NOBODY,)
        return (NOBODY,)


class Builder:
    """Collects a `Configuration`. Every method checks its own argument and returns the builder."""

    def __init__(self, profile: str = "linux") -> None:
        if profile not in PROFILES:
            raise ValueError(f"there is no profile {profile!r}: use one of {', '.join(PROFILES)}")
        self._is = Configuration(profile=PROFILES[profile], routes=())

    def _with(self, **change: Any) -> Builder:
        self._is = replace(self._is, **change)
        return self

    def set_session(self, name: str) -> Builder:
        """A name for people, shown in the status."""
        return self._with(session=name)

    def set_interface(self, name: str) -> Builder:
        """The TUN's name, at most 15 bytes."""
        return self._with(interface=Tunnel(name, (), ()).name)

    def set_wireguard(self, config: DeviceConfig) -> Builder:
        """Keys and peers; every endpoint an address, not a name."""
        for peer in config.peers:
            if peer.endpoint is not None and peer.endpoint.address is None:
                raise ValueError(f"Endpoint {peer.endpoint}: look the name up first, DNS will be blocked")
        if config.private_key is None:
            raise ValueError("PrivateKey is missing")
        return self._with(wireguard=replace(config, fwmark=MARK))

    def set_bridge(self, bridge: BridgeSettings | None) -> Builder:
        """Reach the VPN server by way of this bridge alone (CON-1); None: directly."""
        return self._with(bridge=bridge)

    def add_address(self, address: str | IPInterface) -> Builder:
        """An address of the tunnel, with or without a prefix length ("10.64.0.2/32")."""
        return self._with(addresses=(*self._is.addresses, ip_interface(address)))

    def add_route(self, network: str | IPNetwork) -> Builder:
        """A network that leads into the tunnel. Without any: all. What no route names is blocked, never let past."""
        return self._with(routes=(*self._is.routes, ip_network(network)))

    def add_dns_server(self, server: str | IPAddress) -> Builder:
        """A custom DNS server; then only these may be asked (DNS-2)."""
        return self._with(dns=(*self._is.dns, ip_address(server)))

    def add_gateway(self, gateway: str | IPAddress) -> Builder:
        """An address of the relay inside the tunnel: answers DNS (DNS-1); the first one is pinged to verify."""
        return self._with(gateways=(*self._is.gateways, ip_address(gateway)))

    def set_mtu(self, mtu: int) -> Builder:
        """The TUN's MTU in bytes, 1280 to 65535. Without it: what the route to the first hop allows."""
        if not MIN_MTU <= mtu <= 65535:
            raise ValueError(f"the MTU must be 1280 to 65535, not {mtu}")
        return self._with(mtu=mtu)

    def add_allowed_application(self, uid: int) -> Builder:
        """Only applications so named (by user id, as Android has it) use the VPN; all others go past it."""
        return self._with(allowed_uids=(*self._is.allowed_uids, _uid(uid)))

    def add_disallowed_application(self, uid: int) -> Builder:
        """This application (by user id) goes past the VPN, in every state."""
        return self._with(disallowed_uids=(*self._is.disallowed_uids, _uid(uid)))

    def set_underlying_network(self, interface: str | None) -> Builder:
        """Send the outer packets by this interface only; None: by whatever the routes say."""
        return self._with(underlying_network=interface)

    def set_allow_lan(self, allow: bool) -> Builder:
        """Let the local network be reached (LAN-1 to LAN-4)."""
        return self._with(allow_lan=allow)

    def set_always_require_vpn(self, always: bool) -> Builder:
        """Block in Disconnected too (DIS-2)."""
        return self._with(always_require_vpn=always)

    def set_firewall(self, firewall: bool) -> Builder:
        """Enforce by the host's firewall too: whatever passes the TUN by is judged there, by the same policy."""
        return self._with(firewall=firewall)

    def configuration(self) -> Configuration:
        """The whole, checked."""
        done = self._is
        if done.firewall and done.profile.platform is not Platform.LINUX:
            raise ValueError(f"the profile {done.profile.name} has no firewall: leave one of them out")
        if done.firewall and (done.allowed_uids or done.disallowed_uids):
            raise ValueError("with the firewall no application can go past the VPN")
        if done.allowed_uids and done.disallowed_uids:
            raise ValueError("applications are either allowed or disallowed, not both")
        if not done.addresses:
            raise ValueError("the tunnel needs an address")
        if done.peer is None:
            raise ValueError("no peer has an Endpoint")
        done.candidate()  # raises ValueError for an endpoint that no policy can name
        return replace(done, routes=done.routes or DEFAULT_ROUTES)

    async def establish(self) -> Session:
        """Open the TUN and start connecting; nothing leaves from here on but what the state permits.

        Raises ValueError for a configuration that cannot be, `engine.service.Unavailable` for a machine that cannot.
        """
        from engine.service.session import Session

        session = Session(self.configuration(), dns=SystemDns())
        await session.start()
        session.connect()
        return session


def _uid(uid: int) -> int:
    if not 0 <= uid < 0xFFFFFFFF:
        raise ValueError(f"{uid} is no user id")
    return uid


def source_for(configuration: Configuration, target: IPAddress) -> IPAddress | None:
    """The tunnel's own address of the target's family; None: it has none."""
    kind = IPv4Address if isinstance(target, IPv4Address) else IPv6Address
    return next((a.ip for a in configuration.addresses if isinstance(a.ip, kind)), None)


def peer_for(configuration: Configuration, target: IPAddress) -> PeerConfig | None:
    """The peer to which allowed IPs send the target (longest prefix); else the VPN server."""
    covering = [
        (network.prefixlen, peer)
        for peer in configuration.wireguard.peers
        for network in peer.allowed_ips
        if target in network
    ]
    return max(covering, key=lambda found: found[0])[1] if covering else configuration.peer
