"""The screens of every scene as files: what is on them, and in which colours.

`python -m tests.unit.tui.screens` writes the files and docs/tui.svg anew; the difference is then for a person to read.
A file has the text of the screen, then a line for each of its rows: runs of cells as style and length, then the styles.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from engine.tui.app import MolehillApp
from tests.unit.tui.scenes import SCENES, playing, text_of

ROOT = Path(__file__).resolve().parents[3]
DIRECTORY = ROOT / "tests" / "vectors" / "screens"
PICTURE = ROOT / "docs" / "tui.svg"

SMALL, LARGE = (80, 24), (120, 40)
SCREENS = [(name, SMALL) for name in SCENES]
SCREENS += [(name, LARGE) for name in ("connected", "connected-bridge", "not-enforced", "details", "choose")]
SCREENS += [("connected", (60, 30))]

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def file_of(name: str, size: tuple[int, int]) -> Path:
    """Where a screen is kept."""
    return DIRECTORY / f"{name}-{size[0]}x{size[1]}.txt"


def painted(app: MolehillApp) -> str:
    """The screen as a file has it."""
    styles: dict[str, str] = {}
    rows = []
    for strip in app.screen._compositor.render_strips():
        cells = []
        for segment in strip:
            style = str(segment.style or "none")
            letter = styles.setdefault(style, _LETTERS[len(styles)] if style not in styles else "")
            cells += [letter] * segment.cell_length
        rows.append(" ".join(f"{letter}{len(list(run))}" for letter, run in groupby(cells)))
    text = "\n".join(row.rstrip() for row in text_of(app))
    legend = "\n".join(f"{letter} {style}" for style, letter in styles.items())
    return f"{text}\n--\n" + "\n".join(rows) + f"\n--\n{legend}\n"


def picture(app: MolehillApp) -> str:
    """The screen as SVG that loads nothing and says the same each time."""
    svg = app.export_screenshot(title="molehill tui")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "DejaVu Sans Mono").replace(
        "    <!-- Generated with Rich https://www.textualize.io -->\n", ""
    )
    return re.sub(r"terminal-\d+", "t", svg)


async def _draw(name: str, size: tuple[int, int], draw: Callable[[MolehillApp], str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        async with playing(SCENES[name], Path(folder), size) as (app, _, _):
            return draw(app)


def screen(name: str, size: tuple[int, int]) -> str:
    """A screen as its file should have it."""
    return asyncio.run(_draw(name, size, painted))


def documented() -> str:
    """docs/tui.svg as it should be."""
    return asyncio.run(_draw("connected", SMALL, picture))


def main() -> None:
    """Write all files."""
    DIRECTORY.mkdir(exist_ok=True)
    for path in DIRECTORY.iterdir():
        path.unlink()
    for name, size in SCREENS:
        file_of(name, size).write_text(screen(name, size))
    PICTURE.write_text(documented())


if __name__ == "__main__":
    main()
