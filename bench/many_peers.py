"""Many peers, many handshakes: what a server with 10,000 or 100,000 peers costs, and what a flood does to it.

    python -m bench.many_peers [--peers 10000 100000] [--rounds 3] [--seconds 3] [--command COMMAND] [--json FILE]

Two namespaces joined by a veth; the engine under test is in `b`, the client (molehill-wg) in `a`. For each number of
peers, in the order of events: memory before and after the configuration is loaded (per peer, everything) -> `wg show
dump` -> `wg syncconf` of the same file -> one TCP stream to one of the peers, in turns with an engine that has that
one peer only -> as many handshakes as it answers in a few seconds, from as many different peers (initiations made
beforehand, sent without a pause; counted are the responses, and the engine's CPU) -> a flood of initiations whose
sender knows the engine's public key and nothing else, 100,000 a second by UDP_SEGMENT, while a stream runs.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.endtoend.measurements import iperf3
from engine.leaklab.rights import need_namespaces
from engine.wg.cookie import CookieGenerator
from engine.wg.keys import key_from_base64, key_to_base64
from engine.wg.noise import Identity, Initiator, transcript_to
from engine.wg.primitives import dh
from engine.wg.tai64n import encode
from tests.netns.engines import MOLEHILL, Engine, Keys, config
from tests.netns.lab import Lab, Namespace, pair

HANDSHAKES = 6000
FLOOD_PER_SECOND = 100_000
BATCH = 40  # initiations a UDP_SEGMENT send
INITIATION, RESPONSE = 148, 92
SOL_UDP, UDP_SEGMENT = 17, 103  # linux/udp.h
PORT, SERVER, CLIENT = 51820, "10.9.0.1", "10.9.0.2"


class Server:
    """The engine under test in `b`, with `count` peers: the first is the client, some of the others shake hands."""

    def __init__(self, lab: Lab, command: str, count: int) -> None:
        self.lab, self.count = lab, count
        self.keys, self.client = Keys.new(), Keys.new()
        self.identities = [Identity(os.urandom(32)) for _ in range(min(count - 1, HANDSHAKES))]
        others = [identity.public for identity in self.identities]
        others += [os.urandom(32) for _ in range(count - 1 - len(others))]
        lines = [config(self.keys, self.client.public, f"{CLIENT}/32", port=PORT)]
        for number, public in enumerate(others, 1):
            inside = f"10.{100 + (number >> 16)}.{number >> 8 & 255}.{number & 255}/32"
            lines.append(f"[Peer]\nPublicKey = {key_to_base64(public)}\nAllowedIPs = {inside}\n")
        self.conf = lab.dir / f"server-{count}.conf"
        self.conf.write_text("".join(lines))
        self.engine = Engine(lab, lab["b"], f"mh{lab.tag}{count % 97}", command)

    @property
    def public_key(self) -> bytes:
        """Its static public key, 32 bytes."""
        return key_from_base64(self.keys.public)

    def resident(self) -> int:
        """Resident memory in bytes."""
        status = Path(f"/proc/{self.engine.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024

    def timed(self, *words: str) -> float:
        """Seconds that `wg WORDS` takes."""
        begin = time.perf_counter()
        self.engine.wg(*words)
        return time.perf_counter() - begin


def client(lab: Lab, server: Server) -> Engine:
    """The one peer that is really there, up and pinged through."""
    ours = Engine(lab, lab["a"], f"mh{lab.tag}a", MOLEHILL)
    endpoint = f"172.16.9.2:{PORT}"
    ours.setconf(config(server.client, server.keys.public, f"{SERVER}/32", endpoint=endpoint))
    ours.up([f"{CLIENT}/24"])
    server.engine.up([f"{SERVER}/24"])
    lab["a"].sh("ping", "-c", "1", "-W", "5", SERVER)
    return ours


def initiations(server: Server) -> list[bytes]:
    """A valid first message from each of the identities."""
    public = server.public_key
    transcript, macs, wall = transcript_to(public), CookieGenerator(public), time.time()
    made = []
    for index, identity in enumerate(server.identities):
        _, message = Initiator.start(
            identity,
            public,
            dh(identity.private, public),
            transcript=transcript,
            ephemeral=os.urandom(32),
            index=index,
            timestamp=encode(wall),
        )
        made.append(macs.add_macs(message, 0.0))
    return made


@contextmanager
def outside(ns: Namespace) -> Iterator[socket.socket]:
    """A UDP socket in the namespace, connected to the server."""
    with ns.entered():
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.connect(("172.16.9.2", PORT))
    with made:
        yield made


def handshakes(lab: Lab, server: Server) -> dict[str, float]:
    """Responses a second, and by CPU second of the engine. At most 100 initiations wait for their answers."""
    messages = initiations(server)
    answered = 0
    with outside(lab["a"]) as sock:
        sock.settimeout(2.0)
        cpu, begin = server.engine.cost().cpu, time.perf_counter()
        window = 100
        for number, message in enumerate(messages):
            sock.send(message)
            if number >= window:
                answered += len(sock.recv(2048)) == RESPONSE
        took, spent = time.perf_counter() - begin, server.engine.cost().cpu - cpu
    return {"handshakes/s": answered / took, "handshakes/CPU s": answered / spent, "answered": answered}


class Flood(threading.Thread):
    """Initiations with a right mac1 and nothing else right, at a steady rate, until stopped."""

    def __init__(self, lab: Lab, server: Server) -> None:
        super().__init__(daemon=True)
        macs = CookieGenerator(server.public_key)
        self._batches = [
            b"".join(macs.add_macs(b"\x01\0\0\0" + os.urandom(112), 0.0) for _ in range(BATCH)) for _ in range(50)
        ]
        self._lab, self._ending, self.sent, self.rate = lab, threading.Event(), 0, 0.0

    def run(self) -> None:
        """Send, a batch every 0.4 ms."""
        size = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", INITIATION))]
        with outside(self._lab["a"]) as sock:
            begin = time.perf_counter()
            while not self._ending.is_set():
                due = int((time.perf_counter() - begin) * FLOOD_PER_SECOND)
                while self.sent < due:
                    sock.sendmsg([self._batches[self.sent // BATCH % len(self._batches)]], size)
                    self.sent += BATCH
                time.sleep(0.0005)
            self.rate = self.sent / (time.perf_counter() - begin)

    def stop(self) -> None:
        """End it and wait."""
        self._ending.set()
        self.join()


def measure(command: str, count: int, rounds: int, seconds: float) -> dict[str, float]:
    """All numbers of one size."""
    found: dict[str, float] = {}
    with pair() as lab:
        server = Server(lab, command, count)
        lonely = server.resident()
        server.engine.wg("setconf", server.engine.iface, str(server.conf))
        time.sleep(0.5)
        found["KiB a peer"] = (server.resident() - lonely) / count / 1024
        iface = server.engine.iface
        found["wg show dump, s"] = min(server.timed("show", iface, "dump") for _ in range(3))
        found["wg syncconf, s"] = min(server.timed("syncconf", iface, str(server.conf)) for _ in range(3))
        client(lab, server)
        quiet = [iperf3(lab, lab["a"], lab["b"], SERVER, seconds)[0] for _ in range(rounds)]
        found["Gbit/s"] = statistics.median(quiet)
        if count > 1:
            found |= handshakes(lab, server)
        before, flooded = server.resident(), []
        flood = Flood(lab, server)
        flood.start()
        for _ in range(rounds):
            flooded.append(iperf3(lab, lab["a"], lab["b"], SERVER, seconds)[0])
        flood.stop()
        found["Gbit/s in the flood"] = statistics.median(flooded)
        found["flood/s"] = flood.rate
        found["MiB grown in the flood"] = (server.resident() - before) / (1 << 20)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--peers", type=int, nargs="+", default=[10_000])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=3.0)
    options.add_argument("--command", default=MOLEHILL, help="the engine under test (default: %(default)s)")
    options.add_argument("--json", type=Path)
    given = options.parse_args(arguments)
    need_namespaces()
    results: dict[int, dict[str, float]] = {}
    for count in (1, *given.peers):
        print(f"{count} peers ...", file=sys.stderr, flush=True)
        results[count] = measure(given.command, count, given.rounds, given.seconds)
    names = list(dict.fromkeys(name for found in results.values() for name in found))
    print("| peers | " + " | ".join(f"{count:,}" for count in results) + " |")
    print("|---" + "|---:" * len(results) + "|")
    for name in names:
        cells = [f"{found[name]:,.3g}" if name in found else "" for found in results.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
