"""Loading the rules into a real kernel: what stays, what goes, and what a failure leaves behind."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from engine.firewall import FirewallError
from engine.firewall.nftables import apply, kernel, render
from engine.firewall.nftables.encode import Batch, encode
from engine.firewall.nftables.kernel import Access, NftError
from engine.policy import Policy, State, Tunnel
from tests.netns.lab import Lab, Namespace
from tests.unit.firewall.golden import POLICIES

pytestmark = pytest.mark.netns

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
    return ns.sh("nft", "-s", "list", "table", "inet", "molehill")


@pytest.mark.parametrize("name", [name for name, policy in POLICIES.items() if policy.blocks])
def test_every_state_loads_and_is_verified(ns: Namespace, name: str) -> None:
    assert apply.apply(POLICIES[name]) == []
    assert 'comment "P-0"' in ours(ns)


def test_a_second_policy_replaces_the_first(ns: Namespace) -> None:
    apply.apply(POLICIES["connected-lan"])
    apply.apply(POLICIES["error"])
    assert "LAN-1" not in ours(ns)


def test_disconnected_leaves_no_table_of_ours_and_every_other_one(ns: Namespace) -> None:
    ns.sh("nft", "-f", "-", stdin=FOREIGN)
    before = ns.sh("nft", "list", "table", "inet", "docker")
    apply.apply(POLICIES["connected"])
    assert tables(ns) == {"docker", "molehill"}
    apply.apply(Policy(State.DISCONNECTED))
    assert tables(ns) == {"docker"}
    apply.apply(POLICIES["connected"])
    apply.remove()
    apply.remove()
    assert tables(ns) == {"docker"}
    assert ns.sh("nft", "list", "table", "inet", "docker") == before


def test_asking_what_is_missing_touches_no_rule_and_no_packet(ns: Namespace) -> None:
    assert apply.missing() == []
    assert tables(ns) == set()
    ns.sh("ping", "-c", "1", "-W", "1", "127.0.0.1")
    apply.apply(POLICIES["connected"])
    before = ours(ns)
    assert apply.missing() == []
    assert tables(ns) == {"molehill"}
    assert ours(ns) == before


def test_where_the_kernel_has_no_netfilter_that_is_said_and_there_is_nothing_to_remove(
    ns: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "NETLINK_NETFILTER", 31)  # a protocol that no kernel has
    assert "the kernel has no netfilter" in apply.missing()[0]
    apply.remove()


def forget() -> None:
    """What was rendered before."""
    apply._prepared.cache_clear()
    apply._made.cache_clear()


def test_a_document_with_one_bad_rule_leaves_the_former_rules(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    apply.apply(POLICIES["error"])
    before = ours(ns)

    def broken(policy: Policy) -> dict[str, Any]:
        document = json.loads(json.dumps(render(policy)))
        document["nftables"][-1]["add"]["rule"]["chain"] = "no-such-chain"
        return dict(document)

    forget()
    monkeypatch.setattr(apply, "render", broken)
    with pytest.raises(FirewallError, match=r"those from before stay in force.*for the rule P-0 of") as caught:
        apply.apply(POLICIES["connected"])
    assert caught.value.enforced
    assert ours(ns) == before
    forget()


def test_rules_that_somebody_changed_meanwhile_are_noticed(ns: Namespace) -> None:
    class Meddled(Access):
        def read(self) -> kernel.Table | None:
            ns.sh("nft", "insert", "rule", "inet", "molehill", "output", "accept")
            return super().read()

    with Meddled() as access, pytest.raises(FirewallError, match="may be leaking") as caught:
        apply.apply(POLICIES["error"], access=access)
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


def test_a_kept_access_loads_like_a_new_one_and_sees_what_others_changed_meanwhile(ns: Namespace) -> None:
    with Access() as kept:
        for name in ("error", "connected", "error"):
            apply.apply(POLICIES[name], access=kept)
            ns.sh("nft", "flush", "ruleset")
        with pytest.raises(NftError, match="No such file or directory, for the removal of the table molehill"):
            kept.run(encode({"nftables": [{"delete": {"table": {"family": "inet", "name": "molehill"}}}]}))
        apply.apply(POLICIES["connected"], access=kept)
        assert 'comment "P-0"' in ours(ns)
        apply.remove(access=kept)
        assert tables(ns) == set()


def test_a_policy_that_says_the_same_leaves_the_table_unless_somebody_has_changed_it(ns: Namespace) -> None:
    """Disconnecting keeps the rules of the state it came from (DSC-1)."""
    batches = []

    class Counting(Access):
        def run(self, batch: Batch) -> None:
            batches.append(batch)
            super().run(batch)

    with Counting() as access:
        loaded = apply.load(POLICIES["connected"], access=access)
        kept = replace(POLICIES["connected"], state=State.DISCONNECTING, kept=State.CONNECTED)
        assert apply.load(kept, access=access, former=loaded) is loaded
        assert len(batches) == 1
        ns.sh("nft", "insert", "rule", "inet", "molehill", "output", "accept")
        again = apply.load(kept, access=access, former=loaded)
        assert len(batches) == 2
        assert "P-0" in ours(ns)
        assert kernel.read() == again.table
        assert apply.load(POLICIES["error"], access=access, former=again) is not again
        assert len(batches) == 3


def test_what_is_blocked_is_counted_by_chain_and_rule(ns: Namespace) -> None:
    ns.sh("ip", "tuntap", "add", "eth9", "mode", "tun")
    ns.sh("ip", "link", "set", "eth9", "up")
    ns.sh("ip", "addr", "add", "198.51.100.1/24", "dev", "eth9")
    with Access() as access:
        assert apply.blocked(access) == {}
        apply.apply(POLICIES["error"], access=access)
        before = apply.blocked(access)  # the kernel's own packets at its begin
        for _ in range(3):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, suppress(PermissionError):
                sender.sendto(b"x" * 72, ("198.51.100.7", 9))
        after = apply.blocked(access)
        packets, octets = (
            now - then for now, then in zip(after["output", "P-0"], before["output", "P-0"], strict=True)
        )
        assert (packets, octets) == (3, 300)
        assert after["input", "P-0"] == before["input", "P-0"]
        assert kernel.read() == access.read(), "what is counted is no change of the table"


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
