"""What it takes that every packet of this machine ends in the TUN, as plain values: policy rules and routes.

The kernel asks its rules in the order of their priorities. Ours come right after `local`, before any other
software's, so that nobody's routes are asked first:

    100  fwmark MARK                    goto 199   the engine's own outer packets skip all this
    105  in by the TUN                  the guests' table, while there is a tunnel: answers for those we forward for
    110  uid of an excluded user        main
    115  root's to the API's endpoint   main           outside Connected (API-1)
    120  to a local DNS server, port 53 main, if a route longer than /0 leads there (DNS-2)
    130  port 53, TCP and UDP           our table  DNS is judged in the TUN even when the LAN is not
    140  to a LAN range, while allowed  main, if a route longer than /0 leads there
    150  uid of an included user        our table  only if there is a list of them
    190  not fwmark MARK                our table  everything; without such a list
    195  the same, by protocol          unreachable
    199                                 nothing    where 100 leads

If somebody else's rule comes before one of ours (another VPN's, say), ours move to the front: in the same order, to the
priorities from 1 on (`low`). What stands even before those cannot be overtaken, and is an error that blocks.

Our table (its number is the mark) has the tunnel's routes and beneath them, with the worst metric, `unreachable
default` for IPv4 and IPv6. These two and the rules belong to no process and no device: if the engine dies, and
even if the TUN vanishes, packets find `unreachable`, not the way out.

Rule 195 is for lookups that skip our table's routes: sockets that ask for the link only (SO_DONTROUTE), and IPv6
sockets bound to another device. (For IPv4 ones Linux assumes a neighbour on that link even then, and only a
firewall can stop them: docs/known-issues.md.) For IPv4 it is a rule for each protocol that unprivileged sockets can
speak, because the kernel itself looks up a new route's gateway by the same rules, without a protocol: it must find
the way by main, or no DHCP client could set a route while we run.

Rule 105 speaks of what the tunnel sends us and is not for this machine. The guests' table (the mark plus one) is no
table of anybody's routes: only those of main that lead to guests are copied there (engine/host/guests.py). Who may be
answered is not the routing's to say: the firewall forwards answers only, and without one the TUN lets nothing in that
is not for its own addresses, which only the kernel's own address translation can turn into a guest's (FWD-1).

Main's own routes are asked for the LAN ranges only, and for these only while LAN is allowed. wg-quick and the
reference app ask them for everything; a hostile DHCP server then routes what it likes past the tunnel
(TunnelVision, CVE-2024-3661; TunnelCrack LocalNet, CVE-2023-36672).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)

IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network

MAIN = 254
ROOT = 0
LOOPBACK = "lo"
UDP = 17
TCP = 6
ICMP = 1
USER_PROTOCOLS = (TCP, UDP, ICMP, 33, 115, 132, 136)
"""What Linux has sockets for that need no privilege (RFC 790 ff.): with these DCCP, L2TP, SCTP and UDP-Lite."""
DEFAULT_ROUTES: tuple[IPNetwork, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))

PRIORITY_MARKED = 100
PRIORITY_GUESTS = 105
PRIORITY_EXCLUDED = 110
PRIORITY_API = 115
PRIORITY_LOCAL_DNS = 120
PRIORITY_DNS = 130
PRIORITY_LAN = 140
PRIORITY_INCLUDED = 150
PRIORITY_ALL = 190
PRIORITY_REST = 195
PRIORITY_END = 199
PRIORITIES = (
    PRIORITY_MARKED,
    PRIORITY_GUESTS,
    PRIORITY_EXCLUDED,
    PRIORITY_API,
    PRIORITY_LOCAL_DNS,
    PRIORITY_DNS,
    PRIORITY_LAN,
    PRIORITY_INCLUDED,
    PRIORITY_ALL,
    PRIORITY_REST,
    PRIORITY_END,
)
LOWEST_END = len(PRIORITIES)
"""The last priority that our rules need when they have moved to the front."""


@dataclass(frozen=True)
class Rule:
    """One policy rule of one address family.

    `table` None: no lookup, but `goto` the rule of that priority, or `unreachable`, or simply go on. `unmarked`: for
    packets without the mark only. `incoming`: for packets that come in by this interface only; by LOOPBACK come this
    machine's own, and none that it forwards, which the kernel takes for root's. `specific`: a route of length 0
    found there does not count.
    """

    version: int
    priority: int
    table: int | None
    goto: int | None = None
    unreachable: bool = False
    mark: int | None = None
    unmarked: bool = False
    to: IPNetwork | None = None
    protocol: int | None = None
    port: int | None = None
    uid: int | None = None
    incoming: str | None = None
    specific: bool = False


@dataclass(frozen=True)
class Endpoint:
    """An address with its port and IP protocol number."""

    address: IPAddress
    port: int
    protocol: int


@dataclass(frozen=True)
class Capture:
    """What to capture with the interface, and what to leave alone.

    * `mark`: the firewall mark of the engine's own sockets, and the number of the routing table.
    * `addresses`, `mtu`, `routes`: the interface's; the routes are what leads into it, the rest of our table
      is unreachable, so both families are captured whatever the routes are.
    * `lan`: destinations that main's specific routes may reach past the tunnel (allow LAN), except DNS.
    * `local_dns`: custom DNS servers reached outside the tunnel (DNS-2).
    * `api`: the endpoint that root reaches outside the tunnel (API-1).
    * `guests`: whether answers for those we forward for come back from the tunnel (FWD-1).
    * `included_uids`: if any, only these users' packets are captured. `excluded_uids`: these users' never.
    """

    interface: str
    mark: int
    addresses: tuple[IPInterface, ...] = ()
    mtu: int = 1420
    routes: tuple[IPNetwork, ...] = DEFAULT_ROUTES
    lan: tuple[IPNetwork, ...] = ()
    local_dns: tuple[IPAddress, ...] = ()
    api: Endpoint | None = None
    included_uids: tuple[int, ...] = ()
    excluded_uids: tuple[int, ...] = ()
    guests: bool = False

    @property
    def table(self) -> int:
        """The number of our routing table."""
        return self.mark

    @property
    def guests_table(self) -> int:
        """The number of the table of the routes to guests."""
        return guests_table(self.mark)


def guests_table(mark: int) -> int:
    """The number of the table of the routes to guests, of the engine with this mark."""
    return mark + 1


def rules(capture: Capture, version: int, low: bool = False) -> tuple[Rule, ...]:
    """The rules for IP `version` (4 or 6), in the order to add them: exceptions come last. `low`: at the front."""
    usual = _rules(capture, version)
    return tuple(_lowered(rule) for rule in usual) if low else usual


def _lowered(rule: Rule) -> Rule:
    def front(priority: int) -> int:
        return PRIORITIES.index(priority) + 1

    goto = front(rule.goto) if rule.goto is not None else None
    return replace(rule, priority=front(rule.priority), goto=goto)


def _rules(capture: Capture, version: int) -> tuple[Rule, ...]:
    table, uids = capture.table, capture.included_uids
    included: tuple[int | None, ...] = uids or (None,)
    protocols: tuple[int | None, ...] = USER_PROTOCOLS if version == 4 else (None,)
    wanted = [
        Rule(version, PRIORITY_END, None),
        Rule(version, PRIORITY_MARKED, None, goto=PRIORITY_END, mark=capture.mark),
        *([Rule(version, PRIORITY_GUESTS, capture.guests_table, incoming=capture.interface)] if capture.guests else []),
        *([] if uids else [Rule(version, PRIORITY_ALL, table, mark=capture.mark, unmarked=True)]),
        *(
            Rule(version, PRIORITY_REST, None, unreachable=True, protocol=protocol, uid=uid)
            for protocol in protocols
            for uid in included
        ),
        *(Rule(version, PRIORITY_EXCLUDED, MAIN, uid=uid) for uid in capture.excluded_uids),
        *(Rule(version, PRIORITY_INCLUDED, table, uid=uid) for uid in uids),
    ]
    if capture.api is not None and capture.api.address.version == version:
        to, api = _host(capture.api.address), capture.api
        wanted.append(
            Rule(version, PRIORITY_API, MAIN, to=to, protocol=api.protocol, port=api.port, uid=ROOT, incoming=LOOPBACK)
        )
    for protocol in (UDP, TCP):
        wanted += [Rule(version, PRIORITY_DNS, table, protocol=protocol, port=53, uid=uid) for uid in included]
        wanted += [
            Rule(
                version,
                PRIORITY_LOCAL_DNS,
                MAIN,
                to=_host(server),
                protocol=protocol,
                port=53,
                specific=True,
            )
            for server in capture.local_dns
            if server.version == version
        ]
    for network in capture.lan:
        if network.version == version:
            # Multicast and broadcast have no routes of their own: the default route says by which interface.
            specific = not (network.network_address.is_multicast or network.num_addresses == 1)
            wanted.append(Rule(version, PRIORITY_LAN, MAIN, to=network, specific=specific))
    return tuple(wanted)


def _host(address: IPAddress) -> IPNetwork:
    return IPv4Network(address) if isinstance(address, IPv4Address) else IPv6Network(int(address))  # without a scope
