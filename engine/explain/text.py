"""An explanation as some lines for people. Who prints them may colour them; who sends them does not."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from engine.explain.judge import Explanation
from native.reasons import Reason

Paint = Callable[[str, str], str]
"""Makes a piece of text stand out: as the packet, as a verdict (accept, drop, reject), or as a difference."""


def _filled(line: str, indent: int) -> str:
    return textwrap.fill(line, 100, subsequent_indent=" " * indent, break_on_hyphens=False)


def as_text(packet: str, explanation: Explanation, paint: Paint = lambda text, what: text) -> str:
    """The explanation of the packet as text, some lines."""
    verdict = paint(explanation.verdict.upper(), explanation.verdict)
    lines = [paint(packet, "packet"), f"  {verdict} by {explanation.rule or 'no rule'}: {explanation.what}"]
    if explanation.reason not in (Reason.NONE, Reason.POLICY):
        lines.append(f"  {explanation.reason.word}: {explanation.reason.meaning}")
    lines.append(_filled(f"  {explanation.rule or 'P-0'} says: {explanation.sentence}", 4))
    for name, it in explanation.backends.items():
        judged = f"{it.verdict:7} {it.rule or '-':8} " if it.verdict else ""
        lines.append(_filled(f"    {name:10} {judged}{it.note}".rstrip(), 15))
    if not explanation.agree:
        lines.append(paint("  The backends differ: the note beside the odd one says why.", "difference"))
    return "\n".join(lines)
