"""The WFP filter set as a formula, by the documented arbitration. It knows no `Policy`.

In each sublayer the matching filter of the greatest weight decides; a block in any sublayer is final; without a block
the flow passes. Conditions on one field are alternatives, fields are all required. What answers an authorized flow
belongs to it.
"""

from __future__ import annotations

from functools import cache
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import z3

from engine.firewall.wfp.constants import Action, Field, Layer, Match
from engine.firewall.wfp.filters import Condition, FilterSet
from engine.policy import App
from native.facts import Direction, Interface
from tests.proofs.packet import Packet, Symbols, Verdict

_LAYERS = {
    Layer.CONNECT_V4: (Direction.OUT, 4), Layer.CONNECT_V6: (Direction.OUT, 6),
    Layer.ACCEPT_V4: (Direction.IN, 4), Layer.ACCEPT_V6: (Direction.IN, 6),
    Layer.FORWARD_V4: (Direction.FORWARD, 4), Layer.FORWARD_V6: (Direction.FORWARD, 6),
}  # fmt: skip
_APPS = {App.UNKNOWN: 0, App.SERVICE: 1, App.PROBLEM_REPORT: 2}


def wfp(filters: FilterSet, packet: Packet, symbols: Symbols, tunnel: str | None) -> Verdict:
    """What the filter engine does with the packet, or with the first packet of its flow."""
    answers = z3.And(packet.reply, z3.Not(packet.goes(Direction.FORWARD)))
    flow = _arbitrate(filters, packet.first_of_flow(), symbols, tunnel)
    accept = z3.Or(z3.And(answers, flow), _arbitrate(filters, packet, symbols, tunnel))
    return Verdict(accept, z3.BoolVal(False))


def _arbitrate(filters: FilterSet, packet: Packet, symbols: Symbols, tunnel: str | None) -> Any:
    blocked = []
    for sublayer in filters.sublayers:
        decides: Any = z3.BoolVal(False)  # blocks
        mine = [f for f in filters.filters if f.sublayer == sublayer.key]
        for candidate in sorted(mine, key=lambda f: f.weight):
            matches = _matches(candidate.layer, candidate.conditions, packet, symbols, tunnel)
            decides = z3.If(matches, z3.BoolVal(candidate.action is Action.BLOCK), decides)
        blocked.append(decides)
    return z3.Not(z3.Or(blocked)) if blocked else z3.BoolVal(True)


@cache
def _matches(layer: Layer, conditions: tuple[Condition, ...], p: Packet, symbols: Symbols, tunnel: str | None) -> Any:
    direction, version = _LAYERS[layer]
    fields: dict[Field, list[Any]] = {}
    for condition in conditions:
        holds = _holds(condition, p, direction, symbols, tunnel)
        fields.setdefault(condition.field, []).append(holds)
    return z3.And(p.goes(direction), p.version(version), *(z3.Or(terms) for terms in fields.values()))


def _holds(condition: Condition, p: Packet, direction: Direction, symbols: Symbols, tunnel: str | None) -> Any:
    out = direction is Direction.OUT
    value, field = condition.value, condition.field
    if field in (Field.LOCAL_ADDRESS, Field.REMOTE_ADDRESS):
        assert isinstance(value, IPv4Network | IPv6Network)
        assert condition.match is Match.EQUAL
        return symbols.any_of(p, (field is Field.LOCAL_ADDRESS) == out, [value])
    if field in (Field.LOCAL_PORT, Field.REMOTE_PORT):
        assert isinstance(value, int)
        local = field is Field.LOCAL_PORT
        port = p.sport if local == out else p.dport
        icmp = p.icmp_type if local else p.icmp_code
        as_icmp = icmp == value if value < 256 else z3.BoolVal(False)
        return z3.Or(z3.And(p.has_ports, port == symbols.port(value)), z3.And(p.has_icmp, as_icmp))
    if field is Field.PROTOCOL:
        return p.proto == value
    if field is Field.FLAGS:
        assert (condition.match, value) == (Match.FLAGS_ALL_SET, 1)
        return (p.iface_out if out else p.iface_in) == int(Interface.LOOPBACK)
    if field is Field.INTERFACE:
        face = p.iface_out if out else p.iface_in
        named = z3.And(z3.BoolVal(tunnel is not None and value == tunnel), face == int(Interface.TUNNEL))
        return z3.Not(named) if condition.match is Match.NOT_EQUAL else named
    assert field is Field.APP_ID
    assert isinstance(value, App)
    return p.sent_by(p.app == _APPS[value])
