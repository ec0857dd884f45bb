"""Where a platform's firewall cannot say what the policy says, or we make it say more. Proofs and docs cite these.

Each is one named difference between `rules_for` and a rendered artefact; there is no other one. `stricter`: the
firewall blocks what the policy would permit; otherwise it may let through what the policy blocks, and the text says why
that is bearable.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """One difference: its name, where it holds, whether it errs on the safe side, and what it is, in one sentence."""

    name: str
    backends: tuple[str, ...]
    stricter: bool
    what: str


TUNNEL_ADDRESS = Difference(
    "tunnel-address",
    ("nftables",),
    True,
    "A packet to the tunnel's own address that comes in outside the tunnel is dropped although LAN-1 would let it in "
    "(CVE-2019-14899).",
)
REASSEMBLED = Difference(
    "reassembled",
    ("nftables", "pf"),
    True,
    "Packets are judged after the kernel has put their fragments together: a datagram passes whole or not at all; "
    "under nftables a packet that is still in pieces (IP_NODEFRAG) is dropped.",
)
MALFORMED = Difference(
    "malformed",
    ("nftables", "pf", "wfp"),
    False,
    "A packet with contradictory or cut-off headers is dropped by the packet filter as malformed; a firewall judges "
    "what it can read of it, a rule whose field is missing does not match, and no port, mark or owner is ever guessed.",
)
FORWARD_TWICE = Difference(
    "forward-twice",
    ("pf",),
    False,
    "PF judges a forwarded packet as incoming at one interface and outgoing at the other, and it passes if both let "
    "it; the policy permits forwarding on Linux alone. Both rules are the policy's, so nothing leaves that this "
    "machine itself might not send.",
)
FLOWS = Difference(
    "flows",
    ("pf", "wfp"),
    False,
    "WFP judges the first packet of a flow and PF the first packet of one with `keep state` (of TCP the SYN); the "
    "others pass with it, both ways, and so do ICMP errors about it. Under PF only flows to the first hop, the API and "
    "a local DNS server are kept; under WFP every flow is, so an answer may go out to whoever a rule let in.",
)
NO_FRAGMENTS = Difference(
    "no-fragments",
    ("wfp",),
    True,
    "The ALE layers see flows, never fragments: what cannot be put together belongs to no flow.",
)
FORWARD_BLOCKED = Difference(
    "forward-blocked",
    ("wfp",),
    True,
    "Forwarded packets never reach the ALE layers; two filters at IPFORWARD block all of them, without an answer.",
)
NO_ANSWER = Difference(
    "no-answer",
    ("wfp",),
    True,
    "A blocked flow gives the application an error, never a packet, so reject and drop are one.",
)
SENDERS = Difference(
    "senders",
    ("nftables", "pf", "wfp"),
    False,
    "Who sent a packet is known by what the platform has: the mark and the user id on Linux, the user id on macOS, the "
    "executable on Windows; a packet of the kernel itself has no owner and matches none of them.",
)

DIFFERENCES = (
    TUNNEL_ADDRESS,
    REASSEMBLED,
    MALFORMED,
    FORWARD_TWICE,
    FLOWS,
    NO_FRAGMENTS,
    FORWARD_BLOCKED,
    NO_ANSWER,
    SENDERS,
)
