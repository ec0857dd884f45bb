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
            router.sh("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

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
