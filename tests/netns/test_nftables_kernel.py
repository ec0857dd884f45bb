"""The rendered nftables document, in a real kernel, against the reference evaluator: random policies and packets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from engine.firewall.nftables import apply, render
from engine.policy import Policy
from tests.netns.comparison import Result, compare
from tests.netns.host import Host, host

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def machine() -> Iterator[Host]:
    with host() as made:
        yield made


def agree(result: Result) -> None:
    print(result)
    assert not result.differences, "\n".join(result.differences[:5])
    assert not result.of_the_model, "\n".join(result.of_the_model[:5])
    assert 0.2 < result.accepted / result.packets < 0.9, "the sample says little if nearly all have one verdict"
    assert result.not_shown < 0.2 * result.packets
    assert result.replies > result.packets / 100
    assert result.left > 0.9 * result.let_out


def test_the_kernel_judges_a_sample_of_packets_as_the_reference_does(machine: Host) -> None:
    agree(compare(machine, seed=20, policies=40, each=50))


@pytest.mark.slow
def test_the_kernel_judges_twenty_thousand_packets_as_the_reference_does(machine: Host) -> None:
    result = compare(machine, seed=2026, policies=400, each=80)
    agree(result)
    assert result.packets >= 20_000
    assert result.policies >= 300


def forget() -> None:
    """What has been made of a policy is kept."""
    apply._prepared.cache_clear()
    apply._made.cache_clear()


def without(comment: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["nftables"] = [
            command
            for command in document["nftables"]
            if command.get("add", {}).get("rule", {}).get("comment") != comment
        ]

    return change


def replacing(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["nftables"] = json.loads(json.dumps(document["nftables"]).replace(old, new))

    return change


_ESTABLISHED = '{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "established"}}'
_REPLY = '{"match": {"op": "==", "left": {"ct": {"key": "direction"}}, "right": "reply"}}'


@pytest.mark.parametrize(
    "change",
    [
        without("NDP-7"),
        without("CTD-2"),
        replacing('"key": "mark"}}, "right": 1836018789', '"key": "mark"}}, "right": 1836018788'),
        replacing('"addr": "172.16.0.0", "len": 12', '"addr": "172.0.0.0", "len": 8'),
        replacing('"addr": "fe80::", "len": 10', '"addr": "fe80::", "len": 9'),
        replacing('"field": "code"}}, "right": 0', '"field": "type"}}, "right": 135'),
        replacing(f"{_ESTABLISHED}, {_REPLY}, ", ""),
        replacing('"key": "skuid"}}, "right": 0', '"key": "skuid"}}, "right": 1000'),
        replacing('"field": "dport"}}, "right": 53', '"field": "dport"}}, "right": 54'),
    ],
    ids=[
        "NDP-7 forgotten", "DNS block forgotten", "wrong mark", "172/8", "fe80::/9", "code not looked at",
        "any packet is a reply", "wrong user", "wrong DNS port",
    ],
)  # fmt: skip
@pytest.mark.slow
def test_the_comparison_finds_a_broken_document(
    machine: Host, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], None]
) -> None:
    def broken(policy: Policy) -> dict[str, Any]:
        document = render(policy)
        change(document)
        return document

    monkeypatch.setattr(apply, "render", broken)
    forget()  # what was made of whole documents
    try:
        result = compare(machine, seed=7, policies=60, each=60)
    finally:
        forget()  # and of the broken ones
    assert result.differences
    assert not result.of_the_model, "\n".join(result.of_the_model[:5])
