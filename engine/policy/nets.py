"""The networks, ports and types that the security document names, once.

Everything here is copied from the document's tables; nothing is configurable. `is_local` is DNS-2's split.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

# The mark of the engine's own sockets (CON-2): "mole" in ASCII.
MARK = 0x6D6F6C65
ROOT = 0

# IP protocol numbers (IANA).
TCP = 6
UDP = 17
ICMPV6 = 58

# LAN-1: unroutable networks, both directions.
LAN: tuple[IPNetwork, ...] = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv4Network("169.254.0.0/16"),
    IPv6Network("fe80::/10"),
    IPv6Network("fc00::/7"),
)

# LAN-2: globally unroutable multicast and broadcast, outgoing only.
LAN_MULTICAST: tuple[IPNetwork, ...] = (
    IPv4Network("224.0.0.0/24"),
    IPv4Network("239.0.0.0/8"),
    IPv4Network("255.255.255.255/32"),
    IPv6Network("ff01::/16"),
    IPv6Network("ff02::/16"),
    IPv6Network("ff03::/16"),
    IPv6Network("ff04::/16"),
    IPv6Network("ff05::/16"),
)

LOOPBACK: tuple[IPNetwork, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))

ALL_V4 = IPv4Network("0.0.0.0/0")
BROADCAST = IPv4Network("255.255.255.255/32")
LINK_LOCAL = IPv6Network("fe80::/10")
ALL_ROUTERS = IPv6Network("ff02::2/128")
SOLICITED_NODE = IPv6Network("ff02::1:ff00:0/104")
DHCPV6_SERVERS: tuple[IPNetwork, ...] = (IPv6Network("ff02::1:2/128"), IPv6Network("ff05::1:3/128"))

DHCP_SERVER_PORT = 67
DHCP_CLIENT_PORT = 68
DHCPV6_CLIENT_PORT = 546
DHCPV6_SERVER_PORT = 547
DNS_PORT = 53

# Neighbour Discovery (RFC 4861): ICMPv6 types; the code is always 0.
ROUTER_SOLICITATION = 133
ROUTER_ADVERTISEMENT = 134
NEIGHBOR_SOLICITATION = 135
NEIGHBOR_ADVERTISEMENT = 136
REDIRECT = 137


def host(address: IPAddress) -> IPNetwork:
    """The network that holds this address alone."""
    return IPv4Network(address) if isinstance(address, IPv4Address) else IPv6Network(int(address))


def is_local(address: IPAddress) -> bool:
    """Whether a DNS server of this address is reached outside the tunnel: private or loopback (DNS-2)."""
    return any(address in network for network in (*LAN, *LOOPBACK) if network.version == address.version)
