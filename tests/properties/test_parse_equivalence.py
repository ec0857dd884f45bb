"""native/src/parse.c reads every packet as the naive parser does, and as dpkt does where dpkt is strict enough."""

import dpkt
from hypothesis import given
from hypothesis import strategies as st

from engine.filter import compile_rules, evaluate
from engine.policy import Policy, rules_for
from native.facts import Facts, Fragment, parse
from native.reasons import Reason
from native.verdict import Program
from tests.properties import naive_parser
from tests.properties.packets import damaged_packets, packets
from tests.properties.policies import contexts, policies


@given(packets() | damaged_packets() | st.binary(max_size=120))
def test_the_native_parser_and_the_naive_one_agree_on_every_packet(packet: bytes) -> None:
    assert parse(packet) == naive_parser.parse(packet)


@given(damaged_packets())
def test_a_packet_cut_anywhere_is_read_alike_and_never_beyond_its_end(packet: bytes) -> None:
    for end in range(min(len(packet), 70)):
        assert parse(packet[:end]) == naive_parser.parse(packet[:end])


@given(packets())
def test_dpkt_reads_the_same_out_of_every_packet_that_is_accepted(packet: bytes) -> None:
    facts = parse(packet)
    if not isinstance(facts, Facts):
        assert facts in (Reason.MALFORMED, Reason.FRAGMENT_BAD)
        return
    ip: dpkt.ip.IP | dpkt.ip6.IP6
    if facts.version == 4:
        ip = dpkt.ip.IP(packet)
        assert (facts.proto, facts.tos, facts.total_len, facts.frag_id) == (ip.p, ip.tos, ip.len, ip.id)
        assert (facts.header_len, facts.more_fragments, facts.frag_offset) == (4 * ip.hl, ip.mf, 8 * ip.offset)
    else:
        try:
            ip = dpkt.ip6.IP6(packet)
        except AttributeError:
            return  # dpkt 1.9.8 itself trips over a further extension header behind a fragment header
        except dpkt.NeedData:
            assert facts.fragment is Fragment.LATER  # it reads headers into the middle of a datagram
            return
        assert facts.total_len == 40 + ip.plen
        # dpkt stops at an AH in the middle and takes protocol 50 for an extension header.
        if any(isinstance(header, dpkt.ip6.IP6AHHeader | dpkt.ip6.IP6ESPHeader) for header in ip.all_extension_headers):
            return
        if facts.fragment is Fragment.LATER:
            return  # dpkt reads headers into the middle of a datagram
        assert facts.proto == ip.p
    assert (facts.src.packed, facts.dst.packed) == (ip.src, ip.dst)
    if isinstance(ip.data, dpkt.tcp.TCP | dpkt.udp.UDP) and facts.fragment is not Fragment.LATER:
        assert (facts.sport, facts.dport) == (ip.data.sport, ip.data.dport)
    if isinstance(ip.data, dpkt.icmp.ICMP | dpkt.icmp6.ICMP6) and facts.icmp_type is not None:
        assert (facts.icmp_type, facts.icmp_code) == (ip.data.type, ip.data.code)


@given(policies(), damaged_packets() | packets(), st.data())
def test_a_real_packet_gets_the_evaluators_verdict_as_well(policy: Policy, packet: bytes, data: st.DataObject) -> None:
    facts = parse(packet)
    if isinstance(facts, Facts):
        rules = rules_for(policy)
        seen = data.draw(contexts(facts))
        assert Program(compile_rules(rules)).judge(seen) == evaluate(rules, seen)
