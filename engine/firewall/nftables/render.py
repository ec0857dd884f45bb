"""`render`: a policy as one JSON document in nft's grammar; `encode` makes of it what the kernel takes (ATOM-1).

The document adds our table, deletes it and builds it anew, so it works whether or not the table was there, and
touches no other table. Chains, all at filter priority 0 with policy drop unless said otherwise:

* `prerouting` (priority -199, just after conntrack; accept): asks for connection tracking in every state, since
  conntrack makes the kernel put fragments together before any chain sees them; gives the first hop's answers the
  tunnel's mark, so that a strict reverse-path filter looks them up where they belong (with src_valid_mark).
* `output`, `input`, `forward`: the rules of `rules_for`, in their order, each as one nft rule per address family and
  side. The comment of each is the id of the claim. What a rule drops or rejects is counted, by chain and id: the
  counter `output/P-0` is that of all rules of P-0 in `output`.

What is added to the rules of `rules_for`, both stricter than they are (engine.firewall.assumptions):

* a packet that is still in pieces (a raw socket with IP_NODEFRAG can send one) is dropped, comment `fragment`;
* a packet to the tunnel's own address that arrives outside the tunnel is dropped before LAN-1 could let it in,
  comment `CVE-2019-14899`: a neighbour could find the address by probing, and then see connections.

Grammar of the output, for whoever reads it back: matches are `meta` (nfproto, l4proto, mark, skuid, iifname, oifname,
iiftype, oiftype), `payload` (ip/ip6 saddr/daddr, ip frag-off, th sport/dport, icmpv6 type/code), `exthdr` frag and `ct`
(state, direction), with op `==`, `!=` or `in`; the right side is a value, a prefix or a set of those. Statements are
accept, drop, reject, counter and `mangle` of the mark. A rule without a verdict goes on to the next.

References: libnftables-json(5), nft(8).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.firewall.networks import of_version
from engine.policy import MARK, Direction, Interface, IPNetwork, Platform, Policy, Rule, rules_for
from engine.policy.nets import TCP, UDP, host

FAMILY = "inet"
TABLE = "molehill"

Json = dict[str, Any]

# The chain of each direction, and the direction of the interface a rule of that direction speaks of.
_CHAINS = ((Direction.OUT, "output"), (Direction.IN, "input"))
_INTERFACE_KEY = {Direction.OUT: "o", Direction.IN: "i"}
_CONNTRACK_DONE = -199  # NF_IP_PRI_CONNTRACK + 1


def render(policy: Policy) -> Json:
    """The document that puts `policy` in force.

    Disconnected removes the table (DIS-1). Raises ValueError for a policy of another platform, and for a tunnel whose
    name nft cannot say.
    """
    if policy.platform is not Platform.LINUX:
        raise ValueError(f"nftables is the firewall of Linux, this policy is for {policy.platform}")
    if not policy.blocks:
        return reset()
    commands: list[Json] = [*_remove(), {"add": {"table": {"family": FAMILY, "name": TABLE}}}]
    commands.append(_chain("prerouting", _CONNTRACK_DONE, "accept"))
    commands += [_chain(name, 0, "drop") for name in ("output", "input", "forward")]
    rules = list(_rules(policy))
    counters = {_counter(chain, comment): None for chain, comment, expr in rules if _blocks(expr)}
    commands += [{"add": {"counter": {"family": FAMILY, "table": TABLE, "name": name}}} for name in counters]
    commands += [_rule(chain, comment, expr) for chain, comment, expr in rules]
    return _document(commands)


def reset() -> Json:
    """The document that removes our table and nothing else, whether or not it is there."""
    return _document(_remove())


def _document(commands: list[Json]) -> Json:
    return {"nftables": [{"metainfo": {"json_schema_version": 1}}, *commands]}


def _remove() -> list[Json]:
    table = {"family": FAMILY, "name": TABLE}
    return [{"add": {"table": table}}, {"delete": {"table": table}}]


def _chain(name: str, priority: int, policy: str) -> Json:
    chain = {"family": FAMILY, "table": TABLE, "name": name, "type": "filter", "hook": name}
    return {"add": {"chain": {**chain, "prio": priority, "policy": policy}}}


def _rule(chain: str, comment: str, expr: list[Json]) -> Json:
    if _blocks(expr):  # it is counted before the verdict, which ends the rule
        expr = [*expr[:-1], {"counter": _counter(chain, comment)}, expr[-1]]
    rule = {"family": FAMILY, "table": TABLE, "chain": chain, "comment": comment, "expr": expr}
    return {"add": {"rule": rule}}


def _blocks(expr: list[Json]) -> bool:
    return "drop" in expr[-1] or "reject" in expr[-1]


def _counter(chain: str, comment: str) -> str:
    return f"{chain}/{comment}"


def _rules(policy: Policy) -> Iterator[tuple[str, str, list[Json]]]:
    """(chain, comment, expressions) of each nft rule, in order."""
    tunnel = policy.tunnel.name if policy.tunnel else None
    yield "prerouting", "reassemble", [_in({"ct": {"key": "state"}}, ["established", "related", "new"])]
    rules = rules_for(policy)
    for rule in rules:
        if rule.reply and rule.id in ("CON-1", "CTD-3"):
            for expr in _matches(rule, Direction.IN, tunnel):
                mark = {"mangle": {"key": {"meta": {"key": "mark"}}, "value": MARK}}
                yield "prerouting", rule.id, [*expr, mark]
    pieces, guard = list(_still_in_pieces()), _guard_tunnel_address(policy)
    for rule in rules:
        if rule.id != "LO-1":  # loopback first: a process may send itself what it likes
            yield from pieces
            pieces = []
        if rule.id.startswith("LAN-"):
            yield from guard
            guard = []
        for direction, chain in _CHAINS:
            if direction in rule.directions:
                for expr in _matches(rule, direction, tunnel):
                    for verdict in _verdicts(rule, chain):
                        yield chain, rule.id, [*expr, *verdict]
        if rule.forward:
            for expr in _forwarded(rule, tunnel):
                for verdict in _verdicts(rule, "forward"):
                    yield "forward", rule.id, [*expr, *verdict]


def _still_in_pieces() -> Iterator[tuple[str, str, list[Json]]]:
    ip = [_version(4), _match("!=", {"&": [{"payload": {"protocol": "ip", "field": "frag-off"}}, 0x3FFF]}, 0)]
    ip6 = [
        [_version(6), _match("!=", {"exthdr": {"name": "frag", "field": "frag-off"}}, 0)],
        [_version(6), _match("==", {"exthdr": {"name": "frag", "field": "more-fragments"}}, 1)],
    ]
    for chain in ("output", "input", "forward"):
        for matches in (ip, *ip6):
            yield chain, "fragment", [*matches, {"drop": None}]


def _guard_tunnel_address(policy: Policy) -> list[tuple[str, str, list[Json]]]:
    if policy.tunnel is None:
        return []
    outside = _interface((Interface.OTHER,), Direction.IN, policy.tunnel.name)
    addresses = tuple(host(address) for address in policy.tunnel.addresses)
    return [
        ("input", "CVE-2019-14899", [*outside[0], _version(version), _address("daddr", version, nets), {"drop": None}])
        for version in (4, 6)
        if (nets := of_version(addresses, version))
    ]


def _verdicts(rule: Rule, chain: str) -> list[list[Json]]:
    """The end of a rule: one statement, or two for a rejection, which answers TCP in its own way."""
    if rule.accept:
        return [[{"accept": None}]]
    if not rule.reject or chain == "input":
        return [[{"drop": None}]]
    reset: list[Json] = [{"reject": {"type": "tcp reset"}}]
    unreachable: list[Json] = [{"reject": {"type": "icmpx", "expr": "port-unreachable"}}]
    if rule.protocols == (TCP,):
        return [reset]
    if rule.protocols and TCP not in rule.protocols:
        return [unreachable]
    return [[_match("==", _meta("l4proto"), TCP), *reset], unreachable]


def _forwarded(rule: Rule, tunnel: str | None) -> list[list[Json]]:
    """The matches of a rule in the forward chain: a packet there has both sides, each of which may match."""
    variants: list[list[Json]] = []
    for direction in rule.directions:
        variants += [expr for expr in _matches(rule, direction, tunnel) if expr not in variants]
    return variants


def _matches(rule: Rule, direction: Direction, tunnel: str | None) -> list[list[Json]]:
    """A rule's conditions as lists of nft matches, one list for each way to fulfil them (family, interface)."""
    if rule.apps:
        raise ValueError(f"{rule.id}: nftables cannot tell executables apart")
    sender = []
    if rule.mark is not None:
        sender.append(_match("==", _meta("mark"), rule.mark))
    if rule.uid is not None:
        sender.append(_match("==", _meta("skuid"), rule.uid))
    reply = []
    if rule.reply:
        reply.append(_in({"ct": {"key": "state"}}, "established"))
        reply.append(_match("==", {"ct": {"key": "direction"}}, "reply"))
    return [
        [*interface, *headers, *sender, *reply]
        for interface in _interface(rule.interfaces, direction, tunnel)
        for headers in _headers(rule)
    ]


