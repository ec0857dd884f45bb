"""The walk through the tunnel's states, with every kind of probe in each and a capture on the provider's side.

    Disconnected          the control: everything passes in clear, so the probes and the capture work
    Connecting            the relay's wire is down from the start
    Connected             the relay's wire is up
    Connecting again      the relay's wire is cut under a working tunnel
    (the TUN is deleted)  under the running process; a new one takes its place
    Error                 the engine's own packets, and no others, lose their way to the relay: offline
    Disconnected again    Ctrl-C, the explicit disconnect

What enforces is the VPN-service mode: the TUN, the routes into it, and `unreachable` beneath them; no firewall.
What that cannot stop are the probes of the group "limit": they are sent, and what was seen is told, but it is no
failure. In the firewall mode nftables stops them, and they are judged like all others. From the first Connecting to
the explicit disconnect a drizzle of datagrams, and a TCP connection opened before the tunnel, go on without a pause:
each frame in clear in all that time is a leak, also between the rounds.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType

from engine.leaklab import servers
from engine.leaklab.capture import Capture, Frame
from engine.leaklab.probes import BIG, Attempt, Drizzle, How, Probe, bound_as_nobody, cast, dns, ping, run_all, tcp, udp
from engine.policy import MARK
from tests.netns import lab
from tests.netns.engines import MOLEHILL, WIREGUARD_GO, Engine, Keys, config
from tests.netns.lab import Process, wait_until, world

RELAYS = {"molehill": MOLEHILL, "wireguard-go": WIREGUARD_GO}
ALLOWED = {"arp", "ndp", "nd", "dhcp", "mld", "wireguard", "bridge"}
BRIDGE_PORTS = {"udp-over-tcp": ("tcp", 443), "shadowsocks": ("udp", 8388)}
BRIDGE_PASSWORD = "correct horse battery staple"


class Seen(StrEnum):
    """What became of a probe; see `probes`."""

    TUNNEL = "tunnel"
    CLEAR = "clear"
    BLOCKED = "blocked"
    ODD = "odd"


def _probes() -> tuple[Probe, ...]:
    dns_port = servers.DNS_PORT
    return (
        Probe("TCP to the internet", "internet", tcp(lab.WEB4)),
        Probe("TCP to the internet, IPv6", "internet", tcp(lab.WEB6)),
        Probe("UDP to the internet", "internet", udp(lab.WEB4)),
        Probe("UDP to the internet, IPv6", "internet", udp(lab.WEB6)),
        Probe("UDP in fragments", "internet", udp(lab.WEB4, size=BIG)),
        Probe("UDP in fragments, IPv6", "internet", udp(lab.WEB6, size=BIG)),
        Probe("ping", "internet", ping(lab.WEB4)),
        Probe("ping, IPv6", "internet", ping(lab.WEB6)),
        Probe("DNS to the relay's resolver", "internet", dns(lab.GATEWAY4)),
        Probe("DNS to the relay's resolver, TCP", "internet", tcp(lab.GATEWAY4, dns_port)),
        Probe("DNS to the provider's resolver", "other DNS", dns(lab.ISP4)),
        Probe("DNS to the provider's resolver, TCP", "other DNS", tcp(lab.ISP4, dns_port)),
        Probe("DNS to the provider's resolver, IPv6", "other DNS", dns(lab.ISP6)),
        Probe("DNS to a public resolver", "other DNS", dns(lab.RESOLVER4)),
        Probe("DNS to a public resolver, TCP", "other DNS", tcp(lab.RESOLVER4, dns_port)),
        Probe("DNS to a public resolver, IPv6", "other DNS", dns(lab.RESOLVER6)),
        Probe("DNS to a LAN host", "other DNS", dns(lab.LAN_HOST4)),
        Probe("TCP to a LAN host", "LAN", tcp(lab.LAN_HOST4)),
        Probe("UDP to a LAN host", "LAN", udp(lab.LAN_HOST4)),
        Probe("UDP to a LAN host, IPv6", "LAN", udp(lab.LAN_HOST6)),
        Probe("ping to a LAN host", "LAN", ping(lab.LAN_HOST4)),
        Probe("UDP in fragments to a LAN host", "LAN", udp(lab.LAN_HOST4, size=BIG)),
        Probe("TCP from a LAN host to the device", "LAN", tcp(lab.DEVICE4), role="lan"),
        Probe("multicast 239.1.2.3", "LAN", cast("239.1.2.3"), one_way=True),
        Probe("broadcast 255.255.255.255", "LAN", cast("255.255.255.255"), one_way=True),
        Probe("UDP from the physical address", "bypass", udp(lab.WEB4, how=How(source=lab.DEVICE4))),
        Probe("TCP from the physical address, IPv6", "bypass", tcp(lab.WEB6, how=How(source=lab.DEVICE6))),
        Probe("our own UDP to the relay's port", "bypass", cast(lab.RELAY4, lab.RELAY_PORT), one_way=True),
        Probe("TCP from the internet to the device", "inbound", tcp(lab.DEVICE4), role="internet"),
        Probe("UDP from the internet, IPv6", "inbound", udp(lab.DEVICE6), role="internet"),
        Probe("ping from the internet", "inbound", ping(lab.DEVICE4), role="internet"),
        Probe("UDP to a LAN host bound to eth0, by root", "limit", udp(lab.LAN_HOST4, how=How(device="eth0"))),
        Probe("TCP bound to eth0, by root", "limit", tcp(lab.WEB4, how=How(device="eth0"))),
        Probe("UDP bound to eth0, by a user", "limit", bound_as_nobody(lab.WEB4), one_way=True),
        Probe("UDP bound to eth0, IPv6, by root", "limit", udp(lab.WEB6, how=How(device="eth0"))),
        Probe("broadcast of the LAN's own subnet", "limit", cast(lab.LAN4 + "255"), one_way=True),
        Probe("multicast ff05::1234", "limit", cast("ff05::1234"), one_way=True),
    )


PROBES = _probes()


def expected(group: str, state: str, allow_lan: bool, firewall: bool = False) -> Seen | None:
    """What must be seen of a probe (policy ids DIS-1, CON-1, CTD-1, CTD-2, ERR-1, LAN-1); None: no promise."""
    if state == "disconnected":
        return Seen.CLEAR
    if group == "limit" and not (firewall and not allow_lan):  # some of them are the LAN's
        return None
    if group == "internet":
        return Seen.TUNNEL if state == "connected" else Seen.BLOCKED
    if group == "LAN":
        return Seen.CLEAR if allow_lan else Seen.BLOCKED
    return Seen.BLOCKED


def judge(probe: Probe, attempt: Attempt, frames: Sequence[Frame]) -> Seen:
    """What became of one attempt, by the capture first and the answer second."""
    if any(frame.carries(token) for frame in frames for token in attempt.tokens):
        return Seen.CLEAR
    if attempt.source is None:
        return Seen.BLOCKED
    return Seen.TUNNEL if attempt.source in (lab.TUNNEL4, lab.TUNNEL6, "") else Seen.ODD


@dataclass(frozen=True)
class Row:
    """One probe in one state."""

    probe: Probe
    expected: Seen | None
    seen: Seen
    answered: bool
    detail: str

    @property
    def ok(self) -> bool:
        """As expected; and in clear means answered too, else the control would prove nothing."""
        if self.expected is None:
            return True
        return self.seen is self.expected and (self.seen is not Seen.CLEAR or self.answered or self.probe.one_way)


@dataclass(frozen=True)
class Round:
    """All probes in one state: its title, the seconds it took to get there, and the rows."""

    title: str
    state: str
    reached_after: float
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Every row as expected."""
        return all(row.ok for row in self.rows)


