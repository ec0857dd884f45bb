"""A capture on the provider's end of the device's wire, and the judgement of every frame the device sent.

The capture sees what an observer would see, not what the device believes. dpkt parses (it is not our parser);
a frame is named by `judge` after the few things a blocking device may still send:

    arp, ndp, dhcp      the local link's own traffic (policy ids NDP-*, DHCP*)
    mld                 group membership reports the kernel makes itself, hop limit 1
    wireguard           a well-formed WireGuard message to a relay endpoint
    bridge              anything to the bridge's endpoint by its protocol, if there is a bridge
    lan                 private and multicast destinations (LAN-1, LAN-2) but DNS: fine with "allow LAN" on
    clear               everything else

While the block is in force, `clear` (and `lan` unless allowed) is a leak.

Order of events: `Capture(...)` binds the packet socket -> a daemon thread collects frames -> `flush()` waits
until what is on the wire has been read -> `frames` is read -> `close()`.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dpkt  # type: ignore[import-untyped]

from tests.netns.lab import Namespace

_ETH_P_ALL = 3
_OUTGOING = 4  # PACKET_OUTGOING: sent by this end, so not by the device
_LAN = [
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fe80::/10", "fc00::/7",
        "224.0.0.0/24", "239.0.0.0/8", "255.255.255.255/32",
        "ff01::/16", "ff02::/16", "ff03::/16", "ff04::/16", "ff05::/16",
    )
]  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """One frame the device sent: when (monotonic s), what `judge` calls it, a readable line, the bytes."""

    at: float
    kind: str
    line: str
    data: bytes

    def carries(self, token: str) -> bool:
        """Whether this frame is the work of the probe with this token (see `probes.Token`)."""
        return token.encode() in self.data or token in self.line


def is_wireguard(payload: bytes) -> bool:
    """Whether a UDP payload has the form of a WireGuard message: type, three zero bytes, its type's length.

    A data message has any length from 32: it is padded to 16 bytes, but not beyond the tunnel's MTU.
    """
    if len(payload) < 32 or payload[1:4] != b"\0\0\0":
        return False
    return payload[0] == 4 or {1: 148, 2: 92, 3: 64}.get(payload[0]) == len(payload)


Bridge = tuple[str, str, int]
"""A bridge's protocol ("tcp" or "udp"), address and port."""


def judge(frame: bytes, relays: Iterable[tuple[str, int]], bridge: Bridge | None = None) -> tuple[str, str]:
    """The name of a frame (see above) and one readable line about it. What cannot be parsed is `clear`."""
    try:
        return _judge(frame, set(relays), bridge)
    except (dpkt.Error, ValueError, AttributeError) as error:
        return "clear", f"unreadable frame of {len(frame)} bytes ({error})"


def _judge(frame: bytes, relays: set[tuple[str, int]], bridge: Bridge | None) -> tuple[str, str]:
    ethernet: Any = dpkt.ethernet.Ethernet(frame)
    packet = ethernet.data
    if isinstance(packet, dpkt.arp.ARP):
        return "arp", f"ARP for {ipaddress.ip_address(packet.tpa)}"
    if not isinstance(packet, dpkt.ip.IP | dpkt.ip6.IP6):
        return "clear", f"ethertype {ethernet.type:#06x}"
    source, target = ipaddress.ip_address(packet.src), ipaddress.ip_address(packet.dst)
    way = f"{source} -> {target}"
    inner: Any = packet.data
    later_fragment = isinstance(inner, bytes)
    lan = any(target in network for network in _LAN if network.version == target.version)
    if later_fragment:
        return ("lan" if lan else "clear"), f"fragment {way}"
    if isinstance(inner, dpkt.udp.UDP):
        line = f"UDP {way} ports {inner.sport} -> {inner.dport}, {len(inner.data)} bytes"
        if (str(target), inner.dport) in relays and is_wireguard(bytes(inner.data)):
            return "wireguard", line
        if ("udp", str(target), inner.dport) == bridge:
            return "bridge", line
        if (inner.sport, inner.dport) in {(68, 67), (546, 547)}:
            return "dhcp", line
        return ("lan" if lan and inner.dport != 53 else "clear"), line
    if isinstance(inner, dpkt.tcp.TCP):
        line = f"TCP {way} ports {inner.sport} -> {inner.dport}"
        if ("tcp", str(target), inner.dport) == bridge:
            return "bridge", line
        return ("lan" if lan and inner.dport != 53 else "clear"), line
    if isinstance(inner, dpkt.icmp6.ICMP6):
        line = f"ICMPv6 {inner.type} {way}"
        if 133 <= inner.type <= 137 and packet.hlim == 255:
            return "ndp", line
        if inner.type == 143 and str(target) == "ff02::16" and packet.hlim == 1:
            return "mld", line
        return ("lan" if lan else "clear"), line
    return ("lan" if lan else "clear"), f"protocol {packet.p} {way}"


class Capture:
    """Collects what the device sends, as seen at `interface` of `ns`."""

    def __init__(
        self, ns: Namespace, interface: str, relays: Iterable[tuple[str, int]], bridge: Bridge | None = None
    ) -> None:
        self.frames: list[Frame] = []
        self._relays = set(relays)
        self._bridge = bridge
        with ns.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        # Room for everything a burst can bring: a frame lost by the witness would be a leak unseen.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 20)  # up to the kernel's limit
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
        except PermissionError:
            pass  # root of a user namespace only; `lost` tells if it was too little
        self._socket.bind((interface, _ETH_P_ALL))
        self._socket.settimeout(0.05)
        self._quiet = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed:
            try:
                data, address = self._socket.recvfrom(1 << 16)
            except TimeoutError:
                self._quiet.set()
                continue
            except OSError:
                return
            if address[2] == _OUTGOING:
                continue
            kind, line = judge(data, self._relays, self._bridge)
            self.frames.append(Frame(time.monotonic(), kind, line, data))

    def flush(self) -> None:
        """Wait until the wire has been silent for 50 ms (at most a second), so that all before it is read."""
        self._quiet.clear()
        self._quiet.wait(1.0)

    def lost(self) -> int:
        """Frames that the kernel could not give us, since the last call (PACKET_STATISTICS): must be 0."""
        _, drops = socket.SOL_SOCKET, self._socket.getsockopt(263, 6, 8)
        return int.from_bytes(drops[4:8], "little")

    def write_pcap(self, path: Path) -> None:
        """Write all frames to a pcap file, to be looked at with other tools."""
        offset = time.time() - time.monotonic()
        with path.open("wb") as file:
            writer = dpkt.pcap.Writer(file, snaplen=1 << 16)
            for frame in self.frames:
                writer.writepkt(frame.data, ts=frame.at + offset)

    def close(self) -> None:
        """Stop collecting."""
        self._closed = True
        self._thread.join(2)
        self._socket.close()
