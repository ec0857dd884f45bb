"""Loading the rules into a real kernel: what stays, what goes, and what a failure leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from engine.firewall import FirewallError
from engine.firewall.nftables import apply, kernel, libnftables, render
from engine.firewall.nftables.apply import Access
from engine.policy import Policy, State, Tunnel
from tests.netns.lab import Lab, Namespace
from tests.unit.firewall.golden import POLICIES

pytestmark = pytest.mark.netns

BY_TOOL = Access(libnftables.run_by_tool, kernel.read)
BOTH_WAYS = pytest.mark.parametrize("access", [None, BY_TOOL], ids=["libnftables", "nft"])
FOREIGN = """
table inet docker {
    chain forward { type filter hook forward priority 0; policy accept; ip saddr 10.9.9.9 drop; }
}
"""


@pytest.fixture
def ns() -> Iterator[Namespace]:
    with Lab() as lab, lab.namespace("nft").entered():
        yield lab["nft"]


def tables(ns: Namespace) -> set[str]:
    listed = json.loads(ns.sh("nft", "-j", "list", "tables"))["nftables"]
    return {entry["table"]["name"] for entry in listed if "table" in entry}


def ours(ns: Namespace) -> str:
    return ns.sh("nft", "list", "table", "inet", "molehill")


@BOTH_WAYS
@pytest.mark.parametrize("name", [name for name, policy in POLICIES.items() if policy.blocks])
def test_every_state_loads_and_is_verified(ns: Namespace, name: str, access: Access | None) -> None:
    assert apply.apply(POLICIES[name], access=access) == []
    assert 'comment "P-0"' in ours(ns)


def test_a_second_policy_replaces_the_first(ns: Namespace) -> None:
    apply.apply(POLICIES["connected-lan"])
    apply.apply(POLICIES["error"])
    assert "LAN-1" not in ours(ns)


@BOTH_WAYS
def test_disconnected_leaves_no_table_of_ours_and_every_other_one(ns: Namespace, access: Access | None) -> None:
    ns.sh("nft", "-f", "-", stdin=FOREIGN)
    before = ns.sh("nft", "list", "table", "inet", "docker")
    apply.apply(POLICIES["connected"], access=access)
    assert tables(ns) == {"docker", "molehill"}
    apply.apply(Policy(State.DISCONNECTED), access=access)
    assert tables(ns) == {"docker"}
    apply.apply(POLICIES["connected"], access=access)
    apply.remove(access=access)
    apply.remove(access=access)
    assert tables(ns) == {"docker"}
    assert ns.sh("nft", "list", "table", "inet", "docker") == before


@BOTH_WAYS
def test_asking_what_is_missing_touches_no_rule_and_no_packet(ns: Namespace, access: Access | None) -> None:
    assert apply.missing(access=access) == []
    assert tables(ns) == set()
    ns.sh("ping", "-c", "1", "-W", "1", "127.0.0.1")
    apply.apply(POLICIES["connected"], access=access)
    before = ours(ns)
    assert apply.missing(access=access) == []
    assert tables(ns) == {"molehill"}
    assert ours(ns) == before


def test_where_nftables_is_missing_that_is_said_and_there_is_nothing_to_remove(
    ns: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libnftables, "_NFT", ())
    assert "neither libnftables nor nft is installed" in apply.missing(access=BY_TOOL)[0]
    apply.remove(access=BY_TOOL)


def test_a_kernel_without_netfilter_is_told_before_the_library_is_asked(
    ns: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libnftables would end our process: the check comes first."""
    monkeypatch.setattr(libnftables, "_NETLINK_NETFILTER", 31)  # a protocol that no kernel has
    assert "the kernel has no netfilter" in apply.missing()[0]


@BOTH_WAYS
def test_a_document_with_one_bad_rule_leaves_the_former_rules(
    ns: Namespace, monkeypatch: pytest.MonkeyPatch, access: Access | None
) -> None:
    apply.apply(POLICIES["error"], access=access)
    before = ours(ns)

    def broken(policy: Policy, *, counters: bool = False) -> dict[str, Any]:
        document = render(policy, counters=counters)
        last = json.loads(json.dumps(document["nftables"][-1]))
        last["add"]["rule"]["expr"] = [{"jump": {"target": "no-such-chain"}}]
        return {"nftables": [*document["nftables"], last]}

    apply._prepared.cache_clear()
    monkeypatch.setattr(apply, "render", broken)
    with pytest.raises(FirewallError, match="those from before stay in force") as caught:
        apply.apply(POLICIES["connected"], access=access)
    assert caught.value.enforced
    assert ours(ns) == before
    apply._prepared.cache_clear()


