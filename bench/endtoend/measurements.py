"""What is measured of an engine in a scene. Each function returns numbers by name; `QUANTITIES` says what they are.

TCP by iperf3 and its own count at the receiver; UDP by load.c, which leaves more of the machine to the engine; round
trips by ping. CPU per GB (10^9 bytes of payload) and per packet are of what arrived. A name that begins with
"plain-" is the same measurement on a wire without offloads.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from bench.endtoend.scene import MTU, Scene, ping_times
from tests.netns.lab import Lab, Namespace, Process, wait_until

ROOT = Path(__file__).resolve().parents[2]
PACED_MBITS = 300
FULL = MTU - 28  # payload of a datagram that fills the tunnel's MTU
SMALL = 64
_PING_SECONDS = 0.005  # between two pings

Numbers = dict[str, float]


@dataclass(frozen=True)
class Quantity:
    """One number of a measurement: what to call it, digits behind the point, and whether more of it is better."""

    title: str
    unit: str
    digits: int
    more_is_better: bool = False


QUANTITIES = {
    "gbits": Quantity("throughput", "Gbit/s", 2, more_is_better=True),
    "kpps": Quantity("delivered", "kpps", 1, more_is_better=True),
    "cpu_gb": Quantity("engine CPU, both ends", "s/GB", 2),
    "machine_gb": Quantity("CPU of the machine", "s/GB", 2),
    "cpu_packet": Quantity("engine CPU a packet, both ends", "us", 2),
    "machine_packet": Quantity("CPU of the machine a packet", "us", 2),
    "loss": Quantity("loss", "%", 3),
    "ping_us": Quantity("round trip, median", "us", 0),
    "ping_p99_us": Quantity("round trip, 99th percentile", "us", 0),
    "first_us": Quantity("first packet to reply", "us", 0),
    "rss": Quantity("peak memory of an end", "MiB", 1),
    "idle": Quantity("CPU of an idle end", "%", 2),
}


@cache
def _load() -> str:
    """The command of load.c, built when it is missing or older than its source."""
    source, target = Path(__file__).with_name("load.c"), ROOT / "build" / "bench" / "load"
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["gcc", "-O2", "-Wall", "-D_GNU_SOURCE", source, "-o", target], check=True)
    return str(target)


@contextmanager
def _sink(lab: Lab, server: Namespace, address: str) -> Iterator[Process]:
    """iperf3's server for one run."""
    process = lab.start(server, "iperf3", "-s", "-1", "-B", address)
    wait_until(lambda: address in server.sh("ss", "-Hltn", "sport = :5201"), 5, "iperf3's server")
    yield process
    process.stop()


def iperf3(
    lab: Lab,
    client: Namespace,
    server: Namespace,
    address: str,
    seconds: float,
    *,
    streams: int = 1,
    reverse: bool = False,
) -> tuple[float, float]:
    """TCP streams from client to server, or back; returns (Gbit/s, GB) as received."""
    way = ["-R"] if reverse else []
    with _sink(lab, server, address):
        command = ("iperf3", "-c", address, "-t", str(seconds), "-P", str(streams), "-J", *way)
        report = json.loads(client.sh(*command))
    received = report["end"]["sum_received"]
    return received["bits_per_second"] / 1e9, received["bytes"] / 1e9


def tcp(scene: Scene, seconds: float, *, streams: int, reverse: bool) -> Numbers:
    """TCP streams from a to b, or back."""
    with scene.spent() as spent:
        gbits, gigabytes = iperf3(
            scene.lab, scene.a, scene.b, scene.target, seconds, streams=streams, reverse=reverse
        )  # fmt: skip
    return {"gbits": gbits, "cpu_gb": spent.engines / gigabytes, "machine_gb": spent.machine / gigabytes}


