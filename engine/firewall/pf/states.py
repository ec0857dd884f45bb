"""Which of PF's states survive a change of policy: those whose packets the new rules would let through.

A state outlives the rule that made it, so after every change the others are killed: else an old connection would
go on past the new policy. PF does not tell who owns a state, so the sender's conditions (user root) are taken as met.

`pfctl -s states` lists one state a line, `ALL tcp 192.0.2.5:50000 -> 198.51.100.7:443 ESTABLISHED:ESTABLISHED`;
IPv6 ports stand in brackets; `<-` is a state made by an incoming packet. What stands in between in parentheses is the
address before translation. A line that cannot be read is a state that nobody can vouch for: it does not survive.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from engine.firewall.packet import Packet
from engine.firewall.pf.evaluate import Outcome, PfRule, judge
from engine.policy import Direction, Interface, IPAddress
from engine.policy.nets import ICMPV6, TCP, UDP

_LINE = re.compile(
    r"(?P<interface>\S+) (?P<protocol>\S+) (?P<ours>\S+)(?: \(\S+\))? (?P<way>->|<-) (?P<theirs>\S+)(?: \(\S+\))?\s+\S+"
)
_PROTOCOLS = {"tcp": TCP, "udp": UDP, "icmp": 1, "icmp6": ICMPV6, "ipv6-icmp": ICMPV6}


@dataclass(frozen=True)
class PfState:
    """One state: made by a packet of `direction`; `ours` and `theirs` are its local and remote ends."""

    direction: Direction
    interface: str
    protocol: int
    ours: IPAddress
    our_port: int | None
    theirs: IPAddress
    their_port: int | None


def parse_states(listing: str) -> list[PfState | str]:
    """The output of `pfctl -s states`; a line that cannot be read is given back as it is."""
    return [_parse(line) for line in listing.splitlines() if line.strip()]


def survives(state: PfState, rules: Sequence[PfRule], tunnel: str | None, local: Iterable[IPAddress]) -> bool:
    """Whether the new rules would let the state's first packet through. `local`: the tunnel's own addresses.

    PF's states float between interfaces (the interface reads ALL): then the local end tells what is in the tunnel.
    """
    if state.interface == tunnel or (state.interface == "ALL" and state.ours in set(local)):
        interface = Interface.TUNNEL
    elif state.interface == "lo0" or (state.ours.is_loopback and state.theirs.is_loopback):
        interface = Interface.LOOPBACK
    else:
        interface = Interface.OTHER
    packet = Packet(
        state.direction, interface, state.protocol, state.ours, state.theirs, state.our_port, state.their_port,
        any_sender=True,
    )  # fmt: skip
    if state.direction is Direction.IN:
        packet = Packet(
            state.direction, interface, state.protocol, state.theirs, state.ours, state.their_port, state.our_port,
            any_sender=True,
        )  # fmt: skip
    return judge(rules, packet, tunnel)[0] is Outcome.PASS


def _parse(line: str) -> PfState | str:
    found = _LINE.fullmatch(line.strip())
    if found is None:
        return line
    protocol = _PROTOCOLS.get(found["protocol"])
    ours, theirs = _end(found["ours"]), _end(found["theirs"])
    if protocol is None or ours is None or theirs is None or ours[0].version != theirs[0].version:
        return line
    direction = Direction.OUT if found["way"] == "->" else Direction.IN
    return PfState(direction, found["interface"], protocol, *ours, *theirs)


def _end(text: str) -> tuple[IPAddress, int | None] | None:
    six = re.fullmatch(r"([0-9a-f:.]+)(?:%\w+)?(?:\[(\d+)\])?", text)
    four = re.fullmatch(r"(\d+\.\d+\.\d+\.\d+)(?::(\d+))?", text)
    found = four or six
    if found is None:
        return None
    try:
        return ip_address(found[1]), None if found[2] is None else int(found[2])
    except ValueError:
        return None