def test_rules_that_somebody_changed_meanwhile_are_noticed(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    read = kernel.read

    def meddled() -> kernel.Table | None:
        ns.sh("nft", "insert", "rule", "inet", "molehill", "output", "accept")
        return read()

    monkeypatch.setattr(kernel, "read", meddled)
    with pytest.raises(FirewallError, match="may be leaking") as caught:
        apply.apply(POLICIES["error"])
    assert not caught.value.enforced


@pytest.mark.parametrize(
    "meddling",
    [
        "insert rule inet molehill output accept",
        "add rule inet molehill input tcp dport 22 accept",
        "flush chain inet molehill output",
        "add chain inet molehill other { type filter hook output priority -1; policy accept; }",
        "chain inet molehill output { policy accept; }",
        "table inet molehill { flags dormant; }",
        "flush ruleset; add table inet molehill",
    ],
)
def test_every_change_of_the_table_is_seen(ns: Namespace, meddling: str) -> None:
    apply.apply(POLICIES["error"])
    before = kernel.read()
    assert before == kernel.read()
    ns.sh("nft", "-f", "-", stdin=FOREIGN)
    assert kernel.read() == before, "what is not ours does not matter"
    ns.sh("nft", *meddling.split(" "))
    after = kernel.read()
    assert after is not None
    assert after != before


def test_a_kept_context_loads_like_a_new_one_and_sees_what_others_changed_meanwhile(ns: Namespace) -> None:
    context, reader = libnftables.Context(), kernel.Reader()
    kept = Access(context.run, reader.read)
    for name in ("error", "connected", "error"):
        apply.apply(POLICIES[name], access=kept)
        ns.sh("nft", "flush", "ruleset")
    with pytest.raises(libnftables.NftError):
        context.run("no such command")
    apply.apply(POLICIES["connected"], access=kept)
    assert 'comment "P-0"' in ours(ns)
    apply.remove(access=kept)
    assert tables(ns) == set()
    context.close()
    reader.close()


def test_a_policy_that_says_the_same_leaves_the_table_unless_somebody_has_changed_it(ns: Namespace) -> None:
    """Disconnecting keeps the rules of the state it came from (DSC-1)."""
    documents = []

    def run(document: str) -> str:
        documents.append(document)
        return libnftables.run(document)

    access = Access(run, kernel.read)
    loaded = apply.load(POLICIES["connected"], access=access)
    kept = replace(POLICIES["connected"], state=State.DISCONNECTING, kept=State.CONNECTED)
    assert apply.load(kept, access=access, former=loaded) is loaded
    assert len(documents) == 1
    ns.sh("nft", "insert", "rule", "inet", "molehill", "output", "accept")
    again = apply.load(kept, access=access, former=loaded)
    assert len(documents) == 2
    assert "P-0" in ours(ns)
    assert kernel.read() == again.table
    assert apply.load(POLICIES["error"], access=access, former=again) is not again
    assert len(documents) == 3


def test_counters_count(ns: Namespace) -> None:
    apply.apply(POLICIES["error"], counters=True)
    ns.sh("ping", "-c", "1", "127.0.0.1")
    assert "oiftype loopback counter packets 2" in ours(ns)


def test_the_settings_are_raised(ns: Namespace) -> None:
    apply.apply(POLICIES["connected"])
    assert ns.sh("sysctl", "-n", "net.ipv4.conf.all.arp_ignore").strip() == "2"
    assert ns.sh("sysctl", "-n", "net.ipv4.conf.all.src_valid_mark").strip() == "1"


@pytest.mark.parametrize("name", ['a"b', "a\\", "a\\*", "*", "tün€l", "$(id)", "a;b", "a,b", "{x}", "x" * 15])
def test_a_strange_tunnel_name_is_taken_as_it_is(ns: Namespace, name: str) -> None:
    apply.apply(replace(POLICIES["connected"], tunnel=Tunnel(name, (), ())))
    assert "CTD-1" in ours(ns)


def test_many_overlapping_addresses_load(ns: Namespace) -> None:
    twice = (ip_address("192.168.1.53"), ip_address("192.168.1.53"), ip_address("fd00::1"), ip_address("fd00::1"))
    apply.apply(replace(POLICIES["connected"], dns=twice))