def udp(scene: Scene, seconds: float, *, size: int, per_second: float) -> Numbers:
    """Datagrams of `size` bytes from a to b, so many a second (0: as many as one sender can make)."""
    sink = scene.lab.start(scene.b, _load(), "receive", scene.target, "7000")
    wait_until(lambda: scene.target in scene.b.sh("ss", "-Hlun", "sport = :7000"), 5, "the receiver")
    with scene.spent() as spent:
        said = scene.a.sh(_load(), "send", scene.target, "7000", str(size), str(per_second), str(seconds))
    sent = int(said)
    sink.popen.wait(20)
    arrived, _ = sink.output().split()
    packets = int(arrived)
    if not packets:
        raise RuntimeError("not one datagram arrived")
    gigabytes = packets * size / 1e9
    return {
        "kpps": packets / spent.seconds / 1e3,
        "gbits": gigabytes * 8 / spent.seconds,
        "loss": 100 * (sent - packets) / sent,
        "cpu_packet": spent.engines / packets * 1e6,
        "machine_packet": spent.machine / packets * 1e6,
        "cpu_gb": spent.engines / gigabytes,
    }


def _ping(scene: Scene, seconds: float) -> Numbers:
    count = max(20, int(seconds / _PING_SECONDS))
    said = scene.a.sh("ping", "-n", "-i", str(_PING_SECONDS), "-c", str(count), "-W", "1", scene.target)
    times = sorted(ping_times(said))
    return {
        "ping_us": statistics.median(times) * 1e3,
        "ping_p99_us": times[int(0.99 * (len(times) - 1))] * 1e3,
        "loss": 100 * (count - len(times)) / count,
    }


def ping_idle(scene: Scene, seconds: float) -> Numbers:
    """Round trips with nothing else to do."""
    return _ping(scene, seconds)


def ping_loaded(scene: Scene, seconds: float) -> Numbers:
    """Round trips beside one TCP stream that takes what it can get."""
    with _sink(scene.lab, scene.b, scene.target):
        client = scene.lab.start(scene.a, "iperf3", "-c", scene.target, "-t", str(seconds + 60))
        time.sleep(0.5)
        numbers = _ping(scene, seconds)
        client.stop()
    return numbers


def first_reply(scene: Scene, seconds: float) -> Numbers:
    """The scene's very first ping: handshake and all."""
    return {"first_us": scene.first_reply_ms * 1e3}


def idle(scene: Scene, seconds: float) -> Numbers:
    """What an engine with a session and nothing to carry costs."""
    with scene.spent() as spent:
        time.sleep(seconds)
    return {"idle": spent.engines / spent.seconds / 2 * 100}


def memory(scene: Scene, seconds: float) -> Numbers:
    """The most that an end has held in memory so far."""
    return {"rss": scene.peak_rss / (1 << 20)}


_ALL: dict[str, tuple[str, Callable[[Scene, float], Numbers]]] = {
    "first": ("the first packet on a fresh start", first_reply),
    "tcp1": ("TCP, 1 stream", partial(tcp, streams=1, reverse=False)),
    "tcp1-back": ("TCP, 1 stream back", partial(tcp, streams=1, reverse=True)),
    "tcp4": ("TCP, 4 streams", partial(tcp, streams=4, reverse=False)),
    "tcp4-back": ("TCP, 4 streams back", partial(tcp, streams=4, reverse=True)),
    "udp-small": (f"UDP, {SMALL} B as fast as they come", partial(udp, size=SMALL, per_second=0)),
    "udp-full": (f"UDP, {FULL} B as fast as they come", partial(udp, size=FULL, per_second=0)),
    "udp-paced": (
        f"UDP, {FULL} B, {PACED_MBITS} Mbit/s",
        partial(udp, size=FULL, per_second=PACED_MBITS * 1e6 / 8 / FULL),
    ),
    "ping": ("ping, idle", ping_idle),
    "ping-loaded": ("ping, beside a TCP stream", ping_loaded),
    "idle": ("idle", idle),
    "memory": ("memory", memory),
}
PLAIN = "plain-"
OF_ENGINES = frozenset({"first", "idle", "memory"})
"""Measurements that say nothing of the bare wire."""

MEASUREMENTS = tuple(_ALL)
ON_PLAIN_WIRE = tuple(PLAIN + name for name in ("tcp1", "tcp1-back", "udp-small", "udp-paced", "ping-loaded"))


def title(name: str) -> str:
    """What a measurement is called in a table."""
    plain = name.startswith(PLAIN)
    return _ALL[name.removeprefix(PLAIN)][0] + (", wire without offloads" if plain else "")


def measure(name: str, scene: Scene, seconds: float) -> Numbers:
    """Take one measurement in a scene of the right kind of wire."""
    return _ALL[name.removeprefix(PLAIN)][1](scene, seconds)