class Walk:
    """The lab of the scenario with its relay, servers and capture; `rounds()` walks. A context manager."""

    def __init__(
        self,
        relay: str = "molehill",
        profile: str = "",
        allow_lan: bool = False,
        firewall: bool = False,
        bridge: str = "",
        progress: Callable[[str], None] = print,
    ) -> None:
        self.allow_lan, self.profile, self.progress, self.firewall = allow_lan, profile, progress, firewall
        self.bridge = bridge
        self.bridge_end: Process | None = None
        self.lab = world()
        self.servers = servers.Servers()
        self.capture: Capture | None = None
        self.drizzle: Drizzle | None = None
        self.guarded_from = self.guarded_to = float("inf")
        self.run: Process | None = None
        self._limits: list[str] = []
        try:
            self.keys, self.relay_keys = Keys.new(), Keys.new()
            self.relay = Engine(self.lab, self.lab["relay"], f"mh{self.lab.tag}r", RELAYS[relay])
            inside = f"{lab.TUNNEL4}/32,{lab.TUNNEL6}/128"
            self.relay.setconf(config(self.relay_keys, self.keys.public, inside, port=lab.RELAY_PORT))
            self.relay.up([lab.GATEWAY4 + "/24", lab.GATEWAY6 + "/64"])
            for role, addresses in (
                ("isp", (lab.ISP4, lab.ISP6)),
                ("lan", (lab.LAN_HOST4, lab.LAN_HOST6)),
                ("internet", (lab.WEB4, lab.WEB6, lab.RESOLVER4, lab.RESOLVER6)),
                ("relay", (lab.GATEWAY4, lab.GATEWAY6)),
                ("device", (lab.DEVICE4, lab.DEVICE6)),
            ):
                self.servers.add(self.lab[role], *addresses)
            self.servers.start()
            if bridge:
                self.start_bridge()
                protocol, port = BRIDGE_PORTS[bridge]
                self.capture = Capture(self.lab["isp"], "dev0", [], (protocol, lab.BRIDGE4, port))
            else:
                self.capture = Capture(self.lab["isp"], "dev0", [(lab.RELAY4, lab.RELAY_PORT)])
        except BaseException:
            self.close()
            raise

    def start_bridge(self, cipher: str = "chacha20-ietf-poly1305") -> None:
        """Start the far end of the bridge, on the internet: our own relay, or shadowsocks-libev's server."""
        internet, (protocol, port) = self.lab["internet"], BRIDGE_PORTS[self.bridge]
        if self.bridge == "udp-over-tcp":
            words = ["--listen", f"{lab.BRIDGE4}:{port}", "--to", f"{lab.RELAY4}:{lab.RELAY_PORT}"]
            self.bridge_end = self.lab.start(internet, "molehill", "bridge-relay", self.bridge, *words)
        else:
            words = ["-s", lab.BRIDGE4, "-p", str(port), "-k", BRIDGE_PASSWORD, "-m", cipher, "-U"]
            self.bridge_end = self.lab.start(internet, "ss-server", *words)
        flag = {"tcp": "-Hltn", "udp": "-Hlun"}[protocol]
        wait_until(lambda: lab.BRIDGE4 in internet.sh("ss", flag, f"sport = :{port}"), 15, f"the bridge {self.bridge}")

    def bridge_options(self, port: int = 0, password: str = BRIDGE_PASSWORD) -> list[str]:
        """What `molehill run` has to be told of the bridge; another port or password: a wrong one."""
        options = ["--bridge", f"{self.bridge}:{lab.BRIDGE4}:{port or BRIDGE_PORTS[self.bridge][1]}"]
        if self.bridge == "shadowsocks":
            secret = self.lab.dir / "bridge-password"
            secret.touch(mode=0o600)
            secret.write_text(password + "\n")
            options += ["--bridge-password-file", str(secret)]
        return options

    # The device's own tunnel: `molehill run`, asked for its state by `molehill status`.

    @property
    def iface(self) -> str:
        """Name of the device's tunnel interface."""
        return f"mh{self.lab.tag}"

    def write_conf(self) -> Path:
        """The device's configuration, as a file."""
        conf = self.lab.dir / f"{self.iface}.conf"
        conf.touch(mode=0o600)
        conf.write_text(
            f"[Interface]\nPrivateKey = {self.keys.private}\n"
            f"Address = {lab.TUNNEL4}/32, {lab.TUNNEL6}/128\nDNS = {lab.GATEWAY4}\n"
            f"[Peer]\nPublicKey = {self.relay_keys.public}\nAllowedIPs = 0.0.0.0/0, ::/0\n"
            f"Endpoint = {lab.RELAY4}:{lab.RELAY_PORT}\n"
        )
        return conf

    def start(self, *options: str) -> None:
        """Start `molehill run` on the device."""
        conf = self.write_conf()
        options = (*options, *(["--profile", self.profile] if self.profile else []))
        options = (*options, *(["--allow-lan"] if self.allow_lan else []))
        options = (*options, *(["--firewall"] if self.firewall else []))
        if self.bridge and "--bridge" not in options:
            options = (*options, *self.bridge_options())
        self.run = self.lab.start(self.lab["device"], "molehill", "run", str(conf), "--json", *options)

    def status(self) -> dict[str, object]:
        """What `molehill status --json` says; empty while nothing answers."""
        command = ["ip", "netns", "exec", self.lab["device"].name, "molehill", "status", "--json"]
        done = subprocess.run(command, env=self.lab.env, capture_output=True, text=True, check=False, timeout=20)
        if done.returncode != 0:
            return {}
        said = json.loads(done.stdout)
        return said if isinstance(said, dict) else {}

    def wait_for(self, state: str, timeout: float) -> float:
        """Wait until the device tells that it is in `state`, and says so when asked; returns the seconds it took."""

        def reached() -> bool:
            if self.run is None or not self.run.running:
                said = self.run.output() if self.run else ""
                raise RuntimeError(f"`molehill run` ended while {state} was awaited: {said.strip()[-2000:]}")
            told = [json.loads(line) for line in self.run.output().splitlines() if line.endswith("}")]
            return bool(told) and told[-1]["state"] == state and self.status().get("state") == state

        return wait_until(reached, timeout, f"state {state}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        """End `molehill run` (SIGINT is the explicit disconnect) and return its exit code."""
        assert self.run is not None
        return self.run.stop(how, patience=10)

    # Probing and judging.

    def probe(self, title: str, state: str, reached_after: float = 0) -> Round:
        """Run all probes and judge them for this state."""
        assert self.capture is not None
        begin = time.monotonic()
        attempts = run_all(self.lab, PROBES)
        self.capture.flush()
        frames = [frame for frame in self.capture.frames if frame.at >= begin]
        rows = [
            Row(
                probe, expected(probe.group, state, self.allow_lan, self.firewall), judge(probe, attempt, frames),
                attempt.source is not None, attempt.error,
            )
            for probe, attempt in zip(PROBES, attempts, strict=True)
        ]  # fmt: skip
        if not self.firewall:
            self._limits += [t for p, a in zip(PROBES, attempts, strict=True) if p.group == "limit" for t in a.tokens]
        return Round(title, state, reached_after, tuple(rows))

    def guard(self) -> None:
        """From now on every frame in clear is a leak."""
        self.guarded_from, self.guarded_to = time.monotonic(), float("inf")

    def unguard(self) -> None:
        """The explicit disconnect is about to be asked for."""
        assert self.capture is not None
        self.capture.flush()
        self.guarded_to = time.monotonic()

    def leaks(self) -> list[Frame]:
        """Frames in clear while the block was in force, but those of the probes that no TUN can stop."""
        assert self.capture is not None
        allowed = ALLOWED | ({"lan"} if self.allow_lan else set())
        return [
            frame
            for frame in self.capture.frames
            if self.guarded_from <= frame.at <= self.guarded_to
            and frame.kind not in allowed
            and not any(frame.carries(token) for token in self._limits)
        ]

    def cut_relay(self, cut: bool) -> None:
        """Pull or plug the relay's wire (at the far end of the internet: the provider sees no change)."""
        self.lab["internet"].ip(f"link set rel0 {'down' if cut else 'up'}")
        if not cut:  # routes go with a link that is down
            relay4, relay6 = lab.RELAY4, lab.RELAY6
            self.lab["internet"].ip("addr replace 2001:db8:100::1/64 dev rel0 nodad")
            self.lab["internet"].ip(f"route replace 10.64.0.0/24 via {relay4} mtu 1280")
            self.lab["internet"].ip(f"-6 route replace fc00:64::/64 via {relay6} mtu 1280")

    def lose_the_way(self, lost: bool) -> None:
        """Close or open the way to the relay for the engine's own packets alone: it is offline, nobody else is."""
        self.lab["device"].ip(f"rule {'add' if lost else 'del'} pref 50 fwmark {MARK:#x} unreachable")

    def rounds(self) -> Iterator[Round]:
        """Walk through the states; see the head of this file."""
        yield self.probe("Disconnected", "disconnected")
        self.drizzle = Drizzle(self.lab["device"])
        self.cut_relay(True)
        self.progress("molehill run, with the relay unreachable")
        self.start()
        took = self.wait_for("connecting", 20)
        self.guard()
        self.drizzle.start()
        yield self.probe("Connecting, the relay unreachable", "connecting", took)
        self.progress("the relay's wire is plugged in")
        self.cut_relay(False)
        took = self.wait_for("connected", 40)
        yield self.probe("Connected", "connected", took)
        self.progress("the relay's wire is cut; waiting for the device to notice")
        self.cut_relay(True)
        took = self.wait_for("connecting", 60)
        yield self.probe("Connecting, the relay cut off", "connecting", took)
        self.progress("the TUN is deleted under the running process")
        device = self.lab["device"]
        device.ip(f"link del {self.iface}")
        wait_until(lambda: device.has_interface(self.iface), 20, "a new TUN")
        self.progress("the engine's own way to the relay is closed, all others are open: offline")
        self.lose_the_way(True)
        took = self.wait_for("error", 20)
        yield self.probe("Error, no way to the relay", "error", took)
        self.progress("Ctrl-C")
        self.drizzle.close()
        self.unguard()
        self.stop()
        self.lose_the_way(False)
        self.cut_relay(False)
        yield self.probe("Disconnected by Ctrl-C", "disconnected")

    def close(self) -> None:
        """Everything off."""
        if self.drizzle is not None:
            self.drizzle.close()
        if self.run is not None and self.run.running:
            self.run.stop(signal.SIGINT)
        if self.capture is not None:
            self.capture.close()
        self.servers.close()
        self.lab.close()

    def __enter__(self) -> Walk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
