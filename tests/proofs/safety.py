"""The safety properties by themselves: what no packet may do, whatever the rest of the policy says.

Each is a formula over what an enforcer's artefact accepts. They are coarser than the specification and share no
sentence with it, so that a slip there would show here. The relations compare two policies.

For the firewalls they speak of whole packets, and not of answers under WFP and of forwarded packets under PF and WFP
(assumptions `reassembled`, `flows`, `forward-twice`, `no-fragments`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import z3

from engine.policy import Hop, IPAddress, Platform, Policy, Protocol, State
from native.facts import App, Direction, Fragment, Interface
from tests.proofs.packet import ICMPV6, TCP, UDP, Symbols
from tests.proofs.policies import Case
from tests.proofs.prove import PACKET, Counterexample, Enforcer, ask, encoded, tunnel_address

LOCAL = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fe80::/10", "fc00::/7")
_NETS = Symbols()
_OTHER, _TUNNEL, _LOOPBACK = int(Interface.OTHER), int(Interface.TUNNEL), int(Interface.LOOPBACK)
p = PACKET


def _to(*networks: str) -> Any:
    return _NETS.any_of(p, False, [ip_network(n) for n in networks])


def _at(addresses: tuple[IPAddress, ...], symbols: Symbols, *, source: bool = False) -> Any:
    ends = [(a, p.source(a.version) if source else p.destination(a.version)) for a in addresses]
    return z3.Or([z3.And(p.version(a.version), end == symbols.address(a)) for a, end in ends])


def _endpoint(hop: Hop, symbols: Symbols) -> Any:
    """Sent to the endpoint's address, port and protocol."""
    number = UDP if hop.protocol is Protocol.UDP else TCP
    return z3.And(_at((hop.ip,), symbols), p.proto == number, p.has_ports, p.dport == symbols.port(hop.port))


def _answer(hop: Hop, symbols: Symbols) -> Any:
    number = UDP if hop.protocol is Protocol.UDP else TCP
    return z3.And(
        p.reply, _at((hop.ip,), symbols, source=True), p.proto == number, p.has_ports, p.sport == symbols.port(hop.port)
    )


def _root() -> Any:
    return z3.And(p.has_uid, p.uid == 0)


def tunnel_maker(platform: Platform) -> Any:
    """CON-2: who may speak to the first hop."""
    if platform is Platform.LINUX:
        return p.mark == int.from_bytes(b"mole", "big")
    return p.app == int(App.SERVICE) if platform is Platform.WINDOWS else _root()


def api_user(platform: Platform) -> Any:
    """API-1: who may speak to the API."""
    if platform is Platform.WINDOWS:
        return z3.Or(p.app == int(App.SERVICE), p.app == int(App.PROBLEM_REPORT))
    return _root()


DNS_QUERY = z3.And(z3.Not(p.goes(Direction.IN)), p.has_ports, p.dport == 53)
LEAVES = z3.And(z3.Not(p.goes(Direction.IN)), p.iface_out == _OTHER)
THROUGH = p.goes(Direction.FORWARD)


def _endpoints(case: Case) -> tuple[Any, Any]:
    """What passes as the first hop's or the API's, and as an answer of theirs that is forwarded."""
    policy, symbols = case.policy, case.symbols
    goes, comes = [], []
    if policy.enforced in (State.CONNECTING, State.CONNECTED) and policy.first_hop and not policy.platform.mobile:
        goes.append(z3.And(_endpoint(policy.first_hop, symbols), tunnel_maker(policy.platform)))
        comes.append(_answer(policy.first_hop, symbols))
    if policy.enforced is not State.CONNECTED and policy.api and not policy.platform.mobile:
        goes.append(z3.And(_endpoint(policy.api, symbols), api_user(policy.platform)))
        comes.append(_answer(policy.api, symbols))
    return z3.Or(goes), z3.And(THROUGH, z3.Or(comes))


def _on_the_link() -> Any:
    """DHCP and Neighbour Discovery: where their packets may go."""
    dhcp = z3.And(p.proto == UDP, p.has_ports, _to("255.255.255.255", "ff02::1:2", "ff05::1:3", "fe80::/10"))
    dhcp = z3.And(dhcp, z3.Or(p.dport == 67, p.dport == 547, p.dport == 546))
    discovery = z3.And(
        p.proto == ICMPV6, p.v6, p.has_icmp, p.icmp_code == 0, z3.UGE(p.icmp_type, 133), z3.ULE(p.icmp_type, 137)
    )
    discovery = z3.And(discovery, z3.Or(_to("fe80::/10", "ff02::/16"), THROUGH))
    answer = z3.And(THROUGH, p.proto == UDP, p.has_ports, p.sport == 67, p.dport == 68)
    return z3.Or(dhcp, discovery, answer)


