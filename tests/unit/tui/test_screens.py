"""Every state of the screen, held against files that a person has looked at as pictures."""

from __future__ import annotations

import re

import pytest

from tests.unit.tui import screens
from tests.unit.tui.screens import SCREENS, file_of, screen


@pytest.mark.parametrize(("name", "size"), SCREENS)
def test_the_screen_is_as_it_was_looked_at(name: str, size: tuple[int, int]) -> None:
    kept = file_of(name, size)
    drawn = screen(name, size)
    assert drawn == kept.read_text(), f"{kept.name} changed: look at it, then python -m tests.unit.tui.screens"


def test_every_file_belongs_to_a_screen() -> None:
    assert {path.name for path in screens.DIRECTORY.iterdir()} == {file_of(name, size).name for name, size in SCREENS}


def test_no_text_is_cut_off() -> None:
    for path in screens.DIRECTORY.iterdir():
        assert "…" not in path.read_text(), path.name


def test_err3_a_leak_cannot_be_overlooked_with_or_without_colour() -> None:
    for name in ("not-enforced", "not-enforced-light"):
        text, _, styles = file_of(name, (80, 24)).read_text().split("--\n")
        assert "NOT ENFORCED, TRAFFIC MAY BE LEAKING" in text
        assert "nft: Operation not permitted" in text
        assert "┏━━━━" in text  # a frame that no other state has
        assert "bold #a3161a on #ffffff" in styles
    for path in screens.DIRECTORY.iterdir():
        assert ("LEAKING" in path.read_text()) == path.name.startswith("not-enforced"), path.name


def test_the_states_differ_by_their_text_alone() -> None:
    heads = {}
    for name in ("disconnected", "disconnected-locked", "connecting", "connected", "disconnecting", "error", "gone"):
        text = file_of(name, (80, 24)).read_text().split("--\n")[0]
        heads[name] = re.sub(r"\s", "", "".join(text.splitlines()[1:8]))
    assert len(set(heads.values())) == len(heads)


def test_ui1_the_picture_in_the_docs_is_of_today_and_loads_nothing() -> None:
    picture = screens.PICTURE.read_text()
    assert picture == screens.documented(), "docs/tui.svg is old: python -m tests.unit.tui.screens"
    assert set(re.findall(r"\w+://[^\"' )]*", picture)) == {"http://www.w3.org/2000/svg"}  # a name, not a place
