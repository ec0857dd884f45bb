"""Profiles: whose VPN service is modelled, and what that one cannot block. Plain values.

Every profile runs here, on Linux: the packets, the TUN and the verdicts are the real ones, the profile decides the
rules. `android` and `ios` follow the security document's mobile section (MOB-1 to MOB-4).
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.policy import Platform


@dataclass(frozen=True)
class Gap:
    """One kind of traffic that a profile does not block, and why; the id is the document's or known-issues.md's.

    `closed`: the firewall mode blocks it.
    """

    id: str
    text: str
    closed: bool = False


@dataclass(frozen=True)
class Profile:
    """Whose rules are in force. `ios_blocking` as in `Policy`."""

    name: str
    summary: str
    platform: Platform
    ios_blocking: bool
    cannot_block: tuple[Gap, ...]

    def gaps(self, *, firewall: bool) -> tuple[Gap, ...]:
        """What is not blocked without the firewall, or with it."""
        if not firewall:
            return self.cannot_block
        return (*(gap for gap in self.cannot_block if not gap.closed), *_FIREWALL_GAPS)


_LINUX_GAPS = (
    Gap(
        "LNX-1",
        "IPv4 sockets bound to a network device (SO_BINDTODEVICE, IP_PKTINFO): Linux takes the destination for a "
        "neighbour on that link, so hosts on the LAN can be reached",
        closed=True,
    ),
    Gap(
        "LNX-2",
        "processes with CAP_NET_ADMIN that mark their packets as the engine's own, and packet sockets",
        closed=True,  # but for what NFT-1 and NFT-2 say
    ),
    Gap(
        "LNX-3",
        "IPv6 multicast, and broadcast to the address of a subnet: the kernel's local table comes first",
        closed=True,
    ),
    Gap("LNX-4", "incoming packets on other interfaces (the answers to them are blocked)", closed=True),
)
_FIREWALL_GAPS = (
    Gap("NFT-1", "packet sockets (CAP_NET_RAW): they write frames past the firewall, as DHCP clients do"),
    Gap(
        "NFT-2",
        "processes with CAP_NET_ADMIN: they can mark packets as the engine's own, which then reach the VPN server's "
        "port and nothing else, and they can remove the firewall's table, which is then loaded again",
    ),
)
_EXEMPT = Gap(
    "MOB-3",
    "what Android exempts from every VPN: connectivity checks (DNS and HTTP(S)) and network time (NTP), even with "
    '"block connections without VPN"; it never reaches the TUN',
)
_INCOMING = Gap("MOB-2", "in the blocking states incoming packets are still delivered")

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            "linux",
            "the full rule set at the TUN, routes by mark and table; with --firewall also in nftables",
            Platform.LINUX,
            False,
            _LINUX_GAPS,
        ),
        Profile(
            "android",
            "Android's VpnService (MOB-1 to MOB-3): in blocking states everything outgoing is dropped",
            Platform.ANDROID,
            False,
            (_INCOMING, _EXEMPT),
        ),
        Profile(
            "ios",
            "iOS as the document has it (MOB-4): the blocked state does not block",
            Platform.IOS,
            False,
            (Gap("MOB-4", "everything, in the Error state: the documented version does not block there"),),
        ),
        Profile(
            "ios-blocking",
            "iOS with the blocked state that blocks (MOB-4)",
            Platform.IOS,
            True,
            (
                Gap(
                    "MOB-1", "what iOS itself sends past a packet tunnel (its own services, unless all apps are forced)"
                ),
            ),
        ),
    )
}
