"""The world that a device is tested in: its LAN, its provider (isp), the internet, a relay.

    device 192.168.77.2 ---+
                           +--- isp (bridge, router) ---- internet ---- relay
    lan    192.168.77.20 --+    192.168.77.1              203.0.113.x   198.51.100.10

Nothing translates addresses: the internet side has a route back to the device's network and, by way of the
relay, one to the tunnel's addresses. So a server sees by the source address which way a packet came.
Addresses are of documentation and private use only.
"""

from __future__ import annotations

from engine.leaklab.namespaces import Lab, Namespace

LAN4, LAN6 = "192.168.77.", "2001:db8:77::"
DEVICE4, DEVICE6 = LAN4 + "2", LAN6 + "2"
ISP4, ISP6 = LAN4 + "1", LAN6 + "1"
LAN_HOST4, LAN_HOST6 = LAN4 + "20", "fd77::20"
RELAY4, RELAY6, RELAY_PORT = "198.51.100.10", "2001:db8:100::10", 51820
WEB4, WEB6 = "203.0.113.80", "2001:db8:80::80"
RESOLVER4, RESOLVER6 = "203.0.113.53", "2001:db8:80::53"
MARK = 0x6D6F6C65  # of the engine's own packets (CON-2)
BRIDGE4, BRIDGE6 = "203.0.113.90", "2001:db8:80::90"
TUNNEL4, TUNNEL6 = "10.64.0.2", "fc00:64::2"
GATEWAY4, GATEWAY6 = "10.64.0.1", "fc00:64::1"


def world() -> Lab:
    """Device, LAN host, provider, internet and relay, wired and routed; no tunnel yet."""
    lab = Lab()
    try:
        device, lan, isp, internet, relay = map(lab.namespace, ("device", "lan", "isp", "internet", "relay"))
        isp.ip("link add lan type bridge mcast_snooping 0")
        lab.wire("device", "eth0", "isp", "dev0")
        lab.wire("lan", "eth0", "isp", "lan0")
        lab.wire("isp", "up0", "internet", "isp0")
        lab.wire("relay", "eth0", "internet", "rel0")
        for port in ("dev0", "lan0"):
            isp.ip(f"link set {port} master lan")
        isp.ip("link set lan up")
        for router in (isp, internet, relay):
            router.sysctl("net.ipv4.ip_forward", 1)
            router.sysctl("net.ipv6.conf.all.forwarding", 1)

        def addresses(ns: Namespace, dev: str, *networks: str) -> None:
            for network in networks:
                nodad = " nodad" if ":" in network else ""
                ns.ip(f"addr add {network} dev {dev}{nodad}")

        addresses(device, "eth0", DEVICE4 + "/24", DEVICE6 + "/64", "fd77::2/64")
        addresses(lan, "eth0", LAN_HOST4 + "/24", LAN_HOST6 + "/64")
        addresses(isp, "lan", ISP4 + "/24", ISP6 + "/64")
        addresses(isp, "up0", "192.0.2.1/30", "2001:db8:2::1/64")
        addresses(internet, "isp0", "192.0.2.2/30", "2001:db8:2::2/64")
        addresses(internet, "rel0", "198.51.100.1/24", "2001:db8:100::1/64")
        addresses(internet, "lo", *(f"{a}/32" for a in (WEB4, RESOLVER4, BRIDGE4)))
        addresses(internet, "lo", *(f"{a}/128" for a in (WEB6, RESOLVER6, BRIDGE6)))
        addresses(relay, "eth0", RELAY4 + "/24", RELAY6 + "/64")
        for ns, hop4, hop6 in (
            (device, ISP4, ISP6),
            (isp, "192.0.2.2", "2001:db8:2::2"),
            (relay, "198.51.100.1", "2001:db8:100::1"),
        ):
            ns.ip(f"route add default via {hop4}")
            ns.ip(f"-6 route add default via {hop6}")
        lan.ip(f"route add default via {ISP4}")
        # As behind any address translation: from the relay's end there is no way back into the device's own LAN.
        relay.ip(f"route add unreachable {LAN_HOST4}")
        internet.ip(f"route add {LAN4}0/24 via 192.0.2.1")
        internet.ip(f"-6 route add {LAN6}/64 via 2001:db8:2::1")
        # A relay may not fragment IPv6 on its way into the tunnel: the internet side knows the narrow hop.
        internet.ip(f"route add 10.64.0.0/24 via {RELAY4} mtu 1280")
        internet.ip(f"-6 route add fc00:64::/64 via {RELAY6} mtu 1280")
    except BaseException:
        lab.close()
        raise
    return lab


