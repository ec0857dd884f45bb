"""`rules_for`: the security policy as an ordered list. First match wins; the last rule is P-0.

Order, the same in every blocking state (a state leaves out what it does not permit):

1. LO, DHCP, NDP: permitted always.
2. The first hop and the API: before DNS, since a relay may listen on port 53.
3. DNS: what is permitted, then the block of all other DNS; before the tunnel and before LAN, so that neither
   lets it out.
4. The tunnel. 5. LAN. 6. P-0.

docs/policy.md has the table of claims and the reasons for what the document leaves open.
"""

from __future__ import annotations

from dataclasses import replace

from engine.policy import nets
from engine.policy.model import Hop, Platform, Policy, Protocol, State
from engine.policy.nets import ICMPV6, TCP, UDP
from engine.policy.rule import App, Direction, Interface, Rule

_OUT = (Direction.OUT,)
_IN = (Direction.IN,)
_BOTH = (Direction.OUT, Direction.IN)

P0 = Rule("P-0", "whatever no rule permits is blocked", accept=False, reject=True, forward=True)

# "Nothing is enforced" binds no platform and no direction (DIS-1).
_DISCONNECTED = Rule("DIS-1", "disconnected: nothing is enforced", accept=True, forward=True)


def rules_for(policy: Policy) -> tuple[Rule, ...]:
    """The rules of a policy, in order; the last one is P-0 and matches everything."""
    if not policy.blocks:
        return (_DISCONNECTED, P0)
    if policy.platform is Platform.ANDROID and policy.state is not State.CONNECTED:
        return (*_android_blocking(), P0)
    if policy.platform is Platform.IOS and policy.enforced is State.ERROR and not policy.ios_blocking:
        return (_IOS_OPEN, P0)
    rules = [_LOOPBACK, *_from_the_tunnel_alone(policy), *_DHCP, *_NDP]
    # On a phone the service's own sockets never pass the TUN (MOB-1): no packet there may claim to be theirs.
    if not policy.platform.mobile:
        rules += _first_hop_and_api(policy)
    rules += _dns(policy)
    rules += _tunnel(policy)
    if policy.allow_lan:
        rules += _LAN
    if policy.platform is not Platform.LINUX:
        rules = [replace(rule, forward=False) for rule in rules]  # FWD-1 speaks of Linux alone
    return (*rules, P0)


# Not forwarded: entering by loopback and leaving elsewhere would be any application's way around the block.
_LOOPBACK = Rule("LO-1", "everything on a loopback interface", accept=True, interfaces=(Interface.LOOPBACK,))

_DHCP = (
    Rule(
        "DHCP4-1", "DHCPv4 request, client to server", accept=True, directions=_OUT, forward=True, version=4,
        protocols=(UDP,), source_port=nets.DHCP_CLIENT_PORT, destinations=(nets.BROADCAST,),
        destination_port=nets.DHCP_SERVER_PORT,
    ),
    Rule(
        "DHCP4-2", "DHCPv4 answer, server to client", accept=True, directions=_IN, forward=True, version=4,
        protocols=(UDP,), source_port=nets.DHCP_SERVER_PORT, destination_port=nets.DHCP_CLIENT_PORT,
    ),
    Rule(
        "DHCP6-1", "DHCPv6 request, client to servers", accept=True, directions=_OUT, forward=True, version=6,
        protocols=(UDP,), sources=(nets.LINK_LOCAL,), source_port=nets.DHCPV6_CLIENT_PORT,
        destinations=nets.DHCPV6_SERVERS, destination_port=nets.DHCPV6_SERVER_PORT,
    ),
    Rule(
        "DHCP6-2", "DHCPv6 answer, server to client", accept=True, directions=_IN, forward=True, version=6,
        protocols=(UDP,), sources=(nets.LINK_LOCAL,), source_port=nets.DHCPV6_SERVER_PORT,
        destinations=(nets.LINK_LOCAL,), destination_port=nets.DHCPV6_CLIENT_PORT,
    ),
)  # fmt: skip