def _local_resolvers(case: Case) -> tuple[IPAddress, ...]:
    """DNS-2: "a private address range (such as 192.168.0.0/16) or a loopback address"."""
    networks = [ip_network(text) for text in (*LOCAL, "127.0.0.0/8", "::1")]
    return tuple(server for server in case.policy.dns if any(server in network for network in networks))


def _of_local_resolver(case: Case) -> tuple[Any, Any]:
    if case.policy.enforced is not State.CONNECTED:
        return z3.BoolVal(False), z3.BoolVal(False)
    servers = _local_resolvers(case)
    asks = z3.And(_at(servers, case.symbols), p.has_ports, p.dport == 53, p.iface_out == _OTHER)
    answers = z3.And(THROUGH, p.reply, _at(servers, case.symbols, source=True), p.has_ports, p.sport == 53)
    return asks, z3.And(answers, p.iface_in == _OTHER)


# ---- properties of one policy: what is bad, given what is accepted ----

Property = Callable[[Case, Any], Any]


def _kill_switch(case: Case, accept: Any) -> Any:
    """KS-1."""
    policy = case.policy
    named = [*_endpoints(case), _on_the_link(), *_of_local_resolver(case)]
    if policy.allow_lan:
        named.append(_to(*LOCAL))
        named.append(_to("224.0.0.0/24", "239.0.0.0/8", "255.255.255.255"))
        named.append(_to("ff01::/16", "ff02::/16", "ff03::/16", "ff04::/16", "ff05::/16"))
        named.append(z3.And(p.proto == UDP, p.has_ports, p.sport == 67, p.dport == 68))
    if policy.platform is Platform.LINUX and policy.enforced is not State.ERROR:
        named.append(z3.And(THROUGH, p.iface_in == _TUNNEL, p.reply))  # FWD-1: what somebody has asked for
    return z3.And(accept, LEAVES, z3.Not(z3.Or(named)))


def _p0(case: Case, accept: Any) -> Any:
    """P-0: of what comes in, too, nothing but what has a name."""
    policy, symbols = case.policy, case.symbols
    if policy.enforced is State.CONNECTED or policy.platform.mobile:
        return z3.BoolVal(False)  # Error and Connecting: here the list is short
    answers = [_answer(h, symbols) for h in (policy.api, policy.first_hop) if h]
    named = [z3.Or(answers), p.iface_in == _LOOPBACK]
    named.append(z3.And(p.proto == UDP, p.has_ports, z3.Or(p.dport == 68, p.dport == 546, p.dport == 67)))
    named.append(z3.And(p.v6, p.proto == ICMPV6, z3.UGE(p.icmp_type, 134), z3.ULE(p.icmp_type, 137)))
    if policy.tunnel and policy.enforced is State.CONNECTING:
        named.append(p.iface_in == _TUNNEL)
    if policy.allow_lan:
        named.append(_NETS.any_of(p, True, [ip_network(n) for n in LOCAL]))
    return z3.And(accept, p.goes(Direction.IN), z3.Not(z3.Or(named)))


def _dns_query(case: Case, accept: Any, *places: Any) -> Any:
    loopback = z3.And(p.goes(Direction.OUT), p.iface_out == _LOOPBACK)
    # The endpoints may listen on port 53, and an answer that is forwarded may go there.
    allowed = z3.Or(*places, loopback, *_endpoints(case), *_of_local_resolver(case))
    return z3.And(accept, DNS_QUERY, z3.Not(allowed))


def _dns1(case: Case, accept: Any) -> Any:
    """DNS-1: in Connected without custom servers, only to a gateway, inside the tunnel."""
    if case.policy.enforced is not State.CONNECTED or case.policy.dns or case.policy.tunnel is None:
        return z3.BoolVal(False)
    return _dns_query(case, accept, z3.And(p.iface_out == _TUNNEL, _at(case.policy.tunnel.gateways, case.symbols)))


def _dns2(case: Case, accept: Any) -> Any:
    """DNS-2: only to custom servers, public ones inside the tunnel, local ones outside it."""
    if case.policy.enforced is not State.CONNECTED or not case.policy.dns:
        return z3.BoolVal(False)
    public = tuple(server for server in case.policy.dns if server not in _local_resolvers(case))
    return _dns_query(case, accept, z3.And(p.iface_out == _TUNNEL, _at(public, case.symbols)))


def _dns3(case: Case, accept: Any) -> Any:
    """DNS-3: in Connecting and Error, none."""
    if case.policy.enforced is State.CONNECTED:
        return z3.BoolVal(False)
    return _dns_query(case, accept)


def _con2(case: Case, accept: Any) -> Any:
    """CON-2: to the first hop outside the tunnel, from nobody but the process that makes the tunnel."""
    hop = case.policy.first_hop
    if hop is None or case.policy.enforced is State.ERROR or case.policy.platform.mobile:
        return z3.BoolVal(False)
    to_hop = z3.And(LEAVES, _endpoint(hop, case.symbols))
    return z3.And(accept, to_hop, z3.Not(z3.Or(*_endpoints(case), _on_the_link())))


