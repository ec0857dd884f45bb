"""Our own nf_tables messages: what they refuse. That they say what the document says: tests/netns."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from engine.firewall.nftables import render
from engine.firewall.nftables.encode import encode
from tests.unit.firewall.golden import POLICIES


@pytest.mark.parametrize("name", POLICIES)
def test_every_message_is_numbered_and_the_last_step_alone_is_acknowledged(name: str) -> None:
    batch = encode(render(POLICIES[name]))
    acknowledged, offset, count = [], 0, 0
    while offset < len(batch.data):
        length, _, flags, sequence = struct.unpack_from("=IHHI", batch.data, offset)
        assert sequence == count
        if flags & 4:
            acknowledged.append(sequence)
        offset, count = offset + length, count + 1
    assert count == len(batch.steps)
    assert acknowledged == [count - 2]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"mark"', '"cpu"'),
        ('"saddr"', '"ttl"'),
        ('{"drop": null}', '{"queue": null}'),
        ('"op": "!="', '"op": "<"'),
        ('"tcp reset"', '"icmp"'),
        ('"right": "loopback"', '"right": "ppp"'),
        ('"10.64.0.1"', '"fd00::1"'),
        ('"10.64.0.1"', '"ten"'),
        ('{"add": {"chain"', '{"insert": {"chain"'),
    ],
)
def test_what_is_outside_the_grammar_is_refused(before: str, after: str) -> None:
    text = json.dumps(render(POLICIES["connected"]))
    assert before in text
    document: dict[str, Any] = json.loads(text.replace(before, after))
    with pytest.raises(ValueError, match=r"outside the grammar|does not appear to be"):
        encode(document)
