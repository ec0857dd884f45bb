"""What is rendered for each state, held against files that a person has read."""

from __future__ import annotations

import pytest

from tests.unit.firewall import golden


@pytest.mark.parametrize("name", golden.POLICIES)
def test_what_is_rendered_is_the_golden_file(name: str) -> None:
    for file, text in golden.rendered(name).items():
        assert text == (golden.DIRECTORY / file).read_text(), f"{file} changed: read the difference, then rewrite it"


def test_every_golden_file_belongs_to_a_policy() -> None:
    known = {file for name in golden.POLICIES for file in golden.rendered(name)}
    assert {path.name for path in golden.DIRECTORY.iterdir()} == known