# What every Neighbour Discovery rule has in common; each adds type, direction and one end.
_ND = Rule("", "", accept=True, forward=True, version=6, protocols=(ICMPV6,))
_NDP = (
    replace(
        _ND, id="NDP-1", what="router solicitation", directions=_OUT,
        icmp=(nets.ROUTER_SOLICITATION, 0), destinations=(nets.ALL_ROUTERS,),
    ),
    replace(
        _ND, id="NDP-2", what="router advertisement", directions=_IN,
        icmp=(nets.ROUTER_ADVERTISEMENT, 0), sources=(nets.LINK_LOCAL,),
    ),
    replace(
        _ND, id="NDP-3", what="redirect", directions=_IN,
        icmp=(nets.REDIRECT, 0), sources=(nets.LINK_LOCAL,),
    ),
    replace(
        _ND, id="NDP-4", what="neighbour solicitation, outgoing", directions=_OUT,
        icmp=(nets.NEIGHBOR_SOLICITATION, 0), destinations=(nets.SOLICITED_NODE, nets.LINK_LOCAL),
    ),
    replace(
        _ND, id="NDP-5", what="neighbour solicitation, incoming", directions=_IN,
        icmp=(nets.NEIGHBOR_SOLICITATION, 0), sources=(nets.LINK_LOCAL,),
    ),
    replace(
        _ND, id="NDP-6", what="neighbour advertisement, outgoing", directions=_OUT,
        icmp=(nets.NEIGHBOR_ADVERTISEMENT, 0), destinations=(nets.LINK_LOCAL,),
    ),
    replace(
        _ND, id="NDP-7", what="neighbour advertisement, incoming", directions=_IN,
        icmp=(nets.NEIGHBOR_ADVERTISEMENT, 0),
    ),
)  # fmt: skip

_LAN = (
    Rule("LAN-1", "to the local network", accept=True, directions=_OUT, forward=True, destinations=nets.LAN),
    # Not forwarded: "from the LAN to anywhere" would let a container or a guest out past the tunnel (KS-1);
    # what stays within the LAN is forwarded by the rule above.
    Rule("LAN-1", "from the local network", accept=True, directions=_IN, sources=nets.LAN),
    Rule(
        "LAN-2", "to local multicast and broadcast", accept=True, directions=_OUT, forward=True,
        destinations=nets.LAN_MULTICAST,
    ),
    Rule(
        "LAN-3", "DHCPv4 request to us as a server", accept=True, directions=_IN, forward=True, version=4,
        protocols=(UDP,), source_port=nets.DHCP_CLIENT_PORT, destinations=(nets.BROADCAST,),
        destination_port=nets.DHCP_SERVER_PORT,
    ),
    Rule(
        "LAN-4", "DHCPv4 answer from us as a server", accept=True, directions=_OUT, forward=True, version=4,
        protocols=(UDP,), source_port=nets.DHCP_SERVER_PORT, destination_port=nets.DHCP_CLIENT_PORT,
    ),
)  # fmt: skip


def _to(id: str, what: str, hop: Hop, sender: Rule) -> Rule:
    """Out to an endpoint; `sender` carries the conditions on who may."""
    return replace(
        sender, id=id, what=what, accept=True, directions=_OUT, forward=True,
        protocols=(_number(hop),), destinations=(nets.host(hop.ip),), destination_port=hop.port,
    )  # fmt: skip


def _from(id: str, what: str, hop: Hop) -> Rule:
    """In from an endpoint, answers only."""
    return Rule(
        id, what, accept=True, directions=_IN, forward=True, reply=True,
        protocols=(_number(hop),), sources=(nets.host(hop.ip),), source_port=hop.port,
    )  # fmt: skip


def _number(hop: Hop) -> int:
    return UDP if hop.protocol is Protocol.UDP else TCP


def _sender(platform: Platform, *, api: bool) -> Rule:
    """Who may speak to the first hop (CON-2) or to the API (API-1), as a rule with that condition alone."""
    anyone = Rule("", "", accept=True)
    if platform is Platform.WINDOWS:
        return replace(anyone, apps=(App.SERVICE, App.PROBLEM_REPORT) if api else (App.SERVICE,))
    if platform is Platform.LINUX and not api:
        return replace(anyone, mark=nets.MARK)
    return replace(anyone, uid=nets.ROOT)


def _first_hop_and_api(policy: Policy) -> list[Rule]:
    permits: list[Rule] = []
    blocks: list[Rule] = []
    hop = policy.first_hop
    if hop is not None and policy.enforced is not State.ERROR:
        id = "CTD-3" if policy.enforced is State.CONNECTED else "CON-1"
        sender = _sender(policy.platform, api=False)
        permits.append(_to(id, "to the first hop, from the process that makes the tunnel", hop, sender))
        permits.append(_from(id, "the first hop's answers", hop))
        # Said outright, since a relay may stand in the local network: LAN-1 must not open it to everybody.
        blocks.append(
            Rule(
                "CON-2", "to the first hop, from anybody else", accept=False, reject=True, directions=_OUT,
                forward=True, interfaces=(Interface.OTHER,), protocols=(_number(hop),),
                destinations=(nets.host(hop.ip),), destination_port=hop.port,
            )
        )  # fmt: skip
        if policy.bridge is not None and policy.peer is not None:
            server = nets.host(policy.peer.ip)
            direct = Rule(
                "CON-1", "directly to the server, past the bridge", accept=False, reject=True,
                directions=_OUT, forward=True, interfaces=(Interface.OTHER,), destinations=(server,),
            )  # fmt: skip
            blocks.append(direct)
            blocks.append(
                replace(
                    direct, what="directly from the server, past the bridge", directions=_IN,
                    destinations=(), sources=(server,),
                )
            )  # fmt: skip
    if policy.api is not None and policy.enforced is not State.CONNECTED:
        permits.append(_to("API-1", "to the API", policy.api, _sender(policy.platform, api=True)))
        permits.append(_from("API-1", "the API's answers", policy.api))
    return permits + blocks


