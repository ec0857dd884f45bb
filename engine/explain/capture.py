"""A capture file against a policy: tallies for `molehill audit`, packet by packet for `molehill explain --pcap`.

The file is read in pieces, so memory stays bounded and a pipe will do. A file that ends in the middle of a packet, or
is damaged somewhere, is judged up to there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from engine.filter import Compiled, compile_policy
from engine.policy import MARK, IPAddress, Policy
from engine.policy.nets import ROOT
from engine.policy.sentences import SENTENCES
from native.audit import LONGEST_BLOCK, Audit, Flow, Outcome, Sender, Step, Totals
from native.facts import App

_PIECE = 1 << 22
_TOP_FLOWS = 3
_TOO_SHORT = "it is too short to be a capture"
_CUT_SHORT = "the file ends in the middle of a packet"

# What is presumed of the sender of each outgoing packet, since no capture tells: that it is the service.
_SERVICE = Sender(MARK, ROOT, App.SERVICE)


class CaptureError(ValueError):
    """The file is no capture that can be read; one sentence."""


@dataclass(frozen=True)
class Row:
    """The packets that one claim decided alike. `rule` is None for what the parser refused."""

    rule: str | None
    outcome: Outcome
    packets: int
    bytes: int
    top: tuple[Flow, ...]


@dataclass(frozen=True)
class Report:
    """What a capture holds, judged.

    `presumed`: packets that passed by a rule that asks who sent them. `note`: why the end was not read, or None.
    """

    rows: tuple[Row, ...]
    totals: Totals
    presumed: int
    note: str | None


def audit(
    file: BinaryIO,
    policy: Policy,
    local: Sequence[IPAddress],
    tunnel: str | None,
    *,
    leaks: BinaryIO | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """Judge every packet of a capture; what would leak is written to `leaks` as pcapng, with the reason as comment.

    `progress` is told the bytes read. Raises CaptureError if not even the first packet can be read, OSError.
    """
    compiled = compile_policy(policy)
    judge = Audit(compiled.code, local, tunnel=tunnel, sender=_SERVICE)
    if leaks is not None:
        judge.collect(_comments(compiled))
        leaks.write(_section_header())
    left, note = 0, None
    for piece in _pieces(file, progress):
        again, used = True, 0
        while again:
            consumed, written, again = judge.feed(piece.data[used:])
            used += consumed
            if leaks is not None:
                leaks.write(written)
        piece.used, left = used, len(piece.data) - used
        note = judge.totals().problem
        if note is not None:
            break
    totals = judge.totals()
    if note is None and left:
        note = _CUT_SHORT
    if totals.packets == 0 and totals.problem is not None:
        raise CaptureError(totals.problem)
    if not totals.begun:
        raise CaptureError(_TOO_SHORT)
    asking = {
        index
        for index, rule in enumerate(compiled.rules)
        if rule.accept and (rule.mark is not None or rule.uid is not None or rule.apps)
    }
    presumed = sum(packets for (rule, _), (packets, _) in judge.rows().items() if rule in asking)
    return Report(_rows(judge, compiled), totals, presumed, note)


def steps(file: BinaryIO, policy: Policy, local: Sequence[IPAddress], tunnel: str | None) -> Iterator[Step]:
    """Every packet of a capture with its facts, one after the other. Raises CaptureError where reading ends early."""
    judge = Audit(compile_policy(policy).code, local, tunnel=tunnel, sender=_SERVICE)
    left = 0
    for piece in _pieces(file, lambda _: None):
        used, more = 0, True
        while more:
            consumed, step, more = judge.step(piece.data[used:])
            used += consumed
            if step is not None:
                yield step
        piece.used, left = used, len(piece.data) - used
        problem = judge.totals().problem
        if problem is not None:
            raise CaptureError(problem)
    if not judge.totals().begun:
        raise CaptureError(_TOO_SHORT)
    if left:
        raise CaptureError(_CUT_SHORT)


class _Piece:
    """Some bytes of the file; the reader of it says how many it has used."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.used = data, 0


def _pieces(file: BinaryIO, progress: Callable[[int], None]) -> Iterator[_Piece]:
    """The file piece by piece; what was not used of one is the beginning of the next."""
    buffer = bytearray(_PIECE)
    have = total = 0
    while True:
        got = file.readinto(memoryview(buffer)[have:])  # type: ignore[attr-defined]  # a raw or buffered file has it
        if not got:
            return
        have += got
        total += got
        piece = _Piece(memoryview(buffer)[:have])
        yield piece
        progress(total)
        rest = bytes(piece.data[piece.used :])
        piece.data.release()
        if len(rest) == len(buffer):  # one block is longer than the buffer; the native reader bounds it
            assert len(buffer) <= LONGEST_BLOCK
            buffer = bytearray(2 * len(buffer))
        buffer[: len(rest)] = rest
        have = len(rest)


def _rows(judge: Audit, compiled: Compiled) -> tuple[Row, ...]:
    """One row for each claim and outcome, however many rules carry the claim; most packets first."""
    merged: dict[tuple[str | None, Outcome], Row] = {}
    for (rule, outcome), (packets, size) in judge.rows().items():
        claim = compiled.ids[rule] if rule < len(compiled.ids) else None
        top = judge.top(rule, outcome, _TOP_FLOWS)
        if (claim, outcome) in merged:
            row = merged[claim, outcome]
            packets, size, top = packets + row.packets, size + row.bytes, [*row.top, *top]
        top = sorted(top, key=lambda flow: -flow.packets)[:_TOP_FLOWS]
        merged[claim, outcome] = Row(claim, outcome, packets, size, tuple(top))
    return tuple(sorted(merged.values(), key=lambda row: -row.packets))


def _comments(compiled: Compiled) -> dict[tuple[int, Outcome], str]:
    """Why a packet would leak, by rule and outcome."""
    comments = {}
    for index, rule in enumerate(compiled.rules):
        for outcome in Outcome:
            because = outcome.reason.meaning if outcome.reason.name.startswith("FRAGMENT") else SENTENCES[rule.id]
            comments[index, outcome] = f"molehill: {outcome.verdict} by {rule.id} ({outcome.reason.word}): {because}"
    for outcome in (Outcome.FRAGMENT_BAD, Outcome.MALFORMED):
        comments[len(compiled.rules), outcome] = f"molehill: drop ({outcome.reason.word}): {outcome.reason.meaning}"
    return comments


def _section_header() -> bytes:
    """A pcapng file begins with this (draft-ietf-opsawg-pcapng, section 4.1)."""
    name = b"molehill audit"
    option = struct.pack("<HH", 4, len(name)) + name.ljust(-(-len(name) // 4) * 4, b"\0") + bytes(4)
    length = 28 + len(option)
    return struct.pack("<IIIHHq", 0x0A0D0D0A, length, 0x1A2B3C4D, 1, 0, -1) + option + struct.pack("<I", length)
