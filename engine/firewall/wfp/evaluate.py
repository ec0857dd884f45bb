"""WFP's documented arbitration for a `FilterSet`: a judge of flows. It knows nothing of `Policy`.

* A flow going out is judged at AUTH_CONNECT, one coming in at AUTH_RECV_ACCEPT, of its IP version; a forwarded packet
  at IPFORWARD.
* Sublayers are asked in falling weight. In each, the matching filter of the greatest weight decides (permit and block
  both end the search there); a sublayer without a match says nothing.
* A block is final, whatever another sublayer permits. Without any block the flow is permitted: also when no filter
  matches at all, which is why P-0 must be a filter.
* Conditions on one field are alternatives, fields are all required.
* What belongs to an authorized flow is not judged again, in either direction.

This is a model: no real filter engine has taken the set (docs/known-issues.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from engine.firewall.packet import Packet
from engine.firewall.wfp.constants import Action, Field, Layer, Match
from engine.firewall.wfp.filters import Condition, Filter, FilterSet
from engine.policy import App, Direction, Interface, IPAddress

_LAYERS = {
    (Direction.OUT, 4): Layer.CONNECT_V4,
    (Direction.OUT, 6): Layer.CONNECT_V6,
    (Direction.IN, 4): Layer.ACCEPT_V4,
    (Direction.IN, 6): Layer.ACCEPT_V6,
    (Direction.FORWARD, 4): Layer.FORWARD_V4,
    (Direction.FORWARD, 6): Layer.FORWARD_V6,
}


def judge(filter_set: FilterSet, packet: Packet, tunnel: str | None) -> tuple[Action, str | None]:
    """What becomes of a packet, and the claim of the filter that says so (None: no filter matched).

    `tunnel` is the name of the interface that the packet's TUNNEL stands for.
    """
    if packet.reply and packet.direction is not Direction.FORWARD:
        action, rule = _arbitrate(filter_set, packet.first_of_flow(), tunnel)
        if action is Action.PERMIT:
            return action, rule
    return _arbitrate(filter_set, packet, tunnel)


def _arbitrate(filter_set: FilterSet, packet: Packet, tunnel: str | None) -> tuple[Action, str | None]:
    permitted: str | None = None
    for sublayer in sorted(filter_set.sublayers, key=lambda s: -s.weight):
        decides = deciding((f for f in filter_set.filters if f.sublayer == sublayer.key), packet, tunnel)
        if decides is not None and decides.action is Action.BLOCK:
            return Action.BLOCK, decides.rule
        if decides is not None:
            permitted = decides.rule  # the last sublayer with a say is the most particular one
    return Action.PERMIT, permitted


def deciding(filters: Iterable[Filter], packet: Packet, tunnel: str | None) -> Filter | None:
    """The matching filter of the greatest weight among those of one sublayer."""
    matching = [
        f for f in filters if f.layer is _LAYERS[packet.direction, packet.version] and _matches(f, packet, tunnel)
    ]
    return max(matching, key=lambda f: f.weight, default=None)


def _matches(candidate: Filter, packet: Packet, tunnel: str | None) -> bool:
    fields: dict[Field, bool] = {}
    for condition in candidate.conditions:
        holds = _holds(condition, packet, tunnel)
        fields[condition.field] = fields.get(condition.field, False) or holds
    return all(fields.values())


def _holds(condition: Condition, packet: Packet, tunnel: str | None) -> bool:
    out = packet.direction is Direction.OUT
    local, remote = (packet.source, packet.destination) if out else (packet.destination, packet.source)
    ports = (packet.source_port, packet.destination_port)
    local_port, remote_port = packet.icmp or (ports if out else ports[::-1])
    value = condition.value
    match condition.field:
        case Field.LOCAL_ADDRESS:
            return _within(local, value)
        case Field.REMOTE_ADDRESS:
            return _within(remote, value)
        case Field.LOCAL_PORT:
            return local_port == value
        case Field.REMOTE_PORT:
            return remote_port == value
        case Field.PROTOCOL:
            return packet.protocol == value
        case Field.FLAGS:
            assert condition.match is Match.FLAGS_ALL_SET
            return packet.interface is Interface.LOOPBACK
        case Field.INTERFACE:
            named = packet.interface is Interface.TUNNEL and value == tunnel
            return named != (condition.match is Match.NOT_EQUAL)
        case Field.APP_ID:
            assert isinstance(value, App)
            return packet.any_sender or packet.app is value


def _within(address: IPAddress, value: object) -> bool:
    assert isinstance(value, IPv4Network | IPv6Network)
    return address in value
