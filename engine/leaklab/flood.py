"""What is sent without a pause while something happens to the device: every kind of packet, round after round.

A process of its own, in the namespace of whoever sends: `python -m engine.leaklab.flood TOKEN RATE KIND...`, RATE in
rounds a second; from SIGUSR1 to SIGUSR2 it sends as fast as it can. A kind is LETTER=WHAT|TARGET[|OPTION...]; the
payload is the token and the letter, so that a frame tells which kind it is. On SIGHUP it prints how many of each were
tried since the last time, and opens the old connections anew. It ends by SIGTERM.

    what     udp, tcp, dns, icmp, raw, big (a datagram in fragments), old (a TCP connection that was open before)
    options  PORT, dev=NAME, from=ADDRESS, mark (as the engine's own), user (an ordinary one)

A SYN has no payload: TCP attempts go to port 7008, where nobody listens, and nothing else does.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

from engine.leaklab import world
from engine.leaklab.capture import Frame
from engine.leaklab.namespaces import ROOT, Lab, Process, wait_until
from engine.leaklab.probes import BIG, How, as_nobody, icmp, new_token
from engine.leaklab.servers import DNS_PORT, ECHO_PORT, dns_query

TCP_PORT = 7008
TOKEN = re.compile(rb"mh[0-9a-f]{14}([A-Za-z])")
_SLOW = {"tcp": 8, "big": 8, "old": 4}  # every so many rounds: they cost more, and queue

KINDS = {
    "device": {
        "a": f"udp|{world.WEB4}",
        "b": f"udp|{world.WEB6}",
        "c": f"udp|{world.WEB4}|dev=eth0",
        "d": f"udp|{world.WEB4}|dev=eth0|user",
        "e": f"udp|{world.WEB6}|dev=eth0",
        "f": f"udp|{world.WEB4}|mark",
        "g": f"dns|{world.ISP4}",
        "h": f"dns|{world.LAN_HOST4}",
        "i": f"udp|{world.LAN_HOST4}",
        "j": f"udp|{world.LAN_HOST6}|dev=eth0",
        "k": "udp|239.1.2.3|dev=eth0",
        "l": "udp|ff05::1234|dev=eth0",
        "m": f"udp|{world.RELAY4}|{world.RELAY_PORT}|user",
        "n": f"big|{world.WEB4}",
        "o": f"icmp|{world.WEB4}",
        "p": f"icmp|{world.WEB6}",
        "q": f"tcp|{world.WEB4}",
        "r": f"tcp|{world.WEB6}",
        "s": f"raw|{world.WEB4}|dev=eth0",
        "t": f"old|{world.WEB4}",
        "u": f"udp|{world.WEB4}|from={world.DEVICE4}",
        "v": f"dns|{world.RESOLVER4}",
        "w": f"tcp|{world.WEB4}|dev=eth0",
    },
    "guest": {
        "A": f"udp|{world.WEB4}",
        "B": f"udp|{world.WEB6}",
        "C": f"dns|{world.ISP4}",
        "D": f"icmp|{world.WEB4}",
        "E": f"udp|{world.LAN_HOST4}",
        "F": f"old|{world.WEB4}",
    },
    "rogue": {
        "G": f"udp|{world.DEVICE4}",
        "H": f"icmp|{world.DEVICE4}",
        "I": "udp|fd77::2",
    },
    "internet": {
        "J": f"udp|{world.DEVICE4}",
        "K": f"icmp|{world.DEVICE4}",
        "L": f"udp|{world.DEVICE6}",
    },
}
"""Who sends what, by the letter that tells it apart. What comes from others is seen by the device's answer to it."""

PAST_THE_TUN = frozenset("cdfjklswGHIJKL")
"""What the TUN alone cannot stop (LNX-1 to LNX-4): where nothing else enforces, it would hide what can be tested."""


@dataclass
class Sender:
    """One kind: a function that sends one, how often it was tried, and how often that was a round's turn."""

    send: Callable[[], object]
    every: int
    tried: int = 0


