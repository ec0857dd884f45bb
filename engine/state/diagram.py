"""Draw the state machine from its table, so that the picture in the documentation cannot be wrong."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from engine.policy import State
from engine.state.table import TABLE, How, Row


def _words(row: Row) -> str:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", row.event.__name__).lower()
    return f"{name} [{row.when}]" if row.when else name


def mermaid() -> str:
    """The transitions as a mermaid state diagram; rows that stay are left to `markdown_table`."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for row in TABLE:
        if row.how is How.ENTER and row.source is not row.target:
            arrows.setdefault((row.source, row.target), []).append(_words(row))
    lines = ["stateDiagram-v2", f"    [*] --> {State.DISCONNECTED.name.capitalize()}"]
    for (source, target), labels in arrows.items():
        arrow = f"{source.name.capitalize()} --> {target.name.capitalize()}"
        lines.append(f"    {arrow}: {'<br>'.join(labels)}")
    return "\n".join(lines)


def markdown_table() -> str:
    """Every row of the table, in its order: the first that fits is taken."""
    lines = ["| in | on | goes to | policy |", "|---|---|---|---|"]
    policy = {How.ENTER: "the new state's", How.REAPPLY: "applied again", How.NOTE: "as it is"}
    for row in TABLE:
        stays = row.source is row.target and row.how is not How.ENTER
        lines.append(
            f"| {row.source.name.capitalize()} | {_words(row)} "
            f"| {'stays' if stays else row.target.name.capitalize()} | {policy[row.how]} |"
        )
    return "\n".join(lines)


def section() -> str:
    """The text between the markers in docs/architecture.md."""
    return f"```mermaid\n{mermaid()}\n```\n\n{markdown_table()}\n"


def _write(document: Path) -> None:
    begin, end = "<!-- state-diagram: begin -->\n", "<!-- state-diagram: end -->"
    head, rest = document.read_text().split(begin)
    tail = rest.split(end)[1]
    document.write_text(f"{head}{begin}{section()}{end}{tail}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        _write(Path("docs/architecture.md"))
    else:
        print(section(), end="")
