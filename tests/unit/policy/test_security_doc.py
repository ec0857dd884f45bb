"""docs/security.md says what is so: sentences, enforcers, tests and proofs that exist."""

import re
from functools import cache

import pytest

from engine.policy.sentences import SENTENCES
from tests import claims

AGAIN = "run: python -m tests.claims"


@cache
def rows() -> dict[str, list[str]]:
    found = re.findall(r"^\| ([A-Z0-9]+-\d) \| (.*) \|$", claims.DOC.read_text(), re.MULTILINE)
    return {claim: rest.split(" | ") for claim, rest in found}


@cache
def evidence() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    return claims.evidence()


def named(cell: str) -> list[tuple[str, str]]:
    """The links of a cell: (file, function or the file's name)."""
    return [(file, words) for words, file in re.findall(r"\[(\w+)\]\(\.\./([\w/.]+)\)", cell)]


def test_every_claim_has_one_row_with_its_sentence_and_its_enforcers() -> None:
    assert list(rows()) == list(SENTENCES), AGAIN
    carried = claims.enforcers()
    for claim, (sentence, by, *_) in rows().items():
        assert (sentence, by) == (SENTENCES[claim], carried[claim]), AGAIN


@pytest.mark.parametrize("claim", SENTENCES)
def test_every_claim_has_a_test(claim: str) -> None:
    tests, _ = evidence()
    assert tests[claim]


@pytest.mark.parametrize("claim", SENTENCES)
def test_every_test_and_proof_that_the_page_names_exists_and_stands_for_the_claim(claim: str) -> None:
    tests, proofs = evidence()
    _, _, test_cell, proof_cell = rows()[claim]
    assert bool(named(test_cell)) is bool(tests[claim]), AGAIN
    assert {"::".join(link) for link in named(test_cell)} <= set(tests[claim]), AGAIN
    assert {file for file, _ in named(proof_cell)} == set(proofs[claim]), AGAIN
    for file, function in named(test_cell):
        assert re.search(rf"^(async )?def {function}\(", (claims.ROOT / file).read_text(), re.MULTILINE), function


def test_the_differences_of_the_firewalls_are_all_on_the_page() -> None:
    text = claims.DOC.read_text()
    for difference in claims.DIFFERENCES:
        assert f"| {difference.name} | {', '.join(difference.backends)} |" in text, AGAIN
        assert difference.what in text, AGAIN
