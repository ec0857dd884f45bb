"""The documented diagram is the table's own."""

from __future__ import annotations

from pathlib import Path

from engine.state.diagram import section

DOCUMENT = Path(__file__).parents[3] / "docs" / "architecture.md"


def test_the_architecture_document_shows_exactly_the_table() -> None:
    text = DOCUMENT.read_text()
    shown = text.split("<!-- state-diagram: begin -->\n")[1].split("<!-- state-diagram: end -->")[0]
    assert shown == section(), "run: python -m engine.state.diagram --write"
