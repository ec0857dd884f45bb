"""The loaded program: what is no program, and what later fragments get under the rules of a real policy."""

from dataclasses import replace

import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.packet import Raw

from engine.filter import PASS_ALL, compile_policy
from engine.policy import Policy
from native.facts import Direction, Facts, Fragment, Interface, parse
from native.reasons import Reason
from native.verdict import Answer, FragmentTable, Program, Verdict
from tests.judging import CONNECTED, DISCONNECTED, ERROR, GRE, HERE, THERE, TUN, out

SECOND = 10**9


def test_bytes_that_are_no_program_are_refused() -> None:
    for code in (b"", b"MHVP", bytes(5000), PASS_ALL[:-1], PASS_ALL + b"\0", b"X" + PASS_ALL[1:]):
        with pytest.raises(ValueError, match=f"these {len(code)} bytes are not a verdict program"):
            Program(code)


def datagram(version: int, port: int, direction: Direction = Direction.OUT) -> list[Facts]:
    """A UDP datagram of 3000 bytes in fragments, on the tunnel."""
    body = UDP(sport=4000, dport=port) / Raw(bytes(3000))
    if version == 4:
        parts = fragment(IP(src="10.64.0.2", dst="8.8.8.8", id=7) / body, 1000)
    else:
        parts = fragment6(IPv6(src="fc00:bbbb::2", dst="2606:4700::1") / IPv6ExtHdrFragment(id=7) / body, 1048)
    facts = [parse(bytes(part)) for part in parts]
    return [
        replace(part, direction=direction, iface_in=Interface.TUNNEL, iface_out=Interface.TUNNEL)
        for part in facts
        if isinstance(part, Facts)
    ]


def filter_all(policy: Policy, parts: list[Facts]) -> list[Verdict]:
    program, table = Program(compile_policy(policy).code), FragmentTable()
    return [program.filter(table, part, SECOND) for part in parts]


@pytest.mark.parametrize("version", [4, 6])
def test_a_fragmented_datagram_passes_whole_or_not_at_all(version: int) -> None:
    assert all(verdict.accept for verdict in filter_all(CONNECTED, datagram(version, 443)))
    blocked = filter_all(CONNECTED, datagram(version, 53))
    assert not any(verdict.accept for verdict in blocked)
    assert [verdict.reason for verdict in blocked] == [Reason.POLICY] + [Reason.FRAGMENT_UNKNOWN] * (len(blocked) - 1)
    assert [verdict.answer for verdict in blocked] == [Answer.REJECT] + [Answer.NONE] * (len(blocked) - 1)
    assert len({verdict.rule for verdict in blocked}) == 1


@pytest.mark.parametrize("version", [4, 6])
def test_a_datagram_on_its_way_while_the_policy_changes_is_judged_by_the_new_one_and_not_torn(version: int) -> None:
    table = FragmentTable()
    first, second, third, *_ = datagram(version, 443)
    connected, blocked = (Program(compile_policy(policy).code) for policy in (CONNECTED, ERROR))
    with_lan = Program(compile_policy(replace(CONNECTED, allow_lan=True)).code)
    assert connected.filter(table, first, SECOND).accept
    assert with_lan.filter(table, second, SECOND).accept
    assert not blocked.filter(table, third, SECOND).accept


@pytest.mark.parametrize("version", [4, 6])
def test_a_later_fragment_that_comes_first_is_dropped_where_rules_look_at_ports(version: int) -> None:
    first, second, *_ = datagram(version, 443)
    early, *rest = filter_all(CONNECTED, [second, first, second])
    assert (early.accept, early.reason) == (False, Reason.FRAGMENT_UNKNOWN)
    assert all(verdict.accept for verdict in rest)


@pytest.mark.parametrize("version", [4, 6])
def test_a_later_fragment_that_comes_first_passes_where_no_port_could_block_it(version: int) -> None:
    inward = datagram(version, 443, Direction.IN)[1]
    assert filter_all(CONNECTED, [inward])[0].accept
    assert filter_all(DISCONNECTED, [datagram(version, 53)[1]])[0].accept


def test_a_later_fragment_is_blocked_by_name_where_no_port_could_let_it_pass() -> None:
    lone = replace(datagram(4, 443)[1], dst=IP_GATEWAY)
    verdict = filter_all(ERROR, [lone])[0]
    assert (verdict.accept, verdict.reason) == (False, Reason.POLICY)


def test_protocols_without_ports_do_not_wait_for_a_first_fragment() -> None:
    later = replace(out(GRE, HERE, THERE, via=TUN), fragment=Fragment.LATER, frag_offset=800, frag_len=8)
    assert filter_all(CONNECTED, [later])[0].accept


def test_an_ipv6_later_fragment_cannot_talk_its_way_out_by_another_protocol() -> None:
    first, second, *_ = datagram(6, 53)
    claims_gre = replace(second, proto=GRE)
    lone, _, known = filter_all(CONNECTED, [claims_gre, first, claims_gre])
    assert (lone.accept, lone.reason) == (False, Reason.FRAGMENT_UNKNOWN)
    assert (known.accept, known.reason) == (False, Reason.FRAGMENT_UNKNOWN)
    assert known.rule != lone.rule  # the first fragment's, not P-0


def test_the_stateless_verdict_of_a_later_fragment_goes_by_what_it_shows() -> None:
    assert Program(compile_policy(CONNECTED).code).judge(datagram(4, 53)[1]).accept


IP_GATEWAY = out(GRE, "10.64.0.2", "10.64.0.1").dst