def _con1_bridge(case: Case, accept: Any) -> Any:
    """CON-1: with a bridge, nothing goes to the server directly."""
    policy = case.policy
    if policy.bridge is None or policy.peer is None or policy.enforced is State.ERROR or policy.platform.mobile:
        return z3.BoolVal(False)
    direct = z3.And(p.goes(Direction.OUT), p.iface_out == _OTHER, _at((policy.peer.ip,), case.symbols))
    return z3.And(accept, direct, z3.Not(z3.Or(*_endpoints(case), _on_the_link())))


PROPERTIES: dict[str, Property] = {
    "P-0": _p0, "KS-1": _kill_switch, "DNS-1": _dns1, "DNS-2": _dns2, "DNS-3": _dns3, "CON-2": _con2,
    "CON-1": _con1_bridge,
}  # fmt: skip


def scope(enforcer: Enforcer) -> Any:
    """The packets that the properties speak of."""
    if enforcer.name in ("reference", "native"):
        return p.fragment != int(Fragment.LATER)
    whole = p.fragment == int(Fragment.WHOLE)
    if enforcer.name == "nftables":
        return whole
    direct = z3.And(whole, z3.Not(p.goes(Direction.FORWARD)))
    return direct if enforcer.name == "pf" else z3.And(direct, z3.Not(p.reply))


def applies(policy: Policy) -> bool:
    """Whether the policy blocks (MOB-4's documented variant does not)."""
    open_ios = policy.platform is Platform.IOS and policy.enforced is State.ERROR and not policy.ios_blocking
    return policy.blocks and not open_ios and not (policy.platform is Platform.ANDROID and policy.state != "connected")


def check(case: Case, enforcer: Enforcer, artefact: Any) -> tuple[int, Counterexample | None]:
    """All properties at once (how many had something to say), and a packet that breaks one."""
    if not applies(case.policy):
        return 0, None
    accept = encoded(case, enforcer, artefact).accept
    bads = {name: z3.simplify(broken(case, accept)) for name, broken in PROPERTIES.items()}
    bads = {name: bad for name, bad in bads.items() if not z3.is_false(bad)}
    bad = z3.And(scope(enforcer), z3.Or(list(bads.values())))

    def which(model: z3.ModelRef) -> str:
        broken = [name for name, it in bads.items() if z3.is_true(model.eval(it, model_completion=True))]
        return f"must be blocked by {', '.join(broken)}"

    return len(bads), ask(case, enforcer, artefact, bad, "the properties", which)


# ---- relations between two policies ----


def relations(case: Case) -> Iterator[tuple[str, Policy, str]]:
    """(claim, another policy, what must hold): "equal", or how this one may differ from the other."""
    policy = case.policy
    if policy.state is State.DISCONNECTED and policy.always_require_vpn:
        yield "DIS-2", replace(policy, state=State.ERROR, always_require_vpn=False), "equal"
    if policy.state is State.DISCONNECTING and policy.kept and policy.platform is not Platform.ANDROID:
        yield "DSC-1", replace(policy, state=policy.kept, kept=None), "equal"
    if policy.enforced is State.CONNECTED and policy.api:
        yield "API-2", replace(policy, api=None), "equal"
    if policy.allow_lan and policy.blocks:
        yield "DNS before LAN", replace(policy, allow_lan=False), "no more DNS"
    if policy.state is State.CONNECTED and policy.platform is not Platform.ANDROID:  # there MOB-2 blocks it all
        # Without the API, which Connecting would let out as well: so this says more.
        yield "KS-1 on connecting", replace(policy, state=State.CONNECTING, api=None), "no more outside"


def relate(
    case: Case, enforcer: Enforcer, artefact: Any, other: Policy, kind: str, claim: str
) -> Counterexample | None:
    """A packet that breaks a relation to another policy."""
    here = encoded(case, enforcer, artefact)
    there = encoded(Case(other, case.symbols), enforcer, enforcer.make(other))
    if kind == "equal":
        bad = z3.Or(here.accept != there.accept, here.reject != there.reject)
    elif kind == "no more DNS":
        bad = z3.And(scope(enforcer), DNS_QUERY, here.accept, z3.Not(there.accept))
        if enforcer.name == "nftables":
            bad = z3.And(bad, z3.Not(tunnel_address(case)))
    else:
        opened = z3.And(scope(enforcer), LEAVES, here.accept, z3.Not(there.accept))
        bad = z3.And(opened, z3.Not(z3.Or(*_of_local_resolver(case))))
    return ask(case, enforcer, artefact, bad, claim, lambda model: f"{kind} than {other.describe()}")
