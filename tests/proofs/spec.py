"""The specification: what the security document says, sentence by sentence, as formulas over the symbolic packet.

Written from the document (and, where it leaves room, from the decisions in docs/policy.md), not from
engine/policy/rules.py: its networks, numbers and states are written down once more here. `ACCEPTS` of a policy is at
the end, `specification`. Each sentence is quoted by the id of its claim in `DOCUMENT`.

What may go out is said of the interface a packet leaves by, what may come in of the one it came by; on Linux "any
situation that permits incoming or outgoing traffic also allows that traffic to be forwarded" (FWD-1), so a forwarded
packet is looked at from both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from ipaddress import ip_network
from typing import Any

import z3

from engine.policy import Hop, IPAddress, Platform, Policy, State
from native.facts import App, Direction, Interface
from tests.proofs.packet import ICMPV6, TCP, UDP, Packet, Symbols, Verdict

DOCUMENT = {
    "P-0": "Except what is described as allowed in this document, all network packets should be blocked.",
    "LO-1": "All traffic on loopback adapters is always allowed.",
    "DHCP4-1": "Outgoing UDP from *:68 to 255.255.255.255:67 (client to server)",
    "DHCP4-2": "Incoming UDP *:67 to *:68 (server to client)",
    "DHCP6-1": "Outgoing UDP from [fe80::]/10:546 to [ff02::1:2]:547 and [ff05::1:3]:547 (client to server)",
    "DHCP6-2": "Incoming UDP from [fe80::]/10:547 to [fe80::]/10:546 (server to client)",
    "NDP-1": "Outgoing to ff02::2, but only ICMPv6 with type 133 and code 0 (Router solicitation)",
    "NDP-2": "Incoming from fe80::/10, but only ICMPv6 type 134 and code 0 (Router advertisement)",
    "NDP-3": "Incoming from fe80::/10, but only ICMPv6 type 137 and code 0 (Redirect)",
    "NDP-4": "Outgoing to ff02::1:ff00:0/104 and fe80::/10, but only ICMPv6 with type 135 and code 0 (Neighbor "
    "solicitation).",
    "NDP-5": "Incoming from fe80::/10, but only ICMPv6 with type 135 and code 0 (Neighbor solicitation).",
    "NDP-6": "Outgoing to fe80::/10, but only ICMPv6 with type 136 and code 0 (Neighbor advertisement).",
    "NDP-7": "Incoming from *, but only ICMPv6 with type 136 and code 0 (Neighbor advertisement).",
    "LAN-1": "Outgoing to, and incoming from, any IP in an unroutable network, that means: 10.0.0.0/8, "
    "172.16.0.0/12, 192.168.0.0/16, 169.254.0.0/16, fe80::/10, fc00::/7",
    "LAN-2": "Outgoing to any IP in globally unroutable multicast networks, meaning these: 224.0.0.0/24, "
    "239.0.0.0/8, 255.255.255.255/32, ff01::/16, ff02::/16, ff03::/16, ff04::/16, ff05::/16",
    "LAN-3": "Incoming UDP from *:68 to 255.255.255.255:67",
    "LAN-4": "Outgoing UDP from *:67 to *:68",
    "FWD-1": "On Linux, any situation that permits incoming or outgoing traffic also allows that traffic to be "
    "forwarded. All other forward traffic is rejected.",
    "API-1": "On Windows, only the Mullvad service and problem report tool are able to communicate with the API in"
    " any of the blocking states. On macOS and Linux all applications running as root are able to reach "
    "the API in blocking states.",
    "API-2": "In the Connected state, API traffic is only allowed inside the tunnel.",
    "DIS-1": "It lets network traffic flow in and out of the computer freely.",
    "DIS-2": "If this setting is enabled, the disconnected state behaves like and has the same security properties"
    " as, the error state.",
    "CON-1": "In this state, network traffic to the IP+port+protocol combination used for the first hop of the VPN"
    " tunnel is allowed on all interfaces, together with responses to this outgoing traffic. First hop "
    "means the bridge server if one is used, otherwise the VPN server directly. [...] Do not allow any "
    "direct communication with the VPN server.",
    "CON-2": "This IP+port+protocol combination should only be allowed for the process establishing the VPN tunnel"
    " [...] On Linux, the rule only allows packets that have the mark 0x6d6f6c65 set",
    "CON-3": "When using WireGuard, traffic inside the tunnel is permitted immediately after the tunnel device has"
    " been created.",
    "CTD-1": "In this state, all traffic in both directions over the tunnel interface is allowed.",
    "CTD-2": "Minus DNS requests (TCP and UDP destination port 53) not to a gateway IP on the tunnel interface or "
    "one of the defined custom DNS servers.",
    "CTD-3": "This state allows traffic on all interfaces to and from the IP+port+protocol combination that the "
    "tunnel runs over.",
    "DSC-1": "This state does not apply its own security policy on the firewall. It just keeps what was already "
    "active.",
    "ERR-1": "This state locks the firewall so no traffic can flow (except the always active exceptions).",
    "DNS-1": "We can only request DNS inside the tunnel and only from the relay server itself, unless one or more "
    "custom DNS servers are provided.",
    "DNS-2": "If custom DNS servers are provided, requests are always made inside the tunnel unless the address "
    "belongs to a private address range (such as 192.168.0.0/16) or a loopback address.",
    "DNS-3": "In the other states DNS is simply blocked.",
    "DNS-4": "In the disconnected state the app does nothing with DNS.",
    "MOB-2": "In these states, all outgoing packets are simply dropped, but incoming traffic is still allowed due "
    "to the limitations of Android.",
    "MOB-4": "The iOS app currently does not support blocking in the app's blocked state.",
}

LOCAL_NETWORKS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fe80::/10", "fc00::/7")
LOCAL_MULTICAST = (
    "224.0.0.0/24", "239.0.0.0/8", "255.255.255.255", "ff01::/16", "ff02::/16", "ff03::/16", "ff04::/16", "ff05::/16",
)  # fmt: skip
LOOPBACK_ADDRESSES = ("127.0.0.0/8", "::1")
PROCESS_MARK = 0x6D6F6C65
_PLAIN = Symbols()  # the document's own networks stand for themselves
DESKTOP = ("linux", "macos", "windows")


@dataclass(frozen=True, eq=False)
class Sentences:
    """Each sentence about packet and policy, as a formula that says where it applies."""

    packet: Packet
    policy: Policy
    symbols: Symbols

    # ---- words of the document ----

    @property
    def out(self) -> Any:
        return self.packet.goes(Direction.OUT)

    @property
    def into(self) -> Any:
        return self.packet.goes(Direction.IN)

    @property
    def forwarded(self) -> Any:
        return self.packet.goes(Direction.FORWARD)

    def outgoing(self, what: Any, *, by: Interface | None = None, forwards: bool = True) -> Any:
        """ "Outgoing ...": and forwarded, if there it leaves in that way (FWD-1)."""
        if by is not None:
            what = z3.And(what, self.packet.iface_out == int(by))
        return z3.And(z3.Or(self.out, self._may_forward(forwards)), what)

    def incoming(self, what: Any, *, by: Interface | None = None, forwards: bool = True) -> Any:
        """ "Incoming ...": and forwarded, if it came in in that way (FWD-1)."""
        if by is not None:
            what = z3.And(what, self.packet.iface_in == int(by))
        return z3.And(z3.Or(self.into, self._may_forward(forwards)), what)

    def _may_forward(self, forwards: bool) -> Any:
        return z3.And(self.forwarded, z3.BoolVal(forwards and self.policy.platform.value == "linux"))

    def udp(self, source: int | None, destination: int | None) -> Any:
        p = self.packet
        ports = [p.sport == source] if source is not None else []
        ports += [p.dport == destination] if destination is not None else []
        return z3.And(p.proto == UDP, p.has_ports, *ports)

    def icmp6(self, kind: int) -> Any:
        p = self.packet
        return z3.And(p.v6, p.proto == ICMPV6, p.has_icmp, p.icmp_type == kind, p.icmp_code == 0)

    def source_in(self, *networks: str) -> Any:
        return _PLAIN.any_of(self.packet, True, [ip_network(n) for n in networks])

    def destination_in(self, *networks: str) -> Any:
        return _PLAIN.any_of(self.packet, False, [ip_network(n) for n in networks])

    def is_to(self, *addresses: IPAddress) -> Any:
        p, s = self.packet, self.symbols
        return z3.Or([z3.And(p.version(a.version), p.destination(a.version) == s.address(a)) for a in addresses])

    def is_from(self, *addresses: IPAddress) -> Any:
        p, s = self.packet, self.symbols
        return z3.Or([z3.And(p.version(a.version), p.source(a.version) == s.address(a)) for a in addresses])

    def to_hop(self, hop: Hop) -> Any:
        """To the IP+port+protocol combination."""
        p = self.packet
        protocol = {"udp": UDP, "tcp": TCP}[hop.protocol.value]
        return z3.And(self.is_to(hop.ip), p.proto == protocol, p.has_ports, p.dport == self.symbols.port(hop.port))

    def from_hop(self, hop: Hop) -> Any:
        """Responses from it: of a flow that was allowed."""
        p = self.packet
        protocol = {"udp": UDP, "tcp": TCP}[hop.protocol.value]
        return z3.And(
            self.is_from(hop.ip), p.proto == protocol, p.has_ports, p.sport == self.symbols.port(hop.port), p.reply
        )

    def root(self) -> Any:
        return self.packet.sent_by(z3.And(self.packet.has_uid, self.packet.uid == 0))

    # ---- permitted in every state ----

    def loopback(self) -> Any:
        """LO-1. Not forwarded (decision FWD-1): in by loopback and out elsewhere would be any program's way out."""
        everything = z3.BoolVal(True)
        return z3.Or(
            self.outgoing(everything, by=Interface.LOOPBACK, forwards=False),
            self.incoming(everything, by=Interface.LOOPBACK, forwards=False),
        )

    def dhcp(self) -> Any:
        """DHCP4-1, DHCP4-2, DHCP6-1, DHCP6-2."""
        four, six = self.packet.version(4), self.packet.version(6)
        return z3.Or(
            self.outgoing(z3.And(four, self.udp(68, 67), self.destination_in("255.255.255.255"))),
            self.incoming(z3.And(four, self.udp(67, 68))),
            self.outgoing(
                z3.And(
                    six, self.udp(546, 547), self.source_in("fe80::/10"), self.destination_in("ff02::1:2", "ff05::1:3")
                )
            ),
            self.incoming(
                z3.And(six, self.udp(547, 546), self.source_in("fe80::/10"), self.destination_in("fe80::/10"))
            ),
        )

    def ndp(self) -> Any:
        """NDP-1 to NDP-7."""
        return z3.Or(
            self.outgoing(z3.And(self.icmp6(133), self.destination_in("ff02::2"))),
            self.incoming(z3.And(self.icmp6(134), self.source_in("fe80::/10"))),
            self.incoming(z3.And(self.icmp6(137), self.source_in("fe80::/10"))),
            self.outgoing(z3.And(self.icmp6(135), self.destination_in("ff02::1:ff00:0/104", "fe80::/10"))),
            self.incoming(z3.And(self.icmp6(135), self.source_in("fe80::/10"))),
            self.outgoing(z3.And(self.icmp6(136), self.destination_in("fe80::/10"))),
            self.incoming(self.icmp6(136)),
        )

    # ---- settings ----

    def lan(self) -> Any:
        """LAN-1 to LAN-4. LAN-1's incoming half is not forwarded (decision FWD-1): it says nothing of where to."""
        four = self.packet.version(4)
        return z3.And(
            z3.BoolVal(self.policy.allow_lan),
            z3.Or(
                self.outgoing(self.destination_in(*LOCAL_NETWORKS)),
                self.incoming(self.source_in(*LOCAL_NETWORKS), forwards=False),
                self.outgoing(self.destination_in(*LOCAL_MULTICAST)),
                self.incoming(z3.And(four, self.udp(68, 67), self.destination_in("255.255.255.255"))),
                self.outgoing(z3.And(four, self.udp(67, 68))),
            ),
        )

    def api(self, state: str) -> Any:
        """API-1, API-2."""
        hop = self.policy.api
        if hop is None or state == "connected" or self.policy.platform.value not in DESKTOP:
            return z3.BoolVal(False)
        if self.policy.platform.value == "windows":
            ours = (App.SERVICE, App.PROBLEM_REPORT)
            sender = self.packet.sent_by(z3.Or([self.packet.app == int(app) for app in ours]))
        else:
            sender = self.root()
        return z3.Or(self.outgoing(z3.And(self.to_hop(hop), sender)), self.incoming(self.from_hop(hop)))

    # ---- the first hop ----

    def tunnel_process(self) -> Any:
        """CON-2: the process establishing the tunnel, as the platform knows it."""
        platform = self.policy.platform.value
        if platform == "linux":
            return self.packet.sent_by(self.packet.mark == PROCESS_MARK)
        if platform == "windows":
            return self.packet.sent_by(self.packet.app == int(App.SERVICE))
        return self.root()

    def first_hop(self, state: str) -> Any:
        """CON-1, CON-2, CTD-3: permitted."""
        hop = self.policy.bridge or self.policy.peer
        if hop is None or state not in ("connecting", "connected") or self.policy.platform.value not in DESKTOP:
            return z3.BoolVal(False)
        return z3.Or(self.outgoing(z3.And(self.to_hop(hop), self.tunnel_process())), self.incoming(self.from_hop(hop)))

    def not_for_others(self, state: str) -> Any:
        """CON-2, CON-1: "only ... for the process", "do not allow any direct communication with the VPN server".

        Outside the tunnel; neither DNS nor LAN permits it then (decision CON-2).
        """
        hop = self.policy.bridge or self.policy.peer
        if hop is None or state not in ("connecting", "connected") or self.policy.platform.value not in DESKTOP:
            return z3.BoolVal(False)
        others = [self.outgoing(self.to_hop(hop), by=Interface.OTHER)]
        if self.policy.bridge is not None and self.policy.peer is not None:
            server = self.policy.peer.ip
            others.append(self.outgoing(self.is_to(server), by=Interface.OTHER))
            others.append(self.incoming(self.is_from(server), by=Interface.OTHER))
        return z3.Or(others)

    # ---- DNS ----

    def asks_dns(self) -> Any:
        """ "DNS requests (TCP and UDP destination port 53)": of the device, so what goes out, or through."""
        p = self.packet
        return z3.And(z3.Not(self.into), p.has_ports, z3.Or(p.proto == TCP, p.proto == UDP), p.dport == 53)

    def dns(self, state: str) -> Any:
        """DNS-1, DNS-2: the requests that are permitted (and a local server's answers); DNS-3: none."""
        if state != "connected" or self.policy.tunnel is None:
            return z3.BoolVal(False)
        p, gateways = self.packet, self.policy.tunnel.gateways
        if not self.policy.dns:
            return self.outgoing(z3.And(self.asks_dns(), self.is_to(*gateways)), by=Interface.TUNNEL)
        local = [server for server in self.policy.dns if self._private_or_loopback(server)]
        public = [server for server in self.policy.dns if server not in local]
        answer = z3.And(
            self.is_from(*local), p.has_ports, z3.Or(p.proto == TCP, p.proto == UDP), p.sport == 53, p.reply
        )
        return z3.Or(
            self.outgoing(z3.And(self.asks_dns(), self.is_to(*public)), by=Interface.TUNNEL),
            self.outgoing(z3.And(self.asks_dns(), self.is_to(*local)), by=Interface.OTHER),
            self.incoming(answer, by=Interface.OTHER),
        )

    @staticmethod
    def _private_or_loopback(server: IPAddress) -> bool:
        networks = [ip_network(text) for text in (*LOCAL_NETWORKS, *LOOPBACK_ADDRESSES)]
        return any(server in network for network in networks)

    # ---- the tunnel ----

    def tunnel(self, state: str) -> Any:
        """CTD-1, CON-3: both directions over the tunnel interface; forwarded from it are answers (decision FWD-1)."""
        if self.policy.tunnel is None or state not in ("connecting", "connected"):
            return z3.BoolVal(False)
        everything = z3.BoolVal(True)
        return z3.Or(
            self.outgoing(everything, by=Interface.TUNNEL),
            self.incoming(everything, by=Interface.TUNNEL, forwards=False),
            self.incoming(self.packet.reply, by=Interface.TUNNEL),
        )

    def unasked(self, state: str) -> Any:
        """Decision FWD-1: what comes out of the tunnel for others and answers nothing is not for the LAN either."""
        if self.policy.tunnel is None or state not in ("connecting", "connected"):
            return z3.BoolVal(False)
        return z3.And(self.forwarded, self.packet.iface_in == int(Interface.TUNNEL), z3.Not(self.packet.reply))

    def for_others(self, state: str) -> Any:
        """Decision FWD-1, where the TUN alone judges: whatever comes out of the tunnel and is not for its addresses."""
        if not self.policy.tun_only or self.policy.tunnel is None or state not in ("connecting", "connected"):
            return z3.BoolVal(False)
        others = z3.Or(self.forwarded, z3.And(self.into, z3.Not(self.is_to(*self.policy.tunnel.addresses))))
        return z3.And(others, self.packet.iface_in == int(Interface.TUNNEL))

    # ---- all together ----

    def permitted(self, state: str) -> Any:
        """P-0: what is permitted, and nothing else; DNS-* stand before the tunnel, and the tunnel before the LAN."""
        named = z3.Or(
            _always(self.packet, self.policy.platform),
            self.first_hop(state), self.api(state),
            z3.And(
                z3.Not(self.not_for_others(state)),
                z3.Or(
                    self.dns(state),
                    z3.And(
                        z3.Not(self.asks_dns()),
                        z3.Or(self.tunnel(state), z3.And(z3.Not(self.unasked(state)), self.lan())),
                    ),
                ),
            ),
        )  # fmt: skip
        return z3.And(z3.Not(self.for_others(state)), named)


