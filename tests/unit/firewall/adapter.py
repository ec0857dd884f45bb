"""From packet facts to what the evaluators of PF and WFP take."""

from __future__ import annotations

from engine.firewall.packet import Packet
from engine.policy import App, Direction, Interface
from native import facts as native


def packet_of(facts: native.Facts) -> Packet:
    forward = facts.direction is native.Direction.FORWARD
    side = facts.iface_out if facts.direction is native.Direction.OUT else facts.iface_in
    return Packet(
        Direction[facts.direction.name], Interface[side.name], facts.proto, facts.src, facts.dst,
        facts.sport, facts.dport,
        None if facts.icmp_type is None or facts.icmp_code is None else (facts.icmp_type, facts.icmp_code),
        facts.uid, App[facts.app.name], reply=facts.reply,
        other_side=Interface[facts.iface_out.name] if forward else None,
    )  # fmt: skip
