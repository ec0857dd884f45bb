"""Captures, judged natively: reader, parser, verdict program and tallies in one loop (native/src/audit.c).

`feed` takes a capture in pieces of any size and keeps counts only; `step` gives one packet at a time as facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from native._native import ffi, lib
from native.facts import App, Direction, Facts, Interface, from_native
from native.reasons import Reason

LONGEST_BLOCK: int = lib.MH_CAPTURE_RECORD
_OUT_SIZE = LONGEST_BLOCK + 4096


class Outcome(IntEnum):
    """What becomes of a packet of a capture, as the tallies tell it apart."""

    ACCEPT = 0
    REJECT = 1
    DROP = 2
    FRAGMENT_UNKNOWN = 3
    FRAGMENT_BAD = 4
    MALFORMED = 5

    @property
    def verdict(self) -> str:
        """accept, reject or drop."""
        return {Outcome.ACCEPT: "accept", Outcome.REJECT: "reject"}.get(self, "drop")

    @property
    def reason(self) -> Reason:
        """Why it is dropped."""
        if self is Outcome.ACCEPT:
            return Reason.NONE
        return Reason[self.name] if self.name in Reason.__members__ else Reason.POLICY


class Skip(IntEnum):
    """Why a packet of a capture is not judged."""

    NONE = 0
    NOT_IP = 1
    LINK = 2
    CUT = 3
    DAMAGED = 4
    NOT_OURS = 5

    @property
    def meaning(self) -> str:
        """Half a sentence."""
        return _MEANINGS[self]


_MEANINGS = {
    Skip.NONE: "judged",
    Skip.NOT_IP: "not IP (ARP and the like)",
    Skip.LINK: "of a link type that is not read",
    Skip.CUT: "cut off by the capture before their ports",
    Skip.DAMAGED: "damaged in the file",
    Skip.NOT_OURS: "neither from nor to this machine",
}


@dataclass(frozen=True)
class Step:
    """One packet of a capture. `skip`: not judged; `facts`: None if the parser refused it, then `outcome` says why."""

    number: int
    time_ns: int
    skip: Skip
    direction: Direction
    facts: Facts | None
    outcome: Outcome
    rule: int


@dataclass(frozen=True)
class Flow:
    """The packets of one flow, one way, that one rule decided. Ports are 0 where there are none."""

    src: IPv4Address | IPv6Address
    dst: IPv4Address | IPv6Address
    sport: int
    dport: int
    proto: int
    direction: Direction
    interface: Interface
    packets: int
    bytes: int


@dataclass(frozen=True)
class Totals:
    """Counts so far. `bytes` of judged packets; `leaks`: outgoing packets that are not accepted.

    `forgotten`: flows that had no room in the table. `begun`: the file is known to be a capture. `problem`: why nothing
    more can be read, or None.
    """

    packets: int
    bytes: int
    leaks: int
    leaked_bytes: int
    skipped: dict[Skip, int]
    forgotten: int
    begun: bool
    problem: str | None


@dataclass(frozen=True)
class Sender:
    """What to presume of whoever sent the outgoing packets: no capture tells."""

    mark: int = 0
    uid: int = 0
    app: App = App.UNKNOWN


class Audit:
    """One capture against one program. One thread at a time; memory is bounded whatever the capture holds."""

    def __init__(
        self,
        program: bytes,
        local: Sequence[IPv4Address | IPv6Address],
        *,
        tunnel: str | None = None,
        sender: Sender = Sender(),  # frozen
    ) -> None:
        """`local`: this machine's addresses; `tunnel`: its interface's name; `sender`: whose the outgoing ones are.

        ValueError: not a verdict program, or a name that is too long.
        """
        name = None if tunnel is None else tunnel.encode()
        if name is not None and not 0 < len(name) < lib.MH_CAPTURE_NAME:
            raise ValueError(f"an interface's name has 1 to {lib.MH_CAPTURE_NAME - 1} bytes, not {len(name)}")
        packed = b"".join(bytes([address.version]) + address.packed.ljust(16, b"\0") for address in local)
        presumed = ffi.new("mh_sender *", {"mark": sender.mark, "uid": sender.uid, "app": sender.app})
        audit = lib.mh_audit_new(
            program, len(program), packed, len(local), ffi.NULL if name is None else name, presumed[0]
        )
        if audit == ffi.NULL:
            raise ValueError(f"these {len(program)} bytes are not a verdict program")
        self._audit = ffi.gc(audit, lib.mh_audit_free)
        self._rules: int = lib.mh_audit_total(audit).rules
        self._fed = ffi.new("mh_fed *")
        self._step = ffi.new("mh_step *")
        self._consumed = ffi.new("size_t *")
        self._out = None

    def collect(self, comments: dict[tuple[int, Outcome], str]) -> None:
        """Let `feed` give the packets that would leak, each with the comment of its rule and outcome."""
        texts = [comments.get((rule, outcome), "").encode() for rule in range(self._rules + 1) for outcome in Outcome]
        starts = [0]
        for text in texts:
            starts.append(starts[-1] + len(text))
        if not lib.mh_audit_set_comments(self._audit, b"".join(texts), starts):
            raise MemoryError("no memory for the comments")
        self._out = ffi.new("uint8_t[]", _OUT_SIZE)

    def feed(self, data: memoryview) -> tuple[int, bytes, bool]:
        """Judge the whole packets in `data`: (bytes used, pcapng blocks of what would leak, whether to call again)."""
        out = ffi.NULL if self._out is None else self._out
        lib.mh_audit_feed(self._audit, ffi.from_buffer(data), len(data), out, _OUT_SIZE, self._fed)
        written = bytes(ffi.buffer(self._out, self._fed.written)) if self._fed.written else b""
        return self._fed.consumed, written, bool(self._fed.full)

    def step(self, data: memoryview) -> tuple[int, Step | None, bool]:
        """Judge one packet: (bytes used, the packet or None for a block that is none, whether there was a block)."""
        lib.mh_audit_step(self._audit, ffi.from_buffer(data), len(data), self._consumed, self._step)
        s = self._step
        if s.result != lib.MH_CAPTURE_PACKET:
            return self._consumed[0], None, s.result == lib.MH_CAPTURE_BLOCK
        facts = None
        if s.readable and not s.skip:
            native = s.facts
            facts = replace(
                from_native(native), direction=Direction(native.direction), iface_in=Interface(native.iface_in),
                iface_out=Interface(native.iface_out), reply=native.reply, mark=native.mark,
                uid=native.uid if native.has_uid else None, app=App(native.app),
            )  # fmt: skip
        step = Step(s.number, s.time_ns, Skip(s.skip), Direction(s.direction), facts, Outcome(s.outcome), s.rule)
        return self._consumed[0], step, True

    def totals(self) -> Totals:
        """Return the counts so far."""
        t = lib.mh_audit_total(self._audit)
        return Totals(
            t.packets, t.bytes, t.leaks.packets, t.leaks.bytes, {skip: t.skipped[skip] for skip in Skip if skip},
            t.forgotten, t.begun, None if t.problem == ffi.NULL else bytes(ffi.string(t.problem)).decode("ascii"),
        )  # fmt: skip

    def rows(self) -> dict[tuple[int, Outcome], tuple[int, int]]:
        """(packets, bytes) by rule and outcome, without empty ones; the rule after the last: refused by the parser."""
        found = {}
        for rule in range(self._rules + 1):
            for outcome in Outcome:
                count = lib.mh_audit_row(self._audit, rule, outcome)
                if count.packets:
                    found[rule, outcome] = (count.packets, count.bytes)
        return found

    def top(self, rule: int, outcome: Outcome, count: int) -> list[Flow]:
        """Return the flows of one row with most packets, at most `count`."""
        flows = ffi.new("mh_flow[]", max(count, 1))
        found = lib.mh_audit_top(self._audit, rule, outcome, flows, count)
        return [
            Flow(
                _address(flow.version, bytes(flow.src)), _address(flow.version, bytes(flow.dst)), flow.sport,
                flow.dport, flow.proto, Direction(flow.direction), Interface(flow.iface), flow.packets, flow.bytes,
            )
            for flow in flows[0:found]
        ]  # fmt: skip


def _address(version: int, raw: bytes) -> IPv4Address | IPv6Address:
    return IPv4Address(raw[:4]) if version == 4 else IPv6Address(raw)


if len(Skip) != lib.MH_SKIPS or len(Outcome) != lib.MH_OUTCOMES:
    raise ImportError("native/audit.py does not list what native/src/audit.h does")
