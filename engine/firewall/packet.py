"""`Packet`: what PF's and WFP's evaluators may know of a packet. Plain facts, no bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.policy import App, Direction, Interface, IPAddress


@dataclass(frozen=True)
class Packet:
    """One packet, or the first packet of a flow, at one interface.

    * `direction`: OUT or IN; a forwarded packet is FORWARD, with its two interfaces.
    * `interface`: of the side it is judged on; `other_side`: where a forwarded packet leaves.
    * `uid`, None: unknown; `any_sender`: whoever was allowed to send (a flow that is there already).
    * `reply`: belongs to a flow that was let in or out by its first packet, and goes the other way.
    """

    direction: Direction
    interface: Interface
    protocol: int
    source: IPAddress
    destination: IPAddress
    source_port: int | None = None
    destination_port: int | None = None
    icmp: tuple[int, int] | None = None
    uid: int | None = None
    app: App = App.UNKNOWN
    any_sender: bool = False
    reply: bool = False
    other_side: Interface | None = None

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.source.version

    def first_of_flow(self) -> Packet:
        """The packet that this one answers: ends and direction swapped, sent by whoever was allowed to."""
        opposite = Direction.IN if self.direction is Direction.OUT else Direction.OUT
        return replace(
            self, direction=opposite, source=self.destination, destination=self.source,
            source_port=self.destination_port, destination_port=self.source_port, any_sender=True, reply=False,
        )  # fmt: skip
