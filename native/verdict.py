"""The verdict program, loaded: judges facts (native/src/verdict.c), with memory for fragments (native/src/fragment.c).

engine/filter compiles the program's bytes; the datapath loads them by itself. This wrapper is for tests, `explain`
and tools.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from native._native import ffi, lib
from native.facts import Facts, to_native
from native.reasons import Reason


class Answer(IntEnum):
    """What the sender of a blocked packet is told; REJECT: ICMP unreachable or TCP RST, to local senders only."""

    NONE = 0
    REJECT = 1


@dataclass(frozen=True)
class Verdict:
    """What becomes of a packet, the index of the rule that says so, and why if it is dropped."""

    accept: bool
    rule: int
    reason: Reason
    answer: Answer


class FragmentTable:
    """The verdicts of first fragments, for 30 seconds and one program; bounded. One thread at a time."""

    def __init__(self) -> None:
        table = lib.mh_fragments_new()
        if table == ffi.NULL:
            raise MemoryError("no memory for a fragment table")
        self._table = ffi.gc(table, lib.mh_fragments_free)


class Program:
    """A program that was checked and loaded. Any thread may judge."""

    def __init__(self, code: bytes) -> None:
        """Load the bytes that `engine.filter.compile_rules` made. ValueError: not a verdict program."""
        program = lib.mh_program_load(code, len(code))
        if program == ffi.NULL:
            raise ValueError(f"these {len(code)} bytes are not a verdict program")
        self._program = ffi.gc(program, lib.mh_program_free)
        self.rules: int = lib.mh_program_rules(program)

    def judge(self, facts: Facts) -> Verdict:
        """Judge by the packet alone; a later fragment by what it shows."""
        return _verdict(lib.mh_judge(self._program, to_native(facts)))

    def filter(self, table: FragmentTable, facts: Facts, now_ns: int) -> Verdict:
        """Judge with memory: a later fragment shares its first one's verdict. `now_ns`: boot time."""
        return _verdict(lib.mh_filter(self._program, table._table, to_native(facts), now_ns))


def _verdict(verdict: Any) -> Verdict:
    return Verdict(
        accept=bool(verdict.accept), rule=verdict.rule, reason=Reason(verdict.reason), answer=Answer(verdict.answer)
    )
