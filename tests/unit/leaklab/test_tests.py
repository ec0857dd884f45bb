"""The tests as a list: their names, what explains them, and what is expected where."""

from __future__ import annotations

import re
from pathlib import Path

from engine.leaklab import run
from engine.leaklab.arena import Condition
from engine.leaklab.matrix import Expect, expected

DOCS = Path(__file__).parents[3] / "docs"
SOURCE = Path(run.__file__).parent


def test_every_id_that_explains_a_cell_is_in_the_known_issues() -> None:
    ids = {word for path in SOURCE.glob("*.py") for word in re.findall(r'"((?:LNX|NFT|WG)-\d+)"', path.read_text())}
    known = (DOCS / "known-issues.md").read_text()
    assert {"LNX-1", "NFT-2", "WG-1"} <= ids
    assert [name for name in sorted(ids) if f"**{name}," not in known] == []


def test_every_test_is_in_the_document_by_its_name() -> None:
    said = (DOCS / "leaklab.md").read_text()
    assert [name for _, name, _ in run.names() if name not in said] == []


def test_names_are_unique_and_choose_themselves() -> None:
    names = [name for _, name, _ in run.names()]
    assert len(set(names)) == len(names)
    assert run.chosen(run.Options(only=("our*",))) == [name for name in names if name.startswith("our")]
    assert run.chosen(run.Options(only=("flows",))) == [test.name for test in run.TESTS if test.group == "flows"]
    assert run.chosen(run.Options(only=("nothing so",))) == []
    assert run.chosen(run.Options()) == names


def test_the_short_form_names_tests_and_states_that_exist() -> None:
    known = {test.name: {condition.name for condition in test.states} for test in run.TESTS}
    assert all(set(states) <= known[name] for name, states in run.SHORT.items())


def test_what_is_expected_is_what_the_policy_says() -> None:
    connected, error = Condition("connected"), Condition("error")
    cases = [
        ("internet", connected, Expect.TUNNEL),
        ("internet", error, Expect.BLOCKED),
        ("internet", Condition("killed"), Expect.BLOCKED),
        ("LAN", connected, Expect.BLOCKED),
        ("LAN", Condition("lockdown", lan=True), Expect.CLEAR),
        ("gateway", Condition("connected", dns="public"), Expect.BLOCKED),
        ("public resolver", Condition("connected", dns="public"), Expect.TUNNEL),
        ("local resolver", Condition("connected", dns="private"), Expect.CLEAR),
        ("local resolver", Condition("connected", lan=True), Expect.BLOCKED),
        ("other DNS", Condition("connected", lan=True), Expect.BLOCKED),
        ("API", Condition("error", api=True), Expect.CLEAR),
        ("API", Condition("connected", api=True), Expect.TUNNEL),
        ("API, user", Condition("error", api=True), Expect.BLOCKED),
        ("bypass", Condition("connected", lan=True), Expect.BLOCKED),
        ("always", error, Expect.CLEAR),
        ("bypass", Condition("disconnected"), Expect.CLEAR),
    ]
    assert [(group, c.name, expected(group, c)) for group, c, _ in cases] == [(g, c.name, want) for g, c, want in cases]