def _prepare(spec: str, payload: bytes) -> Sender:
    what, target, *words = spec.split("|")
    port = next((int(word) for word in words if word.isdecimal()), ECHO_PORT)
    device = next((word.removeprefix("dev=") for word in words if word.startswith("dev=")), "")
    source = next((word.removeprefix("from=") for word in words if word.startswith("from=")), "")
    how = How(device=device, source=source, mark=world.MARK if "mark" in words else 0, user="user" in words)
    v6 = ":" in target
    scope = socket.if_nametoindex(device) if device and target.startswith("ff") else 0
    address = (target, port, 0, scope) if scope else (target, port)
    if what == "tcp":
        return Sender(lambda: _knock(target, how), _SLOW[what])
    if what == "old":
        old = _socket(target, socket.SOCK_STREAM, 0, how, blocking=True)
        old.connect((target, port))
        old.setblocking(False)
        return Sender(lambda: old.send(payload), _SLOW[what])
    if what in ("icmp", "raw"):
        protocol = 253 if what == "raw" else socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP
        message = payload if what == "raw" else icmp(128 if v6 else 8, payload + b"." * (len(payload) % 2), v6)
        sock = _socket(target, socket.SOCK_RAW, protocol, how)
        return Sender(lambda: sock.sendto(message, (target, 0)), 1)
    sock = _socket(target, socket.SOCK_DGRAM, 0, how)
    if what == "dns":
        query = dns_query(f"{payload.decode()}.test", 7)
        return Sender(lambda: sock.sendto(query, (target, DNS_PORT)), 1)
    data = payload * (BIG // len(payload)) if what == "big" else payload
    return Sender(lambda: sock.sendto(data, address), _SLOW.get(what, 1))


def _socket(target: str, kind: int, protocol: int, how: How, *, blocking: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    if how.user:
        with as_nobody():
            sock = socket.socket(family, kind, protocol)
    else:
        sock = socket.socket(family, kind, protocol)
    if how.device:
        sock.setsockopt(socket.SOL_SOCKET, 25, how.device.encode())
    if how.mark:
        sock.setsockopt(socket.SOL_SOCKET, 36, how.mark)
    if how.source:
        sock.bind((how.source, 0))
    sock.settimeout(5 if blocking else 0)
    return sock


def _knock(target: str, how: How) -> None:
    with _socket(target, socket.SOCK_STREAM, 0, how) as sock:
        sock.connect((target, TCP_PORT))


def main(token: str, rate: float, specs: Sequence[str]) -> None:
    """Send until SIGTERM; see above."""
    kinds = dict(spec.split("=", 1) for spec in specs)
    senders = {letter: _prepare(spec, (token + letter).encode()) for letter, spec in kinds.items()}
    ending = renewing = full = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ending
        ending = True

    def renew(number: int, frame: FrameType | None) -> None:
        nonlocal renewing
        renewing = True

    def set_rate(number: int, frame: FrameType | None) -> None:
        nonlocal full
        full = number == signal.SIGUSR1
        with suppress(OSError):  # the product has to be heard, too
            os.setpriority(os.PRIO_PROCESS, 0, 19 if full else 0)

    signal.signal(signal.SIGUSR1, set_rate)
    signal.signal(signal.SIGUSR2, set_rate)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, renew)
    print("{}", flush=True)
    begin = time.monotonic()
    for number in itertools.count():
        if ending:
            break
        if renewing:
            renewing = False
            print(json.dumps({letter: sender.tried for letter, sender in senders.items()}), flush=True)
            for letter, sender in senders.items():
                sender.tried = 0
                if kinds[letter].startswith("old"):
                    with suppress(OSError):
                        senders[letter] = _prepare(kinds[letter], (token + letter).encode())
        for sender in senders.values():
            if number % sender.every == 0:
                sender.tried += 1
                with suppress(OSError):  # refused, unreachable, no room for what could not go out: fine
                    sender.send()
        early = begin + (number + 1) / rate - time.monotonic()
        if early > 0 and not full:
            time.sleep(early)
        else:
            begin -= early  # the next round is due in its time, whatever was missed or went too fast


class Flood:
    """All of `KINDS` but those in `without` at once, from their namespaces."""

    def __init__(self, lab: Lab, rate: float, without: frozenset[str] = frozenset()) -> None:
        self.token = new_token()
        self.letters = {letter for kinds in KINDS.values() for letter in kinds} - without
        self._processes: list[Process] = []
        self._told: list[int] = []
        command = [sys.executable, "-P", "-m", "engine.leaklab.flood", self.token, str(rate)]
        for role, kinds in KINDS.items():
            specs = [f"{letter}={spec}" for letter, spec in kinds.items() if letter in self.letters]
            if not specs:
                continue
            self._processes.append(lab.start(lab[role], *command, *specs, env={"PYTHONPATH": str(ROOT)}))
            self._told.append(1)

    def renew(self) -> int:
        """Open the old connections anew, in Disconnected; how many packets were tried since the last time."""
        wait_until(lambda: self._all_told() or bool(self.failures()), 10, "the senders begin")
        for number, process in enumerate(self._processes):
            self._told[number] += 1
            process.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: self._all_told() or bool(self.failures()), 15, "the senders say what they have sent")
        if failed := self.failures():
            raise RuntimeError(f"a sender has ended: {failed}")
        return sum(sum(json.loads(process.output().splitlines()[-1]).values()) for process in self._processes)

    def full_rate(self, full: bool) -> None:
        """Send as fast as it goes, or at the rate again."""
        for process in self._processes:
            process.popen.send_signal(signal.SIGUSR1 if full else signal.SIGUSR2)

    def _all_told(self) -> bool:
        told = zip(self._processes, self._told, strict=True)
        return all(process.output().count("}\n") >= count for process, count in told)

    def failures(self) -> str:
        """What a sender that ended by itself said last; empty: all send."""
        return "; ".join(p.output().strip()[-300:] for p in self._processes if not p.running)

    def close(self) -> None:
        """Stop sending."""
        for process in self._processes:
            process.stop()


def letters_of(frame: Frame) -> set[str]:
    """The kinds that a frame of the device can be of; empty: it is not the flood's."""
    if found := TOKEN.search(frame.data):
        return {found[1].decode()}
    if f"-> {TCP_PORT}," in frame.line:
        return {"r"} if ":" in frame.line else {"q", "w"}
    return set()


def describe(letter: str) -> str:
    """A kind in words."""
    for role, kinds in KINDS.items():
        if letter in kinds:
            return f"{role}: {kinds[letter].replace('|', ' ')}"
    return letter


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3:])