def _dns(policy: Policy) -> list[Rule]:
    query = Rule(
        "",
        "",
        accept=True,
        directions=_OUT,
        forward=True,
        protocols=(TCP, UDP),
        destination_port=nets.DNS_PORT,
    )
    block = replace(query, what="all other DNS", accept=False, reject=True)
    if policy.enforced is not State.CONNECTED:
        return [replace(block, id="DNS-3", what="all DNS")]
    assert policy.tunnel is not None  # checked at construction
    rules: list[Rule] = []
    if not policy.dns and policy.tunnel.gateways:
        servers = tuple(nets.host(gateway) for gateway in policy.tunnel.gateways)
        rules.append(
            replace(
                query,
                id="DNS-1",
                what="DNS to the gateway",
                interfaces=(Interface.TUNNEL,),
                destinations=servers,
            )
        )
    public = tuple(nets.host(server) for server in policy.dns if not nets.is_local(server))
    if public:
        rules.append(
            replace(
                query, id="DNS-2", what="DNS to a custom server, in the tunnel",
                interfaces=(Interface.TUNNEL,), destinations=public,
            )
        )  # fmt: skip
    local = tuple(nets.host(server) for server in policy.dns if nets.is_local(server))
    if local:
        rules.append(
            replace(
                query, id="DNS-2", what="DNS to a custom local server, outside the tunnel",
                interfaces=(Interface.OTHER,), destinations=local,
            )
        )  # fmt: skip
        rules.append(
            Rule(
                "DNS-2", "a custom local server's answers", accept=True,
                directions=_IN, forward=True, reply=True, interfaces=(Interface.OTHER,), protocols=(TCP, UDP),
                sources=local, source_port=nets.DNS_PORT,
            )
        )  # fmt: skip
    return [*rules, replace(block, id="CTD-2")]


def _tunnel(policy: Policy) -> list[Rule]:
    if policy.tunnel is None or policy.enforced is State.ERROR:
        return []
    id = "CTD-1" if policy.enforced is State.CONNECTED else "CON-3"
    inside = Rule(id, "everything inside the tunnel", accept=True, interfaces=(Interface.TUNNEL,))
    if policy.platform is not Platform.LINUX:
        return [inside]
    into = replace(inside, what="everything into the tunnel", directions=_OUT, forward=True)
    if policy.tun_only:
        return [into]  # what comes from it has been judged: `_from_the_tunnel_alone`
    answers = Rule(
        "FWD-1", "answers from the tunnel to whom we forward for", accept=True, directions=_IN, forward=True,
        interfaces=(Interface.TUNNEL,), reply=True,
    )  # fmt: skip
    return [into, replace(inside, what="everything from the tunnel", directions=_IN), answers, _UNASKED]


# Said outright, since LAN-1 would let it through: a relay may answer a guest, not knock at it or at the LAN.
_UNASKED = Rule(
    "FWD-1", "from the tunnel, for somebody else, unasked", accept=False, reject=True, directions=_IN, forward=True,
    interfaces=(Interface.TUNNEL,),
)  # fmt: skip


def _from_the_tunnel_alone(policy: Policy) -> list[Rule]:
    """What comes in where no firewall stands behind the TUN, which cannot tell answers from what was not asked for.

    For the tunnel's own addresses. What is for others might be forwarded, so here not even DHCP is let through.
    """
    if not policy.tun_only or policy.tunnel is None or policy.enforced is State.ERROR:
        return []
    id = "CTD-1" if policy.enforced is State.CONNECTED else "CON-3"
    own = Rule(
        id, "everything from the tunnel for its own addresses", accept=True, directions=_IN,
        interfaces=(Interface.TUNNEL,), destinations=tuple(nets.host(address) for address in policy.tunnel.addresses),
    )  # fmt: skip
    return [own, _UNASKED] if own.destinations else [_UNASKED]


def _android_blocking() -> tuple[Rule, ...]:
    tunnel = (Interface.TUNNEL,)
    return (
        # The document: "simply dropped", so there is no answer.
        Rule("MOB-2", "outgoing packets are dropped", accept=False, directions=_OUT, interfaces=tunnel),
        Rule("MOB-2", "incoming packets are delivered", accept=True, directions=_IN, interfaces=tunnel),
    )


_IOS_OPEN = Rule("MOB-4", "the blocked state does not block", accept=True, interfaces=(Interface.TUNNEL,))
