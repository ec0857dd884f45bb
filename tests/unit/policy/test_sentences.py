"""Every claim has one sentence of our own."""

import re
from pathlib import Path

from engine.policy.sentences import SENTENCES

DOC = (Path(__file__).resolve().parents[3] / "docs" / "policy.md").read_text()
FAMILIES = "P|LO|DHCP4|DHCP6|NDP|LAN|FWD|API|DIS|CON|CTD|DSC|ERR|DNS|KS|ATOM|EXIT|BOOT|START|IPC|UI|MOB"


def test_every_id_of_the_policy_document_has_a_sentence_and_no_other_has() -> None:
    assert set(re.findall(rf"\b(?:{FAMILIES})-\d\b", DOC)) == set(SENTENCES)


def test_every_claim_of_the_documents_tables_has_a_sentence() -> None:
    listed = re.findall(r"^\| ([A-Z0-9]+-\d) \|", DOC, re.MULTILINE)
    assert len(listed) >= 35
    assert set(listed) <= set(SENTENCES)


def test_a_sentence_begins_with_a_capital_and_ends_with_a_full_stop() -> None:
    assert len(SENTENCES) >= 45
    for claim, sentence in SENTENCES.items():
        assert re.fullmatch(r"[A-Z].{15,240}\.", sentence), claim
    assert len(set(SENTENCES.values())) == len(SENTENCES)
