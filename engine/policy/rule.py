"""`Rule`: one line of the policy's table, for people, compiler, firewall renderers and solver.

A rule is a conjunction: a packet matches when every condition that is present holds. An absent condition
(None, an empty tuple) holds for every packet. The first rule that matches gives the verdict.

**Forwarded packets (FWD-1).** `directions` says as what a packet is looked at: outgoing, by the interface it
leaves through, or incoming, by the interface it came in by. A forwarded packet is both: it matches a rule
with `forward` set if it matches in one of the rule's directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from engine.policy.nets import ICMPV6, IPNetwork


class Direction(StrEnum):
    """Which way a packet passes this machine."""

    OUT = "out"
    IN = "in"
    FORWARD = "forward"


class Interface(StrEnum):
    """What a packet's interface is to the policy."""

    LOOPBACK = "loopback"
    TUNNEL = "tunnel"
    OTHER = "other"


class App(StrEnum):
    """Which of our executables owns a packet, where the platform knows it (Windows)."""

    UNKNOWN = "unknown"
    SERVICE = "service"
    PROBLEM_REPORT = "problem-report"


@dataclass(frozen=True)
class Rule:
    """One rule.

    * `id`: the claim of the security policy; several rules may carry one claim.
    * `what`: the rule in words.
    * `accept`: let it pass, or block. `reject`: answer a blocked packet of direction `out` or `forward` (ICMP
      unreachable, TCP RST); a blocked incoming packet always vanishes silently.
    * `directions`: OUT and/or IN; `forward`: whether it judges forwarded packets as well.
    * `interfaces`: of the interface on the rule's side of the packet.
    * `version`, `protocols`, `sources`, `destinations`, `source_port`, `destination_port`: what the headers
      say. A port matches only a packet that shows its ports (TCP, UDP; not a later fragment).
    * `icmp`: (type, code), matches only a packet that shows them.
    * `mark`, `uid`, `apps`: who sent it; an unknown owner matches no `uid`.
    * `reply`: only a packet that answers a flow we allowed.
    """

    id: str
    what: str
    accept: bool
    reject: bool = False
    directions: tuple[Direction, ...] = (Direction.OUT, Direction.IN)
    forward: bool = False
    interfaces: tuple[Interface, ...] = ()
    version: int | None = None
    protocols: tuple[int, ...] = ()
    sources: tuple[IPNetwork, ...] = ()
    destinations: tuple[IPNetwork, ...] = ()
    source_port: int | None = None
    destination_port: int | None = None
    icmp: tuple[int, int] | None = None
    mark: int | None = None
    uid: int | None = None
    apps: tuple[App, ...] = ()
    reply: bool = False

    def __post_init__(self) -> None:
        if not self.directions or Direction.FORWARD in self.directions:
            raise ValueError(f"{self.id}: directions are out and/or in; forwarding is said by `forward`")
        if self.accept and self.reject:
            raise ValueError(f"{self.id}: only a blocking rule can reject")
        if self.icmp is not None and self.protocols != (ICMPV6,):
            raise ValueError(f"{self.id}: an ICMP type needs protocol ICMPv6")
