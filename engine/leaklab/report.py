"""The table as text, HTML and JSON."""

from __future__ import annotations

import html
import json
import textwrap
import time
from pathlib import Path

from engine.leaklab.result import Cell, Table, Verdict, as_data, known_ids

_PAGE = 118  # characters
_MANY = 40  # tests of a part


def text(table: Table) -> str:
    """The table for a terminal: tests down, states across, then what the cells that are not zero have seen."""
    lines = [_how(table), ""]
    for group in table.groups:
        tests, states, cells = table.part(group)
        lines += [*_part(group, tests, states, cells), *([""] if len(tests) > _MANY else [])]
    if failed := [cell for cell in table.cells if cell.verdict in (Verdict.FAILED, Verdict.VOID)]:
        lines.append("NOT as it has to be:")
        for cell in failed:
            lines.append(f"  {cell.group}, {cell.test}, {cell.state}: {cell.void or cell.text}")
            lines += [f"      {line}" for line in cell.evidence]
        lines.append("")
    if ids := known_ids(table.cells):
        lines += [f"Explained by docs/known-issues.md: {', '.join(ids)}.", ""]
    for reason in sorted({cell.skipped for cell in table.cells if cell.skipped}):
        lines.append(f"Not run (-): {reason}.")
    lines.append(table.summary())
    return "\n".join(lines)


def _how(table: Table) -> str:
    return (
        f"Packets out of place: molehill {table.version} ({table.driver}, mode {table.mode}), Linux {table.kernel}. "
        "0 is the goal; `lost n`: permitted, and did not work."
    )


def _part(group: str, tests: list[str], states: list[str], cells: dict[tuple[str, str], Cell]) -> list[str]:
    """One part, in blocks of states that fit a page; of many tests only those that are not zero everywhere."""
    dull = [test for test in tests if len(tests) > _MANY and _is_zero(test, states, cells)]
    shown = [test for test in tests if test not in dull]
    first = max(map(len, (group, *shown))) + 2
    lines: list[str] = []
    left = list(states)
    while left:
        block: list[tuple[str, int]] = []
        while left and first + sum(width for _, width in block) + (width := _width(left[0], shown, cells)) <= _PAGE:
            block.append((left.pop(0), width))
        if not block:
            block.append((left.pop(0), _PAGE - first))
        lines.append(f"{group:{first}}" + "".join(f"{_head(state):{width}}" for state, width in block))
        for test in shown:
            row = ((cells.get((test, state)), width) for state, width in block)
            lines.append(f"{test:{first}}" + "".join(f"{cell.text if cell else '':{width}}" for cell, width in row))
        lines.append("")
    if dull:
        lines += textwrap.wrap(f"{len(dull)} more tests, 0 in every state: {'; '.join(dull)}.", _PAGE)
    return [line.rstrip() for line in lines]


def _head(state: str) -> str:
    return "control" if state == "disconnected" else state


def _width(state: str, tests: list[str], cells: dict[tuple[str, str], Cell]) -> int:
    texts = [cells[test, state].text for test in tests if (test, state) in cells]
    return max(map(len, (_head(state), *texts))) + 2


def _is_zero(test: str, states: list[str], cells: dict[tuple[str, str], Cell]) -> bool:
    found = [cells[test, state].verdict for state in states if (test, state) in cells]
    return all(verdict in (Verdict.ZERO, Verdict.CONTROL) for verdict in found)


def write_json(table: Table, path: Path) -> None:
    """Write the table as JSON."""
    path.write_text(json.dumps(as_data(table), indent=1) + "\n", encoding="utf-8")


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 2rem; font-size: 14px }
th { text-align: left; font-weight: 600; padding: .2rem .6rem; border-bottom: 2px solid #888; vertical-align: bottom }
td { padding: .15rem .6rem; border-bottom: 1px solid #ddd; white-space: nowrap }
td.zero { color: #197a2f } td.known { background: #fdf3d0 } td.failed { background: #f9c8c8; font-weight: 700 }
td.void { background: #d9d9f3 } td.control, td.not-run { color: #888 }
pre { background: #f6f6f6; padding: .6rem; overflow-x: auto; font-size: 13px }
.good { color: #197a2f } .bad { color: #b00020 }
"""


def write_html(table: Table, path: Path) -> None:
    """Write the table as one HTML page that loads nothing."""
    path.write_text(_page(table), encoding="utf-8")


def _page(table: Table) -> str:
    good = '<p class="good">All zero or explained.</p>' if table.good else '<p class="bad">Not all zero.</p>'
    began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(table.began))
    parts = ["<!doctype html>", '<html lang="en"><meta charset="utf-8"><title>molehill leak lab</title>']
    parts += [f"<style>{_STYLE}</style>", "<h1>Leak lab</h1>"]
    parts += [f"<p>{_text(_how(table))}<br>{began}. {_text(table.summary())}.</p>", good]
    for group in table.groups:
        tests, states, cells = table.part(group)
        head = "".join(f"<th>{_text(state)}</th>" for state in states)
        parts.append(f"<table><tr><th>{_text(group)}</th>{head}</tr>")
        for test in tests:
            row = "".join(_cell(cells.get((test, state))) for state in states)
            parts.append(f"<tr><td>{_text(test)}</td>{row}</tr>")
        parts.append("</table>")
    parts.append("<h2>What was seen</h2>")
    for cell in table.cells:
        if cell.verdict in (Verdict.FAILED, Verdict.VOID, Verdict.KNOWN):
            lines = "\n".join(_text(line) for line in ((cell.void,) if cell.void else cell.evidence))
            parts.append(f"<p>{_text(f'{cell.group}, {cell.test}, {cell.state}: {cell.text}')}</p><pre>{lines}</pre>")
    return "\n".join(parts) + "\n</html>\n"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "<td></td>"
    title = cell.void or cell.skipped or f"{cell.sent} packets tried, {cell.seconds:.1f} s"
    return f'<td class="{cell.verdict.replace(" ", "-")}" title="{_text(title)}">{_text(cell.text)}</td>'


def _text(words: str) -> str:
    return html.escape(words, quote=True)
