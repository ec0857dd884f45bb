"""Random policies, rules and packet facts, drawn around the values that rules speak of (hypothesis strategies)."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

from hypothesis import strategies as st

from engine.policy import (
    MARK,
    P0,
    App,
    Direction,
    Hop,
    Interface,
    IPAddress,
    IPNetwork,
    Platform,
    Policy,
    Protocol,
    Rule,
    State,
    Tunnel,
    nets,
)
from native import facts as native

RELAY = (ip_address("198.51.100.7"), ip_address("2001:db8:77::7"), ip_address("192.168.7.7"))
BRIDGE = (ip_address("203.0.113.9"), ip_address("2001:db8:99::9"), ip_address("10.9.9.9"))
API = (ip_address("192.0.2.80"), ip_address("2001:db8:80::80"), ip_address("198.51.100.7"))
GATEWAY = (ip_address("10.64.0.1"), ip_address("fc00:bbbb:bbbb:bb01::1"))
RESOLVER = (
    ip_address("9.9.9.9"),
    ip_address("192.168.1.53"),
    ip_address("127.0.0.53"),
    ip_address("2620:fe::fe"),
    ip_address("fd00::53"),
    ip_address("::1"),
)
STRANGER = (ip_address("8.8.8.8"), ip_address("100.64.0.1"), ip_address("2606:4700::1111"), ip_address("fec0::1"))
PREFIXES: tuple[IPNetwork, ...] = (
    *nets.LAN,
    *nets.LAN_MULTICAST,
    *nets.LOOPBACK,
    nets.ALL_ROUTERS,
    nets.SOLICITED_NODE,
    *nets.DHCPV6_SERVERS,
)


def _edges(network: IPNetwork) -> list[IPAddress]:
    """The first and last address of a prefix, and their neighbours outside it."""
    kind = type(network.network_address)
    first, last = int(network.network_address), int(network.broadcast_address)
    greatest = 2**network.max_prefixlen - 1
    return [kind(value) for value in (first - 1, first, last, last + 1) if 0 <= value <= greatest]


ADDRESSES: tuple[IPAddress, ...] = (
    *RELAY, *BRIDGE, *API, *GATEWAY, *RESOLVER, *STRANGER,
    *(edge for prefix in PREFIXES for edge in _edges(prefix)),
    ip_address("0.0.0.0"), ip_address("::"),
)  # fmt: skip

ports = st.sampled_from([53, 67, 68, 443, 546, 547, 51820, 1, 0, 65535, 5353]) | st.integers(0, 65535)
protocols = st.sampled_from([6, 17, 58, 1]) | st.integers(0, 255)


def addresses(version: int) -> st.SearchStrategy[IPAddress]:
    """Mostly an address that some rule may name."""
    known = st.sampled_from([address for address in ADDRESSES if address.version == version])
    return known | st.ip_addresses(v=version)


def hops(pool: tuple[IPAddress, ...]) -> st.SearchStrategy[Hop]:
    """An endpoint; port 53 among others, since a relay may listen there."""
    return st.builds(
        Hop, st.sampled_from(pool), st.sampled_from([443, 53, 51820]) | st.integers(1, 65535), st.sampled_from(Protocol)
    )


tunnels = st.builds(
    Tunnel,
    st.just("wg0"),
    st.just((ip_address("10.64.0.2"), ip_address("fc00:bbbb:bbbb:bb01::2"))),
    st.lists(st.sampled_from(GATEWAY), unique=True).map(tuple),
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Any policy that can be constructed."""
    state = draw(st.sampled_from(State))
    kept = draw(st.sampled_from([State.CONNECTING, State.CONNECTED, State.ERROR]))
    platform = draw(st.sampled_from(Platform))
    tunnel = draw(tunnels)
    connected = State.CONNECTED in (state, kept)
    return Policy(
        state,
        platform,
        allow_lan=draw(st.booleans()),
        always_require_vpn=draw(st.booleans()),
        peer=draw(st.none() | hops(RELAY)),
        bridge=draw(st.none() | hops(BRIDGE)),
        api=draw(st.none() | hops(API)),
        tunnel=tunnel if connected or draw(st.booleans()) else None,
        dns=draw(st.lists(st.sampled_from(RESOLVER), max_size=3, unique=True).map(tuple)),
        kept=kept if state is State.DISCONNECTING else None,
        ios_blocking=platform is Platform.IOS and draw(st.booleans()),
        tun_only=platform is Platform.LINUX and draw(st.booleans()),
    )