@cache
def _always(packet: Packet, platform: Platform) -> Any:
    """What is permitted in every state: it depends on the platform alone (FWD-1)."""
    say = Sentences(packet, Policy(State.ERROR, platform), _PLAIN)
    return z3.Or(say.loopback(), say.dhcp(), say.ndp())


def state_of(policy: Policy) -> str:
    """The state whose sentences hold: DIS-2 and DSC-1 resolved. "disconnected": nothing is enforced."""
    if policy.state.value == "disconnecting":
        assert policy.kept is not None
        return policy.kept.value
    if policy.state.value == "disconnected" and policy.always_require_vpn:
        return "error"
    return policy.state.value


@cache
def specification(policy: Policy, packet: Packet, symbols: Symbols) -> Verdict:
    """Whether the document lets the packet pass under the policy, and whether a blocked one is answered."""
    say = Sentences(packet, policy, symbols)
    state = state_of(policy)
    blocked_silently = say.into
    if state == "disconnected":  # DIS-1, DNS-4
        return Verdict(z3.BoolVal(True), z3.BoolVal(False))
    in_tunnel = z3.Or(
        z3.And(say.out, packet.iface_out == int(Interface.TUNNEL)),
        z3.And(say.into, packet.iface_in == int(Interface.TUNNEL)),
    )
    if policy.platform.value == "android" and policy.state.value != "connected":  # MOB-2
        accept = z3.And(say.into, in_tunnel)
        blocked_silently = z3.Or(say.into, in_tunnel)
    elif policy.platform.value == "ios" and state == "error" and not policy.ios_blocking:  # MOB-4
        accept = in_tunnel
    else:
        accept = say.permitted(state)
    return Verdict(accept, z3.And(z3.Not(accept), z3.Not(blocked_silently)))