def _interface(interfaces: tuple[Interface, ...], direction: Direction, tunnel: str | None) -> list[list[Json]]:
    """By name, so that a tunnel device that was made anew is the tunnel still; without a tunnel no packet is in it."""
    side = _INTERFACE_KEY[direction]
    name, kind = _meta(f"{side}ifname"), _meta(f"{side}iftype")
    if not interfaces:
        return [[]]
    ways: list[list[Json]] = []
    for interface in interfaces:
        if interface is Interface.LOOPBACK:
            ways.append([_match("==", kind, "loopback")])
        elif interface is Interface.TUNNEL and tunnel is not None:
            ways.append([_match("==", name, _literal(tunnel))])
        elif interface is Interface.OTHER:
            ways.append([_match("!=", kind, "loopback")])
            if tunnel is not None:
                ways[-1].append(_match("!=", name, _literal(tunnel)))
    return ways


def _literal(name: str) -> str:
    """An interface name for nft, where a star at the end would match every name that begins so.

    ValueError: nft has no way to say this one (`@x` is a set, an escaped star makes the longest name too long).
    """
    literal = f"{name[:-1]}\\*" if name.endswith("*") else name
    if name.startswith("@") or len(literal.encode()) > 15:
        raise ValueError(f"nftables cannot speak of an interface named {name!r}")
    return literal