@st.composite
def _networks(draw: st.DrawFn) -> tuple[IPNetwork, ...]:
    chosen = draw(st.lists(st.sampled_from(PREFIXES), max_size=3))
    for address in draw(st.lists(st.sampled_from(ADDRESSES), max_size=2)):
        length = draw(st.integers(0, address.max_prefixlen))
        chosen.append(ip_network((address, length), strict=False))
    return tuple(chosen)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """A rule that no document asked for: every combination of conditions."""
    icmp = draw(st.none() | st.none() | st.tuples(st.sampled_from([133, 135, 0]), st.sampled_from([0, 1])))
    accept = draw(st.booleans())
    return Rule(
        "R",
        "random",
        accept=accept,
        reject=not accept and draw(st.booleans()),
        directions=draw(st.sampled_from([(Direction.OUT,), (Direction.IN,), (Direction.OUT, Direction.IN)])),
        forward=draw(st.booleans()),
        interfaces=draw(st.just(()) | st.lists(st.sampled_from(Interface), min_size=1, unique=True).map(tuple)),
        version=draw(st.sampled_from([None, None, 4, 6])),
        protocols=(58,) if icmp else draw(st.just(()) | st.lists(protocols, min_size=1, max_size=2).map(tuple)),
        sources=draw(st.just(()) | _networks()),
        destinations=draw(st.just(()) | _networks()),
        source_port=draw(st.none() | ports),
        destination_port=draw(st.none() | ports),
        icmp=icmp,
        mark=draw(st.sampled_from([None, None, MARK, 0, 0xFFFFFFFF])),
        uid=draw(st.sampled_from([None, None, 0, 0xFFFFFFFF])),
        apps=draw(st.just(()) | st.lists(st.sampled_from(App), min_size=1, unique=True).map(tuple)),
        reply=draw(st.booleans()),
    )


def rule_lists(max_size: int = 12) -> st.SearchStrategy[tuple[Rule, ...]]:
    """Random rules with P-0 behind them."""
    return st.lists(rules(), max_size=max_size).map(lambda made: (*made, P0))


@st.composite
def contexts(draw: st.DrawFn, facts: native.Facts) -> native.Facts:
    """The same packet, seen anywhere and sent by anybody."""
    return replace(
        facts,
        direction=draw(st.sampled_from(native.Direction)),
        iface_in=draw(st.sampled_from(native.Interface)),
        iface_out=draw(st.sampled_from(native.Interface)),
        reply=draw(st.booleans()),
        uid=draw(st.sampled_from([None, 0, 1000, 0xFFFFFFFF])),
        mark=draw(st.sampled_from([0, MARK, MARK + 1, 0xFFFFFFFF])),
        app=draw(st.sampled_from(native.App)),
    )


@st.composite
def facts(draw: st.DrawFn, few_datagrams: bool = False) -> native.Facts:
    """A packet's facts, without the packet. `few_datagrams`: fragments of few datagrams, so that they meet."""
    version = draw(st.sampled_from([4, 6]))
    proto = draw(st.sampled_from([17, 47]) if few_datagrams else protocols)
    fragment = draw(st.sampled_from(native.Fragment))
    shown = fragment is not native.Fragment.LATER
    ends = st.just(STRANGER[0] if version == 4 else STRANGER[2]) if few_datagrams else addresses(version)
    made = native.Facts(version, proto, draw(ends), draw(ends), fragment=fragment)
    if shown and proto in (6, 17):
        made = replace(made, sport=draw(ports), dport=draw(ports))
    if shown and proto == (1 if version == 4 else 58):
        made = replace(
            made, icmp_type=draw(st.sampled_from([133, 134, 135, 136, 137, 8])), icmp_code=draw(st.sampled_from([0, 1]))
        )
    if fragment is not native.Fragment.WHOLE:
        made = replace(
            made,
            frag_id=0 if few_datagrams else draw(st.integers(0, 0xFFFFFFFF)),
            frag_offset=0 if shown else 8 * draw(st.integers(3, 6) | st.integers(3, 8191)),
            frag_len=8 * draw(st.integers(3, 6)),
            more_fragments=shown,
        )
    if few_datagrams:  # one difference in who sent it or where, now and then
        service, tunnel, inward = native.App.SERVICE, native.Interface.TUNNEL, native.Direction.IN
        others = ({"iface_out": tunnel}, {"direction": inward}, {"mark": MARK}, {"uid": 0}, {"app": service})
        return replace(made, **draw(st.just({}) | st.sampled_from(others)))
    return draw(contexts(made))
