"""`make demo`: the tunnel walked through its states on real packets, then measured. No configuration.

    python -m tests.netns.demo [--relay molehill|wireguard-go] [--profile NAME] [--allow-lan] [--firewall]
                                [--pcap FILE]

What happens is told in `scenario`; here it is printed: progress while it works, one table of all states, the leaks
if any, the throughput of the tunnel beside the bare path. Exit code 0: every probe as expected and nothing leaked;
1: not so; 2: bad arguments.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.endtoend.measurements import iperf3
from engine.leaklab.rights import need_namespaces
from tests.netns import lab
from tests.netns.engines import cost_of
from tests.netns.scenario import PROBES, RELAYS, Round, Row, Seen, Walk

_COLOURS = {"green": "32", "red": "31;1", "yellow": "33", "dim": "2", "bold": "1"}
_SECONDS = 3  # of each throughput measurement
_LIMITS = """\
The group "limit" is sent, not judged: no routing rule is asked for a broadcast or an IPv6 multicast of
the link, nor for an IPv4 socket bound to a device: that one reaches any host that answers ARP there.
Only a firewall stops those (--firewall). Error was provoked by closing the engine's own way to the relay: offline.
"""


def paint(text: str, colour: str) -> str:
    """The text in colour, if a person is looking."""
    return f"\033[{_COLOURS[colour]}m{text}\033[0m" if sys.stdout.isatty() else text


def _cell(row: Row, width: int) -> str:
    """What was seen, and if it is not what was expected, that."""
    seen = row.seen if row.answered or row.probe.one_way or row.seen is not Seen.CLEAR else "clear, no answer"
    if row.expected is None:
        return paint(f"({seen})".ljust(width), "yellow")
    if row.ok:
        return paint(str(seen).ljust(width), "green")
    return paint(f"{seen}, want {row.expected}".ljust(width), "red")


def table(rounds: Sequence[Round]) -> str:
    """Probes down, states across; a cell says what was seen, and what was expected where that is something else."""
    name_width = max(len(probe.name) for probe in PROBES) + 1
    width = max(13, *(len(f"{row.seen}, want {row.expected}") + 1 for r in rounds for row in r.rows if not row.ok), 0)
    heads = [f"{number} {round_.state}".ljust(width) for number, round_ in enumerate(rounds, 1)]
    lines = [paint("".ljust(name_width) + " ".join(heads), "bold")]
    group = ""
    for index, probe in enumerate(PROBES):
        if probe.group != group:
            group = probe.group
            lines.append(paint(f"{group}" + (": what a TUN alone cannot stop" if group == "limit" else ""), "dim"))
        lines.append(probe.name.ljust(name_width) + " ".join(_cell(r.rows[index], width) for r in rounds))
    return "\n".join(lines)


def _throughput(walk: Walk) -> list[str]:
    """The bare path and the tunnel, one TCP stream from the device to the relay's host."""
    device, relay = walk.lab["device"], walk.lab["relay"]
    bare, _ = iperf3(walk.lab, device, relay, lab.RELAY4, _SECONDS)
    walk.start()
    walk.wait_for("connected", 30)
    assert walk.run is not None
    before, begin = cost_of(walk.run.pid).cpu, time.monotonic()
    time.sleep(2)
    idle = (cost_of(walk.run.pid).cpu - before) / (time.monotonic() - begin) * 100
    inside, _ = iperf3(walk.lab, device, relay, lab.GATEWAY4, _SECONDS)
    peak = cost_of(walk.run.pid).peak_rss / (1 << 20)
    walk.stop()
    return [
        f"  without the tunnel  {bare:6.2f} Gbit/s",
        f"  through the tunnel  {inside:6.2f} Gbit/s  ({inside / bare:.0%}; both ends and all hops on this machine)",
        f"  device process      {peak:6.1f} MiB peak memory, {idle:.1f} % CPU when idle",
    ]


def _say(text: str) -> None:
    print(paint(f"  ... {text}", "dim"), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Walk, print, judge."""
    parser = argparse.ArgumentParser(prog="tests.netns.demo", description="The tunnel walked through its states.")
    parser.add_argument("--relay", choices=sorted(RELAYS), default="molehill", help="the engine of the relay")
    parser.add_argument("--profile", default="", help="of `molehill run`: linux, android, ios")
    parser.add_argument("--allow-lan", action="store_true")
    parser.add_argument("--firewall", action="store_true", help="enforce by nftables too; the limits are judged then")
    parser.add_argument("--pcap", type=Path, metavar="FILE", help="write what the provider saw to a capture file")
    options = parser.parse_args(arguments)
    need_namespaces()
    begin = time.monotonic()
    print(paint("device --- provider --- internet --- relay, in namespaces of their own", "bold"), flush=True)
    with Walk(options.relay, options.profile, options.allow_lan, options.firewall, progress=_say) as walk:
        assert walk.capture is not None
        rounds = []
        for round_ in walk.rounds():
            rounds.append(round_)
            wrong = [row for row in round_.rows if not row.ok]
            after = f" (reached after {round_.reached_after:.1f} s)" if round_.reached_after else ""
            verdict = paint(f"{len(wrong)} wrong", "red") if wrong else paint("as expected", "green")
            print(f"{len(rounds)} {round_.title}{after}: {len(round_.rows)} probes, {verdict}", flush=True)
        leaks, frames, lost = walk.leaks(), len(walk.capture.frames), walk.capture.lost()
        if options.pcap:
            walk.capture.write_pcap(options.pcap)
        walk.capture.close()
        print("\n" + table(rounds) + "\n")
        judged = [row for round_ in rounds for row in round_.rows if row.expected is not None]
        print(
            f"{sum(row.ok for row in judged)} of {len(judged)} judged probes as expected; a cell that is not says so."
        )
        print("tunnel: answered, by way of the relay. clear: seen by the provider. blocked: neither.")
        if options.firewall:
            print("The firewall mode: the TUN and nftables, by one policy.")
            print("Error was provoked by closing the engine's own way to the relay.\n")
        else:
            print(_LIMITS)
        sent = "from the first Connecting to Ctrl-C, with datagrams and an old TCP connection going on without a pause"
        if leaks:
            print(paint(f"LEAKED: {len(leaks)} frames in clear {sent}:", "red"))
            for frame in leaks[:20]:
                print(f"  {frame.at - walk.guarded_from:8.3f} s  {frame.line}")
        else:
            print(paint("No frame in clear ", "green") + sent + f"\n(of {frames} frames that the provider saw).")
        if lost:
            print(paint(f"The capture itself lost {lost} frames: this run proves nothing.", "red"))
        print("\nThroughput, one TCP stream:", flush=True)
        print("\n".join(_throughput(walk)))
    wrong_rows = sum(not row.ok for round_ in rounds for row in round_.rows)
    good = not (leaks or wrong_rows or lost)
    took = f"{time.monotonic() - begin:.0f} s"
    print(
        "\n"
        + (paint(f"All as expected, in {took}.", "green") if good else paint(f"NOT as expected, in {took}.", "red"))
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