def _headers(rule: Rule) -> list[list[Json]]:
    """The header conditions, once per IP version that can fulfil them."""
    if not rule.sources and not rule.destinations:
        family = [] if rule.version is None else [_version(rule.version)]
        return [[*family, *_transport(rule)]]
    ways: list[list[Json]] = []
    for version in (4, 6) if rule.version is None else (rule.version,):
        sources, destinations = of_version(rule.sources, version), of_version(rule.destinations, version)
        if bool(sources) != bool(rule.sources) or bool(destinations) != bool(rule.destinations):
            continue  # a condition that no packet of this version fulfils
        way = [_version(version)]
        if sources:
            way.append(_address("saddr", version, sources))
        if destinations:
            way.append(_address("daddr", version, destinations))
        ways.append([*way, *_transport(rule)])
    return ways


def _version(version: int) -> Json:
    return _match("==", _meta("nfproto"), f"ipv{version}")


def _transport(rule: Rule) -> list[Json]:
    matches = []
    ports = rule.source_port is not None or rule.destination_port is not None
    protocols = rule.protocols or ((TCP, UDP) if ports else ())
    if protocols:
        matches.append(_match("==", _meta("l4proto"), _one_or_set(list(protocols))))
    if rule.source_port is not None:
        matches.append(_match("==", {"payload": {"protocol": "th", "field": "sport"}}, rule.source_port))
    if rule.destination_port is not None:
        matches.append(_match("==", {"payload": {"protocol": "th", "field": "dport"}}, rule.destination_port))
    if rule.icmp is not None:
        for field, value in zip(("type", "code"), rule.icmp, strict=True):
            matches.append(_match("==", {"payload": {"protocol": "icmpv6", "field": field}}, value))
    return matches


def _address(field: str, version: int, networks: list[IPNetwork]) -> Json:
    right = _one_or_set([_network(network) for network in networks])
    return _match("==", {"payload": {"protocol": "ip" if version == 4 else "ip6", "field": field}}, right)


def _network(network: IPNetwork) -> str | Json:
    if network.prefixlen == network.max_prefixlen:
        return str(network.network_address)
    return {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}


def _one_or_set(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else {"set": values}


def _meta(key: str) -> Json:
    return {"meta": {"key": key}}


def _match(op: str, left: Json, right: Any) -> Json:
    return {"match": {"op": op, "left": left, "right": right}}


def _in(left: Json, right: Any) -> Json:
    return _match("in", left, right)
