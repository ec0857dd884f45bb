"""The world, the product and the witnesses together: bring the device into a state, watch, and say what was seen.

Order of events of a cell: a fresh start in Disconnected -> `reach(condition)` -> `watch(condition)`, from the moment
the product has answered -> whatever the test does -> `unwatch` -> `out_of_place`: the frames that the condition does
not permit -> `leave`: the explicit disconnect, after which nothing may be left in the machine.

The witnesses stand at the provider's end of the device's wires. Others stand with the neighbours and beyond the
provider; what they see has left the device by all means.
"""

from __future__ import annotations

import socket
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from engine.leaklab import flood, world
from engine.leaklab.capture import Capture, Frame
from engine.leaklab.drivers import Daemon, Driver, Home, Run, configurations
from engine.leaklab.flood import PAST_THE_TUN, TOKEN, Flood
from engine.leaklab.frames import DNS_PORT, parse
from engine.leaklab.namespaces import Lab, Process, wait_until
from engine.leaklab.probes import Attempt, Probe, run_all
from engine.leaklab.relay import Keys, Relay
from engine.leaklab.servers import Heard, Servers

FLOOD_RATE = 50.0  # rounds a second
GRACE = 0.02  # seconds after an answer in which a frame that was under way already may still arrive
API = (world.WEB4, 8443)
DRIVERS: dict[str, type[Driver]] = {"daemon": Daemon, "run": Run}
_RELAYS = [(world.RELAY4, world.RELAY_PORT), (world.RELAY2_4, world.RELAY_PORT)]
_BRIDGE = ("tcp", world.BRIDGE4, 443)
_ALWAYS = {"arp", "ndp", "dhcp"}
_KERNELS_OWN = {"nd", "mld"}  # what a TUN does not see (LNX-3)
_TRACES = ("rule", "-6 rule", "route show table all", "-6 route show table all", "-brief link")


_OURS = (world.DEVICE4, world.DEVICE6, "fd77::2", world.TUNNEL4, world.TUNNEL6, world.TUNNEL2_4, world.TUNNEL2_6)
WIRES = ("the device's wire", "its second wire")


@dataclass(frozen=True)
class Condition:
    """A state and the settings that decide what it permits. `dns`: "" (the relay's), "public" or "private"; `bridge`:
    the first hop is a bridge, by UDP over TCP.
    """

    state: str  # disconnected, connecting, connected, error, lockdown, boot, killed
    lan: bool = False
    dns: str = ""
    api: bool = False
    bridge: bool = False

    @property
    def name(self) -> str:
        """For a table's head."""
        words = [self.state, *(["+LAN"] if self.lan else []), *([f"+{self.dns} DNS"] if self.dns else [])]
        return " ".join([*words, *(["+API"] if self.api else []), *(["+bridge"] if self.bridge else [])])

    @property
    def first_hop(self) -> bool:
        """Whether the relay may be reached."""
        return self.state in ("connecting", "connected", "killed")


DISCONNECTED = Condition("disconnected")


@dataclass(frozen=True)
class Window:
    """A time, in monotonic seconds, in which one of these conditions holds: more than one while they change."""

    since: float
    until: float
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Sighting:
    """A frame where the condition permits none, and where it was seen."""

    place: str
    frame: Frame
    since: float  # seconds after the condition began

    @property
    def letter(self) -> str:
        """The kind of the flood it belongs to; empty: none."""
        found = TOKEN.search(self.frame.data)
        return found[1].decode() if found else ""

    def line(self) -> str:
        """For people."""
        return f"{self.since:8.3f} s  {self.place}: {self.frame.line}"


