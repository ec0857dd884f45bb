"""Explanations: every enforcer is asked, and they agree but for the differences that have a name."""

import random

import pytest

from engine.explain.judge import Judge
from engine.explain.packet import parse_packet
from engine.explain.settings import parse_settings
from engine.policy import Platform
from native.facts import Direction, Fragment
from native.reasons import Reason
from tests.samples import random_facts, random_policy
from tests.unit.explain.support import EVERYTHING

TO_THE_RELAY = "out other udp 192.168.1.5:4000 > 198.51.100.7:51820"


def explain(settings: str, packet: str):
    return Judge(parse_settings(settings, EVERYTHING)).explain(parse_packet(packet))


def test_an_explanation_names_verdict_rule_sentence_and_every_backend() -> None:
    it = explain("connecting", f"{TO_THE_RELAY} uid=1000")
    assert (it.verdict, it.rule, it.reason, it.agree) == ("reject", "CON-2", Reason.POLICY, True)
    assert it.sentence.startswith("The first hop may be reached by the process that makes the tunnel only")
    assert list(it.backends) == ["native", "reference", "nftables", "pf", "wfp"]
    assert [it.backends[name].verdict for name in it.backends] == ["reject", "reject", "reject", None, None]
    assert it.backends["pf"].note == "not applicable: the firewall of macOS, this policy is for Linux"


def test_the_mark_opens_the_way_to_the_first_hop() -> None:
    it = explain("connecting", f"{TO_THE_RELAY} mark=0x6d6f6c65")
    assert (it.verdict, it.rule, it.backends["nftables"].rule) == ("accept", "CON-1", "CON-1")


@pytest.mark.parametrize(("platform", "name", "verdict"), [("macos", "pf", "reject"), ("windows", "wfp", "drop")])
def test_the_firewall_of_the_policys_platform_is_asked(platform: str, name: str, verdict: str) -> None:
    it = explain(f"connected platform={platform} tunnel=utun4", "out tunnel udp 10.64.0.2:5000 > 9.9.9.9:53")
    assert (it.verdict, it.backends[name].verdict, it.backends[name].rule) == ("reject", verdict, "CTD-2")
    assert it.backends["nftables"].verdict is None


def test_a_phone_has_no_firewall_to_ask() -> None:
    it = explain("connecting platform=android", "out tunnel udp 10.64.0.2:5000 > 9.9.9.9:443")
    assert (it.verdict, it.rule) == ("drop", "MOB-2")
    assert all("no firewall on Android" in it.backends[name].note for name in ("nftables", "pf", "wfp"))


def test_a_later_fragment_is_not_a_matter_of_a_firewall() -> None:
    it = explain("connected", "out tunnel tcp 10.64.0.2 > 9.9.9.9 frag=later")
    assert (it.verdict, it.reason) == ("drop", Reason.FRAGMENT_UNKNOWN)
    assert it.backends["nftables"].note.endswith("(reassembled)")


def test_a_later_fragment_shares_the_verdict_of_the_first_one_explained_before_it() -> None:
    judge = Judge(parse_settings("connected allow-lan", EVERYTHING))
    first = judge.explain(parse_packet("out other udp 192.168.1.5:4000 > 192.168.1.9:80 frag=first"))
    later = judge.explain(parse_packet("out other udp 192.168.1.5 > 192.168.1.9 frag=later"))
    assert [(it.verdict, it.rule, it.agree) for it in (first, later)] == [("accept", "LAN-1", True)] * 2


def test_the_guard_of_the_tunnels_address_is_a_difference_with_a_name() -> None:
    it = explain("connected allow-lan", "in other tcp 192.168.1.9:80 > 10.64.0.2:4000")
    assert (it.verdict, it.backends["nftables"].verdict, it.agree) == ("accept", "drop", False)
    assert it.backends["nftables"].note.endswith("(tunnel-address)")


def test_a_broken_packet_is_dropped_where_anything_is_enforced() -> None:
    broken = Judge(parse_settings("error", {})).malformed(Reason.MALFORMED)
    assert (broken.verdict, broken.rule, broken.reason) == ("drop", None, Reason.MALFORMED)
    assert Judge(parse_settings("disconnected", {})).malformed(Reason.MALFORMED).verdict == "accept"


@pytest.mark.parametrize("seed", range(40))
def test_the_nftables_document_judges_as_the_policy_does(seed: int) -> None:
    rng = random.Random(seed)
    policy = random_policy(rng, Platform.LINUX, "wg0")
    judge = Judge(policy)
    for _ in range(60):
        facts = random_facts(rng, policy)
        if facts.fragment is not Fragment.WHOLE:
            continue
        if facts.direction is not Direction.OUT and facts.uid is not None:
            continue  # nothing owns a packet that comes in or passes through
        it = judge.explain(facts)
        theirs = it.backends["nftables"]
        if theirs.rule == "CVE-2019-14899":
            assert theirs.verdict == "drop"
            continue
        assert theirs.verdict == it.verdict, facts
        assert theirs.rule in (it.rule, None), facts
