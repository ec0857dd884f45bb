"""The nftables document: its shape, and what it must never contain. The kernel's word is in tests/netns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from engine.firewall import FirewallError
from engine.firewall.nftables import apply, kernel, render, reset, sysctl
from engine.firewall.nftables.encode import Batch
from engine.policy import MARK, Hop, Platform, Policy, Protocol, State, Tunnel
from tests.unit.firewall.golden import POLICIES

BLOCKING = [name for name, policy in POLICIES.items() if policy.blocks]


def added(document: dict[str, Any], what: str) -> Iterator[dict[str, Any]]:
    for command in document["nftables"]:
        if what in command.get("add", {}):
            yield command["add"][what]


def comments(policy: Policy, chain: str) -> list[str]:
    return [rule["comment"] for rule in added(render(policy), "rule") if rule["chain"] == chain]


@pytest.mark.parametrize("name", POLICIES)
def test_a_document_names_no_table_but_ours(name: str) -> None:
    for command in render(POLICIES[name])["nftables"][1:]:
        ((_, what),) = command.items()
        ((kind, it),) = what.items()
        assert it["family"] == "inet"
        assert it["name" if kind == "table" else "table"] == "molehill"


@pytest.mark.parametrize("name", POLICIES)
def test_a_document_deletes_the_former_table_in_the_same_transaction(name: str) -> None:
    verbs = [(verb, *what) for c in render(POLICIES[name])["nftables"][1:4] for verb, what in c.items()]
    assert verbs[:2] == [("add", "table"), ("delete", "table")]
    assert verbs[2:] == ([("add", "table")] if POLICIES[name].blocks else [])


def test_disconnected_is_the_table_removed() -> None:
    assert render(Policy(State.DISCONNECTED)) == reset()


@pytest.mark.parametrize("name", BLOCKING)
def test_every_deciding_chain_drops_by_default(name: str) -> None:
    policies = {chain["name"]: chain["policy"] for chain in added(render(POLICIES[name]), "chain")}
    assert policies == {"prerouting": "accept", "output": "drop", "input": "drop", "forward": "drop"}


@pytest.mark.parametrize("name", BLOCKING)
def test_incoming_packets_get_no_answer(name: str) -> None:
    rules = [rule for rule in added(render(POLICIES[name]), "rule") if rule["chain"] == "input"]
    assert not [rule for rule in rules if any("reject" in part for part in rule["expr"])]


@pytest.mark.parametrize("name", BLOCKING)
def test_conntrack_is_asked_for_in_every_state_so_that_fragments_are_reassembled(name: str) -> None:
    first = next(added(render(POLICIES[name]), "rule"))
    assert first["chain"] == "prerouting"
    assert first["expr"][0]["match"]["left"] == {"ct": {"key": "state"}}


@pytest.mark.parametrize("name", [name for name in BLOCKING if POLICIES[name].allow_lan])
@pytest.mark.parametrize("chain", ["output", "forward"])
def test_dns_is_decided_before_the_local_network(name: str, chain: str) -> None:
    order = comments(POLICIES[name], chain)
    dns = max(index for index, comment in enumerate(order) if comment in ("CTD-2", "DNS-3"))
    assert dns < order.index("LAN-1")


def test_the_first_hop_needs_the_mark_and_the_api_needs_root() -> None:
    rules = list(added(render(POLICIES["connecting"]), "rule"))
    out = {rule["comment"]: json.dumps(rule["expr"]) for rule in rules if rule["chain"] == "output"}
    assert f'"key": "mark"}}}}, "right": {MARK}' in next(
        json.dumps(rule["expr"]) for rule in rules if rule["chain"] == "output" and rule["comment"] == "CON-1"
    )
    assert '"key": "skuid"}}, "right": 0' in out["API-1"]


def test_the_guard_of_the_tunnel_address_comes_after_the_tunnel_and_before_lan() -> None:
    order = comments(POLICIES["connected-lan"], "input")
    assert order.index("CTD-1") < order.index("CVE-2019-14899") < order.index("LAN-1")


@pytest.mark.parametrize("name", BLOCKING)
def test_whatever_is_blocked_is_counted_by_chain_and_id_and_nothing_else_is(name: str) -> None:
    document = render(POLICIES[name])
    counters = [counter["name"] for counter in added(document, "counter")]
    assert len(set(counters)) == len(counters)
    used = set()
    for rule in added(document, "rule"):
        kinds = [next(iter(part)) for part in rule["expr"]]
        assert ("counter" in kinds) == (kinds[-1] in ("drop", "reject"))
        if "counter" in kinds:
            assert rule["expr"][-2] == {"counter": f"{rule['chain']}/{rule['comment']}"}
            used.add(rule["expr"][-2]["counter"])
    assert used == set(counters)


def test_a_star_at_the_end_of_a_name_is_no_wildcard() -> None:
    policy = replace(POLICIES["connected"], tunnel=Tunnel("wg*", (), (ip_address("10.64.0.1"),)))
    assert '"wg\\\\*"' in json.dumps(render(policy))
    assert '"wg*"' not in json.dumps(render(policy))


@pytest.mark.parametrize("name", ["@x", "abcdefghijklmn*"])
def test_a_name_that_nft_cannot_say_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot speak of"):
        render(replace(POLICIES["connected"], tunnel=Tunnel(name, (), ())))


@pytest.mark.parametrize("platform", [p for p in Platform if p is not Platform.LINUX])
def test_another_platforms_policy_is_refused(platform: Platform) -> None:
    with pytest.raises(ValueError, match="Linux"):
        render(Policy(State.ERROR, platform=platform))


def test_a_scoped_address_is_rendered_without_its_scope() -> None:
    hop = Hop(ip_address("fe80::1%eth0"), 51820, Protocol.UDP)
    assert "%" not in json.dumps(render(Policy(State.CONNECTING, peer=hop)))


class Fake(kernel.Access):
    """A kernel that refuses every batch with an error, or takes it and does nothing; `there`: what it holds."""

    def __init__(self, refuses: str = "", there: kernel.Table | None = None, readable: bool = True) -> None:
        super().__init__()
        self.refuses, self.there, self.readable = refuses, there, readable

    def run(self, batch: Batch) -> None:
        if self.refuses:
            raise kernel.NftError(self.refuses)

    def read(self) -> kernel.Table | None:
        if not self.readable:
            raise OSError("no netfilter")
        return self.there


@pytest.mark.parametrize("enforced", [False, True])
def test_a_failed_load_says_whether_rules_from_before_stay(enforced: bool) -> None:
    """On a kernel without nftables nothing stays, and the user must know (ERR-3)."""
    access = Fake("no such luck", kernel.Table(b"", (), ()), readable=enforced)
    with pytest.raises(FirewallError, match="no such luck") as caught:
        apply.apply(POLICIES["error"], access=access)
    assert caught.value.enforced == enforced
    assert ("those from before stay in force" in str(caught.value)) == enforced
    assert ("traffic may be leaking" in str(caught.value)) != enforced


def test_a_load_that_left_nothing_behind_is_a_leak() -> None:
    with pytest.raises(FirewallError, match=r"may be leaking.*nothing is there") as caught:
        apply.apply(POLICIES["error"], access=Fake())
    assert not caught.value.enforced


def test_a_load_that_cannot_be_read_back_may_be_a_leak() -> None:
    with pytest.raises(FirewallError, match=r"cannot be read back.*may be leaking") as caught:
        apply.apply(POLICIES["error"], access=Fake(readable=False))
    assert not caught.value.enforced


@pytest.mark.parametrize(("before", "after"), [("0", "2"), ("1", "2"), ("2", "2"), ("8", "8")])
def test_a_sysctl_is_raised_and_never_lowered(tmp_path: Path, before: str, after: str) -> None:
    (tmp_path / "arp_ignore").write_text(before)
    assert sysctl.apply({"arp_ignore": 2}, tmp_path) == []
    assert (tmp_path / "arp_ignore").read_text().strip() == after


def test_a_sysctl_that_cannot_be_set_is_a_warning(tmp_path: Path) -> None:
    (warning,) = sysctl.apply({"arp_ignore": 2}, tmp_path)
    assert "arp_ignore to 2" in warning


def test_settings_are_asked_for_while_there_may_be_a_tunnel() -> None:
    wanted = {name for name, policy in POLICIES.items() if sysctl.settings_for(policy)}
    assert wanted == {name for name in POLICIES if name.startswith(("connecting", "connected", "disconnecting"))}