# What the leak lab adds: a hostile neighbour, a second relay, a second wire, and a guest behind the device.
LAN_RESOLVER4 = LAN4 + "21"
ROGUE4, ROGUE6 = LAN4 + "66", "fd77::66"
RELAY2_4 = "198.51.100.140"
TUNNEL2_4, TUNNEL2_6 = "10.65.0.2", "fc00:65::2"
GATEWAY2_4, GATEWAY2_6 = "10.65.0.1", "fc00:65::1"
GUEST4, GUEST6 = "172.20.5.2", "fd05::2"
SECOND4, SECOND_ISP4 = "192.168.88.2", "192.168.88.1"

GUEST_NAT = """
table ip guest { chain out {
  type nat hook postrouting priority srcnat
  ip saddr 172.20.5.0/24 oifname != "guest0" masquerade
}; }
table ip6 guest { chain out {
  type nat hook postrouting priority srcnat
  ip6 saddr fd05::/64 oifname != "guest0" masquerade
}; }
"""
"""The tables of whoever runs containers, beside ours."""


def extend(lab: Lab) -> None:
    """Add the hostile neighbour, the second relay, the device's second wire (down) and the guest to a `world()`.

        guest 172.20.5.2 --- device --- (second wire 192.168.88.x) --- isp      relay2 198.51.100.140 --- internet
        rogue 192.168.77.66 --- the LAN's bridge

    The device forwards for its guest and translates the guest's addresses, as for a container.
    """
    for role in ("rogue", "relay2", "guest"):
        lab.namespace(role)
    device, isp, internet, rogue = lab["device"], lab["isp"], lab["internet"], lab["rogue"]
    relay2, guest = lab["relay2"], lab["guest"]
    lab.wire("rogue", "eth0", "isp", "rogue0")
    isp.ip("link set rogue0 master lan")
    for address in (f"{ROGUE4}/24", f"{ROGUE6}/64 nodad", f"{LAN6}66/64 nodad"):
        rogue.ip(f"addr add {address} dev eth0")
    rogue.ip(f"route add default via {ISP4}")
    rogue.ip(f"-6 route add default via {ISP6}")
    lab["relay"].ip(f"route add unreachable {ROGUE4}")
    lab["lan"].ip(f"addr add {LAN_RESOLVER4}/24 dev eth0")
    lab.wire("relay2", "eth0", "internet", "rel1")
    internet.ip("addr add 198.51.100.129/25 dev rel1")
    internet.ip(f"route add 10.65.0.0/24 via {RELAY2_4} mtu 1280")
    relay2.ip(f"addr add {RELAY2_4}/25 dev eth0")
    relay2.ip("route add default via 198.51.100.129")
    for neighbour in (LAN_HOST4, ROGUE4):
        relay2.ip(f"route add unreachable {neighbour}")
    lab.wire("device", "eth1", "isp", "dev1")
    device.ip("link set eth1 down")
    isp.ip(f"addr add {SECOND_ISP4}/24 dev dev1")
    internet.ip("route add 192.168.88.0/24 via 192.0.2.1")
    lab.wire("device", "guest0", "guest", "eth0")
    for address in ("172.20.5.1/24", "fd05::1/64 nodad"):
        device.ip(f"addr add {address} dev guest0")
    for address in (f"{GUEST4}/24", f"{GUEST6}/64 nodad"):
        guest.ip(f"addr add {address} dev eth0")
    guest.ip("route add default via 172.20.5.1")
    guest.ip("-6 route add default via fd05::1")
    for router in (device, rogue, relay2):
        router.sysctl("net.ipv4.ip_forward", 1)
        router.sysctl("net.ipv6.conf.all.forwarding", 1)
    device.sh("nft", "-f", "-", stdin=GUEST_NAT)
