"""Our own batches against libnftables: from every document both make the same table, as `nft` lists it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from engine.firewall.nftables import kernel, render
from engine.firewall.nftables.encode import encode
from engine.policy import Platform, Tunnel
from tests.netns import libnftables
from tests.netns.lab import Lab, Namespace
from tests.samples import random_policy
from tests.unit.firewall.golden import POLICIES

pytestmark = pytest.mark.netns

BLOCKING = {name: policy for name, policy in POLICIES.items() if policy.blocks}
TABLE = {"family": "inet", "name": "molehill"}


@pytest.fixture
def ns() -> Iterator[Namespace]:
    with Lab() as lab, lab.namespace("nft").entered():
        yield lab["nft"]


def both(ns: Namespace, document: dict[str, Any]) -> tuple[str, str]:
    """What `nft` lists after our batch, and after libnftables took the document; sets by their numbers in order."""
    kernel.run(encode(document))
    ours = ns.sh("nft", "-s", "list", "ruleset")
    libnftables.run(json.dumps(document))
    return ours, ns.sh("nft", "-s", "list", "ruleset")


@pytest.mark.parametrize("name", BLOCKING)
def test_the_library_makes_the_same_of_every_state(ns: Namespace, name: str) -> None:
    ours, theirs = both(ns, render(BLOCKING[name]))
    assert ours == theirs
    assert ours.count("comment") > 40


def test_the_library_makes_the_same_of_random_policies(ns: Namespace) -> None:
    rng = random.Random(20)
    for _ in range(40):
        policy = random_policy(rng, Platform.LINUX, "molehill0")
        ours, theirs = both(ns, render(policy))
        assert ours == theirs


@pytest.mark.parametrize("name", ['a"b', "a\\", "*", "tün€l", "$(id)", "a;b", "wg*"])
def test_the_library_makes_the_same_of_strange_interfaces(ns: Namespace, name: str) -> None:
    ours, theirs = both(ns, render(replace(POLICIES["connected"], tunnel=Tunnel(name, (ip_address("10.1.1.1"),), ()))))
    assert ours == theirs


@pytest.mark.parametrize("seed", range(4))
def test_the_library_makes_the_same_of_sets_of_networks(ns: Namespace, seed: int) -> None:
    """Neighbours, single addresses, the first and the last address there is."""
    rng = random.Random(seed)
    pool = [
        "0.0.0.0/8",
        "1.0.0.0/8",
        "255.255.255.255/32",
        "255.255.255.254/32",
        "10.0.0.0/9",
        "10.128.0.0/9",
        "9.9.9.9/32",
    ]
    pool6 = ["::/16", "1::/16", "ffff::/16", "fffe::/15", "fd00::1/128", "fd00::2/128"]
    for _ in range(10):
        for protocol, networks, every in (("ip", pool, 32), ("ip6", pool6, 128)):
            some = [ip_network(text) for text in rng.sample(networks, rng.randint(2, len(networks)))]
            some = [net for net in some if not any(net != other and net.subnet_of(other) for other in some)]  # type: ignore[arg-type]  # all of one IP version
            members = [
                str(net.network_address)
                if net.prefixlen == every
                else {"prefix": {"addr": str(net.network_address), "len": net.prefixlen}}
                for net in some
            ]
            ours, theirs = both(ns, with_rule(protocol, {"set": members} if len(members) > 1 else members[0]))
            assert ours == theirs


def with_rule(protocol: str, right: Any) -> dict[str, Any]:
    version = {
        "match": {"op": "==", "left": {"meta": {"key": "nfproto"}}, "right": {"ip": "ipv4", "ip6": "ipv6"}[protocol]}
    }
    match = {"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": "daddr"}}, "right": right}}
    where = {"family": "inet", "table": "molehill"}
    return {
        "nftables": [
            {"add": {"table": TABLE}},
            {"delete": {"table": TABLE}},
            {"add": {"table": TABLE}},
            {
                "add": {
                    "chain": {
                        **where,
                        "name": "output",
                        "type": "filter",
                        "hook": "output",
                        "prio": 0,
                        "policy": "accept",
                    }
                }
            },
            {"add": {"rule": {**where, "chain": "output", "comment": "x", "expr": [version, match, {"drop": None}]}}},
        ]
    }
