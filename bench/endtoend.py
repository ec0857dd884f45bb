"""End to end: engines side by side in two namespaces, the same engine on both ends, one TCP stream through.

    python -m bench.endtoend [--engine NAME=COMMAND ...] [--rounds 5] [--seconds 4] [--json FILE]

Two namespaces joined by a veth of MTU 1500, tunnel MTU 1420. This harness sets gso_max_size of the tunnel interface
for all engines alike, so that one super-packet is one burst of full segments. A machine's speed drifts with its
neighbours, so the engines take turns within each round and what counts is the ratio of medians in one run; CPU
seconds per GB (10^9 bytes) of the engine processes, both ends and all threads, hardly swing at all.

Order of events in one turn: fresh namespaces -> both engines up -> `wg setconf` -> a ping -> CPU, idle for a while,
CPU (first round only) -> CPU, iperf3, CPU -> peak memory -> everything removed.

COMMAND is a command line with {iface}, for any program with wireguard-go's command line. Without --engine:
wireguard-go (Debian's), molehill with the cipher kernel it chooses here and with each simpler one forced, and
molehill-nocrypto (bench/nocrypto_build.py), the ceiling of our own datapath.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.nocrypto_build import build
from native.aead import kernel
from tests.netns.engines import MOLEHILL, WIREGUARD_GO, Engine, Keys, config
from tests.netns.lab import Lab, Namespace, pair, sh, wait_until
from tests.netns.userns import need_namespaces

MTU = 1420
GSO_MAX_SIZE = 65000 // (MTU + 32) * (MTU - 52)  # 44 segments: what one UDP_SEGMENT send of 65000 bytes carries
VETH, NOCRYPTO, LIBCRYPTO = "bare veth", "molehill-nocrypto", "molehill-libcrypto"
# Of one engine's throughput to another's.
TARGETS = ((LIBCRYPTO, "wireguard-go", 8.0), (LIBCRYPTO, NOCRYPTO, 0.40), ("molehill", NOCRYPTO, 0.60))


@dataclass
class Result:
    """What was measured of one engine, one entry a round (idle: one in all)."""

    name: str
    gbits: list[float] = field(default_factory=list)
    cpu_per_gb: list[float] = field(default_factory=list)
    peak_rss_mib: list[float] = field(default_factory=list)
    idle_percent: list[float] = field(default_factory=list)


def iperf3(lab: Lab, client: Namespace, server: Namespace, address: str, seconds: float) -> tuple[float, float]:
    """One TCP stream from client to server; returns (Gbit/s, GB) as received."""
    sink = lab.start(server, "iperf3", "-s", "-1", "-B", address)
    wait_until(lambda: address in server.sh("ss", "-Hltn", "sport = :5201"), 5, "iperf3's server")
    report = json.loads(client.sh("iperf3", "-c", address, "-t", str(seconds), "-J"))
    sink.stop()
    received = report["end"]["sum_received"]
    return received["bits_per_second"] / 1e9, received["bytes"] / 1e9


def tunnel(lab: Lab, command: str) -> tuple[Engine, Engine]:
    """The engine on both ends of a pair, configured and pinged through."""
    ours, theirs = Keys.new(), Keys.new()
    ends = [Engine(lab, lab[role], f"mh{lab.tag}{role}", command) for role in "ab"]
    ends[0].setconf(config(ours, theirs.public, "10.9.0.2/32", endpoint="172.16.9.2:51820"))
    ends[1].setconf(config(theirs, ours.public, "10.9.0.1/32", port=51820))
    for number, end in enumerate(ends, 1):
        end.up([f"10.9.0.{number}/24"], mtu=MTU)
        end.ns.ip(f"link set {end.iface} gso_max_size {GSO_MAX_SIZE}")
    lab["a"].sh("ping", "-c", "1", "-W", "5", "10.9.0.2")
    return ends[0], ends[1]


def measure(command: str, result: Result, seconds: float, idle: float) -> None:
    """One turn of one engine; appends to its result."""
    with pair() as lab:
        ends = tunnel(lab, command)

        def cpu() -> float:
            return sum(end.cost().cpu for end in ends)

        if idle:
            time.sleep(0.5)
            before = cpu()
            time.sleep(idle)
            result.idle_percent.append((cpu() - before) / idle / len(ends) * 100)
        before = cpu()
        gbits, gigabytes = iperf3(lab, lab["a"], lab["b"], "10.9.0.2", seconds)
        result.cpu_per_gb.append((cpu() - before) / gigabytes)
        result.gbits.append(gbits)
        result.peak_rss_mib.append(max(end.cost().peak_rss for end in ends) / (1 << 20))


def bare(result: Result, seconds: float) -> None:
    """The veth without a tunnel: what the machine and iperf3 give at best."""
    with pair() as lab:
        result.gbits.append(iperf3(lab, lab["a"], lab["b"], "172.16.9.2", seconds)[0])


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    middle = f"{statistics.median(values):.{digits}f}"
    return f"{middle} ({min(values):.{digits}f}..{max(values):.{digits}f})" if len(values) > 1 else middle


def table(results: Sequence[Result]) -> str:
    """A Markdown table, ratios of throughput first."""
    medians = {result.name: statistics.median(result.gbits) for result in results}
    bases = [name for name in ("wireguard-go", NOCRYPTO) if name in medians]
    head = ["engine", *(f"x {name}" for name in bases), "Gbit/s", "CPU s/GB", "peak RSS MiB", "idle CPU %"]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for result in results:
        ratios = [f"{medians[result.name] / medians[base]:.2f}" for base in bases]
        cells = [
            result.name, *ratios, _spread(result.gbits, 2), _spread(result.cpu_per_gb, 2),
            f"{max(result.peak_rss_mib):.0f}" if result.peak_rss_mib else "", _spread(result.idle_percent, 2),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdicts(results: Sequence[Result]) -> list[str]:
    """One line for each target: met or not; the CPU ratio beside it holds on a busy machine too."""
    medians = {result.name: statistics.median(result.gbits) for result in results}
    cpu = {result.name: statistics.median(result.cpu_per_gb) for result in results if result.cpu_per_gb}
    lines = []
    for name, base, target in TARGETS:
        if name in medians and base in medians:
            ratio = medians[name] / medians[base]
            met = "met" if ratio >= target else "NOT met"
            by_cpu = f"by engine CPU per GB {cpu[base] / cpu[name]:.2f}"
            lines.append(f"{name} / {base}: {ratio:.2f}, target {target:.2f}: {met} ({by_cpu})")
    return lines


def _simpler_kernels() -> list[str]:
    """The cipher kernels below the one that is chosen on this machine."""
    ladder = ["avx512", "avx2", "libcrypto"]
    chosen = kernel()
    return ladder[ladder.index(chosen) + 1 :]


def _engines(given: Sequence[str]) -> dict[str, str]:
    if given:
        return dict(item.split("=", 1) for item in given)
    root = build()
    nocrypto = f"env PYTHONPATH={root} {sys.executable} -P -m engine.tunnel.molehill_wg -f {{iface}}"
    forced = {f"molehill-{name}": f"env MOLEHILL_AEAD={name} {MOLEHILL}" for name in _simpler_kernels()}
    return {"wireguard-go": WIREGUARD_GO, "molehill": MOLEHILL, **forced, NOCRYPTO: nocrypto}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.endtoend", description="Engines side by side, end to end.")
    parser.add_argument("--engine", action="append", default=[], metavar="NAME=COMMAND", help="COMMAND has {iface}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of each transfer")
    parser.add_argument("--idle", type=float, default=5, help="seconds of silence whose CPU is measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
    options = parser.parse_args(arguments)
    for item in options.engine:
        if "=" not in item or "{iface}" not in item:
            parser.error(f"--engine {item}: want NAME=COMMAND with {{iface}} in COMMAND")
    need_namespaces()
    engines = _engines(options.engine)
    load = os.getloadavg()[0]
    results = [Result(VETH), *(Result(name) for name in engines)]
    for number in range(options.rounds):
        for result in results:
            print(f"round {number + 1} of {options.rounds}: {result.name}", file=sys.stderr, flush=True)
            if result.name == VETH:
                bare(result, options.seconds)
            else:
                measure(engines[result.name], result, options.seconds, 0 if number else options.idle)
    kernel = sh("uname", "-r").strip()
    print(f"One TCP stream, veth 1500, tunnel MTU {MTU}, gso_max_size {GSO_MAX_SIZE}, Linux {kernel},")
    print(f"{os.cpu_count()} CPUs, load {load:.1f} before the first round;")
    print(
        f"median (min..max) of {options.rounds} rounds of {options.seconds:g} s; CPU: user + system of both engines.\n"
    )
    print(table(results))
    if load > 1:
        print("\nThe machine was busy with other work: only CPU s/GB can be compared with other runs.")
    lines = verdicts(results)
    print("\n" + "\n".join(lines) if lines else "")
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    return 1 if any("NOT" in line for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
