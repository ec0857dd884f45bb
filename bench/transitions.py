"""How quick are the states? From `connect` to Connected against a live relay, and from an event to its enforcement.

    python -m bench.transitions [--rounds 20] [--json FILE]

In the lab's world of namespaces, with a real relay, TUN, routes and nftables, in both modes. A round: connect until
Connected is told (handshake and a ping to the gateway included) -> allow the LAN, and block it again: until that is
enforced and told -> block on request until Error is told -> disconnect until everything is removed. What is told has
been done (`Report` is an effect's last), so each time is an upper bound of the enforcement.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import uvloop

from engine.leaklab.rights import need_namespaces
from engine.service import Builder, Configuration, Session, State
from engine.wg.conf import parse_conf
from tests.netns import lab
from tests.netns.scenario import Walk

Times = dict[str, list[float]]


def configuration(walk: Walk, *, firewall: bool) -> Configuration:
    """The walk's own tunnel, in that mode."""
    conf = parse_conf(walk.write_conf().read_text())
    builder = Builder().set_wireguard(conf.device).set_interface(walk.iface).add_gateway(lab.GATEWAY4)
    for address in conf.addresses:
        builder.add_address(address)
    return builder.set_firewall(firewall).configuration()


async def measure(made: Configuration, rounds: int) -> Times:
    """The seconds that each step took, round by round."""
    times: Times = {}
    open_lan = replace(made, allow_lan=True)
    session = Session(made)
    await session.start(connecting=False)

    async def timed(what: str, act: Callable[[], None], done: Callable[[], Awaitable[object]]) -> None:
        begin = time.perf_counter()
        act()
        await done()
        times.setdefault(what, []).append(time.perf_counter() - begin)
        await session.settled()

    for _ in range(rounds):
        await timed("connect until Connected", session.connect, lambda: session.until(State.CONNECTED))
        await timed("allow the LAN", lambda: session.change(open_lan), session.settled)
        await timed("block the LAN", lambda: session.change(made), session.settled)
        await timed("block until Error", session.block, lambda: session.until(State.ERROR))
        await timed("disconnect", session.disconnect, lambda: session.until(State.DISCONNECTED))
    await session.leave(keep=False)
    return times


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both modes, print a table, write JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--json", type=Path)
    given = options.parse_args(arguments)
    need_namespaces()
    results: dict[str, Times] = {}
    for firewall in (False, True):
        mode = "firewall" if firewall else "vpn-service"
        print(f"{mode} ...", file=sys.stderr, flush=True)
        with Walk() as walk:
            walk.cut_relay(False)
            os.environ |= {"MOLEHILL_RUN_DIR": str(walk.lab.dir / "run"), "MOLEHILL_DNS": "none"}
            with walk.lab["device"].entered():
                results[mode] = uvloop.run(measure(configuration(walk, firewall=firewall), given.rounds))
    print("| median (min..max), ms | " + " | ".join(results) + " |")
    print("|---" + "|---:" * len(results) + "|")
    for what in next(iter(results.values())):
        cells = []
        for times in results.values():
            ms = [seconds * 1e3 for seconds in times[what]]
            cells.append(f"{statistics.median(ms):.1f} ({min(ms):.1f}..{max(ms):.1f})")
        print(f"| {what} | " + " | ".join(cells) + " |")
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