class Arena:
    """See the head of this module; a context manager."""

    def __init__(self, driver: str = "daemon", firewall: bool = True, progress: Callable[[str], None] = print) -> None:
        self.firewall, self.progress = firewall, progress
        self._driver = driver
        self._build()

    def _build(self) -> None:
        self.lab: Lab = world.world()
        self.servers = Servers()
        self.api, self.resolver = API, world.LAN_HOST4  # what conditions with an API and a private DNS name
        self.captures: dict[str, Capture] = {}
        self.windows: list[Window] = []
        self._flood: Flood | None = None
        self._bridge: Process | None = None
        try:
            world.extend(self.lab)
            client, first, second = Keys.new(), Keys.new(), Keys.new()
            self.relays = (
                Relay(
                    self.lab, "relay", first, client.public, (f"{world.GATEWAY4}/24", f"{world.GATEWAY6}/64"),
                    (f"{world.TUNNEL4}/32", f"{world.TUNNEL6}/128"),
                ),
                Relay(
                    self.lab, "relay2", second, client.public, (f"{world.GATEWAY2_4}/24", f"{world.GATEWAY2_6}/64"),
                    (f"{world.TUNNEL2_4}/32", f"{world.TUNNEL2_6}/128"),
                ),
            )  # fmt: skip
            for relay in self.relays:
                relay.start()
            self._serve()
            self.home = Home(self.lab)
            confs = configurations(client, first, second)
            self.driver: Driver = DRIVERS[self._driver](self.lab, self.home, confs, self.firewall)
            for place, role, interface in (
                (WIRES[0], "isp", "dev0"),
                (WIRES[1], "isp", "dev1"),
                ("beyond the provider", "internet", "isp0"),
                ("the LAN host", "lan", "eth0"),
                ("the rogue neighbour", "rogue", "eth0"),
            ):
                self.captures[place] = Capture(self.lab[role], interface, _RELAYS, _BRIDGE, ignore=_RELAYS)
            with self.lab["device"].entered():
                self.macs = {_mac("eth0"), _mac("eth1")}
            self.baseline = self.traces()
        except BaseException:
            self.close()
            raise

    def _serve(self) -> None:
        for role, addresses in (
            ("isp", (world.ISP4, world.ISP6)),
            ("lan", (world.LAN_HOST4, world.LAN_HOST6)),
            ("internet", (world.WEB4, world.WEB6, world.RESOLVER4, world.RESOLVER6)),
            ("device", (world.DEVICE4, world.DEVICE6, "fd77::2")),
            ("relay", (world.GATEWAY4, world.GATEWAY6)),
            ("relay2", (world.GATEWAY2_4, world.GATEWAY2_6)),
        ):
            self.servers.add(self.lab[role], *addresses)
        self.servers.add_port(self.lab["internet"], *API)
        self.servers.start()

    def rebuild(self) -> None:
        """A new world in the place of this one."""
        self.close()
        self._build()

    # States

    def reach(self, condition: Condition) -> None:
        """From Disconnected to this condition, watched from the answer on; returns once no other may hold."""
        driver = self.driver
        changes: dict[str, object] = {}
        if condition.lan:
            changes["allow_lan"] = True
        if condition.dns:
            changes["dns"] = (world.RESOLVER4 if condition.dns == "public" else self.resolver,)
        if condition.api:
            changes["api"] = f"{self.api[0]}:{self.api[1]}/tcp"
        if changes:
            driver.settings(**changes)
        if condition.bridge:
            assert isinstance(driver, Daemon)
            self._start_bridge()
            driver.set_bridge(f"{_BRIDGE[1]}:{_BRIDGE[2]}")
        match condition.state:
            case "disconnected":
                pass
            case "connecting":
                self.cut_relays(True)
                driver.connect()
                self.watch(condition)
                driver.wait_for("connecting")
            case "connected" | "killed":
                self._connect(replace(condition, state="connected"))
                if condition.state == "killed":
                    driver.kill()
                    self.watch(condition)
            case "error":
                self._connect(replace(condition, state="connected"))
                driver.block()
                self.watch(condition)
                driver.wait_for("error")
            case "lockdown":
                driver.settings(always_require_vpn=True)
                if not driver.live:
                    driver.connect()
                    driver.disconnect()
                self.watch(condition)
                wait_until(lambda: driver.status().blocks, 20, "Disconnected blocks")
            case "boot":
                assert isinstance(driver, Daemon)
                driver.stop()
                driver.block_early()
                self.watch(condition)
            case other:
                raise ValueError(f"there is no way to {other!r}")
        if self.windows:
            time.sleep(max(0.0, self.windows[-1].since - time.monotonic()))

    def _start_bridge(self) -> None:
        """The far end of the bridge, on the internet; it stays."""
        if self._bridge is None:
            internet, (_, address, port) = self.lab["internet"], _BRIDGE
            words = ["--listen", f"{address}:{port}", "--to", f"{world.RELAY4}:{world.RELAY_PORT}"]
            self._bridge = self.lab.start(internet, "molehill", "bridge-relay", "udp-over-tcp", *words)
            wait_until(lambda: address in internet.sh("ss", "-ltn", f"sport = :{port}"), 15, "the bridge")

    def _connect(self, condition: Condition) -> None:
        self.driver.connect()
        self.watch(condition)
        self.driver.wait_for("connected")

    def begin(self) -> None:
        """Let the product run, in Disconnected; forget what was seen and heard."""
        if not self.driver.running:
            self.driver.start()
        self.api, self.resolver = API, world.LAN_HOST4
        self.settle()
        self.lost()
        self.windows.clear()
        self.servers.heard.clear()
        for capture in self.captures.values():
            capture.frames.clear()

    def leave(self) -> list[str]:
        """Back to Disconnected with the default settings; what is still in the machine then, one line each."""
        self.unwatch()
        self.cut_relays(False)
        if not self.driver.running:
            self.driver.start()  # it takes over what a killed one left
        self.driver.reset()
        return self.left_behind()

    def left_behind(self) -> list[str]:
        """What is in the machine that was not there before, one line each."""
        return [line for before, now in zip(self.baseline, self.traces(), strict=True) for line in now - before]

    def traces(self) -> list[set[str]]:
        """All that may be left in the machine, in the words of `ip` and `nft`."""
        device = self.lab["device"]
        told = [device.ip(words) for words in _TRACES]
        return [*({*text.splitlines()} for text in told), {*device.sh("nft", "list", "tables").splitlines()}]

    def cut_relays(self, cut: bool) -> None:
        """Pull or plug the relays' wires, at the far end of the internet: the provider sees no change."""
        internet = self.lab["internet"]
        for device, relay4, network in (("rel0", world.RELAY4, "10.64"), ("rel1", world.RELAY2_4, "10.65")):
            internet.ip(f"link set {device} {'down' if cut else 'up'}")
            if not cut:  # routes go with a link that is down
                internet.ip(f"route replace {network}.0.0/24 via {relay4} mtu 1280")
        if not cut:
            internet.ip("addr replace 2001:db8:100::1/64 dev rel0 nodad")
            internet.ip(f"-6 route replace fc00:64::/64 via {world.RELAY6} mtu 1280")

    # Watching

    @property
    def condition(self) -> Condition:
        """What holds now, or was asked for last."""
        return self.windows[-1].conditions[-1]

    def expect(self, condition: Condition) -> None:
        """This condition is about to be asked for: from now on it may hold, or what holds now."""
        now = time.monotonic()
        self.windows.append(Window(now, float("inf"), (*self._cut(now), condition)))

    def watch(self, condition: Condition) -> None:
        """From now on this condition holds; what held a moment ago is under way still."""
        now = time.monotonic()
        self.windows.append(Window(now, now + GRACE, (*self._cut(now), condition)))
        self.windows.append(Window(now + GRACE, float("inf"), (condition,)))

    def unwatch(self) -> None:
        """No condition holds from now on."""
        self._cut(time.monotonic())

    def _cut(self, now: float) -> tuple[Condition, ...]:
        """End what is watched; the conditions that may have held at this moment."""
        while self.windows and self.windows[-1].since > now:
            self.windows.pop()
        if not self.windows or self.windows[-1].until < now:
            return ()
        self.windows[-1] = replace(self.windows[-1], until=now)
        return self.windows[-1].conditions

    def settle(self) -> None:
        """Wait until the witnesses have read all that has been on their wires."""
        for capture in self.captures.values():
            capture.flush()

    def lost(self) -> int:
        """Frames that the witnesses missed since the last call; then nothing is proven."""
        return sum(capture.lost() for capture in self.captures.values())

    def judge(self) -> tuple[list[Sighting], list[Heard]]:
        """What no condition of its time permits: frames, from the first place where there were any, and what the
        device's own servers heard. It is judged once: what was seen and heard so far is forgotten.
        """
        self.settle()
        found: list[Sighting] = []
        for place, capture in self.captures.items():
            frames = capture.frames[:]
            del capture.frames[: len(frames)]
            if place in WIRES or not found:
                found += self._out_of_place(place, frames)
        heard = self.servers.heard[:]
        del self.servers.heard[: len(heard)]
        wrong = [each for each in heard if self._heard_out_of_place(each)]
        del self.windows[:-2]
        return found, wrong

    def _out_of_place(self, place: str, frames: list[Frame]) -> Iterator[Sighting]:
        for frame in frames:
            window = self._window_at(frame.at)
            if window is None or any(self.permits(condition, frame) for condition in window.conditions):
                continue
            if place in WIRES or (TOKEN.search(frame.data) and self._from_device(frame)):
                yield Sighting(place, frame, frame.at - window.since)

    def _window_at(self, at: float) -> Window | None:
        number = bisect_right(self.windows, at, key=lambda window: window.since) - 1
        return self.windows[number] if number >= 0 and at <= self.windows[number].until else None

    def _heard_out_of_place(self, heard: Heard) -> bool:
        """Whether this reached a server of the device from outside while no condition permitted it."""
        if heard.address not in _OURS or heard.source in _OURS:
            return False
        window = self._window_at(heard.at)
        lan = heard.source.startswith((world.LAN4, "fd77:"))
        return window is not None and not any(
            condition.state == "disconnected" or (condition.lan and lan) for condition in window.conditions
        )

    def _from_device(self, frame: Frame) -> bool:
        if frame.data[6:12] in self.macs:
            return True
        packet = parse(frame.data)
        return packet is not None and str(packet.source) in (world.DEVICE4, world.DEVICE6, world.SECOND4)

    def permits(self, condition: Condition, frame: Frame) -> bool:
        """Whether a frame of the device may be seen on a wire under this condition; see also `frames`."""
        kind = frame.kind
        if condition.state == "disconnected" or kind in _ALWAYS:
            return True
        if kind in _KERNELS_OWN:
            packet = parse(frame.data)
            return not self.firewall or (condition.lan and packet is not None and packet.to_lan)
        if kind in ("wireguard", "bridge"):
            return condition.first_hop and condition.bridge is (kind == "bridge")
        if kind == "lan":
            return condition.lan
        packet = parse(frame.data) if kind == "clear" and len(frame.data) > 34 else None
        if packet is None:
            return False
        if (str(packet.target), packet.dport) == self.api:
            return condition.api and condition.state != "connected"
        local_dns = condition.dns == "private" and condition.state in ("connected", "killed")
        return local_dns and (str(packet.target), packet.dport) == (self.resolver, DNS_PORT)

    # Probing

    def probe(self, probes: list[Probe]) -> tuple[list[Attempt], list[Frame], list[Heard]]:
        """Run probes at once; what became of each, and all that the device's wires and servers saw meanwhile."""
        begin = time.monotonic()
        attempts = run_all(self.lab, probes)
        self.settle()
        wires = [self.captures[place] for place in WIRES]
        frames = [frame for capture in wires for frame in list(capture.frames) if frame.at >= begin]
        return attempts, frames, [heard for heard in list(self.servers.heard) if heard.at >= begin]

    def flood(self) -> str:
        """See to it that everything floods, in Disconnected; the kinds that are not seen there, in words."""
        if self._flood is None:
            self._flood = Flood(self.lab, FLOOD_RATE, frozenset() if self.firewall else PAST_THE_TUN)
        self._flood.renew()
        begin = time.monotonic()
        unseen = set(self._flood.letters)

        def all_seen() -> bool:
            for frame in list(self.captures["the device's wire"].frames):
                if frame.at >= begin:
                    unseen.difference_update(flood.letters_of(frame))
            return not unseen

        try:
            wait_until(all_seen, 8, "the flood is seen")
        except TimeoutError:
            pass
        return "; ".join(map(flood.describe, sorted(unseen)))

    def flood_at_full_rate(self, full: bool) -> None:
        """Let everything be sent as fast as it goes, or as before."""
        if self._flood is not None:
            self._flood.full_rate(full)

    def flooded(self) -> int:
        """How many packets were tried since the flood was last asked."""
        return self._flood.renew() if self._flood is not None else 0

    def close(self) -> None:
        """Everything off."""
        driver = getattr(self, "driver", None)
        if driver is not None:
            driver.kill()
        for capture in self.captures.values():
            capture.close()
        self.servers.close()
        self.lab.close()

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _mac(interface: str) -> bytes:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((interface, 0))
        mac: bytes = sock.getsockname()[4]
        return mac
